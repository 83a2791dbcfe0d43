"""Weighted means of logits: what soft targets pull a row to.

With weights T of the pairs, the sums of a row's logits are

    Σ_j T_ij ⟨x_i, y_j⟩ = ⟨x_i, Σ_j T_ij y_j⟩ ,

so that no logit is made: rows are mixed, by a tile of the weights at a time. Weights
are constants to the gradient.
"""

from collections.abc import Sequence
from typing import Any, NamedTuple

import torch
from torch import Tensor

from xmodal_losses._core import precision, reduce
from xmodal_losses._core.function import Function
from xmodal_losses._core.pairs.across_ranks import Walk, left_out_across_ranks
from xmodal_losses._core.pairs.contrast import Contrast
from xmodal_losses._core.pairs.left_out import TENSORS, LeftOut
from xmodal_losses._core.pairs.products import add_product, cat, joined, take
from xmodal_losses._core.pairs.tiles import Tiling, square
from xmodal_losses._core.ranks import refuse_twice


class Weights(NamedTuple):
    """The weights of the pairs of G problems: 0 of those left out."""

    dense: Tensor | None  # (G, N, M), of all others; None: 1, also of partners
    spread: float | None  # or a Gaussian of the distance of positions
    partners: bool  # whether these are among the pairs; what is dense tells itself
    left_out: LeftOut

    def tile(self, groups: slice, i: slice, j: slice, like: Tensor) -> Tensor:
        """Return the weights of a tile."""
        mask = self.left_out.tile(groups, i, j, like)
        if self.dense is not None:
            out = self.dense[groups, i, j].to(like.dtype)
            return out if mask is None else out.masked_fill(mask, 0.0)
        shape = (groups.stop - groups.start, i.stop - i.start, j.stop - j.start)
        out = like.new_ones(shape)
        if self.spread is not None:
            out = self._gaussian(groups, i, j, self.spread).to(like.dtype)
        if mask is not None:
            out = out.masked_fill(mask, 0.0)
        offset = i.start - j.start
        if self.left_out.paired and -shape[1] < offset < shape[2]:
            own = out.diagonal(offset, 1, 2)
            own = torch.full_like(own, float(self.partners))
            out = out.diagonal_scatter(own, offset, 1, 2)
        return out

    def _gaussian(self, groups: slice, i: slice, j: slice, spread: float) -> Tensor:
        x, y = self.left_out.positions, self.left_out.positions_y
        assert x is not None
        y = x if y is None else y
        gap = (x[groups, i, None] - y[groups, None, j]) / spread
        return (-gap.square().sum(-1) / 2).exp()


def uniform_mean(contrast: Contrast) -> Tensor:
    """Return the mean logit of a row's negatives and partner, (directions, …, N)."""
    with precision.no_autocast(contrast.x):
        x, y, left_out = contrast.ready()
        cross = contrast.negatives == "cross"
        weights = Weights(None, None, True, left_out)
        sums = _sums(contrast, x, y, weights, None if cross else contrast.walk)
        if cross:
            weights = Weights(None, None, False, left_out.across())
            x, y = x.transpose(0, 1), y.transpose(0, 1)
            sums = sums + _sums(contrast, x, y, weights, contrast.walk).mT
        return _mean(contrast, sums)[0]


def weighted_mean(
    contrast: Contrast,
    targets: Tensor | None,
    jitter: float | None,
    spread: float | None,
) -> tuple[Tensor, Tensor]:
    """Return the weighted mean logit of a row, and whether any of its weights is > 0.

    Weights are the targets ``(…, N, N)``, or those of positions within the jitter; they
    are of pairs of one group.
    """
    contrast = contrast.replaced(negatives="group", exclude=None, ids=None, kept=None)
    if targets is not None:
        contrast = contrast.replaced(positions=None)
    else:
        contrast = contrast.replaced(radius=jitter, kept_radius=None, only=True)
    with precision.no_autocast(contrast.x):
        x, y, left_out = contrast.ready()
        dense = None if targets is None else contrast.flat(targets)
        weights = Weights(dense, spread, True, left_out)
        walk = contrast.walk if contrast.x.ndim == 2 else None
        return _mean(contrast, _sums(contrast, x, y, weights, walk))


def _mean(contrast: Contrast, sums: Tensor) -> tuple[Tensor, Tensor]:
    sums = sums.reshape(*sums.shape[:2], *contrast.x.shape[:-1])
    return sums[0] * reduce.inverse(sums[1]), sums[1] > 0


