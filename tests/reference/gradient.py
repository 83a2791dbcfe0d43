"""Numerical gradients of the references."""

from collections.abc import Callable, Sequence

import numpy as np

Scalar = Callable[..., np.ndarray]


def complex_step(f: Scalar, arrays: Sequence[np.ndarray]) -> list[np.ndarray]:
    """Return Im f(x + ih)/h for every coordinate of every array.

    No difference is taken, so h can be far below rounding and the result is exact to
    a few ulp; ``f`` must be written without conjugates, ``abs`` or comparisons of
    complex numbers.
    """
    step = 1e-30
    gradients = []
    for k, array in enumerate(arrays):
        gradient = np.zeros(array.shape)
        for index in np.ndindex(array.shape):
            shifted = [a.astype(complex) for a in arrays]
            shifted[k][index] += 1j * step
            gradient[index] = np.imag(f(*shifted)) / step
        gradients.append(gradient)
    return gradients


def five_point(
    f: Scalar, arrays: Sequence[np.ndarray], step: float = 2e-3
) -> list[np.ndarray]:
    """Return five-point central differences, error O(step⁴) + O(1e-16/step)."""
    gradients = []
    for k, array in enumerate(arrays):
        gradient = np.zeros(array.shape)
        for index in np.ndindex(array.shape):
            values = {}
            for multiple in (-2, -1, 1, 2):
                shifted = [a.copy() for a in arrays]
                shifted[k][index] += multiple * step
                values[multiple] = f(*shifted)
            gradient[index] = (
                values[-2] - 8 * values[-1] + 8 * values[1] - values[2]
            ) / (12 * step)
        gradients.append(gradient)
    return gradients
