"""Sums of a mixture of Gaussian kernels over all pairs, with their gradient, in tiles.

One pass over the unordered pairs makes value and gradient: half the tiles of what is
symmetric, and of each tile the distances, one exponential, and the products with both
batches. 3·(N+M)²·D operations and a tile of memory.
"""

from typing import Any, NamedTuple

import torch
from torch import Tensor

from xmodal_losses._core import precision
from xmodal_losses._core.function import Function
from xmodal_losses._core.pairs.products import add_product, cat, joined, product, take
from xmodal_losses._core.pairs.tiles import Tiling


class Mixture(NamedTuple):
    """The kernel Σ_u w_u exp(−m_u d²/2), with 1 = m_0 ≤ m_1 ≤ …."""

    multiples: tuple[float, ...]
    weights: tuple[float, ...]


class Plan(NamedTuple):
    """How to go through the pairs, and which do not count."""

    tiling: Tiling
    inside: bool  # leave out (x_i, x_i) and (y_i, y_i)
    across: bool  # leave out (x_i, y_i)


class Rows(NamedTuple):
    """A batch, and what is known of its rows."""

    rows: Tensor  # (G, N, D)
    half: Tensor  # (G, N, 1): ½‖x‖²
    weight: Tensor | None  # (G, N)
    weighted: Tensor  # (G, N, D): w · x


def discrepancy(
    mixture: Mixture,
    x: Tensor,
    y: Tensor,
    weight_x: Tensor | None,
    weight_y: Tensor | None,
    share: Tensor,
    plan: Plan,
) -> Tensor:
    """Return s_0 Σ k(x, x′) + s_1 Σ k(y, y′) − 2 s_2 Σ k(x, y) of G problems, ``(G,)``.

    Args:
        mixture: The kernel. Rows are in units of its largest bandwidth.
        x: ``(G, N, D)``.
        y: ``(G, M, D)``.
        weight_x: ``(G, N)``: a pair counts by the product. Gets no gradient.
        weight_y: ``(G, M)``.
        share: s ``(3, G)``. Gets no gradient.
        plan: How to go through the pairs.
    """
    recording = torch.is_grad_enabled()
    need = recording and x.requires_grad, recording and y.requires_grad
    value, *_ = _Discrepancy.call(x, y, weight_x, weight_y, share, mixture, plan, need)
    return value  # type: ignore[no-any-return]


class _Discrepancy(Function):
    @staticmethod
    def forward(x: Tensor, y: Tensor, *rest: Any) -> tuple[Tensor, ...]:
        return _evaluate(x, y, *rest)

    @staticmethod
    def setup_context(ctx: Any, inputs: Any, output: Any) -> None:
        *tensors, ctx.mixture, ctx.plan, ctx.need = inputs
        ctx.mark_non_differentiable(*output[1:])
        ctx.save_for_backward(*tensors, *output[1:])

    @staticmethod
    def backward(ctx: Any, grad: Tensor, *_: Any) -> Any:
        x, y, w_x, w_y, share, grad_x, grad_y = ctx.saved_tensors
        need: tuple[bool, bool] = ctx.need
        if torch.is_grad_enabled():
            # The gradients at hand are constants. For derivatives of them, they are
            # made again from x and y.
            need = True, True
            grad_x, grad_y = _evaluate(
                x, y, w_x, w_y, share, ctx.mixture, ctx.plan, need
            )[1:]
        grad = grad[:, None, None]
        grad_x = grad * grad_x if need[0] else None
        grad_y = grad * grad_y if need[1] else None
        return grad_x, grad_y, *(None,) * 6


def _evaluate(
    x: Tensor,
    y: Tensor,
    weight_x: Tensor | None,
    weight_y: Tensor | None,
    share: Tensor,
    mixture: Mixture,
    plan: Plan,
    need: tuple[bool, bool],
) -> tuple[Tensor, Tensor, Tensor]:
    """Return the value and, where needed, its gradients in x and y."""
    values: list[Tensor] = []
    grads_x: list[Tensor] = []
    grads_y: list[Tensor] = []
    for groups in plan.tiling.over_groups(x.shape[0]):
        a, b = prepared(x, weight_x, groups), prepared(y, weight_y, groups)
        tiling, inside = plan.tiling, plan.inside
        xy, xy_a, xy_b = pair_sum(a, b, mixture, tiling, plan.across, need)
        xx, xx_a, _ = pair_sum(a, None, mixture, tiling, inside, (need[0], False))
        yy, yy_b, _ = pair_sum(b, None, mixture, tiling, inside, (need[1], False))
        # The three are nearly one where the batches are alike.
        s = share[:, groups].to(xx.dtype)
        values.append(s[0] * xx + s[1] * yy - 2 * s[2] * xy)
        s = 2 * share[:, groups, None, None]
        if xx_a is not None and xy_a is not None:
            grads_x.append(torch.addcmul(s[0] * xx_a, xy_a, s[2], value=-1))
        if yy_b is not None and xy_b is not None:
            grads_y.append(torch.addcmul(s[1] * yy_b, xy_b, s[2], value=-1))
    nothing = x.new_empty(0)
    return (
        cat(values, 0).to(x.dtype),
        cat(grads_x, 0) if grads_x else nothing,
        cat(grads_y, 0) if grads_y else nothing,
    )


