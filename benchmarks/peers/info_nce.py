"""InfoNCE, alone and in groups, and its kin."""

import importlib
import importlib.util
from functools import partial

import torch
import torch.nn.functional as nnf
from torch import Tensor

from benchmarks.peers.registry import Loss, module, peer

TEMPERATURE = 0.07
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


@peer("nt_xent", "lightly NTXentLoss", formula="formula of lightly's")
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


@peer("nt_xent", "solo-learn SimCLR", package="solo-learn")
@peer("info_nce", "solo-learn SimCLR", package="solo-learn", differs=JOINT)
def _() -> Loss:
    loss = module("solo-learn", "solo.losses.simclr").simclr_loss_func
    return partial(loss, temperature=TEMPERATURE)


@peer("nt_xent", "PML NTXentLoss", package="pytorch-metric-learning")
def _() -> Loss:
    losses = importlib.import_module("pytorch_metric_learning.losses")
    criterion = losses.NTXentLoss(temperature=TEMPERATURE)

    def loss(z_a: Tensor, z_b: Tensor) -> Tensor:
        labels = torch.arange(len(z_a), device=z_a.device).repeat(2)
        return criterion(torch.cat((z_a, z_b)), labels)

    return loss


@peer("sigmoid_contrastive", "open_clip SigLipLoss", package="open_clip_torch")
def _() -> Loss:
    criterion = module("open_clip_torch", "open_clip.loss").SigLipLoss()

    def loss(z_a: Tensor, z_b: Tensor) -> Tensor:  # rows are normalised by its model
        a, b = nnf.normalize(z_a, dim=-1), nnf.normalize(z_b, dim=-1)
        return criterion(a, b, 10.0, -10.0)

    return loss


@peer("info_nce_groups", "plain, batched", formula="plain.py, by torch.bmm")
def _() -> Loss:
    def loss(z_a: Tensor, z_b: Tensor) -> Tensor:
        a, b = nnf.normalize(z_a, dim=-1), nnf.normalize(z_b, dim=-1)
        logits = a @ b.mT / TEMPERATURE
        target = torch.arange(logits.shape[1], device=a.device).expand(logits.shape[:2])
        of_a = nnf.cross_entropy(logits.mT, target)  # the classes are dimension 1
        return (of_a + nnf.cross_entropy(logits, target)) / 2

    return loss
