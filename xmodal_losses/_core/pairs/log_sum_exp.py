"""Log-sum-exps along both sides of the logits, in two tiled passes.

The first pass reduces every tile of ⟨x_i, y_j⟩ to its rows' and columns' log-sum-exps,
the second makes it again and turns it into both gradients at once: 8·N·M·D operations
and a tile of memory. Any loss that depends on the logits through these and the
positives can be put on top. Sums of softplus may take the place of log-sum-exps.
"""

from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import torch
from torch import Tensor

from xmodal_losses._core.function import Function
from xmodal_losses._core.pairs.left_out import TENSORS, LeftOut
from xmodal_losses._core.pairs.logits import Plan, logits, totals
from xmodal_losses._core.pairs.measures import Measures, least_rival, measured
from xmodal_losses._core.pairs.products import add_product, cat, joined, operand, take


class Sides(NamedTuple):
    """What is known of the logits along both sides, for G problems.

    Rows and columns are the log-sum-exps over the negatives, −inf without any, or the
    sums of their softplus. What else is measured passes no gradient.
    """

    positive: Tensor  # (G, N): ⟨x_i, y_i⟩
    rows: Tensor  # (G, N)
    columns: Tensor | None = None  # (G, M)
    of_rows: Measures | None = None  # (G, N)
    of_columns: Measures | None = None  # (G, M)

    def map(self, function: Callable[[Tensor], Tensor]) -> "Sides":
        """Return ``function`` of every part that is there."""
        return Sides(
            function(self.positive),
            function(self.rows),
            None if self.columns is None else function(self.columns),
            *(
                None if part is None else Measures(*[function(one) for one in part])
                for part in (self.of_rows, self.of_columns)
            ),
        )


class Slopes(NamedTuple):
    """Derivatives of a loss in the sides of the logits."""

    positive: Tensor  # (G, N)
    rows: Tensor  # (G, N)
    columns: Tensor | None = None  # (G, M)

    def scaled(self, factor: Tensor) -> "Slopes":
        """Return the slopes times ``factor``, (G, N) and N = M."""
        return Slopes(*(factor * slope for slope in self if slope is not None))

    def contiguous(self) -> "Slopes":
        """Return the slopes with the problems outermost in memory.

        What is computed from them follows their layout, and products of matrices whose
        innermost index is the problem's are done one by one.
        """
        return Slopes(*(slope.contiguous() for slope in self if slope is not None))


def sides(x: Tensor, y: Tensor, left_out: LeftOut, plan: Plan) -> Sides:
    """Reduce the logits of x ``(G, N, D)`` and y ``(G, M, D)``, N ≤ M."""
    need = x.requires_grad, y.requires_grad
    return packed(_TwoPass.call(x, y, plan, need, *left_out))


def packed(found: Sequence[Tensor]) -> Sides:
    """Return the sides whose fields come one after the other."""
    positive, rows, *rest = found
    if len(rest) < 2:
        return Sides(positive, rows, rest[0] if rest else None)
    columns, *some = rest
    # In what torch 2.4 compiles they would look as if they had gradients.
    some = [part.detach() for part in some]
    half = len(some) // 2
    of_rows, of_columns = Measures(*some[:half]), Measures(*some[half:])
    return Sides(positive, rows, columns, of_rows, of_columns)


class _TwoPass(Function):
    """Written in differentiable operations, so that second derivatives are right."""

    @staticmethod
    def forward(
        x: Tensor, y: Tensor, plan: Plan, need: tuple[bool, bool], *left_out: Any
    ) -> tuple[Tensor, ...]:
        return reduced(x, y, LeftOut(*left_out), plan)

    @staticmethod
    def setup_context(ctx: Any, inputs: Any, output: Any) -> None:
        x, y, ctx.plan, ctx.need, *left_out = inputs
        tensors, ctx.numbers = left_out[:TENSORS], left_out[TENSORS:]
        logs = 1 + ctx.plan.both
        ctx.mark_non_differentiable(*output[1 + logs :])
        ctx.save_for_backward(x, y, *tensors, *output[1 : 1 + logs])

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> Any:
        x, y, *saved = ctx.saved_tensors
        logs = 1 + ctx.plan.both
        masks = LeftOut(*saved[:-logs], *ctx.numbers)
        slope = Slopes(*grads[: 1 + logs]).contiguous()
        # Transforms of torch.func do not tell beforehand what they will ask for.
        plan, need = ctx.plan, ctx.need
        if torch.is_grad_enabled():
            plan, need = plan._replace(narrow=False), (True, True)
        grads_xy = gradients(x, y, masks, plan, need, slope, *saved[-logs:])
        return *grads_xy, None, None, *(None for _ in masks)


def reduced(
    x: Tensor,
    y: Tensor,
    left_out: LeftOut,
    plan: Plan,
    least: tuple[Tensor, Tensor] | None = None,
) -> tuple[Tensor, ...]:
    """Return the fields of the sides, one after the other; not differentiated.

    What is measured needs to know the least rivals of the positives, ``(G, N)`` and
    ``(G, M)``; None: they are found here, on the diagonal.
    """
    parts = [
        _reduced_part(x, y, left_out, plan, groups, least)
        for groups in plan.tiling.over_groups(x.shape[0])
    ]
    return tuple(cat(column, 0) for column in zip(*parts, strict=True))


