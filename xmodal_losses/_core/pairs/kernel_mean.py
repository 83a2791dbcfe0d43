"""Means of a kernel over all pairs of rows."""

from collections.abc import Callable
from typing import Any, TypeAlias

import torch
from torch import Tensor
from torch.utils.checkpoint import checkpoint

from xmodal_losses._core.function import Function
from xmodal_losses._core.pairs.tiles import edge, whole
from xmodal_losses._core.reduce import inverse


class Pairs:
    """What kernels are functions of, for every row of x with every row of y.

    Computed when asked for, once: a sum of kernels shares the distances. Rows paired
    with themselves (``Pairs(x, x)``) have distances of exactly 0, without gradient.

    Args:
        x: Rows ``(…, N, D)``.
        y: Rows ``(…, M, D)``.
    """

    def __init__(self, x: Tensor, y: Tensor) -> None:
        self.x, self.y = x, y
        self._squared_distance: Tensor | None = None
        self._distance: Tensor | None = None

    def columns(self, start: int, stop: int) -> "Pairs":
        """Return the same pairs, seen by some of their columns."""
        x = self.x[..., start:stop]
        return Pairs(x, x if self.y is self.x else self.y[..., start:stop])

    def inner(self) -> Tensor:
        """Return ⟨x_i, y_j⟩."""
        # An alias, as torch.compile wants the inputs of a function to be different.
        y = self.y.view_as(self.y) if self.x is self.y else self.y
        return inner(self.x, y)

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
        d2 = size - 2 * inner(x, y)
        if self.x is self.y:
            itself = torch.eye(d2.shape[-1], dtype=torch.bool, device=d2.device)
            d2 = d2.masked_fill(itself, 0.0)
        return d2, size


class _Inner(Function):
    @staticmethod
    def forward(x: Tensor, y: Tensor) -> Tensor:
        return x @ y.mT

    @staticmethod
    def setup_context(ctx: Any, inputs: Any, output: Any) -> None:
        ctx.save_for_backward(*inputs)

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> Any:
        x, y = ctx.saved_tensors
        need_x, need_y = ctx.needs_input_grad
        return grad @ y if need_x else None, grad.mT @ x if need_y else None


def inner(x: Tensor, y: Tensor) -> Tensor:
    """Return ⟨x_i, y_j⟩, as ``x @ y.mT``, with products that keep their dtype."""
    if not (x.requires_grad or y.requires_grad):
        return x @ y.mT  # torch.compile of 2.4 wants a gradient of every function
    out: Tensor = _Inner.call(x, y)
    return out


Kernel: TypeAlias = Callable[[Pairs], Tensor]


def kernel_mean(
    kernel: Kernel,
    x: Tensor,
    y: Tensor,
    weight_x: Tensor | None = None,
    weight_y: Tensor | None = None,
    skip_diagonal: bool = False,
    *,
    chunk_size: int | None = None,
) -> Tensor:
    """Return the (weighted) mean of k(x_i, y_j) over all pairs, shape ``(…)``.

    With ``skip_diagonal`` the pairs (i, i) do not count. Without any pair of positive
    weight the mean is 0. What is large is made in tiles, in the backward pass once
    more; of rows with themselves (``y is x``) only half.
    """
    pairs = x, y, weight_x, weight_y, skip_diagonal
    return kernel_sum(kernel, *pairs, chunk_size) * inverse(pair_weight(*pairs))


def kernel_sum(
    kernel: Kernel,
    x: Tensor,
    y: Tensor,
    weight_x: Tensor | None,
    weight_y: Tensor | None,
    skip_diagonal: bool,
    chunk_size: int | None,
) -> Tensor:
    """Return Σ w_i v_j k(x_i, y_j) over the pairs that count, ``(…)``."""
    pairs = x, y, weight_x, weight_y, skip_diagonal
    if x.shape[-2] * y.shape[-2] <= whole(x, chunk_size) ** 2:
        return _kernel_sum(kernel, *pairs)
    return _tiled_sum(kernel, *pairs, edge(x, chunk_size))


def pair_weight(
    x: Tensor,
    y: Tensor,
    weight_x: Tensor | None,
    weight_y: Tensor | None,
    skip_diagonal: bool,
) -> Tensor:
    """Return Σ w_i v_j over the pairs that count, ``(…)``."""
    n, m = x.shape[-2], y.shape[-2]
    if weight_x is None and weight_y is None:
        return x.new_full(x.shape[:-2], n * m - (n if skip_diagonal else 0))
    w_x = x.new_ones(x.shape[:-1]) if weight_x is None else weight_x
    w_y = y.new_ones(y.shape[:-1]) if weight_y is None else weight_y
    total = w_x.sum(-1) * w_y.sum(-1)
    return total - (w_x * w_y).sum(-1) if skip_diagonal else total


def _tiled_sum(
    kernel: Kernel,
    x: Tensor,
    y: Tensor,
    weight_x: Tensor | None,
    weight_y: Tensor | None,
    skip_diagonal: bool,
    size: int,
) -> Tensor:
    def parts(z: Tensor, weight: Tensor | None) -> list[tuple[Tensor, Tensor | None]]:
        rows = torch.split(z, size, -2)
        if weight is None:
            return [(part, None) for part in rows]
        return list(zip(rows, torch.split(weight, size, -1), strict=True))

    rows = parts(x, weight_x)
    columns = rows if y is x else parts(y, weight_y)
    total = x.new_zeros(x.shape[:-2])
    for i, (x_i, w_i) in enumerate(rows):
        for j, (y_j, w_j) in enumerate(columns):
            if y is x and j < i:
                continue  # the mirror image of a tile that was
            value = checkpoint(
                _kernel_sum,
                kernel,
                x_i,
                y_j,
                w_i,
                w_j,
                skip_diagonal and i == j,
                use_reentrant=False,
                preserve_rng_state=False,  # a kernel is a function
            )
            total = total + (2 * value if y is x and j > i else value)
    return total


def _kernel_sum(
    kernel: Kernel,
    x: Tensor,
    y: Tensor,
    weight_x: Tensor | None,
    weight_y: Tensor | None,
    skip_diagonal: bool,
) -> Tensor:
    k = kernel(Pairs(x, y))
    if skip_diagonal:
        same = torch.eye(*k.shape[-2:], dtype=torch.bool, device=k.device)
        k = k.masked_fill(same, 0.0)
    of_rows = (
        k.sum(-1) if weight_y is None else inner(k, weight_y.unsqueeze(-2))[..., 0]
    )
    return (of_rows if weight_x is None else weight_x * of_rows).sum(-1)
