"""Hetero-center loss (Zhu et al., 1910.09830, mean over shared classes)."""

import numpy as np

from reference.labelled import shared_centers


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

    def loss(centers):
        gaps = [((a - b) ** 2).sum() for a, b in centers]
        return np.mean([g - margin if g.real > margin else 0 * g for g in gaps])

    inputs = z_a, z_b, labels_a, labels_b, weight_a, weight_b
    return shared_centers(*inputs, reduction, loss)
