"""How far similarities across modalities are from those within, over all pairs of rows.

Of unit rows u and v in two modalities, Δ_ij = ⟨u_i, v_j⟩ − ½⟨u_i, u_j⟩ − ½⟨v_i, v_j⟩ is
one inner product of twice the width, ½⟨(g_i, −u_i), (v_j, g_j)⟩ with g = u − v. Nothing
cancels in it where the modalities agree. One pass over the tiles of Δ makes the value
Σ |Δ_ij|^(2+γ) and its gradient.
"""

from collections.abc import Sequence
from typing import Any, NamedTuple

import torch
from torch import Tensor

from xmodal_losses._core import precision
from xmodal_losses._core.function import Function
from xmodal_losses._core.pairs.across_ranks import Walk
from xmodal_losses._core.pairs.products import add_product, cat, joined, product, take
from xmodal_losses._core.pairs.tiles import Tiling, square
from xmodal_losses._core.ranks import refuse_twice
from xmodal_losses._core.reduce import inverse


class Plan(NamedTuple):
    """What to sum, and how to go through the pairs."""

    tiling: Tiling
    gamma: float
    detached: bool  # similarities within a modality are constants to the gradient


class Rows(NamedTuple):
    """Paired unit rows, and what they are multiplied with; each ``(G, N, …)``."""

    u: Tensor
    v: Tensor
    left: Tensor  # Δ_ij = ⟨left_i, right_j⟩
    right: Tensor
    weight: Tensor | None
    # Where Δ_ij has the slope s_ij, row i gets Σ_j s_ij of_rows_j, column j
    # Σ_i s_ij of_columns_i; both u and v are rows and columns if nothing is detached.
    of_rows: Tensor
    of_columns: Tensor


def similarity_gap(
    u: Tensor,
    v: Tensor,
    weight: Tensor | None,
    *,
    gamma: float,
    detached: bool,
    chunk_size: int | None,
    walk: Walk | None,
) -> Tensor:
    """Return Σ w_i w_j |Δ_ij|^(2+γ) / (Σw)², ``(…)``, or 0 if Σw = 0.

    Args:
        u: Unit rows of one modality, ``(…, N, D)``, or rows of zeros.
        v: Those of the other; rows of one index belong together.
        weight: ``(…, N)``. Gets no gradient.
        gamma: γ ≥ 0.
        detached: The similarities within a modality are constants to the gradient.
        chunk_size: Edge of the tiles; None chooses.
        walk: How the rows of other ranks come, if they are of one problem.
    """
    n = u.shape[-2]
    wide = precision.sum_dtype(u)
    if weight is None:
        total = u.new_full(u.shape[:-2], n, dtype=wide)
    else:
        total = weight.to(wide).sum(-1)
    if walk is not None:
        total = walk.ranks.sum(total)
        n = max(walk.counts)
    share = inverse(total.detach().square()).reshape(-1)
    plan = Plan(square(max(n, 1), max(n, 1), chunk_size, u), gamma, detached)
    lead, recording = u.shape[:-2], torch.is_grad_enabled()
    need = recording and u.requires_grad, recording and v.requires_grad
    if not detached:
        need = any(need), any(need)
    u, v = (z.reshape(lead.numel(), *z.shape[-2:]) for z in (u, v))
    weight = None if weight is None else weight.detach().reshape(u.shape[:-1])
    function = _Gap if walk is None else _GapAcrossRanks
    value, *_ = function.call(u, v, weight, share, plan, need, walk)
    return value.reshape(lead)  # type: ignore[no-any-return]


