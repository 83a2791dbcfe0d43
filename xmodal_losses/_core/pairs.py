"""The pairs engine: losses that are functions of all N×M pairs of rows.

Contrastive losses ask for the log-sum-exp of each row's negatives, kernel losses for
the mean of a kernel over the pairs. How the N×M matrix is walked is decided here.
"""

from collections.abc import Callable
from typing import Any, Literal, TypeAlias

import torch
from torch import Tensor

from xmodal_losses._core import moments
from xmodal_losses._core.reduce import inverse

Negatives: TypeAlias = Literal["group", "all", "cross"]
NEGATIVES = ("group", "all", "cross")


# ------------------------------------------------------------------ contrast


def log_sum_exp_of_negatives(
    x: Tensor,
    y: Tensor,
    *,
    negatives: Negatives,
    exclude: Tensor | None,
    valid: Tensor | None,
    chunk_size: int | None,
) -> tuple[Tensor, Tensor]:
    """Return log Σ exp ⟨x_i, y_j⟩ over the negatives of every x_i, and of every y_j.

    The logits are plain inner products: the caller has scaled the rows. The positive
    (i, i) is left out. A row without negatives gets −inf, and passes no gradient.

    Args:
        x: Rows of one modality ``(…, N, D)``.
        y: Rows of the other, same shape.
        negatives: Which leading indices supply negatives.
        exclude: ``(…, N, N)``, True where (x_i, y_j) of one group is no negative.
        valid: ``(…, N)``, False where row i takes no part on either side.
        chunk_size: Rows of the logits held at a time; None holds all.

    Returns:
        Two tensors ``(…, N)``.
    """
    n, d = x.shape[-2:]
    leading = x.shape[:-2]
    x, y = x.reshape(-1, n, d), y.reshape(-1, n, d)
    groups = x.shape[0]
    if exclude is not None:
        exclude = exclude.reshape(groups, n, n)
    if valid is not None:
        valid = valid.reshape(groups, n)

    if negatives == "all":
        # One problem of groups·N rows; `exclude` keeps its N columns a row, and tells
        # only about the row's own group.
        x, y = x.reshape(1, -1, d), y.reshape(1, -1, d)
        if exclude is not None:
            exclude = exclude.reshape(1, -1, n)
        if valid is not None:
            valid = valid.reshape(1, -1)
    rows, columns = _log_sum_exp(x, y, exclude, valid, chunk_size)

    if negatives == "cross":
        # The same row of the other groups: N problems of one row per group.
        across = _log_sum_exp(
            x.transpose(0, 1),
            y.transpose(0, 1),
            None,
            None if valid is None else valid.mT,
            chunk_size,
        )
        rows = _log_add_exp(rows, across[0].mT)
        columns = _log_add_exp(columns, across[1].mT)
    return rows.reshape(*leading, n), columns.reshape(*leading, n)


def _log_sum_exp(
    x: Tensor,
    y: Tensor,
    exclude: Tensor | None,
    valid: Tensor | None,
    chunk_size: int | None,
) -> tuple[Tensor, Tensor]:
    n = x.shape[1]
    if chunk_size is not None and chunk_size < n:
        out: tuple[Tensor, Tensor] = _TiledLogSumExp.apply(  # type: ignore[no-untyped-call]
            x, y, exclude, valid, chunk_size
        )
        return out
    logits = x @ y.mT
    logits = logits.masked_fill(_left_out(0, n, x, exclude, valid), -torch.inf)
    return _safe_log_sum_exp(logits, -1), _safe_log_sum_exp(logits, -2)


