"""The ways in which losses are had on several processes: ours, and those of peers."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
import torch.distributed as dist
import torch.nn.functional as nnf
from torch import Tensor

import xmodal_losses.functional as F
from benchmarks import plain
from benchmarks.peers.moments import off_diagonal
from benchmarks.peers.registry import module

__all__ = ["COLUMNS", "ROWS", "SCALE", "WAYS", "Loss", "Way"]

Loss = Callable[[Tensor, Tensor, Tensor], Tensor]  # of z_a, z_b and the logit scale
ROWS, COLUMNS, SCALE = 18, 8, 5.0
BIAS = -2.0


@dataclass(frozen=True)
class Way:
    """One way to have a loss on several processes.

    Attributes:
        loss: The case.
        name: Whose it is, and which options.
        build: Returns the loss, for several processes or for one.
        package: Where the code is from, or "" for the library and for formulas.
        uneven: Whether parts may differ in their number of rows.
    """

    loss: str
    name: str
    build: Callable[[bool], Loss]
    package: str = ""
    uneven: bool = False


WAYS: list[Way] = []


def way(loss: str, name: str, **fields: Any) -> Callable:
    """Enter the decorated builder."""

    def enter(build: Callable[[bool], Loss]) -> Callable[[bool], Loss]:
        WAYS.append(Way(loss, name, build, **fields))
        return build

    return enter


def _library(loss: str, **options: Any) -> Callable[[bool], Loss]:
    def build(several: bool) -> Loss:
        group = dist.group.WORLD if several else None
        function = getattr(F, loss)

        def run(z_a: Tensor, z_b: Tensor, scale: Tensor) -> Tensor:
            return function(z_a, z_b, **options, **_sized(loss, scale), group=group)

        return run

    return build


def _sized(loss: str, scale: Tensor) -> dict[str, Any]:
    """Return how a loss is told of the logit scale, if it has one."""
    if loss in ("info_nce", "nt_xent"):
        return {"temperature": 1 / scale}
    return {"scale": scale, "bias": BIAS} if loss == "sigmoid_contrastive" else {}


def _average(loss: str) -> Callable[[bool], Loss]:
    """Return the loss of the own rows, as if there were no others."""

    def run(z_a: Tensor, z_b: Tensor, scale: Tensor) -> Tensor:
        if loss == "sigmoid_contrastive":
            return F.sigmoid_contrastive(z_a, z_b, scale=scale, bias=BIAS)
        return getattr(plain, loss)(z_a, z_b, **_sized(loss, scale))

    return lambda several: run


for _loss in (
    "info_nce",
    "nt_xent",
    "sigmoid_contrastive",
    "coral",
    "mmd",
    "barlow_twins",
    "vicreg",
    "dcca",
):
    WAYS.append(Way(_loss, "xmodal_losses", _library(_loss), uneven=True))
    WAYS.append(Way(_loss, "mean of local losses", _average(_loss), uneven=True))
WAYS.insert(
    1,
    Way(
        "info_nce",
        "xmodal_losses, ring",
        _library("info_nce", exchange="ring"),
        uneven=True,
    ),
)


def _open_clip(local: bool, with_grad: bool) -> Callable[[bool], Loss]:
    def build(several: bool) -> Loss:
        ranks = {}
        if several:
            ranks = {"rank": dist.get_rank(), "world_size": dist.get_world_size()}
        criterion = module("open_clip_torch", "open_clip.loss").ClipLoss(
            local_loss=local,
            gather_with_grad=with_grad,
            cache_labels=True,
            **ranks,
        )
        return lambda z_a, z_b, scale: criterion(
            nnf.normalize(z_a, dim=-1), nnf.normalize(z_b, dim=-1), scale
        )

    return build


for _local in (False, True):
    for _with_grad in (False, True):
        _name = f"open_clip, local_loss={_local}, gather_with_grad={_with_grad}"
        WAYS.append(
            Way("info_nce", _name, _open_clip(_local, _with_grad), "open_clip_torch")
        )


@way("nt_xent", "lightly NTXentLoss, gather_distributed", package="lightly")
def _(several: bool) -> Loss:
    criterion = module("lightly", "lightly.loss.ntx_ent_loss").NTXentLoss(
        temperature=1 / SCALE, gather_distributed=several
    )
    return lambda z_a, z_b, scale: criterion(z_a, z_b)


def _pml(efficient: bool) -> Callable[[bool], Loss]:
    def build(several: bool) -> Loss:
        losses = module("pytorch-metric-learning", "pytorch_metric_learning.losses")
        one = losses.NTXentLoss(temperature=1 / SCALE)
        utils = "pytorch_metric_learning.utils.distributed"
        wrapper = module("pytorch-metric-learning", utils).DistributedLossWrapper
        criterion = wrapper(one, efficient=efficient) if several else one

        def run(z_a: Tensor, z_b: Tensor, scale: Tensor) -> Tensor:
            first = dist.get_rank() * len(z_a) if several else 0
            labels = torch.arange(first, first + len(z_a)).repeat(2)
            return criterion(torch.cat((z_a, z_b)), labels)

        return run

    return build


for _efficient in (False, True):
    _name = f"PML DistributedLossWrapper, efficient={_efficient}"
    WAYS.append(Way("nt_xent", _name, _pml(_efficient), "pytorch-metric-learning"))


def _siglip(way_of_exchange: str) -> Callable[[bool], Loss]:
    def build(several: bool) -> Loss:
        ranks = {}
        if several:
            ranks = {"rank": dist.get_rank(), "world_size": dist.get_world_size()}
        criterion = module("open_clip_torch", "open_clip.loss").SigLipLoss(
            dist_impl=way_of_exchange, **ranks
        )
        return lambda z_a, z_b, scale: criterion(
            nnf.normalize(z_a, dim=-1), nnf.normalize(z_b, dim=-1), scale, BIAS
        )

    return build


for _how in ("bidir", "shift", "reduce", "gather"):
    _name = f"open_clip SigLipLoss, {_how}"
    WAYS.append(Way("sigmoid_contrastive", _name, _siglip(_how), "open_clip_torch"))


@way("barlow_twins", "official")
def _(several: bool) -> Loss:
    """The formula of the authors' code: what is added up passes no gradient."""

    def run(z_a: Tensor, z_b: Tensor, scale: Tensor) -> Tensor:
        a, b = (_standardised(z, several) for z in (z_a, z_b))
        c = a.T @ b / ROWS
        if several:
            dist.all_reduce(c)
        on = c.diagonal().add(-1).pow(2).sum()
        return on + 0.0051 * off_diagonal(c).pow(2).sum()

    return run


