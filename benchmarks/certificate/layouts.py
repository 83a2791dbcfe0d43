"""The layouts of inputs: what gets a gradient, and what is particular to a form."""

from collections.abc import Callable
from dataclasses import dataclass, field

import numpy

__all__ = [
    "CLASSES",
    "COLUMNS",
    "LAYOUTS",
    "ROWS",
    "Arrays",
    "Layout",
    "related",
    "rotation",
]

ROWS, COLUMNS, PLACES, CLASSES = 16, 6, 3, 3
NEAR = 2.0**-8  # how far partners are apart where they are nearly equal

Arrays = dict[str, numpy.ndarray]


# ------------------------------------------------------------------ parts


def related(rng, count, *shape):
    """Return views with something in common."""
    noise = 10 ** rng.uniform(-1, 0.2)
    shared = rng.standard_normal(shape)
    return [shared + noise * rng.standard_normal(shape) + 0.3 * k for k in range(count)]


def rotation(rng, size):
    """Return a rotation."""
    return numpy.linalg.qr(rng.standard_normal((size, size)))[0]


def _corners(rng, count):
    """Return the corners of a simplex of unit rows, turned."""
    corners = numpy.eye(count, COLUMNS) - numpy.eye(count, COLUMNS).mean(0)
    corners /= numpy.linalg.norm(corners, axis=1, keepdims=True)
    return corners @ rotation(rng, COLUMNS)


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
    x, noise = related(rng, 2, ROWS, COLUMNS)
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
    "views": Layout(_VIEWS, lambda rng: _white_clouds(rng, 3), _UNCORRELATED, _CLOUDS),
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
