"""What is drawn: the regimes, in each layout of inputs.

A draw is told by its number, the loss and the regime; dtypes round the same draw.
"""

from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, field
from zlib import crc32

import numpy
import torch

__all__ = ["CLASSES", "DTYPES", "LAYOUTS", "REGIMES", "Batch", "batches", "kinds"]

DTYPES = {
    name: getattr(torch, name) for name in ("float64", "float32", "bfloat16", "float16")
}
BITS = {"float64": 53, "float32": 24, "bfloat16": 8, "float16": 11}
ROWS, COLUMNS, PLACES, CLASSES = 16, 6, 3, 3
NEAR = 2.0**-8  # how far partners are apart where they are nearly equal

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

Arrays = dict[str, numpy.ndarray]


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


# ------------------------------------------------------------------ parts


def _related(rng, count, *shape):
    """Return views with something in common."""
    noise = 10 ** rng.uniform(-1, 0.2)
    shared = rng.standard_normal(shape)
    return [
        shared + noise * rng.standard_normal(shape) + 0.3 * k for k in range(count)
    ]


def _rotation(rng, size):
    return numpy.linalg.qr(rng.standard_normal((size, size)))[0]


def _corners(rng, count):
    """Return the corners of a simplex of unit rows, turned."""
    corners = numpy.eye(count, COLUMNS) - numpy.eye(count, COLUMNS).mean(0)
    corners /= numpy.linalg.norm(corners, axis=1, keepdims=True)
    return corners @ _rotation(rng, COLUMNS)


def _white(rng, *shape):
    """Return rows whose columns are centred, uncorrelated and of variance 1."""
    z = rng.standard_normal(shape)
    q = numpy.linalg.qr(z - z.mean(-2, keepdims=True))[0]
    return q * numpy.sqrt(shape[-2] - 1)


def _near(rng, z):
    return z + NEAR * rng.standard_normal(z.shape)


# ------------------------------------------------------------------ layouts


@dataclass(frozen=True)
class Layout:
    """Inputs of one form.

    Attributes:
        names: Of what gets a gradient.
        shape: Returns the shape of one input for so many rows and columns.
        saturated: Returns these where the loss is nearly at its best, and what it is.
        said: What that is.
        kinds: Degenerate inputs: changes made to ordinary ones, and what they are.
        labels: Returns the integers for so many rows.
    """

    names: tuple[str, ...]
    saturated: Callable[..., list[numpy.ndarray]]
    said: str
    kinds: dict[str, Callable[[list[numpy.ndarray]], list[numpy.ndarray]]]
    labels: Callable[[int], Arrays] = lambda rows: {}
    fixed: tuple[str, ...] = ()
    shape: Callable[[int, int], tuple[int, ...]] = lambda rows, columns: (rows, columns)
    relabelled: dict[str, Callable[[Arrays], Arrays]] = field(default_factory=dict)


def _zero_rows(views):
    for k, z in enumerate(views):
        z[k] = 0
    return views


def _duplicated(views):
    for z in views:
        z[1] = z[0]
    return views


def _one_row(views):
    return [z[:1] for z in views]


def _constant_column(views):
    for z in views:
        z[..., 0] = 0.75
    return views


def _identical(views):
    return [views[0].copy() for _ in views]


def _all_equal(views):
    return [numpy.broadcast_to(z[:1], z.shape).copy() for z in views]


def _unchanged(views):
    return views


def _at_center(views):
    views[0][0] = views[1][0]
    return views


_ROWS = {"zero rows": _zero_rows, "duplicated rows": _duplicated}
_CLOUDS = {
    "constant column": _constant_column,
    "identical": _identical,
    "all rows equal": _all_equal,
}


def _of_classes(rows: int) -> Arrays:
    labels = numpy.arange(rows) % CLASSES
    return {"labels_a": labels, "labels_b": labels[::-1].copy()}


def _one_class(labels: Arrays) -> Arrays:
    return {name: numpy.zeros_like(k) for name, k in labels.items()}


def _apart(labels: Arrays) -> Arrays:
    return labels | {"labels_b": labels["labels_b"] + CLASSES}


def _pairs_at_corners(rng):
    corners = _corners(rng, 4)
    return [numpy.exp(rng.normal(size=(4, 1))) * _near(rng, corners) for _ in "ab"]


def _bags_at_corners(rng):
    corners = _corners(rng, 4).repeat(2, 0)
    return [numpy.exp(rng.normal(size=(8, 1))) * _near(rng, corners) for _ in "ab"]


