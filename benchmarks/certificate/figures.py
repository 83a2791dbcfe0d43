"""The figures of the page: a map for each dtype, and ours against theirs."""

import math
from pathlib import Path
from typing import Any

import torch

from benchmarks.certificate.read import NAMES, Certificate, fails
from benchmarks.certificate.regimes import DTYPES, REGIMES
from benchmarks.contestants import LIBRARY, PLAIN
from benchmarks.plot import COLOURS, INK, STYLE

__all__ = ["draw", "names"]

MAP, AGAINST = "certificate--{}.svg", "certificate--against.svg"
LEFT_OUT = -math.inf


def names() -> list[str]:
    """Return the files of the figures."""
    return [*(MAP.format(dtype) for dtype in DTYPES), AGAINST]


def draw(certificate: Certificate, folder: Path) -> None:
    """Draw all figures."""
    import matplotlib as mpl

    folder.mkdir(parents=True, exist_ok=True)
    with mpl.rc_context(STYLE | {"axes.grid": False}):
        for dtype in DTYPES:
            _save(_map(certificate, dtype), folder / MAP.format(dtype), certificate)
        _save(_against(certificate), folder / AGAINST, certificate)


def _save(figure: Any, path: Path, certificate: Certificate) -> None:
    about = {"Date": None, "Creator": None, "Title": path.stem}
    description = f"results {certificate.digest}"
    figure.savefig(path, metadata={**about, "Description": description})


def _map(certificate: Certificate, dtype: str) -> Any:
    """Draw the worst gradient error of every loss and regime, ours and the plain's."""
    from matplotlib.figure import Figure

    losses = certificate.losses
    size = (9.2, 1.5 + 0.235 * len(losses))
    figure = Figure(figsize=size, layout="constrained")
    axes = figure.subplots(1, 2, sharey=True)
    least = math.log10(torch.finfo(DTYPES[dtype]).eps / 4)
    for ax, entrant in zip(axes, (LIBRARY, PLAIN), strict=True):
        image = _squares(ax, certificate, dtype, entrant, least)
        ax.set_title("this library" if entrant == LIBRARY else "plain formula")
        ax.set_xticks(range(len(REGIMES)), REGIMES, rotation=35, ha="right")
        ax.set_yticks(range(len(losses)), [NAMES[loss] for loss in losses])
        ax.tick_params(length=0)
        ax.spines[:].set_visible(False)
    bar = figure.colorbar(image, ax=axes, shrink=0.5, aspect=25, pad=0.01)
    bar.set_label(f"log₁₀ of the worst relative error of the gradient, {dtype}")
    bar.outline.set_visible(False)
    return figure


def _squares(
    ax: Any, certificate: Certificate, dtype: str, entrant: str, least: float
) -> Any:
    from matplotlib.patches import Rectangle

    grid = [
        [_log(certificate.row(loss, dtype, regime, entrant)) for regime in REGIMES]
        for loss in certificate.losses
    ]
    shown = [[math.nan if math.isinf(x) else x for x in line] for line in grid]
    image = ax.imshow(shown, cmap="YlOrRd", vmin=least, vmax=0, aspect="auto")
    for y, loss in enumerate(certificate.losses):
        for x, regime in enumerate(REGIMES):
            row = certificate.row(loss, dtype, regime, entrant)
            if fails(row, "gradient"):
                square = Rectangle(
                    (x - 0.5, y - 0.5), 1, 1, fill=False, hatch="////", edgecolor=INK
                )
                square.set_linewidth(0)
                ax.add_patch(square)
            number = grid[y][x]
            dark = (number - least) / -least > 0.55
            text = _text(row["gradient"]["worst"])
            colour = INK if number == LEFT_OUT else "#ffffff" if dark else "#333333"
            ax.text(x, y, text, ha="center", va="center", fontsize=7, color=colour)
    return image


def _text(worst: float | None) -> str:
    """Return the exponent of a worst gradient, as it is written into a square."""
    if not worst:
        return "–" if worst is None else "−∞"
    return str(round(math.log10(worst))).replace("-", "−")


def _log(row: dict[str, Any]) -> float:
    """Return the exponent of a worst gradient; an error of 0 is one of 1e-17."""
    worst = row["gradient"]["worst"]
    return LEFT_OUT if worst is None else math.log10(max(worst, 1e-17))


def _against(certificate: Certificate) -> Any:
    """Draw ours against theirs, a point for each cell."""
    from matplotlib.figure import Figure

    figure = Figure(figsize=(9.2, 3.1), layout="constrained")
    for ax, dtype in zip(figure.subplots(1, 4), DTYPES, strict=True):
        low, high = torch.finfo(DTYPES[dtype]).eps / 32, 1e2
        for peers, colour, marker, label in (
            (False, INK, "s", "plain formula"),
            (True, COLOURS[0], "o", "peer"),
        ):
            points = [
                (_within(c.theirs, low, high), _within(c.ours, low, high))
                for c in certificate.comparisons(peers)
                if c.dtype == dtype
            ]
            ax.plot(
                *zip(*points, strict=True) if points else ([], []),
                marker,
                color=colour,
                markersize=3,
                alpha=0.6,
                markeredgewidth=0,
                label=label,
            )
        ax.plot([low, high], [low, high], color=INK, linewidth=0.8)
        ax.set(xscale="log", yscale="log", title=dtype)
        ax.set(xlim=(low / 2, high * 4), ylim=(low / 2, high * 4))
        ax.set_xlabel("theirs")
        ax.grid(True)
        ax.minorticks_off()
    figure.axes[0].set_ylabel("ours")
    handles, labels = figure.axes[0].get_legend_handles_labels()
    figure.legend(handles, labels, loc="outside lower center", ncols=2)
    return figure


def _within(row: dict[str, Any], low: float, high: float) -> float:
    """Return a worst gradient inside the axes; one that is not finite is at the end."""
    worst = row["gradient"]["worst"]
    if fails(row, "gradient") or worst is None:
        return 2 * high
    return min(max(worst, low), high)
