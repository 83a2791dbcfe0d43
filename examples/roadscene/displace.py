"""Move the pixels of an image by a displacement that is known."""

import torch
import torch.nn.functional as F
from torch import Tensor

from .patches import sample_at

__all__ = ["displaced", "smooth_field"]

CELL = 128  # pixels over which a smooth field changes
ITERATIONS = 20  # an error shrinks by the field's slope in each


def smooth_field(height: int, width: int, seed: int) -> Tensor:
    """Draw a smooth field ``(2, H, W)`` of vectors whose rms length is 1."""
    rng = torch.Generator().manual_seed(seed)
    coarse = torch.randn(1, 2, height // CELL + 2, width // CELL + 2, generator=rng)
    field = F.interpolate(coarse, (height, width), mode="bicubic", align_corners=True)
    return field[0] / field[0].square().sum(0).mean().sqrt()


def read_at(image: Tensor, places: Tensor) -> Tensor:
    """Read ``(C, H, W)`` at pixels ``(2, H, W)``; beyond the edge it goes on."""
    rows = sample_at(image[None], places.flatten(1).mT[None])
    return rows[0].mT.view(-1, *places.shape[1:])


def displaced(image: Tensor, displacement: Tensor) -> Tensor:
    """Move what is at p in ``(C, H, W)`` to p + displacement(p), ``(2, H, W)``, (x, y).

    The displacement must not fold the image over.
    """
    height, width = image.shape[1:]
    axes = torch.arange(width).float(), torch.arange(height).float()
    here = torch.stack(torch.meshgrid(*axes, indexing="xy"))
    # What comes to lie at q was at p = q - displacement(p): a fixed point.
    source = here
    for _ in range(ITERATIONS):
        source = here - read_at(displacement, source)
    return read_at(image, source)
