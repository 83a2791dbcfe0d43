"""Peak memory of one call, on a CPU in a process of its own.

A process that never ran a loss is forked for every measurement from a server that has
imported torch and the peers and done nothing else. In it, after a tiny warm-up, the
inputs are made, the high-water mark is reset, and the call runs once. What is reported
is the mark less what was in use before: everything the call held at its worst moment,
the gradients it returns included, the inputs not.

On Linux the mark is `VmHWM` of `/proc/self/status`. On CUDA it is that of torch's
allocator, which counts what is asked of it and nothing else, so that no process has to
be made: the call runs once in this one, after a tiny warm-up. Elsewhere memory is not
measured.
"""

import gc
import multiprocessing
import os
import resource
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from benchmarks.cases import inputs
from benchmarks.common import memory_bytes
from benchmarks.contestants import call, contestants
from benchmarks.peers import Contestant

__all__ = ["Measured", "limit_bytes", "measure"]

WARM_UP = (8, 4)


@dataclass(frozen=True)
class Measured:
    """What one call took in a fresh process, or why that is not known."""

    extra_bytes: int | None = None
    seconds: float | None = None
    skipped: str = ""


def limit_bytes() -> int:
    """Return what a call may take of the memory of this machine: not all of it."""
    total = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    meminfo = Path("/proc/meminfo")
    if not meminfo.exists():
        return int(0.6 * total)
    lines = dict(line.split(":") for line in meminfo.read_text().splitlines())
    available = 1024 * int(lines["MemAvailable"].split()[0])
    return int(min(0.6 * total, 0.8 * available))


def measure(
    contestant: Contestant,
    shape: tuple[int, ...],
    *,
    device: str = "cpu",
    seconds: float = 60.0,
    limit: int | None = None,
) -> Measured:
    """Run one call; on a CPU, give up after `seconds` or `limit` bytes."""
    if torch.device(device).type == "cuda":
        return _in_this_process(contestant, shape, device)
    context = multiprocessing.get_context("forkserver")
    # What is imported here need not be imported by each of the processes.
    context.set_forkserver_preload([__name__, "torch._inductor.compile_fx"])
    ours, theirs = context.Pipe(duplex=False)
    job = (contestant.loss, contestant.name, shape)
    limits = (torch.get_num_threads(), limit_bytes() if limit is None else limit)
    with _environment():
        process = context.Process(target=_run, args=(theirs, *job, *limits))
        process.start()
    theirs.close()
    try:
        # Imports, inputs and compilation are not the call.
        for what, patience in (("starting", 300.0), ("one call", seconds)):
            if not ours.poll(patience):
                return Measured(skipped=f"{what} takes more than {patience:g} s")
            answer = ours.recv()
            if isinstance(answer, Measured):
                process.join(10)
                return answer
    except EOFError:
        process.join()
        # Not every allocator below torch reports that there is nothing left.
        code = process.exitcode
        ended = f"out of memory: signal {-code}" if code < 0 else f"exit status {code}"
        return Measured(skipped=ended)
    finally:
        process.kill()
        process.join()
    raise AssertionError("a fresh process says two things")


@contextmanager
def _environment() -> Iterator[None]:
    """Set what a process reads when it starts.

    The C library gives every larger block back to the system when it is freed; by
    itself it keeps some for the next call, which then seems to need none. And torch
    compiles without a pool of workers, which would outlive the process.
    """
    variables = {
        "MALLOC_MMAP_THRESHOLD_": "65536",
        "MALLOC_TRIM_THRESHOLD_": "65536",
        "TORCHINDUCTOR_COMPILE_THREADS": "1",
    }
    before = {name: os.environ.get(name) for name in variables}
    os.environ.update(variables)
    try:
        yield
    finally:
        for name, value in before.items():
            if value is None:
                del os.environ[name]
            else:
                os.environ[name] = value


def _run(
    pipe: Connection,
    loss: str,
    name: str,
    shape: tuple[int, ...],
    threads: int,
    limit: int,
) -> None:
    torch.set_num_threads(threads)
    try:
        (contestant,) = contestants(loss, (name,))
        z = inputs(shape, "cpu")
        _limit(limit)
        function = _warm(contestant, z)
        pipe.send("ready")
        pipe.send(_on_linux(function))
    except Exception as error:
        pipe.send(Measured(skipped=_reason(error, limit)))


def _in_this_process(
    contestant: Contestant, shape: tuple[int, ...], device: str
) -> Measured:
    try:
        return _on_cuda(_warm(contestant, inputs(shape, device)), device)
    except Exception as error:
        total = memory_bytes(torch.device(device))
        return Measured(skipped=_reason(error, total))
    finally:
        gc.collect()
        torch.cuda.empty_cache()  # for those who come next


def _warm(contestant: Contestant, z: tuple[Tensor, Tensor]) -> Callable[[], Any]:
    """Return the call, with everything loaded and compiled that it needs."""
    function = call(contestant, *z)
    if contestant.compiles:  # anew for every size
        function()
    else:
        small = (2,) * (z[0].ndim - 2) + WARM_UP
        call(contestant, *inputs(small, z[0].device))()
    gc.collect()
    return function


def _reason(error: Exception, limit: int) -> str:
    text = f"{type(error).__name__}: {error}".strip().splitlines()[0]
    memory = isinstance(error, (MemoryError, torch.cuda.OutOfMemoryError))
    if memory or "can't allocate memory" in text:
        return f"out of memory: needs more than {limit / 1e9:.1f} GB"
    return text


def _limit(extra: int) -> None:
    size = _status("VmSize")
    if size is not None:
        resource.setrlimit(resource.RLIMIT_AS, (size + extra,) * 2)


def _on_linux(function: Callable[[], Any]) -> Measured:
    if _status("VmHWM") is not None:
        Path("/proc/self/clear_refs").write_text("5")
    before, start = _status("VmRSS"), time.perf_counter()
    result = function()
    seconds, peak = time.perf_counter() - start, _status("VmHWM")
    del result
    return Measured(None if peak is None else peak - before, seconds)


def _on_cuda(function: Callable[[], Any], device: str) -> Measured:
    torch.cuda.synchronize(device)
    torch.cuda.reset_peak_memory_stats(device)
    before, start = torch.cuda.memory_allocated(device), time.perf_counter()
    result = function()
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