def _standardised(z: Tensor, several: bool) -> Tensor:
    """Return columns normalised as by synchronised batch normalisation."""
    add = _Sum.apply if several else (lambda x: x)
    z = z - add(z.sum(0)) / ROWS
    return z * (add(z.square().sum(0)) / ROWS + 1e-5).rsqrt()


@way("barlow_twins", "lightly, gather_distributed", package="lightly")
def _(several: bool) -> Loss:
    name = "lightly.loss.barlow_twins_loss"
    criterion = module("lightly", name).BarlowTwinsLoss(gather_distributed=several)
    return lambda z_a, z_b, scale: criterion(z_a, z_b)


@way("vicreg", "official")
def _(several: bool) -> Loss:
    """The formula of the authors' code: rows are gathered, with their gradient."""

    def run(z_a: Tensor, z_b: Tensor, scale: Tensor) -> Tensor:
        invariance = nnf.mse_loss(z_a, z_b)
        if several:
            z_a, z_b = (_Gather.apply(z) for z in (z_a, z_b))
        rest = plain.vicreg(z_a, z_b) - 25 * nnf.mse_loss(z_a, z_b)
        return 25 * invariance + rest

    return run


@way("vicreg", "lightly, gather_distributed", package="lightly")
def _(several: bool) -> Loss:
    name = "lightly.loss.vicreg_loss"
    criterion = module("lightly", name).VICRegLoss(gather_distributed=several)
    return lambda z_a, z_b, scale: criterion(z_a, z_b)


class _Sum(torch.autograd.Function):
    """As synchronised batch normalisation adds up."""

    @staticmethod
    def forward(ctx: Any, part: Tensor) -> Tensor:
        total = part.clone()
        dist.all_reduce(total)
        return total

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> Tensor:
        return _Sum.forward(ctx, grad)


class _Gather(torch.autograd.Function):
    """As the authors of VICReg gather: all gradients are added up, and one is taken."""

    @staticmethod
    def forward(ctx: Any, z: Tensor) -> Tensor:
        parts = [torch.empty_like(z) for _ in range(dist.get_world_size())]
        dist.all_gather(parts, z)
        return torch.cat(parts)

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> Tensor:
        return _Sum.forward(ctx, grad).chunk(dist.get_world_size())[dist.get_rank()]
