"""The difference of two covariances beside their sizes, and of two means.

Both are quotients that a common scale of the batches does not change. It is divided out
first, as a constant, so that no square overflows or underflows; a function that does
not depend on it has the same derivatives, to any order.
"""

from typing import Any

import torch
from torch import Tensor

from xmodal_losses._core.function import Function
from xmodal_losses._core.linalg import negligible
from xmodal_losses._core.moments import energy
from xmodal_losses._core.moments.energy import scalar, sum_of_squares
from xmodal_losses._core.reduce import inverse


def covariance_share(x: Tensor, y: Tensor) -> Tensor:
    """Return ‖XᵀX − YᵀY‖²_F / (‖XᵀX‖²_F + ‖YᵀY‖²_F), ``(…)``.

    In [0, 1], as ⟨XᵀX, YᵀY⟩ ≥ 0. Where X and Y are 0 it is 0, without a gradient.
    """
    scale = _largest(x, y)
    x, y = x / scale, y / scale
    by_rows = energy.by_rows(x, y, 3, differs=True)
    route = _GapAndSizesByRows if by_rows else _GapAndSizes
    gap, sizes, *_ = route.apply(x, y)  # type: ignore[no-untyped-call]
    return share(gap, sizes)


def mean_share(gap: Tensor, x: Tensor, y: Tensor) -> Tensor:
    """Return ‖gap‖² / (‖gap‖² + 2 tr XᵀX + 2 tr YᵀY), ``(…)``; 0 where all are 0.

    Of a difference of means ``(…, D)`` and covariances XᵀX and YᵀY: the part of the
    variance of both batches together, each counting for half, that is between them.
    """
    gap = gap.unsqueeze(-2)
    scale = _largest(gap, x, y)
    between, in_x, in_y = (sum_of_squares(part / scale) for part in (gap, x, y))
    return share(between, between + 2 * (in_x + in_y))


def share(part: Tensor, whole: Tensor) -> Tensor:
    """Return part/whole, 0 (the value, and the gradient) where the whole is 0."""
    return part * inverse(whole)


def _largest(*parts: Tensor) -> Tensor:
    """Return the largest entry of each problem, ``(…, 1, 1)``; ∞ where all are 0."""
    peaks = [
        part.detach().abs().amax((-2, -1), keepdim=True)
        for part in parts
        if part.shape[-2]  # of all ranks, none may have a row
    ]
    largest = torch.stack(peaks).amax(0) if peaks else parts[0].new_zeros(())
    return largest.masked_fill(negligible(largest), torch.inf)


class _GapAndSizes(Function):
    """‖P − Q‖² and ‖P‖² + ‖Q‖² of P = XᵀX, Q = YᵀY.

    Of slopes g and h the gradient is 4X(g(P − Q) + hP) and 4Y(hQ − g(P − Q)).
    """

    @staticmethod
    def forward(x: Tensor, y: Tensor) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        p, q = x.mT @ x, y.mT @ y
        return sum_of_squares(p - q), sum_of_squares(p) + sum_of_squares(q), p, q

    @staticmethod
    def setup_context(ctx: Any, inputs: Any, output: Any) -> None:
        ctx.mark_non_differentiable(*output[2:])
        ctx.save_for_backward(*inputs, *output[2:])

    @staticmethod
    def backward(ctx: Any, grad_gap: Tensor, grad_sizes: Tensor, *_: Any) -> Any:
        x, y, p, q = ctx.saved_tensors
        if torch.is_grad_enabled():
            p, q = x.mT @ x, y.mT @ y
        gap, sizes = 4 * scalar(grad_gap), 4 * scalar(grad_sizes)
        along = gap * (p - q)
        need_x, need_y = ctx.needs_input_grad
        return (
            x @ (sizes * p + along) if need_x else None,
            y @ (sizes * q - along) if need_y else None,
        )


class _GapAndSizesByRows(Function):
    """The same of N×N products, in float64: ‖XXᵀ‖² + ‖YYᵀ‖² =: s and s − 2‖XYᵀ‖²."""

    @staticmethod
    def forward(x: Tensor, y: Tensor) -> tuple[Tensor, Tensor, Tensor, Tensor, Tensor]:
        k_xx, k_xy, k_yy = energy.grams(x, y)
        sizes = sum_of_squares(k_xx) + sum_of_squares(k_yy)
        gap = (sizes - 2 * sum_of_squares(k_xy)).clamp_min(0.0)
        k_xx, k_xy, k_yy = (k.to(x.dtype) for k in (k_xx, k_xy, k_yy))
        return gap.to(x.dtype), sizes.to(x.dtype), k_xx, k_xy, k_yy

    @staticmethod
    def setup_context(ctx: Any, inputs: Any, output: Any) -> None:
        ctx.mark_non_differentiable(*output[2:])
        ctx.save_for_backward(*inputs, *output[2:])

    @staticmethod
    def backward(ctx: Any, grad_gap: Tensor, grad_sizes: Tensor, *_: Any) -> Any:
        x, y, k_xx, k_xy, k_yy = ctx.saved_tensors
        if torch.is_grad_enabled():
            k_xx, k_xy, k_yy = (k.to(x.dtype) for k in energy.grams(x, y))
        gap, sizes = 4 * scalar(grad_gap), 4 * scalar(grad_sizes)
        grad_x = grad_y = None
        if ctx.needs_input_grad[0]:
            grad_x = ((gap + sizes) * k_xx) @ x
            grad_x -= (gap * k_xy) @ y
        if ctx.needs_input_grad[1]:
            grad_y = ((gap + sizes) * k_yy) @ y
            grad_y -= (gap * k_xy.mT) @ x
        return grad_x, grad_y
