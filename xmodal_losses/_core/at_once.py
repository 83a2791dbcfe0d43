"""Gradients that are made at once, and handed on when ``backward`` comes by.

Of a sum of terms autograd keeps every graph until the sum is differentiated. Whoever
takes each term's gradient as soon as its value is known has one graph at a time, and
keeps gradients of the size of the inputs instead.
"""

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

__all__ = ["AtOnce"]


class AtOnce:
    """Takes the terms of a sum, and returns the sum with the gradient of all.

    Args:
        inputs: What comes from elsewhere, and may have a graph there. Terms are made of
            :attr:`leaves`, in the same order, which have none.
        parameters: What terms use besides, itself without a graph.
        always: Make the gradients of the first so many inputs, wanted or not.
    """

    def __init__(
        self, inputs: Sequence[Tensor], parameters: Sequence[Tensor], always: int = 0
    ) -> None:
        self.leaves = [
            _leaf(tensor, tensor.requires_grad or i < always)
            for i, tensor in enumerate(inputs)
        ]
        self._tensors = [*inputs, *parameters]
        self._grads: list[Tensor | None] = [None] * len(self._tensors)
        self._from = [*self.leaves, *parameters]

    def take(self, term: Tensor) -> list[Tensor | None]:
        """Count in the gradient of a term; return that by every input.

        The graph, a part of which other terms may have, goes with the term.
        """
        count = len(self.leaves)
        if not term.requires_grad:
            return [None] * count
        asked = [i for i, t in enumerate(self._from) if t.requires_grad]
        grads: list[Tensor | None] = [None] * len(self._from)
        found = torch.autograd.grad(
            term,
            [self._from[i] for i in asked],
            retain_graph=True,
            allow_unused=True,
        )
        for i, grad in zip(asked, found, strict=True):
            grads[i], so_far = grad, self._grads[i]
            if grad is not None:
                self._grads[i] = grad if so_far is None else so_far + grad
        return grads[:count]

    def handed_on(self, total: Tensor) -> Tensor:
        """Return a value that has all gradients taken, as one autograd node."""
        # Where grad mode is off, nobody will ask.
        pairs = [
            (tensor, grad)
            for tensor, grad in zip(self._tensors, self._grads, strict=True)
            if grad is not None and tensor.requires_grad
        ]
        tensors, grads = [t for t, _ in pairs], [g for _, g in pairs]
        out: Tensor = _HandedOn.apply(total.detach(), len(pairs), *tensors, *grads)  # type: ignore[no-untyped-call]
        return out


def _leaf(tensor: Tensor, requires_grad: bool) -> Tensor:
    leaf = tensor.detach()
    if leaf.dtype == torch.float16 and requires_grad:
        # The loss scale, which keeps small gradients in float16, multiplies later.
        leaf = leaf.float()
    return leaf.requires_grad_(requires_grad)


class _HandedOn(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, total: Tensor, count: int, *tensors: Tensor) -> Tensor:
        ctx.save_for_backward(*tensors[count:])
        ctx.dtypes = [tensor.dtype for tensor in tensors[:count]]
        return total.clone()

    @staticmethod
    def backward(ctx: Any, upstream: Tensor) -> Any:
        if torch.is_grad_enabled():
            raise RuntimeError(
                "backward: create_graph must be False where gradients were made with "
                "the value, got True. Set lean=False, and gradient_norms=False."
            )
        grads = [
            (upstream * grad).to(dtype)
            for grad, dtype in zip(ctx.saved_tensors, ctx.dtypes, strict=True)
        ]
        return None, None, *grads, *[None] * len(grads)
