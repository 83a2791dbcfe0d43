"""From values per row or per problem to what the caller asked for."""

from typing import Literal, TypeAlias

import torch
from torch import Tensor

from xmodal_losses._core.ranks import Ranks

Reduction: TypeAlias = Literal["mean", "sum", "none"]
REDUCTIONS = ("mean", "sum", "none")


def rows(
    loss: Tensor,
    weight: Tensor | None,
    reduction: Reduction,
    ranks: Ranks | None = None,
) -> Tensor:
    """Reduce one value per row; the weighted mean is Σwℓ/Σw, and 0 if Σw = 0.

    Of rows that lie on several ranks, return what this rank returns.
    """
    if ranks is not None and reduction != "none":
        if weight is None:
            weight = torch.ones_like(loss)
        return ranks.own_part((shares(weight.to(loss), reduction, ranks) * loss).sum())
    if weight is None:
        return _plain(loss, reduction)
    weight = weight.to(loss.dtype)
    loss = weight * loss
    if reduction == "mean":
        return loss.sum() * inverse(weight.sum())
    return _plain(loss, reduction)


def shares(weight: Tensor, reduction: Reduction, ranks: Ranks | None = None) -> Tensor:
    """Return what each row's loss is multiplied by in the sum that :func:`rows` is."""
    if ranks is not None:
        weight = weight.detach()  # their gradient would need the loss of all ranks
    if reduction != "mean":
        return weight
    total = weight.sum() if ranks is None else ranks.sum(weight.sum())
    return weight * inverse(total)


def problems(
    value: Tensor,
    present: Tensor | None,
    reduction: Reduction,
    ranks: Ranks | None = None,
) -> Tensor:
    """Reduce one value per leading index.

    ``present`` tells the problems that have a row of positive weight. The others
    count for nothing: they are 0, and the mean passes over them. Of problems that lie
    on several ranks, return what this rank returns; a single one is known to all.
    """
    if ranks is not None and value.ndim == 0:
        return ranks.returned(problems(value, present, reduction))
    if ranks is not None and reduction != "none":
        count = torch.ones_like(value) if present is None else present.to(value.dtype)
        return rows(value, count, reduction, ranks)
    if present is None:
        return _plain(value, reduction)
    value = value.masked_fill(~present, 0.0)
    if reduction == "mean":
        return value.sum() * inverse(present.sum().to(value.dtype))
    return _plain(value, reduction)


def present(*weights: Tensor | None) -> Tensor | None:
    """Return which problems have rows of positive weight on every side; None: all."""
    out = None
    for weight in weights:
        if weight is not None:
            some = (weight != 0).any(-1)
            out = some if out is None else out & some
    return out


def inverse(x: Tensor) -> Tensor:
    """Return 1/x where x > 0, else 0 (the value, and the gradient)."""
    return 1 / x.masked_fill(x <= 0, torch.inf)


def _plain(value: Tensor, reduction: Reduction) -> Tensor:
    if reduction == "mean":
        return value.mean()
    return value.sum() if reduction == "sum" else value
