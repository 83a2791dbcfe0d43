"""Barlow Twins (Zbontar et al., 2103.03230): Eq. 1 and 2, Algorithm 1, other codes.

============================  ===========================  ======  ======  ======  ====
convention                    a column is divided by       ε       λ       C_ij →  ×
============================  ===========================  ======  ======  ======  ====
"paper"                       √(mean of squares + ε)       0       0.005   0       1
"official"                    the same (batch norm)        1e-5    0.0051  0       1
"lightly"                     the same                     1e-5    0.005   0       1
"solo-learn"                  the same                     1e-5    0.005   0       1/40
"algorithm1"                  its unbiased deviation + ε   0       0.005   0       1
"monai"                       the same                     1e-6    0.005   0       1
"stable-pretraining"          the same                     1e-5    0.005   0       1
"hsic" (2104.13712)           the same                     0       0.005   -1      1
============================  ===========================  ======  ======  ======  ====

C is the product of the divided columns over the number of rows, in all of them.
"""

import numpy as np

from .problems import centre, reduce_problems

DEFAULT_EPS = {
    "paper": 0.0,
    "algorithm1": 0.0,
    "official": 1e-5,
    "lightly": 1e-5,
    "solo-learn": 1e-5,
    "monai": 1e-6,
    "stable-pretraining": 1e-5,
    "hsic": 0.0,
}


def divided(z, w, eps, convention):
    """Divide centred columns; one that would be divided by 0 is 0."""
    z = centre(z, w)
    out = np.zeros_like(z)
    for j in range(z.shape[1]):
        squares = (w * z[:, j] ** 2).sum()
        if convention in ("paper", "official", "lightly", "solo-learn"):
            divisor = np.sqrt(squares / w.sum() + eps)
        else:
            dof = w.sum() - (w**2).sum() / w.sum()
            spread = np.sqrt(squares / dof) if squares != 0 and len(w) > 1 else 0.0
            divisor = spread + eps
        if divisor != 0:
            out[:, j] = z[:, j] / divisor
    return out


def barlow_twins_terms(
    z_a,
    z_b,
    *,
    eps=None,
    convention="paper",
    scale="published",
    weight=None,
    reduction="mean",
):
    """Return Σ_i (1 - C_ii)² and Σ_{i≠j} C_ij², or those of the convention."""
    if eps is None:
        eps = DEFAULT_EPS[convention]
    divisor = {"published": 1, "per_column": z_a.shape[-1]}[scale]
    if convention == "solo-learn":
        divisor *= 40

    def correlation(a, b, w):
        a, b = divided(a, w, eps, convention), divided(b, w, eps, convention)
        return (w[:, None] * a).T @ b / w.sum()

    def invariance(a, b, w, _):
        c = correlation(a, b, w)
        return sum((1 - c[i, i]) ** 2 for i in range(len(c))) / divisor

    def redundancy(a, b, w, _):
        c = correlation(a, b, w)
        if convention == "hsic":
            c = 1 + c
        off = sum(c[i, j] ** 2 for i, j in np.ndindex(c.shape) if i != j)
        return off / divisor

    return tuple(
        reduce_problems(term, [z_a, z_b], [weight, weight], reduction)
        for term in (invariance, redundancy)
    )


def barlow_twins(z_a, z_b, *, redundancy_weight=None, convention="paper", **options):
    """Return invariance + redundancy_weight · redundancy."""
    if redundancy_weight is None:
        redundancy_weight = 0.0051 if convention == "official" else 0.005
    invariance, redundancy = barlow_twins_terms(
        z_a, z_b, convention=convention, **options
    )
    return invariance + redundancy_weight * redundancy
