"""Reading a feature map between its pixels.

Own code in place of ``grid_sample``, which takes coordinates scaled to [−1, 1] in the
dtype of the map: whole pixels come back as mixtures, 16 bits do not hold a coordinate,
and there is no second derivative.
"""

import torch
from torch import Tensor

from xmodal_losses._core import checks, precision

__all__ = ["gather_rows"]


def gather_rows(features: Tensor, positions: Tensor) -> Tensor:
    """Return the features at positions of a map, interpolated between its pixels.

    Args:
        features: A map, ``(B, C, H, W)``, in any memory format.
        positions: Coordinates (x, y) in pixels, ``(B, P, 2)``; centres of pixels are
            whole numbers, (0, 0) to (W − 1, H − 1). Outside, the map goes on as it is
            at its edge. Integers read single pixels.

    Returns:
        Rows ``(B, P, C)``, bilinear in x and y, in the dtype of the map, float32 at
        least. At whole numbers they are the pixels, bit by bit.

    Gradients: exact, of every order, in ``features`` and in ``positions``. At a whole
    number, where the slope jumps, positions get the slope towards larger coordinates
    (at the last pixel, towards smaller ones); outside the map they get 0.

    Note:
        A pixel whose share is 0 is not read, so NaN there does no harm, unless
        ``positions`` require a gradient, which is made of it. A NaN in ``positions``
        gives a row of NaN.

        Products are made in the dtype of the result. The gradient of a 16-bit map is
        summed in 16 bits where several places share a pixel.

    Raises:
        TypeError: If an input is of another type.
        ValueError: If shapes do not fit together.

    Examples:
        >>> import torch
        >>> from xmodal_losses import dense
        >>> features = torch.tensor([[[[0.0, 1.0], [10.0, 11.0]]]])
        >>> dense.gather_rows(features, torch.tensor([[[1.0, 0.0], [0.5, 0.25]]]))
        tensor([[[1.],
                 [3.]]])
    """
    checks.feature_map("gather_rows", "features", features)
    checks.tensor("gather_rows", "positions", positions, checks.REAL, features)
    batch = features.shape[0]
    if positions.ndim != 3 or positions.shape[0] != batch or positions.shape[2] != 2:
        raise ValueError(
            f"gather_rows: positions must be of shape ({batch}, P, 2), the (x, y) of "
            f"places in every map, got {tuple(positions.shape)}."
        )
    height, width = features.shape[-2:]
    if not positions.is_floating_point():
        x, y = positions.long().unbind(-1)
        return read(features, y.clamp(0, height - 1) * width + x.clamp(0, width - 1))
    pixels, shares = corners(positions, height, width)
    rows = read(features, pixels.flatten(1))
    rows = rows.view(*pixels.shape, features.shape[1])
    # Not a matrix product, whose operands autocast and TF32 would round.
    return (rows * shares.to(rows.dtype)[..., None]).sum(1)


def read(features: Tensor, pixels: Tensor) -> Tensor:
    """Return pixels, told by y·W + x, ``(B, P)``, as rows ``(B, P, C)``."""
    # One gather for all corners: its gradient is one buffer of the size of the map.
    rows = features.flatten(2).transpose(1, 2)
    index = pixels[..., None].expand(-1, -1, features.shape[1])
    return rows.gather(1, index).to(precision.compute_dtype(features))


def corners(positions: Tensor, height: int, width: int) -> tuple[Tensor, Tensor]:
    """Return the four pixels around places, as y·W + x, and their shares, (B, 4, P)."""
    if positions.dtype in (torch.float16, torch.bfloat16):
        positions = positions.float()
    slopes = positions.requires_grad
    left, right, across = _between(positions[..., 0], width, slopes)
    upper, lower, down = _between(positions[..., 1], height, slopes)
    upper, lower = upper * width, lower * width
    pixels = (upper + left, upper + right, lower + left, lower + right)
    shares = (
        (1 - down) * (1 - across),
        (1 - down) * across,
        down * (1 - across),
        down * across,
    )
    return torch.stack(pixels, 1), torch.stack(shares, 1)


def _between(t: Tensor, size: int, slopes: bool) -> tuple[Tensor, Tensor, Tensor]:
    """Return the pixels before and after a coordinate, and the share of the latter."""
    t = t.clamp(0, size - 1)
    # Clamped as integers, too: what a NaN becomes must not index beyond the map.
    low = t.detach().floor().long().clamp(0, max(size - 2, 0))
    high = (low + 1).clamp(max=size - 1)
    share = t - low
    if not slopes:
        # What has no share may hold NaN: read its neighbour in its place.
        low, high = (
            torch.where(share == 1, high, low),
            torch.where(share == 0, low, high),
        )
    return low, high, share
