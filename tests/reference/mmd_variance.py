"""Variances of MMD estimates, from averages over different rows, one by one."""

from itertools import combinations, permutations

import numpy as np


def _grams(kernel, a, b):
    fixed = kernel.fixed(np.concatenate([a, b]).real)
    return tuple(
        np.array([[fixed(u, v) for v in y] for u in x])
        for x, y in ((a, a), (b, b), (a, b))
    )


def _h(grams, i, j, k, m):
    """k(x_i, x_j) + k(y_k, y_m) - k(x_i, y_m) - k(x_j, y_k)."""
    xx, yy, xy = grams
    return xx[i, j] + yy[k, m] - xy[i, m] - xy[j, k]


def power(kernel, a, b, estimator, ridge):
    """Liu et al., Eq. 4 and 5 ("paired"); the same of independent samples."""
    n, m = len(a), len(b)
    rows = 2 * n * m / (n + m)
    variance = rows * mmd_variance(
        a, b, kernel=kernel, estimator=estimator, form="first_order"
    )
    return mean(kernel, a, b, estimator) / np.sqrt(variance + ridge)


def mean(kernel, a, b, estimator):
    """Return the estimate itself."""
    grams = _grams(kernel, a, b)
    return _mean(grams, estimator)


def _mean(grams, estimator):
    n, m = grams[2].shape
    if estimator == "paired":
        pairs = list(permutations(range(n), 2))
        return sum(_h(grams, i, j, i, j) for i, j in pairs) / len(pairs)
    terms = [
        _h(grams, i, j, k, l)
        for i, j in permutations(range(n), 2)
        for k, l in permutations(range(m), 2)  # noqa: E741
    ]
    return sum(terms) / len(terms)


def mmd_variance(a, b, *, kernel, estimator="unbiased", form="exact"):
    """Return the variance of the estimate, of one problem."""
    grams = _grams(kernel, a, b)
    n, m = grams[2].shape
    if form == "first_order":
        return _first_order(grams, estimator)
    square, count = 0.0, 0
    for first in combinations(range(n), 4):
        for i in permutations(first):
            if estimator == "paired":
                square += _h(grams, i[0], i[1], i[0], i[1]) * _h(
                    grams, i[2], i[3], i[2], i[3]
                )
                count += 1
                continue
            for j in permutations(range(m), 4):
                square += _h(grams, *i[:2], *j[:2]) * _h(grams, *i[2:], *j[2:])
                count += 1
    return _mean(grams, estimator) ** 2 - square / count


def _first_order(grams, estimator):
    xx, yy, xy = grams
    n, m = xy.shape
    if estimator == "paired":
        h = xx + yy - xy - xy.T
        of_rows = h.sum(1)
        return (4 / n**3 * (of_rows**2).sum() - 4 / n**4 * h.sum() ** 2) / n
    # The derivative of the functional by the law of x, and of y, at each row.
    of_x = np.array([xx[i].mean() - xy[i].mean() for i in range(n)])
    of_y = np.array([yy[j].mean() - xy[:, j].mean() for j in range(m)])
    of_x, of_y = of_x - of_x.mean(), of_y - of_y.mean()
    return 4 * (of_x**2).sum() / n**2 + 4 * (of_y**2).sum() / m**2
