"""A tile of the logits, its exponentials, and their sums along both sides."""

from collections.abc import Iterator
from typing import NamedTuple

import torch
from torch import Tensor

from xmodal_losses._core import precision
from xmodal_losses._core.pairs.left_out import LeftOut
from xmodal_losses._core.pairs.products import product
from xmodal_losses._core.pairs.tiles import Tiling


class Plan(NamedTuple):
    """How to go through the logits, and what is asked of them."""

    tiling: Tiling
    both: bool  # columns, too
    bounded: bool  # |logit| ≤ BOUND
    measured: bool = False  # both sides of N = M rows, in square tiles
    narrow: bool = False  # operands of products in bfloat16
    softplus: bool = False  # sums of softplus in place of log-sum-exps
    shift: float = 0.0  # of all logits

    def merged(self, a: Tensor, b: Tensor) -> Tensor:
        """Return the total of two parts whose totals are known."""
        return a + b if self.softplus else torch.logaddexp(a, b)


# exp(±40) is far from both ends of float32, and so is a sum of any number of them: up
# to here exponentials need no shift by the maximum, and rows and columns share them.
BOUND = 40.0


def logits(
    x: Tensor,
    y: Tensor,
    left_out: LeftOut,
    plan: Plan,
    groups: slice,
    i: slice,
    j: slice,
) -> tuple[Tensor, Tensor | None]:
    """Return a tile of the logits, −inf where no negative, and its positives if any.

    x and y are the rows of the tile, the slices say where it lies.
    """
    t = product(x, y.mT)
    if plan.shift:
        t = t + plan.shift
    on = None
    offset = i.start - j.start
    if left_out.paired and -t.shape[-2] < offset < t.shape[-1]:  # it meets the diagonal
        diagonal = t.diagonal(offset, 1, 2)
        on = diagonal.clone()
        diagonal.fill_(-torch.inf)
    mask = left_out.tile(groups, i, j, t)
    if left_out.floor is not None:
        low = t < left_out.floor[groups, i, None]
        mask = low if mask is None else mask | low
    return (t if mask is None else t.masked_fill(mask, -torch.inf)), on


class Side(NamedTuple):
    """The exponentials of a tile, as rows or as columns see them."""

    exp: Tensor  # (G, N, M): exp(logits − shift)
    total: Tensor  # (G, N) or (G, M): their sums
    log: Tensor  # the log-sum-exps
    shift: Tensor | None = None  # of the sides; None is 0


def exponentials(t: Tensor, plan: Plan) -> Iterator[Side]:
    """Yield what is known of the rows, and maybe columns; overwrites the logits."""
    dims = (-1, -2) if plan.both else (-1,)
    if plan.bounded:
        t = t.exp_()
    for dim in dims:
        if plan.bounded:
            total = t.sum(dim)
            yield Side(t, total, total.log())
        else:
            # The maximum; where all are −inf, a finite number.
            shift = t.amax(dim, keepdim=True).clamp_min(torch.finfo(t.dtype).min)
            e = (t.sub_(shift) if dim == dims[-1] else t - shift).exp_()
            total, shift = e.sum(dim), shift.squeeze(dim)
            yield Side(e, total, total.log() + shift, shift)


def totals(t: Tensor, plan: Plan) -> list[Tensor]:
    """Return the totals of the rows and maybe columns; may overwrite the logits."""
    if plan.softplus:
        t = precision.softplus(t)
        return [t.sum(dim) for dim in ((-1, -2) if plan.both else (-1,))]
    return [side.log for side in exponentials(t, plan)]
