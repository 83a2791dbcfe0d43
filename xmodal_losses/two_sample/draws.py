"""What stands in for the null: signs that say which row is taken for which sample.

One column is one draw; the first is the data as it is.
"""

import torch
from torch import Tensor

from xmodal_losses._core.draws import uniform

# Numbers sorted at a time.
_AT_ONCE = 2**23


def swaps(
    n: int,
    draws: int,
    ids: Tensor | None,
    device: torch.device,
    generator: torch.Generator | None,
) -> Tensor:
    """Return ±1 ``(n, 1 + draws)``: −1 where row i of x and of y change places.

    Rows of one id do so together.
    """
    source = device if generator is None else generator.device
    inverse = None
    if ids is not None:
        values, inverse = torch.unique(ids.to(source), return_inverse=True)
        n = len(values)
    signs = torch.randint(
        0, 2, (n, 1 + draws), generator=generator, device=source, dtype=torch.int8
    )
    signs = 2 * signs - 1
    signs[:, 0] = 1
    return (signs if inverse is None else signs[inverse]).to(device)


def splits(
    n: int,
    m: int,
    draws: int,
    device: torch.device,
    generator: torch.Generator | None,
) -> Tensor:
    """Return ±1 ``(n + m, 1 + draws)``: 1 where a row of the pool is taken for x."""
    source = device if generator is None else generator.device
    labels = torch.ones(n + m, dtype=torch.int8, device=source)
    labels[n:] = -1
    parts = [labels[None]]
    at_once = max(1, _AT_ONCE // (n + m))
    for start in range(0, draws, at_once):
        size = min(at_once, draws - start), n + m
        # In float32 two of a few thousand keys would be equal now and then.
        keys = uniform(size, source, generator)
        parts.append(labels[keys.argsort(-1)])
    return torch.cat(parts).T.contiguous().to(device)


def order(n: int, device: torch.device, generator: torch.Generator | None) -> Tensor:
    """Return a random order of n rows."""
    source = device if generator is None else generator.device
    return torch.randperm(n, generator=generator, device=source).to(device)
