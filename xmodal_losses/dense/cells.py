"""A map cut into cells: any number of them, near to squares, whole pixels each."""

import math
from typing import NamedTuple

import torch
from torch import Tensor


class Cells(NamedTuple):
    """P cells that cover an H×W map without overlap, in the order of a page.

    They lie in bands of equal height, give or take a pixel. If the number of cells does
    not divide by that of the bands, some bands have one cell more than others. A map of
    fewer pixels than cells leaves cells empty.
    """

    top: Tensor  # (P,) first row of pixels
    bottom: Tensor  # (P,) one past the last
    left: Tensor  # (P,)
    right: Tensor  # (P,)
    of_pixel: Tensor  # (H·W,) the cell of each pixel


def cut(
    num: int | tuple[int, int], height: int, width: int, device: torch.device
) -> Cells:
    """Return so many cells, or so many (rows, columns) of them."""
    if isinstance(num, int):
        bands = round(math.sqrt(num * height / width))
        # As many pixels as cells in a band, unless the map has too few of them.
        bands = min(max(bands, math.ceil(num / width), 1), height, num)
    else:
        bands, num = num[0], num[0] * num[1]

    # Band i starts at ⌊i·num/bands⌋, so cell p is in band ⌈(p + 1)·bands/num⌉ − 1.
    cell = torch.arange(num, device=device)
    band = ((cell + 1) * bands - 1) // num
    first = torch.arange(bands + 1, device=device) * num // bands
    count = first.diff()
    column, columns = cell - first[band], count[band]

    y = ((torch.arange(height, device=device) + 1) * bands - 1) // height
    x = torch.arange(width, device=device) + 1
    of_pixel = first[y, None] + (x * count[y, None] - 1) // width
    return Cells(
        top=band * height // bands,
        bottom=(band + 1) * height // bands,
        left=column * width // columns,
        right=(column + 1) * width // columns,
        of_pixel=of_pixel.flatten(),
    )
