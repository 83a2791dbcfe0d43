"""What a contestant is, the list of peers, and how they are imported."""

import importlib
import sys
import types
from collections.abc import Callable
from dataclasses import dataclass
from importlib.metadata import PackageNotFoundError, distribution
from pathlib import Path
from typing import TypeAlias

import torch
from torch import Tensor

__all__ = ["PEERS", "Contestant", "Loss", "module", "peer"]

Loss: TypeAlias = Callable[[Tensor, Tensor], Tensor]


@dataclass(frozen=True)
class Contestant:
    """One way to compute a loss.

    Attributes:
        loss: The case it stands in.
        name: Its name in tables and plots.
        build: Returns the function; raises ImportError where it cannot be had.
        package: The distribution that has it, or "".
        formula: What is written here in its place, or "".
        ours: The library's spelling of the same; None for the defaults of the case.
        note: What differs from those defaults, or from how others are measured.
        differs: Why no spelling is equal; such a peer is no baseline of a ratio.
        dtype: In which it is compared with the library.
        compiles: Whether it compiles code for the size at hand on its first call.
    """

    loss: str
    name: str
    build: Callable[[], Loss]
    package: str = ""
    formula: str = ""
    ours: Loss | None = None
    note: str = ""
    differs: str = ""
    dtype: torch.dtype = torch.float64
    compiles: bool = False

    def how(self) -> str:
        """Return where the code that runs comes from."""
        if not self.package:
            return self.formula
        try:
            return f"{self.package} {distribution(self.package).version}"
        except PackageNotFoundError:
            return f"{self.package}, not installed"


PEERS: list[Contestant] = []


def peer(loss: str, name: str, **fields) -> Callable:
    """Enter the decorated builder as a peer."""

    def enter(build: Callable[[], Loss]) -> Callable[[], Loss]:
        PEERS.append(Contestant(loss, name, build, **fields))
        return build

    return enter


def module(package: str, name: str) -> types.ModuleType:
    """Import one module of an installed package, and not the packages around it.

    Those import torchvision, lightning and other things a loss does not need and a
    machine may not have.
    """
    try:
        site = Path(distribution(package).locate_file(""))
    except PackageNotFoundError as error:
        raise ImportError(f"{package} is not installed") from error
    parts = name.split(".")
    for count in range(1, len(parts)):
        parent = ".".join(parts[:count])
        if parent not in sys.modules:
            bare = types.ModuleType(parent)
            bare.__path__ = [str(site.joinpath(*parts[:count]))]
            sys.modules[parent] = bare
    return importlib.import_module(name)
