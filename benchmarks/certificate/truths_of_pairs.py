"""The contrastive losses, in extended precision, from their papers.

All are of the package's defaults. Cosines are from rows divided by their lengths;
what a formula takes the difference of is taken of small numbers.
"""

from typing import Any

import autograd.numpy as np
import numpy

from benchmarks.certificate.extended import (
    constant,
    log_sum_exp,
    nothing,
    softplus,
    transposed,
    unit,
)

__all__ = [
    "debiased",
    "decoupled",
    "info_nce",
    "mil_nce",
    "nt_xent",
    "sigmoid_contrastive",
    "similarity_preservation",
    "sincere",
    "soft_info_nce",
    "sup_con",
]

TEMPERATURE = 0.07


def _cosines(z_a: Any, z_b: Any) -> Any:
    return np.matmul(unit(z_a), transposed(unit(z_b)))


def _of(chosen: numpy.ndarray, x: Any) -> Any:
    """Return the one entry of each row that is chosen."""
    return np.sum(np.where(chosen, x, 0), -1)


# ------------------------------------------------------------------ between modalities


def _both_ways(row: Any, z_a: Any, z_b: Any) -> Any:
    """Return the mean over rows and directions of ``row(logits, own)``."""
    logits = _cosines(z_a, z_b) / TEMPERATURE
    own = numpy.eye(logits.shape[-1], dtype=bool)
    if len(own) == 1:
        return nothing(z_a)
    ways = [row(s, own) for s in (logits, transposed(logits))]
    return np.mean(ways[0] + ways[1], -1) / 2


def info_nce(z_a: Any, z_b: Any) -> Any:
    """1807.03748, Eq. 4, both ways: −log of the partner's share."""

    def row(logits: Any, own: numpy.ndarray) -> Any:
        return softplus(log_sum_exp(logits, ~own, -1) - _of(own, logits))

    return _both_ways(row, z_a, z_b)


def soft_info_nce(z_a: Any, z_b: Any) -> Any:
    """1512.00567, §7: a tenth of the target goes to all rows alike."""

    def row(logits: Any, own: numpy.ndarray) -> Any:
        partner = _of(own, logits)
        hard = softplus(log_sum_exp(logits, ~own, -1) - partner)
        return hard + 0.1 * np.mean(partner[..., None] - logits, -1)

    return _both_ways(row, z_a, z_b)


def mil_nce(z_a: Any, z_b: Any, ids: numpy.ndarray) -> Any:
    """1912.06430, Eq. 1: −log of the share of the bag."""
    bag = ids[:, None] == ids
    if bag.all():
        return nothing(z_a)

    def row(logits: Any, own: numpy.ndarray) -> Any:
        return softplus(log_sum_exp(logits, ~bag, -1) - log_sum_exp(logits, bag, -1))

    return _both_ways(row, z_a, z_b)


def sigmoid_contrastive(z_a: Any, z_b: Any) -> Any:
    """2303.15343, Algorithm 1, t = 10 and b = −10."""
    logits = 10 * _cosines(z_a, z_b) - 10
    label = 2 * numpy.eye(logits.shape[-1]) - 1
    return np.sum(softplus(-label * logits), (-1, -2)) / len(label)


def similarity_preservation(z_a: Any, z_b: Any) -> Any:
    """Mean square of cosines across modalities less those within, held constant."""
    target = constant(_below_1(z_a, z_a) + _below_1(z_b, z_b)) / 2
    return np.mean((_below_1(z_a, z_b) - target) ** 2, (-1, -2))


def _below_1(z_a: Any, z_b: Any) -> Any:
    """Return 1 less the cosines, to all digits of each: half of ‖x/|x| − y/|y|‖²."""
    x, y = z_a[:, :, None], z_b[:, None]
    squares = [np.sum(z * z, -1, keepdims=True) for z in (x, y)]
    there = [constant(q) > 0 for q in squares]
    length_x, length_y = (
        np.sqrt(np.where(some, q, 1)) for some, q in zip(there, squares, strict=True)
    )
    longer = np.sum((x - y) * (x + y), -1, keepdims=True) / (length_x + length_y)
    gap = ((x - y) * length_y - y * longer) / (length_x * length_y)
    both = (there[0] & there[1])[..., 0]
    return np.where(both, np.sum(gap * gap, -1) / 2, 1)


