"""The formulas people paste: a few lines of torch each, as short as they come.

They are the baselines of the benchmarks and the yardstick of the precision tests, so
each is the fastest plain way to write its loss, and equal to it on easy inputs
(`common.agree` checks that before anything is timed). They run in the dtype of their
inputs, and do not have what the library adds: weights, masks, leading dimensions, and
care for rounding and singular points.
"""

from collections.abc import Sequence
from itertools import combinations

import torch
import torch.nn.functional as F
from torch import Tensor

__all__ = [
    "barlow_twins",
    "contrastive_center",
    "coral",
    "cross_modality_contrastive_center",
    "dcca",
    "debiased",
    "decoupled",
    "dgcca",
    "eckart_young",
    "hetero_center",
    "hetero_center_triplet",
    "info_nce",
    "info_nce_loop",
    "mcca",
    "mil_nce",
    "mmd",
    "noise_regularization",
    "nt_xent",
    "sigmoid_contrastive",
    "similarity_preservation",
    "sincere",
    "soft_decorrelation",
    "soft_info_nce",
    "sup_con",
    "vicreg",
    "vicreg_local",
]


def info_nce(z_a: Tensor, z_b: Tensor, temperature: float = 0.07) -> Tensor:
    """Return the symmetric cross entropy over cosine similarities, as CLIP has it."""
    logits = F.normalize(z_a, dim=1) @ F.normalize(z_b, dim=1).T / temperature
    target = torch.arange(len(z_a), device=z_a.device)
    return (F.cross_entropy(logits, target) + F.cross_entropy(logits.T, target)) / 2


def info_nce_loop(z_a: Tensor, z_b: Tensor) -> Tensor:
    """Return the mean of `info_nce` over groups, one after the other."""
    return torch.stack([info_nce(a, b) for a, b in zip(z_a, z_b, strict=True)]).mean()


def nt_xent(z_a: Tensor, z_b: Tensor, temperature: float = 0.07) -> Tensor:
    """Return the cross entropy of the partner among all others, as SimCLR has it."""
    z = F.normalize(torch.cat((z_a, z_b)), dim=1)
    itself = torch.eye(len(z), dtype=torch.bool, device=z.device)
    logits = (z @ z.T / temperature).masked_fill(itself, -torch.inf)
    target = torch.arange(len(z), device=z.device).roll(len(z_a))
    return F.cross_entropy(logits, target)


def sigmoid_contrastive(z_a: Tensor, z_b: Tensor) -> Tensor:
    """Return the logistic loss of all pairs over N, as SigLIP begins."""
    logits = 10 * F.normalize(z_a, dim=1) @ F.normalize(z_b, dim=1).T - 10
    label = 2 * torch.eye(len(z_a), dtype=z_a.dtype, device=z_a.device) - 1
    return -F.logsigmoid(label * logits).sum() / len(z_a)


def decoupled(z_a: Tensor, z_b: Tensor, temperature: float = 0.07) -> Tensor:
    """Return the log-sum-exp of a row's negatives less its partner, of both batches."""
    z, n = F.normalize(torch.cat((z_a, z_b)), dim=1), len(z_a)
    logits = z @ z.T / temperature
    partner = torch.cat((logits.diagonal(n), logits.diagonal(-n)))
    pair = torch.eye(n, dtype=torch.bool, device=z.device).repeat(2, 2)
    return (logits.masked_fill(pair, -torch.inf).logsumexp(1) - partner).mean()


def debiased(
    z_a: Tensor, z_b: Tensor, temperature: float = 0.07, share: float = 0.1
) -> Tensor:
    """Return the debiased loss in exponentials, as its code has it."""
    z, n = F.normalize(torch.cat((z_a, z_b)), dim=1), len(z_a)
    e = (z @ z.T / temperature).exp()
    partner = torch.cat((e.diagonal(n), e.diagonal(-n)))
    pair = torch.eye(n, dtype=torch.bool, device=z.device).repeat(2, 2)
    total, count = e.masked_fill(pair, 0).sum(1), 2 * n - 2
    total = (total - count * share * partner) / (1 - share)
    total = total.clamp_min(count * torch.e ** (-1 / temperature))
    return -(partner / (partner + total)).log().mean()


def mil_nce(
    z_a: Tensor, z_b: Tensor, ids: Tensor | None = None, temperature: float = 0.07
) -> Tensor:
    """Return the mean log share of a row's bag, both ways."""
    logits = F.normalize(z_a, dim=1) @ F.normalize(z_b, dim=1).T / temperature
    ids = torch.arange(len(z_a), device=z_a.device) if ids is None else ids
    bags = logits.masked_fill(ids[:, None] != ids, -torch.inf)
    a_to_b, b_to_a = (logits.logsumexp(k) - bags.logsumexp(k) for k in (1, 0))
    return (a_to_b + b_to_a).mean() / 2


