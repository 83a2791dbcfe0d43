"""Numbers of 64 bits, and gradients by a tape that knows nothing of torch.

The truths are numpy in extended precision (``numpy.longdouble``, of x86: eps 1.1e-19),
differentiated by HIPS `autograd`. The first axis is the draw.
"""

from collections.abc import Callable, Iterator
from typing import Any, NamedTuple

import autograd.numpy as np
import numpy
from autograd.builtins import tuple as on_tape
from autograd.core import make_vjp
from autograd.extend import defvjp, primitive
from autograd.tracer import getval as constant

__all__ = [
    "EXTENDED",
    "Evaluated",
    "centred",
    "constant",
    "evaluate",
    "log_sum_exp",
    "nothing",
    "nuclear_norm",
    "orthonormal",
    "softplus",
    "top_eigenvalues",
    "transposed",
    "unit",
]

EXTENDED = numpy.longdouble
if numpy.finfo(EXTENDED).eps > 2.0**-60:  # pragma: no cover
    raise ImportError("the certificate needs a numpy.longdouble of 64 bits or more")


class Evaluated(NamedTuple):
    """Values (B,), gradients as rows (B, P), and the least a value is relative to."""

    value: numpy.ndarray
    gradient: numpy.ndarray
    least: numpy.ndarray


def evaluate(
    truth: Callable[..., Any],
    leaves: dict[str, numpy.ndarray],
    static: dict[str, numpy.ndarray],
    dtype: Any = EXTENDED,
) -> Evaluated:
    """Return value and gradient of a truth in a precision."""
    names, aside = list(leaves), []

    def call(arrays: Any) -> Any:
        value = truth(**dict(zip(names, arrays, strict=True)), **static)
        if isinstance(value, tuple):  # it is a difference of two, of which one is least
            value, least = value
            aside.append(constant(least))
        return value

    inputs = on_tape(tuple(z.astype(dtype) for z in leaves.values()))
    backward, value = make_vjp(call, inputs)
    grads = backward(numpy.ones(value.shape, dtype))
    flat = numpy.concatenate([g.reshape(len(value), -1) for g in grads], 1)
    least = aside[0] if aside else numpy.zeros(value.shape, dtype)
    return Evaluated(value, flat, least)


def nothing(z: Any) -> Any:
    """Return 0 for each draw, and a gradient of 0."""
    return 0 * np.sum(z, tuple(range(1, z.ndim)))


def transposed(z: Any) -> Any:
    """Return matrices with rows as columns."""
    return np.swapaxes(z, -1, -2)


def unit(z: Any, axis: int = -1) -> Any:
    """Return rows by their lengths; a zero row stays 0 and gets no gradient."""
    top = numpy.abs(constant(z)).max(axis, keepdims=True)
    there = top > 0
    z = z / numpy.where(there, top, 1)  # the result does not depend on it
    squares = np.sum(z * z, axis, keepdims=True)
    return np.where(there, z / np.sqrt(np.where(there, squares, 1)), 0)


def centred(z: Any, axis: int = -2) -> Any:
    """Subtract the first row, which is exact, and then the mean."""
    first = numpy.take(constant(z), [0], axis)
    z = z - first
    return z - np.mean(z, axis, keepdims=True)


def log_sum_exp(x: Any, chosen: numpy.ndarray, axis: int) -> Any:
    """Return log Σ eˣ over what is chosen; there has to be something."""
    x = np.where(chosen, x, -numpy.inf)
    top = constant(x).max(axis, keepdims=True)
    return np.log(np.sum(np.exp(x - top), axis)) + numpy.squeeze(top, axis)


def softplus(x: Any) -> Any:
    """Return log(1 + eˣ)."""
    positive = constant(x) > 0
    return np.where(positive, x, 0) + np.log1p(np.exp(np.where(positive, -x, x)))


# ------------------------------------------------------------------ decompositions


def orthonormal(columns: Any) -> Any:
    """Return an orthonormal basis of the columns, in their order (Gram–Schmidt)."""
    found: list[Any] = []
    for k in range(columns.shape[-1]):
        column = columns[..., k]
        if found:
            basis = np.stack(found, -1)
            for _ in range(2):  # once leaves what rounding has put in
                shares = np.sum(basis * column[..., None], -2, keepdims=True)
                column = column - np.sum(basis * shares, -1)
        found.append(unit(column))
    return np.stack(found, -1)


