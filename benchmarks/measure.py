"""All contestants at one size: memory in fresh processes, then time in turns."""

import argparse
from typing import Any

import torch

from benchmarks import memory
from benchmarks.cases import inputs
from benchmarks.common import side_by_side
from benchmarks.contestants import FLOORS, call, disagreement, spelled
from benchmarks.peers import Contestant

__all__ = ["Row", "at_size", "gradient_error", "show", "unable"]

# How and what was measured, ready for JSON: `timing` is None, and `skipped` says why,
# where it was not; `seconds` is the one call in the fresh process.
Row = dict[str, Any]


def unable(one: Contestant, args: argparse.Namespace) -> str:
    """Say why a contestant cannot be measured at any size, or return ""."""
    if one.compiles and (args.quick or not args.compile):
        return (
            f"compiles, which {'--quick' if args.quick else '--no-compile'} leaves out"
        )
    try:
        return disagreement(one, device=args.device)
    except Exception as error:  # not installed, or does not run here
        return f"{type(error).__name__}: {error}".splitlines()[0]


def at_size(
    contestants: list[Contestant],
    shape: tuple[int, ...],
    args: argparse.Namespace,
    rounds: int,
    skipped: dict[str, str],
) -> list[Row]:
    """Return a row for each contestant; `skipped` has those not to run, and why."""
    rows, calls, seconds = {}, {}, {}
    # torch compiles a function for eight sizes, and runs it as it is from then on.
    torch.compiler.reset()
    z = inputs(shape, args.device)
    for one in contestants:
        if reason := skipped.get(one.name):
            peak = memory.Measured(skipped=reason)
        else:
            peak = memory.measure(one, shape, device=args.device, seconds=args.seconds)
        if not peak.skipped:
            calls[one.name] = call(one, *z)
            seconds[one.name] = peak.seconds
        rows[one.name] = {
            "loss": one.loss,
            "contestant": one.name,
            "how": one.how(),
            "note": one.note,
            "differs": one.differs,
            "shape": list(shape),
            "dtype": "float32",
            "timing": None,
            "extra_bytes": peak.extra_bytes,
            "seconds": peak.seconds,
            "skipped": peak.skipped,
        }
    block, rounds = (0.001, 1) if args.quick else (args.block, rounds)
    for name, timing in side_by_side(calls, block, rounds, seconds).items():
        rows[name]["timing"] = timing._asdict()
    return list(rows.values())


def gradient_error(
    one: Contestant, shape: tuple[int, ...], device: str
) -> float | None:
    """Return the relative error of the float32 gradient against the library's float64.

    None for the floor, which has no gradient.
    """
    if one.name in FLOORS:
        return None
    z = inputs(shape, device)
    exact = [x.detach().double().requires_grad_() for x in z]
    theirs = torch.autograd.grad(one.build()(*z), z)
    truth = torch.autograd.grad(spelled(one)(*exact), exact)
    errors = [(g - t).norm() / t.norm() for g, t in zip(theirs, truth, strict=True)]
    return max(errors).item()


def show(row: Row) -> None:
    """Print one row."""
    print(f"  {row['contestant']:<28}", end="")
    if row["timing"] is not None:
        median, spread = row["timing"]["median_us"] / 1e3, row["timing"]["iqr_us"] / 1e3
        extra = row["extra_bytes"]
        print(f"{median:>12.3f} ±{spread:>9.3f} ms", end="")
        print(f"{'':>15}" if extra is None else f"{extra / 1e6:>12.1f} MB", end="")
    print(f"  {row['skipped'] or row['differs'] or row['note']}".rstrip(), flush=True)
