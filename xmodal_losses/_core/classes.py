"""Rows by class: labels are any integers, and nobody has to know how many there are."""

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from xmodal_losses._core import reduce
from xmodal_losses._core.function import Function
from xmodal_losses._core.ranks import Ranks, refuse_twice


def class_numbers(labels: Tensor) -> Tensor:
    """Return a number below N for the class of each label ``(…, N)``.

    Equal labels have equal numbers. As many as there could be are reckoned with, so
    that no device has to be asked how many there are.
    """
    ordered, order = labels.sort(-1)
    steps = (ordered[..., 1:] != ordered[..., :-1]).long().cumsum(-1)
    numbers = torch.cat((torch.zeros_like(labels[..., :1]), steps), -1)
    return torch.zeros_like(labels).scatter(-1, order, numbers)


def class_totals(values: Tensor, numbers: Tensor, classes: int) -> Tensor:
    """Return the sums ``(…, K)`` of the values ``(…, N)`` of each class."""
    out = values.new_zeros((*values.shape[:-1], classes))
    return out.scatter_add(-1, numbers, values)


def class_sums(z: Tensor, numbers: Tensor, classes: int) -> Tensor:
    """Return the sums ``(…, K, D)`` of the rows ``(…, N, D)`` of each class."""
    out = z.new_zeros((*z.shape[:-2], classes, z.shape[-1]))
    return out.scatter_add(-2, numbers.unsqueeze(-1).expand(z.shape), z)


def class_means(
    z: Tensor, numbers: Tensor, weight: Tensor | None, classes: int
) -> tuple[Tensor, Tensor]:
    """Return the means ``(…, K, D)`` of the rows of each class, and their weights.

    The mean of no rows is 0.
    """
    if weight is None:
        weight = z.new_ones(numbers.shape)
    weight = weight.to(z.dtype)
    total = class_totals(weight, numbers, classes)
    sums = class_sums(weight.unsqueeze(-1) * z, numbers, classes)
    return sums * reduce.inverse(total).unsqueeze(-1), total


def others_of_class(
    z: Tensor,
    numbers: Tensor,
    ranks: Ranks | None = None,
    counts: Sequence[int] = (),
) -> Tensor:
    """Return for each row ``(…, N, D)`` the sum of the others of its class.

    Of rows that lie on several ranks, the others are of any; ``numbers`` are then those
    of the rows of all of them.
    """
    if ranks is None:
        return _others(z, z, numbers, numbers)
    out: Tensor = _OthersAcrossRanks.call(z, numbers, ranks, counts)
    return out


def _others(
    own: Tensor, all_rows: Tensor, own_numbers: Tensor, numbers: Tensor
) -> Tensor:
    sums = class_sums(all_rows, numbers, numbers.shape[-1])
    return sums.gather(-2, own_numbers.unsqueeze(-1).expand(own.shape)) - own


class _OthersAcrossRanks(Function):
    """A symmetric map of the rows of all ranks: so it is its own derivative."""

    @staticmethod
    def forward(
        z: Tensor, numbers: Tensor, ranks: Ranks, counts: Sequence[int]
    ) -> Tensor:
        own = numbers.narrow(0, sum(counts[: ranks.rank]), counts[ranks.rank])
        everyone = torch.cat(ranks.gather(z, counts, 0))
        return _others(z, everyone, own, numbers)

    @staticmethod
    def setup_context(ctx: Any, inputs: Any, output: Any) -> None:
        _, numbers, *ctx.rest = inputs
        ctx.save_for_backward(numbers)

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> Any:
        refuse_twice()
        (numbers,) = ctx.saved_tensors
        grad = _OthersAcrossRanks.forward(grad, numbers, *ctx.rest)
        return grad, None, None, None
