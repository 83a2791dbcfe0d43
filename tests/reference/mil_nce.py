"""MIL-NCE (Miech et al., 1912.06430, Eq. 1)."""

import numpy as np

from reference.anchors import log_sum_exp
from reference.positives import near, of_rows


def mil_nce(z_a, z_b, *, ids=None, jitter=None, chunk_size=None, **options):
    """Return -log of the share of the bag among itself and the negatives."""
    del chunk_size  # a way of computing, not a quantity
    rows = z_a.shape[-2]
    tell = None if jitter is None else near(options["positions"], z_a, jitter)
    bags = None if ids is None else ids.reshape(-1, rows)

    def positive(g, i, h, j):
        in_bag = (g, i) == (h, j)
        in_bag |= bags is not None and bags[g, i] == bags[h, j]
        in_bag |= tell is not None and tell(g, i, h, j)[0]
        return float(in_bag)

    def row(logits, targets, negative, partner):
        bag = logits[targets > 0]
        both = np.concatenate([bag, logits[negative]])
        return log_sum_exp(both) - log_sum_exp(bag)

    return of_rows(row, z_a, z_b, positive=positive, ids=ids, **options)
