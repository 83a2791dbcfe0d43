"""The quadratic form of the MMD over batches that lie on several ranks.

A rank goes through the pairs of its own rows with all rows. The kernel is symmetric, so
that it sees every pair its rows are in, and has their whole gradient: nothing is sent
back. Pairs of two ranks are made on both.
"""

from collections.abc import Iterator, Sequence
from typing import Any, NamedTuple

import torch
from torch import Tensor

from xmodal_losses._core import precision
from xmodal_losses._core.function import Function
from xmodal_losses._core.pairs import gaussians
from xmodal_losses._core.pairs.across_ranks import Walk
from xmodal_losses._core.pairs.gaussians import Mixture
from xmodal_losses._core.pairs.kernel_mean import Kernel, kernel_sum
from xmodal_losses._core.pairs.tiles import square
from xmodal_losses._core.ranks import Ranks, once, refuse_twice
from xmodal_losses._core.reduce import inverse


class Batch(NamedTuple):
    """Rows of one rank, and their weights."""

    rows: Tensor  # (n, D)
    weight: Tensor | None  # (n,)


def discrepancy_across_ranks(
    kernel: Kernel | Mixture,
    x: Batch,
    y: Batch,
    *,
    inside: bool,
    across: bool,
    chunk_size: int | None,
    walks: tuple[Walk, Walk],
) -> Tensor:
    """Return mean k(x, x′) + mean k(y, y′) − 2 mean k(x, y) over the rows of all ranks.

    Args:
        kernel: As for one process.
        x: Rows of this rank. Weights get no gradient.
        y: Rows of this rank.
        inside: Leave out the pairs (x_i, x_i) and (y_i, y_i).
        across: Leave out the pairs (x_i, y_i), which are on one rank.
        chunk_size: Edge of the tiles; None chooses.
        walks: How the rows x, and y, of other ranks come.
    """
    ranks = walks[0].ranks
    share = _shares(x, y, inside, across, ranks)
    if callable(kernel):
        part = _part(kernel, x, y, share, inside, across, chunk_size, walks)
        # The gradient of what all ranks return is that of W times the loss.
        value = ranks.sum(part)
        return value + ranks.size * (once(part) - part.detach())
    longest = max(max(walk.counts) for walk in walks)
    tiling = square(longest, longest, chunk_size, x.rows)
    plan = gaussians.Plan(tiling, inside, across)
    value, *_ = _Gaussians.call(
        x.rows, y.rows, x.weight, y.weight, share, kernel, plan, walks
    )
    return value  # type: ignore[no-any-return]


def _shares(x: Batch, y: Batch, inside: bool, across: bool, ranks: Ranks) -> Tensor:
    """Return one over Σ w_i v_j of the pairs (x, x), (y, y) and (x, y) that count."""
    (w, v), dtype = (_weights(batch) for batch in (x, y)), precision.sum_dtype(x.rows)
    w, v = w.to(dtype), v.to(dtype)
    both = w @ v if across else w.new_zeros(())
    n, nn, m, mm, nm = ranks.sum(torch.stack((w.sum(), w @ w, v.sum(), v @ v, both)))
    return inverse(torch.stack((n * n - inside * nn, m * m - inside * mm, n * m - nm)))


def _weights(batch: Batch) -> Tensor:
    if batch.weight is None:
        return batch.rows.new_ones(batch.rows.shape[0])
    return batch.weight


def _others(batch: Batch, walk: Walk) -> Iterator[tuple[int, Batch]]:
    """Yield the rows of every rank, and whose they are, as constants."""
    weights: Sequence[Tensor | None] = [None] * walk.ranks.size
    if batch.weight is not None:
        weights = walk.ranks.gather(batch.weight, walk.counts, 0)
    for whose, rows in walk.in_turn(batch.rows.unsqueeze(0)):
        yield whose, Batch(rows[0], weights[whose])


