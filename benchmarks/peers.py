"""The peers: what else one can install, or copy, to compute these losses.

One adapter each, in its best configuration, and beside it the library's spelling of
what it computes (`ours`): their values and gradients are compared in float64 before
anything is timed. Where no spelling is equal, `differs` says why. Where a package can
be imported it is what runs; where it cannot, or is no package, its formula is written
afresh here, and `how` says so.
"""

import contextlib
import importlib.util
import io
import os
import sys
import types
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from importlib.metadata import PackageNotFoundError, distribution
from pathlib import Path
from typing import TypeAlias

import torch
import torch.nn.functional as nnf
from torch import Tensor

import xmodal_losses as xl
import xmodal_losses.functional as F
from benchmarks import plain

__all__ = ["PEERS", "Contestant", "Loss"]

Loss: TypeAlias = Callable[[Tensor, Tensor], Tensor]

TEMPERATURE = 0.07


@dataclass(frozen=True)
class Contestant:
    """One way to compute a loss.

    Attributes:
        loss: The case it stands in.
        name: Its name in tables and plots.
        build: Returns the function; raises ImportError where it cannot be had.
        package: The distribution that has it, or "".
        formula: What is written here in its place, or "".
        ours: The library's spelling of the same; None for the defaults of the case.
        note: What differs from those defaults, or from how others are measured.
        differs: Why no spelling is equal; such a peer is no baseline of a ratio.
        dtype: In which it is compared with the library.
        compiles: Whether it compiles code for the size at hand on its first call.
    """

    loss: str
    name: str
    build: Callable[[], Loss]
    package: str = ""
    formula: str = ""
    ours: Loss | None = None
    note: str = ""
    differs: str = ""
    dtype: torch.dtype = torch.float64
    compiles: bool = False

    def how(self) -> str:
        """Return where the code that runs comes from."""
        if not self.package:
            return self.formula
        try:
            return f"{self.package} {distribution(self.package).version}"
        except PackageNotFoundError:
            return f"{self.package}, not installed"


PEERS: list[Contestant] = []


def peer(loss: str, name: str, **fields) -> Callable:
    """Enter the decorated builder as a peer."""

    def enter(build: Callable[[], Loss]) -> Callable[[], Loss]:
        PEERS.append(Contestant(loss, name, build, **fields))
        return build

    return enter


def module(package: str, name: str) -> types.ModuleType:
    """Import one module of an installed package, and not the packages around it.

    Those import torchvision, lightning and other things a loss does not need and a
    machine may not have.
    """
    try:
        site = Path(distribution(package).locate_file(""))
    except PackageNotFoundError as error:
        raise ImportError(f"{package} is not installed") from error
    parts = name.split(".")
    for count in range(1, len(parts)):
        parent = ".".join(parts[:count])
        if parent not in sys.modules:
            bare = types.ModuleType(parent)
            bare.__path__ = [str(site.joinpath(*parts[:count]))]
            sys.modules[parent] = bare
    return importlib.import_module(name)


# --------------------------------------------------------------------------------------
# InfoNCE
# --------------------------------------------------------------------------------------

JOINT = "NT-Xent: rows of the same modality are negatives, too, 2N−1 for each row"


@peer("info_nce", "open_clip", package="open_clip_torch")
def _() -> Loss:
    criterion = module("open_clip_torch", "open_clip.loss").ClipLoss(cache_labels=True)

    def loss(z_a: Tensor, z_b: Tensor) -> Tensor:  # rows are normalised by its model
        a, b = nnf.normalize(z_a, dim=-1), nnf.normalize(z_b, dim=-1)
        return criterion(a, b, 1 / TEMPERATURE)

    return loss


@peer(
    "info_nce",
    "info-nce-pytorch",
    package="info-nce-pytorch",
    note="two calls, one for each direction",
)
def _() -> Loss:
    one = module("info-nce-pytorch", "info_nce").InfoNCE(temperature=TEMPERATURE)
    return lambda z_a, z_b: (one(z_a, z_b) + one(z_b, z_a)) / 2


