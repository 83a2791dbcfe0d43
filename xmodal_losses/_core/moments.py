"""The moments engine: a batch seen through its mean and second moments.

Losses ask for a quantity (a covariance, the energy off a diagonal); how it is
computed is decided here.
"""

from typing import NamedTuple

import torch
from torch import Tensor

from xmodal_losses._core.linalg import negligible
from xmodal_losses._core.reduce import inverse


class Moments(NamedTuple):
    """Batches of rows about their means, for each leading index.

    With weights, covariances carry the unbiased divisor for reliability weights,
    Σw − Σw²/Σw (``numpy.cov(aweights=w)``): the scale of w does not matter, and 0/1
    weights give the covariance of the chosen rows.
    """

    rows: Tensor  # (…, N, D): z − mean
    weighted: Tensor  # (…, N, D): w · rows
    origin: Tensor  # (…, D): some row, a constant for the gradient
    mean: Tensor  # (…, D): relative to the origin
    total: Tensor  # (…): N, or Σw
    dof: Tensor  # (…): N − 1, or Σw − Σw²/Σw; where ≤ 0, second moments are 0


def weigh(x: Tensor, weight: Tensor | None) -> Tensor:
    """Return w · x for rows x ``(…, N, D)``."""
    return x if weight is None else weight.to(x.dtype).unsqueeze(-1) * x


def drop(z: Tensor, weight: Tensor | None) -> Tensor:
    """Blank the rows of weight 0, so that not even a NaN in them gets through."""
    return z if weight is None else z.masked_fill((weight == 0).unsqueeze(-1), 0.0)


def moments(z: Tensor, weight: Tensor | None = None) -> Moments:
    """Centre the rows of each problem ``(…, N, D)``; ``weight`` is ``(…, N)``.

    Subtracting some row first, the origin, keeps the digits of a batch whose mean is
    large against its spread, and makes a constant column exactly zero: the mean of N
    equal numbers is not exactly that number. Nothing depends on the choice but
    rounding, so it takes no part in the gradient.
    """
    z = drop(z, weight)
    if weight is None:
        origin = z.detach()[..., :1, :]
        z = z - origin
        mean = z.mean(-2)
        rows = z - mean.unsqueeze(-2)
        total = z.new_full(z.shape[:-2], z.shape[-2])
        return Moments(rows, rows, origin.squeeze(-2), mean, total, total - 1)

    weight = weight.to(z.dtype)
    heaviest = weight.detach().argmax(-1)[..., None, None]
    heaviest = heaviest.expand(*heaviest.shape[:-1], z.shape[-1])
    origin = z.detach().gather(-2, heaviest)
    z = z - origin
    total = weight.sum(-1)
    mean = weigh(z, weight).sum(-2) * inverse(total).unsqueeze(-1)
    rows = z - mean.unsqueeze(-2)
    dof = total - weight.square().sum(-1) * inverse(total)
    return Moments(rows, weigh(rows, weight), origin.squeeze(-2), mean, total, dof)


def mean_gap(a: Moments, b: Moments) -> Tensor:
    """Return μ_a − μ_b, ``(…, D)``."""
    return (a.origin - b.origin) + (a.mean - b.mean)


def mean_square_gap(a: Tensor, b: Tensor, weight: Tensor | None) -> Tensor:
    """Return the mean of ‖a_n − b_n‖² over paired rows, ``(…)``."""
    squares = drop(a - b, weight).square().sum(-1)
    if weight is None:
        return squares.mean(-1)
    weight = weight.to(a.dtype)
    return (weight * squares).sum(-1) * inverse(weight.sum(-1))


def variance(a: Moments) -> Tensor:
    """Return the variance of every column, ``(…, D)``."""
    return (a.weighted * a.rows).sum(-2) * inverse(a.dof).unsqueeze(-1)


def covariance(a: Moments, b: Moments) -> Tensor:
    """Return the (cross-)covariance ``(…, D_a, D_b)`` of paired rows."""
    return a.weighted.mT @ b.rows * inverse(a.dof)[..., None, None]


def covariance_gap(a: Moments, b: Moments) -> Tensor:
    """Return ‖C_a − C_b‖²_F, shape ``(…)``."""
    return (covariance(a, a) - covariance(b, b)).square().sum((-2, -1))


def off_diagonal_energy(x: Tensor, y: Tensor) -> Tensor:
    """Return Σ_{i≠j} (XᵀY)²_ij for ``(…, N, D)`` matrices, shape ``(…)``."""
    product = x.mT @ y
    diagonal = torch.eye(product.shape[-1], dtype=torch.bool, device=x.device)
    return product.masked_fill(diagonal, 0.0).square().sum((-2, -1))


def off_diagonal_covariance(a: Moments) -> Tensor:
    """Return Σ_{i≠j} C²_ij of the covariance, ``(…)``."""
    return off_diagonal_energy(a.weighted * inverse(a.dof)[..., None, None], a.rows)


def standardise(a: Moments, eps: float) -> tuple[Tensor, Tensor]:
    """Scale columns by 1/√(Σw·x² + n·eps), as batch normalisation does.

    Returns:
        The columns u ``(…, N, D)``, and what each lacks of unit length,
        1 − Σw·u² ``(…, D)``: 0 for eps = 0, 1 for a constant column (whose u is 0).
    """
    # u does not depend on a common scale of x and √eps: the largest entry is divided
    # out as a constant, so that squares neither overflow nor underflow.
    scale = a.rows.detach().abs().amax(-2, keepdim=True).clamp_min(eps**0.5)
    constant = negligible(scale)
    scale = scale.masked_fill(constant, 1.0)
    x = a.rows / scale
    floor = a.total[..., None, None] * (eps**0.5 / scale).square()
    squares = (a.weighted / scale * x).sum(-2, keepdim=True)
    # An all-masked problem has squares = floor = 0 without a constant column.
    constant = constant | ((squares + floor).detach() <= 0)
    length = (squares + floor).masked_fill(constant, 1.0)
    lacking = (floor / length).masked_fill(constant, 1.0).squeeze(-2)
    return (x * length.rsqrt()).masked_fill(constant, 0.0), lacking
