"""A weighted sum of row losses with its gradient, each logit made once.

Where a tile holds all the logits that a row's loss depends on, its slopes are known
before the tile is let go: value and gradient in one pass, 6·N·M·D operations. So it is
with whole problems, and with the rows of a one-directional loss.
"""

import math
from collections.abc import Callable
from typing import Any, TypeAlias

import torch
from torch import Tensor

from xmodal_losses._core.function import Function
from xmodal_losses._core.linalg import unit_and_factor, unit_gradient, unit_with_factor
from xmodal_losses._core.pairs.left_out import TENSORS, LeftOut
from xmodal_losses._core.pairs.log_sum_exp import (
    Sides,
    Slopes,
    gradients,
    packed,
    sides,
)
from xmodal_losses._core.pairs.logits import Plan, exponentials, logits, totals
from xmodal_losses._core.pairs.products import cat, operand, product, take

RowLoss: TypeAlias = Callable[[Sides], tuple[Tensor, Slopes]]
"""From the sides to the loss of every row, ``(G, N)``, and its slopes in the sides."""
Lengths: TypeAlias = tuple[float, float]
"""What the rows of x and of y are scaled to first."""


def weighted_sum(
    row_loss: RowLoss,
    x: Tensor,
    y: Tensor,
    groups: int,
    weight: Tensor | None,
    factor: float,
    lengths: Lengths | None,
    left_out: LeftOut,
    plan: Plan,
) -> Tensor:
    """Return factor · Σ w · row_loss over all rows.

    Args:
        row_loss: The loss of a row, and its slopes.
        x: ``(…, D)``, the rows of all problems.
        y: ``(…, D)``.
        groups: The number of problems.
        weight: ``(G, N)``; None is 1.
        factor: A constant.
        lengths: Of the rows in the logits; None leaves them as they are.
        left_out: What is no negative.
        plan: It has all columns in one part, and all rows, too, if it is for both.
    """
    recording = torch.is_grad_enabled()
    need = recording and x.requires_grad, recording and y.requires_grad
    # In a tuple: torch 2.4 cannot trace the question whether a function is a tensor.
    wrapped = (row_loss,)
    total, *_ = _OnePass.call(
        x, y, weight, wrapped, groups, factor, lengths, plan, need, *left_out
    )
    return total  # type: ignore[no-any-return]


class _OnePass(Function):
    @staticmethod
    def forward(
        x: Tensor,
        y: Tensor,
        weight: Tensor | None,
        wrapped: tuple[RowLoss],
        groups: int,
        factor: float,
        lengths: Lengths | None,
        plan: Plan,
        need: tuple[bool, bool],
        *left_out: Any,
    ) -> tuple[Tensor, ...]:
        (row_loss,) = wrapped
        shapes = x.shape, y.shape
        x, y = _problems(x, groups), _problems(y, groups)
        masks = LeftOut(*left_out)
        columns = slice(0, y.shape[1])
        losses, grads_x, grads_y = [], [], []
        # Lengths are made and differentiated here, of rows that are in cache: unit rows
        # and their gradient are never held for all problems.
        length_x, length_y = lengths or (None, None)
        for part in plan.tiling.over_groups(groups):
            v, scale_v = _scaled_rows(take(y, part, columns), length_y)
            narrow_v = operand(v, plan.narrow)
            loss, grad_x = [], []
            grad_y: Tensor | None = None
            for rows in plan.tiling.over_rows(x.shape[1]):
                u, scale_u = _scaled_rows(take(x, part, rows), length_x)
                narrow_u = operand(u, plan.narrow)
                t, positive = logits(
                    narrow_u, narrow_v, masks, plan, part, rows, columns
                )
                assert positive is not None  # all columns are there
                if not any(need):
                    loss.append(row_loss(packed((positive, *totals(t, plan))))[0])
                    continue
                w = None if weight is None else weight[part, rows]
                value, grad = _value_and_gradient(
                    row_loss, t, positive, w, rows.start, plan
                )
                loss.append(value)
                grad = operand(grad, plan.narrow)
                if need[0]:
                    grad_u = product(grad, narrow_v)
                    grad_x.append(_unscaled(u, scale_u, grad_u, length_x))
                if need[1]:
                    more = product(grad.mT, narrow_u)
                    grad_y = more if grad_y is None else grad_y + more
            losses.append(cat(loss, 1))
            grads_x += [cat(grad_x, 1)] if need[0] else []
            if grad_y is not None:
                grads_y.append(_unscaled(v, scale_v, grad_y, length_y))
        per_row = cat(losses, 0)
        nothing = x.new_empty(0)
        return (
            (per_row if weight is None else weight * per_row).sum() * factor,
            per_row,
            cat(grads_x, 0).reshape(shapes[0]) if need[0] else nothing,
            cat(grads_y, 0).reshape(shapes[1]) if need[1] else nothing,
        )

    @staticmethod
    def setup_context(ctx: Any, inputs: Any, output: Any) -> None:
        x, y, weight, ctx.wrapped, ctx.groups, ctx.factor, ctx.lengths, *rest = inputs
        ctx.plan, ctx.need, *left_out = rest
        tensors, ctx.numbers = left_out[:TENSORS], left_out[TENSORS:]
        ctx.mark_non_differentiable(*output[1:])
        ctx.save_for_backward(x, y, weight, *output[1:], *tensors)

    @staticmethod
    def backward(ctx: Any, grad: Tensor, *_: Any) -> Any:
        x, y, weight, per_row, grad_x, grad_y, *tensors = ctx.saved_tensors
        grad = grad * ctx.factor
        if torch.is_grad_enabled():
            # The gradients at hand are constants. For derivatives of them, they are
            # made again from x and y.
            masks = LeftOut(*tensors, *ctx.numbers)
            x3, y3 = _problems(x, ctx.groups), _problems(y, ctx.groups)
            length_x, length_y = ctx.lengths or (None, None)
            u, scale_u = _scaled_rows(x3, length_x)
            v, scale_v = _scaled_rows(y3, length_y)
            plan = ctx.plan._replace(narrow=False)
            found = sides(u, v, masks, plan)
            (row_loss,) = ctx.wrapped
            per_row, slope = row_loss(found)
            slope = slope.scaled(grad if weight is None else grad * weight)
            logs = found.rows, found.columns
            grad_u, grad_v = gradients(u, v, masks, plan, (True, True), slope, *logs)
            assert grad_u is not None
            assert grad_v is not None
            grad_x = _unscaled(u, scale_u, grad_u, length_x).reshape(x.shape)
            grad_y = _unscaled(v, scale_v, grad_v, length_y).reshape(y.shape)
        else:
            grad_x = grad * grad_x if ctx.need[0] else None
            grad_y = grad * grad_y if ctx.need[1] else None
        of_weight = None if weight is None else grad * per_row
        return grad_x, grad_y, of_weight, *(None,) * (6 + len(LeftOut._fields))


