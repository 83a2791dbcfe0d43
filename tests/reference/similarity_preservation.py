"""Similarity preservation: every pair of rows, one after the other."""

import numpy as np


def similarity_preservation(
    z_a,
    z_b,
    *,
    gamma=0.0,
    detach_target=True,
    weight=None,
    reduction="mean",
    chunk_size=None,
):
    """Return the mean over pairs of |Δ|^γ Δ², Δ = s_ab − (s_aa + s_bb)/2.

    A target that is detached has no imaginary part: complex steps see a constant.
    """
    del chunk_size  # a way of computing, not a quantity
    lead, n = z_a.shape[:-2], z_a.shape[-2]
    weight = np.ones(z_a.shape[:-1]) if weight is None else weight
    values = np.zeros(lead, dtype=np.result_type(z_a, z_b, float))
    for g in np.ndindex(lead):
        a = [_unit(row) for row in z_a[g]]
        b = [_unit(row) for row in z_b[g]]
        for i in range(n):
            for j in range(n):
                if weight[g][i] == 0 or weight[g][j] == 0:
                    continue
                target = (a[i] @ a[j] + b[i] @ b[j]) / 2
                gap = a[i] @ b[j] - (target.real if detach_target else target)
                size = gap * np.sign(gap.real)
                penalty = gap * gap if gamma == 0 else size ** (2 + gamma)
                values[g] += weight[g][i] * weight[g][j] * penalty
        total = weight[g].sum()
        values[g] /= total**2 if total > 0 else 1
    if reduction == "none":
        return values
    counted = (weight.sum(-1) > 0).sum()
    return values.sum() / (max(counted, 1) if reduction == "mean" else 1)


def _unit(row):
    norm = np.sqrt((row * row).sum())
    return row / norm if norm != 0 else row
