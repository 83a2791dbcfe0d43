"""Barlow Twins (Zbontar et al., 2103.03230), Eq. 1 and 2."""

import numpy as np

from .problems import centre, reduce_problems


def cross_correlation(a, b, w, eps=0.0):
    """Return C_ij; a column without variance correlates with nothing."""
    a, b = centre(a, w), centre(b, w)
    correlation = np.zeros((a.shape[1], b.shape[1]), dtype=np.result_type(a, b))
    for i, j in np.ndindex(correlation.shape):
        spread_a = (w * a[:, i] ** 2).sum() + w.sum() * eps
        spread_b = (w * b[:, j] ** 2).sum() + w.sum() * eps
        if spread_a != 0 and spread_b != 0:
            dot = (w * a[:, i] * b[:, j]).sum()
            correlation[i, j] = dot / np.sqrt(spread_a) / np.sqrt(spread_b)
    return correlation


def barlow_twins_terms(
    z_a, z_b, *, eps=0.0, scale="published", weight=None, reduction="mean"
):
    """Return Σ_i (1 - C_ii)² and Σ_{i≠j} C_ij², or both over D."""
    divisor = {"published": 1, "per_column": z_a.shape[-1]}[scale]

    def invariance(a, b, w, _):
        c = cross_correlation(a, b, w, eps)
        return sum((1 - c[i, i]) ** 2 for i in range(len(c))) / divisor

    def redundancy(a, b, w, _):
        c = cross_correlation(a, b, w, eps)
        off = sum(c[i, j] ** 2 for i, j in np.ndindex(c.shape) if i != j)
        return off / divisor

    return tuple(
        reduce_problems(term, [z_a, z_b], [weight, weight], reduction)
        for term in (invariance, redundancy)
    )


def barlow_twins(
    z_a,
    z_b,
    *,
    redundancy_weight=5e-3,
    eps=0.0,
    scale="published",
    weight=None,
    reduction="mean",
):
    """Return invariance + redundancy_weight · redundancy."""
    invariance, redundancy = barlow_twins_terms(
        z_a, z_b, eps=eps, scale=scale, weight=weight, reduction=reduction
    )
    return invariance + redundancy_weight * redundancy
