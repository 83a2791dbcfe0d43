"""Processes that stay: a pool of ranks that calls are sent to, over gloo.

Starting processes that import torch takes seconds, so there is one pool of each size
for all tests of a worker. What a call raises on a rank comes back and is raised here.
"""

import multiprocessing
import tempfile
import traceback
from collections.abc import Callable
from datetime import timedelta
from pathlib import Path
from typing import Any

import torch
import torch.distributed as dist

__all__ = ["Pool"]


class Pool:
    """W processes in one process group.

    Args:
        size: W.
        patience: Seconds after which ranks do not wait for each other any more.
    """

    def __init__(self, size: int, patience: float = 60.0) -> None:
        self.size = size
        self.broken = False
        self._folder = tempfile.TemporaryDirectory()
        context = multiprocessing.get_context("spawn")
        self._pipes, self._processes = [], []
        for rank in range(size):
            ours, theirs = context.Pipe()
            store = str(Path(self._folder.name) / "store")
            process = context.Process(
                target=_serve, args=(theirs, rank, size, store, patience), daemon=True
            )
            process.start()
            theirs.close()
            self._pipes.append(ours)
            self._processes.append(process)

    def __call__(self, function: Callable, *args: Any) -> list[Any]:
        """Return what ``function(rank, size, *args)`` returns on every rank."""
        for pipe in self._pipes:
            pipe.send((function, args))
        answers = [pipe.recv() for pipe in self._pipes]
        for ok, answer in answers:
            if not ok:
                self.broken = True  # the others may be waiting for this one
                raise AssertionError(answer)
        return [answer for _, answer in answers]

    def close(self) -> None:
        for pipe, process in zip(self._pipes, self._processes, strict=True):
            pipe.close()
            process.join(10)
            process.kill()
        self._folder.cleanup()


def _serve(pipe: Any, rank: int, size: int, store: str, patience: float) -> None:
    torch.set_num_threads(1)
    dist.init_process_group(
        "gloo",
        init_method=f"file://{store}",
        rank=rank,
        world_size=size,
        timeout=timedelta(seconds=patience),
    )
    while True:
        try:
            function, args = pipe.recv()
        except EOFError:
            break
        try:
            pipe.send((True, function(rank, size, *args)))
        except Exception:
            pipe.send((False, f"rank {rank}:\n{traceback.format_exc()}"))
    dist.destroy_process_group()
