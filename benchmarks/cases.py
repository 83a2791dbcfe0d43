"""One row per loss: the library's call, its plain formula, and what differs."""

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial

import torch
from torch import Tensor

import xmodal_losses.functional as F
from benchmarks import plain

__all__ = ["CASES", "GROUPS", "Case", "inputs", "views"]


@dataclass(frozen=True)
class Case:
    """A loss in two spellings that agree on easy inputs."""

    name: str
    library: Callable[[Tensor, Tensor], Tensor]
    plain: Callable[[Tensor, Tensor], Tensor]
    regime: str


def _labelled(loss: Callable[..., Tensor]) -> Callable[[Tensor, Tensor], Tensor]:
    """Return a loss of labelled rows as one of rows, eight of a class."""

    def call(z_a: Tensor, z_b: Tensor) -> Tensor:
        labels = torch.arange(len(z_a), device=z_a.device) // 8
        return loss(z_a, z_b, labels, labels)

    return call


def _around_centers(loss: Callable[..., Tensor]) -> Callable[[Tensor, Tensor], Tensor]:
    """Return a loss of rows and centres as one of rows, eight of a class.

    The centres are the first of the other rows.
    """

    def call(z_a: Tensor, z_b: Tensor) -> Tensor:
        labels = torch.arange(len(z_a), device=z_a.device) // 8
        return loss(z_a, labels, z_b[: len(z_a) // 8])

    return call


def _in_bags(loss: Callable[..., Tensor]) -> Callable[[Tensor, Tensor], Tensor]:
    """Return a loss of rows in bags of eight."""

    def call(z_a: Tensor, z_b: Tensor) -> Tensor:
        return loss(z_a, z_b, ids=torch.arange(len(z_a), device=z_a.device) // 8)

    return call


def _in_images(loss: Callable[..., Tensor]) -> Callable[[Tensor, Tensor], Tensor]:
    """Return a loss of the places of images as one of rows, four of an image."""

    def call(z_a: Tensor, z_b: Tensor) -> Tensor:
        return loss(z_a.unflatten(0, (-1, 4)), z_b.unflatten(0, (-1, 4)))

    return call


def _of_three(loss: Callable[..., Tensor]) -> Callable[[Tensor, Tensor], Tensor]:
    """Return a loss of views as one of rows; the third view is the first, and noise."""

    def call(z_a: Tensor, z_b: Tensor) -> Tensor:
        return loss([z_a, z_b, z_a + z_b.roll(1, 0)])

    return call


def _with_noise(loss: Callable[..., Tensor]) -> Callable[[Tensor, Tensor], Tensor]:
    """Return a loss of rows, and of data and noise that have nothing in common."""

    def call(z_a: Tensor, z_b: Tensor) -> Tensor:
        return loss(z_a, z_b, z_a.detach(), z_b.detach().roll(1, 0))

    return call


CASES = (
    Case("info_nce", F.info_nce, plain.info_nce, "equal work"),
    Case("nt_xent", F.nt_xent, plain.nt_xent, "equal work"),
    Case(
        "sigmoid_contrastive",
        F.sigmoid_contrastive,
        plain.sigmoid_contrastive,
        "equal work",
    ),
    Case("decoupled", F.decoupled, plain.decoupled, "equal work"),
    Case("debiased", F.debiased, plain.debiased, "equal work"),
    Case("mil_nce", _in_bags(F.mil_nce), _in_bags(plain.mil_nce), "equal work"),
    Case(
        "soft_info_nce",
        partial(F.soft_info_nce, label_smoothing=0.1),
        partial(plain.soft_info_nce, label_smoothing=0.1),
        "equal work",
    ),
    Case("sup_con", _labelled(F.sup_con), _labelled(plain.sup_con), "equal work"),
    Case("sincere", _labelled(F.sincere), _labelled(plain.sincere), "equal work"),
    Case(
        "contrastive_center",
        _around_centers(F.contrastive_center),
        _around_centers(plain.contrastive_center),
        "equal work; plain by torch.cdist",
    ),
    Case(
        "hetero_center",
        _labelled(F.hetero_center),
        _labelled(plain.hetero_center),
        "plain one class after the other",
    ),
    Case(
        "hetero_center_triplet",
        _labelled(F.hetero_center_triplet),
        _labelled(plain.hetero_center_triplet),
        "plain one class after the other, then by torch.cdist",
    ),
    Case(
        "cross_modality_contrastive_center",
        _labelled(F.cross_modality_contrastive_center),
        _labelled(plain.cross_modality_contrastive_center),
        "plain one class after the other, then by torch.cdist",
    ),
    Case(
        "similarity_preservation",
        F.similarity_preservation,
        plain.similarity_preservation,
        "equal work",
    ),
    Case("coral", F.coral, plain.coral, "equal work"),
    Case("mmd", F.mmd, plain.mmd, "equal work; plain by torch.cdist"),
    Case("barlow_twins", F.barlow_twins, plain.barlow_twins, "equal work"),
    Case("vicreg", F.vicreg, plain.vicreg, "equal work"),
    Case(
        "vicreg_local",
        _in_images(F.vicreg_local),
        _in_images(plain.vicreg_local),
        "equal work",
    ),
    Case(
        "soft_decorrelation",
        F.soft_decorrelation,
        plain.soft_decorrelation,
        "library in float64, plain in the dtype of its input",
    ),
    Case(
        "dcca",
        F.dcca,
        plain.dcca,
        "library in float64 by Cholesky; plain in the dtype of its input by eigh",
    ),
    Case(
        "mcca",
        _of_three(F.mcca),
        _of_three(plain.mcca),
        "library in float64 by Cholesky; plain in the dtype of its input by eigh",
    ),
    Case(
        "dgcca",
        _of_three(partial(F.dgcca, num_components=8)),
        _of_three(plain.dgcca),
        "library in float64; plain in the dtype of its input",
    ),
    Case(
        "eckart_young",
        _of_three(F.eckart_young),
        _of_three(plain.eckart_young),
        "library in float64; plain in the dtype of its input",
    ),
    Case(
        "noise_regularization",
        _with_noise(F.noise_regularization),
        _with_noise(plain.noise_regularization),
        "library in float64 by Cholesky; plain in the dtype of its input by eigh",
    ),
)

# Many small problems in one call, which the other cases do not have: not a loss of its
# own, so it is in no list of losses.
GROUPS = Case("info_nce_groups", F.info_nce, plain.info_nce_loop, "equal work")


def views(*shape: int, **kwargs) -> tuple[Tensor, Tensor]:
    """Return two related batches, as a half-trained pair of encoders gives them."""
    generator = torch.Generator().manual_seed(0)
    shared, own_a, own_b = (
        torch.randn(shape, generator=generator, dtype=torch.float64) for _ in range(3)
    )
    z_a, z_b = shared + own_a, shared + own_b + 0.5
    return z_a.to(**kwargs), z_b.to(**kwargs)


def inputs(shape: tuple[int, ...], device: str | torch.device) -> tuple[Tensor, Tensor]:
    """Return what is measured: float32, on the device, waiting for gradients."""
    z_a, z_b = views(*shape, device=device, dtype=torch.float32)
    return z_a.requires_grad_(), z_b.requires_grad_()
