"""Paired rows against their negatives: which those are, and how they are walked."""

import math
from collections.abc import Callable
from typing import Any, NamedTuple

import torch
from torch import Tensor

from xmodal_losses._core import precision, reduce
from xmodal_losses._core.linalg import unit
from xmodal_losses._core.pairs.across_ranks import (
    Negatives,
    Walk,
    left_out_across_ranks,
    sides_across_ranks,
)
from xmodal_losses._core.pairs.extra import ExtraNegatives, problem
from xmodal_losses._core.pairs.left_out import LeftOut
from xmodal_losses._core.pairs.log_sum_exp import Sides, sides
from xmodal_losses._core.pairs.logits import BOUND, Plan
from xmodal_losses._core.pairs.one_pass import Lengths, RowLoss, weighted_sum
from xmodal_losses._core.pairs.tiles import Tiling, square, strips
from xmodal_losses._core.ranks import Ranks


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
    radius: float | None = 0.0  # None: what positions tell is `kept_radius` alone
    kept: Tensor | None = None  # (…, N, N) bool: they are, whatever tells not to
    kept_radius: float | None = None  # so are rows of a group within it
    only: bool = False  # the reverse: pairs that nothing else leaves out
    valid: Tensor | None = None  # (…, N): False where a row takes no part
    floor: Tensor | None = None  # (…, N): nor logits of a row x that are below
    # Nor rows y that in another embedding, of unit rows (…, N, G), are more similar to
    # x than its partner is, less the margin.
    guide: tuple[Tensor, Tensor] | None = None
    guide_margin: float = 0.0
    extra: ExtraNegatives | None = None  # beside those of the batch
    lengths: Lengths | None = None
    softplus: bool = False  # of the negatives, summed, in place of log-sum-exps
    shift: float = 0.0  # of all logits
    narrow: bool = False  # products may round their operands to bfloat16
    bound: float = math.inf  # no logit is known to be larger in size
    chunk_size: int | None = None
    ranks: Ranks | None = None  # of which this one has a part of the batch
    walk: Walk | None = None  # through theirs, if rows have negatives there

    def replaced(self, **fields: Any) -> "Contrast":
        """Return another with these fields; the compiler of torch 2.4 can trace it."""
        return Contrast(**{**dict(zip(_FIELDS, self, strict=True)), **fields})

    def reduced(
        self,
        row_loss: RowLoss,
        factor: float,
        weight: Tensor | None,
        reduction: reduce.Reduction,
    ) -> Tensor:
        """Return factor times the row losses, or their (weighted) mean or sum."""
        with precision.no_autocast(self.x):
            here = self.negatives != "cross" and self.walk is None
            if reduction != "none" and here and self.extra is None:
                groups, n = self.x.shape[:-2].numel(), self.x.shape[-2]
                rows = groups * n
                if self.negatives == "all":
                    groups, n = 1, rows
                tiling = strips(n, n, self.both, self.chunk_size, self.x)
                if tiling is not None:
                    if weight is None and self.ranks is not None:
                        weight = self.x.new_ones(self.x.shape[:-1])
                    if weight is not None:
                        weight = weight.to(self.x.dtype)
                        weight = reduce.shares(weight, reduction, self.ranks)
                        weight = weight.reshape(groups, n)
                    elif reduction == "mean":
                        factor /= rows
                    total = weighted_sum(
                        row_loss,
                        self.x,
                        self.y,
                        groups,
                        weight,
                        factor,
                        self.lengths,
                        self._left_out(),
                        self.plan(tiling),
                    )
                    return total if self.ranks is None else self.ranks.own_part(total)
            loss, _ = row_loss(self.sides())
            return reduce.rows(factor * loss, weight, reduction, self.ranks)

    def sides(self, measured: bool = False) -> Sides:
        """Return the positives and the log-sum-exps over the negatives, ``(…, N)``.

        What else of the negatives is ``measured`` is for ``both``, without ``extra``.
        """
        with precision.no_autocast(self.x):
            x, y, left_out = self.ready()
            walk = None if self.negatives == "cross" else self.walk
            found = self._two_pass(x, y, left_out, measured, walk)
            # What tells of other groups, where nothing else counts, are ids.
            if self.negatives == "cross" and not (self.only and self.ids is None):
                # The same row of the other groups: N problems of one row per group.
                across = self._two_pass(
                    x.transpose(0, 1),
                    y.transpose(0, 1),
                    left_out.across(),
                    measured,
                    self.walk,
                )
                merged = torch.add if self.softplus else _log_add_exp
                found = _joined(found, across, merged)
            shape = self.x.shape[:-1]
            found = found.map(lambda part: part.reshape(shape))
            return found if self.extra is None else self._with_extra(found)

    def extra_problem(self, of_x: bool) -> tuple[Tensor, Tensor, LeftOut] | None:
        """Return rows x, or rows y, and their extra negatives, as problems."""
        if self.extra is None:
            return None
        rows = self.extra.b if of_x else self.extra.a
        if rows is None:
            return None
        z = self.x if of_x else self.y
        if self.lengths is not None:
            own, theirs = self.lengths if of_x else self.lengths[::-1]
            z, rows = unit(z, -1, own), unit(rows, -1, theirs)
        return problem(z, rows, self.extra, self.ids, self.floor if of_x else None)

    def _with_extra(self, found: Sides) -> Sides:
        """Add the extra negatives to the sides."""
        rows = self._more(found.rows, of_x=True)
        columns = found.columns
        if columns is not None:
            columns = self._more(columns, of_x=False)
        return Sides(found.positive, rows, columns)

    def _more(self, log: Tensor, of_x: bool) -> Tensor:
        some = self.extra_problem(of_x)
        if some is None:
            return log
        z, rows, left_out = some
        if not z.shape[0] * z.shape[1] * rows.shape[1]:
            return log + 0.0 * rows.sum()  # a gradient of 0, not none, on every rank
        tiling = square(z.shape[1], rows.shape[1], self.chunk_size, z)
        plan = self.plan(tiling)._replace(both=False)
        return _log_add_exp(log, sides(z, rows, left_out, plan).rows.reshape(log.shape))

    def swapped(self) -> "Contrast":
        """Return y and x with what is known of their pairs, in the other direction."""
        return self.replaced(
            x=self.y,
            y=self.x,
            exclude=self._transposed(self.exclude),
            kept=self._transposed(self.kept),
            guide=None if self.guide is None else self.guide[::-1],
            extra=None if self.extra is None else self.extra.swapped(),
            lengths=None if self.lengths is None else self.lengths[::-1],
        )

    def _transposed(self, mask: Tensor | None) -> Tensor | None:
        if mask is None:
            return None
        if self.walk is None or self.x.ndim > 2:
            return mask.mT
        ranks, counts = self.walk.ranks, self.walk.counts  # own rows by all
        everything = torch.cat(ranks.gather(mask, counts, 0))
        return torch.split(everything, list(counts), 1)[ranks.rank].mT

    def ready(self) -> tuple[Tensor, Tensor, LeftOut]:
        """Return rows ``(G, N, D)`` whose products are the logits, and what is not."""
        x, y = self.x, self.y
        if self.lengths is not None:
            x, y = (
                unit(z, -1, length)
                for z, length in zip((x, y), self.lengths, strict=True)
            )
        return self.flat(x), self.flat(y), self._left_out()

    def indices(self) -> Tensor:
        """Return the index of every row of a problem, ``(…, N)``, on whichever rank."""
        start = 0
        if self.walk is not None:
            start = sum(self.walk.counts[: self.walk.ranks.rank])
        n = self.x.shape[-2]
        index = torch.arange(start, start + n, device=self.x.device)
        return index.expand(self.x.shape[:-1])

    def doubled(self) -> "Contrast":
        """Return x and y as one batch, each row with its partner as the positive."""
        walk = self.walk
        if walk is not None:
            walk = walk._replace(counts=[2 * count for count in walk.counts])

        return self.replaced(
            x=torch.cat((self.x, self.y), -2),
            y=torch.cat((self.y, self.x), -2),
            ids=_twice(self.ids),
            positions=_twice(self.positions, -2),
            valid=_twice(self.valid),
            walk=walk,
        )

    def _two_pass(
        self, x: Tensor, y: Tensor, left_out: LeftOut, measured: bool, walk: Walk | None
    ) -> Sides:
        n = x.shape[1] if walk is None else max(walk.counts)
        plan = self.plan(square(n, n, self.chunk_size, x), measured)
        if walk is None:
            return sides(x, y, left_out, plan)
        return sides_across_ranks(
            x, y, left_out_across_ranks(left_out, walk), plan, walk
        )

    def plan(self, tiling: Tiling, measured: bool = False) -> Plan:
        """Return how to go through the logits."""
        return Plan(
            tiling,
            self.both,
            # What is measured has squares of exponentials.
            self.bound <= (BOUND / 2 if measured else BOUND),
            measured,
            self.narrow,
            self.softplus,
            self.shift,
        )

    def flat(self, z: Tensor) -> Tensor:
        """Return what belongs to the rows by problem; ``"all"`` is one problem."""
        *lead, n = self.x.shape[:-1]
        groups = math.prod(lead)
        shape = (1, groups * n) if self.negatives == "all" else (groups, n)
        return z.reshape(*shape, *z.shape[self.x.ndim - 1 :])

    def _left_out(self) -> LeftOut:
        told = (self.exclude, self.kept, self.valid, self.ids, self.positions)
        dense, kept, valid, ids, positions = (
            None if mask is None else self.flat(mask) for mask in told
        )
        left_out = LeftOut(
            dense,
            kept,
            valid,
            ids,
            positions,
            floor=None if self.floor is None else self.flat(self.floor),
            radius=self.radius,
            kept_radius=self.kept_radius,
            width=self.x.shape[-2] if self.negatives == "all" else None,
            only=self.only,
        )
        if self.guide is None:
            return left_out
        g_x, g_y = (self.flat(z) for z in self.guide)
        ceiling = (g_x * g_y).sum(-1) - self.guide_margin
        return left_out._replace(guide=g_x, guide_y=g_y, ceiling=ceiling)


