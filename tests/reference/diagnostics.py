"""Diagnostics of embeddings, one pair of rows or one shuffle at a time, in float64."""

import itertools
import math

import numpy as np

from .dcca import canonical_correlations
from .problems import centre


def _present(w, *views):
    """Return weights and rows that are there."""
    some = w > 0
    return w[some], *(z[some] for z in views)


def _unit(z):
    out = np.zeros_like(z)
    for row, source in zip(out, z, strict=True):
        length = math.sqrt(math.fsum(x * x for x in source))
        if length > 0:
            row[:] = source / length
    return out


def _exp_entropy(p):
    return math.exp(-sum(x * math.log(x) for x in p if x > 0))


def rank_me(z, w, eps=1e-7):
    w, z = _present(w, z)
    # Each row as often as its weight says.
    sigma = np.linalg.svd(np.diag(np.sqrt(w)) @ z, compute_uv=False)
    return _exp_entropy([s / sigma.sum() + eps for s in sigma]) if sigma.any() else 0.0


def effective_rank(z, w, of="covariance"):
    if of == "rows":
        return rank_me(z, w, eps=0.0)
    w, z = _present(w, z)
    if len(w) < 2:
        return 0.0
    c = np.atleast_2d(np.cov(z.T, aweights=w))
    values = np.linalg.eigvalsh(c).clip(0)
    return _exp_entropy(values / values.sum()) if values.sum() else 0.0


def alignment(a, b, w, power=2.0, normalize=True):
    w, a, b = _present(w, a, b)
    if normalize:
        a, b = _unit(a), _unit(b)
    total = sum(
        w_i * np.linalg.norm(x - y) ** power for w_i, x, y in zip(w, a, b, strict=True)
    )
    return total / w.sum() if len(w) else 0.0


def uniformity(z, w, t=2.0, normalize=True):
    w, z = _present(w, z)
    if normalize:
        z = _unit(z)
    total = weights = 0.0
    for i, j in itertools.permutations(range(len(w)), 2):
        total += w[i] * w[j] * math.exp(-t * ((z[i] - z[j]) ** 2).sum())
        weights += w[i] * w[j]
    return math.log(total / weights) if weights else 0.0


def gap(a, b, w=None, normalize=True):
    if normalize:
        a, b = _unit(a), _unit(b)
    return np.linalg.norm(
        np.average(a, axis=0, weights=w) - np.average(b, axis=0, weights=w)
    )


def all_swaps(a, b, w):
    """Return the gaps of all 2^N ways to swap the rows of pairs."""
    a, b = _unit(a), _unit(b)
    gaps = []
    for swap in itertools.product([False, True], repeat=len(a)):
        s = np.array(swap)[:, None]
        gaps.append(gap(np.where(s, b, a), np.where(s, a, b), w, normalize=False))
    return np.array(gaps)


def all_choices(a, b):
    """Return the gaps of all ways to say which rows are of the first modality."""
    rows = np.vstack([_unit(a), _unit(b)])
    gaps = []
    for chosen in itertools.combinations(range(len(rows)), len(a)):
        first = np.isin(np.arange(len(rows)), chosen)
        gaps.append(gap(rows[first], rows[~first], normalize=False))
    return np.array(gaps)


def dead_dimensions(z, w, threshold=0.01):
    std = deviations(z, w)
    return std <= threshold * math.sqrt(np.mean(std**2))


def hinge_counts(z, w, target_std=1.0, eps=1e-4):
    return np.array([math.sqrt(s * s + eps) < target_std for s in deviations(z, w)])


def deviations(z, w):
    w, z = _present(w, z)
    if len(w) < 2:
        return np.zeros(z.shape[1])
    return np.array([math.sqrt(np.cov(column, aweights=w)) for column in z.T])


def chance_energy(a, b, ridge):
    """Return the mean Σρ² over all N! ways to pair the rows."""
    w = np.ones(len(a))
    energies = [
        (canonical_correlations(a, b[list(order)], w, ridge) ** 2).sum()
        for order in itertools.permutations(range(len(a)))
    ]
    return np.mean(energies)


def wachter_edge(d_a, d_b, n):
    """Return the edge as it is written for squared correlations."""
    p, q = d_a / (n - 1), d_b / (n - 1)
    if p + q >= 1:
        return 1.0
    spread = 2 * math.sqrt(p * q * (1 - p) * (1 - q))
    return math.sqrt(p + q - 2 * p * q + spread)


def linear_cka(a, b, w):
    """Return it from the centred N × N matrices of inner products."""
    w, a, b = _present(w, a, b)
    root = np.diag(np.sqrt(w))
    k, m = (root @ centre(z, w) @ centre(z, w).T @ root for z in (a, b))
    size = math.sqrt(np.trace(k @ k) * np.trace(m @ m))
    return np.trace(k @ m) / size if size else 0.0


def unbiased_hsic(k, m):
    """Return Eq. 5 of Song et al. (2012)."""
    n = len(k)
    k, m = (matrix - np.diag(np.diag(matrix)) for matrix in (k, m))
    return (
        np.trace(k @ m)
        + k.sum() * m.sum() / ((n - 1) * (n - 2))
        - 2 / (n - 2) * (k @ m).sum()
    ) / (n * (n - 3))


def unbiased_linear_cka(a, b):
    k, m = a @ a.T, b @ b.T
    size = math.sqrt(unbiased_hsic(k, k) * unbiased_hsic(m, m))
    return unbiased_hsic(k, m) / size
