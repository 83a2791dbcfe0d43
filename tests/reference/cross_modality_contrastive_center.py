"""Cross-modality contrastive-center loss (CMCC; Gao et al., 2110.11264)."""

import numpy as np

from reference.labelled import shared_centers


def cross_modality_contrastive_center(
    z_a,
    z_b,
    labels_a,
    labels_b,
    *,
    weight_a=None,
    weight_b=None,
    reduction="mean",
):
    """Return the mean of log(1 + exp(‖c_v − c_t‖ − distance to the nearest class))."""

    def loss(centers):
        middles = [(a + b) / 2 for a, b in centers]
        terms = []
        for k, (a, b) in enumerate(centers):
            distances = [
                _length(middles[k] - c) for j, c in enumerate(middles) if j != k
            ]
            if distances:
                gap = _length(a - b) - min(distances, key=lambda d: d.real)
                terms.append(np.log(1 + np.exp(gap)))
            else:
                terms.append(0.0)
        return np.mean(terms)

    inputs = z_a, z_b, labels_a, labels_b, weight_a, weight_b
    return shared_centers(*inputs, reduction, loss)


def _length(x):
    return np.sqrt((x * x).sum())
