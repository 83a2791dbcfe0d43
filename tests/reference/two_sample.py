"""MMDAgg by its definition (Schrab et al., JMLR 24, 2023), with loops and bisection.

Permutations and swaps are given, not drawn.
"""

from itertools import combinations

import numpy as np


def weighting(name, count):
    """Section 5.1."""
    if name == "uniform":
        raw = [1 for _ in range(count)]
    elif name == "decreasing":
        raw = [1 / (i + 1) for i in range(count)]
    elif name == "increasing":
        raw = [1 / (count - i) for i in range(count)]
    else:
        distance = [abs((count - 1) / 2 - i) for i in range(count)]
        raw = [1 / (d + 1 - min(distance)) for d in distance]
    return np.array(raw) / sum(raw)


def grid(pool, p, count):
    """Section 5.2, for the distances of a pool, without a scale of its own."""
    found = [(np.abs(u - v) ** p).sum() ** (1 / p) for u, v in combinations(pool, 2)]
    found = sorted(d for d in found if d > 0)
    if not found:
        return np.ones(count)
    low, third = found[0], found[len(found) // 2] / 3
    if low < third:
        low = max(found[int(0.05 * len(found))], third)
    return np.geomspace(low / 2, found[-1] * 2, count)


def unbiased(gram, of_x):
    """Lemma 6 of Gretton et al. (2012): Eq. 3, for a Gram matrix of the pool."""
    n, m = of_x.sum(), (~of_x).sum()
    total = 0.0
    for i, j in np.ndindex(gram.shape):
        if i == j:
            continue
        if of_x[i] and of_x[j]:
            total += gram[i, j] / (n * (n - 1))
        elif not of_x[i] and not of_x[j]:
            total += gram[i, j] / (m * (m - 1))
        else:
            total -= gram[i, j] / (n * m)
    return total


def one_sample(gram, swap, reach):
    """Eq. 4 of the same, after swapping some pairs, over 0 < |i - j| <= reach."""
    n = len(swap)
    x = np.where(swap, np.arange(n, 2 * n), np.arange(n))
    y = np.where(swap, np.arange(n), np.arange(n, 2 * n))
    values = [
        gram[x[i], x[j]] + gram[y[i], y[j]] - gram[x[i], y[j]] - gram[y[i], x[j]]
        for i in range(n)
        for j in range(n)
        if 0 < abs(i - j) <= reach
    ]
    return np.mean(values)


def statistics(kernels, x, y, signs, wild, reach=None):
    """Return the statistic of every kernel (rows) and draw (columns of signs)."""
    pool = np.concatenate([x, y])
    out = []
    for kernel in kernels:
        fixed = kernel.fixed(pool)
        gram = np.array([[fixed(u, v) for v in pool] for u in pool])
        if wild:
            reach = len(x) - 1 if reach is None else reach
            out.append([one_sample(gram, s < 0, reach) for s in signs.T])
        else:
            out.append([unbiased(gram, s > 0) for s in signs.T])
    return np.array(out)


def _near(values, noise=1e-9):
    """Make equal what is equal but for rounding."""
    scale = np.abs(values).max() or 1.0
    return np.round(values / (noise * scale)) * noise * scale


def quantiles(first, weights, u):
    """Eq. 12: the (1 - u w)-quantiles of the data and the first draws."""
    count = first.shape[1]
    ordered = np.sort(first, axis=1)
    at = np.ceil(count * (1 - u * weights)).astype(int)
    # Below the smallest value, from u w = 1 on, is the quantile of level 0.
    return np.where(
        at >= 1, ordered[np.arange(len(weights)), np.maximum(at, 1) - 1], -np.inf
    )


def algorithm_1(values, weights, num_first, alpha, count_data=True, steps=60):
    """Return whether the test rejects, and for every kernel.

    Args:
        values: Statistics of the data, of the first draws and of the further ones.
        weights: With sum 1.
        num_first: How many first draws there are.
        alpha: The level.
        count_data: Whether the data counts as one of the further draws, as for a
            p-value; the authors' code does not count it.
        steps: Of the bisection.
    """
    values = np.array([_near(row) for row in values])
    data, first, rest = (
        values[:, 0],
        values[:, : 1 + num_first],
        values[:, 1 + num_first :],
    )
    low, high = 0.0, (1 / weights).min()
    for _ in range(steps):
        u = (low + high) / 2
        q = quantiles(first, weights, u)
        count = (rest > q[:, None]).any(0).sum()
        extra = 1 if count_data else 0
        if (count + extra) / (rest.shape[1] + extra) <= alpha:
            low = u
        else:
            high = u
    each = data > quantiles(first, weights, low)
    return bool(each.any()), each