def soft_info_nce(
    z_a: Tensor, z_b: Tensor, label_smoothing: float = 0.0, temperature: float = 0.07
) -> Tensor:
    """Return the symmetric cross entropy with smoothed labels."""
    logits = F.normalize(z_a, dim=1) @ F.normalize(z_b, dim=1).T / temperature
    target = torch.arange(len(z_a), device=z_a.device)
    a_to_b, b_to_a = (
        F.cross_entropy(s, target, label_smoothing=label_smoothing)
        for s in (logits, logits.T)
    )
    return (a_to_b + b_to_a) / 2


def sup_con(
    z_a: Tensor,
    z_b: Tensor,
    labels_a: Tensor,
    labels_b: Tensor,
    temperature: float = 0.07,
) -> Tensor:
    """Return the mean log share of the positives, for rows that have any."""
    z, labels = (
        F.normalize(torch.cat((z_a, z_b)), dim=1),
        torch.cat((labels_a, labels_b)),
    )
    itself = torch.eye(len(z), dtype=torch.bool, device=z.device)
    logits = (z @ z.T / temperature).masked_fill(itself, -torch.inf)
    same = (labels[:, None] == labels) & ~itself
    log = logits.logsumexp(1, keepdim=True) - logits
    count = same.sum(1)
    return (log.where(same, 0).sum(1)[count > 0] / count[count > 0]).mean()


def sincere(
    z_a: Tensor,
    z_b: Tensor,
    labels_a: Tensor,
    labels_b: Tensor,
    temperature: float = 0.07,
) -> Tensor:
    """Return the mean logistic loss of positives over the negatives' log-sum-exp."""
    z, labels = (
        F.normalize(torch.cat((z_a, z_b)), dim=1),
        torch.cat((labels_a, labels_b)),
    )
    same = labels[:, None] == labels
    logits = z @ z.T / temperature
    negatives = logits.masked_fill(same, -torch.inf).logsumexp(1, keepdim=True)
    same = same & ~torch.eye(len(z), dtype=torch.bool, device=z.device)
    log = F.softplus(negatives - logits)
    count = same.sum(1)
    return (log.where(same, 0).sum(1)[count > 0] / count[count > 0]).mean()


def contrastive_center(z: Tensor, labels: Tensor, centers: Tensor) -> Tensor:
    """Return the mean of a row's distance to its centre, over those to all others."""
    d2 = torch.cdist(z, centers).square()
    own = d2.gather(1, labels[:, None])[:, 0]
    return (own / (d2.sum(1) - own + 1)).mean() / 2


def hetero_center(
    z_a: Tensor, z_b: Tensor, labels_a: Tensor, labels_b: Tensor
) -> Tensor:
    """Return the mean squared distance of class centres, one class after the other."""
    gaps = [
        (z_a[labels_a == k].mean(0) - z_b[labels_b == k].mean(0)).square().sum()
        for k in set(labels_a.tolist()) & set(labels_b.tolist())
    ]
    return torch.stack(gaps).mean()


def _centers(z: Tensor, labels: Tensor, classes: list[int]) -> Tensor:
    return torch.stack([z[labels == k].mean(0) for k in classes])


def hetero_center_triplet(
    z_a: Tensor,
    z_b: Tensor,
    labels_a: Tensor,
    labels_b: Tensor,
    margin: float = 0.3,
) -> Tensor:
    """Return the batch-hard triplet loss of the centres of both modalities."""
    classes = sorted(set(labels_a.tolist()) & set(labels_b.tolist()))
    center_a, center_b = (
        _centers(z_a, labels_a, classes),
        _centers(z_b, labels_b, classes),
    )
    center = torch.cat((center_a, center_b))
    number = torch.arange(len(classes), device=center.device).repeat(2)
    other = torch.cdist(center, center).masked_fill(
        number[:, None] == number, torch.inf
    )
    positive = (center_a - center_b).norm(dim=1).repeat(2)
    return F.relu(margin + positive - other.amin(1)).mean()


def cross_modality_contrastive_center(
    z_a: Tensor, z_b: Tensor, labels_a: Tensor, labels_b: Tensor
) -> Tensor:
    """Return the logistic loss of the centres' gap over that of the nearest class."""
    classes = sorted(set(labels_a.tolist()) & set(labels_b.tolist()))
    center_a, center_b = (
        _centers(z_a, labels_a, classes),
        _centers(z_b, labels_b, classes),
    )
    center = (center_a + center_b) / 2
    itself = torch.eye(len(classes), dtype=torch.bool, device=center.device)
    other = torch.cdist(center, center).masked_fill(itself, torch.inf)
    return F.softplus((center_a - center_b).norm(dim=1) - other.amin(1)).mean()


def similarity_preservation(z_a: Tensor, z_b: Tensor) -> Tensor:
    """Return the mean square of cosines across modalities less those within."""
    a, b = F.normalize(z_a, dim=1), F.normalize(z_b, dim=1)
    target = (a @ a.T + b @ b.T).detach() / 2
    return F.mse_loss(a @ b.T, target)


def coral(z_a: Tensor, z_b: Tensor) -> Tensor:
    """Return the squared distance of the covariances over 4D²."""
    gap = torch.cov(z_a.T) - torch.cov(z_b.T)
    return gap.square().sum() / (4 * z_a.shape[1] ** 2)


