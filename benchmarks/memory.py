"""Peak memory of one call, in a process of its own.

A process that never ran a loss is forked for every measurement from a server that has
imported torch and the peers and done nothing else. In it, after a tiny warm-up, the
inputs are made, the high-water mark is reset, and the call runs once. What is reported
is the mark less what was in use before: everything the call held at its worst moment,
the gradients it returns included, the inputs not.

On Linux the mark is `VmHWM` of `/proc/self/status`; on CUDA that of torch's allocator.
Elsewhere memory is not measured.
"""

import gc
import multiprocessing
import os
import resource
import time
from dataclasses import dataclass
from multiprocessing.connection import Connection
from pathlib import Path

import torch

from benchmarks.cases import views
from benchmarks.contestants import COMPILED, contestants

__all__ = ["Measured", "limit_bytes", "measure"]

WARM_UP = (8, 4)


@dataclass(frozen=True)
class Measured:
    """What one call took in a fresh process, or why that is not known."""

    extra_bytes: int | None = None
    seconds: float | None = None
    skipped: str = ""


def limit_bytes() -> int:
    """Return what a call may take: most of what is free, and never all there is."""
    page = os.sysconf("SC_PAGE_SIZE")
    total = os.sysconf("SC_PHYS_PAGES") * page
    free = os.sysconf("SC_AVPHYS_PAGES") * page
    meminfo = Path("/proc/meminfo")
    if meminfo.exists():  # counts the caches that can be dropped
        lines = dict(line.split(":") for line in meminfo.read_text().splitlines())
        free = int(lines["MemAvailable"].split()[0]) * 1024
    return int(min(0.6 * total, 0.8 * free))


def measure(
    loss: str,
    name: str,
    shape: tuple[int, ...],
    *,
    device: str = "cpu",
    dtype: torch.dtype = torch.float32,
    seconds: float = 60.0,
) -> Measured:
    """Run one call of one contestant in a fresh process; give up after `seconds`."""
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload([__name__])
    with _returning_memory():
        ours, theirs = context.Pipe(duplex=False)
        job = (loss, name, shape, device, dtype, torch.get_num_threads(), limit_bytes())
        process = context.Process(target=_run, args=(theirs, *job), daemon=False)
        process.start()
    theirs.close()
    try:
        # Imports, inputs and compilation are not the call.
        for stage in (seconds + 240, seconds):
            if not ours.poll(stage):
                return Measured(skipped=f"one call takes more than {seconds:g} s")
            answer = ours.recv()
            if isinstance(answer, Measured):
                return answer
    except EOFError:
        process.join()
        return Measured(
            skipped=f"out of memory: ended by the system ({process.exitcode})"
        )
    finally:
        process.kill()
        process.join()
    raise AssertionError("a fresh process says two things")


class _returning_memory:  # noqa: N801
    """Let the C library give every larger block back to the system when it is freed.

    It reads these variables when a process starts, and otherwise keeps some of what was
    freed for the next call, which then seems to need none.
    """

    VARIABLES = ("MALLOC_MMAP_THRESHOLD_", "MALLOC_TRIM_THRESHOLD_")

    def __enter__(self):
        os.environ.update(dict.fromkeys(self.VARIABLES, "65536"))

    def __exit__(self, *exception):
        for name in self.VARIABLES:
            del os.environ[name]


def _run(
    pipe: Connection,
    loss: str,
    name: str,
    shape: tuple[int, ...],
    device: str,
    dtype: torch.dtype,
    threads: int,
    limit: int,
) -> None:
    torch.set_num_threads(threads)
    options = {"device": device, "dtype": dtype}
    (contestant,) = contestants(loss, (name,))
    z = [x.requires_grad_() for x in views(*shape, **options)]
    tiny = (2,) * (len(shape) - 2) + WARM_UP
    small = [x.requires_grad_() for x in views(*tiny, **options)]
    _limit(limit)
    try:
        call = contestant.call(*z)
        # A compiled function is compiled again for every shape.
        (call if name == COMPILED else contestant.call(*small))()
        gc.collect()
        pipe.send("ready")
        cuda = torch.device(device).type == "cuda"
        pipe.send(_on_cuda(call, device) if cuda else _on_linux(call))
    except Exception as error:
        text = str(error).strip().splitlines()[0]
        memory = isinstance(error, (MemoryError, torch.OutOfMemoryError))
        if memory or "can't allocate memory" in text:
            text = f"out of memory: needs more than {limit / 1e9:.1f} GB"
        pipe.send(Measured(skipped=text))


def _limit(extra: int) -> None:
    size = _status("VmSize")
    if size is not None:
        resource.setrlimit(resource.RLIMIT_AS, (size + extra,) * 2)


def _on_linux(call) -> Measured:
    if _status("VmHWM") is not None:
        Path("/proc/self/clear_refs").write_text("5")
    before, start = _status("VmRSS"), time.perf_counter()
    result = call()
    seconds, peak = time.perf_counter() - start, _status("VmHWM")
    del result
    return Measured(None if peak is None else peak - before, seconds)


def _on_cuda(call, device: str) -> Measured:
    torch.cuda.synchronize(device)
    torch.cuda.reset_peak_memory_stats(device)
    before, start = torch.cuda.memory_allocated(device), time.perf_counter()
    result = call()
    torch.cuda.synchronize(device)
    seconds = time.perf_counter() - start
    del result
    return Measured(torch.cuda.max_memory_allocated(device) - before, seconds)


def _status(field: str) -> int | None:
    status = Path("/proc/self/status")
    if status.exists():
        for line in status.read_text().splitlines():
            if line.startswith(field + ":"):
                return int(line.split()[1]) * 1024
    return None
