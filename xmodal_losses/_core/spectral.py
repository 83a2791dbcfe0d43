"""Distances of two covariances that take their eigenvalues, with known gradients.

Derivatives of eigenvectors have 1/(λ_i − λ_j) in them, and are infinite where
eigenvalues repeat. Those of the distances have not, and are written down here: nothing
that is decomposed is differentiated. Matrices are symmetric, ``(…, D, D)``; of
eigenvalues a rounding error below 0, 0 is meant.
"""

from typing import Any

import torch
from torch import Tensor

from xmodal_losses._core.function import Function, once

_TWICE = (
    "coral: metric must be 'frobenius' or 'root' for second derivatives, got "
    "'log_euclidean' or 'bures'."
)


def log_euclidean(a: Tensor, b: Tensor, ridge: float) -> Tensor:
    """Return ‖log(A + ridge·I) − log(B + ridge·I)‖²_F, ``(…)``."""
    with torch.no_grad():
        (x, u), (y, v) = _eigen(a), _eigen(b)
        gap = _with_values((x + ridge).log(), u) - _with_values((y + ridge).log(), v)
        slopes = 2 * _log_slope(gap, x, u, ridge), -2 * _log_slope(gap, y, v, ridge)
        value = gap.square().sum((-2, -1))
    return _known(value, a, b, *slopes)


def bures(a: Tensor, b: Tensor) -> Tensor:
    """Return tr A + tr B − 2 tr (A^½ B A^½)^½, ``(…)``.

    With A^½ B^½ = U diag(σ) Vᵀ it is ‖A^½ U − B^½ V‖²_F, a sum of squares that keeps
    its digits where A ≈ B. The slope by A is I − T, where T = A^-½ U Vᵀ B^½ moves the
    one Gaussian on to the other. T is infinite where A lacks a direction that B has;
    rows X with XᵀX = A do not have it, either, and X·T is finite: such directions are
    left out of A^-½, and those without a σ of U Vᵀ.
    """
    with torch.no_grad():
        root_a, inverse_a, within_a = _roots(a)
        root_b, inverse_b, within_b = _roots(b)
        u, sigma, vh = torch.linalg.svd(root_a @ root_b)
        value = (root_a @ u - root_b @ vh.mT).square().sum((-2, -1))
        size = root_a.norm(dim=(-2, -1)) * root_b.norm(dim=(-2, -1))
        u = u.masked_fill(_none(sigma, size)[..., None, :], 0.0)
        to_b = inverse_a @ (u @ vh) @ root_b
        to_a = inverse_b @ (u @ vh).mT @ root_a
        slopes = _slope(to_b, within_a), _slope(to_a, within_b)
    return _known(value, a, b, *slopes)


def _eigen(c: Tensor) -> tuple[Tensor, Tensor]:
    values, vectors = torch.linalg.eigh(c)
    return values.clamp_min(0.0), vectors


def _with_values(values: Tensor, vectors: Tensor) -> Tensor:
    return (vectors * values.unsqueeze(-2)) @ vectors.mT


def _log_slope(h: Tensor, x: Tensor, u: Tensor, ridge: float) -> Tensor:
    """Return the gradient of ⟨H, log C⟩ by C (Daleckii & Krein).

    Between eigenvalues it is H times (log λ_i − log λ_j)/(λ_i − λ_j), or 1/λ_i where
    they agree. As log1p(r)/(r·λ_j) with r = (λ_i − λ_j)/λ_j it cancels nowhere.
    """
    x_i, x_j = x.unsqueeze(-1), x.unsqueeze(-2)
    smaller = torch.minimum(x_i, x_j) + ridge
    r = (x_i - x_j).abs() / smaller
    same = r == 0
    quotient = (r.log1p() / r.masked_fill(same, 1.0)).masked_fill(same, 1.0) / smaller
    return u @ (quotient * (u.mT @ h @ u)) @ u.mT


def _roots(c: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """Return C^½, C^-½ and the projection, on to the directions that C has."""
    values, vectors = _eigen(c)
    none = _none(values, values.amax(-1))
    root = values.masked_fill(none, 0.0).sqrt()
    inverse = values.masked_fill(none, torch.inf).rsqrt()
    parts = (root, inverse, (~none).to(c.dtype))
    root, inverse, within = (_with_values(part, vectors) for part in parts)
    return root, inverse, within


def _none(values: Tensor, size: Tensor) -> Tensor:
    """Tell which values are 0, up to the rounding of what is of so large a size."""
    rounding = 16 * values.shape[-1] * torch.finfo(values.dtype).eps
    return values <= rounding * size.unsqueeze(-1)


def _slope(t: Tensor, within: Tensor) -> Tensor:
    """Return I − S with the symmetric S that has X·S = X·T for all rows X within.

    T itself is symmetric where nothing is left out.
    """
    s = t + t.mT - t @ within
    return torch.eye(t.shape[-1], dtype=t.dtype, device=t.device) - s


def _known(value: Tensor, a: Tensor, b: Tensor, *slopes: Tensor) -> Tensor:
    out: Tensor = _Known.call(a, b, value, *slopes)
    return out


class _Known(Function):
    """A function of A and B whose value and slopes are known, and no second ones."""

    @staticmethod
    def forward(a: Tensor, b: Tensor, value: Tensor, *slopes: Tensor) -> Tensor:
        return value.clone()

    @staticmethod
    def setup_context(ctx: Any, inputs: Any, output: Any) -> None:
        a, b, _, *slopes = inputs
        ctx.save_for_backward(a, b, *slopes)

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> Any:
        a, b, *slopes = ctx.saved_tensors
        grads = tuple(grad[..., None, None] * slope for slope in slopes)
        return *once(_TWICE, grads, (a, b)), None, None, None
