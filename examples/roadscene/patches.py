"""Co-located points in augmented crops of aligned pairs.

Both modalities are cut out of the pair by the same random flip, rotation, scale and
position, then shifted by independent whole-pixel offsets of 0 to `max_offset`, and the
infrared crop is turned, stretched and sheared a little by itself (`warp`). Offsets and
warp are part of the correspondence: without them a match would sit at the same place of
both crops and in the same phase of SwinFuse's 7×7 windows, and the network would learn
that instead of the scene. Photometric changes touch the visible image only.

Coordinates are (x, y), in pixels, pixel centres on whole numbers.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor

from .data import Pair
from .images import LUMA, luma

__all__ = [
    "Augmentation",
    "Bank",
    "Batch",
    "local_contrast",
    "sample_at",
    "sample_batch",
]


@dataclass(frozen=True)
class Augmentation:
    """Ranges of the random changes; all zero (scale 1) leaves the crop alone."""

    rotation: float = 10.0  # degrees, either way
    scale: float = 1.25  # largest enlargement; 1/scale is the smallest
    flip: float = 0.5  # probability of a left–right flip
    photometric: float = 0.8  # probability of changing the visible image's tones
    invert: float = 0.3  # probability of inverting its grey levels
    max_offset: int = 6  # pixels; 6 = all phases of a 7×7 window
    warp: float = 0.0  # of the infrared crop's linear map, each entry, either way
    jitter: float = 0.0  # pixels that an infrared point may be off, each way


class Batch(NamedTuple):
    """B crops of both modalities and P points in each that show the same place."""

    rgb: Tensor  # (B, 1, S, S), in [−1, 1]
    ir: Tensor  # (B, 1, S, S)
    points_rgb: Tensor  # (B, P, 2), pixels of the visible crop
    points_ir: Tensor  # (B, P, 2), pixels of the infrared crop
    weight: Tensor  # (B, P), 0 where a point is not seen in both crops
    exclude: Tensor  # (B, P, P), True = too near to count as a negative


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


class Bank(NamedTuple):
    """Pairs of several sizes as two tensors; their edges are repeated to fill up."""

    rgb: Tensor  # (N, 3, H, W)
    ir: Tensor  # (N, 1, H, W)
    size: Tensor  # (N, 2), width and height of each, on the CPU

    @classmethod
    def of(cls, pairs: Sequence[Pair], device: torch.device | str = "cpu") -> "Bank":
        """Stack pairs on a device."""
        size = torch.tensor([tuple(pair.ir.shape[:0:-1]) for pair in pairs])
        width, height = size.amax(0).tolist()

        def filled(image: Tensor) -> Tensor:
            *_, h, w = image.shape
            return F.pad(image[None], (0, width - w, 0, height - h), mode="replicate")

        rgb, ir = (
            torch.cat([filled(getattr(pair, name)) for pair in pairs]).to(device)
            for name in ("rgb", "ir")
        )
        return cls(rgb, ir, size.float())


def uniform(low: float, high: float, n: int, rng: torch.Generator) -> Tensor:
    """Draw n numbers."""
    return low + (high - low) * torch.rand(n, generator=rng)


def random_maps(
    size: Tensor, aug: Augmentation, crop: int, rng: torch.Generator
) -> Tensor:
    """Draw affine maps (B, 2, 3) from crop pixels, about their centre, to images."""
    n = len(size)
    angle = torch.deg2rad(uniform(-aug.rotation, aug.rotation, n, rng))
    zoom = aug.scale ** uniform(-1, 1, n, rng)
    flip = torch.where(uniform(0, 1, n, rng) < aug.flip, -1.0, 1.0)
    # Keep the crop inside where the image is large enough, else centre it.
    half = (zoom * crop / 2)[:, None]
    inside = half + (size - 1 - 2 * half) * torch.rand(n, 2, generator=rng)
    x, y = torch.where(size - 1 > 2 * half, inside, (size - 1) / 2).unbind(1)
    cos, sin = zoom * angle.cos(), zoom * angle.sin()
    rows = torch.stack([flip * cos, -sin, x, flip * sin, cos, y], dim=1)
    return rows.view(n, 2, 3)


def apply_maps(affine: Tensor, points: Tensor, crop: int) -> Tensor:
    """Map crop pixels ``(B | 1, P, 2)`` into the images."""
    centred = points - (crop - 1) / 2
    return centred @ affine[:, :, :2].mT + affine[:, None, :, 2]


def photometric(crops: Tensor, aug: Augmentation, rng: torch.Generator) -> Tensor:
    """Turn visible crops (B, 3, S, S) grey, some of them with their tones changed."""
    n = len(crops)

    def each(low: float, high: float) -> Tensor:
        return uniform(low, high, n, rng).to(crops)[:, None, None]

    changed = each(0, 1) < aug.photometric
    mix = torch.tensor(LUMA) + 0.3 * torch.rand(n, 3, generator=rng)
    mix = (mix / mix.sum(1, keepdim=True)).to(crops)
    tones = torch.einsum("bc,bchw->bhw", mix, crops).clamp(1e-4, 1)
    tones = tones ** each(-0.5, 0.5).exp()
    tones = each(0.7, 1.3) * tones + each(-0.1, 0.1)
    noise = torch.randn(tones.shape, generator=rng).to(crops)
    tones = tones + each(0, 0.02) * noise
    grey = torch.where(changed, tones, luma(crops)[:, 0])
    return torch.where(each(0, 1) < aug.invert, 1 - grey, grey)[:, None]


def sample_batch(
    bank: Bank,
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
    `exclude_radius` pixels are marked in `exclude`. All draws are made on the CPU:
    a seed means the same crops on any device.
    """
    rng, aug, size, device = generator, augmentation, crop_size, bank.rgb.device
    edge = 4  # pixels; cells nearer to it see mostly padding
    border = aug.max_offset + edge
    pitch = (size - 1 - border - edge) / grid
    corners = torch.cartesian_prod(torch.arange(grid), torch.arange(grid)).float()
    points = border + pitch * (corners + torch.rand(grid * grid, 2, generator=rng))

    chosen = torch.randperm(len(bank.size), generator=rng)[:batch_size]
    affine = random_maps(bank.size[chosen], aug, size, rng)
    mapped = apply_maps(affine, points, size)
    limit = bank.size[chosen, None] - 1
    weight = ((mapped >= 0) & (mapped <= limit)).all(-1).float()

    axis = torch.arange(size, dtype=torch.float32, device=device)
    pixels = torch.stack(torch.meshgrid(axis, axis, indexing="xy"), -1).view(1, -1, 2)
    n, centre = len(chosen), (size - 1) / 2
    crops, positions = [], []
    for images, warp in ((bank.rgb, 0.0), (bank.ir, aug.warp)):
        offset = torch.randint(0, aug.max_offset + 1, (n, 1, 2), generator=rng)
        own = torch.eye(2) + warp * (2 * torch.rand(n, 2, 2, generator=rng) - 1)
        maps = torch.cat([affine[:, :, :2] @ own, affine[:, :, 2:]], dim=2)
        where = apply_maps(maps.to(device), pixels + offset.to(device), size)
        crop = sample_at(images[chosen.to(device)], where)
        crops.append(crop.mT.reshape(n, -1, size, size))
        moved = (points - centre) @ (own.inverse() - torch.eye(2)).mT
        position = points + moved - offset
        in_crop = (position >= edge) & (position <= size - 1 - edge)
        weight = weight * in_crop.all(-1)
        positions.append(position.to(device))
    if aug.jitter:
        shape = positions[1].shape
        off = aug.jitter * (2 * torch.rand(shape, generator=rng) - 1)
        positions[1] = positions[1] + off.to(device)

    near = torch.cdist(points, points) < exclude_radius
    return Batch(
        rgb=local_contrast(photometric(crops[0], aug, rng)),
        ir=local_contrast(crops[1]),
        points_rgb=positions[0],
        points_ir=positions[1],
        weight=weight.to(device),
        exclude=near.to(device).expand(n, -1, -1),
    )
