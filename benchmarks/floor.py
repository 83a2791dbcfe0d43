"""The matrix products a loss cannot do without: the time nothing can go below.

What would remain of a loss if everything but its products were free: the products of
the best known way to compute it, by `torch.mm`, on matrices of the same size and dtype.

===================  ================================================================
InfoNCE, SigLIP,     logits and a gradient for each side: 6·N²·D operations; who does
NT-Xent, DCL,        not keep N² logits makes them again in the backward pass: 8·N²·D;
debiased, SupCon,    all but the first two of 2N rows, of which all products are
SINCERE              symmetric
MMD                  one triangle of the pooled distances, and from it the gradients
                     of both of its sides: 3·(2N)²·D
CORAL, VICReg,       second moments and their gradients, through D×D or N×N matrices,
Barlow Twins         whichever takes less; symmetric results are not counted half
Similarity           one product of twice the width, and a gradient for each side:
preservation         8·N²·D operations
losses of centres    no products of rows: both batches read, and two gradients written
Deep CCA, multiset   covariances of all views and of all pairs, and for each the
CCA, noise           products of its gradients (none of data and noise); the
regularisation       decompositions of D×D matrices are left out
DGCCA                the same covariances, and rows along K directions and back
Eckart-Young         one second moment of all rows, and one gradient for each view
===================  ================================================================
"""

from collections.abc import Callable
from itertools import combinations_with_replacement, product

import torch
from torch import Tensor

__all__ = ["FLOOR", "info_nce", "info_nce_twice"]


def info_nce(z_a: Tensor, z_b: Tensor) -> None:
    """Make three products: logits and two gradients."""
    logits = z_a @ z_b.mT
    _ = logits @ z_b, logits.mT @ z_a


def info_nce_twice(z_a: Tensor, z_b: Tensor) -> None:
    """Make four products, the logits twice."""
    logits = z_a @ z_b.mT
    torch.matmul(z_a, z_b.mT, out=logits)
    _ = logits @ z_b, logits.mT @ z_a


def _no_products(z_a: Tensor, z_b: Tensor) -> None:
    """Read both batches and write their gradients, all that is left to do."""
    _ = z_a + 1, z_b + 1


def _mmd(z_a: Tensor, z_b: Tensor) -> None:
    pool = torch.cat((z_a, z_b))
    strip = max(len(pool) // 16, 1)  # a triangle in strips: 17/32 of the square
    for start in range(0, len(pool), strip):
        some, rest = pool[start : start + strip], pool[start:]
        k = some @ rest.T
        _ = k @ rest, k.T @ some


def _moments(through_rows: int, through_columns: int) -> Callable:
    """Return so many products of the shape N×D×N, or of D×N×D, what takes less."""

    def run(z_a: Tensor, z_b: Tensor) -> None:
        n, d = z_a.shape
        by_rows = through_rows * n <= through_columns * d
        count = through_rows if by_rows else through_columns
        for _ in range(count):
            _ = z_a @ z_b.T if by_rows else z_a.T @ z_b

    return run


def _covariances(z_a: Tensor, z_b: Tensor) -> None:
    for left, right in ((z_a, z_a), (z_a, z_b), (z_b, z_b)):
        c = left.T @ right
    _ = z_a @ c, z_b @ c.T, z_b @ c, z_a @ c.T


def _views(z_a: Tensor, z_b: Tensor) -> list[Tensor]:
    return [z_a, z_b, z_a]  # three, as in `cases`


def _of_all_pairs(z_a: Tensor, z_b: Tensor) -> None:
    views = _views(z_a, z_b)
    for left, right in combinations_with_replacement(views, 2):
        c = left.T @ right
    for left, _ in product(views, views):
        _ = left @ c


def _along_directions(z_a: Tensor, z_b: Tensor) -> None:
    views = _views(z_a, z_b)
    for left, right in combinations_with_replacement(views, 2):
        c = left.T @ right
    for z in views:
        _ = z @ c[:, :8] @ c[:8]


def _with_noise(z_a: Tensor, z_b: Tensor) -> None:
    _covariances(z_a, z_b)
    for left, right in ((z_a, z_a), (z_a, z_b), (z_b, z_b)):
        _ = left.T @ right


def _of_places(z_a: Tensor, z_b: Tensor) -> None:
    a, b = (z.unflatten(0, (-1, 4)).transpose(0, 1) for z in (z_a, z_b))
    for _ in range(4):  # as of VICReg
        _ = a @ b.mT if a.shape[1] <= a.shape[2] else a.mT @ b


def _nt_xent(z_a: Tensor, z_b: Tensor) -> None:
    z = torch.cat((z_a, z_b))
    logits = z @ z.mT
    _ = logits @ z


def _similarity(z_a: Tensor, z_b: Tensor) -> None:
    both = torch.cat((z_a, z_b), 1)
    gap = both @ both.mT
    _ = gap @ z_b, gap.mT @ z_a


FLOOR: dict[str, Callable[[Tensor, Tensor], None]] = {
    "info_nce": info_nce,
    "info_nce_groups": info_nce,
    "nt_xent": _nt_xent,
    "sigmoid_contrastive": info_nce,
    "decoupled": _nt_xent,
    "debiased": _nt_xent,
    "mil_nce": info_nce,
    "soft_info_nce": info_nce,
    "sup_con": _nt_xent,
    "sincere": _nt_xent,
    "contrastive_center": _no_products,
    "hetero_center": _no_products,
    "hetero_center_triplet": _no_products,
    "cross_modality_contrastive_center": _no_products,
    "similarity_preservation": _similarity,
    # Three Gram matrices and the four products of their gradients, or two of each.
    "coral": _moments(7, 4),
    "mmd": _mmd,
    # Two Gram matrices and their gradients, or one cross moment and two gradients.
    "barlow_twins": _moments(4, 3),
    "vicreg": _moments(4, 4),
    "vicreg_local": _of_places,
    # Two second moments and their gradients.
    "soft_decorrelation": _moments(4, 4),
    "dcca": _covariances,
    "mcca": _of_all_pairs,
    "dgcca": _along_directions,
    # Six Gram matrices and the nine products of their gradients, or three of each.
    "eckart_young": _moments(15, 6),
    "noise_regularization": _with_noise,
}