class _Gap(Function):
    @staticmethod
    def forward(
        u: Tensor,
        v: Tensor,
        weight: Tensor | None,
        share: Tensor,
        plan: Plan,
        need: tuple[bool, bool],
        walk: None,
    ) -> tuple[Tensor, Tensor, Tensor]:
        return _evaluate(u, v, weight, share, plan, need)

    @staticmethod
    def setup_context(ctx: Any, inputs: Any, output: Any) -> None:
        *tensors, ctx.plan, ctx.need, _ = inputs
        ctx.mark_non_differentiable(*output[1:])
        ctx.save_for_backward(*tensors, *output[1:])

    @staticmethod
    def backward(ctx: Any, grad: Tensor, *_: Any) -> Any:
        u, v, weight, share, grad_u, grad_v = ctx.saved_tensors
        need: tuple[bool, bool] = ctx.need
        if torch.is_grad_enabled():
            # The gradients at hand are constants. For derivatives of them, they are
            # made again from the rows.
            need = True, True
            grad_u, grad_v = _evaluate(u, v, weight, share, ctx.plan, need)[1:]
        grad = grad[:, None, None]
        return (
            grad * grad_u if need[0] else None,
            grad * grad_v if need[1] else None,
            *(None,) * 5,
        )


class _GapAcrossRanks(Function):
    """Pairs of the own rows with all rows, both ways: nothing has to be sent back."""

    @staticmethod
    def forward(
        u: Tensor,
        v: Tensor,
        weight: Tensor | None,
        share: Tensor,
        plan: Plan,
        need: tuple[bool, bool],
        walk: Walk,
    ) -> tuple[Tensor, Tensor, Tensor]:
        ranks = walk.ranks
        own = _prepared(u, v, weight, plan)
        weights: Sequence[Tensor | None] = [None] * ranks.size
        if weight is not None:
            weights = ranks.gather(weight, walk.counts, 1)
        total, wanted = share.new_zeros(1), any(need)
        grad_u, grad_v = torch.zeros_like(u), torch.zeros_like(v)
        for whose, block in walk.in_turn(torch.cat((u, v), -1)):
            if not u.shape[1] or not block.shape[1]:
                continue
            if whose == ranks.rank:
                value, rows, columns = _pair_sum(own, own, plan, (wanted, wanted))
            else:
                there_u, there_v = torch.chunk(block, 2, -1)
                other = _prepared(there_u, there_v, weights[whose], plan)
                value, rows, _ = _pair_sum(own, other, plan, (wanted, False))
                _, _, columns = _pair_sum(other, own, plan, (False, wanted))
            total = total + value
            part_u, part_v = _gradients(rows, columns, weight, share, plan)
            if part_u is not None and part_v is not None:
                grad_u, grad_v = grad_u + part_u, grad_v + part_v
        return ranks.sum(total * share).to(u.dtype), grad_u, grad_v

    @staticmethod
    def setup_context(ctx: Any, inputs: Any, output: Any) -> None:
        ctx.size = inputs[-1].ranks.size
        ctx.mark_non_differentiable(*output[1:])
        ctx.save_for_backward(*output[1:])

    @staticmethod
    def backward(ctx: Any, grad: Tensor, *_: Any) -> Any:
        refuse_twice()
        grad_u, grad_v = ctx.saved_tensors
        grad = ctx.size * grad[:, None, None]
        return grad * grad_u, grad * grad_v, *(None,) * 5


def _evaluate(
    u: Tensor,
    v: Tensor,
    weight: Tensor | None,
    share: Tensor,
    plan: Plan,
    need: tuple[bool, bool],
) -> tuple[Tensor, Tensor, Tensor]:
    """Return the values ``(G,)`` and, where needed, their gradients in u and v."""
    values: list[Tensor] = []
    grads_u: list[Tensor] = []
    grads_v: list[Tensor] = []
    for groups in plan.tiling.over_groups(u.shape[0]):
        w = None if weight is None else weight[groups]
        everything = slice(0, u.shape[1])
        pair = _prepared(
            take(u, groups, everything), take(v, groups, everything), w, plan
        )
        value, rows, columns = _pair_sum(pair, pair, plan, need)
        values.append(value * share[groups])
        of_u, of_v = _gradients(rows, columns, w, share[groups], plan)
        if of_u is not None:
            grads_u.append(of_u)
        if of_v is not None:
            grads_v.append(of_v)
    nothing = u.new_empty(0)
    return (
        cat(values, 0).to(u.dtype),
        cat(grads_u, 0) if grads_u else nothing,
        cat(grads_v, 0) if grads_v else nothing,
    )


