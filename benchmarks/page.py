"""The tables of `docs/performance.md`, out of the committed results."""

import hashlib
import json
import math
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from benchmarks.common import RESULTS, ROOT
from benchmarks.contestants import FLOOR, FLOORS, LIBRARY
from benchmarks.measure import Row

__all__ = [
    "PAGE",
    "TITLES",
    "Run",
    "by",
    "figure_name",
    "generated",
    "limited",
    "megabytes",
    "milliseconds",
    "rewrite",
    "runs",
]

PAGE = ROOT / "docs" / "performance.md"
NBSP = "\N{NO-BREAK SPACE}"
BEGIN = "<!-- What follows is written by `python -m benchmarks.plot`. -->"

TITLES = {
    "info_nce": "InfoNCE",
    "nt_xent": "NT-Xent",
    "sigmoid_contrastive": "SigLIP",
    "sup_con": "SupCon",
    "sincere": "SINCERE",
    "contrastive_center": "Contrastive-center",
    "hetero_center": "Hetero-center",
    "hetero_center_triplet": "Hetero-center triplet",
    "cross_modality_contrastive_center": "Cross-modality contrastive-center",
    "similarity_preservation": "Similarity preservation",
    "coral": "CORAL",
    "mmd": "MMD",
    "barlow_twins": "Barlow Twins",
    "vicreg": "VICReg",
    "vicreg_local": "VICReg of places",
    "soft_decorrelation": "Soft decorrelation",
    "dcca": "Deep CCA",
    "mcca": "Multiset CCA, three views",
    "dgcca": "Deep generalised CCA, three views",
    "eckart_young": "Eckart–Young, three views",
    "noise_regularization": "Noise regularisation",
    "decoupled": "Decoupled (DCL)",
    "debiased": "Debiased, hard negatives",
    "mil_nce": "MIL-NCE",
    "soft_info_nce": "InfoNCE, soft targets",
    "info_nce_groups": "InfoNCE in groups",
}


@dataclass(frozen=True)
class Run:
    """One file of results."""

    path: Path
    metadata: dict[str, Any]
    results: list[dict[str, Any]]

    @property
    def digest(self) -> str:
        """Return what the figures of this file carry."""
        return hashlib.sha256(self.path.read_bytes()).hexdigest()[:16]


def runs(suite: str, folder: Path) -> list[Run]:
    """Return the files of a suite."""
    out = []
    for path in sorted(folder.glob(f"{suite}--*.json")):
        content = json.loads(path.read_text(encoding="utf-8"))
        out.append(Run(path, content["metadata"], content["results"]))
    return out


def generated(folder: Path) -> str:
    """Return the generated part of the page, for a folder of results."""
    parts = [BEGIN]
    for run in runs("targets", folder):
        parts += [f"## Targets: {run.metadata['device']}", said(run), targets(run)]
    scaling = sorted(
        runs("scaling", folder), key=lambda run: list(TITLES).index(loss_of(run))
    )
    for device, some in by(scaling, lambda run: run.metadata["device"]).items():
        parts.append(f"## Against N and D: {device}")
        for run in some:
            parts += [
                f"### {TITLES[loss_of(run)]}",
                said(run),
                picture(run),
                summary(run.results),
            ]
            tables = [who(run.results), *everything(run.results)]
            parts += details("All contestants", tables)
    if len(parts) == 1:
        parts.append("This version has not been measured yet.")
    return "\n\n".join(parts) + "\n"


def loss_of(run: Run) -> str:
    """Return the loss that a run of the scaling suite is about."""
    loss: str = run.results[0]["loss"]
    return loss


def said(run: Run) -> str:
    """Return on what a run was made."""
    about = run.metadata
    cuda = f", CUDA {about['cuda']}" if about["cuda"] else ""
    threads = "" if cuda else f"{about['torch_num_threads']} threads, "
    return (
        f"{about['device']}, {threads}{about['memory_gb']:.0f} GB; "
        f"torch {about['torch']}{cuda}, "
        f"Python {about['python']}; revision {about['git_commit']}, "
        f"{about['timestamp_utc'][:10]}; file `{run.path.name}`."
    )


def targets(run: Run) -> str:
    """Return the table of what was aimed at and what was reached."""
    body = [
        [
            f"{TITLES.get(result['loss'], result['loss'])}, {size(result['shape'])}",
            verdict["criterion"],
            verdict["against"],
            number(verdict["measured"]),
            number(verdict["target"]),
            "met" if verdict["met"] else "**missed**",
        ]
        for result in run.results
        for verdict in result["verdicts"]
    ]
    return table(["case", "what", "against", "measured", "target", ""], body)


def picture(run: Run) -> str:
    """Return the figure of a run."""
    return (
        f"![Time and extra peak memory of {TITLES[loss_of(run)]}]"
        f"(_static/benchmarks/{figure_name(run)})"
    )


