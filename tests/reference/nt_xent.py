"""NT-Xent (Chen et al., 2002.05709, Eq. 1 and Algorithm 1)."""

import numpy as np


def nt_xent(
    z_a,
    z_b,
    *,
    temperature=0.07,
    normalize=True,
    ids=None,
    positions=None,
    exclude_radius=None,
    weight=None,
    reduction="mean",
    chunk_size=None,
):
    """Return -log of the share of the partner among the other 2N - 1 rows."""
    del chunk_size  # a way of computing, not a quantity
    lead, rows = z_a.shape[:-2], z_a.shape[-2]
    weight = np.ones((*lead, rows)) if weight is None else weight
    values = np.zeros((*lead, rows), dtype=np.result_type(z_a, z_b, float))
    for g in np.ndindex(lead):
        u = np.concatenate([z_a[g], z_b[g]])
        if normalize:
            norm = np.sqrt((u * u).sum(-1, keepdims=True))
            u = u / np.where(norm == 0, 1, norm)
        s = u @ u.T / temperature
        for i in range(2 * rows):
            k, partner = i % rows, (i + rows) % (2 * rows)
            if weight[g][k] == 0:
                continue
            others = []
            for j in range(2 * rows):
                m = j % rows
                same = m == k or (ids is not None and ids[g][m] == ids[g][k])
                if positions is not None:
                    gap = np.abs(positions[g][m] - positions[g][k]).max()
                    same |= gap <= exclude_radius
                if not same and weight[g][m] > 0:
                    others.append(s[i, j])
            scores = np.array([s[i, partner], *others])
            top = scores.real.max()
            log = top + np.log(np.exp(scores - top).sum())
            values[g][k] += (log - s[i, partner]) / 2
    weighted = weight * values
    if reduction == "none":
        return weighted
    total = weighted.sum()
    if reduction == "sum" or weight.sum() == 0:
        return total
    return total / weight.sum()
