"""Paired rows against their negatives: which those are, and how they are walked."""

import math
from typing import Literal, NamedTuple, TypeAlias

import torch
from torch import Tensor

from xmodal_losses._core import precision, reduce
from xmodal_losses._core.linalg import unit
from xmodal_losses._core.pairs.left_out import LeftOut
from xmodal_losses._core.pairs.log_sum_exp import BOUND, Plan, Sides, sides
from xmodal_losses._core.pairs.one_pass import Lengths, RowLoss, weighted_sum
from xmodal_losses._core.pairs.tiles import Tiling, square, strips

Negatives: TypeAlias = Literal["group", "all", "cross"]
NEGATIVES = ("group", "all", "cross")


class Contrast(NamedTuple):
    """Two paired batches ``(…, N, D)``, and which of their pairs are negatives.

    The logits are inner products of the rows, scaled to ``lengths`` if given.
    """

    x: Tensor
    y: Tensor
    both: bool  # also from y to x
    negatives: Negatives = "group"
    exclude: Tensor | None = None  # (…, N, N) bool: no negatives
    ids: Tensor | None = None  # (…, N): nor are rows with one id
    positions: Tensor | None = None  # (…, N, P): nor rows of a group within `radius`
    radius: float = 0.0
    valid: Tensor | None = None  # (…, N): False where a row takes no part
    lengths: Lengths | None = None
    narrow: bool = False  # products may round their operands to bfloat16
    bound: float = math.inf  # no logit is larger in size
    chunk_size: int | None = None

    def reduced(
        self,
        row_loss: RowLoss,
        factor: float,
        weight: Tensor | None,
        reduction: reduce.Reduction,
    ) -> Tensor:
        """Return factor times the row losses, or their (weighted) mean or sum."""
        with precision.no_autocast(self.x):
            if reduction != "none" and self.negatives != "cross":
                n = self.x.shape[-2]
                rows = self.x.shape[:-1].numel()
                groups = 1 if self.negatives == "all" else rows // n
                n = rows // groups
                tiling = strips(n, n, self.both, self.chunk_size, self.x)
                if tiling is not None:
                    if weight is not None:
                        weight = reduce.shares(weight.to(self.x.dtype), reduction)
                        weight = weight.reshape(groups, n)
                    elif reduction == "mean":
                        factor /= rows
                    return weighted_sum(
                        row_loss,
                        self.x,
                        self.y,
                        groups,
                        weight,
                        factor,
                        self.lengths,
                        self._left_out(),
                        self._plan(tiling),
                    )
            loss, _ = row_loss(self.sides())
            return reduce.rows(factor * loss, weight, reduction)

    def sides(self, peaks: bool = False) -> Sides:
        """Return the positives and the log-sum-exps over the negatives, ``(…, N)``."""
        with precision.no_autocast(self.x):
            x, y, left_out = self.x, self.y, self._left_out()
            if self.lengths is not None:
                x, y = (
                    unit(z, -1, length)
                    for z, length in zip((x, y), self.lengths, strict=True)
                )
            x, y = self._flat(x), self._flat(y)
            found = self._two_pass(x, y, left_out, peaks)
            if self.negatives == "cross":
                # The same row of the other groups: N problems of one row per group.
                across = self._two_pass(
                    x.transpose(0, 1),
                    y.transpose(0, 1),
                    LeftOut(
                        valid=None if left_out.valid is None else left_out.valid.mT,
                        ids=None if left_out.ids is None else left_out.ids.mT,
                    ),
                    peaks,
                )
                found = _joined(found, across)
            return found.map(lambda part: part.reshape(self.x.shape[:-1]))

    def _two_pass(self, x: Tensor, y: Tensor, left_out: LeftOut, peaks: bool) -> Sides:
        tiling = square(x.shape[1], y.shape[1], self.chunk_size, x)
        return sides(x, y, left_out, self._plan(tiling, peaks))

    def _plan(self, tiling: Tiling, peaks: bool = False) -> Plan:
        return Plan(tiling, self.both, self.bound <= BOUND, peaks, self.narrow)

    def _flat(self, z: Tensor) -> Tensor:
        """Return what belongs to the rows by problem; ``"all"`` is one problem."""
        shape = (1, -1) if self.negatives == "all" else (-1, self.x.shape[-2])
        return z.reshape(*shape, *z.shape[self.x.ndim - 1 :])

    def _left_out(self) -> LeftOut:
        told = (self.exclude, self.valid, self.ids, self.positions)
        dense, valid, ids, positions = (
            None if mask is None else self._flat(mask) for mask in told
        )
        width = self.x.shape[-2] if self.negatives == "all" else None
        return LeftOut(dense, valid, ids, positions, radius=self.radius, width=width)


def _joined(found: Sides, across: Sides) -> Sides:
    """Add the negatives of the transposed problems, where they have the same rows."""
    across = across.map(lambda part: part.mT)
    columns = row_peaks = column_peaks = None
    if found.columns is not None and across.columns is not None:
        columns = _log_add_exp(found.columns, across.columns)
    if found.row_peaks is not None and across.row_peaks is not None:
        row_peaks = torch.maximum(found.row_peaks, across.row_peaks)
    if found.column_peaks is not None and across.column_peaks is not None:
        column_peaks = torch.maximum(found.column_peaks, across.column_peaks)
    rows = _log_add_exp(found.rows, across.rows)
    return Sides(found.positive, rows, columns, row_peaks, column_peaks)


def _log_add_exp(a: Tensor, b: Tensor) -> Tensor:
    """log(eᵃ + eᵇ), whose gradient is 0, not NaN, where both are −inf."""
    top = torch.maximum(a, b).detach()
    top = top.masked_fill(top == -torch.inf, 0.0)
    total = (a - top).exp() + (b - top).exp()
    empty = total == 0
    log = total.masked_fill(empty, 1.0).log() + top
    return log.masked_fill(empty, -torch.inf)
