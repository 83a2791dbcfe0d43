"""The base of the package's autograd functions."""

import functools
import inspect
from typing import Any

import torch
from torch import Tensor

from xmodal_losses._core.precision import no_autocast


class Function(torch.autograd.Function):
    """An autograd function that is cheap to call and works under ``torch.func``.

    ``apply`` inspects the signature of ``forward`` in every call, which on a batch of
    256 rows is a twentieth of a loss; one that is already there is found at once.

    Products in ``backward`` keep their dtype where it is called under autocast.
    """

    generate_vmap_rule = True

    def __init_subclass__(cls, **kwargs: Any) -> None:
        super().__init_subclass__(**kwargs)
        signature = inspect.signature(cls.forward)
        cls.forward.__signature__ = signature  # type: ignore[attr-defined]
        backward = cls.backward

        @functools.wraps(backward)
        def wide(ctx: Any, *grads: Any) -> Any:
            # A list, since torch 2.4 cannot trace a default of `next`.
            some = [grad for grad in grads if isinstance(grad, Tensor)]
            if not some:  # what depends on the outputs has no gradient
                return (None,) * len(ctx.needs_input_grad)
            with no_autocast(some[0]):
                return backward(ctx, *grads)

        cls.backward = staticmethod(wide)  # type: ignore[method-assign]

    @classmethod
    def call(cls, *args: Any) -> Any:
        """Return what ``apply`` does.

        The compiler hands ``forward`` a context that it does not take, where no input
        needs a gradient; there, nothing but the forward pass is asked for.
        """
        if torch.compiler.is_compiling() and not (
            torch.is_grad_enabled()
            and any(isinstance(arg, Tensor) and arg.requires_grad for arg in args)
        ):
            return cls.forward(*args)
        return cls.apply(*args)  # type: ignore[no-untyped-call]


class _Once(Function):
    @staticmethod
    def forward(message: str, count: int, *tensors: Tensor | None) -> Any:
        return tuple(None if t is None else t.clone() for t in tensors[:count])

    @staticmethod
    def setup_context(ctx: Any, inputs: Any, output: Any) -> None:
        ctx.message = inputs[0]

    @staticmethod
    def backward(ctx: Any, *grads: Any) -> Any:
        raise RuntimeError(ctx.message)


def once(
    message: str, grads: tuple[Tensor | None, ...], of: tuple[Tensor, ...]
) -> tuple[Tensor | None, ...]:
    """Return gradients; differentiating them again is an error, not a wrong number.

    It is for gradients that were made of constants, so that how they depend on what
    they are the gradients ``of`` is not in their graph.
    """
    # Compiled code has no second derivative.
    if not torch.is_grad_enabled() or torch.compiler.is_compiling():
        return grads
    out: tuple[Tensor | None, ...] = _Once.call(message, len(grads), *grads, *of)
    return out
