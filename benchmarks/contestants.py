"""Who is measured: the library, the plain formula, as it is and compiled, the peers."""

import warnings
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

from benchmarks import floor
from benchmarks.cases import CASES, GROUPS, Case, views
from benchmarks.peers import PEERS, Contestant, Loss

__all__ = [
    "COMPILED",
    "FLOOR",
    "FLOORS",
    "FLOOR_TWICE",
    "LIBRARY",
    "PLAIN",
    "call",
    "contestants",
    "disagreement",
    "spelled",
]

LIBRARY, PLAIN, COMPILED = "xmodal_losses", "plain", "plain, compiled"
FLOOR, FLOOR_TWICE = "floor", "floor, logits twice"
FLOORS = (FLOOR, FLOOR_TWICE)


def contestants(loss: str, names: tuple[str, ...] | None = None) -> list[Contestant]:
    """Return all contestants of a loss, or those named, the library first.

    The library and the floor are entered as the peers are.
    """
    case = _case(loss)
    everyone = [
        Contestant(loss, LIBRARY, lambda: case.library, formula="this library"),
        Contestant(loss, PLAIN, lambda: case.plain, formula="plain.py"),
        Contestant(
            loss,
            COMPILED,
            lambda: _compiled(case),
            formula="plain.py, by torch.compile",
            compiles=True,
        ),
        *(peer for peer in PEERS if peer.loss == loss),
        Contestant(loss, FLOOR, lambda: floor.FLOOR[loss], formula="floor.py"),
    ]
    if loss in ("info_nce", GROUPS.name):
        everyone.append(
            Contestant(
                loss, FLOOR_TWICE, lambda: floor.info_nce_twice, formula="floor.py"
            )
        )
    if names is None:
        return everyone
    found = {one.name: one for one in everyone}
    return [found[name] for name in names]


def spelled(contestant: Contestant) -> Loss:
    """Return the library's spelling of what a contestant computes."""
    return contestant.ours or _case(contestant.loss).library


def call(contestant: Contestant, z_a: Tensor, z_b: Tensor) -> Callable[[], Any]:
    """Return the measured call: forward and backward, without accumulation.

    The floor has its products alone; they are those of both passes.
    """
    function = contestant.build()
    if contestant.name in FLOORS:
        z_a, z_b = z_a.detach(), z_b.detach()
        return lambda: function(z_a, z_b)
    return lambda: torch.autograd.grad(function(z_a, z_b), (z_a, z_b))


def disagreement(
    contestant: Contestant, rows: int = 96, columns: int = 8, device: str = "cpu"
) -> str:
    """Say how value or gradient differ from the library's, or return "".

    A baseline that computes something else is worse than none: one that does not have
    to differ and does is not measured. One that differs by design says why, and is held
    to it: if it no longer differs, that is a disagreement, too.
    """
    if contestant.name in (LIBRARY, *FLOORS):
        return ""
    loss, dtype = contestant.loss, contestant.dtype
    shape = (4, rows // 4, columns) if loss == GROUPS.name else (rows, columns)
    results = []
    for function in (spelled(contestant), contestant.build()):
        z = [x.requires_grad_() for x in views(*shape, dtype=dtype, device=device)]
        value = function(*z)
        results.append((value.detach(), *torch.autograd.grad(value, z)))
    gaps = [
        ((theirs - ours).norm() / ours.norm()).item()
        for ours, theirs in zip(*results, strict=True)
    ]
    equal = max(gaps) < (1e-6 if dtype == torch.float64 else 1e-4)
    if equal and contestant.differs:
        return "said to differ, and does not"
    if not equal and not contestant.differs:
        value, *gradients = gaps
        return f"differs by {value:.1e} in value, {max(gradients):.1e} in gradient"
    return ""


def _case(loss: str) -> Case:
    (case,) = (case for case in (*CASES, GROUPS) if case.name == loss)
    return case


def _compiled(case: Case) -> Loss:
    # Code for this very size, and whatever breaks of the graph the formula has.
    warnings.filterwarnings("ignore", module=r"torch\._inductor")
    return torch.compile(case.plain, dynamic=False)
