"""Random numbers, from a generator on any device."""

import torch


def uniform(
    shape: tuple[int, ...], device: torch.device, generator: torch.Generator | None
) -> torch.Tensor:
    """Draw from [0, 1) where the generator is, in as many bits as there are.

    One of the CPU gives the same numbers on every device.
    """
    source = device if generator is None else generator.device
    drawn = torch.rand(
        shape, generator=generator, device=source, dtype=widest_dtype(source)
    )
    return drawn.to(device, widest_dtype(device))


def widest_dtype(device: torch.device) -> torch.dtype:
    """Return the widest dtype of a device."""
    return torch.float32 if device.type == "mps" else torch.float64
