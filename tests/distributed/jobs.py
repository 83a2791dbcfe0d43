"""What ranks are sent to do. Arrays go and come, and nothing of the tests."""

import copy
import time
from contextlib import ExitStack
from typing import Any
from unittest import mock

import numpy as np
import torch
import torch.distributed as dist
from torch import nn
from torch.distributed.device_mesh import init_device_mesh
from torch.nn.parallel import DistributedDataParallel

import xmodal_losses as xl
import xmodal_losses.functional as F
from xmodal_losses._core.ranks import Ranks

Arrays = dict[str, np.ndarray]


def part(array: np.ndarray, counts: tuple[int, ...], rank: int) -> np.ndarray:
    """Return the rows of a rank."""
    start = sum(counts[:rank])
    return array[start : start + counts[rank]]


def tensors(inputs: Arrays, counts: dict[str, tuple[int, ...]], rank: int) -> dict:
    """Return what a rank has of a batch; the views are leaves."""
    out = {}
    for name, array in inputs.items():
        out[name] = torch.tensor(part(array, counts[name], rank))
        if name in ("z_a", "z_b"):
            out[name].requires_grad_()
    return out


def arrays(*some: torch.Tensor) -> tuple[np.ndarray, ...]:
    return tuple(one.detach().numpy().copy() for one in some)


def loss(
    rank: int,
    size: int,
    name: str,
    inputs: Arrays,
    counts: dict[str, tuple[int, ...]],
    options: dict[str, Any],
    cotangent: np.ndarray | None = None,
) -> tuple[np.ndarray, ...]:
    """Return a loss of the whole batch, and its gradients in the own rows."""
    some = tensors(inputs, counts, rank)
    value = getattr(F, name)(**some, **options, group=dist.group.WORLD)
    if isinstance(value, tuple):
        value = torch.stack([v for v in value if v.ndim == 0]).sum()
    if cotangent is not None and value.ndim:
        (value * torch.tensor(part(cotangent, counts["z_a"], rank))).sum().backward()
    else:
        value.sum().backward()
    return arrays(value, some["z_a"].grad, some["z_b"].grad)


def centers(
    rank: int,
    size: int,
    inputs: Arrays,
    around: np.ndarray,
    counts: dict[str, tuple[int, ...]] | None,
    grad_reduce: str,
) -> tuple[np.ndarray, ...]:
    """Return the contrastive-center loss, and the gradients of own rows and centres."""
    own = {name: (len(array),) for name, array in inputs.items()}
    some = tensors(inputs, counts or own, rank)
    of_all = torch.tensor(around, requires_grad=True)
    some["z"].requires_grad_()
    group = dist.group.WORLD if counts else None
    value = F.contrastive_center(
        **some, centers=of_all, group=group, grad_reduce=grad_reduce
    )
    value.backward()
    return arrays(value, some["z"].grad, of_all.grad)


def mutated_loss(
    rank: int, size: int, mutation: str, *args: Any
) -> tuple[np.ndarray, ...]:
    """Return a loss that is wrong in one of the ways in which such losses are."""
    if mutation == "scaled":
        return tuple(
            array if i == 0 else array / size
            for i, array in enumerate(loss(rank, size, *args))
        )
    sum_over_ranks = Ranks.sum

    def without_the_last(self: Ranks, own: torch.Tensor) -> torch.Tensor:
        return sum_over_ranks(self, own * (self.rank < self.size - 1))

    gathered = Ranks.gather

    def but_the_last(self: Ranks, *args: Any) -> list[torch.Tensor]:
        *parts, last = gathered(self, *args)
        return [*parts, torch.zeros_like(last)]

    with (
        mock.patch.object(Ranks, "sum", without_the_last),
        mock.patch.object(Ranks, "gather", but_the_last),
    ):
        return loss(rank, size, *args)


class Model(nn.Module):
    """Two encoders and their loss, with all there is to learn."""

    def __init__(self, criterion: nn.Module, columns: int) -> None:
        super().__init__()
        generator = torch.Generator().manual_seed(3)
        self.criterion = criterion
        self.a, self.b = (
            nn.Linear(columns, columns, dtype=torch.float64) for _ in range(2)
        )
        with torch.no_grad():
            for parameter in (*self.a.parameters(), *self.b.parameters()):
                parameter.copy_(torch.randn(parameter.shape, generator=generator))

    def forward(self, z_a: torch.Tensor, z_b: torch.Tensor) -> torch.Tensor:
        return self.criterion(self.a(z_a), self.b(z_b))


def step(
    rank: int,
    size: int,
    module: str,
    options: dict[str, Any],
    inputs: Arrays,
    counts: dict[str, tuple[int, ...]] | None,
) -> dict[str, np.ndarray]:
    """Return the parameters after one step of SGD; without counts, on one process."""
    own = {name: (len(array),) for name, array in inputs.items()}
    some = tensors(inputs, counts or own, rank if counts else 0)
    gather = counts is not None
    criterion = getattr(xl, module)(**copy.deepcopy(options), gather=gather)
    model = Model(criterion, some["z_a"].shape[-1]).double()
    trained = DistributedDataParallel(model) if gather else model
    optimiser = torch.optim.SGD(model.parameters(), lr=0.1)
    trained(some["z_a"], some["z_b"]).backward()
    optimiser.step()
    return {name: arrays(p)[0] for name, p in model.named_parameters()}


