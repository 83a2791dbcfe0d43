"""Co-located points in augmented crops of aligned pairs.

Both modalities are cut out of the pair by the same random flip, rotation, scale and
position, then shifted by independent whole-pixel offsets of 0 to `max_offset`. The
offsets are part of the correspondence: without them a match would sit at the same
place of both crops and in the same phase of SwinFuse's 7×7 windows, and the network
would learn that instead of the scene. Photometric changes touch the visible image
only.

Coordinates are (x, y), in pixels, pixel centres on whole numbers.
"""

import math
from dataclasses import dataclass
from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor

from .data import Pair

__all__ = ["Augmentation", "Batch", "local_contrast", "sample_at", "sample_batch"]

LUMA = (0.299, 0.587, 0.114)


@dataclass(frozen=True)
class Augmentation:
    """Ranges of the random changes; all zero (scale 1) leaves the crop alone."""

    rotation: float = 10.0  # degrees, either way
    scale: float = 1.25  # largest enlargement; 1/scale is the smallest
    flip: float = 0.5  # probability of a left–right flip
    photometric: float = 0.8  # probability of changing the visible image's tones
    invert: float = 0.3  # probability of inverting its grey levels
    max_offset: int = 6  # pixels; 6 = all phases of a 7×7 window


class Batch(NamedTuple):
    """B crops of both modalities and P points in each that show the same place."""

    rgb: Tensor  # (B, 1, S, S), in [−1, 1]
    ir: Tensor  # (B, 1, S, S)
    points_rgb: Tensor  # (B, P, 2), pixels of the visible crop
    points_ir: Tensor  # (B, P, 2), pixels of the infrared crop
    weight: Tensor  # (B, P), 0 where the point falls outside the image
    exclude: Tensor  # (B, P, P), True = too near to count as a negative

    def to(self, device: torch.device) -> "Batch":
        """Move every field."""
        return Batch(*(field.to(device) for field in self))


def local_contrast(image: Tensor, size: int = 13, floor: float = 0.02) -> Tensor:
    """Subtract the local mean and divide by the local deviation; result in [−1, 1].

    Absolute grey levels mean different things in the two bands, and visible images at
    night are nearly black. `floor` keeps noise in flat regions small.
    """

    def mean(x: Tensor) -> Tensor:
        pad = size // 2
        return F.avg_pool2d(x, size, 1, pad, count_include_pad=False)

    centred = image - mean(image)
    deviation = mean(centred.square()).sqrt()
    return (centred / (deviation + floor) / 2.5).clamp(-1, 1)


def sample_at(maps: Tensor, points: Tensor, stride: int = 1) -> Tensor:
    """Read maps ``(B, C, h, w)`` at pixel positions ``(B, P, 2)`` → ``(B, P, C)``.

    Bilinear; cell (i, j) of the map lies on pixel (stride·i, stride·j).
    """
    h, w = maps.shape[-2:]
    size = points.new_tensor([max(w - 1, 1), max(h - 1, 1)])
    grid = 2 * points / stride / size - 1
    read = F.grid_sample(maps, grid[:, None], align_corners=True, padding_mode="border")
    return read[:, :, 0].transpose(1, 2)


def uniform(low: float, high: float, rng: torch.Generator) -> float:
    """Draw one number."""
    return low + (high - low) * torch.rand((), generator=rng).item()


def random_map(
    width: int, height: int, aug: Augmentation, size: int, rng: torch.Generator
) -> Tensor:
    """Draw the affine map (2, 3) from crop pixels, about its centre, to the image."""
    angle = math.radians(uniform(-aug.rotation, aug.rotation, rng))
    zoom = aug.scale ** uniform(-1, 1, rng)
    flip = -1.0 if uniform(0, 1, rng) < aug.flip else 1.0
    # Keep the crop inside where the image is large enough, else centre it.
    half = zoom * size / 2
    x, y = (
        uniform(half, n - 1 - half, rng) if n - 1 > 2 * half else (n - 1) / 2
        for n in (width, height)
    )
    cos, sin = zoom * math.cos(angle), zoom * math.sin(angle)
    return torch.tensor([[flip * cos, -sin, x], [flip * sin, cos, y]])


