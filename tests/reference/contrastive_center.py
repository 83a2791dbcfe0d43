"""Contrastive-center loss (Qi & Su, 1707.07391, mean over rows)."""

import numpy as np


def contrastive_center(z, labels, centers, *, delta=1.0, weight=None, reduction="mean"):
    """Return half the mean of own squared distance over the sum of all others + δ."""
    weight = np.ones(labels.shape) if weight is None else weight
    values = np.zeros(labels.shape, dtype=np.result_type(z, centers, float))
    for i in np.ndindex(labels.shape):
        if weight[i] == 0:
            continue
        own, others = 0.0, 0.0
        for k in range(len(centers)):
            distance = ((z[i] - centers[k]) ** 2).sum()
            if k == labels[i]:
                own = distance
            else:
                others = others + distance
        values[i] = own / (others + delta) / 2
    weighted = weight * values
    if reduction == "none":
        return weighted
    total = weighted.sum()
    if reduction == "sum" or weight.sum() == 0:
        return total
    return total / weight.sum()
