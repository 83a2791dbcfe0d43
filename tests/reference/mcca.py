"""MCCA: canonical correlations of pairs, over the rows that both have, added up."""

from itertools import combinations

import numpy as np

from .dcca import dcca


def mcca(views, *, mask=None, weight=None, reduction="mean", **options):
    """Return minus the sum over pairs of Σρ or Σρ²."""
    lead, n = views[0].shape[:-2], views[0].shape[-2]
    values, counted = np.zeros(lead), np.zeros(lead, dtype=bool)
    for index in np.ndindex(lead):
        for i, j in combinations(range(len(views)), 2):
            w = np.ones(n) if weight is None else weight[index].copy()
            if mask is not None:
                w = w * mask[(i, *index)] * mask[(j, *index)]
            if w.any():
                counted[index] = True
                a, b = views[i][index], views[j][index]
                values[index] += dcca(a, b, weight=w, **options)
    if reduction == "none":
        return values
    total = values.sum()
    return total / max(counted.sum(), 1) if reduction == "mean" else total
