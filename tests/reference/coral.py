"""Deep CORAL (Sun & Saenko, 1607.01719), Eq. 1-3, a mean term, and relatives.

Logarithms and roots of matrices are iterations of inverses and products, which unlike
eigenvalues can be differentiated by complex steps.
"""

import numpy as np
from scipy.linalg import null_space

from .problems import covariance, reduce_problems


def square_root(m):
    """Return M^½ of a matrix with positive eigenvalues, by Denman & Beavers."""
    size = np.abs(m).max()
    y, z = m / size, np.eye(len(m), dtype=m.dtype)
    for _ in range(40):
        y, z = (y + np.linalg.inv(z)) / 2, (z + np.linalg.inv(y)) / 2
    return np.sqrt(size) * y


def logarithm(m):
    """Return log M = 2^k log M^(1/2^k), the last by the series of artanh."""
    eye, times = np.eye(len(m)), 1
    while np.abs(m - eye).max() > 0.3:
        m, times = square_root(m), 2 * times
    x = (m - eye) @ np.linalg.inv(m + eye)
    term, total = x, np.zeros_like(x)
    for odd in range(1, 60, 2):
        total = total + term / odd
        term = term @ x @ x
    return 2 * times * total


def bures(a, b, w_a, w_b):
    """Return tr C_a + tr C_b - 2 tr (C_a C_b)^½.

    Rows X and Y with XᵀX = C_a and YᵀY = C_b lie across √w, which is left out of them.
    (C_a C_b)^½ has the trace of (XYᵀYXᵀ)^½ and of (YXᵀXYᵀ)^½. The smallest of the three
    is regular, if any is.
    """
    x, y = _rows(a, w_a), _rows(b, w_b)
    traces = (x**2).sum() + (y**2).sum()
    least = min(len(x), len(y), x.shape[1])
    if least == 0:
        return traces
    if least == x.shape[1]:
        product = x.T @ x @ y.T @ y
    else:
        cross = x @ y.T if len(x) == least else y @ x.T
        product = cross @ cross.T
    return traces - 2 * square_root(product).trace()


def _rows(z, w):
    dof = w.sum() - (w**2).sum() / w.sum() if len(w) > 1 else 1.0
    root = np.sqrt(w)
    return null_space(root[None]).T @ (root[:, None] * z) / np.sqrt(dof)


def coral_terms(
    z_a,
    z_b,
    *,
    scale="published",
    metric="frobenius",
    ridge=None,
    weight_a=None,
    weight_b=None,
    reduction="mean",
):
    """Return the covariance term and the mean term."""

    def covariances(a, b, w_a, w_b):
        c_a, c_b = covariance(a, w_a), covariance(b, w_b)
        dim = a.shape[1]
        if metric == "bures":
            size = dim if scale == "published" else c_a.trace() + c_b.trace()
            return bures(a, b, w_a, w_b) / size if size != 0 else 0 * size
        if metric == "log_euclidean":
            ridges = (1e-4 if ridge is None else ridge) * np.eye(dim)
            gap = logarithm(c_a + ridges) - logarithm(c_b + ridges)
            return (gap**2).sum() / (4 * dim**2)
        gap = ((c_a - c_b) ** 2).sum()
        size = (c_a**2).sum() + (c_b**2).sum()
        if scale == "published":
            size = 4 * dim**2
        return power(gap / size if size != 0 else 0 * gap)

    def means(a, b, w_a, w_b):
        gap = ((w_a @ a / w_a.sum() - w_b @ b / w_b.sum()) ** 2).sum()
        if scale == "published":
            return power(gap / a.shape[1])
        # Of a mixture of both in equal parts: between the means, and in all.
        within = (covariance(a, w_a).trace() + covariance(b, w_b).trace()) / 2
        between = gap / 4
        part = between / (between + within) if between + within != 0 else 0 * gap
        return power(part)

    def power(term):
        return np.sqrt(term) if metric == "root" else term

    return tuple(
        reduce_problems(term, [z_a, z_b], [weight_a, weight_b], reduction)
        for term in (covariances, means)
    )


def coral(z_a, z_b, *, mean_weight=0.0, **options):
    """Return the covariance term + mean_weight · the mean term."""
    covariances, means = coral_terms(z_a, z_b, **options)
    return covariances + mean_weight * means
