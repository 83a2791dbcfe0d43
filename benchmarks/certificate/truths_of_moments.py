"""The losses of moments, the MMD and the CCA family, in extended precision.

Canonical correlations are those of orthonormal bases of the columns, to which a ridge
adds rows of its own: no covariance is formed, inverted or decomposed.
"""

from itertools import combinations
from typing import Any

import autograd.numpy as np
import numpy

from benchmarks.certificate.extended import (
    centred,
    constant,
    nuclear_norm,
    orthonormal,
    top_eigenvalues,
    transposed,
    unit,
)

__all__ = [
    "barlow_twins",
    "coral",
    "dcca",
    "dgcca",
    "eckart_young",
    "mcca",
    "mmd",
    "noise_regularization",
    "soft_decorrelation",
    "vicreg",
    "vicreg_local",
]

RIDGE = 1e-4


def _covariance(z: Any) -> Any:
    z = centred(z)
    return np.matmul(transposed(z), z) / (z.shape[-2] - 1)


def _squares(m: Any) -> Any:
    return np.sum(m * m, (-1, -2))


def _off_diagonal(m: Any) -> Any:
    return np.where(numpy.eye(m.shape[-1], dtype=bool), 0, m)


def coral(z_a: Any, z_b: Any, mean_weight: float = 0.0) -> Any:
    """1607.01719, Eqs. 1–3."""
    dim = z_a.shape[-1]
    value = _squares(_covariance(z_a) - _covariance(z_b)) / (4 * dim**2)
    if mean_weight:
        first = constant(z_a)[:, :1]
        gap = np.mean(z_a - first, 1) - np.mean(z_b - first, 1)
        value = value + mean_weight * np.sum(gap * gap, -1) / dim
    return value