def _sums(
    contrast: Contrast, x: Tensor, y: Tensor, weights: Weights, walk: Walk | None
) -> Tensor:
    """Return the sums of weighted logits, and of weights, (2, directions, G, N)."""
    everyone = None if walk is None else _across_ranks(weights, walk)
    n = x.shape[1] if walk is None else max(walk.counts)
    tiling = square(n, n, contrast.chunk_size, x)
    out = []
    for own, other, back in ((x, y, False), (y, x, True))[: 1 + contrast.both]:
        other = torch.cat((other, torch.ones_like(other[..., :1])), -1)
        if walk is None:
            mixed = _Mixed.call(other, back, tiling, *weights[:3], *weights.left_out)
        else:
            mixed = _MixedAcrossRanks.call(other, back, tiling, everyone, walk)
        total = (own * mixed[..., :-1]).sum(-1)
        out.append(torch.stack((total, mixed[..., -1])))
    return torch.stack(out, 1)


def _across_ranks(weights: Weights, walk: Walk) -> list[Weights]:
    """Return the weights of own rows and the columns of every rank."""
    dense: Sequence[Tensor | None] = [None] * walk.ranks.size
    if weights.dense is not None:
        dense = torch.split(weights.dense, list(walk.counts), -1)
    left_out = left_out_across_ranks(weights.left_out, walk)
    return [
        Weights(dense_q, weights.spread, weights.partners, left_out_q)
        for dense_q, left_out_q in zip(dense, left_out, strict=True)
    ]


class _Mixed(Function):
    """T z, or Tᵀ z: each is the gradient of the other."""

    @staticmethod
    def forward(
        z: Tensor,
        back: bool,
        tiling: Tiling,
        dense: Tensor | None,
        spread: float | None,
        partners: bool,
        *left_out: Any,
    ) -> Tensor:
        weights = Weights(dense, spread, partners, LeftOut(*left_out))
        return _mixed(z, z.shape[1], weights, tiling, back)

    @staticmethod
    def setup_context(ctx: Any, inputs: Any, output: Any) -> None:
        _, ctx.back, ctx.tiling, dense, ctx.spread, ctx.partners, *left_out = inputs
        ctx.save_for_backward(dense, *left_out[:TENSORS])
        ctx.numbers = left_out[TENSORS:]

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> Any:
        dense, *told = ctx.saved_tensors
        rest = (dense, ctx.spread, ctx.partners, *told, *ctx.numbers)
        out = _Mixed.call(grad, not ctx.back, ctx.tiling, *rest)
        return out, None, None, *(None for _ in rest)


class _MixedAcrossRanks(Function):
    @staticmethod
    def forward(
        z: Tensor, back: bool, tiling: Tiling, weights: Sequence[Weights], walk: Walk
    ) -> Tensor:
        return _mixed_across_ranks(z, back, tiling, weights, walk)

    @staticmethod
    def setup_context(ctx: Any, inputs: Any, output: Any) -> None:
        _, ctx.back, *ctx.rest = inputs

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> Any:
        refuse_twice()
        out = _mixed_across_ranks(grad, not ctx.back, *ctx.rest)
        return out, None, None, None, None


def _mixed_across_ranks(
    z: Tensor, back: bool, tiling: Tiling, weights: Sequence[Weights], walk: Walk
) -> Tensor:
    """Return T z of own rows, or the own columns of Tᵀ z, z of all ranks."""
    ranks, counts = walk.ranks, walk.counts
    if not back:
        out = torch.zeros_like(z)
        for whose, block in walk.in_turn(z):
            if z.shape[1] and block.shape[1]:
                out = out + _mixed(block, z.shape[1], weights[whose], tiling, back)
        return out

    def part(whose: int) -> Tensor:
        if not z.shape[1] or not counts[whose]:
            return z.new_zeros(z.shape[0], counts[whose], z.shape[2])
        return _mixed(z, counts[whose], weights[whose], tiling, back)

    if not walk.ring(z):
        return ranks.scatter_sum([part(whose) for whose in range(ranks.size)], 1)
    out = torch.zeros_like(z)
    for step in range(ranks.size):
        whose = (ranks.rank - step) % ranks.size
        out = out + part(whose)
        # After the last step it is handed to whom it belongs.
        shape = (z.shape[0], counts[(whose - 1) % ranks.size], z.shape[2])
        out = ranks.pass_on(out, shape)
    return out


def _mixed(z: Tensor, n: int, weights: Weights, tiling: Tiling, back: bool) -> Tensor:
    """Return T z, T with n rows, or Tᵀ z, T with n columns."""
    rows, columns = (z.shape[1], n) if back else (n, z.shape[1])
    problems = []
    for groups in tiling.over_groups(z.shape[0]):
        parts: dict[int, Tensor] = {}
        for i in tiling.over_rows(rows):
            for j in tiling.over_columns(columns):
                t = weights.tile(groups, i, j, z)
                if back:
                    add_product(parts, j, t.mT, take(z, groups, i))
                else:
                    add_product(parts, i, t, take(z, groups, j))
        problems.append(joined(parts))
    return cat(problems, 0)
