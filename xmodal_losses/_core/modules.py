"""What the modules share."""

from torch import nn


def describe(module: nn.Module, *names: str) -> str:
    """Return ``name=value, …`` of the options, for ``extra_repr``."""
    return ", ".join(f"{name}={getattr(module, name)!r}" for name in names)