def apply_map(affine: Tensor, points: Tensor, size: int) -> Tensor:
    """Map crop pixels ``(..., 2)`` into the image."""
    return (points - (size - 1) / 2) @ affine[:, :2].T + affine[:, 2]


def photometric(image: Tensor, aug: Augmentation, rng: torch.Generator) -> Tensor:
    """Turn a visible crop (3, S, S) grey: plainly, or with its tones changed."""
    if uniform(0, 1, rng) >= aug.photometric:
        grey = torch.tensordot(torch.tensor(LUMA), image, 1)
    else:
        mix = torch.tensor(LUMA) + 0.3 * torch.rand(3, generator=rng)
        grey = torch.tensordot(mix / mix.sum(), image, 1).clamp(1e-4, 1)
        grey = grey ** math.exp(uniform(-0.5, 0.5, rng))
        grey = uniform(0.7, 1.3, rng) * grey + uniform(-0.1, 0.1, rng)
        noise = torch.randn(grey.shape, generator=rng)
        grey = grey + uniform(0, 0.02, rng) * noise
    if uniform(0, 1, rng) < aug.invert:
        grey = 1 - grey
    return grey


def sample_batch(
    pairs: list[Pair],
    *,
    batch_size: int,
    crop_size: int,
    grid: int,
    exclude_radius: float,
    augmentation: Augmentation,
    generator: torch.Generator,
) -> Batch:
    """Draw `batch_size` different pairs, a crop of each, and grid² points in it.

    The points are the same in all crops before the offsets, so that row p of one
    image and row p of another are "other image, same place". One point is drawn in
    each square of a grid that covers the crop. Points nearer to each other than
    `exclude_radius` pixels are marked in `exclude`.
    """
    rng, aug, size = generator, augmentation, crop_size
    border = aug.max_offset + 4  # cells nearer to the edge see mostly padding
    pitch = (size - 1 - border - 4) / grid
    corners = torch.cartesian_prod(torch.arange(grid), torch.arange(grid)).float()
    points = border + pitch * (corners + torch.rand(grid * grid, 2, generator=rng))
    axis = torch.arange(size, dtype=torch.float32)
    pixels = torch.stack(torch.meshgrid(axis, axis, indexing="xy"), dim=-1)

    chosen = torch.randperm(len(pairs), generator=rng)[:batch_size].tolist()
    rows: list[tuple[Tensor, ...]] = []
    for pair in (pairs[i] for i in chosen):
        height, width = pair.rgb.shape[-2:]
        affine = random_map(width, height, aug, size, rng)
        limit = torch.tensor([width - 1.0, height - 1.0])

        crops, positions = [], []
        for image in (pair.rgb, pair.ir):
            offset = torch.randint(0, aug.max_offset + 1, (2,), generator=rng)
            where = apply_map(affine, pixels + offset, size)
            crop = sample_at(image[None], where.view(1, -1, 2))
            crops.append(crop[0].T.view(-1, size, size))
            positions.append(points - offset)

        mapped = apply_map(affine, points, size)
        inside = ((mapped >= 0) & (mapped <= limit)).all(-1).float()
        grey = photometric(crops[0], aug, rng)[None]
        rows.append((grey, crops[1], *positions, inside))

    rgb, ir, points_rgb, points_ir, weight = map(torch.stack, zip(*rows, strict=True))
    near = torch.cdist(points, points) < exclude_radius
    return Batch(
        rgb=local_contrast(rgb),
        ir=local_contrast(ir),
        points_rgb=points_rgb,
        points_ir=points_ir,
        weight=weight,
        exclude=near.expand(len(rows), -1, -1),
    )
