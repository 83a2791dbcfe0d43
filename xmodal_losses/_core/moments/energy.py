"""Sums of squares of products of rows, by D×D or by N×N matrices.

X and Y are ``(…, N, D)``. A sum of squares of the D×D product XᵀY is one of N×N
products too, ‖XᵀY‖²_F = ⟨XXᵀ, YYᵀ⟩, and so is its gradient: each function takes the
cheaper way. The shape decides, so that nothing waits for the device and compiled
graphs do not branch.

The forward pass keeps the products for the gradient. Where that may be differentiated
again they are made anew from X and Y, in differentiable operations.
"""

from collections.abc import Iterator
from typing import Any

import torch
from torch import Tensor

from xmodal_losses._core.function import Function

_COLUMNS = 512  # in float64 at a time


def gap(x: Tensor, y: Tensor) -> Tensor:
    """Return ‖XᵀX − YᵀY‖²_F, ``(…)``; X and Y may differ in their number of rows."""
    route = _GapByRows if by_rows(x, y, 3, differs=True) else _Gap
    value: Tensor = route.call(x, y)[0]
    return value


def own(x: Tensor) -> tuple[Tensor, Tensor]:
    """Return the diagonal of XᵀX, ``(…, D)``, and Σ_{i≠j} (XᵀX)²_ij, ``(…)``."""
    route = _OwnByRows if by_rows(x, x, 2, differs=True) else _Own
    diagonal, off_diagonal, *_ = route.call(x)
    return diagonal, off_diagonal


def cross(x: Tensor, y: Tensor, lacking: Tensor) -> tuple[Tensor, Tensor]:
    """Return 1 − (XᵀY)_ii, ``(…, D)``, and Σ_{i≠j} (XᵀY)²_ij, ``(…)``.

    The first is computed as half of ‖x_i − y_i‖² + ``lacking``, which keeps its digits
    near 0.

    Args:
        x: Columns of length 1, or less.
        y: Columns of length 1, or less.
        lacking: 2 − ‖x_i‖² − ‖y_i‖², ``(…, D)``.
    """
    # Columns of unit length: with D ≥ 2N the energy off the diagonal is no less than
    # that on it, and float32 does for their difference.
    route = _CrossByRows if by_rows(x, y, 2, differs=False) else _Cross
    one_minus, off_diagonal, *_ = route.call(x, y, lacking)
    return one_minus, off_diagonal


def by_rows(x: Tensor, y: Tensor, ratio: int, *, differs: bool) -> bool:
    """Tell whether N×N products are cheaper, where D ≥ ratio·N on a CPU.

    ``differs`` says that the result is a difference of such products, which may cancel:
    they have to be in float64, and inputs that are in float64 themselves have no wider
    dtype to go to.
    """
    n, d = max(x.shape[-2], y.shape[-2]), x.shape[-1]
    if differs:
        if x.dtype == torch.float64 or x.device.type == "mps":  # which has no float64
            return False
        if x.device.type != "cpu":
            # GPUs made for graphics have 1/32 to 1/64 of the units for float64. Not
            # timed on any.
            ratio *= 16
    return d >= ratio * n


def sum_of_squares(x: Tensor) -> Tensor:
    return x.square().sum((-2, -1))


def _inner(x: Tensor, y: Tensor) -> Tensor:
    return (x * y).sum((-2, -1))


def _without_diagonal(c: Tensor) -> Tensor:
    diagonal = torch.eye(c.shape[-1], dtype=torch.bool, device=c.device)
    return c.masked_fill(diagonal, 0.0)


def _wide_blocks(x: Tensor) -> Iterator[Tensor]:
    """Yield the columns of X in float64, some at a time: no wide copy of all of X."""
    return (block.double() for block in torch.split(x, _COLUMNS, -1))


def scalar(grad: Tensor) -> Tensor:
    """Make the gradient of a value per problem one that multiplies matrices."""
    return grad[..., None, None]