@peer(
    "info_nce",
    "torch linear_cross_entropy",
    formula="two calls of torch's linear_cross_entropy, in chunks",
)
def _() -> Loss:
    if not hasattr(torch.nn, "LinearCrossEntropyOptions"):
        raise ImportError(f"torch {torch.__version__} does not have it")
    options = torch.nn.LinearCrossEntropyOptions()  # chunks as torch chooses them

    def loss(z_a: Tensor, z_b: Tensor) -> Tensor:
        a, b = nnf.normalize(z_a, dim=-1), nnf.normalize(z_b, dim=-1)
        target = torch.arange(len(a), device=a.device)
        one = partial(nnf.linear_cross_entropy, target=target, options=options)
        return (one(a / TEMPERATURE, b) + one(b / TEMPERATURE, a)) / 2

    return loss


def _pml(name: str) -> Loss:
    losses = importlib.import_module("pytorch_metric_learning.losses")
    criterion = getattr(losses, name)(temperature=TEMPERATURE)
    one = losses.SelfSupervisedLoss(criterion, symmetric=False)
    return lambda z_a, z_b: (one(z_a, z_b) + one(z_b, z_a)) / 2


@peer(
    "info_nce",
    "PML SupConLoss",
    package="pytorch-metric-learning",
    note="SelfSupervisedLoss, two calls, one for each direction",
)
def _() -> Loss:
    return _pml("SupConLoss")


@peer(
    "info_nce",
    "PML NTXentLoss",
    package="pytorch-metric-learning",
    note="SelfSupervisedLoss, two calls, one for each direction",
)
def _() -> Loss:
    return _pml("NTXentLoss")


@peer("info_nce", "lightly NTXentLoss", formula="formula of lightly's", differs=JOINT)
def _() -> Loss:
    def loss(z_a: Tensor, z_b: Tensor) -> Tensor:
        a, b = nnf.normalize(z_a, dim=1), nnf.normalize(z_b, dim=1)
        n = len(a)
        aa, ab, ba, bb = (x @ y.T / TEMPERATURE for x in (a, b) for y in (a, b))
        others = ~torch.eye(n, dtype=torch.bool, device=a.device)
        aa, bb = aa[others].view(n, -1), bb[others].view(n, -1)
        logits = torch.cat((torch.cat((ab, aa), 1), torch.cat((ba, bb), 1)))
        target = torch.arange(n, device=a.device).repeat(2)
        return nnf.cross_entropy(logits, target)

    return loss


@peer("info_nce", "solo-learn SimCLR", package="solo-learn", differs=JOINT)
def _() -> Loss:
    loss = module("solo-learn", "solo.losses.simclr").simclr_loss_func
    return partial(loss, temperature=TEMPERATURE)


@peer("info_nce_groups", "plain, batched", formula="plain.py, by torch.bmm")
def _() -> Loss:
    def loss(z_a: Tensor, z_b: Tensor) -> Tensor:
        a, b = nnf.normalize(z_a, dim=-1), nnf.normalize(z_b, dim=-1)
        logits = a @ b.mT / TEMPERATURE
        target = torch.arange(logits.shape[1], device=a.device).expand(logits.shape[:2])
        of_a = nnf.cross_entropy(logits.mT, target)  # the classes are dimension 1
        return (of_a + nnf.cross_entropy(logits, target)) / 2

    return loss


# --------------------------------------------------------------------------------------
# MMD
# --------------------------------------------------------------------------------------

SCALES = tuple(2.0**k for k in range(-2, 3))


def _spread(*views: Tensor) -> Tensor:
    """Return the mean squared distance of different rows."""
    pool = torch.cat(views).detach()
    return 2 * (pool - pool.mean(0)).square().sum() / (len(pool) - 1)


def _gaussians(two_variances: Tensor) -> xl.MultiKernel:
    return xl.MultiKernel(
        [xl.GaussianKernel((two_variances * s / 2).sqrt()) for s in SCALES]
    )


