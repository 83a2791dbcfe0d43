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


def some_views(inputs: dict[str, Any], counts: tuple[int, ...], rank: int) -> dict:
    """Return what a rank has of several views; they are leaves."""
    start = sum(counts[:rank])
    own = slice(start, start + counts[rank])
    out: dict[str, Any] = {
        "views": [torch.tensor(z[own], requires_grad=True) for z in inputs["views"]]
    }
    if "mask" in inputs:
        out["mask"] = torch.tensor(inputs["mask"][:, own])
    if "weight" in inputs:
        out["weight"] = torch.tensor(inputs["weight"][own])
    return out


def views_loss(
    rank: int,
    size: int,
    name: str,
    inputs: dict[str, Any],
    counts: tuple[int, ...],
    options: dict[str, Any],
    mutation: str = "",
) -> tuple[np.ndarray, ...]:
    """Return a loss of several views, and its gradients in the own rows."""
    some = some_views(inputs, counts, rank)
    sum_over_ranks = Ranks.sum

    def without_the_last(self: Ranks, own: torch.Tensor) -> torch.Tensor:
        return sum_over_ranks(self, own * (self.rank < self.size - 1))

    lossy = {"sum": without_the_last} if mutation == "a rank is left out" else {}
    with ExitStack() as stack:
        for method, function in lossy.items():
            stack.enter_context(mock.patch.object(Ranks, method, function))
        value = getattr(F, name)(**some, **options, group=dist.group.WORLD)
        value.sum().backward()
    factor = 1 / size if mutation == "scaled" else 1
    return arrays(value, *(factor * z.grad for z in some["views"]))


class Encoders(nn.Module):
    """An encoder for each view, and their loss."""

    def __init__(self, criterion: nn.Module, widths: list[int]) -> None:
        super().__init__()
        generator = torch.Generator().manual_seed(3)
        self.criterion = criterion
        self.encoders = nn.ModuleList(nn.Linear(w, w).double() for w in widths)
        with torch.no_grad():
            for parameter in self.encoders.parameters():
                parameter.copy_(torch.randn(parameter.shape, generator=generator))

    def forward(self, views: list[torch.Tensor], mask: torch.Tensor) -> torch.Tensor:
        encoded = [f(z) for f, z in zip(self.encoders, views, strict=True)]
        return self.criterion(encoded, mask=mask)


def views_step(
    rank: int,
    size: int,
    module: str,
    options: dict[str, Any],
    inputs: dict[str, Any],
    counts: tuple[int, ...] | None,
) -> dict[str, np.ndarray]:
    """Return the parameters after one step of SGD; without counts, on one process."""
    gather = counts is not None
    everything = counts or (len(inputs["views"][0]),)
    some = some_views(inputs, everything, rank if gather else 0)
    criterion = getattr(xl, module)(**options, gather=gather)
    model = Encoders(criterion, [z.shape[-1] for z in some["views"]])
    trained = DistributedDataParallel(model) if gather else model
    optimiser = torch.optim.SGD(model.parameters(), lr=0.1)
    trained(some["views"], some["mask"]).backward()
    optimiser.step()
    return {name: arrays(p)[0] for name, p in model.named_parameters()}


def beside(
    rank: int,
    size: int,
    inputs: Arrays,
    counts: dict[str, tuple[int, ...]],
    shared: Arrays,
    options: dict[str, Any],
) -> tuple[np.ndarray, ...]:
    """Return InfoNCE with a guide and extra negatives, and all gradients."""
    some = tensors(inputs, counts, rank)
    guide = some.pop("guide_a"), some.pop("guide_b")
    told = {k: torch.tensor(v) for k, v in shared.items()}
    told |= {k: some.pop(f"extra_{k}") for k in ("a", "b") if f"extra_{k}" in some}
    extra = xl.ExtraNegatives(**told)
    for rows in (extra.a, extra.b):
        rows.requires_grad_()
    group = dist.group.WORLD if size > 1 else None
    value = F.info_nce(**some, guide=guide, extra=extra, **options, group=group)
    value.sum().backward()
    grads = [z.grad for z in (some["z_a"], some["z_b"], extra.a, extra.b)]
    return arrays(value, *grads)


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


