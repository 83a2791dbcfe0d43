"""How far the two halves of a registered pair are still apart.

Edges are what visible and infrared images share, but which side of one is brighter is
not. So the direction of the gradient is taken at twice its angle, where opposite
directions are one: of a gradient g = dx + i·dy, that is g²/|g|. Blocks of 64×64
pixels of the visible image are looked for in the infrared one, up to 8 pixels away, by
the normalised correlation of these; the peak is refined by a parabola per axis. A block
is believed if its peak lies inside the range and stands more than six standard
deviations above the mean of all places but the 5×5 about it. Of other blocks nothing
is known.
"""

from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor

from .data import Pair
from .evaluate import peak
from .images import luma

__all__ = ["REACH", "Displacements", "displacements"]

BLOCK = 64  # side of a block
STEP = 32  # from block to block
REACH = 8  # pixels that are searched, each way
RATIO = 6.0  # peak to sidelobe, at least
LOBE = 2  # cells about the peak that belong to it
SIGMA = 1.0  # of the blur before the gradient: noise, and JPEG's


class Displacements(NamedTuple):
    """Where the infrared image shows what the visible one shows in a block."""

    shift: Tensor  # (K, 2), pixels (x, y), of the blocks that are believed
    centre: Tensor  # (K, 2), of these blocks, in pixels of the visible image
    blocks: int  # that were looked at


def doubled_gradient(image: Tensor) -> Tensor:
    """Return g²/|g| of an image ``(H, W)``, complex."""
    pad = round(3 * SIGMA) + 1
    axis = torch.arange(-pad, pad + 1).to(image)
    smooth = torch.exp(-(axis**2) / (2 * SIGMA**2))
    smooth = smooth / smooth.sum()
    slope = -axis / SIGMA**2 * smooth
    framed = F.pad(image[None, None], (pad, pad, pad, pad), mode="replicate")

    def derivative(along_x: Tensor, along_y: Tensor) -> Tensor:
        rows = F.conv2d(framed, along_x.view(1, 1, 1, -1))
        return F.conv2d(rows, along_y.view(1, 1, -1, 1))[0, 0]

    g = torch.complex(derivative(slope, smooth), derivative(smooth, slope))
    return g.square() / g.abs().clamp(min=1e-6)


def cut(image: Tensor, side: int) -> Tensor:
    """Cut squares ``(N, side, side)`` out of ``(H, W)``, one every STEP pixels."""
    return image.unfold(0, side, STEP).unfold(1, side, STEP).reshape(-1, side, side)


def correlate(blocks: Tensor, regions: Tensor) -> Tensor:
    """Normalised correlation of ``(N, BLOCK, BLOCK)`` in regions wider by REACH.

    Returns ``(N, 2·REACH + 1, 2·REACH + 1)``, 0 where one of the two is flat.
    """
    side = regions.shape[-1]
    # Circular, as wide as the region: these places do not reach over its end.
    product = torch.fft.fft2(regions) * torch.fft.fft2(blocks, s=(side, side)).conj()
    places = 2 * REACH + 1
    raw = torch.fft.ifft2(product).real[:, :places, :places]
    energy = blocks.abs().square().sum((1, 2))[:, None, None]
    # Rows, then columns: 128 instead of 4096 terms per place.
    below = F.avg_pool2d(regions.abs().square(), (BLOCK, 1), 1)
    below = F.avg_pool2d(below, (1, BLOCK), 1) * BLOCK**2
    return raw / (energy * below).sqrt().clamp(min=1e-9)


def believed(scores: Tensor) -> Tensor:
    """Say of maps ``(N, n, n)`` whether the peak is inside, and stands out."""
    n = scores.shape[-1]
    flat = scores.flatten(1)
    height, best = flat.max(1)
    place = torch.stack([best // n, best % n], dim=1)
    off = (torch.arange(n) - place[:, :, None]).abs()  # (N, 2, n)
    lobe = (off[:, 0, :, None] <= LOBE) & (off[:, 1, None, :] <= LOBE)
    rest = torch.where(lobe.flatten(1), torch.nan, flat)
    mean = rest.nanmean(1)
    deviation = (rest - mean[:, None]).square().nanmean(1).sqrt()
    inside = ((place > 0) & (place < n - 1)).all(1)
    return inside & (height - mean > RATIO * deviation)


def displacements(pair: Pair) -> Displacements:
    """Measure one pair; a pair smaller than 80×80 pixels has no blocks."""
    height, width = pair.ir.shape[-2:]
    side = BLOCK + 2 * REACH
    if min(height, width) < side:
        return Displacements(torch.zeros(0, 2), torch.zeros(0, 2), 0)
    grey = luma(pair.rgb)[0]
    inner = doubled_gradient(grey)[REACH : height - REACH, REACH : width - REACH]
    scores = correlate(cut(inner, BLOCK), cut(doubled_gradient(pair.ir[0]), side))
    rows = torch.arange(0, height - side + 1, STEP)
    columns = torch.arange(0, width - side + 1, STEP)
    centre = torch.cartesian_prod(rows, columns).flip(1) + (side - 1) / 2
    good = believed(scores)
    return Displacements(peak(scores[good]) - REACH, centre[good], len(scores))
