"""A weighted sum of row losses with its gradient, each logit made once.

Where a tile holds all the logits that a row's loss depends on, its slopes are known
before the tile is let go: value and gradient in one pass, 6·N·M·D operations. So it is
with whole problems, and with the rows of a one-directional loss.
"""

from collections.abc import Callable
from typing import Any, TypeAlias

import torch
from torch import Tensor

from xmodal_losses._core.pairs.left_out import LeftOut
from xmodal_losses._core.pairs.log_sum_exp import (
    Sides,
    Slopes,
    cat,
    gradients,
    log_sum_exp,
    logits,
    peak,
    sides,
)
from xmodal_losses._core.pairs.tiles import Tiling

RowLoss: TypeAlias = Callable[[Sides], tuple[Tensor, Slopes]]
"""From the sides to the loss of every row, ``(G, N)``, and its slopes in the sides."""


def weighted_sum(
    row_loss: RowLoss,
    x: Tensor,
    y: Tensor,
    share: Tensor,
    left_out: LeftOut,
    tiling: Tiling,
    both: bool,
) -> Tensor:
    """Return Σ share · row_loss over all rows of G problems; share is ``(G, N)``.

    The tiling has all columns in one part, and all rows, too, if ``both``.
    """
    recording = torch.is_grad_enabled()
    need = recording and x.requires_grad, recording and y.requires_grad
    total, *_ = _OnePass.apply(  # type: ignore[no-untyped-call]
        x, y, share, row_loss, tiling, both, need, *left_out
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
        tiling: Tiling,
        both: bool,
        need: tuple[bool, bool],
        *left_out: Any,
    ) -> tuple[Tensor, ...]:
        masks = LeftOut(*left_out)
        columns = slice(0, y.shape[1])
        losses, grads_x, grads_y = [], [], []
        for groups in tiling.over_groups(x.shape[0]):
            loss, grad_x = [], []
            grad_y: Tensor | None = None
            for rows in tiling.over_rows(x.shape[1]):
                t, positive = logits(x, y, masks, groups, rows, columns)
                assert positive is not None  # all columns are there
                if not any(need):
                    loss.append(_value(row_loss, t, positive, both))
                    continue
                value, grad = _value_and_gradient(
                    row_loss, t, positive, share[groups, rows], rows.start, both
                )
                loss.append(value)
                if need[0]:
                    grad_x.append(grad @ y[groups])
                if need[1]:
                    part = grad.mT @ x[groups, rows]
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
        x, y, share, ctx.row_loss, ctx.tiling, ctx.both, ctx.need, *rest = inputs
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
            found = sides(x, y, masks, ctx.tiling, ctx.both)
            per_row, slope = ctx.row_loss(found)
            slope = Slopes(*(s if s is None else grad * share * s for s in slope))
            grad_x, grad_y = gradients(
                x, y, masks, ctx.tiling, found.rows, found.columns, slope
            )
        else:
            grad_x = grad * grad_x if ctx.need[0] else None
            grad_y = grad * grad_y if ctx.need[1] else None
        none = (None,) * (4 + len(masks))
        return grad_x, grad_y, grad * per_row, *none


def _value(row_loss: RowLoss, t: Tensor, positive: Tensor, both: bool) -> Tensor:
    found = [positive, *log_sum_exp(t, -1), *(log_sum_exp(t, -2) if both else ())]
    loss, _ = row_loss(Sides(*found))
    return loss


def _value_and_gradient(
    row_loss: RowLoss,
    t: Tensor,
    positive: Tensor,
    share: Tensor,
    offset: int,
    both: bool,
) -> tuple[Tensor, Tensor]:
    """Return the losses of rows, and the gradient of Σ share · loss in their logits.

    Overwrites the logits: fewer tiles at a time, and those in cache.
    """
    row_peak, row_shift = peak(t, -1)
    rows = (t - row_shift).exp_()
    row_sum = rows.sum(-1, keepdim=True)
    found = Sides(positive, (row_sum.log() + row_shift).squeeze(-1), row_peak)
    if both:
        column_peak, column_shift = peak(t, -2)
        columns = t.sub_(column_shift).exp_()
        column_sum = columns.sum(-2, keepdim=True)
        log = (column_sum.log() + column_shift).squeeze(-2)
        found = found._replace(columns=log, column_peaks=column_peak)

    loss, slope = row_loss(found)
    # A sum is ≥ 1, or 0 where there are no negatives and the slope does not matter.
    grad = rows * ((share * slope.rows).unsqueeze(-1) / row_sum.clamp_min(1.0))
    if both and slope.columns is not None:
        up = (share * slope.columns).unsqueeze(-2) / column_sum.clamp_min(1.0)
        grad = torch.addcmul(grad, columns, up)
    grad.diagonal(offset, 1, 2).copy_(share * slope.positive)
    return loss, grad
