"""Log-sum-exps of the negatives of every row, along both sides of the logits."""

from typing import Any, Literal, TypeAlias

import torch
from torch import Tensor

Negatives: TypeAlias = Literal["group", "all", "cross"]
NEGATIVES = ("group", "all", "cross")


def log_sum_exp_of_negatives(
    x: Tensor,
    y: Tensor,
    *,
    negatives: Negatives,
    exclude: Tensor | None,
    valid: Tensor | None,
    chunk_size: int | None,
) -> tuple[Tensor, Tensor]:
    """Return log Σ exp ⟨x_i, y_j⟩ over the negatives of every x_i, and of every y_j.

    The logits are plain inner products: the caller has scaled the rows. The positive
    (i, i) is left out. A row without negatives gets −inf, and passes no gradient.

    Args:
        x: Rows of one modality ``(…, N, D)``.
        y: Rows of the other, same shape.
        negatives: Which leading indices supply negatives.
        exclude: ``(…, N, N)``, True where (x_i, y_j) of one group is no negative.
        valid: ``(…, N)``, False where row i takes no part on either side.
        chunk_size: Rows of the logits held at a time; None holds all.

    Returns:
        Two tensors ``(…, N)``.
    """
    n, d = x.shape[-2:]
    leading = x.shape[:-2]
    x, y = x.reshape(-1, n, d), y.reshape(-1, n, d)
    groups = x.shape[0]
    if exclude is not None:
        exclude = exclude.reshape(groups, n, n)
    if valid is not None:
        valid = valid.reshape(groups, n)

    if negatives == "all":
        # One problem of groups·N rows; `exclude` keeps its N columns a row, and tells
        # only about the row's own group.
        x, y = x.reshape(1, -1, d), y.reshape(1, -1, d)
        if exclude is not None:
            exclude = exclude.reshape(1, -1, n)
        if valid is not None:
            valid = valid.reshape(1, -1)
    rows, columns = _log_sum_exp(x, y, exclude, valid, chunk_size)

    if negatives == "cross":
        # The same row of the other groups: N problems of one row per group.
        across = _log_sum_exp(
            x.transpose(0, 1),
            y.transpose(0, 1),
            None,
            None if valid is None else valid.mT,
            chunk_size,
        )
        rows = _log_add_exp(rows, across[0].mT)
        columns = _log_add_exp(columns, across[1].mT)
    return rows.reshape(*leading, n), columns.reshape(*leading, n)


def _log_sum_exp(
    x: Tensor,
    y: Tensor,
    exclude: Tensor | None,
    valid: Tensor | None,
    chunk_size: int | None,
) -> tuple[Tensor, Tensor]:
    n = x.shape[1]
    if chunk_size is not None and chunk_size < n:
        out: tuple[Tensor, Tensor] = _TiledLogSumExp.apply(  # type: ignore[no-untyped-call]
            x, y, exclude, valid, chunk_size
        )
        return out
    logits = x @ y.mT
    logits = logits.masked_fill(_left_out(0, n, x, exclude, valid), -torch.inf)
    return _safe_log_sum_exp(logits, -1), _safe_log_sum_exp(logits, -2)


def _left_out(
    start: int, stop: int, x: Tensor, exclude: Tensor | None, valid: Tensor | None
) -> Tensor:
    """Return the mask of the pairs (rows start:stop, all columns) that do not count."""
    n = x.shape[1]
    column = torch.arange(n, device=x.device)
    row = column[start:stop, None]
    out = (row == column).unsqueeze(0)
    if exclude is not None:
        width = exclude.shape[-1]
        tile = exclude[:, start:stop]
        if width < n:  # rows of several groups side by side
            tile = tile.repeat(1, 1, n // width) & (row // width == column // width)
        out = out | tile
    if valid is not None:
        out = out | ~valid[:, start:stop, None] | ~valid[:, None, :]
    return out


def _safe_log_sum_exp(logits: Tensor, dim: int) -> Tensor:
    """Log-sum-exp whose gradient is 0, not NaN, where every entry is −inf."""
    peak = logits.detach().amax(dim, keepdim=True)
    peak = peak.masked_fill(peak == -torch.inf, 0.0)
    total = (logits - peak).exp().sum(dim)
    empty = total == 0
    log = total.masked_fill(empty, 1.0).log() + peak.squeeze(dim)
    return log.masked_fill(empty, -torch.inf)


def _log_add_exp(a: Tensor, b: Tensor) -> Tensor:
    return _safe_log_sum_exp(torch.stack((a, b)), 0)


class _TiledLogSumExp(torch.autograd.Function):
    """Both log-sum-exps with ``chunk_size`` rows of the logits in memory at a time.

    The backward pass makes each tile again and turns it into both gradients at once.
    It is written in differentiable operations, so second derivatives are right too.
    """

    generate_vmap_rule = True

    @staticmethod
    def forward(
        x: Tensor,
        y: Tensor,
        exclude: Tensor | None,
        valid: Tensor | None,
        chunk_size: int,
    ) -> tuple[Tensor, Tensor]:
        rows = []
        columns = x.new_full((x.shape[0], x.shape[1]), -torch.inf)
        for start, stop in _chunks(x.shape[1], chunk_size):
            logits = x[:, start:stop] @ y.mT
            mask = _left_out(start, stop, x, exclude, valid)
            logits = logits.masked_fill(mask, -torch.inf)
            rows.append(logits.logsumexp(-1))
            columns = torch.logaddexp(columns, logits.logsumexp(-2))
        return torch.cat(rows, 1), columns

    @staticmethod
    def setup_context(ctx: Any, inputs: Any, output: Any) -> None:
        x, y, exclude, valid, ctx.chunk_size = inputs
        ctx.save_for_backward(x, y, exclude, valid, *output)

    @staticmethod
    def backward(ctx: Any, grad_rows: Tensor, grad_columns: Tensor) -> Any:
        x, y, exclude, valid, rows, columns = ctx.saved_tensors
        # exp(logit − log-sum-exp) ≤ 1; of an empty row every logit is −inf, and any
        # finite number in place of its log-sum-exp gives the softmax 0.
        rows = rows.masked_fill(rows == -torch.inf, 0.0)
        columns = columns.masked_fill(columns == -torch.inf, 0.0)
        grad_x = []
        grad_y = torch.zeros_like(y)
        for start, stop in _chunks(x.shape[1], ctx.chunk_size):
            tile = slice(start, stop)
            logits = x[:, tile] @ y.mT
            mask = _left_out(start, stop, x, exclude, valid)
            logits = logits.masked_fill(mask, -torch.inf)
            grad = grad_rows[:, tile, None] * (logits - rows[:, tile, None]).exp()
            grad = grad + grad_columns[:, None] * (logits - columns[:, None]).exp()
            grad_x.append(grad @ y)
            grad_y = grad_y + grad.mT @ x[:, tile]
        return torch.cat(grad_x, 1), grad_y, None, None, None


def _chunks(n: int, size: int) -> list[tuple[int, int]]:
    return [(start, min(start + size, n)) for start in range(0, n, size)]
