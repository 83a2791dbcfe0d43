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
            some = [grad for grad in grads if isinstance(grad, Tensor)]
            if not some:  # nothing came of what was returned
                return backward(ctx, *grads)
            with no_autocast(some[0]):
                return backward(ctx, *grads)

        cls.backward = staticmethod(wide)  # type: ignore[method-assign]
