"""From rows to logits: what similarities are multiplied by, and what is added."""

import math

import torch
from torch import Tensor

from xmodal_losses._core.linalg import unit
from xmodal_losses._core.pairs.contrast import Contrast


def scaled(
    contrast: Contrast, temperature: float | Tensor, normalize: bool
) -> Contrast:
    """Return rows whose inner products are similarities over the temperature.

    Unit rows over a number are left to the engine, which scales rows in cache.
    """
    x, y, extra = contrast.x, contrast.y, contrast.extra
    if normalize and not isinstance(temperature, Tensor):
        length = 1 / temperature
        return contrast.replaced(lengths=(length, 1.0), bound=length)
    if isinstance(temperature, Tensor):
        temperature = temperature.to(x.dtype)

    def of_x(z: Tensor) -> Tensor:
        return (unit(z, -1) if normalize else z) / temperature

    def of_y(z: Tensor) -> Tensor:
        return unit(z, -1) if normalize else z

    extra = None if extra is None else extra.map(of_x, of_y)
    return contrast.replaced(x=of_x(x), y=of_y(y), extra=extra)


def shifted(
    contrast: Contrast, scale: float | Tensor, bias: float | Tensor, normalize: bool
) -> Contrast:
    """Return rows whose logits are scale · similarity + bias.

    A bias that gets a gradient is a column of y, and meets a column of ones of x.
    """
    contrast = scaled(contrast, 1 / scale, normalize)
    if not isinstance(bias, Tensor):
        return contrast.replaced(shift=bias, bound=math.inf)
    x, y = contrast.x, contrast.y
    if contrast.lengths is not None:
        of_x, of_y = contrast.lengths
        x, y = unit(x, -1, of_x), unit(y, -1, of_y)
    ones = x.new_ones((*x.shape[:-1], 1))
    column = bias.to(y.dtype).expand(*y.shape[:-1], 1)
    x, y = torch.cat((x, ones), -1), torch.cat((y, column), -1)
    return contrast.replaced(x=x, y=y, lengths=None, bound=math.inf)


def against(contrast: Contrast, threshold: Tensor) -> Contrast:
    """Return a contrast whose logits are a threshold of each row minus the logits.

    The threshold is one more column of x, and meets a column of ones of y.
    """
    x = torch.cat((-contrast.x, threshold.unsqueeze(-1)), -1)
    y = torch.cat((contrast.y, contrast.y.new_ones((*contrast.y.shape[:-1], 1))), -1)
    return contrast.replaced(x=x, y=y, narrow=False, bound=math.inf)
