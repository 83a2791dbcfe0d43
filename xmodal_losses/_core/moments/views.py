"""Second moments of any number of batches of paired rows, some rows missing in some.

Rows of view j have the weights s = w·mask_j. About their mean and over the root of the
divisor they are X_j = √(s/dof_j)·(Z_j − mean_j): X_jᵀX_j is the covariance of the view,
and X_iᵀX_j has a term for each row that both have. All views side by side, X is
``(…, N, ΣD)``; a block of rows at a time is widened, and nothing is N × N.
"""

from collections.abc import Sequence
from typing import Any, NamedTuple

import torch
from torch import Tensor

from xmodal_losses._core.moments.accumulated import symmetric, triangle
from xmodal_losses._core.moments.rows import drop
from xmodal_losses._core.moments.view_products import (
    ROWS,
    Along,
    FourthMoment,
    OneWidth,
    Products,
    blocks,
)
from xmodal_losses._core.parts import split
from xmodal_losses._core.ranks import Ranks
from xmodal_losses._core.reduce import inverse


class Growth(NamedTuple):
    """K directions in all views, and what a function of the moments does along them.

    The function grows with f = Σ_k slope_k·(‖Xb_k‖² − λ_k Σ_j ‖X_j b_jk‖²) −
    Σ_j shrink_j ‖X_j‖²: it has the gradient of f. All are constants.
    """

    directions: Tensor  # (…, ΣD, K)
    values: Tensor  # (…, K): λ
    slope: Tensor  # (…, K)
    shrink: Tensor  # (…, V)


class Views:
    """Paired batches through their second moments.

    Weights and masks are constants to the gradient.

    Args:
        views: Rows, ``(…, N, D_j)``.
        mask: ``(V, …, N)``, True where a view has the row; None: all rows.
        weight: ``(…, N)``, or None.
        wide: Dtype of the moments.
        ranks: Where the other rows are, if they are not all here.
    """

    def __init__(
        self,
        views: Sequence[Tensor],
        mask: Tensor | None,
        weight: Tensor | None,
        *,
        wide: torch.dtype,
        ranks: Ranks | None = None,
    ) -> None:
        self.ranks = ranks
        self.widths = [z.shape[-1] for z in views]
        weights = [_weight(z, j, mask, weight, wide) for j, z in enumerate(views)]
        self.views = [drop(z, s) for z, s in zip(views, weights, strict=True)]
        origins = _origins(self.views, weights, wide, ranks)
        for j, (z, origin) in enumerate(zip(self.views, origins, strict=True)):
            if z.dtype == wide:  # as in `products.centred`, which says why
                self.views[j], origins[j] = z - origin, torch.zeros_like(origin)
        sums = [
            part
            for z, s, origin in zip(self.views, weights, origins, strict=True)
            for part in (s.sum(-1), s.square().sum(-1), _sum(z, s, origin))
        ]
        if ranks is not None:
            sums = ranks.sums(sums)
        self.totals = sums[::3]
        self.centres = [
            origin + first * inverse(total)[..., None, None]
            for origin, first, total in zip(origins, sums[2::3], sums[::3], strict=True)
        ]
        self.scales = [
            (s * inverse(total - squared * inverse(total)).unsqueeze(-1)).sqrt()
            for s, total, squared in zip(weights, sums[::3], sums[1::3], strict=True)
        ]
        self.shares = [
            s * inverse(total).unsqueeze(-1)
            for s, total in zip(weights, self.totals, strict=True)
        ]
        self._all_there = mask is None and weight is None

    @property
    def present(self) -> Tensor | None:
        """Which problems have a row of positive weight in some view; None: all."""
        if self._all_there:
            return None
        return torch.stack(self.totals).amax(0) > 0

    def products(self) -> tuple[Tensor, Tensor]:
        """Return XᵀX ``(…, ΣD, ΣD)``, and Σ √(s_j/dof_j)·X ``(…, V, ΣD)``.

        They are constants. The latter is not 0 where a view lacks rows of another: the
        means of rows that both have are not those of all rows.
        """
        with torch.no_grad():
            parts = []
            for x, scale in blocks(self.centres, self.scales, self.views):
                left = torch.cat((x, scale), -1)
                parts.append(left.mT @ x)
            if parts:
                moments = torch.stack(parts).sum(0)
            else:  # a rank without rows
                d = sum(self.widths)
                moments = self.centres[0].new_zeros((d + len(self.widths), d))
            d = moments.shape[-1]
            both, single = moments[..., :d, :], moments[..., d:, :]
            if self.ranks is not None:
                half, single = self.ranks.sums([triangle(both), single])
                both = symmetric(half)
        return both, single

    def differentiable_products(self) -> Tensor:
        """Return XᵀX ``(…, ΣD, ΣD)``, with a gradient and no second."""
        out: Tensor = Products.call(*self.products(), *self._tensors())
        return out

    def of_one_width(self) -> tuple[Tensor, Tensor]:
        """Return Σ X_jᵀX_j ``(…, K, K)`` and ‖ΣX_j‖² ``(…)``, with no second gradient.

        All views have K columns. The former is the sum of covariances, the latter that
        of all traces, of two views and of one.
        """
        v, k = len(self.widths), self.widths[0]
        with torch.no_grad():
            shape = self.centres[0].shape[:-2]
            within = self.centres[0].new_zeros((*shape, k, k))
            total = self.centres[0].new_zeros(shape)
            single = self.centres[0].new_zeros((*shape, v, k))
            for x, scale in blocks(self.centres, self.scales, self.views):
                rows = x.reshape(*x.shape[:-1], v, k)
                stacked = rows.flatten(-3, -2)
                within = within + stacked.mT @ stacked
                rows = rows.sum(-2)
                total = total + rows.square().sum((-2, -1))
                single = single + scale.mT @ rows
            if self.ranks is not None:
                sums = self.ranks.sums([triangle(within), total, single])
                within, total, single = symmetric(sums[0]), *sums[1:]
        out = OneWidth.call(within, total, single, *self._tensors())
        return out[0], out[1]

    def fourth_moment(self) -> Tensor:
        """Return Σ_n Σ_ij ⟨X_in, X_jn⟩² of views of one width, ``(…)``, to be derived.

        There is no second derivative.
        """
        out: Tensor = FourthMoment.call(self.ranks, *self._tensors())[0]
        return out

    def along(self, value: Tensor, growth: Growth, single: Tensor) -> Tensor:
        """Return ``value`` with the gradient that ``growth`` tells, and no second."""
        out: Tensor = Along.call(value, *growth, single, *self._tensors())
        return out

    def _tensors(self) -> tuple[Any, ...]:
        """Return what the gradient is made of.

        All ranks make the same of the products: nothing has to be told in the backward
        pass, and the derivative of the sum of what they return is W times that of one.
        """
        factor = 1 if self.ranks is None else self.ranks.size
        return (factor, *self.centres, *self.scales, *self.shares, *self.views)


