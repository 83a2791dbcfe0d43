"""Each row's hardest negatives: above what logit they are."""

import torch
from torch import Tensor

from xmodal_losses._core import precision
from xmodal_losses._core.pairs.across_ranks import Walk, left_out_across_ranks
from xmodal_losses._core.pairs.contrast import Contrast
from xmodal_losses._core.pairs.left_out import LeftOut
from xmodal_losses._core.pairs.logits import Plan, logits
from xmodal_losses._core.pairs.products import cat, operand, take
from xmodal_losses._core.pairs.tiles import square


def floor(contrast: Contrast, count: int) -> Tensor:
    """Return a number ``(…, N)`` that so many logits of a row's negatives are above.

    It is −inf where there are no more than these. It lies midway to the next one, so
    that rounding does not matter where logits are made again; ties are kept together.
    """
    with torch.no_grad(), precision.no_autocast(contrast.x):
        x, y, left_out = contrast.ready()
        cross = contrast.negatives == "cross"
        walk = None if cross else contrast.walk
        found = [_largest(contrast, x, y, left_out, count + 1, walk)]
        if cross:
            x, y = x.transpose(0, 1), y.transpose(0, 1)
            across = left_out.across()
            more = _largest(contrast, x, y, across, count + 1, contrast.walk)
            found.append(more.transpose(0, 1))
        shape = (*contrast.x.shape[:-1], count + 1)
        found = [part.reshape(shape) for part in found]
        extra = contrast.extra_problem(of_x=True)
        if extra is not None:
            part = _largest(contrast, *extra, count + 1, None)
            found.append(part.reshape(shape))
        largest = torch.cat(found, -1).topk(count + 1, -1).values
        return (largest[..., count - 1] + largest[..., count]) / 2


def _largest(
    contrast: Contrast,
    x: Tensor,
    y: Tensor,
    left_out: LeftOut,
    count: int,
    walk: Walk | None,
) -> Tensor:
    """Return the largest logits of every row, ``(G, N, count)``, −inf where none is."""
    x, y = x.detach(), y.detach()
    if walk is None:
        blocks = [(y, left_out)]
    else:
        everyone = left_out_across_ranks(left_out, walk)
        blocks = [(block, everyone[whose]) for whose, block in walk.in_turn(y)]
    out = x.new_full((*x.shape[:2], count), -torch.inf)
    for block, told in blocks:
        if x.shape[1] and block.shape[1]:
            tiling = square(x.shape[1], block.shape[1], contrast.chunk_size, x)
            plan = contrast.plan(tiling)
            more = _of_block(x, block, told, plan, count)
            out = torch.cat((out, more), -1).topk(count, -1).values
    return out


def _of_block(x: Tensor, y: Tensor, told: LeftOut, plan: Plan, count: int) -> Tensor:
    problems = []
    for groups in plan.tiling.over_groups(x.shape[0]):
        rows = []
        for i in plan.tiling.over_rows(x.shape[1]):
            x_i = operand(take(x, groups, i), plan.narrow)
            best = []
            for j in plan.tiling.over_columns(y.shape[1]):
                y_j = operand(take(y, groups, j), plan.narrow)
                t, _ = logits(x_i, y_j, told, plan, groups, i, j)
                best.append(t.topk(min(count, t.shape[-1]), -1).values)
            found = cat(best, -1)
            rows.append(found.topk(min(count, found.shape[-1]), -1).values)
        problems.append(cat(rows, 1))
    return cat(problems, 0)
