"""The tables of `docs/two_sample.md`, from the committed runs of `benchmarks.power`.

python -m benchmarks.power_page
"""

import re
from pathlib import Path

from benchmarks import power
from benchmarks.common import RESULTS, ROOT
from benchmarks.page import runs, said

__all__ = ["PAGE", "rewritten"]

PAGE = ROOT / "docs" / "two_sample.md"


def rewritten(text: str, folder: Path) -> str:
    """Return the page with the tables that belong into it."""
    parts = []
    for suite, title in power.SUITES.items():
        for run in runs(f"power--{suite}", folder):
            counts = sorted({result["repetitions"] for result in run.results})
            samples = " to ".join(map(str, {counts[0]: 0, counts[-1]: 0}))
            head = f"**{title}**, {samples} samples."
            parts += [head, power.shown(run.results), said(run)]
    table = "\n\n".join(parts) or "This version has not been measured yet."
    pattern = r"(<!-- power: .*? -->\n).*?(<!-- end -->)"
    text, count = re.subn(
        pattern, lambda m: f"{m[1]}\n{table}\n\n{m[2]}", text, flags=re.S
    )
    assert count == 1
    return text


def main() -> None:
    """Write the tables."""
    PAGE.write_text(rewritten(PAGE.read_text(encoding="utf-8"), RESULTS), "utf-8")
    print(f"written: {PAGE}")


if __name__ == "__main__":
    main()
