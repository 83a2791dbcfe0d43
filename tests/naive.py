"""The expressions people paste, in plain torch: the yardstick of the precision tests.

They run in the dtype of their inputs, as pasted code does.
"""

import torch
import torch.nn.functional as nnf
from torch import Tensor


def naive_info_nce(z_a: Tensor, z_b: Tensor) -> Tensor:
    logits = nnf.normalize(z_a, dim=-1) @ nnf.normalize(z_b, dim=-1).mT / 0.07
    target = torch.arange(len(z_a))
    forward = nnf.cross_entropy(logits, target)
    return (forward + nnf.cross_entropy(logits.mT, target)) / 2


def naive_coral(z_a: Tensor, z_b: Tensor) -> Tensor:
    def covariance(z: Tensor) -> Tensor:
        total = z.sum(0, keepdim=True)
        return (z.T @ z - total.T @ total / len(z)) / (len(z) - 1)

    difference = covariance(z_a) - covariance(z_b)
    return (difference**2).sum() / (4 * z_a.shape[1] ** 2)


def naive_mmd(z_a: Tensor, z_b: Tensor) -> Tensor:
    pool = torch.cat([z_a, z_b])
    squares = ((pool[:, None] - pool[None]) ** 2).sum(-1)
    count = len(pool)
    base = squares.detach().sum() / (count * (count - 1)) / 2
    gram = sum(torch.exp(-squares / (2 * base * 2.0**k)) for k in range(-2, 3)) / 5
    n = len(z_a)
    return gram[:n, :n].mean() + gram[n:, n:].mean() - 2 * gram[:n, n:].mean()


def naive_barlow_twins(z_a: Tensor, z_b: Tensor) -> Tensor:
    z_a = (z_a - z_a.mean(0)) / z_a.std(0, unbiased=False)
    z_b = (z_b - z_b.mean(0)) / z_b.std(0, unbiased=False)
    c = z_a.T @ z_b / len(z_a)
    on = ((torch.diagonal(c) - 1) ** 2).sum()
    off = (c**2).sum() - (torch.diagonal(c) ** 2).sum()
    return on + 5e-3 * off


def naive_vicreg(z_a: Tensor, z_b: Tensor) -> Tensor:
    def regularise(z: Tensor) -> tuple[Tensor, Tensor]:
        hinge = nnf.relu(1 - torch.sqrt(z.var(dim=0) + 1e-4)).mean()
        z = z - z.mean(dim=0)
        c = z.T @ z / (len(z) - 1)
        off = c - torch.diag(torch.diagonal(c))
        return hinge, (off**2).sum() / z.shape[1]

    v_a, c_a = regularise(z_a)
    v_b, c_b = regularise(z_b)
    return 25 * nnf.mse_loss(z_a, z_b) + 25 * (v_a / 2 + v_b / 2) + c_a + c_b


def naive_dcca(z_a: Tensor, z_b: Tensor) -> Tensor:
    # No decomposition exists below float32: pasted code runs it there.
    z_a = z_a.to(torch.promote_types(z_a.dtype, torch.float32))
    z_b = z_b.to(z_a.dtype)
    z_a, z_b = z_a - z_a.mean(0), z_b - z_b.mean(0)
    n = len(z_a) - 1
    s_aa = z_a.T @ z_a / n + 1e-4 * torch.eye(z_a.shape[1], dtype=z_a.dtype)
    s_bb = z_b.T @ z_b / n + 1e-4 * torch.eye(z_b.shape[1], dtype=z_a.dtype)

    def inverse_root(s: Tensor) -> Tensor:
        values, vectors = torch.linalg.eigh(s)
        return vectors @ torch.diag(values**-0.5) @ vectors.T

    t = inverse_root(s_aa) @ (z_a.T @ z_b / n) @ inverse_root(s_bb)
    return -torch.linalg.svdvals(t).sum()
