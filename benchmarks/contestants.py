"""Who is measured: the library, the plain formula, its compiled form, every peer."""

import warnings
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from benchmarks import floor
from benchmarks.cases import CASES, GROUPS, Case, views
from benchmarks.peers import PEERS, Loss

__all__ = ["COMPILED", "FLOOR", "LIBRARY", "PLAIN", "Contestant", "contestants"]

LIBRARY, PLAIN, COMPILED, FLOOR = "xmodal_losses", "plain", "plain, compiled", "floor"


@dataclass(frozen=True)
class Contestant:
    """One way to compute a loss, in whose place others can be put."""

    loss: str
    name: str
    how: str
    build: Callable[[], Loss]
    ours: Loss | None = None
    note: str = ""
    differs: str = ""

    def call(self, z_a: Tensor, z_b: Tensor) -> Callable[[], Any]:
        """Return the measured call: forward and backward, without accumulation.

        The floor has its products alone; they are those of both passes.
        """
        function = self.build()
        if self.name == FLOOR:
            z_a, z_b = z_a.detach(), z_b.detach()
            return lambda: function(z_a, z_b)
        return lambda: torch.autograd.grad(function(z_a, z_b), (z_a, z_b))

    def disagreement(self, rows: int = 96, columns: int = 8) -> str:
        """Say how value or gradient differ from the library's in float64, or "".

        A baseline that computes something else is worse than none: one that does not
        have to differ and does is not measured. One that differs by design says why,
        and is held to it: if it no longer differs, that is a disagreement, too.
        """
        if self.ours is None:
            return ""
        shape = (4, rows // 4, columns) if self.loss == GROUPS.name else (rows, columns)
        results = []
        for function in (self.ours, self.build()):
            z = [x.requires_grad_() for x in views(*shape, dtype=torch.float64)]
            value = function(*z)
            results.append((value.detach(), *torch.autograd.grad(value, z)))
        equal = True
        for ours, theirs in zip(*results, strict=True):
            equal &= torch.allclose(theirs, ours, rtol=1e-6, atol=1e-9)
        if equal == bool(self.differs):
            return "equals the library's after all" if equal else _gap(*results)
        return ""


def _gap(ours: tuple[Tensor, ...], theirs: tuple[Tensor, ...]) -> str:
    def relative(x: Tensor, y: Tensor) -> float:
        return ((y - x).norm() / x.norm()).item()

    value, *gradients = map(relative, ours, theirs)
    return f"relative error {value:.1e} of the value, {max(gradients):.1e} of gradients"


def contestants(loss: str, names: tuple[str, ...] | None = None) -> list[Contestant]:
    """Return all contestants of a loss, or those with the given names."""
    (case,) = (case for case in (*CASES, GROUPS) if case.name == loss)
    out = [
        Contestant(loss, LIBRARY, "this library", lambda: case.library),
        Contestant(loss, PLAIN, "plain.py", lambda: case.plain, case.library),
        Contestant(
            loss, COMPILED, "torch.compile", lambda: _compiled(case), case.library
        ),
        Contestant(loss, FLOOR, "floor.py", lambda: floor.products(loss)),
    ]
    for p in PEERS:
        if p.loss == loss:
            ours = p.ours or case.library
            out.append(
                Contestant(loss, p.name, p.how(), p.build, ours, p.note, p.differs)
            )
    if names is None:
        return out
    found = {one.name: one for one in out}
    return [found[name] for name in names]


def _compiled(case: Case) -> Loss:
    # Code for this very size, and whatever breaks of the graph the formula has.
    warnings.filterwarnings("ignore", module=r"torch\._inductor")
    return torch.compile(case.plain, dynamic=False)
