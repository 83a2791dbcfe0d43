"""Small operations with a defined value and gradient at their singular points."""

from typing import Any

import torch
from torch import Tensor

from xmodal_losses._core.function import Function


def negligible(scale: Tensor, dtype: torch.dtype | None = None) -> Tensor:
    """Tell which sizes are 0, or so small that a gradient over them overflows.

    Args:
        scale: Sizes.
        dtype: That of the gradient; None: that of the sizes.
    """
    return scale < 1024 * torch.finfo(dtype or scale.dtype).tiny


class _Unit(Function):
    """Vectors of one length, and the factors they were made with."""

    @staticmethod
    def forward(z: Tensor, dim: int, length: float) -> tuple[Tensor, Tensor]:
        return unit_and_factor(z, dim, length)

    @staticmethod
    def setup_context(ctx: Any, inputs: Any, output: Any) -> None:
        _, ctx.dim, ctx.length = inputs
        ctx.set_materialize_grads(False)
        ctx.save_for_backward(*output)

    @staticmethod
    def backward(ctx: Any, grad_u: Tensor | None, grad_factor: Tensor | None) -> Any:
        u, factor = ctx.saved_tensors
        grad = None
        if grad_u is not None:
            grad = unit_gradient(u, factor, grad_u, ctx.dim, ctx.length)
        if grad_factor is not None:  # in second derivatives only
            # df = −f² ⟨u, dz⟩/length²
            radial = (grad_factor * factor.square() * ctx.length**-2) * u
            grad = -radial if grad is None else grad - radial
        return grad, None, None


def unit_and_factor(z: Tensor, dim: int, length: float) -> tuple[Tensor, Tensor]:
    """Return u = f z of the given length along ``dim``, and f, 0 for a zero vector."""
    # A direction has no scale: the largest entry is divided out first, so that no
    # square overflows or underflows.
    scale = z.abs().amax(dim, keepdim=True)
    zero = negligible(scale)
    scale = scale.masked_fill(zero, 1.0)
    u = z / scale
    factor = torch.linalg.vector_norm(u, 2, dim, keepdim=True).reciprocal_()
    factor = factor.masked_fill(zero, 0.0)
    if length != 1:
        factor *= length
    return u.mul_(factor), factor / scale


def unit_gradient(
    u: Tensor, factor: Tensor, grad: Tensor, dim: int, length: float
) -> Tensor:
    """Return the gradient in z, given that in u = f z: f (dz − u ⟨u, dz⟩/length²)."""
    along = (grad * u).sum(dim, keepdim=True)
    if length != 1:
        along = along * length**-2
    return (u * along).sub_(grad).mul_(-factor)


def unit(z: Tensor, dim: int, length: float = 1) -> Tensor:
    """Return z / ‖z‖ along ``dim``; a zero vector becomes zero and gets no gradient.

    The usual ``z / max(‖z‖, 1e-12)`` hands a zero vector a gradient of order 1e12.
    Another length than 1 costs nothing.
    """
    # The default is an int: of a float torch.compile makes a symbol if shapes are
    # dynamic, and fails at the second call.
    u: Tensor = unit_with_factor(z, dim, length)[0]
    return u


def unit_with_factor(z: Tensor, dim: int, length: float) -> tuple[Tensor, Tensor]:
    """Return :func:`unit`, and the factor, both to be differentiated."""
    return _Unit.call(z, dim, length)  # type: ignore[no-any-return]


def sqrt(x: Tensor) -> Tensor:
    """Return √x with gradient 0 (not infinite) where x = 0."""
    zero = x <= 0
    return x.masked_fill(zero, 1.0).sqrt().masked_fill(zero, 0.0)


class _Within(Function):
    """Clamp whose gradient is stopped only where it would lead further outside."""

    @staticmethod
    def forward(x: Tensor, low: float, high: float) -> Tensor:
        return x.clamp(low, high)

    @staticmethod
    def setup_context(ctx: Any, inputs: Any, output: Any) -> None:
        x, ctx.low, ctx.high = inputs
        ctx.save_for_backward(x)

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> Any:
        (x,) = ctx.saved_tensors
        # A descent step moves x against the gradient.
        outward = ((x <= ctx.low) & (grad > 0)) | ((x >= ctx.high) & (grad < 0))
        return grad.masked_fill(outward, 0.0), None, None


def within(x: Tensor, low: float, high: float) -> Tensor:
    """Clamp a parameter to ``[low, high]`` without trapping it there.

    ``torch.clamp`` has gradient 0 outside the range: a parameter that stepped over
    the limit would never come back.
    """
    out: Tensor = _Within.call(x, low, high)
    return out


def cholesky(c: Tensor, ridge: float | Tensor) -> Tensor:
    """Return the lower factor of C + ridge·I, kept positive definite under rounding.

    The ridge is a number, or one for each problem ``(…)``.

    Where rows are fewer than columns, C has eigenvalues a rounding error below 0, which
    the ridge does not make up for if the entries are large. What is added is the
    :func:`guard`, and 1 where C and the ridge are both 0. Failure is not looked for,
    which would stall the device.
    """
    diagonal = guard(c) + ridge
    diagonal = diagonal.masked_fill(diagonal <= 0, 1.0)
    eye = torch.eye(c.shape[-1], dtype=c.dtype, device=c.device)
    factor: Tensor = torch.linalg.cholesky_ex(c + diagonal[..., None, None] * eye).L
    return factor


def guard(c: Tensor) -> Tensor:
    """Return 4D·eps·‖C‖, ``(…)``: what eigenvalues of C are known to, with a margin."""
    size = c.detach().diagonal(dim1=-2, dim2=-1).amax(-1)
    return 4 * c.shape[-1] * torch.finfo(c.dtype).eps * size
