"""Parts of batches ``(G, N, D)``, and products of them."""

from collections.abc import Sequence

import torch
from torch import Tensor


def take(z: Tensor, groups: slice, rows: slice) -> Tensor:
    """Return a part of the problems and rows; all of them without the cost of views."""
    if (
        groups.stop - groups.start == z.shape[0]
        and rows.stop - rows.start == z.shape[1]
    ):
        return z
    return z[groups, rows]


def operand(z: Tensor, narrow: bool) -> Tensor:
    """Return what is to be multiplied, rounded to bfloat16 if ``narrow``."""
    return z.to(torch.bfloat16) if narrow else z


def product(a: Tensor, b: Tensor) -> Tensor:
    """Return A B for ``(G, …)`` matrices, in float32 at least.

    One matrix alone is faster as a plain matrix.
    """
    if a.dtype == torch.bfloat16:
        return torch.bmm(a, b, out_dtype=torch.float32)
    return torch.mm(a[0], b[0]).unsqueeze(0) if a.shape[0] == 1 else torch.bmm(a, b)


def add_product(parts: dict[int, Tensor], at: slice, a: Tensor, b: Tensor) -> None:
    """Add A B to one of the parts of a sum, which goes by where it starts."""
    total = parts.get(at.start)
    if total is None:
        parts[at.start] = product(a, b)
    elif a.dtype == torch.bfloat16:
        parts[at.start] = torch.baddbmm(total, a, b, out_dtype=torch.float32)
    else:
        parts[at.start] = torch.baddbmm(total, a, b)


def joined(parts: dict[int, Tensor]) -> Tensor:
    """Return the parts of a sum as one tensor, and let go of them."""
    out = cat(list(parts.values()), 1)
    parts.clear()
    return out


def cat(parts: Sequence[Tensor], dim: int) -> Tensor:
    """Join parts; a single one is not copied."""
    return parts[0] if len(parts) == 1 else torch.cat(tuple(parts), dim)
