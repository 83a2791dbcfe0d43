"""Compute and draw the figures of `docs/embedding_diagnostics.md`.

    python -m benchmarks.embedding_figures

The numbers come from `embedding_data.py` and are committed beside the figures; a test
checks that both are what the package computes today.
"""

import argparse
import json
from pathlib import Path
from typing import Any

from benchmarks.embedding_data import (
    DATA,
    FIGURES,
    FOLDER,
    Numbers,
    computed,
    digest,
)
from benchmarks.plot import COLOURS, INK, STYLE

__all__ = ["draw"]

ORANGE, BLUE, GREEN = "#d55e00", COLOURS[0], COLOURS[1]
OWN = {"color": ORANGE, "marker": "o", "linewidth": 2.0, "zorder": 3}
OTHER = {"color": BLUE, "marker": "s"}
THIRD = {"color": GREEN, "marker": "^"}
LEVEL = {"color": INK, "linestyle": (0, (4, 2)), "linewidth": 1.2}


def draw(name: str, numbers: Numbers, folder: Path) -> Path:
    """Draw a figure; return the file."""
    import matplotlib as mpl
    from matplotlib.figure import Figure

    folder.mkdir(parents=True, exist_ok=True)
    path = folder / f"{name}.svg"
    panels = 2 if name in ("hypersphere", "canonical_spectrum") else 1
    with mpl.rc_context(STYLE):
        figure = Figure(
            figsize=(6.4 if panels == 2 else 4.2, 2.8), layout="constrained"
        )
        axes = figure.subplots(1, panels, squeeze=False)[0]
        PANELS[name](axes, numbers)
        for axis in axes:
            if axis.get_legend_handles_labels()[0]:
                axis.legend(fontsize=8)
        about = {"Date": None, "Creator": None, "Title": name.replace("_", " ")}
        data = f"data {digest(numbers)}"
        figure.savefig(path, metadata={**about, "Description": data})
    return path


def rank(axes: Any, numbers: Numbers) -> None:
    """Draw what is counted against what there is."""
    (axis,) = axes
    x = numbers["directions"]
    axis.plot(x, x, **LEVEL)
    axis.plot(x, numbers["effective_rank"], label="effective rank", **OWN)
    axis.plot(x, numbers["rank_me"], label="RankMe", **OTHER)
    axis.plot(x, numbers["rank_me_offset"], label="RankMe, with a mean", **THIRD)
    axis.set(xscale="log", yscale="log", xlabel="directions", ylabel="rank")
    for one in (axis.xaxis, axis.yaxis):
        one.set_ticks(x, [str(tick) for tick in x])


def hypersphere(axes: Any, numbers: Numbers) -> None:
    """Draw alignment against noise, and uniformity against a common mean."""
    left, right = axes
    left.plot(numbers["noise"], numbers["alignment"], **OWN)
    left.axhline(2.0, **LEVEL)
    left.set(xlabel="noise of partners", ylabel="alignment")
    right.plot(numbers["mean"], numbers["uniformity"], **OWN)
    right.axhline(numbers["spread_evenly"], **LEVEL)
    right.set(xlabel="mean over spread", ylabel="uniformity")


def modality_gap(axes: Any, numbers: Numbers) -> None:
    """Draw how often the gap is found."""
    (axis,) = axes
    axis.plot(numbers["shift"], numbers["paired"], label="paired=True", **OWN)
    axis.plot(numbers["shift"], numbers["unpaired"], label="paired=False", **OTHER)
    axis.axhline(0.05, **LEVEL)
    axis.set(xlabel="shift", ylabel="share of p ≤ 0.05")


def dimensions(axes: Any, numbers: Numbers) -> None:
    """Draw standard deviations, in order."""
    (axis,) = axes
    deviations = numbers["deviations"]
    axis.plot(range(1, len(deviations) + 1), deviations, **(OWN | {"linestyle": ""}))
    axis.axhline(1.0, **LEVEL)
    axis.axhline(numbers["threshold"], **LEVEL)
    last = len(deviations)
    axis.text(last, 1.1, f"hinge: {numbers['hinge']} below", ha="right", va="bottom")
    dead = f"dead: {numbers['dead']} below"
    axis.text(1, 1.1 * numbers["threshold"], dead, va="bottom")
    axis.set(yscale="log", xlabel="dimension, in order", ylabel="standard deviation")


def canonical_spectrum(axes: Any, numbers: Numbers) -> None:
    """Draw spectra of pairs and of shuffled pairs."""
    for axis, (n, found) in zip(axes, numbers.items(), strict=True):
        index = range(1, len(found["paired"]) + 1)
        axis.plot(index, found["paired"], label="pairs", **OWN)
        axis.plot(index, found["shuffled"], label="shuffled", **OTHER)
        axis.axhline(found["edge"], **LEVEL)
        axis.set(ylim=(0, 1.03), xlabel="component", title=f"N = {n}, D = {len(index)}")
    axes[0].set_ylabel("canonical correlation")


def welch_floor(axes: Any, numbers: Numbers) -> None:
    """Draw redundancy and floor against the number of columns."""
    (axis,) = axes
    axis.plot(numbers["columns"], numbers["redundancy"], label="random columns", **OWN)
    axis.plot(numbers["columns"], numbers["floor"], label="floor", **LEVEL)
    axis.axvline(numbers["rows"] - 1, color=INK, linewidth=0.6)
    axis.set(xlabel=f"columns of {numbers['rows']} rows", ylabel="redundancy / D")


def linear_cka(axes: Any, numbers: Numbers) -> None:
    """Draw CKA against the number of rows."""
    (axis,) = axes
    for kind, style in (("related", OWN), ("unrelated", OTHER)):
        for estimate, line in (("unbiased", "-"), ("biased", (0, (4, 2)))):
            name = f"{kind}, {estimate}"
            look = style | {"linestyle": line}
            axis.plot(numbers["rows"], numbers[name], label=name, **look)
    axis.set(xscale="log", xlabel="N, with D = 64", ylabel="linear CKA")
    axis.set_xticks(numbers["rows"], [str(n) for n in numbers["rows"]])


PANELS = {
    "rank": rank,
    "hypersphere": hypersphere,
    "modality_gap": modality_gap,
    "dimensions": dimensions,
    "canonical_spectrum": canonical_spectrum,
    "welch_floor": welch_floor,
    "linear_cka": linear_cka,
}


def main() -> None:
    """Write the numbers and the figures."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.parse_args()
    FOLDER.mkdir(parents=True, exist_ok=True)
    numbers = {name: computed(name) for name in FIGURES}
    lines = (f'"{name}": {json.dumps(part)}' for name, part in numbers.items())
    DATA.write_text("{\n" + ",\n".join(lines) + "\n}\n", encoding="utf-8")
    for name, part in numbers.items():
        print(f"written: {draw(name, part, FOLDER)}")


if __name__ == "__main__":
    main()
