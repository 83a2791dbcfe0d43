"""Means of a kernel over all pairs, and the sample its bandwidth is taken from."""

from collections.abc import Callable
from typing import TypeAlias

import torch
from torch import Tensor

from xmodal_losses._core import moments
from xmodal_losses._core.reduce import inverse


class Pairs:
    """What kernels are functions of, for every row of x with every row of y.

    Computed when asked for, once: a sum of kernels shares the distances. Rows paired
    with themselves (``Pairs(x, x)``) have distances of exactly 0, without gradient.
    """

    def __init__(self, x: Tensor, y: Tensor) -> None:
        self.x, self.y = x, y
        self._squared_distance: Tensor | None = None
        self._distance: Tensor | None = None

    def inner(self) -> Tensor:
        """Return ⟨x_i, y_j⟩."""
        return self.x @ self.y.mT

    def squared_distance(self) -> Tensor:
        """Return ‖x_i − y_j‖², for kernels that are smooth in it."""
        if self._squared_distance is None:
            d2, _ = self._expanded(self.x.dtype)
            # Rounding may leave −1e-7 for 0. The clamp is hidden from the gradient:
            # where d² is lost in rounding, dk/dd²·2(x − y) is still right.
            self._squared_distance = d2 + (d2.clamp_min(0.0) - d2).detach()
        return self._squared_distance

    def distance(self) -> Tensor:
        """Return ‖x_i − y_j‖, with gradient 0 where rows coincide.

        A root turns a rounding error of 1e-7 into 3e-4, so the expansion is computed
        in float64, and what is within its rounding error of 0 is 0.
        """
        if self._distance is None:
            d2, size = self._expanded(torch.float64)
            noise = torch.finfo(d2.dtype).eps * self.x.shape[-1] ** 0.5 * 4
            same = d2.detach() <= noise * size.detach()
            d = d2.masked_fill(same, 1.0).sqrt().masked_fill(same, 0.0)
            self._distance = d.to(self.x.dtype)
        return self._distance

    def manhattan(self) -> Tensor:
        """Return ‖x_i − y_j‖₁, through an N×M×D tensor."""
        return (self.x[..., :, None, :] - self.y[..., None, :, :]).abs().sum(-1)

    def _expanded(self, dtype: torch.dtype) -> tuple[Tensor, Tensor]:
        """Return ‖x‖² + ‖y‖² − 2⟨x, y⟩, and the size of what cancels in it.

        The rows are measured from the mean of x: far from the origin all would cancel.
        """
        x, y = self.x.to(dtype), self.y.to(dtype)
        centre = x.detach().mean(-2, keepdim=True)
        x, y = x - centre, y - centre
        size = (x * x).sum(-1)[..., :, None] + (y * y).sum(-1)[..., None, :]
        d2 = size - 2 * (x @ y.mT)
        if self.x is self.y:
            itself = torch.eye(d2.shape[-1], dtype=torch.bool, device=d2.device)
            d2 = d2.masked_fill(itself, 0.0)
        return d2, size


Kernel: TypeAlias = Callable[[Pairs], Tensor]


def kernel_mean(
    kernel: Kernel,
    x: Tensor,
    y: Tensor,
    weight_x: Tensor | None = None,
    weight_y: Tensor | None = None,
    *,
    skip_diagonal: bool = False,
) -> Tensor:
    """Return the (weighted) mean of k(x_i, y_j) over all pairs, shape ``(…)``.

    With ``skip_diagonal`` the pairs (i, i) do not count. Without any pair of positive
    weight the mean is 0.
    """
    n, m = x.shape[-2], y.shape[-2]
    k = kernel(Pairs(x, y))
    if skip_diagonal:
        k = k.masked_fill(torch.eye(n, m, dtype=torch.bool, device=k.device), 0.0)
    if weight_x is None and weight_y is None:
        return k.sum((-2, -1)) / (n * m - (n if skip_diagonal else 0))
    w_x = x.new_ones(x.shape[:-1]) if weight_x is None else weight_x
    w_y = y.new_ones(y.shape[:-1]) if weight_y is None else weight_y
    total = w_x.sum(-1) * w_y.sum(-1)
    if skip_diagonal:
        total = total - (w_x * w_y).sum(-1)
    weighted = (w_x[..., None, :] @ k @ w_y[..., :, None]).squeeze((-2, -1))
    return weighted * inverse(total)


class Pool:
    """The pooled sample: where it lies, and what bandwidth rules look at.

    It takes no part in gradients. With weights, the rows of positive weight are the
    sample, each counted once.
    """

    def __init__(self, z: Tensor, weight: Tensor | None = None) -> None:
        self.valid = None if weight is None else weight != 0
        self.moments = moments.moments(z.detach(), self.valid)
        self._mean: Tensor | None = None
        self._median: Tensor | None = None

    def mean(self) -> Tensor:
        """Return the mean of the sample, ``(…, 1, D)``."""
        return (self.moments.origin + self.moments.mean).unsqueeze(-2)

    def mean_squared_distance(self) -> Tensor:
        """Return the mean of ‖z_i − z_j‖² over i ≠ j, ``(…)``: twice the trace of S."""
        if self._mean is None:
            self._mean = 2 * moments.variance(self.moments).sum(-1)
        return self._mean

    def median_squared_distance(self) -> Tensor:
        """Return the median of ‖z_i − z_j‖² over i < j, ``(…)``; holds all pairs."""
        if self._median is None:
            z = moments.drop(self.moments.rows, self.valid)
            n = z.shape[-2]
            i, j = torch.triu_indices(n, n, 1, device=z.device)
            d2 = Pairs(z, z).squared_distance()[..., i, j]
            if self.valid is None:
                pairs = d2.new_full((*d2.shape[:-1], 1), d2.shape[-1], dtype=torch.long)
            else:
                kept = self.valid[..., i] & self.valid[..., j]
                d2 = d2.masked_fill(~kept, torch.inf)
                pairs = kept.sum(-1, keepdim=True)
            # The two in the middle, which are one for an odd number of pairs.
            middle = torch.cat(((pairs - 1) // 2, pairs // 2), -1).clamp_min(0)
            median = d2.sort(-1).values.gather(-1, middle).mean(-1)
            self._median = median.masked_fill(pairs.squeeze(-1) == 0, 0.0)
        return self._median
