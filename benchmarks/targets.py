"""The targets, as data, and where the library stands.

    python -m benchmarks.targets [--quick] [--targets info_nce_8192 mmd_4096 …]

Every target is a ratio of forward and backward in float32, library over contestant,
both in one process and in turns; extra peak memory comes from fresh processes. The
contestant is the fastest of those that compute the same, unless one is named.
"""

import argparse
from dataclasses import asdict, dataclass, field
from typing import Any

import torch

from benchmarks import common, memory
from benchmarks.cases import CASES, views
from benchmarks.contestants import (
    COMPILED,
    FLOOR,
    LIBRARY,
    PLAIN,
    Contestant,
    contestants,
)

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
    """

    name: str
    loss: str
    shape: tuple[int, ...]
    against: tuple[str, ...] | None = None
    time: float | None = None
    memory: float | None = None
    inputs: float | None = None
    megabytes: float | None = None


TARGETS = (
    Target("info_nce_8192", "info_nce", (8192, 256), time=0.4, memory=0.1),
    Target("info_nce_floor", "info_nce", (8192, 256), (FLOOR,), time=1.0, inputs=3.0),
    Target("info_nce_65536", "info_nce", (65536, 128), (), megabytes=300.0),
    Target(
        "mmd_4096", "mmd", (4096, 256), ("dense expansion",), time=0.07, memory=0.02
    ),
    Target("barlow_twins_256", "barlow_twins", (256, 8192), time=0.06, memory=0.05),
    Target("vicreg_256", "vicreg", (256, 8192), time=0.06, memory=0.05),
    Target("coral_256", "coral", (256, 4096), time=0.1, memory=0.1),
    Target("dcca_4096", "dcca", (4096, 256), time=0.6, memory=1.0),
    Target("groups", "info_nce_groups", (64, 256, 128), (PLAIN,), time=0.4, memory=1.0),
    *(
        Target(f"small_{case.name}", case.name, (256, 128), (PLAIN,), time=1.1)
        for case in CASES
    ),
    Target("info_nce_1024", "info_nce", (1024, 128), (PLAIN,), time=0.6),
)


@dataclass
class Entry:
    """One contestant at the size of a target."""

    how: str
    note: str
    extra_bytes: int | None = None
    timing: common.Timing | None = None
    skipped: str = ""


@dataclass
class Verdict:
    """What was measured beside what was promised."""

    criterion: str
    measured: float | None
    target: float
    against: str
    passed: bool = field(init=False)

    def __post_init__(self):
        self.passed = self.measured is not None and self.measured <= self.target


def chosen(target: Target, compiled: bool) -> list[Contestant]:
    """Return who is measured for a target, the library first."""
    everyone = contestants(target.loss)
    if target.against is not None:
        return [one for one in everyone if one.name in (LIBRARY, *target.against)]
    return [
        one
        for one in everyone
        if one.name != FLOOR and not one.differs and (compiled or one.name != COMPILED)
    ]


def measure(target: Target, args: argparse.Namespace) -> dict[str, Entry]:
    """Return time and memory of everyone concerned."""
    shape = tuple(min(n, 32) for n in target.shape) if args.quick else target.shape
    entries, calls = {}, {}
    z = views(*shape, device=args.device, dtype=torch.float32)
    z = [x.requires_grad_() for x in z]
    for one in chosen(target, args.compile):
        entry = entries[one.name] = Entry(one.how, one.note)
        try:
            entry.skipped = one.disagreement()
        except Exception as error:  # not installed, or not able to
            entry.skipped = f"{type(error).__name__}: {error}".splitlines()[0]
        if entry.skipped:
            continue
        peak = memory.measure(one.loss, one.name, shape, device=args.device)
        entry.extra_bytes, entry.skipped = peak.extra_bytes, peak.skipped
        if not peak.skipped and target.time is not None:
            calls[one.name] = one.call(*z)
        elif not peak.skipped:
            entry.timing = common.Timing(1e6 * peak.seconds, 0.0, 1)
    min_run_time, rounds = (0.001, 1) if args.quick else (0.1, 11)
    for name, timing in common.side_by_side(calls, min_run_time, rounds).items():
        entries[name].timing = timing
    return entries


def judge(target: Target, entries: dict[str, Entry]) -> list[Verdict]:
    """Return one verdict for each number the target names."""
    ours = entries[LIBRARY]
    others = {
        name: entry
        for name, entry in entries.items()
        if name != LIBRARY and entry.timing is not None
    }
    best = min(others, key=lambda name: others[name].timing.median_us, default="")
    out = []
    if target.time is not None:
        ratio = None
        if best and ours.timing:
            ratio = ours.timing.median_us / others[best].timing.median_us
        out.append(Verdict("time", ratio, target.time, best))
    extra = ours.extra_bytes
    if target.memory is not None:
        theirs = others[best].extra_bytes if best else None
        ratio = extra / theirs if extra is not None and theirs else None
        out.append(Verdict("extra memory", ratio, target.memory, best))
    if target.inputs is not None:
        size = 2 * 4 * torch.Size(target.shape).numel()
        ratio = None if extra is None else extra / size
        out.append(Verdict("extra memory", ratio, target.inputs, "the inputs"))
    if target.megabytes is not None:
        size = None if extra is None else extra / 1e6
        out.append(Verdict("extra memory", size, target.megabytes, "MB"))
    return out


def show(target: Target, entries: dict[str, Entry], verdicts: list[Verdict]) -> None:
    """Print one target."""
    shape = " × ".join(map(str, target.shape))
    print(f"\n{target.name}: {target.loss}, {shape}")
    for name, entry in entries.items():
        cells = f"{'':>26}{'':>14}"
        if entry.timing is not None:
            timing = entry.timing
            cells = f"{timing.median_us / 1e3:>12.3f} ± {timing.iqr_us / 1e3:<8.3f}ms"
            extra = entry.extra_bytes
            cells += f"{extra / 1e6:>11.1f} MB" if extra is not None else " " * 14
        print(f"  {name:<28}{cells}  {entry.skipped or entry.note}")
    for verdict in verdicts:
        value = "–" if verdict.measured is None else f"{verdict.measured:.3g}"
        print(
            f"  {'PASS' if verdict.passed else 'MISS'}  {verdict.criterion} {value} "
            f"(target {verdict.target:g}, against {verdict.against or '–'})",
            flush=True,
        )


def main() -> None:
    """Measure, print, save."""
    parser = common.parser(__doc__.splitlines()[0])
    names = [target.name for target in TARGETS]
    parser.add_argument("--targets", nargs="+", choices=names, metavar="NAME")
    parser.add_argument(
        "--no-compile", dest="compile", action="store_false", help="leave it out"
    )
    args = parser.parse_args()
    torch.set_num_threads(args.threads)
    results: list[dict[str, Any]] = []
    for target in TARGETS:
        wanted = not args.losses or target.loss in args.losses
        if not wanted or (args.targets and target.name not in args.targets):
            continue
        entries = measure(target, args)
        verdicts = judge(target, entries)
        show(target, entries, verdicts)
        results.append(
            {
                **asdict(target),
                "entries": {
                    name: {
                        **asdict(entry),
                        "timing": entry.timing and entry.timing._asdict(),
                    }
                    for name, entry in entries.items()
                },
                "verdicts": [asdict(verdict) for verdict in verdicts],
            }
        )
    passed = sum(v["passed"] for row in results for v in row["verdicts"])
    total = sum(len(row["verdicts"]) for row in results)
    print(f"\n{passed} of {total} met; median ± interquartile range")
    common.save("targets", args, results)


if __name__ == "__main__":
    main()