# ------------------------------------------------------------------ of all 2N rows


def _joint(z_a: Any, z_b: Any) -> tuple[Any, numpy.ndarray, numpy.ndarray]:
    """Return logits of all rows, who is the partner, and who is of one pair."""
    z = np.concatenate((z_a, z_b), -2)
    pair = numpy.tile(numpy.eye(z_a.shape[-2], dtype=bool), (2, 2))
    return _cosines(z, z) / TEMPERATURE, pair & ~numpy.eye(len(pair), dtype=bool), pair


def nt_xent(z_a: Any, z_b: Any) -> Any:
    """2002.05709, Eq. 1."""
    logits, partner, pair = _joint(z_a, z_b)
    if pair.all():
        return nothing(z_a)
    gap = log_sum_exp(logits, ~pair, -1) - _of(partner, logits)
    return np.mean(softplus(gap), -1)


def decoupled(z_a: Any, z_b: Any) -> Any:
    """2110.06848, Eq. 6; the value is a difference and may be 0."""
    logits, partner, pair = _joint(z_a, z_b)
    if pair.all():
        return nothing(z_a)
    negatives = log_sum_exp(logits, ~pair, -1)
    own = _of(partner, logits)
    parts = [numpy.abs(constant(x)).mean(-1) for x in (negatives, own)]
    return np.mean(negatives - own, -1), numpy.minimum(*parts)


def debiased(z_a: Any, z_b: Any) -> Any:
    """2007.00224, Eqs. 7 and 8, τ⁺ = 0.1."""
    logits, partner, pair = _joint(z_a, z_b)
    if pair.all():
        return nothing(z_a)
    count = len(pair) - 2
    own = _of(partner, logits)
    # Both over e^own.
    total = np.sum(np.where(pair, 0, np.exp(logits - own[..., None])), -1)
    total = (total - count * 0.1) / (1 - 0.1)
    least = count * np.exp(-1 / TEMPERATURE - own)
    total = np.where(constant(total) > constant(least), total, least)
    return np.mean(np.log1p(total), -1)


# ------------------------------------------------------------------ by class


def _classes(
    labels_a: numpy.ndarray, labels_b: numpy.ndarray
) -> tuple[numpy.ndarray, numpy.ndarray, numpy.ndarray]:
    """Return who is of one class, who is a positive, and their shares in the mean."""
    labels = numpy.concatenate((labels_a, labels_b))
    same = labels[:, None] == labels
    positive = same & ~numpy.eye(len(labels), dtype=bool)
    count = positive.sum(1, keepdims=True)
    share = positive.astype(numpy.longdouble) / numpy.maximum(count, 1)
    return same, positive, share / max((count > 0).sum(), 1)


def sup_con(
    z_a: Any, z_b: Any, labels_a: numpy.ndarray, labels_b: numpy.ndarray
) -> Any:
    """2004.11362, Eq. 2."""
    logits, _, pair = _joint(z_a, z_b)
    share = _classes(labels_a, labels_b)[2].astype(constant(logits).dtype)
    others = ~numpy.eye(len(pair), dtype=bool)
    log = log_sum_exp(logits, others, -1)
    return np.sum(share * (log[..., None] - logits), (-1, -2))


def sincere(
    z_a: Any, z_b: Any, labels_a: numpy.ndarray, labels_b: numpy.ndarray
) -> Any:
    """2309.14277: each positive among the negatives alone."""
    logits, _, _ = _joint(z_a, z_b)
    same, _, share = _classes(labels_a, labels_b)
    share = share.astype(constant(logits).dtype)
    if same.all():
        return nothing(z_a)
    negatives = log_sum_exp(logits, ~same, -1)
    return np.sum(share * softplus(negatives[..., None] - logits), (-1, -2))
