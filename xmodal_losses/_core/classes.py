"""Rows by class: labels are any integers, and nobody has to know how many there are."""

import torch
from torch import Tensor

from xmodal_losses._core import reduce


def class_numbers(labels: Tensor) -> Tensor:
    """Return a number below N for the class of each label ``(…, N)``.

    Equal labels have equal numbers. As many as there could be are reckoned with, so
    that no device has to be asked how many there are.
    """
    ordered, order = labels.sort(-1)
    steps = (ordered[..., 1:] != ordered[..., :-1]).long().cumsum(-1)
    numbers = torch.cat((torch.zeros_like(labels[..., :1]), steps), -1)
    return torch.zeros_like(labels).scatter(-1, order, numbers)


def class_means(
    z: Tensor, numbers: Tensor, weight: Tensor | None, classes: int
) -> tuple[Tensor, Tensor]:
    """Return the means ``(…, K, D)`` of the rows of each class, and their weights.

    The mean of no rows is 0.
    """
    if weight is None:
        weight = z.new_ones(numbers.shape)
    weight = weight.to(z.dtype)
    lead = z.shape[:-2]
    total = z.new_zeros((*lead, classes)).scatter_add(-1, numbers, weight)
    sums = z.new_zeros((*lead, classes, z.shape[-1]))
    index = numbers.unsqueeze(-1).expand(z.shape)
    sums = sums.scatter_add(-2, index, weight.unsqueeze(-1) * z)
    return sums * reduce.inverse(total).unsqueeze(-1), total
