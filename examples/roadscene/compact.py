"""Features of a pair, small enough to put into a page, and what that costs.

Of both modalities together, the directions with most energy are kept, as bytes. They
are not centred first: it is inner products that have to survive.
"""

from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor

from .evaluate import Described

__all__ = ["Compact", "compress", "similarities", "survival"]

LEVELS = 127


class Compact(NamedTuple):
    """Maps of bytes; times `scale`, their inner products are about the cosines."""

    rgb: Tensor  # (h, w, K), int8
    ir: Tensor  # (h', w', K), int8
    scale: Tensor  # (K,), float32


def compress(rgb: Described, ir: Described, dims: int) -> Compact:
    """Keep at most `dims` directions of a pair's features."""
    maps = [one.maps[0].permute(1, 2, 0).double().cpu() for one in (rgb, ir)]
    rows = torch.cat([one.flatten(0, 1) for one in maps])
    energy_first = torch.linalg.eigh(rows.T @ rows).eigenvectors.flip(1)
    maps = [one @ energy_first[:, :dims] for one in maps]
    largest = torch.cat([one.flatten(0, 1) for one in maps]).abs().amax(0)
    scale = largest.clamp(min=1e-12) / LEVELS
    return Compact(
        *((one / scale).round().to(torch.int8) for one in maps), scale.float()
    )


def similarities(compact: Compact, cells: Tensor) -> Tensor:
    """Return the cosines of visible places (Q, 2), in cells, with all infrared cells.

    (Q, h', w'); as the page computes it. The length of a feature between four cells is
    not that of what was kept: what was dropped of each counts, too, as if it had
    nothing in common with what was dropped of the others.
    """
    rgb, ir = (compact.scale * one.float() for one in (compact.rgb, compact.ir))
    h, w, _ = rgb.shape
    x = cells[:, 0].clamp(0, w - 1).to(rgb)
    y = cells[:, 1].clamp(0, h - 1).to(rgb)
    x0, y0 = x.long(), y.long()
    x1, y1 = (x0 + 1).clamp(max=w - 1), (y0 + 1).clamp(max=h - 1)
    right, down = x - x0, y - y0
    corners = torch.stack([rgb[y0, x0], rgb[y0, x1], rgb[y1, x0], rgb[y1, x1]])
    shares = torch.stack(
        [
            (1 - right) * (1 - down),
            right * (1 - down),
            (1 - right) * down,
            right * down,
        ]
    )
    read = (shares[..., None] * corners).sum(0)
    dropped = (1 - corners.square().sum(-1)).clamp(min=0)
    length = (read.square().sum(-1) + (shares.square() * dropped).sum(0)).sqrt()
    return torch.einsum("qk,hwk->qhw", read / length[:, None].clamp(min=1e-12), ir)


def survival(full: list[Tensor], kept: list[Tensor]) -> dict[str, float]:
    """Compare similarities (Q, h, w) of some pairs with those of what was kept.

    ``correlation``, over all places; ``same_peak``, the share of queries whose most
    similar cell is the same or next to it.
    """
    pairs = list(zip(full, kept, strict=True))
    columns = [torch.cat([one.flatten() for one in side]) for side in (full, kept)]
    near = []
    for ours, theirs in pairs:
        width = ours.shape[-1]
        a, b = (one.flatten(1).argmax(1) for one in (ours, theirs))
        across, down = (a % width - b % width).abs(), (a // width - b // width).abs()
        near.append(torch.maximum(across, down) <= 1)
    return {
        "correlation": float(np.corrcoef(*(one.numpy() for one in columns))[0, 1]),
        "same_peak": float(torch.cat(near).float().mean()),
    }
