"""VICReg (Bardes, Ponce & LeCun, 2105.04906), Eq. 1-6, in its conventions."""

import numpy as np

from .problems import covariance, reduce_problems


def vicreg_terms(
    z_a,
    z_b,
    *,
    target_std=1.0,
    eps=1e-4,
    convention="official",
    weight=None,
    reduction="mean",
):
    """Return invariance, variance and covariance, each summed over the views.

    =========================  ==============  ============  ==============
    convention                 invariance ÷ D  variance × ½  covariance × ½
    =========================  ==============  ============  ==============
    "official", "lightly"      yes             yes           no
    "algorithm1","solo-learn"  yes             no            no
    "paper"                    no              no            no
    "vicregl" (2210.01571)     yes             yes           yes
    =========================  ==============  ============  ==============
    """

    def invariance(a, b, w, _):
        squares = sum(
            weight * ((x - y) ** 2).sum() for weight, x, y in zip(w, a, b, strict=True)
        )
        per_row = squares / w.sum()
        return per_row if convention == "paper" else per_row / a.shape[1]

    def variance(a, b, w, _):
        total = 0.0
        for z in (a, b):
            for variance in np.diag(covariance(z, w)):
                gap = target_std - np.sqrt(variance + eps)
                total += gap / z.shape[1] if gap.real > 0 else 0.0
        halved = convention in ("official", "lightly", "vicregl")
        return total / 2 if halved else total

    def off_diagonal(a, b, w, _):
        total = 0.0
        for z in (a, b):
            c = covariance(z, w)
            squares = (c[i, j] ** 2 for i, j in np.ndindex(c.shape) if i != j)
            total += sum(squares) / z.shape[1]
        return total / 2 if convention == "vicregl" else total

    return tuple(
        reduce_problems(term, [z_a, z_b], [weight, weight], reduction)
        for term in (invariance, variance, off_diagonal)
    )


def vicreg(
    z_a,
    z_b,
    *,
    invariance_weight=25.0,
    variance_weight=25.0,
    covariance_weight=1.0,
    **options,
):
    """Return the weighted sum of the three terms."""
    invariance, variance, off_diagonal = vicreg_terms(z_a, z_b, **options)
    return (
        invariance_weight * invariance
        + variance_weight * variance
        + covariance_weight * off_diagonal
    )