def _left_out(
    start: int, stop: int, x: Tensor, exclude: Tensor | None, valid: Tensor | None
) -> Tensor:
    """Return the mask of the pairs (rows start:stop, all columns) that do not count."""
    n = x.shape[1]
    column = torch.arange(n, device=x.device)
    row = column[start:stop, None]
    out = (row == column).unsqueeze(0)
    if exclude is not None:
        width = exclude.shape[-1]
        tile = exclude[:, start:stop]
        if width < n:  # rows of several groups side by side
            tile = tile.repeat(1, 1, n // width) & (row // width == column // width)
        out = out | tile
    if valid is not None:
        out = out | ~valid[:, start:stop, None] | ~valid[:, None, :]
    return out


def _safe_log_sum_exp(logits: Tensor, dim: int) -> Tensor:
    """Log-sum-exp whose gradient is 0, not NaN, where every entry is −inf."""
    peak = logits.detach().amax(dim, keepdim=True)
    peak = peak.masked_fill(peak == -torch.inf, 0.0)
    total = (logits - peak).exp().sum(dim)
    empty = total == 0
    log = total.masked_fill(empty, 1.0).log() + peak.squeeze(dim)
    return log.masked_fill(empty, -torch.inf)


def _log_add_exp(a: Tensor, b: Tensor) -> Tensor:
    return _safe_log_sum_exp(torch.stack((a, b)), 0)


class _TiledLogSumExp(torch.autograd.Function):
    """Both log-sum-exps with ``chunk_size`` rows of the logits in memory at a time.

    The backward pass makes each tile again and turns it into both gradients at once.
    It is written in differentiable operations, so second derivatives are right too.
    """

    generate_vmap_rule = True

    @staticmethod
    def forward(
        x: Tensor,
        y: Tensor,
        exclude: Tensor | None,
        valid: Tensor | None,
        chunk_size: int,
    ) -> tuple[Tensor, Tensor]:
        rows = []
        columns = x.new_full((x.shape[0], x.shape[1]), -torch.inf)
        for start, stop in _chunks(x.shape[1], chunk_size):
            logits = x[:, start:stop] @ y.mT
            mask = _left_out(start, stop, x, exclude, valid)
            logits = logits.masked_fill(mask, -torch.inf)
            rows.append(logits.logsumexp(-1))
            columns = torch.logaddexp(columns, logits.logsumexp(-2))
        return torch.cat(rows, 1), columns

    @staticmethod
    def setup_context(ctx: Any, inputs: Any, output: Any) -> None:
        x, y, exclude, valid, ctx.chunk_size = inputs
        ctx.save_for_backward(x, y, exclude, valid, *output)

    @staticmethod
    def backward(ctx: Any, grad_rows: Tensor, grad_columns: Tensor) -> Any:
        x, y, exclude, valid, rows, columns = ctx.saved_tensors
        # exp(logit − log-sum-exp) ≤ 1; of an empty row every logit is −inf, and any
        # finite number in place of its log-sum-exp gives the softmax 0.
        rows = rows.masked_fill(rows == -torch.inf, 0.0)
        columns = columns.masked_fill(columns == -torch.inf, 0.0)
        grad_x = []
        grad_y = torch.zeros_like(y)
        for start, stop in _chunks(x.shape[1], ctx.chunk_size):
            tile = slice(start, stop)
            logits = x[:, tile] @ y.mT
            mask = _left_out(start, stop, x, exclude, valid)
            logits = logits.masked_fill(mask, -torch.inf)
            grad = grad_rows[:, tile, None] * (logits - rows[:, tile, None]).exp()
            grad = grad + grad_columns[:, None] * (logits - columns[:, None]).exp()
            grad_x.append(grad @ y)
            grad_y = grad_y + grad.mT @ x[:, tile]
        return torch.cat(grad_x, 1), grad_y, None, None, None


def _chunks(n: int, size: int) -> list[tuple[int, int]]:
    return [(start, min(start + size, n)) for start in range(0, n, size)]


# ------------------------------------------------------------------- kernels


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
    """The pooled sample a bandwidth rule looks at; it takes no part in gradients.

    With weights, the rows of positive weight are the sample, each counted once.
    """

    def __init__(self, z: Tensor, weight: Tensor | None = None) -> None:
        self.z = z.detach()
        self.valid = None if weight is None else weight != 0
        self._mean: Tensor | None = None
        self._median: Tensor | None = None

    def mean_squared_distance(self) -> Tensor:
        """Return the mean of ‖z_i − z_j‖² over i ≠ j, ``(…)``: twice the trace of S."""
        if self._mean is None:
            batch = moments.moments(self.z, self.valid)
            self._mean = 2 * moments.variance(batch).sum(-1)
        return self._mean

    def median_squared_distance(self) -> Tensor:
        """Return the median of ‖z_i − z_j‖² over i < j, ``(…)``; holds all pairs."""
        if self._median is None:
            n = self.z.shape[-2]
            i, j = torch.triu_indices(n, n, 1, device=self.z.device)
            d2 = Pairs(self.z, self.z).squared_distance()[..., i, j]
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