@peer("mmd", "dense expansion", formula="formula: pooled distances by expansion")
def _() -> Loss:
    def loss(z_a: Tensor, z_b: Tensor) -> Tensor:
        pool, n = torch.cat((z_a, z_b)), len(z_a)
        q = pool.square().sum(1)
        d2 = (q[:, None] + q - 2 * pool @ pool.T).clamp(min=0)
        mean = d2.detach().sum() / (len(pool) * (len(pool) - 1))
        k = sum((-d2 / (mean * s)).exp() for s in SCALES) / 5
        return k[:n, :n].mean() + k[n:, n:].mean() - 2 * k[:n, n:].mean()

    return loss


@peer(
    "mmd",
    "copied snippet",
    formula="formula of the kernel code that most repositories copy",
    ours=lambda z_a, z_b: 5 * F.mmd(z_a, z_b),
    note="5 times the library's; N²·D differences in memory",
)
def _() -> Loss:
    def loss(z_a: Tensor, z_b: Tensor) -> Tensor:
        pool, n = torch.cat((z_a, z_b)), len(z_a)
        d2 = (pool[None] - pool[:, None]).square().sum(2)
        mean = d2.detach().sum() / (len(pool) ** 2 - len(pool))
        k = sum((-d2 / (mean * s)).exp() for s in SCALES)
        return (k[:n, :n] + k[n:, n:] - k[:n, n:] - k[n:, :n]).mean()

    return loss


def _tllib(z_a: Tensor, z_b: Tensor) -> Tensor:
    n = len(z_a)
    # Its mean counts the zeros of the diagonal.
    kernel = _gaussians(_spread(z_a, z_b) * (2 * n - 1) / (2 * n))
    return 5 * F.mmd(z_a, z_b, kernel=kernel, estimator="unbiased") + 2 / (n - 1)


@peer(
    "mmd",
    "TLL MK-MMD",
    formula="formula of tllib's MultipleKernelMaximumMeanDiscrepancy",
    ours=_tllib,
    note="5 times the unbiased estimate, plus 2/(N−1); N²·D differences in memory",
)
def _() -> Loss:
    cached: dict[int, Tensor] = {}

    def coefficients(n: int, like: Tensor) -> Tensor:
        if n not in cached:  # as there: made once for a batch size
            cached[n] = like.new_full((2 * n, 2 * n), -1 / n**2)
            for block in (cached[n][:n, :n], cached[n][n:, n:]):
                block.fill_(1 / (n * (n - 1))).fill_diagonal_(0)
        return cached[n]

    def loss(z_a: Tensor, z_b: Tensor) -> Tensor:
        pool, n = torch.cat((z_a, z_b)), len(z_a)

        def kernel(alpha: float) -> Tensor:  # each finds the distances anew
            d2 = (pool[None] - pool[:, None]).square().sum(2)
            return (-d2 / (2 * alpha * d2.detach().mean())).exp()

        k = sum(kernel(s / 2) for s in SCALES)
        return (k * coefficients(n, k)).sum() + 2 / (n - 1)

    return loss


def _pytorch_adapt(z_a: Tensor, z_b: Tensor) -> Tensor:
    kernel = _gaussians(torch.cdist(z_a, z_a).square().median().detach())
    return F.mmd(z_a, z_b, kernel=kernel, estimator="unbiased")


@peer(
    "mmd",
    "pytorch-adapt",
    package="pytorch-adapt",
    ours=_pytorch_adapt,
    note="unbiased; bandwidth: the median of one side",
)
def _() -> Loss:
    layers = module("pytorch-adapt", "pytorch_adapt.layers.mmd_loss")
    scales = torch.tensor([1 / s for s in SCALES])
    return layers.MMDLoss(kernel_scales=scales, mmd_type="quadratic")


