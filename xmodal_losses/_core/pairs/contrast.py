"""Losses of rows against their negatives: which negatives, and how they are walked."""

from typing import Literal, NamedTuple, TypeAlias

import torch
from torch import Tensor

from xmodal_losses._core.pairs.left_out import LeftOut
from xmodal_losses._core.pairs.log_sum_exp import Sides, sides
from xmodal_losses._core.pairs.one_pass import RowLoss, weighted_sum
from xmodal_losses._core.pairs.tiles import Tiling, square, strips

Negatives: TypeAlias = Literal["group", "all", "cross"]
NEGATIVES = ("group", "all", "cross")


class Masks(NamedTuple):
    """What rows of paired batches ``(…, N, D)`` are no negatives of each other."""

    exclude: Tensor | None = None  # (…, N, N) bool
    ids: Tensor | None = None  # (…, N): rows with one id
    positions: Tensor | None = None  # (…, N, P): rows of a group within `radius`
    radius: float = 0.0
    valid: Tensor | None = None  # (…, N): False where a row takes no part


def row_losses(
    row_loss: RowLoss,
    x: Tensor,
    y: Tensor,
    *,
    negatives: Negatives,
    masks: Masks,
    both: bool,
    chunk_size: int | None,
) -> Tensor:
    """Return the loss of every row, ``(…, N)``."""
    found = row_sides(
        x, y, negatives=negatives, masks=masks, both=both, chunk_size=chunk_size
    )
    return row_loss(found)[0]


def sum_of_row_losses(
    row_loss: RowLoss,
    x: Tensor,
    y: Tensor,
    share: Tensor,
    *,
    negatives: Negatives,
    masks: Masks,
    both: bool,
    chunk_size: int | None,
) -> Tensor:
    """Return Σ share · loss over all rows, the gradient at once where that is leaner."""
    if negatives != "cross":
        x3, y3, left_out = _problems(x, y, masks, joined=negatives == "all")
        tiling = strips(x3.shape[1], y3.shape[1], both, chunk_size, x3)
        if tiling is not None:
            share = share.reshape(x3.shape[:2])
            return weighted_sum(row_loss, x3, y3, share, left_out, tiling, both)
    losses = row_losses(
        row_loss,
        x,
        y,
        negatives=negatives,
        masks=masks,
        both=both,
        chunk_size=chunk_size,
    )
    return (share * losses).sum()


def row_sides(
    x: Tensor,
    y: Tensor,
    *,
    negatives: Negatives,
    masks: Masks,
    both: bool,
    chunk_size: int | None,
) -> Sides:
    """Return the positives, and the log-sum-exps over the negatives, ``(…, N)`` each.

    The logits are plain inner products: the caller has scaled the rows.
    """
    x3, y3, left_out = _problems(x, y, masks, joined=negatives == "all")
    tiling = square(x3.shape[1], y3.shape[1], chunk_size, x3)
    found = sides(x3, y3, left_out, tiling, both)
    if negatives == "cross":
        # The same row of the other groups: N problems of one row per group.
        x3, y3, left_out = _transposed(x3, y3, masks)
        tiling = square(x3.shape[1], y3.shape[1], chunk_size, x3)
        across = sides(x3, y3, left_out, tiling, both)
        found = _joined(found, across)
    shape = x.shape[:-1]
    return Sides(*(None if part is None else part.reshape(shape) for part in found))


def _problems(
    x: Tensor, y: Tensor, masks: Masks, joined: bool
) -> tuple[Tensor, Tensor, LeftOut]:
    """Flatten to G problems; ``joined``: to one, of the rows of all groups."""
    n, d = x.shape[-2:]

    def rows(z: Tensor | None, *tail: int) -> Tensor | None:
        if z is None:
            return None
        return z.reshape(1, -1, *tail) if joined else z.reshape(-1, n, *tail)

    positions = masks.positions
    if positions is not None:
        positions = rows(positions, positions.shape[-1])
    left_out = LeftOut(
        rows(masks.exclude, n),
        rows(masks.valid),
        rows(masks.ids),
        positions,
        radius=masks.radius,
        width=n if joined else None,
    )
    x3, y3 = rows(x, d), rows(y, d)
    assert x3 is not None and y3 is not None
    return x3, y3, left_out


def _transposed(x: Tensor, y: Tensor, masks: Masks) -> tuple[Tensor, Tensor, LeftOut]:
    """Turn G problems of N rows into N problems of G rows, of different groups."""
    shape = x.shape[:2]
    valid = None if masks.valid is None else masks.valid.reshape(shape).mT
    ids = None if masks.ids is None else masks.ids.reshape(shape).mT
    left_out = LeftOut(valid=valid, ids=ids)
    return x.transpose(0, 1), y.transpose(0, 1), left_out


def _joined(found: Sides, across: Sides) -> Sides:
    """Add the log-sum-exps of two sets of negatives."""
    rows = _log_add_exp(found.rows, across.rows.mT)
    row_peaks = torch.maximum(found.row_peaks, across.row_peaks.mT)
    out = Sides(found.positive, rows, row_peaks)
    if found.columns is None or across.columns is None:
        return out
    assert found.column_peaks is not None and across.column_peaks is not None
    return out._replace(
        columns=_log_add_exp(found.columns, across.columns.mT),
        column_peaks=torch.maximum(found.column_peaks, across.column_peaks.mT),
    )


def _log_add_exp(a: Tensor, b: Tensor) -> Tensor:
    """log(eᵃ + eᵇ), whose gradient is 0, not NaN, where both are −inf."""
    top = torch.maximum(a, b).detach()
    top = top.masked_fill(top == -torch.inf, 0.0)
    total = (a - top).exp() + (b - top).exp()
    empty = total == 0
    log = total.masked_fill(empty, 1.0).log() + top
    return log.masked_fill(empty, -torch.inf)
