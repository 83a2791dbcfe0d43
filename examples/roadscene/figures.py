"""The two figures of a run: how it trained, and what it changed."""

from collections.abc import Sequence
from pathlib import Path

import matplotlib as mpl
import numpy as np
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure

from .data import Pair
from .evaluate import Described, Protocol, peak, prepare_pair

__all__ = ["matches_figure", "training_figure"]

STYLE = {
    "font.size": 9,
    "axes.titlesize": 9,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.edgecolor": "0.4",
    "axes.labelcolor": "0.2",
    "xtick.color": "0.4",
    "ytick.color": "0.4",
    "lines.linewidth": 1.6,
    "legend.frameon": False,
    "savefig.dpi": 150,
}
LABELS = {
    "mmd": "MMD",
    "coral": "CORAL",
    "barlow": "Barlow Twins",
    "vicreg": "VICReg",
}
BLUE, ORANGE, GREEN, GREY = "#0072b2", "#d55e00", "#009e73", "#777777"


def new_figure(width: float, height: float) -> Figure:
    """Return a figure that draws with Agg and leaves pyplot's state alone."""
    figure = Figure(figsize=(width, height), layout="constrained")
    FigureCanvasAgg(figure)
    return figure


def smooth(values: Sequence[float], span: int) -> np.ndarray:
    """Centred moving average that shrinks at the ends."""
    values = np.asarray(values, dtype=float)
    kernel = np.ones(max(span, 1))
    mean = np.convolve(values, kernel, "same")
    return mean / np.convolve(np.ones_like(values), kernel, "same")


def training_figure(
    path: Path,
    terms: dict[str, Sequence[float]],
    shares: dict[str, Sequence[float]],
    validation: dict[str, Sequence[float]],
    selected_step: int,
) -> None:
    """Draw each term's part in the loss, and retrieval on the validation pairs.

    Args:
        path: File to write.
        terms: Weighted values per step, by name; the total first.
        shares: Of each term in the gradient, at each validation but the last.
        validation: ``step``, ``top1`` and ``top5``.
        selected_step: Step whose weights were kept.
    """
    with mpl.rc_context(STYLE):
        figure = new_figure(11.0, 3.0)
        left, middle, right = figure.subplots(1, 3)
        colours = (GREY, BLUE, ORANGE, GREEN)
        for values, colour in zip(shares.values(), colours[1:], strict=False):
            steps, percent = validation["step"], 100 * np.asarray(values)
            middle.plot(steps[: len(percent)], percent, "o-", ms=3, color=colour)
        middle.set(xlabel="step", ylabel="of the gradient (%)", yscale="log")
        middle.set_title("Share of each term", loc="left")
        for (name, values), colour in zip(terms.items(), colours, strict=False):
            steps, mean = range(1, len(values) + 1), smooth(values, len(values) // 25)
            left.plot(steps, values, color=colour, alpha=0.2, linewidth=0.8)
            left.plot(steps, mean, color=colour, label=LABELS.get(name, name))
        left.set(xlabel="step", ylabel="weighted value", yscale="log")
        left.set_title("Terms of the loss", loc="left")
        left.legend(fontsize=8)

        for name, label, colour in (("top5", "top-5", GREY), ("top1", "top-1", BLUE)):
            found = 100 * np.asarray(validation[name])
            right.plot(validation["step"], found, "o-", color=colour, ms=3)
            right.annotate(
                label,
                (validation["step"][-1], found[-1]),
                xytext=(5, 0),
                textcoords="offset points",
                va="center",
                color=colour,
            )
        right.axvline(selected_step, color="0.8", linewidth=1, zorder=0)
        right.set(xlabel="step", ylabel="found within 8 px (%)", ylim=(0, None))
        right.set_title("Patch retrieval, validation pairs", loc="left")
        figure.savefig(path)


def matches_figure(
    path: Path,
    pairs: Sequence[Pair],
    maps: dict[str, Sequence[Described]],
    protocol: Protocol,
) -> None:
    """Draw, per pair, a query, its true place, and similarity before and after.

    Args:
        path: File to write.
        pairs: The pairs as evaluated.
        maps: By title, the similarities of the first query of each pair.
        protocol: How queries are chosen.
    """
    ring = {"ms": 11, "mfc": "none", "mew": 1.6}
    with mpl.rc_context(STYLE):
        figure = new_figure(10.0, 0.4 + 1.55 * len(pairs))
        grid = figure.subplots(len(pairs), 2 + len(maps), squeeze=False)
        for row, pair in enumerate(pairs):
            queries = prepare_pair(pair, protocol, row)
            query, truth = queries.points_rgb[0].numpy(), queries.points_ir[0].numpy()
            searched = queries.ir[0, 0].numpy()
            height, width = searched.shape

            axes = grid[row]
            axes[0].imshow(pair.rgb.permute(1, 2, 0).numpy())
            axes[0].plot(*query, "o", mec="#ffd000", **ring)
            axes[0].set_ylabel(pair.name.removeprefix("FLIR_"), color="0.4")
            axes[1].imshow(searched, cmap="gray", vmin=0, vmax=1)
            axes[1].plot(*truth, "o", mec="#ffd000", **ring)
            for axis, (title, stack) in zip(axes[2:], maps.items(), strict=True):
                scores, cell, first = stack[row]
                *_, h, w = scores.shape
                start = first - cell / 2
                shown = axis.imshow(
                    scores[0, 0].numpy(),
                    vmin=-0.2,
                    vmax=0.8,
                    extent=(start, start + cell * w, start + cell * h, start),
                )
                found = first + cell * peak(scores[0])[0].numpy()
                axis.plot(*truth, "o", mec="white", **ring)
                axis.plot(*found, "x", color="#ff3b30", ms=8, mew=2, clip_on=False)
                axis.set(xlim=(-0.5, width - 0.5), ylim=(height - 0.5, -0.5))
                error = np.hypot(*(found - truth))
                axis.set_title(f"{title}: peak {error:.0f} px off", fontsize=8)
            for axis in axes:
                axis.set(xticks=[], yticks=[])
                axis.spines[:].set_visible(False)
        grid[0, 0].set_title("visible: query")
        grid[0, 1].set_title("infrared: its place")
        figure.colorbar(
            shown, ax=grid, label="cosine similarity", shrink=0.6, aspect=30, pad=0.01
        )
        figure.savefig(path)