def _geomloss(backend: str) -> Loss:
    # It imports KeOps where that is installed, which has much to say.
    os.environ.update({"PYKEOPS_VERBOSE": "0", "KEOPS_VERBOSE": "0"})
    with contextlib.redirect_stdout(io.StringIO()):
        geomloss = importlib.import_module("geomloss")

    def tensorized(x: Tensor, y: Tensor) -> Tensor:
        q, r = x.square().sum(-1), y.square().sum(-1)
        d2 = q[..., :, None] + r[..., None, :] - 2 * x @ y.mT
        return sum((-d2 / s).exp() for s in SCALES) / 5

    def symbolic(x: Tensor, y: Tensor):
        from pykeops.torch import LazyTensor

        rates = LazyTensor(x.new_tensor([1 / s for s in SCALES]))  # one sum over D
        x, y = LazyTensor(x[..., :, None, :]), LazyTensor(y[..., None, :, :])
        d2 = ((x - y) ** 2).sum(-1)
        return (-d2 * rates).exp().sum(-1) / 5

    def kernel(x, y, use_keops=False, **ignored):
        return symbolic(x, y) if use_keops else tensorized(x, y)

    criterion = geomloss.SamplesLoss("gaussian", kernel=kernel, backend=backend)

    def loss(z_a: Tensor, z_b: Tensor) -> Tensor:
        scale = _spread(z_a, z_b).rsqrt()
        return criterion(z_a * scale, z_b * scale)

    return loss


@peer(
    "mmd",
    "geomloss",
    package="geomloss",
    ours=lambda z_a, z_b: F.mmd(z_a, z_b) / 2,
    note="half of the library's; tensorized, one kernel of five Gaussians",
)
def _() -> Loss:
    return _geomloss("tensorized")


@peer(
    "mmd",
    "geomloss, KeOps",
    package="pykeops",
    ours=lambda z_a, z_b: F.mmd(z_a, z_b) / 2,
    note="half of the library's; online, one kernel of five Gaussians",
    compiles=True,
)
def _() -> Loss:
    if importlib.util.find_spec("pykeops") is None:
        raise ImportError("pykeops is not installed")
    return _geomloss("online")


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

AS_BATCH_NORM = partial(F.barlow_twins, eps=1e-5)


def _off_diagonal(c: Tensor) -> Tensor:
    n = len(c)
    return c.flatten()[:-1].view(n - 1, n + 1)[:, 1:].flatten()


@peer(
    "barlow_twins",
    "official",
    formula="formula of the authors' code",
    ours=partial(AS_BATCH_NORM, redundancy_weight=0.0051),
    note="λ 0.0051, eps 1e-5",
)
def _() -> Loss:
    def loss(z_a: Tensor, z_b: Tensor) -> Tensor:
        a, b = (nnf.batch_norm(z, None, None, training=True) for z in (z_a, z_b))
        c = (a.T @ b).div_(len(a))
        on = c.diagonal().add_(-1).pow_(2).sum()
        return on + 0.0051 * _off_diagonal(c).pow_(2).sum()

    return loss


@peer("barlow_twins", "lightly", package="lightly", ours=AS_BATCH_NORM, note="eps 1e-5")
def _() -> Loss:
    return module("lightly", "lightly.loss.barlow_twins_loss").BarlowTwinsLoss()


@peer(
    "barlow_twins",
    "solo-learn",
    package="solo-learn",
    ours=lambda z_a, z_b: 0.025 * AS_BATCH_NORM(z_a, z_b),
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
        covariance = _off_diagonal(cov_a).pow_(2).sum().div(d)
        covariance = covariance + _off_diagonal(cov_b).pow_(2).sum().div(d)
        return 25 * invariance + 25 * variance + covariance

    return loss


@peer("vicreg", "lightly", package="lightly")
def _() -> Loss:
    return module("lightly", "lightly.loss.vicreg_loss").VICRegLoss()


@peer(
    "vicreg",
    "solo-learn",
    package="solo-learn",
    ours=partial(F.vicreg, convention="algorithm1"),
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
