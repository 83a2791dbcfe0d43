"""The peers: what else one can install, or copy, to compute these losses.

One adapter each, in its best configuration, and beside it the library's spelling of
what it computes (`ours`): their values and gradients are compared in float64 before
anything is timed. Where no spelling is equal, `differs` says why. Where a package can
be imported it is what runs; where it cannot, or is no package, its formula is written
afresh here, and `how` says so.
"""

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from importlib.metadata import PackageNotFoundError, version
from typing import TypeAlias

import torch
import torch.nn.functional as nnf
from torch import Tensor

import xmodal_losses.functional as F

__all__ = ["PEERS", "Loss", "Peer"]

Loss: TypeAlias = Callable[[Tensor, Tensor], Tensor]


@dataclass(frozen=True)
class Peer:
    """One way to get a loss from elsewhere.

    Attributes:
        loss: The case it stands in.
        name: Its name in tables and plots.
        source: The distribution it comes from, or what its formula is of.
        package: Whether `source` is a distribution, which has to be installed.
        build: Returns the function; raises ImportError where it is not installed.
        ours: The library's spelling of the same; None for the defaults of the case.
        note: What differs from the defaults of the library, if it can be spelled.
        differs: Why no spelling is equal; such a peer is no baseline of a ratio.
    """

    loss: str
    name: str
    source: str
    package: bool
    build: Callable[[], Loss]
    ours: Loss | None = None
    note: str = ""
    differs: str = ""

    def how(self) -> str:
        """Return where the code that runs comes from."""
        if not self.package:
            return f"formula of {self.source}"
        try:
            return f"{self.source} {version(self.source)}"
        except PackageNotFoundError:
            return f"{self.source}, not installed"


PEERS: list[Peer] = []


def peer(
    loss: str, name: str, *, package: str = "", formula: str = "", **fields
) -> Callable[[Callable[[], Loss]], Callable[[], Loss]]:
    """Enter the decorated builder as a peer, from a package or as a formula."""

    def enter(build: Callable[[], Loss]) -> Callable[[], Loss]:
        source = package or formula
        PEERS.append(Peer(loss, name, source, bool(package), build, **fields))
        return build

    return enter


# --------------------------------------------------------------------------------------
# Pairs
# --------------------------------------------------------------------------------------

TEMPERATURE = 0.07


@peer("info_nce", "open_clip", formula="open_clip's ClipLoss, on one process")
def _() -> Loss:
    # Normalised by the model there, scaled by 1/τ; both matrices of logits are made.
    def loss(z_a: Tensor, z_b: Tensor) -> Tensor:
        a, b = nnf.normalize(z_a, dim=-1), nnf.normalize(z_b, dim=-1)
        of_a, of_b = a @ b.T / TEMPERATURE, b @ a.T / TEMPERATURE
        target = torch.arange(len(a), device=a.device)
        return (nnf.cross_entropy(of_a, target) + nnf.cross_entropy(of_b, target)) / 2

    return loss


@peer("info_nce", "torch linear_cross_entropy", formula="two calls, one a direction")
def _() -> Loss:
    if not hasattr(torch.nn, "LinearCrossEntropyOptions"):
        raise ImportError(f"torch {torch.__version__} has no chunked one")
    options = torch.nn.LinearCrossEntropyOptions()  # chunks as torch chooses them

    def loss(z_a: Tensor, z_b: Tensor) -> Tensor:
        a, b = nnf.normalize(z_a, dim=-1), nnf.normalize(z_b, dim=-1)
        target = torch.arange(len(a), device=a.device)
        of_a = nnf.linear_cross_entropy(a / TEMPERATURE, b, target, options=options)
        of_b = nnf.linear_cross_entropy(b / TEMPERATURE, a, target, options=options)
        return (of_a + of_b) / 2

    return loss


def _batched_info_nce(z_a: Tensor, z_b: Tensor) -> Tensor:
    a, b = nnf.normalize(z_a, dim=-1), nnf.normalize(z_b, dim=-1)
    logits = a @ b.mT / TEMPERATURE
    target = torch.arange(logits.shape[1], device=a.device).expand(logits.shape[:2])
    return (
        nnf.cross_entropy(logits, target) + nnf.cross_entropy(logits.mT, target)
    ) / 2


@peer("info_nce_groups", "batched plain", formula="the plain snippet by torch.bmm")
def _() -> Loss:
    return _batched_info_nce


@peer("mmd", "dense expansion", formula="one pooled matrix of expanded distances")
def _() -> Loss:
    def loss(z_a: Tensor, z_b: Tensor) -> Tensor:
        pool, n = torch.cat((z_a, z_b)), len(z_a)
        q = pool.square().sum(1)
        d2 = (q[:, None] + q - 2 * pool @ pool.T).clamp(min=0)
        mean = d2.detach().sum() / (len(pool) * (len(pool) - 1))
        k = sum((-d2 / (mean * 2.0**power)).exp() for power in range(-2, 3)) / 5
        return k[:n, :n].mean() + k[n:, n:].mean() - 2 * k[:n, n:].mean()

    return loss


# --------------------------------------------------------------------------------------
# Moments
# --------------------------------------------------------------------------------------


@peer(
    "barlow_twins",
    "official",
    formula="the authors' code",
    ours=partial(F.barlow_twins, redundancy_weight=0.0051, eps=1e-5),
    note="eps 1e-5, λ 0.0051",
)
def _() -> Loss:
    def loss(z_a: Tensor, z_b: Tensor) -> Tensor:
        a, b = (nnf.batch_norm(z, None, None, training=True) for z in (z_a, z_b))
        c = a.T @ b / len(a)
        on = (c.diagonal() - 1).square().sum()
        return on + 0.0051 * _off_diagonal(c).square().sum()

    return loss


@peer("vicreg", "official", formula="the authors' code, on one process")
def _() -> Loss:
    def loss(z_a: Tensor, z_b: Tensor) -> Tensor:
        n, d = z_a.shape
        invariance = nnf.mse_loss(z_a, z_b)
        a, b = z_a - z_a.mean(0), z_b - z_b.mean(0)
        variance = sum(
            nnf.relu(1 - (z.var(0) + 1e-4).sqrt()).mean() / 2 for z in (a, b)
        )
        covariance = sum(
            _off_diagonal(z.T @ z / (n - 1)).square().sum() / d for z in (a, b)
        )
        return 25 * invariance + 25 * variance + covariance

    return loss


def _off_diagonal(c: Tensor) -> Tensor:
    n = len(c)
    return c.flatten()[:-1].view(n - 1, n + 1)[:, 1:]
