"""Put a run's result into a table and a JSON file."""

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

__all__ = ["bootstrap_interval", "compare", "finite", "table", "write_json"]

# Metric, its chance level if known, its label, and whether it is a share.
ROWS = (
    ("top1", "chance_top1", "retrieval top-1 (%)", True),
    ("top5", None, "retrieval top-5 (%)", True),
    ("within", "chance_within", "localised within 8 px (%)", True),
    ("error", None, "localisation error, median (px)", False),
    ("height", None, "height of the peak", False),
    ("sidelobe_ratio", None, "peak-to-sidelobe ratio", False),
    ("width", None, "width of the peak, median (px)", False),
)


def bootstrap_interval(values: Sequence[float], seed: int = 0) -> list[float]:
    """Return the 95 % percentile interval of the mean over resampled pairs."""
    rng = np.random.default_rng(seed)
    values = np.asarray(values)
    draws = rng.integers(0, len(values), (10_000, len(values)))
    return np.quantile(values[draws].mean(1), [0.025, 0.975]).tolist()


def compare(
    before: dict[str, list[float]], after: dict[str, list[float]]
) -> dict[str, dict[str, Any]]:
    """Average over pairs, with 95 % intervals; differences pair by pair.

    Pairs where a metric is not defined before or after are left out of it; a metric
    that no pair has is left out.
    """
    result: dict[str, dict[str, Any]] = {}
    for name, chance, _, _ in ROWS:
        both = np.array([before[name], after[name]])
        both = both[:, np.isfinite(both).all(0)]
        if not both.size:
            continue
        columns = {"before": both[0], "after": both[1], "change": both[1] - both[0]}
        result[name] = {"chance": float(np.mean(after[chance])) if chance else None}
        for column, values in columns.items():
            result[name][column] = float(values.mean())
            result[name][f"{column}_interval"] = bootstrap_interval(values)
    return result


def finite(measured: dict[str, list[float]]) -> dict[str, list[float | None]]:
    """Put None where there is no number, as JSON wants it."""
    return {
        name: [x if np.isfinite(x) else None for x in values]
        for name, values in measured.items()
    }


def table(result: dict[str, dict[str, Any]], caption: str) -> str:
    """Format the comparison as text."""
    heads = ("", "chance", "before", "after", "change [95 % interval]")
    lines = [caption, "{:32} {:>7} {:>7} {:>7}  {}".format(*heads)]
    for name, _, label, share in ROWS:
        if name not in result:
            continue
        row, unit = result[name], 100 if share else 1
        low, high = (unit * x for x in row["change_interval"])
        chance = "" if row["chance"] is None else f"{unit * row['chance']:.1f}"
        lines.append(
            f"{label:32} {chance:>7} {unit * row['before']:7.1f} "
            f"{unit * row['after']:7.1f}  {unit * row['change']:+.1f} "
            f"[{low:+.1f}, {high:+.1f}]"
        )
    return "\n".join(lines)


def write_json(path: Path, content: dict[str, Any]) -> None:
    """Write strict JSON, readable."""
    text = json.dumps(content, indent=1, allow_nan=False, ensure_ascii=False)
    path.write_text(text + "\n", encoding="utf-8")
