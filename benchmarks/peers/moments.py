"""CORAL, Barlow Twins, VICReg and Deep CCA."""

import importlib
import importlib.util
from functools import partial

import torch
import torch.nn.functional as nnf
from torch import Tensor

import xmodal_losses.functional as F
from benchmarks import plain
from benchmarks.peers.registry import Loss, module, peer

# --------------------------------------------------------------------------------------
# CORAL
# --------------------------------------------------------------------------------------


@peer("coral", "pytorch-adapt", package="pytorch-adapt")
def _() -> Loss:
    return module("pytorch-adapt", "pytorch_adapt.layers.coral_loss").CORALLoss()


@peer(
    "coral",
    "TLL",
    formula="formula of tllib's CorrelationAlignmentLoss, and DomainBed's",
    ours=lambda z_a, z_b: 4 * F.coral(z_a, z_b, mean_weight=0.25),
    note="4 times the library's, with the means",
)
def _() -> Loss:
    def loss(z_a: Tensor, z_b: Tensor) -> Tensor:
        mean_a, mean_b = z_a.mean(0, keepdim=True), z_b.mean(0, keepdim=True)
        a, b = z_a - mean_a, z_b - mean_b
        gap = a.T @ a / (len(a) - 1) - b.T @ b / (len(b) - 1)
        return (mean_a - mean_b).square().mean() + gap.square().mean()

    return loss


# --------------------------------------------------------------------------------------
# Barlow Twins and VICReg
# --------------------------------------------------------------------------------------


def off_diagonal(c: Tensor) -> Tensor:
    """Return the entries off the diagonal, as the published codes take them."""
    n = len(c)
    return c.flatten()[:-1].view(n - 1, n + 1)[:, 1:].flatten()


@peer(
    "barlow_twins",
    "official",
    formula="formula of the authors' code",
    ours=partial(F.barlow_twins, convention="official"),
    note="λ 0.0051, eps 1e-5",
)
def _() -> Loss:
    def loss(z_a: Tensor, z_b: Tensor) -> Tensor:
        a, b = (nnf.batch_norm(z, None, None, training=True) for z in (z_a, z_b))
        c = (a.T @ b).div_(len(a))
        on = c.diagonal().add_(-1).pow_(2).sum()
        return on + 0.0051 * off_diagonal(c).pow_(2).sum()

    return loss


@peer(
    "barlow_twins",
    "lightly",
    package="lightly",
    ours=partial(F.barlow_twins, convention="lightly"),
    note="eps 1e-5",
)
def _() -> Loss:
    return module("lightly", "lightly.loss.barlow_twins_loss").BarlowTwinsLoss()


@peer(
    "barlow_twins",
    "solo-learn",
    package="solo-learn",
    ours=partial(F.barlow_twins, convention="solo-learn"),
    note="0.025 times the library's with eps 1e-5; compared in float32, its only dtype",
    dtype=torch.float32,
)
def _() -> Loss:
    return module("solo-learn", "solo.losses.barlow").barlow_loss_func


@peer("vicreg", "official", formula="formula of the authors' code")
def _() -> Loss:
    def loss(z_a: Tensor, z_b: Tensor) -> Tensor:
        n, d = z_a.shape
        invariance = nnf.mse_loss(z_a, z_b)
        a, b = z_a - z_a.mean(0), z_b - z_b.mean(0)
        std_a, std_b = (a.var(0) + 1e-4).sqrt(), (b.var(0) + 1e-4).sqrt()
        variance = nnf.relu(1 - std_a).mean() / 2 + nnf.relu(1 - std_b).mean() / 2
        cov_a, cov_b = a.T @ a / (n - 1), b.T @ b / (n - 1)
        covariance = off_diagonal(cov_a).pow_(2).sum().div(d)
        covariance = covariance + off_diagonal(cov_b).pow_(2).sum().div(d)
        return 25 * invariance + 25 * variance + covariance

    return loss


@peer("vicreg", "lightly", package="lightly")
def _() -> Loss:
    return module("lightly", "lightly.loss.vicreg_loss").VICRegLoss()


@peer(
    "vicreg",
    "solo-learn",
    package="solo-learn",
    ours=partial(F.vicreg, convention="solo-learn"),
    note="no ½ on the variance",
)
def _() -> Loss:
    return module("solo-learn", "solo.losses.vicreg").vicreg_loss_func


@peer("vicreg", "PML", package="pytorch-metric-learning")
def _() -> Loss:
    criterion = importlib.import_module("pytorch_metric_learning.losses").VICRegLoss()
    return lambda z_a, z_b: criterion(z_a, ref_emb=z_b)


# --------------------------------------------------------------------------------------
# Deep CCA
# --------------------------------------------------------------------------------------

FROBENIUS = partial(F.dcca, objective="frobenius")


@peer("dcca", "plain, float64", formula="plain.py, on doubles")
def _() -> Loss:
    return lambda z_a, z_b: plain.dcca(z_a.double(), z_b.double())


@peer("dcca", "cca_zoo", package="cca-zoo", ours=FROBENIUS, note="Σρ² in place of Σρ")
def _() -> Loss:
    criterion = module("cca-zoo", "cca_zoo.deep.objectives").CCALoss(reg_covar=1e-4)
    return lambda z_a, z_b: criterion([z_a, z_b])


@peer(
    "dcca",
    "cca_zoo, float64",
    package="cca-zoo",
    ours=FROBENIUS,
    note="Σρ² in place of Σρ; on doubles",
)
def _() -> Loss:
    criterion = module("cca-zoo", "cca_zoo.deep.objectives").CCALoss(reg_covar=1e-4)
    return lambda z_a, z_b: criterion([z_a.double(), z_b.double()])


@peer("dcca", "DeepCCA (Michaelvll)", formula="the code that most repositories copy")
def _() -> Loss:
    raise ImportError("it calls torch.symeig, which torch 2 does not have")