_FIELDS = Contrast._fields


def _twice(vector: Tensor | None, dim: int = -1) -> Tensor | None:
    return None if vector is None else torch.cat((vector, vector), dim)


def _joined(
    found: Sides, across: Sides, merged: Callable[[Tensor, Tensor], Tensor]
) -> Sides:
    """Add the negatives of the transposed problems, where they have the same rows."""
    across = across.map(lambda part: part.mT)
    columns = of_rows = of_columns = None
    if found.columns is not None and across.columns is not None:
        columns = merged(found.columns, across.columns)
    if found.of_rows is not None and across.of_rows is not None:
        of_rows = found.of_rows.added(across.of_rows)
    if found.of_columns is not None and across.of_columns is not None:
        of_columns = found.of_columns.added(across.of_columns)
    rows = merged(found.rows, across.rows)
    return Sides(found.positive, rows, columns, of_rows, of_columns)


def _log_add_exp(a: Tensor, b: Tensor) -> Tensor:
    """log(eᵃ + eᵇ), whose gradient is 0, not NaN, where both are −inf."""
    top = torch.maximum(a, b).detach()
    top = top.masked_fill(top == -torch.inf, 0.0)
    total = (a - top).exp() + (b - top).exp()
    empty = total == 0
    log = total.masked_fill(empty, 1.0).log() + top
    return log.masked_fill(empty, -torch.inf)
