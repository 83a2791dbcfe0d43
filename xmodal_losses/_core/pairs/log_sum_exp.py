"""Log-sum-exps along both sides of the logits, in two tiled passes.

The first pass reduces every tile of ⟨x_i, y_j⟩ to its rows' and columns' log-sum-exps,
the second makes it again and turns it into both gradients at once: 8·N·M·D operations
and a tile of memory. Any loss that depends on the logits through these and the
positives can be put on top.
"""

from collections.abc import Sequence
from typing import Any, NamedTuple

import torch
from torch import Tensor

from xmodal_losses._core.pairs.left_out import LeftOut
from xmodal_losses._core.pairs.tiles import Tiling


class Sides(NamedTuple):
    """What is known of the logits along both sides, for G problems.

    The log-sum-exps are over the negatives, −inf without any. The peaks are the
    largest negatives and pass no gradient. Of one-directional problems the sides of
    the columns are None.
    """

    positive: Tensor  # (G, N): ⟨x_i, y_i⟩
    rows: Tensor  # (G, N)
    row_peaks: Tensor  # (G, N)
    columns: Tensor | None = None  # (G, M)
    column_peaks: Tensor | None = None  # (G, M)


class Slopes(NamedTuple):
    """Derivatives of a loss in the sides of the logits."""

    positive: Tensor  # (G, N)
    rows: Tensor  # (G, N)
    columns: Tensor | None = None  # (G, M)


def sides(x: Tensor, y: Tensor, left_out: LeftOut, tiling: Tiling, both: bool) -> Sides:
    """Reduce the logits of x ``(G, N, D)`` and y ``(G, M, D)``, N ≤ M."""
    out = _TwoPass.apply(x, y, tiling, both, *left_out)  # type: ignore[no-untyped-call]
    return Sides(*out)


class _TwoPass(torch.autograd.Function):
    """Written in differentiable operations, so that second derivatives are right."""

    generate_vmap_rule = True

    @staticmethod
    def forward(
        x: Tensor, y: Tensor, tiling: Tiling, both: bool, *left_out: Any
    ) -> tuple[Tensor, ...]:
        masks = LeftOut(*left_out)
        parts = [
            _reduce(x, y, masks, tiling, both, groups)
            for groups in tiling.over_groups(x.shape[0])
        ]
        return tuple(cat(column, 0) for column in zip(*parts, strict=True))

    @staticmethod
    def setup_context(ctx: Any, inputs: Any, output: Any) -> None:
        x, y, ctx.tiling, _, *tensors, radius, width = inputs
        ctx.numbers = radius, width
        found = Sides(*output)
        peaks = [p for p in (found.row_peaks, found.column_peaks) if p is not None]
        ctx.mark_non_differentiable(*peaks)
        ctx.save_for_backward(x, y, found.rows, found.columns, *tensors)

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> Any:
        x, y, rows, columns, *tensors = ctx.saved_tensors
        masks = LeftOut(*tensors, *ctx.numbers)
        positive, row, _, *column = grads
        slope = Slopes(positive, row, *column[:1])
        grad_x, grad_y = gradients(x, y, masks, ctx.tiling, rows, columns, slope)
        return grad_x, grad_y, None, None, *(None for _ in masks)


def _reduce(
    x: Tensor, y: Tensor, left_out: LeftOut, tiling: Tiling, both: bool, groups: slice
) -> tuple[Tensor, ...]:
    positive, rows, row_peaks = [], [], []
    columns: dict[int, Tensor] = {}
    column_peaks: dict[int, Tensor] = {}
    for i in tiling.over_rows(x.shape[1]):
        row: Tensor | None = None
        peak: Tensor | None = None
        diagonal = []
        for j in tiling.over_columns(y.shape[1]):
            t, on = logits(x, y, left_out, groups, i, j)
            diagonal += [] if on is None else [on]
            log, top = log_sum_exp(t, -1)
            row = log if row is None else torch.logaddexp(row, log)
            peak = top if peak is None else torch.maximum(peak, top)
            if both:
                log, top = log_sum_exp(t, -2)
                k = j.start
                if k in columns:
                    log = torch.logaddexp(columns[k], log)
                    top = torch.maximum(column_peaks[k], top)
                columns[k], column_peaks[k] = log, top
        positive.append(cat(diagonal, 1))
        rows.append(row)
        row_peaks.append(peak)
    out = [cat(part, 1) for part in (positive, rows, row_peaks)]
    if both:
        out += [cat(list(part.values()), 1) for part in (columns, column_peaks)]
    return tuple(out)


