"""Batches larger than memory: their loss and exact gradient, chunk by chunk."""

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn

from xmodal_losses._core import checks, precision, ranks
from xmodal_losses._core.moments import PAIRED, SAME_WIDTH, Accumulator, Pair

__all__ = ["ChunkedMoments"]


class ChunkedMoments:
    """One large batch of a loss of means and covariances, in chunks of any size.

    CORAL, Barlow Twins, VICReg, soft decorrelation and Deep CCA see a batch through its
    first and second moments only, which add up. So a batch may pass through the
    encoders twice, in chunks: the first time without a graph, to be counted
    (:meth:`update`), the second time for the gradient (:meth:`share`). The loss and the
    gradients are those of the whole batch, exactly; memory is that of one chunk, and
    O(D²) for the moments.

    Both passes have to see the same embeddings: the same rows, encoders without dropout
    between them, batch normalisation in ``eval`` mode. The order of the chunks does not
    matter.

    Args:
        criterion: CORALLoss, BarlowTwinsLoss, VICRegLoss, SoftDecorrelationLoss or
            DCCALoss, with ``reduction`` ``"mean"`` or ``"sum"``.

    Raises:
        TypeError: If the criterion is not one of these.
        ValueError: If its reduction is "none".

    Note:
        Moments are accumulated in float64, whatever the dtype of the embeddings.

        A criterion with ``gather`` sees the chunks of all ranks as one batch. Ranks may
        have different numbers of chunks; the first :meth:`share` or :meth:`compute`
        after an update waits for all.

    Examples:
        >>> import torch, xmodal_losses as xl
        >>> encode = torch.nn.Linear(32, 8)
        >>> rgb, ir = torch.randn(2, 4096, 32)
        >>> chunks = list(zip(rgb.split(512), ir.split(512)))
        >>> chunked = xl.ChunkedMoments(xl.BarlowTwinsLoss())
        >>> with torch.no_grad():
        ...     for a, b in chunks:
        ...         chunked.update(encode(a), encode(b))
        >>> for a, b in chunks:
        ...     chunked.share(encode(a), encode(b)).backward()
        >>> loss = chunked.compute()
    """

    def __init__(self, criterion: nn.Module) -> None:
        names = getattr(criterion, "_moments", None)
        if names is None:
            raise TypeError(
                "ChunkedMoments: criterion must be CORALLoss, BarlowTwinsLoss, "
                "VICRegLoss, SoftDecorrelationLoss or DCCALoss, got "
                f"{type(criterion).__name__}."
            )
        if criterion.reduction == "none":
            raise ValueError(
                "ChunkedMoments: criterion must have reduction 'mean' or 'sum', got "
                "'none'."
            )
        self.criterion = criterion
        gather: Any = criterion.gather
        caller = type(criterion).__name__
        self._ranks = ranks.joined(
            caller, ranks.of_module(caller, gather), criterion.grad_reduce
        )
        self._names: frozenset[str] = names
        self._formula: Callable[[Pair], Tensor] = criterion._of_moments  # type: ignore[assignment]
        self.reset()

    def reset(self) -> None:
        """Forget the batch, to begin another one."""
        self._accumulator: Accumulator | None = None
        self._solved: Accumulator | None = None
        self._shapes: tuple[Any, ...] = ()
        self._rows = 0
        self._dtype = torch.float32
        self._loss: Tensor | None = None

    @torch.no_grad()
    def update(
        self,
        z_a: Tensor,
        z_b: Tensor,
        *,
        weight: Tensor | None = None,
        weight_a: Tensor | None = None,
        weight_b: Tensor | None = None,
    ) -> None:
        """Count a chunk in. Its graph is not needed, nor kept.

        Args:
            z_a: Embeddings of modality *a*, ``(…, n, D)``, n ≥ 1; leading dimensions
                are independent problems, the same in every chunk.
            z_b: Embeddings of modality *b*: the partners of ``z_a``, or, for CORAL, any
                number of rows.
            weight: Weights of the pairs, ``(…, n)``; not for CORAL.
            weight_a: Weights of the rows of ``z_a``, for CORAL.
            weight_b: Weights of the rows of ``z_b``, for CORAL.
        """
        weights = self._weights(z_a, z_b, weight, weight_a, weight_b)
        if self._accumulator is None:
            self._accumulator = Accumulator(self._names, z_a, z_b)
        self._accumulator.update(z_a, z_b, *weights)
        self._rows += z_a.shape[-2] + z_b.shape[-2]
        self._dtype = torch.promote_types(
            self._dtype, precision.compute_dtype(z_a, z_b)
        )
        self._loss = None

    def compute(self) -> Tensor:
        """Return the loss of all rows counted in so far, without a graph."""
        return self._solve()[0].to(self._dtype)

    def share(
        self,
        z_a: Tensor,
        z_b: Tensor,
        *,
        weight: Tensor | None = None,
        weight_a: Tensor | None = None,
        weight_b: Tensor | None = None,
    ) -> Tensor:
        """Return the part of a chunk in the loss: a scalar to call ``backward`` on.

        The value is the loss times the chunk's part of all rows, so that shares add up
        to the loss; the gradient is that of the loss of the whole batch. Like any loss
        it may be weighted, added to others of the same chunk, or scaled.

        Args:
            z_a: Embeddings of the chunk, with the graph of their encoder.
            z_b: Embeddings of the chunk, with the graph of their encoder.
            weight: As given to :meth:`update`.
            weight_a: As given to :meth:`update`.
            weight_b: As given to :meth:`update`.

        Raises:
            RuntimeError: If nothing was counted in; in ``backward``, with
                ``create_graph=True``.
        """
        weights = self._weights(z_a, z_b, weight, weight_a, weight_b)
        loss, accumulator = self._solve()
        with torch.no_grad():
            grads = [
                grad.to(precision.compute_dtype(z))
                for grad, z in zip(
                    accumulator.gradients(z_a, z_b, *weights),
                    (z_a, z_b),
                    strict=True,
                )
            ]
            rows = z_a.shape[-2] + z_b.shape[-2]
            value = loss * (rows / max(self._rows, 1))
            if self._ranks is not None and self._ranks.averaged:
                grads = [self._ranks.size * grad for grad in grads]
        out: Tensor = _Share.apply(z_a, z_b, value.to(self._dtype), *grads)  # type: ignore[no-untyped-call]
        return out

    def _solve(self) -> tuple[Tensor, Accumulator]:
        """Return the loss, and make its derivatives by the moments."""
        if self._accumulator is None:
            raise RuntimeError(
                "ChunkedMoments: the batch must have rows, got none. Call update first."
            )
        if self._loss is None or self._solved is None:
            self._solved = self._accumulator
            if self._ranks is not None:
                self._solved = self._accumulator.joined(self._ranks)
            self._loss = self._solved.solve(self._formula)
        return self._loss, self._solved

    def _weights(
        self,
        z_a: Tensor,
        z_b: Tensor,
        weight: Tensor | None,
        weight_a: Tensor | None,
        weight_b: Tensor | None,
    ) -> tuple[Tensor | None, Tensor | None]:
        """Check a chunk and return the weights of its sides."""
        caller = "ChunkedMoments"
        paired = bool(self._names & PAIRED)
        same_width = bool(self._names & SAME_WIDTH)
        checks.embeddings(
            caller,
            z_a,
            z_b,
            paired=paired,
            same_width=same_width,
            min_rows=1 if self._ranks is None else 0,
        )
        if self._ranks is not None and z_a.ndim > 2:
            raise ValueError(
                f"{caller}: z_a must be of shape (n, D) for a criterion with gather, "
                f"got {tuple(z_a.shape)}. Problems of their own need no other ranks."
            )
        given = {"weight": weight, "weight_a": weight_a, "weight_b": weight_b}
        taken = ("weight",) if paired else ("weight_a", "weight_b")
        for name, value in given.items():
            if value is not None and name not in taken:
                raise ValueError(
                    f"{caller}: {name} must be None, got a tensor. "
                    f"{type(self.criterion).__name__} takes {' and '.join(taken)}."
                )
        if paired:
            weight_a = weight_b = weight
        checks.row_weight(caller, taken[0], weight_a, z_a)
        checks.row_weight(caller, taken[-1], weight_b, z_b)
        shapes = (z_a.shape[:-2], z_a.shape[-1], z_b.shape[-1])
        if self._shapes not in ((), shapes):
            raise ValueError(
                f"{caller}: z_a and z_b must have the leading dimensions and columns "
                f"of the chunks before, got z_a {tuple(z_a.shape)} and z_b "
                f"{tuple(z_b.shape)}. Call reset to begin another batch."
            )
        self._shapes = shapes
        return weight_a, weight_b


class _Share(torch.autograd.Function):
    """A value with the gradients it is given."""

    @staticmethod
    def forward(
        ctx: Any, z_a: Tensor, z_b: Tensor, value: Tensor, *grads: Tensor
    ) -> Tensor:
        ctx.save_for_backward(*grads)
        ctx.dtypes = z_a.dtype, z_b.dtype
        return value.clone()

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> Any:
        if torch.is_grad_enabled():
            raise RuntimeError(
                "ChunkedMoments: create_graph must be False, got True. A share has no "
                "second derivative: it depends on rows that are not there."
            )
        grads = (
            (grad * part).to(dtype) if needed else None
            for part, dtype, needed in zip(
                ctx.saved_tensors, ctx.dtypes, ctx.needs_input_grad[:2], strict=True
            )
        )
        return *grads, None, None, None
