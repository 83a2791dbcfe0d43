"""Every loss, what it is called with, and the plain formula of the same."""

from collections.abc import Callable
from dataclasses import dataclass, field
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn

import xmodal_losses as xl
from benchmarks import plain

__all__ = ["ROWS", "SUBJECTS", "Called", "Subject"]

# No size is a multiple of another by accident, which a compiler would take for a rule.
ROWS, COLUMNS, CLASSES = 22, 4, 3
LEAVES = ("z_a", "z_b", "z", "z_noise")  # what a loss hands gradients to
Inputs = dict[str, Tensor]


class Called(nn.Module):
    """A module that holds a loss, and hands it tensors by name."""

    def __init__(self, criterion: nn.Module, names: tuple[str, ...]) -> None:
        super().__init__()
        self.criterion = criterion
        self.names = names

    def forward(self, *tensors: Tensor) -> Tensor:
        """Return the loss."""
        if self.names[0] == "view_0":
            value: Tensor = self.criterion(list(tensors))
        else:
            value = self.criterion(**dict(zip(self.names, tensors)))  # noqa: B905
        return value


@dataclass(frozen=True)
class Subject:
    """A loss.

    Attributes:
        name: The function.
        module: The module.
        draw: Returns inputs in float64, by name, of so many rows.
        formula: The plain formula of these inputs, and of what the module has learned.
        options: Of the module.
        smooth: Other options, under which nothing is a constant to the gradient.
    """

    name: str
    module: str
    draw: Callable[[int, torch.Generator], Inputs]
    formula: Callable[..., Tensor]
    options: dict[str, Any] = field(default_factory=dict)
    smooth: dict[str, Any] = field(default_factory=dict)

    def inputs(self, rows: int = ROWS, seed: int = 0) -> Inputs:
        """Return a batch in float64."""
        return self.draw(rows, torch.Generator().manual_seed(seed))

    def build(self, gather: bool = False, seed: int = 0, **options: Any) -> Called:
        """Return the loss in a module; what it learns is drawn."""
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(seed)
            made = getattr(xl, self.module)
            criterion = made(**self.options | options, gather=gather)
        return Called(criterion, tuple(self.inputs()))

    def truth(self, called: Called, inputs: Inputs) -> Tensor:
        """Return the value of the plain formula."""
        learned = dict(called.criterion.named_parameters())
        if "view_0" in inputs:
            return self.formula(list(inputs.values()))
        return self.formula(**inputs, **learned)

    def leaves(self, inputs: Inputs) -> int:
        """Return how many of the inputs, the first ones, get a gradient."""
        return sum(name in LEAVES or name.startswith("view_") for name in inputs)


def _pair(rows: int, generator: torch.Generator, *more: int) -> Inputs:
    shape = (3, rows, *more, COLUMNS)
    shared, own_a, own_b = torch.randn(shape, generator=generator, dtype=torch.float64)
    return {"z_a": shared + 0.7 * own_a, "z_b": shared + 0.7 * own_b + 0.3}


def _in_bags(rows: int, generator: torch.Generator) -> Inputs:
    return _pair(rows, generator) | {"ids": torch.arange(rows) // 2}


def _labelled(rows: int, generator: torch.Generator) -> Inputs:
    labels = torch.arange(rows) % CLASSES
    others = labels.flip(0)
    return _pair(rows, generator) | {"labels_a": labels, "labels_b": others}


def _around_centers(rows: int, generator: torch.Generator) -> Inputs:
    z = _pair(rows, generator)["z_a"]
    return {"z": z, "labels": torch.arange(rows) % CLASSES}


def _places(rows: int, generator: torch.Generator) -> Inputs:
    return _pair(rows, generator, 5)


def _views(rows: int, generator: torch.Generator) -> Inputs:
    z_a, z_b = _pair(rows, generator).values()
    own = torch.randn(rows, COLUMNS, generator=generator, dtype=torch.float64)
    return {"view_0": z_a, "view_1": z_b, "view_2": z_a + z_b + own}


def _with_noise(rows: int, generator: torch.Generator) -> Inputs:
    z, z_noise = _pair(rows, generator).values()
    x, noise = torch.randn(2, rows, 3, generator=generator, dtype=torch.float64)
    return {"z": z, "z_noise": z_noise, "x": x, "noise": noise}


def _subject(name: str, module: str, draw: Callable = _pair, **fields: Any) -> Subject:
    fields.setdefault("formula", getattr(plain, name))
    return Subject(name, module, draw, **fields)


_TWO = {"num_components": 2}
_SMOOTHED = {"label_smoothing": 0.1}

SUBJECTS = {
    subject.name: subject
    for subject in (
        _subject("info_nce", "InfoNCELoss"),
        _subject("nt_xent", "NTXentLoss"),
        _subject("sigmoid_contrastive", "SigmoidContrastiveLoss"),
        _subject("decoupled", "DecoupledContrastiveLoss"),
        _subject("debiased", "DebiasedContrastiveLoss"),
        _subject("mil_nce", "MILNCELoss", _in_bags),
        _subject(
            "soft_info_nce",
            "SoftInfoNCELoss",
            options=_SMOOTHED,
            formula=partial(plain.soft_info_nce, **_SMOOTHED),
        ),
        _subject("sup_con", "SupConLoss", _labelled),
        _subject("sincere", "SINCERELoss", _labelled),
        _subject(
            "contrastive_center",
            "ContrastiveCenterLoss",
            _around_centers,
            options={"num_classes": CLASSES, "num_features": COLUMNS},
        ),
        _subject("hetero_center", "HeteroCenterLoss", _labelled),
        _subject("hetero_center_triplet", "HeteroCenterTripletLoss", _labelled),
        _subject(
            "cross_modality_contrastive_center",
            "CrossModalityContrastiveCenterLoss",
            _labelled,
        ),
        _subject(
            "similarity_preservation",
            "SimilarityPreservationLoss",
            smooth={"detach_target": False},
        ),
        _subject("coral", "CORALLoss"),
        _subject("mmd", "MMDLoss", smooth={"kernel": xl.GaussianKernel(2.0)}),
        _subject("barlow_twins", "BarlowTwinsLoss"),
        _subject("vicreg", "VICRegLoss"),
        _subject("vicreg_local", "VICRegLocalLoss", _places),
        _subject("soft_decorrelation", "SoftDecorrelationLoss"),
        _subject("dcca", "DCCALoss"),
        _subject(
            "dgcca",
            "DGCCALoss",
            _views,
            options=_TWO,
            formula=partial(plain.dgcca, **_TWO),
        ),
        _subject("mcca", "MCCALoss", _views),
        _subject("noise_regularization", "NoiseRegularizationLoss", _with_noise),
        _subject("eckart_young", "EckartYoungLoss", _views),
    )
}