def _reduced_part(
    x: Tensor,
    y: Tensor,
    left_out: LeftOut,
    plan: Plan,
    groups: slice,
    least: tuple[Tensor, Tensor] | None,
) -> tuple[Tensor, ...]:
    """Return what :func:`reduced` does, of a part of the problems."""
    positive: list[Tensor] = []
    rows: dict[int, tuple[Tensor, ...]] = {}
    columns: dict[int, tuple[Tensor, ...]] = {}
    found_least: dict[int, Tensor] = {}
    # Tiles of the diagonal know the positives of their rows and columns, and so do all
    # others after them.
    for i, j in plan.tiling.over_tiles(x.shape[1], y.shape[1], plan.measured):
        parts = take(x, groups, i), take(y, groups, j)
        x_i, y_j = (operand(z, plan.narrow) for z in parts)
        t, on = logits(x_i, y_j, left_out, plan, groups, i, j)
        positive += [] if on is None else [on]
        if plan.measured:
            if least is not None:
                of_x, of_y = least[0][groups, i], least[1][groups, j]
            else:
                if on is not None:
                    found_least[i.start] = least_rival(*parts, on)
                of_x, of_y = found_least[i.start], found_least[j.start]
            known = measured(t, of_x, of_y, plan)
        else:
            known = [(total,) for total in totals(t, plan)]
        _merge(plan, rows, i, known[0])
        if plan.both:
            _merge(plan, columns, j, known[1])
    if not left_out.paired:  # nobody asks for them
        positive.append(x.new_zeros(x.shape[:2])[groups])
    row_log, *of_rows = zip(*rows.values(), strict=True)
    log, *of_columns = zip(*columns.values(), strict=True) if plan.both else ((),)
    found = (positive, row_log, log, *of_rows, *of_columns)
    return tuple(cat(part, 1) for part in found if part)


def _merge(
    plan: Plan,
    parts: dict[int, tuple[Tensor, ...]],
    at: slice,
    new: tuple[Tensor, ...],
) -> None:
    """Join what is known of a tile to what is known of a part."""
    parts[at.start] = merged(plan, parts[at.start], new) if at.start in parts else new


def of_nothing(plan: Plan, like: Tensor) -> tuple[Tensor, ...]:
    """Return the total, and the measures if any, of no logits at all, as scalars."""
    nothing = like.new_full((), -torch.inf)
    if plan.softplus:
        return (like.new_zeros(()),)
    if not plan.measured:
        return (nothing,)
    count = like.new_zeros((), dtype=torch.int64)
    return (nothing, *Measures(count, count, like.new_zeros(()), nothing))


def merged(
    plan: Plan, a: tuple[Tensor, ...], b: tuple[Tensor, ...]
) -> tuple[Tensor, ...]:
    """Return the total, and the measures if any, of two parts."""
    log = plan.merged(a[0], b[0])
    if not plan.measured:
        return (log,)
    return (log, *Measures(*a[1:]).added(Measures(*b[1:])))


def gradients(
    x: Tensor,
    y: Tensor,
    left_out: LeftOut,
    plan: Plan,
    need: tuple[bool, bool],
    slope: Slopes,
    rows: Tensor,
    columns: Tensor | None = None,
) -> tuple[Tensor | None, Tensor | None]:
    """Return the gradients, where needed, of a function of the sides with these slopes.

    With slopes u in the log-sum-exps of rows, and v in those of columns, the logits
    have the gradient

        u_i exp(s_ij − rows_i) + v_j exp(s_ij − columns_j) ,

    exponentials ≤ 1, and on the diagonal the slope in the positive. Of sums of softplus
    it is (u_i + v_j) sigmoid(s_ij).
    """
    # Of a row without negatives every logit is −inf, and any finite number in place of
    # its log-sum-exp gives the softmax 0.
    rows = rows.masked_fill(rows == -torch.inf, 0.0)
    if columns is not None:
        columns = columns.masked_fill(columns == -torch.inf, 0.0)

    all_x: list[Tensor] = []
    all_y: list[Tensor] = []
    for groups in plan.tiling.over_groups(x.shape[0]):
        grad_x: dict[int, Tensor] = {}
        grad_y: dict[int, Tensor] = {}
        for i in plan.tiling.over_rows(x.shape[1]):
            for j in plan.tiling.over_columns(y.shape[1]):
                parts = take(x, groups, i), take(y, groups, j)
                x_i, y_j = (operand(z, plan.narrow) for z in parts)
                t, on = logits(x_i, y_j, left_out, plan, groups, i, j)
                u, log = slope.rows[groups, i, None], rows[groups, i, None]
                if plan.softplus:
                    if slope.columns is not None:
                        u = u + slope.columns[groups, None, j]
                    grad = t.sigmoid() * u
                elif columns is None or slope.columns is None:
                    grad = (t - log).exp_() * u
                else:
                    v, across = slope.columns[groups, None, j], columns[groups, None, j]
                    if plan.bounded:
                        grad = u * (-log).exp() + v * (-across).exp()
                        grad = grad.mul_(t.exp_())
                    else:
                        grad = (t - log).exp_() * u + t.sub_(across).exp_() * v
                if on is not None:
                    start = max(i.start, j.start)
                    at = slope.positive[groups, start : start + on.shape[-1]]
                    grad = grad.diagonal_scatter(at, i.start - j.start, 1, 2)
                del t
                grad = operand(grad, plan.narrow)
                if need[0]:
                    add_product(grad_x, i, grad, y_j)
                if need[1]:
                    add_product(grad_y, j, grad.mT, x_i)
        all_x += [joined(grad_x)] if need[0] else []
        all_y += [joined(grad_y)] if need[1] else []
    return cat(all_x, 0) if need[0] else None, cat(all_y, 0) if need[1] else None
