"""SupCon (Khosla et al., 2004.11362, Eqs. 2 and 3), over the rows of both views."""

import numpy as np

from reference.labelled import rows_of_both, weighted_mean


def sup_con(
    z_a,
    z_b,
    labels_a,
    labels_b,
    *,
    temperature=0.07,
    variant="out",
    intra_modal=True,
    normalize=True,
    weight_a=None,
    weight_b=None,
    reduction="mean",
    chunk_size=None,
):
    """Return the mean over rows with positives of L_out or L_in."""
    del chunk_size  # a way of computing, not a quantity

    def loss(s, i, positives, others):
        top = s[i, others].real.max()
        log = top + np.log(np.exp(s[i, others] - top).sum())
        if variant == "out":
            return np.mean([log - s[i, p] for p in positives])
        return log - top - np.log(np.mean(np.exp(s[i, positives] - top)))

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