def _rounds(count: int) -> Iterator[tuple[list[int], list[int]]]:
    """Yield all pairs of columns, those of a round disjoint (a tournament)."""
    players = list(range(count + count % 2))
    half = len(players) // 2
    for _ in range(len(players) - 1):
        pairs = zip(players[:half], players[: half - 1 : -1], strict=True)
        some = [pair for pair in pairs if max(pair) < count]
        if some:
            yield [p for p, _ in some], [q for _, q in some]
        players = [players[0], players[-1], *players[1:-1]]


def _svd(m: numpy.ndarray) -> tuple[numpy.ndarray, numpy.ndarray, numpy.ndarray]:
    """Return U, s, V by one-sided Jacobi rotations: small values to all digits, too.

    Directions in which there is nothing but rounding have u = 0.
    """
    if m.shape[-1] > m.shape[-2]:
        v, s, u = _svd(transposed(m))
        return u, s, v
    a, eps = m.copy(), numpy.finfo(m.dtype).eps
    # Columns that are shorter are nothing but rounding.
    least = 2.0**6 * eps * numpy.sqrt((a * a).sum((-1, -2)))[..., None]
    v = numpy.zeros((*m.shape[:-2], m.shape[-1], m.shape[-1]), m.dtype)
    v += numpy.eye(m.shape[-1])
    for _ in range(40):
        moved = False
        for p, q in _rounds(m.shape[-1]):
            x, y = a[..., p], a[..., q]
            alpha, beta, gamma = (x * x).sum(-2), (y * y).sum(-2), (x * y).sum(-2)
            needed = numpy.abs(gamma) > eps * numpy.sqrt(alpha * beta)
            needed &= numpy.minimum(alpha, beta) > least**2
            moved |= bool(needed.any())
            zeta = (beta - alpha) / (2 * numpy.where(needed, gamma, 1))
            t = numpy.where(zeta < 0, -1, 1) / (numpy.abs(zeta) + numpy.hypot(1, zeta))
            t = numpy.where(needed, t, 0)
            cos = (1 / numpy.sqrt(1 + t * t))[..., None, :]
            sin = cos * t[..., None, :]
            for z in (a, v):
                x, y = z[..., p], z[..., q]
                z[..., p], z[..., q] = cos * x - sin * y, sin * x + cos * y
        if not moved:
            break
    s = numpy.sqrt((a * a).sum(-2))
    there = s > least
    u = numpy.where(there[..., None, :], a / numpy.where(there, s, 1)[..., None, :], 0)
    return u, s, v


def _product(u: numpy.ndarray, s: numpy.ndarray, v: numpy.ndarray) -> numpy.ndarray:
    return numpy.matmul(u * s[..., None, :], transposed(v))


@primitive
def nuclear_norm(m: numpy.ndarray) -> numpy.ndarray:
    """Return the sum of the singular values."""
    return _svd(m)[1].sum(-1)


def _nuclear_norm_vjp(ans: Any, m: numpy.ndarray) -> Callable[[Any], Any]:
    u, s, v = _svd(m)
    polar = _product(u, numpy.ones_like(s), v)
    return lambda g: g[..., None, None] * polar


@primitive
def top_eigenvalues(m: numpy.ndarray, count: int) -> numpy.ndarray:
    """Return the sum of the largest eigenvalues of M Mᵀ."""
    return (numpy.sort(_svd(m)[1], -1)[..., -count:] ** 2).sum(-1)


def _top_eigenvalues_vjp(
    ans: Any, m: numpy.ndarray, count: int
) -> Callable[[Any], Any]:
    u, s, v = _svd(m)
    kept = s >= numpy.sort(s, -1)[..., -count:][..., :1]
    slope = _product(u, numpy.where(kept, 2 * s, 0), v)
    return lambda g: g[..., None, None] * slope


defvjp(nuclear_norm, _nuclear_norm_vjp)
defvjp(top_eigenvalues, _top_eigenvalues_vjp, None)
