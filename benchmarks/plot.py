"""Draw the committed results, and write their tables into `docs/performance.md`.

    python -m benchmarks.plot

Everything comes from `results/<version>/`; nothing is measured. The page and the
figures are committed with the results, so that the documentation is built without a
benchmark; a test checks that they are those of the results.
"""

import argparse
import hashlib
import json
import math
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from benchmarks.common import RESULTS, ROOT
from benchmarks.contestants import COMPILED, FLOOR, FLOOR_TWICE, FLOORS, LIBRARY, PLAIN
from benchmarks.measure import Row

__all__ = ["FIGURES", "PAGE", "Run", "figures", "generated", "runs"]

PAGE = ROOT / "docs" / "performance.md"
FIGURES = ROOT / "docs" / "_static" / "benchmarks"
NBSP = "\N{NO-BREAK SPACE}"
BEGIN = "<!-- What follows is written by `python -m benchmarks.plot`. -->"

TITLES = {
    "info_nce": "InfoNCE",
    "coral": "CORAL",
    "mmd": "MMD",
    "barlow_twins": "Barlow Twins",
    "vicreg": "VICReg",
    "dcca": "Deep CCA",
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


# --------------------------------------------------------------------------------------
# Tables
# --------------------------------------------------------------------------------------


def generated(folder: Path) -> str:
    """Return the generated part of the page, for a folder of results."""
    parts = [BEGIN]
    for run in runs("targets", folder):
        parts += ["## Targets", said(run), targets(run)]
    for run in runs("scaling", folder):
        parts += [f"## Against N and D: {run.metadata['device']}", said(run)]
        for loss, rows in by(run.results, "loss").items():
            parts += [
                f"### {TITLES.get(loss, loss)}",
                picture(loss, run),
                summary(rows),
            ]
            parts += details("All contestants", [who(rows), *everything(rows)])
    if len(parts) == 1:
        parts.append("This version has not been measured yet.")
    return "\n\n".join(parts) + "\n"


def said(run: Run) -> str:
    """Return on what a run was made."""
    about = run.metadata
    cuda = f", CUDA {about['cuda']}" if about["cuda"] else ""
    return (
        f"{about['device']}, {about['torch_num_threads']} threads, "
        f"{about['memory_gb']:.0f} GB; torch {about['torch']}{cuda}, "
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


def picture(loss: str, run: Run) -> str:
    """Return the figure of a loss."""
    return (
        f"![Time and extra peak memory of {TITLES.get(loss, loss)}]"
        f"(_static/benchmarks/{figure_name(loss, run)})"
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


def by(rows: list[Row], key: Any) -> dict[Any, list[Row]]:
    """Group rows, in the order in which they come."""
    out: dict[Any, list[Row]] = {}
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


# --------------------------------------------------------------------------------------
# Figures
# --------------------------------------------------------------------------------------

# Grey that can be read on white and on black; the background is that of the page.
INK = "#7a7a7a"
STYLE = {
    "font.size": 9,
    "font.family": "sans-serif",
    "text.color": INK,
    "axes.titlesize": 9,
    "axes.labelcolor": INK,
    "axes.edgecolor": INK,
    "axes.facecolor": "none",
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.grid": True,
    "grid.color": INK,
    "grid.alpha": 0.25,
    "grid.linewidth": 0.5,
    "xtick.color": INK,
    "ytick.color": INK,
    "xtick.minor.visible": False,
    "ytick.minor.visible": False,
    "figure.facecolor": "none",
    "legend.frameon": False,
    "lines.linewidth": 1.2,
    "lines.markersize": 4,
    "svg.fonttype": "none",
    "svg.hashsalt": "xmodal-losses",
}
FIXED = {
    LIBRARY: {"color": "#d55e00", "linewidth": 2.6, "marker": "o", "zorder": 3},
    PLAIN: {"color": INK, "marker": "s"},
    COMPILED: {"color": INK, "marker": "s", "markerfacecolor": "none"},
    FLOOR: {"color": INK, "linestyle": (0, (1, 1.5)), "linewidth": 1.8},
    FLOOR_TWICE: {"color": INK, "linestyle": (0, (4, 2)), "linewidth": 1.2},
}
COLOURS = ("#0072b2", "#009e73", "#cc79a7", "#3fa7d6", "#b8860b", "#9467bd", "#a0522d")
MARKERS = "^vD<>Pp"


def figure_name(loss: str, run: Run) -> str:
    """Return the file of a figure."""
    return f"{loss}--{run.path.stem.partition('--')[2]}.svg"


def figures(run: Run, folder: Path) -> list[Path]:
    """Draw every loss of a run; return the files."""
    import matplotlib as mpl

    folder.mkdir(parents=True, exist_ok=True)
    out = []
    for loss, rows in by(run.results, "loss").items():
        path = folder / figure_name(loss, run)
        with mpl.rc_context(STYLE):
            draw(loss, rows, path, run.digest)
        out.append(path)
    return out


def draw(loss: str, rows: list[Row], path: Path, digest: str) -> None:
    """Draw time above memory, one column for each D."""
    from matplotlib.figure import Figure

    columns = by(rows, lambda row: tuple(row["shape"][1:]))
    figure = Figure(figsize=(max(3.2 * len(columns), 5.0), 6.2), layout="constrained")
    axes = figure.subplots(2, len(columns), sharex="col", sharey="row", squeeze=False)
    styles = style(by(rows, "contestant"))
    lines = {}
    for (top, bottom), (fixed, some) in zip(axes.T, columns.items(), strict=True):
        for name, line in by(some, "contestant").items():
            measured = [row for row in line if row["timing"] is not None]
            if not measured:
                continue
            n = [row["shape"][0] for row in measured]
            (lines[name],) = top.plot(
                n, list(map(milliseconds, measured)), **styles[name]
            )
            if name in FLOORS:  # who returns gradients has them in memory
                extra = [2 * 4 * math.prod(row["shape"]) / 1e6 for row in measured]
            else:
                extra = [megabytes(row) or math.nan for row in measured]
            bottom.plot(n, extra, **styles[name])
            ended = next((row for row in line if limited(row)), None)
            if ended and ended["skipped"].startswith("out of memory"):
                cross = {"marker": "x", "color": styles[name]["color"], "markersize": 8}
                bottom.plot(n[-1:], extra[-1:], zorder=4, **cross)
        groups = len(fixed) == 2
        top.set_title(
            f"N = {fixed[0]}, D = {fixed[1]}" if groups else f"D = {fixed[0]}"
        )
        top.set(xscale="log", yscale="log")
        bottom.set(xscale="log", yscale="log", xlabel="groups" if groups else "N")
        ticks = sorted({row["shape"][0] for row in some})
        bottom.set_xticks(ticks, [str(tick) for tick in ticks])
        bottom.minorticks_off()
        for axis in (top.yaxis, bottom.yaxis):
            axis.set_major_formatter("{x:g}")
    axes[0, 0].set_ylabel("forward and backward, ms")
    axes[1, 0].set_ylabel("extra peak memory, MB")
    figure.legend(
        lines.values(), lines, loc="outside lower center", ncols=3, fontsize=8
    )
    about = {"Date": None, "Creator": None, "Title": TITLES.get(loss, loss)}
    figure.savefig(path, metadata={**about, "Description": f"results {digest}"})


def style(names: Iterable[str]) -> dict[str, dict[str, Any]]:
    """Return how each contestant is drawn."""
    peers = [name for name in names if name not in FIXED]
    looks = zip(COLOURS, MARKERS, strict=True)
    drawn = {
        name: {"color": colour, "marker": marker}
        for name, (colour, marker) in zip(peers, looks, strict=False)
    }
    return FIXED | drawn


def main() -> None:
    """Draw the figures and rewrite the page."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--quick", action="store_true", help="only see that it runs")
    args, _ = parser.parse_known_args()  # `make bench` hands everyone the same
    if args.quick:
        return
    for run in runs("scaling", RESULTS):
        for path in figures(run, FIGURES):
            print(f"written: {path}")
    text = PAGE.read_text(encoding="utf-8").partition(BEGIN)[0]
    PAGE.write_text(text + generated(RESULTS), encoding="utf-8")
    print(f"written: {PAGE}")


if __name__ == "__main__":
    main()