def prepared(z: Tensor, weight: Tensor | None, groups: slice) -> Rows:
    """Return some of the problems, ready for :func:`pair_sum`."""
    z = take(z, groups, slice(0, z.shape[1]))
    half = z.square().sum(-1, keepdim=True) / 2
    if weight is None:
        return Rows(z, half, None, z)
    weight = weight[groups]
    return Rows(z, half, weight, weight.unsqueeze(-1) * z)


def pair_sum(
    a: Rows,
    b: Rows | None,
    mixture: Mixture,
    tiling: Tiling,
    skip: bool,
    need: tuple[bool, bool],
) -> tuple[Tensor, Tensor | None, Tensor | None]:
    """Return Σ w_i v_j k(a_i, b_j), and its gradients; b None is a itself.

    Of a with itself the gradient is one half of that, as if the other a were a
    constant. ``skip`` leaves out the pairs (i, i).
    """
    other = a if b is None else b
    total: Tensor | float = 0.0
    # Σ_j v_j k′_ij b_j and Σ_j v_j k′_ij of the rows of a; the same of b.
    pull_a: dict[int, Tensor] = {}
    mass_a: dict[int, Tensor] = {}
    pull_b: dict[int, Tensor] = {}
    mass_b: dict[int, Tensor] = {}
    for i in tiling.over_rows(a.rows.shape[1]):
        for j in tiling.over_rows(other.rows.shape[1]):
            if b is None and j.start < i.start:
                continue  # the mirror image of a tile that was
            mirrored = b is None and j.start > i.start
            t = _exponents(a, other, i, j, (b is None or skip) and i.start == j.start)
            value, slope = _kernel(t, a, other, i, j, mixture, any(need))
            total = total + (2 * value if mirrored else value)
            if need[0]:
                _add(pull_a, mass_a, i, slope, other, j)
                if mirrored:
                    _add(pull_a, mass_a, j, slope.mT, a, i)
            if need[1]:
                _add(pull_b, mass_b, j, slope.mT, a, i)
    assert isinstance(total, Tensor)
    if b is None and not skip:
        of_itself = sum(mixture.weights)
        if a.weight is None:
            total = total + of_itself * a.rows.shape[1]
        else:
            total = total + of_itself * a.weight.to(total.dtype).square().sum(-1)
    return (
        total,
        _gradient(a, pull_a, mass_a) if need[0] else None,
        _gradient(other, pull_b, mass_b) if need[1] else None,
    )


def _exponents(a: Rows, b: Rows, i: slice, j: slice, diagonal: bool) -> Tensor:
    """Return −½‖a_i − b_j‖² of a tile; with ``diagonal``, −inf for the pairs (i, i)."""
    everything = slice(0, a.rows.shape[0])
    t = product(take(a.rows, everything, i), take(b.rows, everything, j).mT)
    t = t.sub_(a.half[:, i]).sub_(b.half[:, j].mT)
    # Rounding may leave 1e-7 for 0, and more far from the origin. The clamp is hidden
    # from derivatives: where d² is lost in rounding, those in it are still right.
    twice = torch.is_grad_enabled()
    t = t - t.detach().clamp_min(0.0) if twice else t.clamp_max_(0.0)
    if diagonal:
        t.diagonal(0, 1, 2).fill_(-torch.inf)
    return t


def _kernel(
    t: Tensor,
    a: Rows,
    b: Rows,
    i: slice,
    j: slice,
    mixture: Mixture,
    need: bool,
) -> tuple[Tensor, Tensor]:
    """Return Σ w_i v_j k_ij of a tile, ``(G,)``, and dk/dt."""
    of_rows: Tensor | float = 0.0
    slope = t
    s, last = t, 0.0
    for u, (m, weight) in enumerate(zip(*mixture, strict=True)):
        if u and abs(m / last - 2) < 1e-9:
            s = s * s  # bandwidths² a factor of 2 apart
        else:
            s = (t * m).exp_() if m != 1 else t.exp()
        last = m
        of_rows = of_rows + weight * _row_sums(s, b.weight, j)
        if need:
            slope = s * (weight * m) if u == 0 else slope.add_(s, alpha=weight * m)
    assert isinstance(of_rows, Tensor)
    of_rows = of_rows.to(precision.sum_dtype(t))
    if a.weight is not None:
        of_rows = a.weight[:, i] * of_rows
    return of_rows.sum(-1), slope


def _row_sums(t: Tensor, weight: Tensor | None, columns: slice) -> Tensor:
    if weight is None:
        return t.sum(-1)
    return (t @ weight[:, columns, None]).squeeze(-1)


def _add(
    pull: dict[int, Tensor],
    mass: dict[int, Tensor],
    at: slice,
    slope: Tensor,
    other: Rows,
    columns: slice,
) -> None:
    everything = slice(0, slope.shape[0])
    add_product(pull, at, slope, take(other.weighted, everything, columns))
    of_rows = _row_sums(slope, other.weight, columns)
    mass[at.start] = of_rows if at.start not in mass else mass[at.start] + of_rows


def _gradient(a: Rows, pull: dict[int, Tensor], mass: dict[int, Tensor]) -> Tensor:
    """Return w_i Σ_j v_j k′_ij (b_j − a_i)."""
    grad = joined(pull).addcmul(a.rows, joined(mass).unsqueeze(-1), value=-1)
    return grad if a.weight is None else a.weight.unsqueeze(-1) * grad
