"""Second moments of rows in memory."""

from collections.abc import Callable
from typing import Any, NamedTuple

import torch
from torch import Tensor

from xmodal_losses._core import linalg, reduce
from xmodal_losses._core.function import Function
from xmodal_losses._core.moments import energy, products, relative
from xmodal_losses._core.moments.pair import Spread
from xmodal_losses._core.ranks import Ranks
from xmodal_losses._core.reduce import inverse


class Moments(NamedTuple):
    """A batch of rows about its mean, for each leading index."""

    rows: Tensor  # (…, N, D): z − mean
    weight: Tensor | None  # (…, N)
    origin: Tensor  # (…, D): some row, a constant for the gradient
    mean: Tensor  # (…, D): relative to the origin
    dof: Tensor  # (…): N − 1, or Σw − Σw²/Σw; where ≤ 0, second moments are 0


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
    if weight is None:
        origin = z.detach()[..., :1, :]
        z = z - origin
        mean = z.mean(-2)
        dof = z.new_full(z.shape[:-2], z.shape[-2] - 1)
    else:
        z, weight = drop(z, weight), weight.to(z.dtype)
        heaviest = weight.detach().argmax(-1)[..., None, None]
        heaviest = heaviest.expand(*heaviest.shape[:-1], z.shape[-1])
        origin = z.detach().gather(-2, heaviest)
        z = z - origin
        total = weight.sum(-1)
        dof = total - weight.square().sum(-1) * inverse(total)
        mean = (weight.unsqueeze(-1) * z).sum(-2) * inverse(total).unsqueeze(-1)
    return Moments(z - mean.unsqueeze(-2), weight, origin.squeeze(-2), mean, dof)


def variance(a: Moments) -> Tensor:
    """Return the variance of every column, ``(…, D)``."""
    squares = a.rows.square()
    if a.weight is not None:
        squares = a.weight.unsqueeze(-1) * squares
    return squares.sum(-2) * inverse(a.dof).unsqueeze(-1)


class _Centre(Function):
    """z − mean, as :func:`moments` has it, over √(N − 1) if asked for.

    Nothing of z is kept for the gradient.
    """

    @staticmethod
    def forward(z: Tensor, divide: bool) -> Tensor:
        rows = _about_mean(z)
        if divide:
            rows *= _one_over_root(z)
        return rows

    @staticmethod
    def setup_context(ctx: Any, inputs: Any, output: Any) -> None:
        _, ctx.divide = inputs

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> Any:
        grad = grad - grad.mean(-2, keepdim=True)
        return grad.mul_(_one_over_root(grad)) if ctx.divide else grad, None


def _about_mean(z: Tensor) -> Tensor:
    rows = z - z[..., :1, :]
    rows -= rows.mean(-2, keepdim=True)
    return rows


def _one_over_root(z: Tensor) -> Tensor:
    """Return 1/√(N − 1), a tensor: torch.compile of 2.4 knows no symbolic floats."""
    n = z.shape[-2]
    return z.new_full((), n - 1).rsqrt() if n > 1 else z.new_zeros(())


