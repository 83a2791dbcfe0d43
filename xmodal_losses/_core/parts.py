"""A range of rows in parts.

The compiler takes what a range is made of for constants, and so do some versions of it
with what is split. Where all fits into one part neither is done, and what was compiled
serves other numbers of rows.
"""

from collections.abc import Iterator, Sequence

import torch
from torch import Tensor


def parts(n: int, size: int) -> Iterator[slice]:
    """Yield slices of at most ``size`` that make up the first n."""
    if n <= 1 or n <= size:
        if n > 0:
            yield slice(0, n)
        return
    for start in range(0, n, size):
        yield slice(start, min(start + size, n))


def split(z: Tensor, size: int, dim: int) -> Sequence[Tensor]:
    """Return what :func:`torch.split` does."""
    if z.shape[dim] <= size:
        return (z,)
    pieces: Sequence[Tensor] = torch.split(z, size, dim)
    return pieces