def summary(rows: list[Row]) -> str:
    """Return the table of the library against the fastest that computes the same."""
    body = []
    for shape, some in by(rows, "shape").items():
        found = {row["contestant"]: row for row in some}
        ours, floor = found[LIBRARY], found[FLOOR]
        best = min(filter(comparable, some), key=milliseconds, default=None)
        theirs = [best["contestant"], duration(best)] if best else ["none", "–"]
        body.append(
            [
                size(shape),
                duration(ours),
                ratio(milliseconds(ours), milliseconds(floor)),
                *theirs,
                ratio(milliseconds(ours), milliseconds(best)),
                space(ours),
                space(best),
                ratio(megabytes(ours), megabytes(best)),
            ]
        )
    head = [
        "size",
        "time",
        "÷ floor",
        "fastest other",
        "its time",
        "ratio of time",
        "memory",
        "its memory",
        "ratio of memory",
    ]
    return table(head, body)


def comparable(row: Row) -> bool:
    """Return whether a row is another way to compute the same."""
    other = row["contestant"] not in (LIBRARY, *FLOORS)
    return other and not row["differs"] and row["timing"] is not None


def who(rows: list[Row]) -> str:
    """Return what ran, and what it computes."""
    body = []
    for name, some in by(rows, "contestant").items():
        first = some[0]
        reasons = {row["skipped"] for row in some if not limited(row)} - {""}
        left_out = "; ".join(f"not measured: {reason}" for reason in sorted(reasons))
        body.append([name, first["how"], left_out or first["differs"] or first["note"]])
    return table(["contestant", "what runs", "what differs"], body)


def everything(rows: list[Row]) -> list[str]:
    """Return one table for each D, with every contestant at every N."""
    out = []
    for fixed, some in by(rows, lambda row: tuple(row["shape"][1:])).items():
        names = list(by(some, "contestant"))
        shapes = list(by(some, "shape"))
        found = {(row["contestant"], tuple(row["shape"])): row for row in some}
        body = []
        for name in names:
            line = [found[name, shape] for shape in shapes]
            if any(row["timing"] or limited(row) for row in line):
                body.append([name, *map(cell, line)])
        groups = len(fixed) == 2
        label = f"N × D = {size(fixed)}, groups" if groups else f"D = {fixed[0]}, N"
        head = [f"{label} ="] + [f"{shape[0]}" for shape in shapes]
        out.append(table(head, body))
    return out


def limited(row: Row) -> bool:
    """Return whether memory or time was what a call had too little of."""
    return row["skipped"].startswith(("out of memory", "one call", "starting"))


def cell(row: Row) -> str:
    """Return time and memory of one contestant at one size."""
    if row["timing"] is None:
        return "memory" if row["skipped"].startswith("out of memory") else "time"
    return f"{duration(row)}, {space(row)}"


def details(title: str, blocks: Iterable[str]) -> list[str]:
    """Return blocks that are shown when asked for."""
    return [f"<details><summary>{title}</summary>", *blocks, "</details>"]


def by(rows: list[Any], key: Any) -> dict[Any, list[Any]]:
    """Group rows, in the order in which they come."""
    out: dict[Any, list[Any]] = {}
    for row in rows:
        value = key(row) if callable(key) else row[key]
        out.setdefault(tuple(value) if isinstance(value, list) else value, []).append(
            row
        )
    return out


def milliseconds(row: Row | None) -> float | None:
    """Return the median time of a call."""
    return row["timing"]["median_us"] / 1e3 if row and row["timing"] else None


def megabytes(row: Row | None) -> float | None:
    """Return the extra peak memory of a call."""
    extra = row and row["timing"] and row["extra_bytes"]
    return None if extra is None else extra / 1e6


def duration(row: Row | None) -> str:
    """Return a time for a table."""
    value = milliseconds(row)
    if value is None:
        return "–"
    small = value < 1000
    return f"{number(value)}{NBSP}ms" if small else f"{number(value / 1000)}{NBSP}s"


def space(row: Row | None) -> str:
    """Return a size for a table."""
    value = megabytes(row)
    if value is None:
        return "–"
    small = value < 1000
    return f"{number(value)}{NBSP}MB" if small else f"{number(value / 1000)}{NBSP}GB"


def ratio(ours: float | None, theirs: float | None) -> str:
    """Return how ours compares."""
    return number(ours / theirs) if ours is not None and theirs else "–"


def number(value: float | None) -> str:
    """Return two digits, or all before the point."""
    if value is None:
        return "–"
    if value < 0.01:
        return f"{value:.3f}"
    return f"{value:.{max(0, 1 - math.floor(math.log10(value)))}f}"


def size(shape: Iterable[int]) -> str:
    """Return N × D."""
    return f"{NBSP}×{NBSP}".join(map(str, shape))


def table(head: list[str], body: list[list[str]]) -> str:
    """Return a table in Markdown."""
    lines = [head, ["---"] * len(head), *body]
    return "\n".join("| " + " | ".join(line) + " |" for line in lines)


def figure_name(run: Run) -> str:
    """Return the file of a figure."""
    return f"{run.path.stem.partition('--')[2]}.svg"


def rewrite() -> None:
    """Put the tables of the committed results into the page."""
    text = PAGE.read_text(encoding="utf-8").partition(BEGIN)[0]
    PAGE.write_text(text + generated(RESULTS), encoding="utf-8")
    print(f"written: {PAGE}")
