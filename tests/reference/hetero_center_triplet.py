"""Hetero-center triplet loss (Liu et al., 2008.06223), mean over the 2P anchors."""

import numpy as np

from reference.labelled import shared_centers


def hetero_center_triplet(
    z_a,
    z_b,
    labels_a,
    labels_b,
    *,
    margin=0.3,
    weight_a=None,
    weight_b=None,
    reduction="mean",
):
    """Return the mean of [m + ‖own pair‖ − ‖nearest centre of another class‖]_+."""

    def loss(centers):
        terms = []
        for k, pair in enumerate(centers):
            for anchor, positive in (pair, pair[::-1]):
                others = [c for j, two in enumerate(centers) if j != k for c in two]
                distances = [_length(anchor - c) for c in others]
                if not others:
                    terms.append(0.0)
                    continue
                nearest = min(distances, key=lambda d: d.real)
                term = margin + _length(anchor - positive) - nearest
                terms.append(term if term.real > 0 else 0 * term)
        return np.mean(terms)

    inputs = z_a, z_b, labels_a, labels_b, weight_a, weight_b
    return shared_centers(*inputs, reduction, loss)


def _length(x):
    return np.sqrt((x * x).sum())
