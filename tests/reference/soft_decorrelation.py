"""Soft decorrelation (Chang et al., 2018) of standardised columns."""

import numpy as np

from .problems import covariance, reduce_problems


def soft_decorrelation(z_a, z_b, *, weight_a=None, weight_b=None, reduction="mean"):
    """Return the absolute correlations of different columns, of both views."""

    def one(a, b, w_a, w_b):
        total = 0.0
        for z, w in ((a, w_a), (b, w_b)):
            c = covariance(z, w)
            for i in range(len(c)):
                for j in range(len(c)):
                    if i != j and c[i, i] != 0 and c[j, j] != 0:
                        r = c[i, j] / np.sqrt(c[i, i] * c[j, j])
                        total += r * np.sign(r.real)  # |r|, of complex steps too
        return total

    return reduce_problems(one, [z_a, z_b], [weight_a, weight_b], reduction)
