"""Leading dimensions, reduction and weighted moments, shared by the references."""

from collections.abc import Callable

import numpy as np


def reduce_problems(
    one: Callable[..., complex],
    arrays: list[np.ndarray],
    weights: list[np.ndarray | None],
    reduction: str,
) -> np.ndarray:
    """Evaluate ``one(*arrays, *weights)`` for every leading index and reduce.

    A problem with a view that has no weight at all is worth 0 and is left out of the
    mean.
    """
    lead = arrays[0].shape[:-2]
    filled = [
        np.ones(z.shape[:-1]) if w is None else w
        for z, w in zip(arrays, weights, strict=True)
    ]
    values = np.zeros(lead, dtype=np.result_type(*arrays, float))
    counted = np.zeros(lead, dtype=bool)
    for index in np.ndindex(lead):
        ws = [w[index] for w in filled]
        if all(w.sum() > 0 for w in ws):
            rows = [z[index][w > 0] for z, w in zip(arrays, ws, strict=True)]
            values[index] = one(*rows, *[w[w > 0] for w in ws])
            counted[index] = True
    if reduction == "none":
        return values
    total = values.sum()
    return total / max(counted.sum(), 1) if reduction == "mean" else total


def centre(z: np.ndarray, w: np.ndarray) -> np.ndarray:
    """Subtract the weighted mean of the rows; equal rows become exactly 0."""
    z = z - z[:1]
    return z - w @ z / w.sum()


def covariance(z: np.ndarray, w: np.ndarray) -> np.ndarray:
    """Return ``np.cov(z.T, aweights=w)`` without its conjugate; 0 for a single row."""
    divisor = w.sum() - (w**2).sum() / w.sum()
    centred = centre(z, w)
    scatter = np.zeros((z.shape[1], z.shape[1]), dtype=z.dtype)
    if len(w) < 2:
        return scatter
    for weight, row in zip(w, centred, strict=True):
        scatter += weight * np.outer(row, row)
    return scatter / divisor