def terms(
    rank: int,
    size: int,
    inputs: Arrays,
    counts: dict[str, tuple[int, ...]],
    options: dict[str, Any],
) -> tuple[Arrays, Arrays]:
    """Return the terms of InfoNCE and their summary, by name."""
    some = tensors(inputs, counts, rank)
    group = dist.group.WORLD
    found = F.info_nce_terms(**some, **options, group=group)
    summary = found.summary(
        temperature=options["temperature"],
        weight=some.get("weight"),
        top=(1, 2, 4),
        group=group,
    )
    return tuple(
        dict(zip(told, arrays(*told.values()), strict=True))
        for told in (found._asdict(), summary)
    )


def chunked(
    rank: int, size: int, module: str, inputs: Arrays, counts: dict[str, Any]
) -> tuple[np.ndarray, ...]:
    """Return a loss fed chunk by chunk, of the chunks of all ranks."""
    some = tensors(inputs, counts, rank)
    z_a, z_b = some["z_a"], some["z_b"]
    fed = xl.ChunkedMoments(getattr(xl, module)(gather=True))
    for a, b in zip(z_a.split(2), z_b.split(2), strict=True):
        fed.update(a, b)
    shares = [fed.share(a, b) for a, b in zip(z_a.split(2), z_b.split(2), strict=True)]
    torch.stack(shares).sum().backward()
    return arrays(fed.compute(), z_a.grad, z_b.grad)


def cached_step(
    rank: int, size: int, inputs: Arrays, counts: dict[str, tuple[int, ...]]
) -> dict[str, np.ndarray]:
    """Return the parameters after one step whose encoders' graph came in chunks."""
    some = tensors(inputs, counts, rank)
    criterion = xl.InfoNCELoss(learn_temperature=True, gather=True)
    model = Model(criterion, some["z_a"].shape[-1]).double()
    chunks = list(zip(some["z_a"].split(2), some["z_b"].split(2), strict=True))
    xl.cached_backward(criterion, lambda c: (model.a(c[0]), model.b(c[1])), chunks)
    with torch.no_grad():
        for parameter in model.parameters():
            assert parameter.grad is not None
            dist.all_reduce(parameter.grad)
            parameter -= 0.1 * parameter.grad / size
    return {name: arrays(p)[0] for name, p in model.named_parameters()}


def queue(
    rank: int,
    size: int,
    batches: list[Arrays],
    counts: list[tuple[int, ...]],
    gather: bool = True,
) -> Arrays:
    """Return the state of a queue that batches have entered, a part of them here."""
    options = {"with_ids": "ids" in batches[0], "gather": gather}
    fed = xl.EmbeddingQueue(5, batches[0]["z_a"].shape[-1], **options).double()
    for inputs, some in zip(batches, counts, strict=True):
        own = tensors(inputs, dict.fromkeys(inputs, some), rank)
        if "weight" in own and (own["weight"] != 0).all():
            del own["weight"]  # of rows that all enter it need not be given
        fed.enqueue(**own)
    return {name: arrays(buffer)[0] for name, buffer in fed.state_dict().items()}


class Remembering(nn.Module):
    """An encoder with a queue of what it has made, inside of what DDP wraps."""

    def __init__(self, columns: int, gather: bool) -> None:
        super().__init__()
        generator = torch.Generator().manual_seed(3)
        self.encode = nn.Linear(columns, columns, dtype=torch.float64)
        self.queue = xl.EmbeddingQueue(5, columns, gather=gather).double()
        with torch.no_grad():
            for parameter in self.encode.parameters():
                parameter.copy_(torch.randn(parameter.shape, generator=generator))

    def forward(self, z_a: torch.Tensor, z_b: torch.Tensor) -> torch.Tensor:
        z_a, z_b, extra = self.encode(z_a), self.encode(z_b), self.queue.negatives()
        self.queue.enqueue(z_a, z_b)
        logits = (z_a @ extra.b.mT).masked_fill(~extra.valid, 0.0)
        return logits.square().sum() + z_b.square().sum()


def remembering(
    rank: int,
    size: int,
    batches: list[Arrays],
    counts: list[tuple[int, ...]] | None,
    gather: bool,
) -> Arrays:
    """Return parameters and buffers after a step for each batch; or on one process."""
    model = Remembering(batches[0]["z_a"].shape[-1], gather)
    trained = model if counts is None else DistributedDataParallel(model)
    for i, inputs in enumerate(batches):
        some = (len(inputs["z_a"]),) if counts is None else counts[i]
        own = tensors(inputs, dict.fromkeys(inputs, some), rank)
        loss = trained(own["z_a"], own["z_b"])
        model.zero_grad()
        (loss * (1 if counts is None else size)).backward()  # a sum over all rows
        with torch.no_grad():
            for parameter in model.parameters():
                parameter -= 1e-3 * parameter.grad
    return {name: arrays(buffer)[0] for name, buffer in model.state_dict().items()}


