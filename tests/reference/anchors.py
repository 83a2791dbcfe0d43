"""Rows of both modalities, each with its partner and its negatives, by loops."""

import numpy as np


def log_sum_exp(x):
    """Return log Σ eˣ, -inf of nothing."""
    if not len(x):
        return -np.inf
    top = x.real.max()
    return top + np.log(np.exp(x - top).sum())


def of_rows(
    row,
    z_a,
    z_b,
    *,
    intra_modal=True,
    normalize=True,
    ids=None,
    positions=None,
    exclude_radius=None,
    weight=None,
    reduction="mean",
):
    """Reduce ``row(similarity to the partner, those to the negatives, problem)``.

    The problem is a dict of all partners' similarities and their weights. A row
    without negatives has loss 0; a pair has the mean of its two.
    """
    lead, rows = z_a.shape[:-2], z_a.shape[-2]
    weight = np.ones((*lead, rows)) if weight is None else weight
    values = np.zeros((*lead, rows), dtype=np.result_type(z_a, z_b, float))
    for g in np.ndindex(lead):
        u = np.concatenate([z_a[g], z_b[g]])
        if normalize:
            norm = np.sqrt((u * u).sum(-1, keepdims=True))
            u = u / np.where(norm == 0, 1, norm)
        s = u @ u.T
        problem = {
            "partners": np.array([s[i, i + rows] for i in range(rows)]),
            "weight": weight[g],
        }
        for i in range(2 * rows):
            k = i % rows
            if weight[g][k] == 0:
                continue
            negatives = []
            for j in range(2 * rows):
                m = j % rows
                same = m == k or (ids is not None and ids[g][m] == ids[g][k])
                if positions is not None:
                    gap = np.abs(positions[g][m] - positions[g][k]).max()
                    same |= gap <= exclude_radius
                of_own_modality = (i < rows) == (j < rows)
                if of_own_modality and not intra_modal:
                    continue
                if not same and weight[g][m] > 0:
                    negatives.append(s[i, j])
            if negatives:
                partner = s[i, (i + rows) % (2 * rows)]
                values[g][k] += row(partner, np.array(negatives), problem) / 2
    weighted = weight * values
    if reduction == "none":
        return weighted
    total = weighted.sum()
    if reduction == "sum" or weight.sum() == 0:
        return total
    return total / weight.sum()