class _UnitColumns(Function):
    """u = x·s with s = 1/√(‖x‖² + c²), and 1 − ‖u‖²; x about its mean if asked for.

    Or s = 1/(‖x‖ + c), if c is to be ``added``. The derivative of s is −s²u, or
    −s²u/‖u‖: both are differentiable outputs, so that the backward pass needs nothing
    else, to any order.
    """

    @staticmethod
    def forward(
        x: Tensor, c: Tensor | None, centre: bool, added: bool
    ) -> tuple[Tensor, Tensor, Tensor]:
        if centre:
            x = _about_mean(x)
        # u does not depend on a common scale of x and c: the largest entry is divided
        # out, so that squares neither overflow nor underflow.
        scale = x.abs().amax(-2, keepdim=True)
        if c is not None:
            scale = torch.maximum(scale, c)
        constant = linalg.negligible(scale)
        scale = scale.masked_fill(constant, 1.0)
        u = x / scale
        squares = (u * u).sum(-2, keepdim=True)
        lacking = constant.to(u.dtype)
        if c is not None:
            c = c / scale
            more = c * (c + 2 * squares.sqrt()) if added else c.square()
            squares = squares + more
            lacking = (more / squares).masked_fill(constant, 1.0)
        length = squares.sqrt().masked_fill(constant, torch.inf)
        u /= length
        return u, (scale * length).reciprocal(), lacking.squeeze(-2)

    @staticmethod
    def setup_context(ctx: Any, inputs: Any, output: Any) -> None:
        _, c, ctx.centre, ctx.added = inputs
        u, inverse_length, lacking = output
        ctx.mark_non_differentiable(lacking)
        ctx.set_materialize_grads(False)
        ctx.save_for_backward(u, inverse_length, c)

    @staticmethod
    def backward(ctx: Any, grad_u: Tensor, grad_s: Tensor | None, _: Any) -> Any:
        u, s, c = ctx.saved_tensors
        along = (u * grad_u).sum(-2, keepdim=True)
        if grad_s is not None:  # in second derivatives only
            along = along + s * grad_s
        grad_c = None
        if ctx.needs_input_grad[1]:  # made of learned weights
            share = s if ctx.added else c * s.square()
            grad_c = (-share * along).sum(-1, keepdim=True)
        direction = u
        if ctx.added:
            norm = linalg.sqrt(u.square().sum(-2, keepdim=True))
            direction = u * reduce.inverse(norm)
        grad = (direction * along).sub_(grad_u).mul_(-s)
        if ctx.centre:
            grad = grad.sub_(grad.mean(-2, keepdim=True))
        return grad, grad_c, None, None


def unit_columns(
    z: Tensor, weight: Tensor | None, c: Tensor | None, *, added: bool = False
) -> tuple[Tensor, Tensor]:
    """Divide columns x = √w·(z − mean) by √(‖x‖² + c²), or by ‖x‖ + c.

    Args:
        z: Rows, ``(…, N, D)``.
        weight: ``(…, N)``, or None.
        c: ``(…, 1, 1)``; None is 0.
        added: Whether c is added to the length, and not its square to the square.

    Returns:
        The columns u ``(…, N, D)``, and what each lacks of unit length, 1 − ‖u‖²
        ``(…, D)``: 0 for c = 0, 1 for a zero column (whose u is 0, and which gets no
        gradient if c = 0).
    """
    centre = weight is None
    x = z if centre else _rows(z, weight, divide=False)
    u, _, lacking = _UnitColumns.call(x, c, centre, added)
    return u, lacking


def _rows(z: Tensor, weight: Tensor | None, *, divide: bool) -> Tensor:
    """Return X = √w·(z − mean); if ``divide``, over √dof: XᵀX is the covariance."""
    if weight is None:
        x: Tensor = _Centre.call(z, divide)
        return x
    m = moments(z, weight)
    share = weight.to(z.dtype)
    if divide:
        share = share * inverse(m.dof).unsqueeze(-1)
    return linalg.sqrt(share).unsqueeze(-1) * m.rows


