"""Canonical correlations of covariances: the singular values of a whitened product.

With Cholesky factors L_a L_aᵀ = C_aa + r·I, L_b L_bᵀ = C_bb + r·I they are those of

    T = L_a⁻¹ C_ab L_b⁻ᵀ = U diag(ρ) Vᵀ,

and the canonical directions are A = L_a⁻ᵀU, B = L_b⁻ᵀV.
"""

from typing import Any

import torch
from torch import Tensor
from torch.linalg import solve_triangular

from xmodal_losses._core.function import Function
from xmodal_losses._core.linalg import cholesky


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
    return solve_triangular(l_b, half.mT, upper=False).mT, l_a, l_b


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