class _Gap(Function):
    """‖XᵀX − YᵀY‖²: gradient 4X(XᵀX − YᵀY) and −4Y(XᵀX − YᵀY)."""

    @staticmethod
    def forward(x: Tensor, y: Tensor) -> tuple[Tensor, Tensor]:
        difference = x.mT @ x - y.mT @ y
        return sum_of_squares(difference), difference

    @staticmethod
    def setup_context(ctx: Any, inputs: Any, output: Any) -> None:
        ctx.mark_non_differentiable(output[1])
        ctx.save_for_backward(*inputs, output[1])

    @staticmethod
    def backward(ctx: Any, grad: Tensor, *_: Any) -> Any:
        x, y, difference = ctx.saved_tensors
        if torch.is_grad_enabled():
            difference = x.mT @ x - y.mT @ y
        slope = 4 * scalar(grad) * difference
        need_x, need_y = ctx.needs_input_grad
        return x @ slope if need_x else None, -(y @ slope) if need_y else None


class _GapByRows(Function):
    """‖XXᵀ‖² + ‖YYᵀ‖² − 2‖XYᵀ‖², in float64: the same, where XᵀX ≈ YᵀY as well.

    The gradient is of first order in XᵀX − YᵀY, and loses in float32 no more digits
    than this difference itself would.
    """

    @staticmethod
    def forward(x: Tensor, y: Tensor) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        k_xx, k_xy, k_yy = grams(x, y)
        value = sum_of_squares(k_xx) + sum_of_squares(k_yy) - 2 * sum_of_squares(k_xy)
        k_xx, k_xy, k_yy = (k.to(x.dtype) for k in (k_xx, k_xy, k_yy))
        return value.clamp_min(0.0).to(x.dtype), k_xx, k_xy, k_yy

    @staticmethod
    def setup_context(ctx: Any, inputs: Any, output: Any) -> None:
        ctx.mark_non_differentiable(*output[1:])
        ctx.save_for_backward(*inputs, *output[1:])

    @staticmethod
    def backward(ctx: Any, grad: Tensor, *_: Any) -> Any:
        x, y, k_xx, k_xy, k_yy = ctx.saved_tensors
        if torch.is_grad_enabled():
            k_xx, k_xy, k_yy = (k.to(x.dtype) for k in grams(x, y))
        grad = 4 * scalar(grad)
        grad_x = grad_y = None
        if ctx.needs_input_grad[0]:
            grad_x = (grad * k_xx) @ x
            grad_x -= (grad * k_xy) @ y
        if ctx.needs_input_grad[1]:
            grad_y = (grad * k_yy) @ y
            grad_y -= (grad * k_xy.mT) @ x
        return grad_x, grad_y