def _prepared(u: Tensor, v: Tensor, weight: Tensor | None, plan: Plan) -> Rows:
    gap = u - v
    of_rows, of_columns = v, u
    if not plan.detached:
        of_rows = torch.cat((v - u / 2, -v / 2), -1)
        of_columns = torch.cat((u - v / 2, -u / 2), -1)
    if weight is not None:
        of_rows = weight.unsqueeze(-1) * of_rows
        of_columns = weight.unsqueeze(-1) * of_columns
    left, right = torch.cat((gap, -u), -1) / 2, torch.cat((v, gap), -1)
    return Rows(u, v, left, right, weight, of_rows, of_columns)


def _pair_sum(
    x: Rows, y: Rows, plan: Plan, need: tuple[bool, bool]
) -> tuple[Tensor, Tensor | None, Tensor | None]:
    """Return Σ w_i w_j |Δ_ij|^(2+γ) over rows of x and columns of y, ``(G,)``.

    And, where needed, what rows and columns get by the slopes Δ_ij |Δ_ij|^γ, without
    their own weight.
    """
    total: Tensor | float = 0.0
    of_rows: dict[int, Tensor] = {}
    of_columns: dict[int, Tensor] = {}
    everything = slice(0, x.u.shape[0])
    for i in plan.tiling.over_rows(x.u.shape[1]):
        for j in plan.tiling.over_columns(y.u.shape[1]):
            gap = _gap(x, y, i, j, plan.detached)
            slope = gap if plan.gamma == 0 else gap * _power(gap, plan.gamma)
            total = total + _weighted(slope * gap, x, y, i, j)
            if need[0]:
                add_product(of_rows, i, slope, take(y.of_rows, everything, j))
            if need[1]:
                add_product(of_columns, j, slope.mT, take(x.of_columns, everything, i))
    assert isinstance(total, Tensor)
    return (
        total,
        joined(of_rows) if need[0] else None,
        joined(of_columns) if need[1] else None,
    )


def _weighted(tile: Tensor, x: Rows, y: Rows, i: slice, j: slice) -> Tensor:
    """Return Σ w_i w_j t_ij of a tile, ``(G,)``."""
    if y.weight is None:
        of_rows = tile.sum(-1)
    else:
        of_rows = (tile @ y.weight[:, j, None]).squeeze(-1)
    of_rows = of_rows.to(precision.sum_dtype(tile))
    return (of_rows if x.weight is None else x.weight[:, i] * of_rows).sum(-1)


def _gap(x: Rows, y: Rows, i: slice, j: slice, detached: bool) -> Tensor:
    """Return a tile of Δ."""
    everything = slice(0, x.u.shape[0])
    left, right = take(x.left, everything, i), take(y.right, everything, j)
    if not (detached and torch.is_grad_enabled()):
        return product(left, right.mT)
    # To be differentiated: of the value, only the similarities across are no constants.
    across = product(take(x.u, everything, i), take(y.v, everything, j).mT)
    return product(left, right.mT).detach() + (across - across.detach())


def _power(gap: Tensor, gamma: float) -> Tensor:
    """Return |Δ|^γ, with gradient 0 (not infinite) where Δ = 0."""
    zero = gap == 0
    return gap.abs().masked_fill(zero, 1.0).pow(gamma).masked_fill(zero, 0.0)


def _gradients(
    rows: Tensor | None,
    columns: Tensor | None,
    weight: Tensor | None,
    share: Tensor,
    plan: Plan,
) -> tuple[Tensor | None, Tensor | None]:
    """Return the gradients in u and v, given what the rows and columns get."""
    of_u, of_v = rows, columns
    if not plan.detached and rows is not None and columns is not None:
        rows_u, rows_v = torch.chunk(rows, 2, -1)
        columns_v, columns_u = torch.chunk(columns, 2, -1)
        of_u, of_v = rows_u + columns_u, rows_v + columns_v
    factor = (2 + plan.gamma) * share[:, None, None]
    if weight is not None:
        factor = factor * weight.unsqueeze(-1)
    return _times(factor, of_u), _times(factor, of_v)


def _times(factor: Tensor, grad: Tensor | None) -> Tensor | None:
    return None if grad is None else factor.to(grad.dtype) * grad
