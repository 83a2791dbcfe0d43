"""Two processes with half of a batch each, under DistributedDataParallel."""

import functools
import multiprocessing
import tempfile
from datetime import timedelta
from pathlib import Path
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor, nn
from torch.nn.parallel import DistributedDataParallel

from benchmarks.compatibility.checks import EXACT, MismatchError, Setting, relative
from benchmarks.compatibility.subjects import SUBJECTS, Called, Subject

__all__ = ["ddp", "gradients_of_two"]

PATIENCE = 120.0  # seconds that one process waits for the other
Found = dict[str, list[Any] | str]


class Encoded(nn.Module):
    """A linear encoder for each input that gets a gradient, and the loss."""

    def __init__(self, called: Called, leaves: list[Tensor]) -> None:
        super().__init__()
        self.called = called
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(3)
            self.encoders = nn.ModuleList(
                nn.Linear(t.shape[-1], t.shape[-1], dtype=t.dtype) for t in leaves
            )

    def forward(self, *tensors: Tensor) -> Tensor:
        """Return the loss of what is encoded."""
        count = len(self.encoders)
        encoded = [f(t) for f, t in zip(self.encoders, tensors[:count], strict=True)]
        value: Tensor = self.called(*encoded, *tensors[count:])
        return value


def gradients(subject: Subject, rank: int | None, gather: bool = True) -> list[Tensor]:
    """Return the gradients of all parameters, of one process or of a rank of two."""
    inputs = subject.inputs()
    tensors = list(inputs.values())
    if rank is not None:
        tensors = [t.chunk(2)[rank] for t in tensors]
    called = subject.build(gather=gather and rank is not None).double()
    model = Encoded(called, tensors[: subject.leaves(inputs)])
    trained = model if rank is None else DistributedDataParallel(model)
    trained(*tensors).backward()
    return [p.grad for p in model.parameters() if p.grad is not None]


def _serve(
    pipe: Any, rank: int, store: str, names: tuple[str, ...], gather: bool
) -> None:
    torch.set_num_threads(1)
    dist.init_process_group(
        "gloo",
        init_method=f"file://{store}",
        rank=rank,
        world_size=2,
        timeout=timedelta(seconds=PATIENCE),
    )
    for name in names:
        try:
            grads = gradients(SUBJECTS[name], rank, gather)
            answer: Any = [grad.tolist() for grad in grads]
        except Exception as error:
            answer = f"{type(error).__name__}: {error}"
        if rank == 0:
            pipe.send((name, answer))
    pipe.close()
    dist.destroy_process_group()


@functools.cache
def gradients_of_two(names: tuple[str, ...], gather: bool = True) -> Found:
    """Return what DDP leaves in all parameters, or what was raised, by loss."""
    context = multiprocessing.get_context("spawn")
    found: Found = {}
    with tempfile.TemporaryDirectory() as folder:
        ours, theirs = context.Pipe(duplex=False)
        store = str(Path(folder) / "store")
        processes = [
            context.Process(target=_serve, args=(theirs, rank, store, names, gather))
            for rank in range(2)
        ]
        for process in processes:
            process.start()
        theirs.close()
        try:
            while True:
                name, answer = ours.recv()
                found[name] = answer
        except EOFError:
            pass
        for process in processes:
            process.join()
    return found


def ddp(subject: Subject, setting: Setting) -> None:
    """Compare the gradients of two processes, with `gather`, with those of one."""
    found = gradients_of_two(tuple(SUBJECTS)).get(subject.name, "nothing came back")
    as_one_process(subject, found)


def as_one_process(subject: Subject, found: list[Any] | str) -> None:
    """Compare gradients, as numbers, with those of one process."""
    if isinstance(found, str):
        raise RuntimeError(found)
    expected = gradients(subject, None)
    grads = [torch.tensor(grad, dtype=torch.float64) for grad in found]
    error = relative(grads, expected)
    if not error <= EXACT:
        raise MismatchError(f"gradient differs by {error:.1e}")
