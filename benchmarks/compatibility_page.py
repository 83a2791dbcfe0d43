"""The tables of `docs/compatibility.md`, from the committed runs.

    python -m benchmarks.compatibility_page

Environments in which everything came out alike share one table.
"""

import re
from pathlib import Path
from typing import Any

from benchmarks.common import RESULTS, ROOT
from benchmarks.compatibility import CHECKS, SUBJECTS
from benchmarks.page import TITLES, Run, runs, table

__all__ = ["PAGE", "rewritten"]

PAGE = ROOT / "docs" / "compatibility.md"
NAMES = TITLES | {
    "contrastive_center": "Contrastive-center",
    "dgcca": "Deep generalised CCA",
    "mcca": "Multiset CCA",
    "eckart_young": "Eckart–Young",
}
COLUMNS = {
    "dynamic": "dynamic shapes",
    "func_grad": "func.grad",
    "double_backward": "double backward",
    "ddp": "DDP",
    "cuda_graph": "CUDA graph",
    "export": "export",
    "export_dynamic": "export, dynamic",
}
SIGNS = {"ok": "✓", "refused": "–", "not run": "–", "failed": "✗"}
DIGITS = str.maketrans("0123456789", "⁰¹²³⁴⁵⁶⁷⁸⁹")
Cells = dict[tuple[str, str], tuple[str, str]]


def rewritten(text: str, folder: Path) -> str:
    """Return the page with the tables that belong into it."""
    alike: list[tuple[Cells, list[Run]]] = []
    for run in runs("compatibility", folder):
        mine = cells(run.results)
        for theirs, some in alike:
            if theirs == mine:
                some.append(run)
                break
        else:
            alike.append((mine, [run]))
    parts = [
        f"{said(some)}\n\n{shown(found)}\n\n{counted(found)}" for found, some in alike
    ]
    body = "\n\n".join(parts) or "This version has not been tried yet."
    pattern = r"(<!-- compatibility: .*? -->\n).*?(<!-- end -->)"
    text, count = re.subn(
        pattern, lambda m: f"{m[1]}\n{body}\n\n{m[2]}", text, flags=re.S
    )
    assert count == 1
    return text


def cells(results: list[dict[str, Any]]) -> Cells:
    """Return status and reason of every loss and check."""
    found = {(r["loss"], r["check"]): (r["status"], r["reason"] or "") for r in results}
    missing = ("not run", "not tried yet")
    return {
        (loss, check): found.get((loss, check), missing)
        for loss in SUBJECTS
        for check in CHECKS
    }


def shown(found: Cells) -> str:
    """Return a table of signs, and below it the reasons, by number."""
    reasons: list[str] = []
    body = []
    for loss in SUBJECTS:
        line = [f"[{NAMES[loss]}](losses/{loss}.md)"]
        for check in CHECKS:
            status, reason = found[loss, check]
            if status == "not run":
                reason = f"not run: {reason}"
            if reason and reason not in reasons:
                reasons.append(reason)
            number = str(reasons.index(reason) + 1).translate(DIGITS) if reason else ""
            line.append(SIGNS[status] + number)
        body.append(line)
    head = ["", *(COLUMNS.get(check, check) for check in CHECKS)]
    notes = "\n".join(f"{k}. {reason}" for k, reason in enumerate(reasons, 1))
    return table(head, body) + (f"\n\n{notes}" if notes else "")


def counted(found: Cells) -> str:
    """Return how many cells there are of each kind."""
    kinds = [status for status, _ in found.values()]
    return (
        f"{kinds.count('ok')} ✓, {kinds.count('refused')} not supported, "
        f"{kinds.count('not run')} not run, {kinds.count('failed')} ✗."
    )


def said(some: list[Run]) -> str:
    """Return in which environments a table was found."""
    lines = []
    for run in some:
        about = run.metadata
        cuda = f", CUDA {about['cuda']}" if about["cuda"] else ""
        where = about["device"] if cuda else f"CPU, {about['platform']}"
        lines.append(
            f"- **torch {about['torch'].partition('+')[0]}, Python {about['python']}**"
            f" ({where}{cuda}; revision {about['git_commit']}, "
            f"{about['timestamp_utc'][:10]}; file `{run.path.name}`)"
        )
    return "\n".join(lines)


def main() -> None:
    """Write the tables."""
    PAGE.write_text(rewritten(PAGE.read_text(encoding="utf-8"), RESULTS), "utf-8")
    print(f"written: {PAGE}")


if __name__ == "__main__":
    main()