def _part(
    kernel: Kernel,
    x: Batch,
    y: Batch,
    share: Tensor,
    inside: bool,
    across: bool,
    chunk_size: int | None,
    walks: tuple[Walk, Walk],
) -> Tensor:
    """Return a part of the discrepancy: those of all ranks add up to it.

    Pairs of two ranks are in the parts of both, one half in each, so that their
    gradient has to be doubled for rows, and not for parameters of the kernel.
    """
    share = share.to(x.rows.dtype)
    rank = walks[0].ranks.rank
    doubled = [batch._replace(rows=_doubled(batch.rows)) for batch in (x, y)]

    def total(a: Batch, b: Batch, skip: bool = False) -> Tensor:
        if not a.rows.shape[0] or not b.rows.shape[0]:
            return share.new_zeros(())
        return kernel_sum(kernel, a.rows, b.rows, a.weight, b.weight, skip, chunk_size)

    # Without rows, what is returned still has to have a backward pass.
    out = sum(batch.rows.sum() for batch in (x, y) if not batch.rows.shape[0])
    out = out + share[0] * total(x, x, inside) + share[1] * total(y, y, inside)
    out = out - 2 * share[2] * total(x, y, across)
    for whose, other in _others(x, walks[0]):
        if whose != rank:
            out = out + share[0] * total(doubled[0], other)
            out = out - share[2] * total(doubled[1], other)
    for whose, other in _others(y, walks[1]):
        if whose != rank:
            out = out + share[1] * total(doubled[1], other)
            out = out - share[2] * total(doubled[0], other)
    return out


def _doubled(z: Tensor) -> Tensor:
    """Return z, with twice its gradient."""
    return z + (z - z.detach())


class _Gaussians(Function):
    @staticmethod
    def forward(
        x: Tensor,
        y: Tensor,
        weight_x: Tensor | None,
        weight_y: Tensor | None,
        share: Tensor,
        mixture: Mixture,
        plan: gaussians.Plan,
        walks: tuple[Walk, Walk],
    ) -> tuple[Tensor, Tensor, Tensor]:
        ranks = walks[0].ranks
        batches = Batch(x, weight_x), Batch(y, weight_y)
        own = [_prepared(batch) for batch in batches]
        total = share.new_zeros(())
        grads = [torch.zeros_like(x), torch.zeros_like(y)]
        for of, (batch, walk) in enumerate(zip(batches, walks, strict=True)):
            for whose, other in _others(batch, walk):
                b = _prepared(other)
                for k in (0, 1):  # the own rows of x, then of y, with these
                    a, here, alike = own[k], whose == ranks.rank, k == of
                    if not a.rows.shape[1] or not b.rows.shape[1]:
                        continue
                    itself = alike and here
                    value, grad, _ = gaussians.pair_sum(
                        a,
                        None if itself else b,
                        mixture,
                        plan.tiling,
                        plan.inside if itself else plan.across and here,
                        (True, False),
                    )
                    assert grad is not None
                    s = share[k] if alike else -share[2]
                    total = total + s * value.sum()
                    grads[k] += (2 * s * grad[0]).to(x.dtype)
        return ranks.sum(total).to(x.dtype), grads[0], grads[1]

    @staticmethod
    def setup_context(ctx: Any, inputs: Any, output: Any) -> None:
        ctx.size = inputs[-1][0].ranks.size
        ctx.mark_non_differentiable(*output[1:])
        ctx.save_for_backward(*output[1:])

    @staticmethod
    def backward(ctx: Any, grad: Tensor, *_: Any) -> Any:
        refuse_twice()
        grad_x, grad_y = ctx.saved_tensors
        grad = ctx.size * grad
        return grad * grad_x, grad * grad_y, *(None,) * 6


def _prepared(batch: Batch) -> gaussians.Rows:
    weight = None if batch.weight is None else batch.weight.unsqueeze(0)
    return gaussians.prepared(batch.rows.unsqueeze(0), weight, slice(0, 1))