def mmd(z_a: Any, z_b: Any, estimator: str = "biased", rule: str = "mean") -> Any:
    """Gretton et al. 2012; five Gaussians by doubling around a constant bandwidth.

    The rule: of the pooled squared distances the mean of different rows ("mean"), or of
    all ("all"), or the lower median of those within a ("median of a").
    """
    n, m = z_a.shape[1], z_b.shape[1]
    pool = np.concatenate((z_a, z_b), 1)
    pool = pool - constant(z_a)[:, :1]
    gaps = pool[:, :, None] - pool[:, None]
    d2 = np.sum(gaps * gaps, -1)
    seen = constant(d2)
    if rule == "median of a":
        flat = numpy.sort(seen[:, :n, :n].reshape(len(seen), -1), -1)
        width = flat[:, (n * n - 1) // 2]
    else:
        less = 0 if rule == "all" else n + m
        width = seen.sum((1, 2)) / ((n + m) ** 2 - less)
    nothing = 2 if rule == "mean" else numpy.nan  # what others leave undefined
    width = numpy.where(width > 0, width, nothing)[:, None, None]
    # Less 1, which the terms have in common.
    k = sum(np.expm1(-d2 / (width * 2.0**power)) for power in range(-2, 3)) / 5
    within_a, within_b = np.sum(k[:, :n, :n], (1, 2)), np.sum(k[:, n:, n:], (1, 2))
    pairs = (n * n, m * m) if estimator == "biased" else (n * n - n, m * m - m)
    cross = np.mean(k[:, :n, n:], (1, 2))
    return within_a / pairs[0] + within_b / pairs[1] - 2 * cross


def tll_mmd(z_a: Any, z_b: Any) -> Any:
    """What tllib's code returns."""
    value = mmd(z_a, z_b, "unbiased", "all")
    return 5 * value + constant(z_a).dtype.type(2) / (z_a.shape[1] - 1)


def barlow_twins(
    z_a: Any, z_b: Any, eps: float = 0.0, redundancy_weight: float = 5e-3
) -> Any:
    """2103.03230, Eqs. 1 and 2; ``eps`` is added to variances."""
    rows = z_a.shape[1]
    if eps:
        variances = (np.mean(centred(z) ** 2, 1, keepdims=True) for z in (z_a, z_b))
        a, b = (
            centred(z) / np.sqrt(rows * (variance + eps))
            for z, variance in zip((z_a, z_b), variances, strict=True)
        )
        own = 1 - np.sum(a * b, 1)
    else:
        a, b = unit(centred(z_a), 1), unit(centred(z_b), 1)
        there = (constant(a) != 0).any(1) & (constant(b) != 0).any(1)
        own = np.where(there, np.sum((a - b) ** 2, 1) / 2, 1)
    off = _off_diagonal(np.matmul(transposed(a), b))
    return np.sum(own * own, -1) + redundancy_weight * _squares(off)


def vicreg(
    z_a: Any, z_b: Any, variance_weight: float = 25.0, covariance_weight: float = 1.0
) -> Any:
    """2105.04906 as its code has it: ½ on the hinge, covariances over D."""
    dim = z_a.shape[-1]
    value = 25 * np.mean((z_a - z_b) ** 2, (-1, -2))
    for z in (z_a, z_b):
        c = _covariance(z)
        variances = np.stack([c[..., k, k] for k in range(dim)], -1)
        gap = 1 - np.sqrt(variances + 1e-4)
        hinge = np.mean(np.where(constant(gap) > 0, gap, 0), -1)
        value = value + variance_weight * hinge / 2
        value = value + covariance_weight * _squares(_off_diagonal(c)) / dim
    return value


def vicreg_local(z_a: Any, z_b: Any) -> Any:
    """2210.01571: the same of every place, with ½ on the covariances, too."""
    places = [
        vicreg(z_a[:, :, p], z_b[:, :, p], covariance_weight=0.5)
        for p in range(z_a.shape[2])
    ]
    return sum(places) / len(places)


def soft_decorrelation(z_a: Any, z_b: Any) -> Any:
    """Absolute correlations of different columns (Chang et al., 2018)."""
    value = 0
    for z in (z_a, z_b):
        u = unit(centred(z), 1)
        r = _off_diagonal(np.matmul(transposed(u), u))
        # What is rounding of 0 has no sign.
        none = numpy.abs(constant(r)) < 64 * numpy.finfo(constant(r).dtype).eps
        value = value + np.sum(np.abs(np.where(none, 0, r)), (-1, -2))
    return value


# ------------------------------------------------------------------ correlation


def _bases(z: Any, before: int, after: int) -> Any:
    """Return a basis of the columns of centred rows above those of the ridge.

    These are after so many rows of zeros, and before others.
    """
    rows, dim = z.shape[-2:]
    z = centred(z) / np.sqrt(constant(z).dtype.type(rows - 1))
    ridge = numpy.sqrt(constant(z).dtype.type(RIDGE)) * numpy.eye(dim)
    ridge = numpy.pad(ridge, ((before, after), (0, 0)))
    ridge = numpy.broadcast_to(ridge, (len(z), *ridge.shape))
    return orthonormal(np.concatenate((z, ridge), -2))


def dcca(z_a: Any, z_b: Any, objective: str = "trace") -> Any:
    """Andrew et al. 2013: −Σρ, or −Σρ² ("frobenius")."""
    d_a, d_b = z_a.shape[-1], z_b.shape[-1]
    t = np.matmul(transposed(_bases(z_a, 0, d_b)), _bases(z_b, d_a, 0))
    return -nuclear_norm(t) if objective == "trace" else -_squares(t)


def mcca(view_0: Any, view_1: Any, view_2: Any) -> Any:
    """`dcca` of all pairs."""
    return sum(dcca(*pair) for pair in combinations((view_0, view_1, view_2), 2))


def dgcca(view_0: Any, view_1: Any, view_2: Any) -> Any:
    """1702.02519: minus the two largest eigenvalues of the sum of projections."""
    rows = view_0.shape[1]
    upper = [_bases(z, 0, 0)[:, :rows] for z in (view_0, view_1, view_2)]
    return -top_eigenvalues(np.concatenate(upper, -1), 2)


def noise_regularization(
    z: Any, z_noise: Any, x: numpy.ndarray, noise: numpy.ndarray
) -> Any:
    """He et al. 2024: |Σρ of data and noise, encoded, less that of these|."""
    after = -dcca(z, z_noise)
    before = -dcca(*(v.astype(constant(z).dtype) for v in (x, noise)))
    return np.abs(after - before), numpy.minimum(constant(after), before)


def eckart_young(view_0: Any, view_1: Any, view_2: Any) -> Any:
    """Chapman et al. 2024: ‖ΣC_ii‖² − 2Σ tr C_ij; may be 0."""
    views = [centred(z) for z in (view_0, view_1, view_2)]
    dof = view_0.shape[1] - 1
    energy = _squares(sum(np.matmul(transposed(z), z) for z in views) / dof)
    shared = 4 * sum(np.sum(a * b, (-1, -2)) for a, b in combinations(views, 2)) / dof
    least = numpy.minimum(constant(energy), numpy.abs(constant(shared)))
    return energy - shared, least
