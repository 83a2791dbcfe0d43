"""More than two modalities: a loss of two batches, over the pairs of several."""

from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor

__all__ = ["pairwise"]


def pairwise(
    loss: Callable[..., Tensor], views: Sequence[Tensor], **options: Any
) -> Tensor:
    r"""Return the mean of a loss over all pairs of views.

    .. math::
        \mathcal{L} = \frac{2}{V (V - 1)} \sum_{i < j} \mathcal{L}_2 (Z_i, Z_j)

    Of two views it is the loss. For VICReg, variances and covariances of each view then
    have the weight that they have in a loss of two, whatever V.

    Args:
        loss: A function or module of two batches. The first view of a pair, which is
            the earlier one, is its *a*; this matters to a loss that is not symmetric.
        views: V ≥ 2 batches, as the loss takes them.
        options: What the loss takes besides, the same for every pair: a ``weight`` of
            rows that belong together in all views, or a ``group``.

    Returns:
        What the loss returns.

    Cost: V (V − 1)/2 calls of the loss.

    Raises:
        TypeError: If the loss is not callable, or the views are no sequence of tensors.
        ValueError: If there are less than two views.

    Examples:
        >>> import torch, xmodal_losses as xl, xmodal_losses.functional as F
        >>> rgb, ir, depth = torch.randn(3, 256, 128, requires_grad=True)
        >>> xl.pairwise(F.barlow_twins, [rgb, ir, depth]).backward()
        >>> xl.pairwise(xl.VICRegLoss(), [rgb, ir, depth]).shape
        torch.Size([])
    """
    if not callable(loss):
        raise TypeError(
            f"pairwise: loss must be a function or module of two batches, got "
            f"{type(loss).__name__}."
        )
    if not isinstance(views, Sequence) or not all(
        isinstance(view, Tensor) for view in views
    ):
        raise TypeError(
            f"pairwise: views must be a sequence of tensors, got {type(views).__name__}"
            ". Put them in a list."
        )
    if len(views) < 2:
        raise ValueError(f"pairwise: views must be two or more, got {len(views)}.")
    values = [
        loss(views[i], views[j], **options) for j in range(len(views)) for i in range(j)
    ]
    return torch.stack(values).mean(0)