def grams(x: Tensor, y: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """Return XXᵀ, XYᵀ and YYᵀ in float64."""
    k_xx = k_xy = k_yy = x.new_zeros((), dtype=torch.float64)
    for x_, y_ in zip(_wide_blocks(x), _wide_blocks(y), strict=True):
        k_xx, k_xy, k_yy = k_xx + x_ @ x_.mT, k_xy + x_ @ y_.mT, k_yy + y_ @ y_.mT
    return k_xx, k_xy, k_yy


class _Own(Function):
    """diag(XᵀX) and ‖off(XᵀX)‖²: gradient 2X diag(g) and 4X off(XᵀX)."""

    @staticmethod
    def forward(x: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        product = x.mT @ x
        diagonal = product.diagonal(dim1=-2, dim2=-1)
        squares = diagonal.clone()
        diagonal.zero_()
        return squares, sum_of_squares(product), product

    @staticmethod
    def setup_context(ctx: Any, inputs: Any, output: Any) -> None:
        ctx.mark_non_differentiable(output[2])
        ctx.save_for_backward(*inputs, output[2])

    @staticmethod
    def backward(ctx: Any, grad_diagonal: Tensor, grad: Tensor, *_: Any) -> Any:
        x, product = ctx.saved_tensors
        if torch.is_grad_enabled():
            product = _without_diagonal(x.mT @ x)
        slope = 4 * scalar(grad) * product + (2 * grad_diagonal).diag_embed()
        return x @ slope


class _OwnByRows(Function):
    """q = diag(XᵀX) and ‖XXᵀ‖² − Σq²: gradient 2X diag(g) and 4(XXᵀX − X diag(q)).

    In float64 throughout: where one column is far larger than the others, both
    differences cancel.
    """

    @staticmethod
    def forward(x: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        gram = _gram(x)
        squares = torch.cat([b.square().sum(-2) for b in _wide_blocks(x)], -1)
        off_diagonal = sum_of_squares(gram) - squares.square().sum(-1)
        return squares.to(x.dtype), off_diagonal.clamp_min(0.0).to(x.dtype), gram

    @staticmethod
    def setup_context(ctx: Any, inputs: Any, output: Any) -> None:
        ctx.mark_non_differentiable(output[2])
        ctx.save_for_backward(*inputs, output[2])

    @staticmethod
    def backward(ctx: Any, grad_diagonal: Tensor, grad: Tensor, *_: Any) -> Any:
        x, gram = ctx.saved_tensors
        if torch.is_grad_enabled():
            gram = _gram(x)
        grad = 4 * scalar(grad).double()
        gram = grad * gram
        blocks = []
        along = torch.split(grad_diagonal.unsqueeze(-2), _COLUMNS, -1)
        for wide, slope in zip(_wide_blocks(x), along, strict=True):
            squares = wide.square().sum(-2, keepdim=True)
            block = gram @ wide + (2 * slope - grad * squares) * wide
            blocks.append(block.to(x.dtype))
        return torch.cat(blocks, -1)


def _gram(x: Tensor) -> Tensor:
    """Return XXᵀ in float64."""
    gram = x.new_zeros((), dtype=torch.float64)
    for block in _wide_blocks(x):
        gram = gram + block @ block.mT
    return gram


class _Cross(Function):
    """1 − diag(XᵀY) and ‖off(XᵀY)‖²: slope −diag(g) + 2 off(XᵀY) of the product."""

    @staticmethod
    def forward(x: Tensor, y: Tensor, lacking: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        product = x.mT @ y
        product.diagonal(dim1=-2, dim2=-1).zero_()
        return _one_minus(x, y, lacking), sum_of_squares(product), product

    @staticmethod
    def setup_context(ctx: Any, inputs: Any, output: Any) -> None:
        ctx.mark_non_differentiable(output[2])
        ctx.save_for_backward(*inputs[:2], output[2])

    @staticmethod
    def backward(ctx: Any, grad_one_minus: Tensor, grad: Tensor, *_: Any) -> Any:
        x, y, product = ctx.saved_tensors
        if torch.is_grad_enabled():
            product = _without_diagonal(x.mT @ y)
        slope = 2 * scalar(grad) * product - grad_one_minus.diag_embed()
        need_x, need_y, _ = ctx.needs_input_grad
        return y @ slope.mT if need_x else None, x @ slope if need_y else None, None


class _CrossByRows(Function):
    """1 − diag(XᵀY) =: 1 − d and ⟨XXᵀ, YYᵀ⟩ − Σ d²: gradient 2(YYᵀX − Y diag(d))."""

    @staticmethod
    def forward(
        x: Tensor, y: Tensor, lacking: Tensor
    ) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        k_x, k_y = x @ x.mT, y @ y.mT
        one_minus = _one_minus(x, y, lacking)
        off_diagonal = _inner(k_x, k_y) - (1 - one_minus).square().sum(-1)
        return one_minus, off_diagonal.clamp_min(0.0), k_x, k_y

    @staticmethod
    def setup_context(ctx: Any, inputs: Any, output: Any) -> None:
        ctx.mark_non_differentiable(*output[2:])
        ctx.save_for_backward(*inputs[:2], *output[2:])

    @staticmethod
    def backward(ctx: Any, grad_one_minus: Tensor, grad: Tensor, *_: Any) -> Any:
        x, y, k_x, k_y = ctx.saved_tensors
        if torch.is_grad_enabled():
            k_x, k_y = x @ x.mT, y @ y.mT
        diagonal = (x * y).sum(-2)
        grad = 2 * scalar(grad)
        along = -(grad_one_minus.unsqueeze(-2) + grad * diagonal.unsqueeze(-2))
        need_x, need_y, _ = ctx.needs_input_grad
        return (
            torch.addcmul((grad * k_y) @ x, y, along) if need_x else None,
            torch.addcmul((grad * k_x) @ y, x, along) if need_y else None,
            None,
        )


def _one_minus(x: Tensor, y: Tensor, lacking: Tensor) -> Tensor:
    return ((x - y).square().sum(-2) + lacking) / 2
