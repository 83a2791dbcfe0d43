"""The Eckart-Young loss (Chapman et al., 2024): row by row, from its formula."""

from itertools import permutations

import numpy as np


def _standardised(z, w):
    """Return √(w/divisor)·(z − mean); of no or one row, zeros."""
    if (w > 0).sum() < 2:
        return np.zeros_like(z)
    centred = z - np.average(z[w > 0], axis=0, weights=w[w > 0])
    divisor = w.sum() - (w**2).sum() / w.sum()
    centred[w == 0] = 0
    return np.sqrt(w / divisor)[:, None] * centred


def _within(views, weights):
    """Return the sum of the covariances of the views."""
    out = 0.0
    for z, w in zip(views, weights, strict=True):
        for row in _standardised(z, w):
            out = out + np.outer(row, row)
    return out


def _over_four_rows(views):
    """Return the mean of ⟨A_nm, A_pq⟩ over all four different rows, by going there."""

    def apart(n, m):
        gaps = [z[n] - z[m] for z in views]
        return sum(np.outer(gap, gap) for gap in gaps) / 2

    rows = range(len(views[0]))
    pairs = {(n, m): apart(n, m) for n, m in permutations(rows, 2)}
    return np.mean(
        [(pairs[n, m] * pairs[p, q]).sum() for n, m, p, q in permutations(rows, 4)]
    )


def eckart_young(
    views,
    *,
    estimator="biased",
    mask=None,
    compute_dtype=None,
    weight=None,
    reduction="mean",
):
    """Return -2 Σ_{i≠j} tr C_ij + ‖ΣC_ii‖², or the mean over four different rows."""
    del compute_dtype
    lead, n = views[0].shape[:-2], views[0].shape[-2]
    values, counted = np.zeros(lead), np.zeros(lead, dtype=bool)
    for index in np.ndindex(lead):
        some = [z[index] for z in views]
        w = np.ones(n) if weight is None else weight[index]
        weights = [
            w if mask is None else w * m[index]
            for m in ([None] * len(views) if mask is None else mask)
        ]
        counted[index] = any((s > 0).any() for s in weights)
        rows = [_standardised(z, s) for z, s in zip(some, weights, strict=True)]
        shared = sum((x * y).sum() for x, y in permutations(rows, 2))
        if estimator == "biased":
            energy = (_within(some, weights) ** 2).sum()
        else:
            energy = _over_four_rows(some)
        values[index] = energy - 2 * shared
    if reduction == "none":
        return values
    total = values.sum()
    return total / max(counted.sum(), 1) if reduction == "mean" else total
