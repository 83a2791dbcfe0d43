"""Hetero-center loss (Zhu et al., 1910.09830, mean over shared classes)."""

import numpy as np


def hetero_center(
    z_a,
    z_b,
    labels_a,
    labels_b,
    *,
    margin=0.0,
    weight_a=None,
    weight_b=None,
    reduction="mean",
):
    """Return the mean over shared classes of max(0, squared distance − margin)."""
    lead = z_a.shape[:-2]
    weight_a = np.ones(labels_a.shape) if weight_a is None else weight_a
    weight_b = np.ones(labels_b.shape) if weight_b is None else weight_b
    values, counted = np.zeros(lead, dtype=np.result_type(z_a, z_b, float)), 0
    for g in np.ndindex(lead):
        gaps = []
        for label in sorted(set(labels_a[g].tolist()) & set(labels_b[g].tolist())):
            centers = []
            for z, labels, weight in (
                (z_a[g], labels_a[g], weight_a[g]),
                (z_b[g], labels_b[g], weight_b[g]),
            ):
                of_class = np.flatnonzero((labels == label) & (weight > 0))
                if len(of_class):
                    w = weight[of_class]
                    centers.append(w @ z[of_class] / w.sum())
            if len(centers) == 2:
                gap = ((centers[0] - centers[1]) ** 2).sum()
                gaps.append(gap - margin if gap.real > margin else 0 * gap)
        if gaps:
            counted += 1
            values[g] = np.sum(gaps) / len(gaps)
    if reduction == "none":
        return values
    return values.sum() / (max(counted, 1) if reduction == "mean" else 1)
