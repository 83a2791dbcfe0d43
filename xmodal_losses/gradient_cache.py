"""Large batches for losses that compare all rows: the encoder's graph in parts.

References: :cite:t:`gao2021scaling`.
"""

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any, NamedTuple

import torch
from torch import Tensor

__all__ = ["cached_backward"]


def cached_backward(
    criterion: Callable[..., Tensor],
    encode: Callable[[Any], tuple[Tensor, Tensor]],
    chunks: Sequence[Any],
    *,
    scale: float | Tensor = 1.0,
    **options: Any,
) -> Tensor:
    """Do ``criterion(*encode(batch)).backward()`` with one chunk's graph at a time.

    Contrastive losses compare every row with every other and cannot be split. Their
    gradient in the embeddings needs no graph of the encoder, though: embed all chunks
    without a graph, take the loss of the whole batch and its gradient in the
    embeddings, then embed chunk by chunk once more, with a graph, and hand each its
    part. Gradients accumulate in ``.grad`` as those of the whole batch, of the
    criterion's own parameters, too. Memory: the embeddings, the loss, and the graph of
    one chunk. Time: one more forward pass of the encoder.

    The random number generators (of the CPU and of CUDA devices) are put back for the
    second pass, so that dropout is the same in both. Batch normalisation in training
    mode looks at a chunk, not at the batch, and counts it twice in its running
    statistics.

    Args:
        criterion: Any loss of two batches of embeddings: a module of this package, or
            a function.
        encode: From a chunk to its embeddings ``z_a`` and ``z_b``, whose first
            dimension goes through the batch: rows ``(n, D)``, or groups ``(b, P, D)``.
        chunks: The batch in parts, in any form that ``encode`` takes. They need not be
            equal in size.
        scale: Multiplies the gradients, not the result: a loss scale, or a weight.
        options: Handed on to the criterion, for the whole batch: ``weight``, ``ids`` …

    Returns:
        The loss of the whole batch, without a graph.

    Raises:
        ValueError: If there is no chunk, the loss is no scalar, or no embedding
            requires a gradient.

    Examples:
        >>> import torch, xmodal_losses as xl
        >>> encoder = torch.nn.Linear(32, 8)
        >>> rgb, ir = torch.randn(2, 4096, 32)
        >>> chunks = list(zip(rgb.split(512), ir.split(512)))
        >>> def encode(chunk):
        ...     return encoder(chunk[0]), encoder(chunk[1])
        >>> loss = xl.cached_backward(xl.InfoNCELoss(), encode, chunks)
    """
    if not chunks:
        raise ValueError("cached_backward: chunks must be one or more, got none.")
    states, parts = [], []
    with torch.no_grad():
        for chunk in chunks:
            states.append(_RandomState.now())
            parts.append(encode(chunk))
    views = [torch.cat(side).requires_grad_() for side in zip(*parts, strict=True)]
    del parts
    loss = criterion(*views, **options)
    if loss.ndim != 0:
        raise ValueError(
            "cached_backward: criterion must return a scalar, got shape "
            f"{tuple(loss.shape)}. Choose reduction 'mean' or 'sum'."
        )
    (loss * scale).backward()  # type: ignore[no-untyped-call]

    # A loss may not look at one of the views.
    grads = [torch.zeros_like(z) if z.grad is None else z.grad for z in views]
    start = 0
    for chunk, state in zip(chunks, states, strict=True):
        with state.replayed():
            embedded = encode(chunk)
        stop = start + len(embedded[0])
        given = [grad[start:stop] for grad in grads]
        graph = [
            pair for pair in zip(embedded, given, strict=True) if pair[0].requires_grad
        ]
        if not graph:
            raise ValueError(
                "cached_backward: encode must return embeddings that require a "
                "gradient, got none that does."
            )
        torch.autograd.backward([z for z, _ in graph], [grad for _, grad in graph])
        start = stop
    return loss.detach()


class _RandomState(NamedTuple):
    """Where the generators of the CPU and of all CUDA devices are."""

    cpu: Tensor
    cuda: list[Tensor]

    @classmethod
    def now(cls) -> "_RandomState":
        started = torch.cuda.is_initialized()  # type: ignore[no-untyped-call]
        cuda = torch.cuda.get_rng_state_all() if started else []
        return cls(torch.get_rng_state(), cuda)

    def restore(self) -> None:
        torch.set_rng_state(self.cpu)
        if self.cuda:
            torch.cuda.set_rng_state_all(self.cuda)

    @contextmanager
    def replayed(self) -> Iterator[None]:
        """Go back to this state for a while."""
        present = self.now()
        self.restore()
        try:
            yield
        finally:
            present.restore()
