"""What is drawn: the regimes, in each layout of inputs.

A draw is told by its number, the loss and the regime; dtypes round the same draw.
"""

from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from zlib import crc32

import numpy
import torch

from benchmarks.certificate.layouts import (
    CLASSES,
    COLUMNS,
    LAYOUTS,
    ROWS,
    Arrays,
    Layout,
    related,
    rotation,
)

__all__ = ["DTYPES", "REGIMES", "Batch", "batches", "kinds"]

DTYPES = {
    name: getattr(torch, name) for name in ("float64", "float32", "bfloat16", "float16")
}
BITS = {"float64": 53, "float32": 24, "bfloat16": 8, "float16": 11}

#: What all layouts have in common. √eps is that of the dtype.
REGIMES = {
    "ordinary": "rows of a normal distribution, half shared between partners: "
    f"z = shared + s·own, s from 0.1 to 1.6, {ROWS} × {COLUMNS}",
    "large mean": "the same, and ±2^⌊p/2⌋ added to each column, in both modalities: "
    "1/√eps spreads away from 0 (2²⁶ in float64, 4096, 32 in float16, 16 in bfloat16)",
    "tiny": "the same by 2⁻²⁰, in float16 by 2⁻¹⁰",
    "huge": "the same by 2²⁰, in float16 by 2¹⁰",
    "ill-conditioned": "the same times a matrix of condition 2^⌊p/2⌋, 1/√eps, "
    "between random rotations",
    "N < D": "6 × 16",
    "saturated": "what the loss asks for is nearly there",
    "degenerate": "singular points, one kind after the other",
}
SEEDS = {name: k for k, name in enumerate(REGIMES)}


@dataclass
class Batch:
    """Draws of one kind.

    Attributes:
        numbers: Which.
        kind: Of a degenerate input, or "".
        leaves: What gets gradients, (B, …), in float64 and rounded to a dtype.
        fixed: What does not, (B, …), rounded as well.
        labels: Integers that all draws share.
    """

    numbers: list[int]
    kind: str
    leaves: Arrays
    fixed: Arrays = field(default_factory=dict)
    labels: Arrays = field(default_factory=dict)

    def draw(self, k: int, dtype: torch.dtype) -> dict[str, torch.Tensor]:
        """Return the tensors of one draw; leaves require a gradient."""
        out = {}
        for name, z in (self.leaves | self.fixed).items():
            out[name] = torch.tensor(z[k]).to(dtype).requires_grad_(name in self.leaves)
        return out | {name: torch.tensor(z) for name, z in self.labels.items()}


def kinds(layout: str, regime: str) -> list[str]:
    """Return the kinds of a regime."""
    return list(LAYOUTS[layout].kinds) if regime == "degenerate" else [""]


def _raw(layout: Layout, regime: str, dtype: str, kind: str, rng) -> list:
    """Return the arrays of one draw, before rounding."""
    count = len(layout.names) + len(layout.fixed)
    if regime == "saturated":
        return layout.saturated(rng)
    shape = (6, 16) if regime == "N < D" else (ROWS, COLUMNS)
    views = related(rng, count, *layout.shape(*shape))
    if layout.names == ("z", "centers"):
        views[1] = views[1][:CLASSES]
    if regime == "degenerate":
        return layout.kinds[kind](views)
    half = 2.0 ** (BITS[dtype] // 2)
    size = 2.0**10 if dtype == "float16" else 2.0**20
    if regime == "large mean":
        mean = half * rng.choice([-1.0, 1.0], shape[1])
        return [z + mean for z in views]
    if regime == "ill-conditioned":
        spread = half ** -numpy.linspace(0, 1, shape[1])
        matrix = (rotation(rng, shape[1]) * spread) @ rotation(rng, shape[1])
        return [z @ matrix for z in views]
    factor = {"tiny": 1 / size, "huge": size}.get(regime, 1.0)
    return [factor * z for z in views]


def _rounded(z: numpy.ndarray, dtype: str) -> numpy.ndarray:
    return torch.tensor(z).to(DTYPES[dtype]).double().numpy()


def batches(
    loss: str,
    layout: str,
    regime: str,
    dtype: str,
    numbers: Iterable[int],
    size: int = 128,
) -> Iterator[Batch]:
    """Yield the draws of these numbers, those of a kind together."""
    form, names = LAYOUTS[layout], kinds(layout, regime)
    by_kind: dict[str, list[int]] = {}
    for number in numbers:
        by_kind.setdefault(names[number % len(names)], []).append(number)
    for kind, all_of_them in by_kind.items():
        for start in range(0, len(all_of_them), size):
            some = all_of_them[start : start + size]
            drawn = [
                _raw(
                    form,
                    regime,
                    dtype,
                    kind,
                    numpy.random.default_rng((n, SEEDS[regime], crc32(loss.encode()))),
                )
                for n in some
            ]
            stacked = [
                _rounded(numpy.stack(z), dtype) for z in zip(*drawn, strict=True)
            ]
            leaves = dict(zip(form.names, stacked, strict=False))
            fixed = dict(zip(form.fixed, stacked[len(leaves) :], strict=True))
            labels = form.labels(stacked[0].shape[1])
            change = form.relabelled.get(kind)
            yield Batch(some, kind, leaves, fixed, change(labels) if change else labels)