def _classes_at_corners(rng, size=1.0):
    corners = size * _corners(rng, CLASSES)
    return [_near(rng, corners[k]) for k in _of_classes(6).values()]


def _around_centers(rng):
    centers = 4 * _corners(rng, CLASSES)
    return [_near(rng, centers[numpy.arange(ROWS) % CLASSES]), centers]


def _white_clouds(rng, count=2, size=1.0, shape=(ROWS, COLUMNS)):
    shared = size * _white(rng, *shape)
    return [_near(rng, shared) for _ in range(count)]


def _as_encoded(rng):
    x, noise = _related(rng, 2, ROWS, COLUMNS)
    return [_near(rng, x), _near(rng, noise), x, noise]


_PAIR = ("z_a", "z_b")
_VIEWS = ("view_0", "view_1", "view_2")
_UNCORRELATED = "columns uncorrelated and of variance 1, partners equal up to 2⁻⁸"
_CORNERS = "four pairs at the corners of a simplex (logits 19 apart), up to 2⁻⁸"

LAYOUTS = {
    "pairs": Layout(_PAIR, _pairs_at_corners, _CORNERS, _ROWS | {"one row": _one_row}),
    "bags": Layout(
        _PAIR,
        _bags_at_corners,
        "four bags of two pairs at the corners of a simplex, up to 2⁻⁸",
        _ROWS | {"one row": _one_row},
        labels=lambda rows: {"ids": numpy.arange(rows) // 2},
    ),
    "labelled": Layout(
        _PAIR,
        _classes_at_corners,
        "three classes at the corners of a simplex (logits 21 apart), up to 2⁻⁸",
        _ROWS | {"one class": _unchanged},
        labels=_of_classes,
        relabelled={"one class": _one_class},
    ),
    "classes": Layout(
        _PAIR,
        lambda rng: _classes_at_corners(rng, 20.0),
        "three classes 35 apart, equal in both modalities up to 2⁻⁸",
        {
            "duplicated rows": _duplicated,
            "one class": _unchanged,
            "no class in both": _unchanged,
        },
        labels=_of_classes,
        relabelled={"one class": _one_class, "no class in both": _apart},
    ),
    "centers": Layout(
        ("z", "centers"),
        _around_centers,
        "rows at their centres up to 2⁻⁸, centres 7 apart",
        _ROWS | {"a row at its centre": _at_center},
        labels=lambda rows: {"labels": numpy.arange(rows) % CLASSES},
    ),
    "clouds": Layout(_PAIR, _white_clouds, _UNCORRELATED, _CLOUDS),
    "large clouds": Layout(
        _PAIR,
        lambda rng: _white_clouds(rng, size=2.0),
        "columns uncorrelated, no deviation below 1, partners equal up to 2⁻⁸",
        _CLOUDS,
    ),
    "places": Layout(
        _PAIR,
        lambda rng: [
            z.swapaxes(0, 1)
            for z in _white_clouds(rng, size=2.0, shape=(PLACES, ROWS, COLUMNS))
        ],
        "columns uncorrelated, no deviation below 1, partners equal up to 2⁻⁸",
        _CLOUDS,
        shape=lambda rows, columns: (rows, PLACES, columns),
    ),
    "views": Layout(
        _VIEWS, lambda rng: _white_clouds(rng, 3), _UNCORRELATED, _CLOUDS
    ),
    "views at the least": Layout(
        _VIEWS,
        lambda rng: _white_clouds(rng, 3, (2 / 3) ** 0.5),
        "columns uncorrelated and of variance 2/3, where the loss is least; partners "
        "equal up to 2⁻⁸",
        _CLOUDS,
    ),
    "data and noise": Layout(
        ("z", "z_noise"),
        _as_encoded,
        "encoded data and noise equal what was encoded up to 2⁻⁸",
        _CLOUDS,
        fixed=("x", "noise"),
    ),
}


def kinds(layout: str, regime: str) -> list[str]:
    """Return the kinds of a regime."""
    return list(LAYOUTS[layout].kinds) if regime == "degenerate" else [""]


def _raw(layout: Layout, regime: str, dtype: str, kind: str, rng) -> list:
    """Return the arrays of one draw, before rounding."""
    count = len(layout.names) + len(layout.fixed)
    if regime == "saturated":
        return layout.saturated(rng)
    shape = (6, 16) if regime == "N < D" else (ROWS, COLUMNS)
    views = _related(rng, count, *layout.shape(*shape))
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
        matrix = (_rotation(rng, shape[1]) * spread) @ _rotation(rng, shape[1])
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
