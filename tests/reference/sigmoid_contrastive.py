"""The sigmoid loss (Zhai et al., 2303.15343, Algorithm 1)."""

import numpy as np


def _softplus(x):
    return x + np.log1p(np.exp(-x)) if x.real > 0 else np.log1p(np.exp(x))


def sigmoid_contrastive(
    z_a,
    z_b,
    *,
    scale=10.0,
    bias=-10.0,
    normalize=True,
    negatives="group",
    exclude=None,
    ids=None,
    positions=None,
    exclude_radius=None,
    weight=None,
    reduction="mean",
    chunk_size=None,
):
    """Return softplus(-label · logit) of all pairs, each half to its two rows."""
    del chunk_size  # a way of computing, not a quantity
    lead, (rows, dim) = z_a.shape[:-2], z_a.shape[-2:]
    a, b = z_a.reshape(-1, rows, dim), z_b.reshape(-1, rows, dim)
    groups = len(a)
    w = np.ones((groups, rows)) if weight is None else weight.reshape(groups, rows)
    if normalize:
        norms = [np.sqrt((z * z).sum(-1, keepdims=True)) for z in (a, b)]
        a, b = (z / np.where(n == 0, 1, n) for z, n in zip((a, b), norms, strict=True))

    def is_negative(g, i, h, j):
        if ids is not None:
            flat = ids.reshape(groups, rows)
            if flat[g, i] == flat[h, j]:
                return False
        if g != h:
            return negatives == "all" or (negatives == "cross" and i == j)
        if exclude is not None and exclude.reshape(groups, rows, rows)[g, i, j]:
            return False
        if positions is not None:
            at = positions.reshape(groups, rows, -1)
            return np.abs(at[g, i] - at[g, j]).max() > exclude_radius
        return True

    values = np.zeros((groups, rows), dtype=np.result_type(a, b, float))
    for g, i, h, j in np.ndindex(groups, rows, groups, rows):
        if w[g, i] == 0 or w[h, j] == 0:
            continue
        logit = scale * (a[g, i] @ b[h, j]) + bias
        if (g, i) == (h, j):
            values[g, i] += _softplus(-logit)
        elif is_negative(g, i, h, j):
            values[g, i] += _softplus(logit) / 2
            values[h, j] += _softplus(logit) / 2
    weighted = w * values
    if reduction == "none":
        return weighted.reshape(*lead, rows)
    total = weighted.sum()
    if reduction == "sum" or w.sum() == 0:
        return total
    return total / w.sum()