def message(function: Any, *args: Any, **kwargs: Any) -> str:
    """Return what a call raises."""
    try:
        function(*args, **kwargs)
        return "nothing was raised"
    except Exception as error:
        return str(error)


def mismatched(rank: int, size: int, what: str) -> str:
    """Return what is said where this rank is not like the others."""
    columns = 4 if what == "columns" and rank else 3
    z = torch.randn(2, columns, requires_grad=not (what == "gradients" and rank))
    weight = torch.ones(2) if what == "weights" and rank else None
    return message(F.info_nce, z, z, weight=weight, group=dist.group.WORLD)


def mismatched_queues(rank: int, size: int, what: str) -> str:
    """Return what is said where the queue of this rank is not like the others."""
    options = {"size": 4, "dim": 3, "with_ids": False, "gather": True}
    if rank and what != "dtype":
        options[what] = True if what == "with_ids" else options[what] + 1
    fed = xl.EmbeddingQueue(options.pop("size"), options.pop("dim"), **options)
    if rank and what == "dtype":
        fed = fed.double()
    z = torch.zeros(2, fed.dim)
    return message(fed.enqueue, z, z, ids=torch.arange(2) if fed.with_ids else None)


def second_derivative(rank: int, size: int, name: str, options: dict[str, Any]) -> str:
    """Return what is said when a gradient is to be differentiated."""
    z_a, z_b = torch.randn(2, 3, 2, requires_grad=True)
    z_a, z_b = z_a.detach().requires_grad_(), z_b.detach().requires_grad_()
    value = getattr(F, name)(z_a, z_b, **options, group=dist.group.WORLD)
    return message(torch.autograd.grad, value, z_a, create_graph=True)


def subgroup(rank: int, size: int) -> str:
    """Return what is said outside of a group of one rank, and inside."""
    group = dist.new_group([0])
    z_a, z_b = torch.randn(2, 4, 3)
    return message(F.coral, z_a, z_b, group=group)


def failing(rank: int, size: int) -> Any:
    """Fail on one rank; return how long the other one waits."""
    if rank == 0:
        return "this rank has failed"
    z, start = torch.randn(4, 3), time.perf_counter()
    try:
        F.coral(z, z, group=dist.group.WORLD)
    except Exception as error:
        return type(error).__name__, time.perf_counter() - start
    return "nothing was raised", time.perf_counter() - start


def sent(
    rank: int,
    size: int,
    name: str,
    inputs: Arrays,
    counts: dict[str, Any],
    options: dict[str, Any],
) -> tuple[float, float]:
    """Return the bytes that this rank sends in the forward and the backward pass.

    Counted as the usual algorithms of the collectives send them.
    """
    total = 0.0

    def counting(function: Any, of: Any) -> Any:
        def wrapper(*args: Any, **kwargs: Any) -> Any:
            nonlocal total
            total += of(*args)
            return function(*args, **kwargs)

        return wrapper

    how = {
        "all_gather_single": lambda out, own: (size - 1) * own.nbytes,
        "all_gather_into_tensor": lambda out, own: (size - 1) * own.nbytes,
        "all_reduce": lambda own, op: 2 * (size - 1) / size * own.nbytes,
        "all_to_all_single": lambda out, own: (size - 1) / size * own.nbytes,
        "batch_isend_irecv": lambda operations: sum(
            one.tensor.nbytes for one in operations if one.op is dist.isend
        ),
    }
    with ExitStack() as stack:
        for function, of in how.items():
            if not hasattr(dist, function):  # its name in another version of torch
                continue
            counted = counting(getattr(dist, function), of)
            stack.enter_context(mock.patch.object(dist, function, counted))
        some = tensors(inputs, counts, rank)
        value = getattr(F, name)(**some, **options, group=dist.group.WORLD)
        forward = total
        value.backward()
        return forward, total - forward


def under_autocast(rank: int, size: int, job: str, *args: Any) -> Any:
    """Do another job where torch prefers bfloat16."""
    with torch.autocast("cpu", dtype=torch.bfloat16):
        return {"loss": loss, "sent": sent}[job](rank, size, *args)


def sharded_step(
    rank: int,
    size: int,
    module: str,
    inputs: Arrays,
    counts: dict[str, tuple[int, ...]],
) -> dict[str, np.ndarray]:
    """Return the parameters after one step of SGD under FSDP."""
    from torch.distributed.fsdp import fully_shard

    some = tensors(inputs, counts, rank)
    model = Model(getattr(xl, module)(gather=True), some["z_a"].shape[-1]).double()
    fully_shard(model, mesh=init_device_mesh("cpu", (size,)))
    optimiser = torch.optim.SGD(model.parameters(), lr=0.1)
    model(some["z_a"], some["z_b"]).backward()
    optimiser.step()
    return {name: arrays(p.full_tensor())[0] for name, p in model.named_parameters()}