def _weight(
    z: Tensor, j: int, mask: Tensor | None, weight: Tensor | None, wide: torch.dtype
) -> Tensor:
    s = z.new_ones(z.shape[:-1], dtype=wide)
    if weight is not None:
        s = s * weight.detach()
    if mask is not None:
        s = s.masked_fill(~mask[j], 0.0)
    return s.to(wide)


def _origins(
    views: Sequence[Tensor],
    weights: Sequence[Tensor],
    wide: torch.dtype,
    ranks: Ranks | None,
) -> list[Tensor]:
    """Return a row of each view, the same on all ranks, to measure from.

    About it a constant column is exactly 0, and a large mean costs no digits.
    """
    origins = []
    for z, s in zip(views, weights, strict=True):
        shape = (*z.shape[:-2], 1, z.shape[-1])
        if z.shape[-2] == 0:
            origins.append(z.new_full(shape, -torch.inf, dtype=wide))
            continue
        heaviest = s.argmax(-1)[..., None, None].expand(shape)
        origin = z.detach().gather(-2, heaviest).to(wide)
        if ranks is not None:
            nothing = (s == 0).all(-1)[..., None, None]
            origin = origin.masked_fill(nothing, -torch.inf)
        origins.append(origin)
    if ranks is None:
        return origins
    return [
        origin.masked_fill(origin == -torch.inf, 0.0)
        for origin in ranks.maxima(origins)
    ]


def _sum(z: Tensor, s: Tensor, origin: Tensor) -> Tensor:
    """Return Σ s·(z − origin), ``(…, 1, D)``."""
    total = torch.zeros_like(origin)
    for block, weight in zip(
        split(z.detach(), ROWS, -2), split(s, ROWS, -1), strict=True
    ):
        total = total + weight.unsqueeze(-2) @ (block.to(origin.dtype) - origin)
    return total
