"""Canonical correlations of covariances: the singular values of a whitened product.

With Cholesky factors L_a L_aᵀ = C_aa + r·I, L_b L_bᵀ = C_bb + r·I they are those of

    T = L_a⁻¹ C_ab L_b⁻ᵀ = U diag(ρ) Vᵀ,

and the canonical directions are A = L_a⁻ᵀU, B = L_b⁻ᵀV.
"""

from collections.abc import Sequence
from typing import Any, Literal, TypeAlias

import torch
from torch import Tensor
from torch.linalg import solve_triangular

from xmodal_losses._core.function import Function
from xmodal_losses._core.linalg import cholesky, guard

RidgeScale: TypeAlias = Literal["absolute", "relative"]
RIDGE_SCALES = ("absolute", "relative")


def mean_variance(c: Tensor) -> Tensor:
    """Return tr(C)/D, ``(…)``: the unit of a relative ridge."""
    return c.diagonal(dim1=-2, dim2=-1).mean(-1)


def with_relative_ridge(c: Tensor, ridge: float) -> Tensor:
    """Return C + ridge·tr(C)/D·I."""
    eye = torch.eye(c.shape[-1], dtype=c.dtype, device=c.device)
    return c + ridge * mean_variance(c)[..., None, None] * eye


def correlations(
    c_aa: Tensor, c_bb: Tensor, c_ab: Tensor, ridge: float, k: int
) -> Tensor:
    """Return the K largest correlations, as constants."""
    with torch.no_grad():
        t, _, _ = _whiten(c_aa, c_bb, c_ab, ridge)
        rho: Tensor = torch.linalg.svdvals(t)
    return rho[..., :k]


def correlations_and_directions(
    c_aa: Tensor, c_bb: Tensor, c_ab: Tensor, ridge: float, k: int
) -> tuple[Tensor, Tensor, Tensor]:
    """Return the K largest correlations and their directions A, B, as constants.

    The gradient of a sum of f(ρ) is known from these, and has no differences of
    singular values in it, which may repeat.
    """
    with torch.no_grad():
        t, l_a, l_b = _whiten(c_aa, c_bb, c_ab, ridge)
        u, rho, vh = torch.linalg.svd(t, full_matrices=False)
        a = solve_triangular(l_a.mT, u[..., :k], upper=True)
        b = solve_triangular(l_b.mT, vh.mT[..., :k], upper=True)
    return rho[..., :k], a, b


def guard_share(c: Tensor, directions: Tensor) -> Tensor:
    """Return what the guard adds to the variance along ``(…, D, K)``, ``(…, K)``.

    Directions have the variance 1, the ridge included. Where most of it is the guard
    the modality does not vary, and the direction is arbitrary.
    """
    return guard(c).unsqueeze(-1) * directions.square().sum(-2)


def sum_of_squares(c_aa: Tensor, c_bb: Tensor, c_ab: Tensor, ridge: float) -> Tensor:
    """Return Σρ² = ‖T‖²_F, which needs no decomposition but Cholesky's."""
    total: Tensor = _SumOfSquares.call(c_aa, c_bb, c_ab, ridge)[0]
    return total


def _whiten(
    c_aa: Tensor, c_bb: Tensor, c_ab: Tensor, ridge: float
) -> tuple[Tensor, Tensor, Tensor]:
    """Return T and the factors L_a, L_b."""
    l_a, l_b = cholesky(c_aa, ridge), cholesky(c_bb, ridge)
    half = solve_triangular(l_a, c_ab, upper=False)
    t = solve_triangular(l_b, half.mT, upper=False).mT
    if ridge == 0:
        t = _without_guard(t, l_a, guard(c_aa))
        t = _without_guard(t.mT, l_b, guard(c_bb)).mT
    return t, l_a, l_b


def _without_guard(t: Tensor, factor: Tensor, amount: Tensor) -> Tensor:
    """Take the guard of a Cholesky factor back from what was divided by the factor.

    Where columns depend on others, both of what is divided and what it is divided by
    are rounding, and correlations of some hundredths come of it. With the share x of
    the guard in the variance along a direction, t is multiplied by (1 − x)²(1 + 5x/2):
    nothing is left where all is guard, and of all other directions the loss of x/2 is
    made up for.
    """

    def shares(t: Tensor) -> Tensor:  # x of t: g L⁻¹L⁻ᵀt
        half = solve_triangular(factor.mT, t, upper=True)
        whole: Tensor = solve_triangular(factor, half, upper=False)
        return amount[..., None, None] * whole

    for _ in range(2):
        t = t - shares(t)
    return t + 2.5 * shares(t)