def _problems(z: Tensor, groups: int) -> Tensor:
    """Return the rows of each problem, ``(G, N, D)``; G may be 0."""
    n = math.prod(z.shape[:-1]) // groups if groups else z.shape[-2]
    return z.reshape(groups, n, z.shape[-1])


def _scaled_rows(z: Tensor, length: float | None) -> tuple[Tensor, Tensor | None]:
    """Return rows of the length, and what they were multiplied by."""
    if length is None:
        return z, None
    if torch.is_grad_enabled():
        return unit_with_factor(z, -1, length)
    return unit_and_factor(z, -1, length)


def _unscaled(
    u: Tensor, factor: Tensor | None, grad: Tensor, length: float | None
) -> Tensor:
    """Return the gradient in the rows from that in the rows of the length."""
    if factor is None or length is None:
        return grad
    return unit_gradient(u, factor, grad, -1, length)


def _value_and_gradient(
    row_loss: RowLoss,
    t: Tensor,
    positive: Tensor,
    weight: Tensor | None,
    offset: int,
    plan: Plan,
) -> tuple[Tensor, Tensor]:
    """Return the losses of rows, and the gradient of Σ w · loss in their logits.

    Overwrites the logits: fewer tiles at a time, and those in cache.
    """
    if plan.softplus:
        loss, slope = row_loss(packed((positive, *totals(t, plan))))
        if weight is not None:
            slope = slope.scaled(weight)
        u = slope.rows.unsqueeze(-1)
        if slope.columns is None:
            grad = t.sigmoid() * u
        elif weight is None:
            grad = _scaled(t.sigmoid_(), u, slope.columns.unsqueeze(-2))
        else:
            grad = (u + slope.columns.unsqueeze(-2)).mul_(t.sigmoid())
        grad.diagonal(offset, 1, 2).copy_(slope.positive)
        return loss, grad
    rows, *columns = exponentials(t, plan)
    loss, slope = row_loss(
        packed((positive, rows.log, *(side.log for side in columns)))
    )
    if weight is not None:
        slope = slope.scaled(weight)
    # Only an empty sum, whose slope is 0, is smaller than the limit.
    tiny = torch.finfo(t.dtype).tiny
    u = (slope.rows / rows.total.clamp_min(tiny)).unsqueeze(-1)
    if slope.columns is None:
        grad = rows.exp * u
    else:
        (column,) = columns
        v = (slope.columns / column.total.clamp_min(tiny)).unsqueeze(-2)
        if not plan.bounded:
            grad = (rows.exp * u).add_(column.exp * v)
        elif weight is None:
            grad = _scaled(rows.exp, u, v)
        else:  # torch.func may map over the weights alone: nothing to overwrite
            grad = (u + v).mul_(rows.exp)
    grad.diagonal(offset, 1, 2).copy_(slope.positive)
    return loss, grad


def _scaled(t: Tensor, u: Tensor, v: Tensor) -> Tensor:
    """Overwrite t by t · (u + v), some rows at a time: their sum stays in cache."""
    if torch.compiler.is_compiling():  # which makes no sum of its own
        return t.mul_(u + v)
    for start in range(0, t.shape[1], 256):
        rows = slice(start, start + 256)
        t[:, rows].mul_(u[:, rows] + v)
    return t