class PairOfRows:
    """The :class:`~xmodal_losses._core.moments.Pair` of two batches of rows.

    Args:
        z_a: Rows ``(…, N, D_a)``.
        z_b: Rows ``(…, M, D_b)``.
        weight_a: ``(…, N)``, or None.
        weight_b: ``(…, M)``, or None.
        wide: Dtype of :meth:`covariances`.
        ranks: Where other problems, or the same rows, are.
    """

    def __init__(
        self,
        z_a: Tensor,
        z_b: Tensor,
        weight_a: Tensor | None = None,
        weight_b: Tensor | None = None,
        *,
        wide: torch.dtype = torch.float64,
        ranks: Ranks | None = None,
    ) -> None:
        self.ranks = ranks
        self._sides = ((z_a, weight_a), (z_b, weight_b))
        self._dtype = wide
        self._wide: tuple[products.Centred, products.Centred, int] | None = None

    @property
    def width(self) -> int:
        (z, _), _ = self._sides
        width: int = z.shape[-1]
        return width

    @property
    def dtype(self) -> torch.dtype:
        (z, _), _ = self._sides
        return z.dtype

    @property
    def present(self) -> Tensor | None:
        return reduce.present(*(weight for _, weight in self._sides))

    def mean_gap(self) -> Tensor:
        a, b = (moments(*side) for side in self._sides)
        return (a.origin - b.origin) + (a.mean - b.mean)

    def mean_square_gap(self) -> Tensor:
        (z_a, weight), (z_b, _) = self._sides
        squares = drop(z_a - z_b, weight).square().sum(-1)
        if weight is None:
            return squares.mean(-1)
        weight = weight.to(z_a.dtype)
        return (weight * squares).sum(-1) * inverse(weight.sum(-1))

    def covariances(self) -> tuple[Tensor, Tensor, Tensor]:
        return products.covariances(*self._widened())

    def along(self, value: Tensor, directions: products.Directions) -> Tensor:
        return products.along(value, directions, *self._widened())

    def _widened(self) -> tuple[products.Centred, products.Centred, int]:
        """Return both batches, and what their products are divided by."""
        if self._wide is None:
            (z_a, weight), (z_b, _) = self._sides
            if weight is None:
                a, b = (products.centred(z, self._dtype) for z in (z_a, z_b))
                self._wide = a, b, z_a.shape[-2] - 1
            else:
                x, y = (
                    _rows(z.to(self._dtype), weight, divide=True) for z in (z_a, z_b)
                )
                self._wide = products.Centred(x, None), products.Centred(y, None), 1
        return self._wide

    def own_covariances(self) -> tuple[Tensor, Tensor]:
        x, y = (
            _rows(z.to(self._dtype), weight, divide=True) for z, weight in self._sides
        )
        return x.mT @ x, y.mT @ y

    def covariance_gap(self) -> Tensor:
        x, y = (_rows(*side, divide=True) for side in self._sides)
        return energy.gap(x, y)

    def of_covariances(self, f: Callable[[Tensor, Tensor], Tensor]) -> Tensor:
        x, y = (_rows(z.double(), w, divide=True) for z, w in self._sides)
        return f(x.mT @ x, y.mT @ y).to(self.dtype)

    def relative_covariance_gap(self) -> Tensor:
        x, y = (_rows(*side, divide=True) for side in self._sides)
        return relative.covariance_share(x, y)

    def relative_mean_gap(self) -> Tensor:
        x, y = (_rows(*side, divide=True) for side in self._sides)
        return relative.mean_share(self.mean_gap(), x, y)

    def spreads(self) -> tuple[Spread, Spread]:
        a, b = (_rows(*side, divide=True) for side in self._sides)
        return Spread(*energy.own(a)), Spread(*energy.own(b))

    def correlation(
        self, eps: float, *, unbiased: bool = False, target: float = 0.0
    ) -> tuple[Tensor, Tensor]:
        columns = _unbiased_columns if unbiased else _columns
        (u, lacking_u), (v, lacking_v) = (columns(*side, eps) for side in self._sides)
        one_minus, squares = energy.cross(u, v, lacking_u + lacking_v)
        if target:  # Σ(R − t)² = ΣR² − 2t·ΣR + t²·D(D − 1)
            total = (u.sum(-1) * v.sum(-1)).sum(-1) - (1 - one_minus).sum(-1)
            d = u.shape[-1]
            squares = squares - 2 * target * total + target**2 * (d * (d - 1))
        return one_minus, squares


def _columns(z: Tensor, weight: Tensor | None, eps: float) -> tuple[Tensor, Tensor]:
    """Return columns over √(n·(variance + eps)), and what they lack of unit length."""
    c = None if eps == 0 else linalg.sqrt(eps * _size(z, weight))
    return unit_columns(z, weight, c)


def _unbiased_columns(
    z: Tensor, weight: Tensor | None, eps: float
) -> tuple[Tensor, Tensor]:
    """Return columns over √n·(s + eps) with the unbiased s, and what they lack."""
    n = _size(z, weight)
    if weight is None:
        dof = n - 1
    else:
        w = weight.to(z.dtype)[..., None]
        dof = n - w.square().sum(-2, keepdim=True) * inverse(n)
    c = None if eps == 0 else eps * linalg.sqrt(dof)
    u, lacking = unit_columns(z, weight, c, added=eps > 0)
    share = (dof * inverse(n)).clamp_min(0.0)
    return linalg.sqrt(share) * u, 1 - share.squeeze(-1) * (1 - lacking)


def _size(z: Tensor, weight: Tensor | None) -> Tensor:
    """Return n, or Σw, ``(…, 1, 1)``."""
    if weight is None:
        return z.new_full((1, 1), z.shape[-2])
    return weight.to(z.dtype).sum(-1)[..., None, None]