class _SumOfSquares(Function):
    """‖T‖²: with H = L_a⁻ᵀT and K = L_b⁻ᵀTᵀ the gradient is −HHᵀ, −KKᵀ and 2L_a⁻ᵀKᵀ."""

    @staticmethod
    def forward(
        c_aa: Tensor, c_bb: Tensor, c_ab: Tensor, ridge: float
    ) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        t, l_a, l_b = _whiten(c_aa, c_bb, c_ab, ridge)
        return t.square().sum((-2, -1)), t, l_a, l_b

    @staticmethod
    def setup_context(ctx: Any, inputs: Any, output: Any) -> None:
        *covariances, ctx.ridge = inputs
        ctx.mark_non_differentiable(*output[1:])
        ctx.save_for_backward(*covariances, *output[1:])

    @staticmethod
    def backward(ctx: Any, grad: Tensor, *_: Any) -> Any:
        c_aa, c_bb, c_ab, t, l_a, l_b = ctx.saved_tensors
        if torch.is_grad_enabled():
            t, l_a, l_b = _whiten(c_aa, c_bb, c_ab, ctx.ridge)
        grad = grad[..., None, None]
        h = solve_triangular(l_a.mT, t, upper=True)
        k = solve_triangular(l_b.mT, t.mT, upper=True)
        across = solve_triangular(l_a.mT, k.mT, upper=True)
        return -grad * (h @ h.mT), -grad * (k @ k.mT), 2 * grad * across, None


def eigenvalues(
    products: Tensor, widths: Sequence[int], ridges: Sequence[float | Tensor], k: int
) -> Tensor:
    """Return the K largest λ of Cb = λDb, where C needs no gradient.

    C are the products of all views, and D the ridged covariances on its diagonal: the
    eigenvalues of the sum of the (ridged) projections onto the views.
    """
    whitened, _ = _whiten_all(products, widths, ridges)
    values: Tensor = torch.linalg.eigvalsh(whitened)
    return values[..., -k:].flip(-1)


def eigenvalues_and_directions(
    products: Tensor, widths: Sequence[int], ridges: Sequence[float | Tensor], k: int
) -> tuple[Tensor, Tensor]:
    """Return the K largest λ, and their b ``(…, ΣD, K)`` with bᵀDb = 1, as constants.

    dλ = bᵀ(dC − λ dD)b, so that a sum of λ has a gradient without differences of
    eigenvalues, which may repeat.
    """
    with torch.no_grad():
        whitened, factors = _whiten_all(products, widths, ridges)
        values, vectors = torch.linalg.eigh(whitened)
        parts = torch.split(vectors[..., -k:].flip(-1), list(widths), -2)
        directions = [
            solve_triangular(factor.mT, part, upper=True)
            for factor, part in zip(factors, parts, strict=True)
        ]
    return values[..., -k:].flip(-1), torch.cat(directions, -2)


def own_blocks(products: Tensor, widths: Sequence[int]) -> list[Tensor]:
    """Return the covariances of the views, on the diagonal of all products."""
    blocks, start = [], 0
    for width in widths:
        end = start + width
        blocks.append(products[..., start:end, start:end])
        start = end
    return blocks


def _whiten_all(
    products: Tensor, widths: Sequence[int], ridges: Sequence[float | Tensor]
) -> tuple[Tensor, list[Tensor]]:
    """Return L⁻¹CL⁻ᵀ, and the factors L_j of the ridged diagonal blocks."""
    own = own_blocks(products, widths)
    factors = [cholesky(c, ridge) for c, ridge in zip(own, ridges, strict=True)]
    whitened = products
    for _ in range(2):  # rows, then columns
        rows = list(torch.split(whitened, list(widths), -2))
        for j, (factor, ridge) in enumerate(zip(factors, ridges, strict=True)):
            rows[j] = solve_triangular(factor, rows[j], upper=False)
            if not isinstance(ridge, Tensor) and ridge == 0:
                rows[j] = _without_guard(rows[j], factor, guard(own[j]))
        whitened = torch.cat(rows, -2).mT
    return whitened, factors
