"""Squared maximum mean discrepancy (Gretton et al., JMLR 13, 2012)."""

import numpy as np

from . import kernels
from .problems import reduce_problems


def _gram(kernel, x, y):
    return np.array([[kernel(u, v) for v in y] for u in x])


def _off_diagonal_mean(gram, w):
    total = sum(w[i] * w[j] * gram[i, j] for i, j in np.ndindex(gram.shape) if i != j)
    mass = w.sum() ** 2 - (w**2).sum()
    return total / mass if len(w) > 1 else 0.0


def _biased(kernel, a, b, w_a, w_b):
    """Lemma 6 with i = j kept (Eq. 5, squared): αᵀK_aaα + βᵀK_bbβ - 2αᵀK_abβ."""
    alpha, beta = w_a / w_a.sum(), w_b / w_b.sum()
    return (
        alpha @ _gram(kernel, a, a) @ alpha
        + beta @ _gram(kernel, b, b) @ beta
        - 2 * alpha @ _gram(kernel, a, b) @ beta
    )


def _unbiased(kernel, a, b, w_a, w_b):
    """Lemma 6, Eq. 3."""
    cross = w_a @ _gram(kernel, a, b) @ w_b / (w_a.sum() * w_b.sum())
    return (
        _off_diagonal_mean(_gram(kernel, a, a), w_a)
        + _off_diagonal_mean(_gram(kernel, b, b), w_b)
        - 2 * cross
    )


def _paired(kernel, a, b, w_a, w_b):
    """Eq. 4: the one-sample U statistic of h over the pairs (a_i, b_i)."""
    keep = w_a * w_b > 0
    a, b, w = a[keep], b[keep], (w_a * w_b)[keep]
    h = _gram(kernel, a, a) + _gram(kernel, b, b)
    cross = _gram(kernel, a, b)
    return _off_diagonal_mean(h - cross - cross.T, w)


def _linear(kernel, a, b, *_):
    """Lemma 14: the mean of h over disjoint consecutive pairs."""
    values = []
    for i in range(0, len(a) - 1, 2):
        j = i + 1
        values.append(
            kernel(a[i], a[j])
            + kernel(b[i], b[j])
            - kernel(a[i], b[j])
            - kernel(a[j], b[i])
        )
    return sum(values) / len(values)


def _block(kernel, a, b, size):
    """Zaremba et al.: the mean of Eq. 4 over blocks of consecutive rows."""
    blocks = [slice(i, i + size) for i in range(0, len(a) - size + 1, size)]
    ones = np.ones(size)
    return np.mean([_paired(kernel, a[i], b[i], ones, ones) for i in blocks])


_ESTIMATORS = {
    "biased": _biased,
    "unbiased": _unbiased,
    "paired": _paired,
    "linear": _linear,
}


def mmd(
    z_a,
    z_b,
    *,
    kernel=None,
    estimator="biased",
    block_size=None,
    weight_a=None,
    weight_b=None,
    reduction="mean",
    chunk_size=None,
):
    """Return the estimate.

    A bandwidth found by rule is read off the real parts of the pooled sample, so that
    differentiating by complex steps leaves it constant, as the package does.
    """
    del chunk_size  # a way of computing, not a quantity
    kernel = kernels.DEFAULT if kernel is None else kernel

    def one(a, b, w_a, w_b):
        size = {"linear": 2, "block": block_size or int(np.sqrt(len(a)))}.get(estimator)
        if size is not None:  # the rows of a last block that is not full are not there
            a, b = a[: len(a) // size * size], b[: len(b) // size * size]
        fixed = kernel.fixed(np.concatenate([a, b]).real)
        if estimator == "block":
            return _block(fixed, a, b, size)
        return _ESTIMATORS[estimator](fixed, a, b, w_a, w_b)

    if estimator == "paired" and not (weight_a is None and weight_b is None):
        # One weight per pair: a row is there only if its partner is.
        shape = z_a.shape[:-1]
        w_a = np.ones(shape) if weight_a is None else weight_a
        w_b = np.ones(shape) if weight_b is None else weight_b
        weight_a, weight_b = w_a * (w_b > 0), w_b * (w_a > 0)
    return reduce_problems(one, [z_a, z_b], [weight_a, weight_b], reduction)
