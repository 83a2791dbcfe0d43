"""The dtype policy: compute in float32 or wider, whatever autocast says."""

from contextlib import AbstractContextManager, nullcontext
from functools import reduce

import torch
from torch import Tensor
from torch.nn import functional


def compute_dtype(*tensors: Tensor) -> torch.dtype:
    """Return the dtype of the result: the widest of the inputs and float32.

    Logits of size 1/τ rounded to 16 bits carry errors that do not average out, and
    second moments overflow float16.
    """
    return reduce(torch.promote_types, (t.dtype for t in tensors), torch.float32)


# torch.mm of two 16-bit matrices into one of 32 bits, which it sums in anyway.
_INTO_FLOAT32 = hasattr(torch.ops.aten.mm, "dtype")


def narrow_products(*tensors: Tensor) -> bool:
    """Tell whether products may round their operands to bfloat16.

    So they may where the inputs were bfloat16 and the device multiplies such matrices
    faster and still returns sums in float32. float16 does not hold the small entries of
    a gradient.
    """
    return (
        _INTO_FLOAT32
        and all(t.is_cuda and t.dtype == torch.bfloat16 for t in tensors)
        and not torch.compiler.is_compiling()
    )


def no_autocast(z: Tensor) -> AbstractContextManager[object]:
    """Return a context in which matrix products keep the dtype of their operands."""
    device = z.device.type
    # torch.compile of torch 2.4 cannot trace the questions. Asked first, since entering
    # the context takes longer, and a loss of few rows does it several times.
    if not torch.compiler.is_compiling() and not (
        torch.amp.is_autocast_available(device) and torch.is_autocast_enabled(device)
    ):
        return nullcontext()
    return torch.autocast(device, enabled=False)


def sum_dtype(z: Tensor) -> torch.dtype:
    """Return the widest dtype of the device, for sums that nearly cancel."""
    return z.dtype if z.device.type == "mps" else torch.float64


def softplus(x: Tensor) -> Tensor:
    """Return log(1 + eˣ), right to rounding in every dtype."""
    # By default torch returns x from 20 on, 2e-9 short; at 40 the difference is below
    # the rounding of float64.
    return functional.softplus(x, threshold=40)
