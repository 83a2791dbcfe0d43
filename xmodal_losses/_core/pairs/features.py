"""Kernels that are inner products of features: sums over pairs from sums over rows."""

from collections.abc import Callable, Sequence

import torch
from torch import Tensor

from xmodal_losses._core import precision
from xmodal_losses._core.pairs.kernel_mean import Pairs
from xmodal_losses._core.ranks import Ranks, once
from xmodal_losses._core.reduce import inverse


class Features:
    """The kernel ⟨f(x), f(y)⟩.

    Args:
        of: f, from rows ``(…, N, D)`` to their features ``(…, N, F)``.
    """

    def __init__(self, of: Callable[[Tensor], Tensor]) -> None:
        self.of = of

    def __call__(self, pairs: Pairs) -> Tensor:
        """Return the matrix, as other kernels do."""
        x = self.of(pairs.x)
        return Pairs(x, x if pairs.y is pairs.x else self.of(pairs.y)).inner()


def feature_discrepancy(
    kernel: Features,
    x: Tensor,
    y: Tensor,
    weight_x: Tensor | None,
    weight_y: Tensor | None,
    *,
    inside: bool,
    across: bool,
    ranks: Ranks | None = None,
) -> Tensor:
    """Return mean k(x, x′) + mean k(y, y′) − 2 mean k(x, y), ``(…)``.

    As :func:`~xmodal_losses._core.pairs.discrepancy`, in O((N + M)·F); of rows that lie
    on several ranks, from the sums of all.
    """
    f, g = kernel.of(x), kernel.of(y)
    # What is left of the sums is often small beside them.
    wide = precision.sum_dtype(x)
    parts = [*_sums(f, weight_x, wide), *_sums(g, weight_y, wide)]
    if across:
        parts += _diagonal(f, g, weight_x, weight_y, wide)
    if ranks is not None:
        # The gradient of what all ranks return is that of W times the loss.
        parts = [
            total + ranks.size * (once(part) - part.detach())
            for total, part in zip(ranks.sums(parts), parts, strict=True)
        ]
    (s, w, ss, ww), (t, v, tt, vv) = parts[:4], parts[4:8]
    if not inside:
        gap = s * inverse(w).unsqueeze(-1) - t * inverse(v).unsqueeze(-1)
        return gap.square().sum(-1).to(x.dtype)
    both, pair = parts[8:] if across else (0.0, 0.0)
    xx = ((s * s).sum(-1) - ss) * inverse(w * w - ww)
    yy = ((t * t).sum(-1) - tt) * inverse(v * v - vv)
    xy = ((s * t).sum(-1) - both) * inverse(w * v - pair)
    return (xx + yy - 2 * xy).to(x.dtype)


def _sums(f: Tensor, weight: Tensor | None, dtype: torch.dtype) -> Sequence[Tensor]:
    """Return Σ w f ``(…, F)``, and Σ w, Σ w²‖f‖² and Σ w² ``(…)``."""
    squares = f.square().sum(-1)
    if weight is None:
        count = f.new_full(f.shape[:-2], f.shape[-2], dtype=dtype)
        return f.sum(-2, dtype=dtype), count, squares.sum(-1, dtype=dtype), count
    w = weight.to(dtype)
    return (
        (weight.unsqueeze(-1) * f).sum(-2, dtype=dtype),
        w.sum(-1),
        (w * w * squares).sum(-1),
        (w * w).sum(-1),
    )


def _diagonal(
    f: Tensor,
    g: Tensor,
    weight_x: Tensor | None,
    weight_y: Tensor | None,
    dtype: torch.dtype,
) -> Sequence[Tensor]:
    """Return Σ w_i v_i ⟨f_i, g_i⟩ and Σ w_i v_i."""
    products = (f * g).sum(-1).to(dtype)
    w = products.new_ones(products.shape)
    for weight in (weight_x, weight_y):
        w = w if weight is None else w * weight.to(dtype)
    return (w * products).sum(-1), w.sum(-1)