def gradients(
    x: Tensor,
    y: Tensor,
    left_out: LeftOut,
    tiling: Tiling,
    rows: Tensor,
    columns: Tensor | None,
    slope: Slopes,
) -> tuple[Tensor, Tensor]:
    """Return the gradients of a function of the sides, given its slopes.

    With slopes u in the log-sum-exps of rows, and v in those of columns, the logits
    have the gradient

        u_i exp(s_ij − rows_i) + v_j exp(s_ij − columns_j) ,

    exponentials ≤ 1, and on the diagonal the slope in the positive.
    """
    # Of a row without negatives every logit is −inf, and any finite number in place of
    # its log-sum-exp gives the softmax 0.
    rows = rows.masked_fill(rows == -torch.inf, 0.0)
    if columns is not None:
        columns = columns.masked_fill(columns == -torch.inf, 0.0)

    grad_x, grad_y = [], []
    for groups in tiling.over_groups(x.shape[0]):
        parts: dict[int, Tensor] = {}
        blocks = []
        for i in tiling.over_rows(x.shape[1]):
            block: Tensor | None = None
            for j in tiling.over_columns(y.shape[1]):
                t, on = logits(x, y, left_out, groups, i, j)
                grad = (t - rows[groups, i, None]).exp_() * slope.rows[groups, i, None]
                if columns is not None and slope.columns is not None:
                    across = (t - columns[groups, None, j]).exp_()
                    grad = grad + across * slope.columns[groups, None, j]
                if on is not None:
                    start = max(i.start, j.start)
                    at = slope.positive[groups, start : start + on.shape[-1]]
                    grad = grad.diagonal_scatter(at, i.start - j.start, 1, 2)
                block = _add_product(block, grad, y[groups, j])
                parts[j.start] = _add_product(parts.get(j.start), grad.mT, x[groups, i])
            blocks.append(block)
        grad_x.append(cat(blocks, 1))
        grad_y.append(cat(list(parts.values()), 1))
    return cat(grad_x, 0), cat(grad_y, 0)


def logits(
    x: Tensor, y: Tensor, left_out: LeftOut, groups: slice, i: slice, j: slice
) -> tuple[Tensor, Tensor | None]:
    """Return a tile of the logits, −inf where no negative, and its positives if any."""
    t = x[groups, i] @ y[groups, j].mT
    on = None
    offset = i.start - j.start
    if -t.shape[-2] < offset < t.shape[-1]:  # the tile meets the diagonal
        diagonal = t.diagonal(offset, 1, 2)
        on = diagonal.clone()
        diagonal.fill_(-torch.inf)
    mask = left_out.tile(groups, i, j)
    return (t if mask is None else t.masked_fill(mask, -torch.inf)), on


def log_sum_exp(t: Tensor, dim: int) -> tuple[Tensor, Tensor]:
    """Return the log-sum-exp and the maximum along ``dim``; both −inf if all are."""
    top, shift = peak(t, dim)
    total = (t - shift).exp_().sum(dim, keepdim=True)
    return (total.log() + shift).squeeze(dim), top


def peak(t: Tensor, dim: int) -> tuple[Tensor, Tensor]:
    """Return the maximum along ``dim``, and that with ``keepdim`` and 0 for −inf."""
    top = t.amax(dim, keepdim=True)
    return top.squeeze(dim), top.masked_fill(top == -torch.inf, 0.0)


def cat(parts: Sequence[Tensor], dim: int) -> Tensor:
    """Join parts; a single one is not copied."""
    return parts[0] if len(parts) == 1 else torch.cat(list(parts), dim)


def _add_product(total: Tensor | None, a: Tensor, b: Tensor) -> Tensor:
    return a @ b if total is None else torch.baddbmm(total, a, b)
