"""DGCCA (Benton et al., 2019) as it is written: the N × N sum of projections.

P_j is made from the singular vectors of a view, shrunk by s²/(s² + r·divisor), and set
into the rows that the view has.
"""

import numpy as np


def projection(z, w, ridge, ridge_scale="absolute"):
    """Return the (ridged) projection onto the columns of √w·(z − mean), N × N."""
    out = np.zeros((len(w), len(w)))
    rows = np.flatnonzero(w > 0)
    if len(rows) < 2:
        return out
    z, w = z[rows], w[rows]
    divisor = w.sum() - (w**2).sum() / w.sum()
    z = z - np.average(z, axis=0, weights=w)
    x = np.sqrt(w)[:, None] * z
    if ridge_scale == "relative":
        ridge = ridge * (x**2).sum() / divisor / z.shape[1]
    u, s, _ = np.linalg.svd(x, full_matrices=False)
    kept = s > 1e-10 * max(s.max(), 1e-300)
    s2 = s[kept] ** 2
    out[np.ix_(rows, rows)] = (u[:, kept] * (s2 / (s2 + ridge * divisor))) @ u[
        :, kept
    ].T
    return out


def dgcca(
    views,
    *,
    num_components,
    ridge=1e-4,
    ridge_scale="absolute",
    mask=None,
    compute_dtype=None,
    weight=None,
    reduction="mean",
):
    """Return minus the sum of the top eigenvalues of ΣP_j."""
    del compute_dtype
    lead, n = views[0].shape[:-2], views[0].shape[-2]
    values, counted = np.zeros(lead), np.zeros(lead, dtype=bool)
    for index in np.ndindex(lead):
        w = np.ones(n) if weight is None else weight[index]
        total = np.zeros((n, n))
        for j, z in enumerate(views):
            s = w if mask is None else w * mask[(j, *index)]
            total += projection(z[index], s, ridge, ridge_scale)
            counted[index] |= (s > 0).any()
        # Beyond N there are zeros only.
        values[index] = -np.linalg.eigvalsh(total)[::-1][:num_components].sum()
    if reduction == "none":
        return values
    total = values.sum()
    return total / max(counted.sum(), 1) if reduction == "mean" else total
