"""The quadratic form of the MMD over all pairs of two batches."""

import torch
from torch import Tensor

from xmodal_losses._core.pairs import gaussians
from xmodal_losses._core.pairs.gaussians import Mixture
from xmodal_losses._core.pairs.kernel_mean import Kernel, kernel_mean, pair_weight
from xmodal_losses._core.pairs.tiles import square
from xmodal_losses._core.reduce import inverse


def discrepancy(
    kernel: Kernel | Mixture,
    x: Tensor,
    y: Tensor,
    weight_x: Tensor | None,
    weight_y: Tensor | None,
    *,
    inside: bool,
    across: bool,
    chunk_size: int | None,
) -> Tensor:
    """Return mean k(x, x′) + mean k(y, y′) − 2 mean k(x, y), ``(…)``.

    Args:
        kernel: A function of pairs; or a mixture of Gaussians, which is gone through
            faster, for rows in units of its largest bandwidth.
        x: ``(…, N, D)``.
        y: ``(…, M, D)``.
        weight_x: ``(…, N)``.
        weight_y: ``(…, M)``.
        inside: Leave out the pairs (x_i, x_i) and (y_i, y_i).
        across: Leave out the pairs (x_i, y_i).
        chunk_size: Edge of the tiles; None chooses.
    """
    blocks = (
        (x, x, weight_x, weight_x, inside),
        (y, y, weight_y, weight_y, inside),
        (x, y, weight_x, weight_y, across),
    )
    if callable(kernel):
        xx, yy, xy = (
            kernel_mean(kernel, *block, chunk_size=chunk_size) for block in blocks
        )
        return xx + yy - 2 * xy

    (n, d), m = x.shape[-2:], y.shape[-2]
    share = torch.stack([inverse(pair_weight(*block)).reshape(-1) for block in blocks])
    longest = max(n, m)
    tiling = square(longest, longest, chunk_size, x)
    return gaussians.discrepancy(
        kernel,
        x.reshape(-1, n, d),
        y.reshape(-1, m, d),
        None if weight_x is None else weight_x.reshape(-1, n),
        None if weight_y is None else weight_y.reshape(-1, m),
        share,
        gaussians.Plan(tiling, inside, across),
    ).reshape(x.shape[:-2])
