"""Draw the committed results, and write their tables into `docs/performance.md`.

    python -m benchmarks.plot

Everything comes from `results/<version>/`; nothing is measured. The page and the
figures are committed with the results, so that the documentation is built without a
benchmark; a test checks that they are those of the results.
"""

import argparse
import math
from collections.abc import Iterable
from pathlib import Path
from typing import Any

from benchmarks.common import RESULTS, ROOT
from benchmarks.contestants import COMPILED, FLOOR, FLOOR_TWICE, FLOORS, LIBRARY, PLAIN
from benchmarks.measure import Row
from benchmarks.page import (
    TITLES,
    Run,
    by,
    figure_name,
    limited,
    loss_of,
    megabytes,
    milliseconds,
    rewrite,
    runs,
)

__all__ = ["FIGURES", "figure"]

FIGURES = ROOT / "docs" / "_static" / "benchmarks"


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


def figure(run: Run, folder: Path) -> Path:
    """Draw a run; return the file."""
    import matplotlib as mpl

    folder.mkdir(parents=True, exist_ok=True)
    path = folder / figure_name(run)
    with mpl.rc_context(STYLE):
        draw(loss_of(run), run.results, path, run.digest)
    return path


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
    about = {"Date": None, "Creator": None, "Title": TITLES[loss]}
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
        print(f"written: {figure(run, FIGURES)}")
    rewrite()


if __name__ == "__main__":
    main()
