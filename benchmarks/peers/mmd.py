"""MMD with five Gaussians."""

import contextlib
import importlib
import importlib.util
import io
import os

import torch
from torch import Tensor

import xmodal_losses as xl
import xmodal_losses.functional as F
from benchmarks.peers.registry import Loss, module, peer

SCALES = tuple(2.0**k for k in range(-2, 3))


def _wide(z: Tensor) -> Tensor:
    return z.to(torch.promote_types(z.dtype, torch.float32))


def _spread(*views: Tensor) -> Tensor:
    """Return the mean squared distance of different rows, in float32 or wider."""
    pool = _wide(torch.cat(views)).detach()
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
    kernel = _gaussians(torch.cdist(_wide(z_a), _wide(z_a)).square().median().detach())
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
