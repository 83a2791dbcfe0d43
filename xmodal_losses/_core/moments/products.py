"""Covariances in a wider dtype than that of the rows, and gradients through them.

Rows are widened, and centred, a block at a time: no wide copy of a batch exists.
"""

from collections.abc import Iterator
from typing import Any, NamedTuple

import torch
from torch import Tensor

from xmodal_losses._core.function import Function, once
from xmodal_losses._core.parts import split

_ROWS = 512  # wide at a time
_TWICE = (
    "dcca: objective must be 'frobenius' with all components for second derivatives, "
    "got 'trace' or a smaller num_components."
)


class Centred(NamedTuple):
    """Rows X = z − centre, of the dtype of the centre."""

    z: Tensor  # (…, N, D)
    centre: Tensor | None  # (…, 1, D): the mean; None: X = z, as it is


class Directions(NamedTuple):
    """K pairs of directions, and what a function of both batches does along them.

    The function grows with f = Σ_k slope_k·(a_kᵀC_ab b_k − ½ρ_k(a_kᵀC_aa a_k +
    b_kᵀC_bb b_k)): it has the gradient of f. All are constants.
    """

    a: Tensor  # (…, D_a, K)
    b: Tensor  # (…, D_b, K)
    rho: Tensor  # (…, K)
    slope: Tensor  # (…, K)


def covariances(a: Centred, b: Centred, dof: int) -> tuple[Tensor, Tensor, Tensor]:
    """Return XᵀX/dof, YᵀY/dof and XᵀY/dof."""
    out: tuple[Tensor, Tensor, Tensor] = _Covariances.call(*a, *b, dof)
    return out


def along(
    value: Tensor, directions: Directions, a: Centred, b: Centred, dof: int
) -> Tensor:
    """Return ``value`` with the gradient that ``directions`` tell, and no second."""
    out: Tensor = _Along.call(value, *directions, *a, *b, dof)
    return out


def centred(z: Tensor, wide: torch.dtype) -> Centred:
    """Find the mean of z, measured from its first row as in :func:`moments`.

    The sum of both would be rounded to the last digit of rows far from 0, which X would
    have as a mean of its own, and the gradient with it: rows that are no narrower than
    the mean are therefore measured from the first one themselves.
    """
    origin = z.detach()[..., :1, :].to(wide)
    if z.dtype == wide:
        z, origin = z - origin, torch.zeros_like(origin)
    total = torch.zeros_like(origin)
    for block in _blocks(Centred(z.detach(), origin)):
        total = total + block.sum(-2, keepdim=True)
    return Centred(z, origin + total / z.shape[-2])


def _blocks(rows: Centred) -> Iterator[Tensor]:
    z, centre = rows
    for block in split(z, _ROWS, -2):
        yield block if centre is None else block.to(centre.dtype) - centre


def _gather(blocks: list[Tensor], rows: Centred) -> Tensor:
    """Join the blocks of a gradient.

    The gradient through the mean is 0, since the columns of X and Y add up to 0, and
    has to be told only to those who differentiate once more.
    """
    grad = torch.cat(blocks, -2)
    if torch.is_grad_enabled() and rows.centre is not None:
        grad = grad - grad.mean(-2, keepdim=True)
    return grad


class _Covariances(Function):
    """XᵀX, YᵀY, XᵀY: of slopes G, H, K the gradient is X(G + Gᵀ) + YKᵀ, Y(H + Hᵀ) + XK.

    Both terms of G are one product; autograd would make two.
    """

    @staticmethod
    def forward(
        z_a: Tensor,
        centre_a: Tensor | None,
        z_b: Tensor,
        centre_b: Tensor | None,
        dof: int,
    ) -> tuple[Tensor, Tensor, Tensor]:
        a, b = Centred(z_a, centre_a), Centred(z_b, centre_b)
        parts = [
            (x.mT @ x, y.mT @ y, x.mT @ y)
            for x, y in zip(_blocks(a), _blocks(b), strict=True)
        ]
        c_aa, c_bb, c_ab = (sum(part) / dof for part in zip(*parts, strict=True))
        return c_aa, c_bb, c_ab

    @staticmethod
    def setup_context(ctx: Any, inputs: Any, output: Any) -> None:
        *tensors, ctx.dof = inputs
        ctx.save_for_backward(*tensors)

    @staticmethod
    def backward(ctx: Any, g: Tensor, h: Tensor, k: Tensor) -> Any:
        a, b = Centred(*ctx.saved_tensors[:2]), Centred(*ctx.saved_tensors[2:])
        g, h, k = (g + g.mT) / ctx.dof, (h + h.mT) / ctx.dof, k / ctx.dof
        need_a, _, need_b, *_ = ctx.needs_input_grad
        grad_a, grad_b = [], []
        for x, y in zip(_blocks(a), _blocks(b), strict=True):
            if need_a:
                grad_a.append((x @ g + y @ k.mT).to(a.z.dtype))
            if need_b:
                grad_b.append((y @ h + x @ k).to(b.z.dtype))
        return (
            _gather(grad_a, a) if need_a else None,
            None,
            _gather(grad_b, b) if need_b else None,
            None,
            None,
        )


class _Along(Function):
    """With P = XA, Q = YB, the gradient is slope·(Q − ρP)Aᵀ/dof, of Y (P − ρQ)Bᵀ.

    The differences are formed in the wide dtype: where N < D and the ridge is small, P
    and Q agree to five digits. The last product may then be in that of the rows.
    """

    @staticmethod
    def forward(value: Tensor, *_: Any) -> Tensor:
        return value.clone()

    @staticmethod
    def setup_context(ctx: Any, inputs: Any, output: Any) -> None:
        *tensors, ctx.dof = inputs
        ctx.save_for_backward(*tensors[1:])

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> Any:
        directions = Directions(*ctx.saved_tensors[:4])
        a, b = Centred(*ctx.saved_tensors[4:6]), Centred(*ctx.saved_tensors[6:])
        rho = directions.rho.unsqueeze(-2)
        slope = (grad.unsqueeze(-1) * directions.slope / ctx.dof).unsqueeze(-2)
        last_a = (slope * directions.a).mT.to(a.z.dtype)
        last_b = (slope * directions.b).mT.to(b.z.dtype)
        need_a, need_b = ctx.needs_input_grad[5], ctx.needs_input_grad[7]
        grad_a, grad_b = [], []
        for x, y in zip(_blocks(a), _blocks(b), strict=True):
            p, q = x @ directions.a, y @ directions.b
            if need_a:
                grad_a.append((q - rho * p).to(a.z.dtype) @ last_a)
            if need_b:
                grad_b.append((p - rho * q).to(b.z.dtype) @ last_b)
        grads = (
            torch.cat(grad_a, -2) if need_a else None,
            torch.cat(grad_b, -2) if need_b else None,
        )
        # How the directions turn with the covariances is not in the graph.
        of_a, of_b = once(_TWICE, grads, (grad,))
        return None, None, None, None, None, of_a, None, of_b, None, None
