"""The tables of `docs/distributed.md`.

    python -m benchmarks.distributed_page

Who is exact comes from the committed run of `benchmarks.exactness`, bytes from the
formulas of `benchmarks.traffic`; nothing is measured.
"""

import re
from pathlib import Path

from benchmarks import exactness, traffic
from benchmarks.common import RESULTS, ROOT
from benchmarks.page import runs, said

__all__ = ["PAGE", "rewritten"]

PAGE = ROOT / "docs" / "distributed.md"


def rewritten(text: str, folder: Path) -> str:
    """Return the page with the tables that belong into it."""
    tables = {"bytes": traffic.shown()}
    for run in runs("exactness", folder):
        tables["exactness"] = f"{said(run)}\n\n{exactness.shown(run.results)}"
    for name, table in tables.items():
        pattern = rf"(<!-- {name}: .*? -->\n).*?(<!-- end -->)"
        text, count = re.subn(
            pattern, lambda m, t=table: f"{m[1]}\n{t}\n\n{m[2]}", text, flags=re.S
        )
        assert count == 1, name
    return text


def main() -> None:
    """Write the tables."""
    PAGE.write_text(rewritten(PAGE.read_text(encoding="utf-8"), RESULTS), "utf-8")
    print(f"written: {PAGE}")


if __name__ == "__main__":
    main()
