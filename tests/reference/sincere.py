"""SINCERE (Feeney & Hughes, 2309.14277), ε-SupInfoNCE (Barbano et al., 2211.05568)."""

import numpy as np

from reference.labelled import rows_of_both, weighted_mean


def sincere(
    z_a,
    z_b,
    labels_a,
    labels_b,
    *,
    temperature=0.07,
    margin=0.0,
    intra_modal=True,
    normalize=True,
    weight_a=None,
    weight_b=None,
    reduction="mean",
    chunk_size=None,
):
    """Return the mean over rows with positives, and over these, of -log of a share."""
    del chunk_size  # a way of computing, not a quantity

    def loss(s, i, positives, others):
        negatives = [j for j in others if j not in positives]
        values = []
        for p in positives:
            scores = np.array([s[i, p] - margin, *s[i, negatives]])
            top = scores.real.max()
            values.append(top + np.log(np.exp(scores - top).sum()) - s[i, p])
        return np.mean(values)

    both = rows_of_both(
        z_a,
        z_b,
        labels_a,
        labels_b,
        weight_a,
        weight_b,
        temperature,
        intra_modal,
        normalize,
        loss,
    )
    return weighted_mean(*both, reduction)
