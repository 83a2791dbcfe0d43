"""Save and restore a training run, exactly.

A resumed run continues as if it had never stopped: weights, batch statistics,
optimiser, schedule, random states, history and the best state so far are all kept.
Only tensors and plain containers are stored, so files load with `weights_only=True`.
"""

import os
from pathlib import Path
from typing import Any, Protocol

import torch
from torch import nn

from .data import DataError

__all__ = ["load_checkpoint", "load_swinfuse", "save_checkpoint"]


class Stateful(Protocol):
    """What modules, optimisers and schedulers have in common."""

    def state_dict(self) -> dict[str, Any]:
        """Return the state."""

    def load_state_dict(self, state: dict[str, Any]) -> object:
        """Restore the state."""


def save_checkpoint(
    path: Path,
    parts: dict[str, Stateful],
    generator: torch.Generator,
    progress: dict[str, Any],
) -> None:
    """Write everything a run needs; an interrupted write leaves the old file."""
    state = {
        "parts": {name: part.state_dict() for name, part in parts.items()},
        "generator": generator.get_state(),
        "torch_rng": torch.get_rng_state(),
        "cuda_rng": torch.cuda.get_rng_state_all() if torch.cuda.is_available() else [],
        "progress": progress,
    }
    scratch = path.with_suffix(".tmp")
    torch.save(state, scratch)
    os.replace(scratch, path)


def read(path: Path) -> dict[str, Any]:
    """Read a file of tensors and plain containers."""
    try:
        return torch.load(path, map_location="cpu", weights_only=True)
    except FileNotFoundError as error:
        raise DataError(f"{path} does not exist.") from error
    except Exception as error:  # torch raises many types for a damaged file
        raise DataError(f"{path} cannot be read as a checkpoint: {error}") from error


def load_checkpoint(
    path: Path,
    parts: dict[str, Stateful],
    generator: torch.Generator,
    settings: dict[str, Any],
) -> dict[str, Any]:
    """Restore a run and return its progress.

    Raises:
        DataError: If the file cannot be read or was written under other settings.
    """
    state = read(path)
    if not isinstance(state, dict) or "progress" not in state:
        raise DataError(f"{path} is not a checkpoint of this example.")
    stored = state["progress"]["settings"]
    for name in settings:
        if stored.get(name) != settings[name]:
            raise DataError(
                f"{path} was written with {name}={stored.get(name)!r}, this run has "
                f"{settings[name]!r}. Resume with the settings of the first run."
            )
    for name, part in parts.items():
        part.load_state_dict(state["parts"][name])
    generator.set_state(state["generator"])
    torch.set_rng_state(state["torch_rng"])
    if state["cuda_rng"] and torch.cuda.is_available():
        torch.cuda.set_rng_state_all(state["cuda_rng"])
    return state["progress"]


def load_swinfuse(model: nn.Module, path: Path) -> None:
    """Load weights saved under the names of the released SwinFuse."""
    try:
        model.load_state_dict(read(path))
    except (RuntimeError, TypeError) as error:
        raise DataError(f"{path} does not hold SwinFuse's weights: {error}") from error
