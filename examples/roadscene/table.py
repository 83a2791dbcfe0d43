"""Read a CSV file that lists pairs: columns a and b, perhaps name and split."""

import csv
from pathlib import Path

from .data import DataError, Files
from .splits import Split

__all__ = ["read_table"]

NEEDED, OPTIONAL = {"a", "b"}, {"name", "split"}
PARTS = {
    "train": "train",
    "val": "validation",
    "validation": "validation",
    "test": "test",
}


def read_rows(path: Path) -> list[tuple[int, dict[str, str]]]:
    """Return the rows, with the numbers of their lines."""
    try:
        with path.open(encoding="utf-8-sig", newline="") as file:
            reader = csv.DictReader(file, strict=True)
            columns = reader.fieldnames or []
            rows = [(reader.line_num, row) for row in reader]
    except FileNotFoundError as error:
        raise DataError(f"{path} does not exist.") from error
    except (OSError, UnicodeDecodeError, csv.Error) as error:
        raise DataError(f"{path} cannot be read as CSV: {error}.") from error
    if (
        not set(columns) >= NEEDED
        or set(columns) - NEEDED - OPTIONAL
        or len(set(columns)) < len(columns)
    ):
        raise DataError(
            f"{path} must have the columns a and b, and may have name and split; its "
            f"first line has {', '.join(map(repr, columns)) or 'nothing'}."
        )
    if not rows:
        raise DataError(f"{path} lists no pairs.")
    for line, row in rows:
        # DictReader fills up short rows with None and puts the rest under None.
        if None in row or not all(row.values()):
            raise DataError(
                f"{path}, line {line}: each of the columns {', '.join(columns)} must "
                "have one value."
            )
    return rows


def read_table(path: Path) -> tuple[Files, Split | None]:
    """Return the pairs by name, in the order of the file, and how it divides them.

    Paths are relative to the file's folder. Without a column of names, a pair is
    called as its visible file is, without the suffix; without one of splits, there is
    no split.

    Raises:
        DataError: If anything is missing, given twice, or unknown.
    """
    rows = read_rows(path)
    files: Files = {}
    divided, split = "split" in rows[0][1], Split([], [], [], [])
    for line, row in rows:
        a, b = (path.parent / row[side] for side in "ab")
        for image in (a, b):
            if not image.is_file():
                raise DataError(f"{path}, line {line}: {image} does not exist.")
        name = row.get("name", a.stem)
        if name in files:
            raise DataError(
                f"{path}, line {line}: there are two pairs called {name!r}. Give them "
                "names in a column 'name'."
            )
        files[name] = a, b
        if divided:
            if row["split"] not in PARTS:
                raise DataError(
                    f"{path}, line {line}: split must be train, validation or test, "
                    f"got {row['split']!r}."
                )
            getattr(split, PARTS[row["split"]]).append(name)
    return files, split if divided else None
