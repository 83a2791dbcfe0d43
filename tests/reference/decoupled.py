"""DCL and DCLW (Yeh et al., 2110.06848, Eq. 6), InfoLOOB (2110.11316, Eq. 4)."""

import numpy as np

from reference.anchors import log_sum_exp, of_rows


def decoupled(z_a, z_b, *, temperature=0.07, sigma=None, chunk_size=None, **options):
    """Return the log-sum-exp of the negatives less the (weighted) positive."""
    del chunk_size  # a way of computing, not a quantity

    def row(partner, negatives, problem):
        share = 1.0
        if sigma is not None:  # constant to the gradient: real parts alone
            weight, all_partners = problem["weight"], problem["partners"].real
            exps = np.exp(all_partners[weight > 0] / sigma)
            mean = (weight[weight > 0] * exps).sum() / weight.sum()
            share = np.exp(partner.real / sigma) / mean
        pull = (2 - share) * partner / temperature
        return log_sum_exp(negatives / temperature) - pull

    return of_rows(row, z_a, z_b, **options)
