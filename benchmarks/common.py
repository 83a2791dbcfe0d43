"""The harness: timing, comparison, metadata and strict JSON, the same everywhere."""

import argparse
import json
import math
import os
import platform
import re
import subprocess
import time
from collections.abc import Callable, Iterable
from datetime import datetime, timezone
from pathlib import Path
from typing import Any, NamedTuple

import torch
from torch.utils.benchmark import Timer

import xmodal_losses as xl
from benchmarks.cases import CASES, Case

ROOT = Path(__file__).resolve().parent.parent
RESULTS = ROOT / "benchmarks" / "results" / xl.__version__


class Timing(NamedTuple):
    """Wall-clock time of one call in microseconds."""

    median_us: float
    iqr_us: float
    calls: int


def parser(
    description: str, losses: Iterable[str] = tuple(case.name for case in CASES)
) -> argparse.ArgumentParser:
    """Return the command line all scripts share."""
    out = argparse.ArgumentParser(description=description)
    out.add_argument("--quick", action="store_true", help="only see that it runs")
    out.add_argument("--losses", nargs="+", choices=list(losses))
    out.add_argument(
        "--seconds", type=float, default=60.0, help="what takes longer is left out"
    )
    out.add_argument(
        "--no-compile",
        dest="compile",
        action="store_false",
        help="leave out what compiles",
    )
    out.add_argument(
        "--block",
        type=float,
        default=0.1,
        help="seconds of a turn, at least, of calls that take less",
    )
    out.add_argument("--device", default="cpu")
    out.add_argument("--threads", type=int, default=torch.get_num_threads())
    out.add_argument(
        "--machine", help="name in the file (default: the GPU, or the architecture)"
    )
    out.add_argument("--results", type=Path, default=RESULTS, help="write in here")
    out.add_argument("--json", type=Path, help="write this file instead")
    return out


def chosen(args: argparse.Namespace) -> list[Case]:
    """Return the cases that were asked for."""
    return [case for case in CASES if not args.losses or case.name in args.losses]


def side_by_side(
    calls: dict[str, Callable[[], Any]],
    min_run_time: float,
    rounds: int,
    seconds: dict[str, float] | None = None,
) -> dict[str, Timing]:
    """Time several calls in turns, so that drift of the machine meets all of them.

    `blocked_autorange` repeats, and waits for the device; before the first turn every
    call runs three times, to allocate, choose algorithms and load libraries. `seconds`
    is what the calls are known to take: one that takes a second or more has three
    turns and no warm-up, one that takes five a single turn.
    """
    seconds = seconds or {}
    for name, call in calls.items():
        for _ in range(_by_length(seconds.get(name, 0.0), 3, 0, 0)):
            call()
    times: dict[str, list[float]] = {name: [] for name in calls}
    for turn in range(rounds):
        for name, call in calls.items():
            length = seconds.get(name, 0.0)
            if turn >= _by_length(length, rounds, 3, 1):
                continue
            if length < 1:
                threads = torch.get_num_threads()  # a Timer takes one by default
                timer = Timer("f()", globals={"f": call}, num_threads=threads)
                times[name] += timer.blocked_autorange(min_run_time=min_run_time).times
            else:
                times[name].append(_stopwatch(call))
    return {name: _summary(values) for name, values in times.items()}


def _by_length(seconds: float, short: int, long: int, longest: int) -> int:
    return longest if seconds > 5 else long if seconds > 1 else short


def _stopwatch(call: Callable[[], Any]) -> float:
    # A second is far above what autoranging is there to average out, and every
    # Timer would make the call three times to measure it once.
    if torch.cuda.is_available():
        torch.cuda.synchronize()
    start = time.perf_counter()
    call()
    if torch.cuda.is_available():
        torch.cuda.synchronize()
    return time.perf_counter() - start


def _summary(seconds: list[float]) -> Timing:
    micro = torch.tensor(seconds, dtype=torch.float64) * 1e6
    low, median, high = (micro.quantile(q).item() for q in (0.25, 0.5, 0.75))
    return Timing(median, high - low, len(seconds))


def metadata(args: argparse.Namespace) -> dict[str, Any]:
    """Return what a number needs beside it to mean something."""
    device = torch.device(args.device)
    cuda = device.type == "cuda"
    return {
        "timestamp_utc": datetime.now(timezone.utc).isoformat(timespec="seconds"),
        "xmodal_losses": xl.__version__,
        "git_commit": _commit(),
        "torch": torch.__version__,
        "cuda": torch.version.cuda if cuda else None,
        "python": platform.python_version(),
        "platform": f"{platform.system()} {platform.machine()}",
        "machine": machine(args),
        "device": torch.cuda.get_device_name(device) if cuda else _processor(),
        "memory_gb": memory_bytes(device) / 1e9,
        "float32_matmul_precision": torch.get_float32_matmul_precision(),
        "torch_num_threads": torch.get_num_threads(),
        "load_average": list(os.getloadavg()) if hasattr(os, "getloadavg") else None,
        "quick": args.quick,
    }


def memory_bytes(device: torch.device) -> int:
    """Return the memory of a GPU, or that of the machine."""
    if device.type == "cuda":
        total: int = torch.cuda.get_device_properties(device).total_memory
        return total
    return os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")


def machine(args: argparse.Namespace) -> str:
    """Return what files of results call this machine."""
    if args.machine is not None:
        return args.machine
    if torch.device(args.device).type == "cuda":
        name = torch.cuda.get_device_name(args.device)
        return re.sub(r"[^a-z0-9]+", "-", name.lower()).strip("-")
    return platform.machine()


def _commit() -> str | None:
    def git(*args: str) -> str:
        done = subprocess.run(
            ["git", *args], cwd=ROOT, capture_output=True, text=True, check=True
        )
        return done.stdout.strip()

    try:
        commit = git("describe", "--always", "--abbrev=12")
        # What the suite before has just written is no change of what is measured.
        changed = git("diff", "--name-only", "HEAD", "--", ".", ":!benchmarks/results")
    except (OSError, subprocess.CalledProcessError):
        return None
    return f"{commit}-dirty" if changed else commit


def _processor() -> str:
    cpuinfo = Path("/proc/cpuinfo")
    if cpuinfo.exists():
        for line in cpuinfo.read_text().splitlines():
            if line.startswith("model name"):
                return line.partition(":")[2].strip()
    return platform.processor() or platform.machine()


def published(suite: str, args: argparse.Namespace) -> Path:
    """Return where the run of a suite is published."""
    kind = torch.device(args.device).type
    return args.results / f"{suite}--{machine(args)}--{kind}.json"


def save(
    suite: str,
    args: argparse.Namespace,
    results: list[dict[str, Any]],
    *,
    partial: bool,
) -> None:
    """Write one run as strict JSON; quick and partial runs only where they are told."""
    path = args.json
    if path is None:
        if args.quick or partial:
            return
        path = published(suite, args)
    path.parent.mkdir(parents=True, exist_ok=True)
    run = {"metadata": metadata(args), "results": results}
    text = json.dumps(_strict(run), indent=1, allow_nan=False, ensure_ascii=False)
    path.write_text(text + "\n", encoding="utf-8")
    print(f"\nwritten: {path}")


def _strict(value: Any) -> Any:
    """Replace NaN and infinities, which JSON does not have, by null."""
    if isinstance(value, dict):
        return {key: _strict(item) for key, item in value.items()}
    if isinstance(value, (list, tuple)):
        return [_strict(item) for item in value]
    if isinstance(value, float) and not math.isfinite(value):
        return None
    return value
