"""The losses of centres, in extended precision, from their papers.

Labels are the same in all draws; a row is subtracted from all others first, which is
exact and changes nothing.
"""

from typing import Any

import autograd.numpy as np
import numpy

from benchmarks.certificate.extended import constant, nothing, softplus

__all__ = [
    "contrastive_center",
    "cross_modality_contrastive_center",
    "hetero_center",
    "hetero_center_triplet",
]


def _length(z: Any) -> Any:
    """Return lengths; that of 0 has no gradient."""
    squares = np.sum(z * z, -1)
    there = constant(squares) > 0
    return np.where(there, np.sqrt(np.where(there, squares, 1)), 0)


def _centers(
    z_a: Any, z_b: Any, labels_a: numpy.ndarray, labels_b: numpy.ndarray
) -> tuple[Any, Any]:
    """Return the means of the classes that both have, (B, K, D) twice."""
    first = constant(z_a)[:, :1]
    shared = sorted(set(labels_a.tolist()) & set(labels_b.tolist()))

    def means(z: Any, labels: numpy.ndarray) -> Any:
        rows = z - first
        return np.stack([np.mean(rows[:, labels == k], 1) for k in shared], 1)

    if not shared:
        return None, None
    return means(z_a, labels_a), means(z_b, labels_b)


def _nearest(distances: Any, other: numpy.ndarray) -> Any:
    """Return the least distance to another class: that of one of the nearest."""
    seen = numpy.where(other, constant(distances), numpy.inf)
    chosen = numpy.arange(other.shape[-1]) == seen.argmin(-1)[..., None]
    return np.sum(np.where(chosen, distances, 0), -1)


def hetero_center(z_a: Any, z_b: Any, **labels: numpy.ndarray) -> Any:
    """1910.09830, mean over classes."""
    a, b = _centers(z_a, z_b, **labels)
    if a is None:
        return nothing(z_a)
    return np.mean(np.sum((a - b) ** 2, -1), -1)


def hetero_center_triplet(z_a: Any, z_b: Any, **labels: numpy.ndarray) -> Any:
    """2008.06223, margin 0.3, mean over the anchors."""
    a, b = _centers(z_a, z_b, **labels)
    if a is None or a.shape[1] == 1:
        return nothing(z_a)
    center = np.concatenate((a, b), 1)
    number = numpy.tile(numpy.arange(a.shape[1]), 2)
    distances = _length(center[:, :, None] - center[:, None])
    own = _length(a - b)
    gap = 0.3 + np.concatenate((own, own), 1)
    gap = gap - _nearest(distances, number[:, None] != number)
    return np.mean(np.where(constant(gap) > 0, gap, 0), -1)


def cross_modality_contrastive_center(
    z_a: Any, z_b: Any, **labels: numpy.ndarray
) -> Any:
    """2110.11264: own gap over the distance to the nearest class, logistic."""
    a, b = _centers(z_a, z_b, **labels)
    if a is None or a.shape[1] == 1:
        return nothing(z_a)
    middle = (a + b) / 2
    distances = _length(middle[:, :, None] - middle[:, None])
    other = ~numpy.eye(a.shape[1], dtype=bool)
    return np.mean(softplus(_length(a - b) - _nearest(distances, other)), -1)


def contrastive_center(z: Any, centers: Any, labels: numpy.ndarray) -> Any:
    """1707.07391, δ = 1, mean over rows."""
    first = constant(z)[:, :1]
    gaps = (z - first)[:, :, None] - (centers - first)[:, None]
    squares = np.sum(gaps * gaps, -1)
    own = labels[:, None] == numpy.arange(squares.shape[-1])
    to_own = np.sum(np.where(own, squares, 0), -1)
    to_others = np.sum(np.where(own, 0, squares), -1)
    return np.mean(to_own / (to_others + 1), -1) / 2