def running(
    rank: int, size: int, name: str, batches: list[Arrays], counts: list[Any]
) -> tuple[Any, ...]:
    """Return the loss of batches one after the other, and the gradients of the last."""
    module = {"dcca": "DCCALoss", "vicreg": "VICRegLoss", "coral": "CORALLoss"}[name]
    gather = size > 1
    made = xl.RunningMoments(getattr(xl, module)(gather=gather), 4, 4, momentum=0.7)
    for inputs, some in zip(batches, counts, strict=True):
        own = tensors(inputs, some, rank)
        value = made(own["z_a"], own["z_b"])
    value.backward()
    state = {name: arrays(buffer)[0] for name, buffer in made.state_dict().items()}
    return (*arrays(value, own["z_a"].grad, own["z_b"].grad), state)


def noise(
    rank: int,
    size: int,
    inputs: Arrays,
    counts: tuple[int, ...] | None,
    options: dict[str, Any],
) -> tuple[np.ndarray, ...]:
    """Return the noise regularisation, and its gradients in the own rows."""
    everything = counts or (len(inputs["z"]),)
    own = {k: torch.tensor(part(v, everything, rank)) for k, v in inputs.items()}
    leaves = [own[name].requires_grad_() for name in ("z", "z_noise")]
    group = dist.group.WORLD if counts else None
    value = F.noise_regularization(**own, **options, group=group)
    value.backward()
    return arrays(value, *(z.grad for z in leaves))


def projector(
    rank: int, size: int, inputs: Arrays, counts: tuple[int, ...]
) -> dict[str, np.ndarray]:
    """Return what a projector of the rows of all ranks is, fed chunk by chunk."""
    own = tensors(inputs, dict.fromkeys(inputs, counts), rank)
    z_a, z_b = own["z_a"], own["z_b"]
    made = xl.CCAProjector(z_a.shape[1], z_b.shape[1], num_components=2, gather=True)
    for a, b in zip(z_a.split(3), z_b.split(3), strict=True):
        made.update(a, b)
    return {k: arrays(v)[0] for k, v in made.fit().state_dict().items()}


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


def mismatched_places(rank: int, size: int) -> str:
    """Return what is said where images of ranks have different numbers of places."""
    z = torch.randn(2, 3 if rank else 4, 4 if rank else 3)
    return message(F.vicreg_local, z, z, group=dist.group.WORLD)


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


# Bytes that a rank sends in a call.
SENT = {
    "all_gather_single": lambda size, out, own: (size - 1) * own.nbytes,
    "all_gather_into_tensor": lambda size, out, own: (size - 1) * own.nbytes,
    "all_reduce": lambda size, own, op: 2 * (size - 1) / size * own.nbytes,
    "all_to_all_single": lambda size, out, own: (size - 1) / size * own.nbytes,
    "batch_isend_irecv": lambda size, operations: sum(
        one.tensor.nbytes for one in operations if one.op is dist.isend
    ),
}


class Counted:
    """Counts what this rank sends while it is entered.

    As the usual algorithms of the collectives send it.
    """

    def __init__(self, size: int) -> None:
        self.size, self.bytes, self.calls = size, 0.0, 0

    def __enter__(self) -> "Counted":
        self._stack = ExitStack()
        for name, of in SENT.items():
            if hasattr(dist, name):  # not its name in another version of torch
                counting = self._counting(getattr(dist, name), of)
                self._stack.enter_context(mock.patch.object(dist, name, counting))
        return self

    def __exit__(self, *args: object) -> None:
        self._stack.close()

    def _counting(self, function: Any, of: Any) -> Any:
        def wrapper(*args: Any, **kwargs: Any) -> Any:
            self.bytes += of(self.size, *args)
            self.calls += 1
            return function(*args, **kwargs)

        return wrapper


def sent(
    rank: int,
    size: int,
    name: str,
    inputs: Arrays,
    counts: dict[str, Any],
    options: dict[str, Any],
) -> tuple[float, float]:
    """Return the bytes that this rank sends in the forward and the backward pass."""
    with Counted(size) as counted:
        some = tensors(inputs, counts, rank)
        value = getattr(F, name)(**some, **options, group=dist.group.WORLD)
        forward = counted.bytes
        value.backward()
        return forward, counted.bytes - forward


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
