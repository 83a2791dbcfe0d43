"""A weighted sum of row losses with its gradient, each logit made once.

Where a tile holds all the logits that a row's loss depends on, its slopes are known
before the tile is let go: value and gradient in one pass, 6·N·M·D operations. So it is
with whole problems, and with the rows of a one-directional loss.
"""

from collections.abc import Callable
from typing import Any, TypeAlias

import torch
from torch import Tensor

from xmodal_losses._core import precision
from xmodal_losses._core.pairs.left_out import LeftOut
from xmodal_losses._core.pairs.log_sum_exp import (
    Plan,
    Sides,
    Slopes,
    finite_peak,
    gradients,
    log_sum_exps,
    logits,
    sides,
)
from xmodal_losses._core.pairs.products import cat, product, take

RowLoss: TypeAlias = Callable[[Sides], tuple[Tensor, Slopes]]
"""From the sides to the loss of every row, ``(G, N)``, and its slopes in the sides."""


def weighted_sum(
    row_loss: RowLoss,
    x: Tensor,
    y: Tensor,
    share: Tensor,
    left_out: LeftOut,
    plan: Plan,
) -> Tensor:
    """Return Σ share · row_loss over all rows of G problems; share is ``(G, N)``.

    The tiling has all columns in one part, and all rows, too, if it is for both.
    """
    recording = torch.is_grad_enabled()
    need = recording and x.requires_grad, recording and y.requires_grad
    total, *_ = _OnePass.apply(  # type: ignore[no-untyped-call]
        x, y, share, row_loss, plan, need, *left_out
    )
    return total  # type: ignore[no-any-return]


class _OnePass(torch.autograd.Function):
    generate_vmap_rule = True

    @staticmethod
    def forward(
        x: Tensor,
        y: Tensor,
        share: Tensor,
        row_loss: RowLoss,
        plan: Plan,
        need: tuple[bool, bool],
        *left_out: Any,
    ) -> tuple[Tensor, ...]:
        masks = LeftOut(*left_out)
        columns = slice(0, y.shape[1])
        losses, grads_x, grads_y = [], [], []
        for groups in plan.tiling.over_groups(x.shape[0]):
            loss, grad_x = [], []
            grad_y: Tensor | None = None
            for rows in plan.tiling.over_rows(x.shape[1]):
                t, positive = logits(x, y, masks, groups, rows, columns)
                assert positive is not None  # all columns are there
                if not any(need):
                    loss.append(_value(row_loss, t, positive, plan))
                    continue
                value, grad = _value_and_gradient(
                    row_loss, t, positive, take(share, groups, rows), rows.start, plan
                )
                loss.append(value)
                if need[0]:
                    grad_x.append(product(grad, take(y, groups, columns)))
                if need[1]:
                    part = product(grad.mT, take(x, groups, rows))
                    grad_y = part if grad_y is None else grad_y + part
            losses.append(cat(loss, 1))
            grads_x += [cat(grad_x, 1)] if need[0] else []
            grads_y += [] if grad_y is None else [grad_y]
        per_row = cat(losses, 0)
        nothing = x.new_empty(0)
        return (
            (share * per_row).sum(),
            per_row,
            cat(grads_x, 0) if need[0] else nothing,
            cat(grads_y, 0) if need[1] else nothing,
        )

    @staticmethod
    def setup_context(ctx: Any, inputs: Any, output: Any) -> None:
        x, y, share, ctx.row_loss, ctx.plan, ctx.need, *rest = inputs
        *tensors, radius, width = rest
        ctx.numbers = radius, width
        ctx.mark_non_differentiable(*output[1:])
        ctx.save_for_backward(x, y, share, *output[1:], *tensors)

    @staticmethod
    def backward(ctx: Any, grad: Tensor, *_: Any) -> Any:
        x, y, share, per_row, grad_x, grad_y, *tensors = ctx.saved_tensors
        masks = LeftOut(*tensors, *ctx.numbers)
        if torch.is_grad_enabled():
            # The gradients at hand are constants. For derivatives of them, they are
            # made again from x and y.
            with precision.no_autocast(x):
                found = sides(x, y, masks, ctx.plan)
                per_row, slope = ctx.row_loss(found)
                slope = slope.scaled(grad * share)
                grad_x, grad_y = gradients(
                    x,
                    y,
                    masks,
                    ctx.plan,
                    (True, True),
                    slope,
                    found.rows,
                    found.columns,
                )
        else:
            grad_x = grad * grad_x if ctx.need[0] else None
            grad_y = grad * grad_y if ctx.need[1] else None
        none = (None,) * (3 + len(masks))
        return grad_x, grad_y, grad * per_row, *none


def _value(row_loss: RowLoss, t: Tensor, positive: Tensor, plan: Plan) -> Tensor:
    loss, _ = row_loss(Sides(positive, *log_sum_exps(t, plan)))
    return loss


def _value_and_gradient(
    row_loss: RowLoss,
    t: Tensor,
    positive: Tensor,
    share: Tensor,
    offset: int,
    plan: Plan,
) -> tuple[Tensor, Tensor]:
    """Return the losses of rows, and the gradient of Σ share · loss in their logits.

    Overwrites the logits: fewer tiles at a time, and those in cache.
    """
    if plan.bounded:
        rows = columns = t.exp_()
        shifts: list[Tensor | float] = [0.0, 0.0]
    else:
        shifts = [finite_peak(t, -1), finite_peak(t, -2) if plan.both else 0.0]
        rows = (t - shifts[0]).exp_()
        columns = t.sub_(shifts[1]).exp_() if plan.both else t
    dims = (-1, -2) if plan.both else (-1,)
    # Only an empty sum, whose slope is 0, is smaller than the limit.
    tiny = torch.finfo(t.dtype).tiny
    sums = [e.sum(d, keepdim=True) for e, d in zip((rows, columns), dims, strict=False)]
    logs = [
        (s.log() + c).squeeze(d) for s, c, d in zip(sums, shifts, dims, strict=False)
    ]
    loss, slope = row_loss(Sides(positive, *logs))

    u = (share * slope.rows).unsqueeze(-1) / sums[0].clamp_min(tiny)
    if slope.columns is None:
        grad = rows * u
    else:
        v = (share * slope.columns).unsqueeze(-2) / sums[1].clamp_min(tiny)
        grad = rows * (u + v) if plan.bounded else (rows * u).add_(columns * v)
    grad.diagonal(offset, 1, 2).copy_(share * slope.positive)
    return loss, grad
