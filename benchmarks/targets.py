"""The targets, as data, and where the library stands.

    python -m benchmarks.targets [--quick] [--targets info_nce_8192 mmd_4096 …]

Every target is a ratio of forward and backward in float32, library over contestant,
both in one process and in turns; extra peak memory comes from fresh processes. The
contestant is the fastest of those that compute the same, unless one is named.
"""

import argparse
import math
from dataclasses import asdict, dataclass, field
from typing import Any

import torch

from benchmarks import common
from benchmarks.cases import CASES
from benchmarks.contestants import FLOOR_TWICE, FLOORS, LIBRARY, PLAIN, contestants
from benchmarks.measure import Row, at_size, gradient_error, show, unable
from benchmarks.peers import Contestant

__all__ = ["TARGETS", "Target"]


@dataclass(frozen=True)
class Target:
    """One row of the table: what is promised at one size.

    Attributes:
        name: What `--targets` calls it.
        loss: The case.
        shape: Of each of the two inputs.
        against: Names of the contestants; None for all that compute the same.
        time: Largest ratio of time, against the fastest of them.
        memory: Largest ratio of extra peak memory, against that same one.
        inputs: Largest extra peak memory in multiples of the two inputs.
        megabytes: Largest extra peak memory in 10⁶ bytes.
        gradient: Largest relative error of a gradient that counts as right; who is
            further off is no contestant. None: not looked at.
    """

    name: str
    loss: str
    shape: tuple[int, ...]
    against: tuple[str, ...] | None = None
    time: float | None = None
    memory: float | None = None
    inputs: float | None = None
    megabytes: float | None = None
    gradient: float | None = None


TARGETS = (
    Target("info_nce_8192", "info_nce", (8192, 256), time=0.4, memory=0.1),
    Target(
        "info_nce_floor", "info_nce", (8192, 256), (FLOOR_TWICE,), time=1.0, inputs=3.0
    ),
    Target("info_nce_65536", "info_nce", (65536, 128), (), megabytes=300.0),
    Target(
        "mmd_4096", "mmd", (4096, 256), ("dense expansion",), time=0.07, memory=0.02
    ),
    Target("barlow_twins_256", "barlow_twins", (256, 8192), time=0.06, memory=0.05),
    Target("vicreg_256", "vicreg", (256, 8192), time=0.06, memory=0.05),
    Target("coral_256", "coral", (256, 4096), time=0.1, memory=0.1),
    Target("dcca_4096", "dcca", (4096, 256), time=0.6, memory=1.0, gradient=1e-3),
    Target("groups", "info_nce_groups", (64, 256, 128), (PLAIN,), time=0.4, memory=1.0),
    *(
        Target(f"small_{case.name}", case.name, (256, 128), (PLAIN,), time=1.1)
        for case in CASES
    ),
    Target("info_nce_1024", "info_nce", (1024, 128), (PLAIN,), time=0.6),
)


@dataclass
class Verdict:
    """What was measured beside what was promised."""

    criterion: str
    measured: float | None
    target: float
    against: str
    met: bool = field(init=False)

    def __post_init__(self):
        self.met = self.measured is not None and self.measured <= self.target


def chosen(target: Target, args: argparse.Namespace) -> list[Contestant]:
    """Return who is measured for a target, the library first."""
    if target.against is not None:
        return contestants(target.loss, (LIBRARY, *target.against))
    return [
        one
        for one in contestants(target.loss)
        if one.name not in FLOORS
        and not one.differs
        and (args.compile or not one.compiles)
    ]


def measure(target: Target, args: argparse.Namespace) -> list[Row]:
    """Return time and memory of everyone concerned."""
    shape = tuple(min(n, 32) for n in target.shape) if args.quick else target.shape
    some = chosen(target, args)
    skipped = {one.name: reason for one in some if (reason := unable(one, args))}
    rows = at_size(some, shape, args, rounds=11, skipped=skipped)
    for one, row in zip(some, rows, strict=True):
        if target.gradient is not None and row["timing"]:
            row["gradient_error"] = gradient_error(one, shape, args.device)
    return rows


def _median(row: Row | None) -> float | None:
    return row["timing"]["median_us"] if row and row["timing"] else None


def judge(target: Target, rows: list[Row]) -> list[Verdict]:
    """Return one verdict for each number the target names."""
    ours, *others = rows
    right = math.inf if target.gradient is None else target.gradient
    others = [
        row
        for row in others
        if row["timing"] and row.get("gradient_error", 0.0) <= right
    ]
    best = min(others, key=_median, default=None)
    against = best["contestant"] if best else "nobody"

    def ratio(value: float | None, unit: float | None) -> float | None:
        return None if value is None or not unit else value / unit

    out = []
    if target.time is not None:
        value = ratio(_median(ours), _median(best))
        out.append(Verdict("time", value, target.time, against))
    extra = ours["extra_bytes"]
    if target.memory is not None:
        value = ratio(extra, best and best["extra_bytes"])
        out.append(Verdict("extra memory", value, target.memory, against))
    if target.inputs is not None:
        value = ratio(extra, 2 * 4 * math.prod(ours["shape"]))
        out.append(Verdict("extra memory", value, target.inputs, "the inputs"))
    if target.megabytes is not None:
        value = ratio(extra, 1e6)
        out.append(Verdict("extra memory", value, target.megabytes, "MB"))
    return out


def run(target: Target, args: argparse.Namespace) -> dict[str, Any]:
    """Measure and print a target; return it with what was measured."""
    rows = measure(target, args)
    size = " × ".join(map(str, rows[0]["shape"]))
    print(f"{target.name}: {target.loss}, {size}")
    for row in rows:
        show(row)
    verdicts = judge(target, rows)
    for verdict in verdicts:
        value = "–" if verdict.measured is None else f"{verdict.measured:.3g}"
        print(f"  {'met   ' if verdict.met else 'MISSED'} ", end="")
        print(f"{verdict.criterion} {value}, target {verdict.target:g}, ", end="")
        print(f"against {verdict.against}", flush=True)
    verdicts = [asdict(verdict) for verdict in verdicts]
    return {**asdict(target), "rows": rows, "verdicts": verdicts}


def main() -> None:
    """Measure, print, save."""
    parser = common.parser(__doc__.splitlines()[0])
    names = [target.name for target in TARGETS]
    parser.add_argument("--targets", nargs="+", choices=names, metavar="NAME")
    args = parser.parse_args()
    torch.set_num_threads(args.threads)
    results: list[dict[str, Any]] = []
    partial = bool(args.losses or args.targets or not args.compile)
    try:
        for target in TARGETS:
            if args.losses and target.loss not in args.losses:
                continue
            if args.targets and target.name not in args.targets:
                continue
            results.append(run(target, args))
    except KeyboardInterrupt:  # what there is is worth having, where it is told
        partial = True
    verdicts = [verdict for result in results for verdict in result["verdicts"]]
    met = sum(verdict["met"] for verdict in verdicts)
    print(f"{met} of {len(verdicts)} met; median ± interquartile range of one call")
    common.save("targets", args, results, partial=partial)


if __name__ == "__main__":
    main()