def mmd(z_a: Tensor, z_b: Tensor) -> Tensor:
    """Return the biased squared MMD with five Gaussians around the mean distance."""
    pool = torch.cat((z_a, z_b))
    d2 = torch.cdist(pool, pool).square()
    n, m = len(z_a), len(pool)
    mean = d2.detach().sum() / (m * m - m)
    k = sum((-d2 / (mean * 2.0**power)).exp() for power in range(-2, 3)) / 5
    return k[:n, :n].mean() + k[n:, n:].mean() - 2 * k[:n, n:].mean()


def barlow_twins(z_a: Tensor, z_b: Tensor, redundancy_weight: float = 5e-3) -> Tensor:
    """Return the published loss of standardised columns."""
    a = (z_a - z_a.mean(0)) / z_a.std(0, unbiased=False)
    b = (z_b - z_b.mean(0)) / z_b.std(0, unbiased=False)
    c = a.T @ b / len(a)
    on = (c.diagonal() - 1).square().sum()
    off = c.square().sum() - c.diagonal().square().sum()
    return on + redundancy_weight * off


def vicreg(z_a: Tensor, z_b: Tensor) -> Tensor:
    """Return the loss of the authors' code with its weights 25, 25, 1."""
    n, d = z_a.shape
    loss = 25 * (z_a - z_b).square().mean()
    for z in (z_a, z_b):
        z = z - z.mean(0)
        loss = loss + 25 * F.relu(1 - (z.var(0) + 1e-4).sqrt()).mean() / 2
        cov = z.T @ z / (n - 1)
        loss = loss + (cov.square().sum() - cov.diagonal().square().sum()) / d
    return loss


def vicreg_local(z_a: Tensor, z_b: Tensor) -> Tensor:
    """Return the same of each place of registered maps, N × P × D, as in VICRegL."""
    n, _, d = z_a.shape
    loss = 25 * (z_a - z_b).square().mean()
    for z in (z_a, z_b):
        z = (z - z.mean(0)).transpose(0, 1)
        loss = loss + 25 * F.relu(1 - (z.var(1) + 1e-4).sqrt()).mean() / 2
        cov = z.mT @ z / (n - 1)
        on = cov.diagonal(dim1=1, dim2=2).square().sum(1)
        loss = loss + (cov.square().sum((1, 2)) - on).mean() / d / 2
    return loss


def dcca(z_a: Tensor, z_b: Tensor, ridge: float = 1e-4) -> Tensor:
    """Return minus the sum of canonical correlations, whitened by eigenvectors."""
    a, b = z_a - z_a.mean(0), z_b - z_b.mean(0)
    dof = len(a) - 1

    def inverse_root(z: Tensor) -> Tensor:
        cov = z.T @ z / dof + ridge * torch.eye(z.shape[1], device=z.device).to(z)
        values, vectors = torch.linalg.eigh(cov)
        return vectors * values.rsqrt() @ vectors.T

    whitened = inverse_root(a) @ (a.T @ b / dof) @ inverse_root(b)
    return -torch.linalg.svdvals(whitened).sum()


def mcca(views: Sequence[Tensor]) -> Tensor:
    """Return `dcca` of all pairs of views, one after the other."""
    return torch.stack([dcca(*pair) for pair in combinations(views, 2)]).sum()


def dgcca(
    views: Sequence[Tensor], num_components: int = 8, ridge: float = 1e-4
) -> Tensor:
    """Return minus the largest eigenvalues of all views' whitened rows, side by side.

    Each view is whitened by Cholesky's factor: no derivative of eigenvectors.
    """
    whitened, dof = [], len(views[0]) - 1
    for z in views:
        z = z - z.mean(0)
        cov = z.T @ z / dof + ridge * torch.eye(z.shape[1], device=z.device).to(z)
        root = torch.linalg.cholesky(cov)
        whitened.append(torch.linalg.solve_triangular(root, z.T, upper=False))
    w = torch.cat(whitened)
    return -torch.linalg.eigvalsh(w @ w.T / dof)[-num_components:].sum()


def eckart_young(views: Sequence[Tensor]) -> Tensor:
    """Return what the views share, doubled and negative, and their energy."""
    views, dof = [z - z.mean(0) for z in views], len(views[0]) - 1
    own = torch.stack([z.square().sum() for z in views]).sum()
    shared = torch.stack(views).sum(0).square().sum() - own
    rows = torch.cat(views)
    return (rows.T @ rows / dof).square().sum() - 2 * shared / dof


def noise_regularization(
    z: Tensor, z_noise: Tensor, x: Tensor, noise: Tensor
) -> Tensor:
    """Return how far `dcca` of encoded data and noise is from that of these."""
    return (dcca(z, z_noise) - dcca(x, noise)).abs()


def soft_decorrelation(z_a: Tensor, z_b: Tensor) -> Tensor:
    """Return the absolute correlations of different columns, of both batches."""
    loss = z_a.new_zeros(())
    for z in (z_a, z_b):
        r = torch.corrcoef(z.T)
        loss = loss + r.abs().sum() - r.diagonal().abs().sum()
    return loss
