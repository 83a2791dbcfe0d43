"""How well features find a visible place in the infrared image.

Query points are cells of the visible image with texture in both modalities. The
infrared image is cropped by a random offset of 0 to 6 pixels per axis first, so that
the answer is neither "the same place" nor "the same phase of the windows".

- Retrieval: all cells of the infrared image are candidates. Top-k is the share of
  queries with one of the k most similar cells within `tolerance` of the truth.
- Localisation: the peak of the similarity map, refined between cells by a parabola,
  in a search window that holds the truth at a random place. The error is its distance
  to the truth.

Distances are in pixels of the full-resolution image. Every draw comes from the seed
and the pair's place in the list: two calls return the same numbers.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from .data import Pair
from .patches import LUMA, local_contrast, sample_at

__all__ = [
    "Protocol",
    "Queries",
    "evaluate",
    "measure_pair",
    "peak",
    "prepare_pair",
    "query_maps",
    "summarise",
]

# From images (1, 1, H, W) to unit features (1, D, h, w).
Embed = Callable[[Tensor], Tensor]


@dataclass(frozen=True)
class Protocol:
    """What is measured."""

    seed: int = 0
    downscale: int = 4  # full-resolution pixels per pixel of the pair
    stride: int = 2  # pixels of the pair per cell
    queries: int = 128  # per pair
    tolerance: float = 8.0  # full-resolution pixels
    window: int = 14  # cells along the side of the search window
    max_offset: int = 6  # pixels of the pair


class Queries(NamedTuple):
    """What one pair asks: network inputs and where the answers lie."""

    rgb: Tensor  # (1, 1, H, W)
    ir: Tensor  # (1, 1, H', W'), cropped by the offset
    points_rgb: Tensor  # (Q, 2), pixels, (x, y)
    points_ir: Tensor  # (Q, 2), the same places in `ir`


def texture(image: Tensor, size: int) -> Tensor:
    """Mean gradient energy in size × size pixels around each pixel."""
    dy = F.pad(image.diff(dim=-2), (0, 0, 0, 1))
    dx = F.pad(image.diff(dim=-1), (0, 1))
    return F.avg_pool2d(dx**2 + dy**2, size, 1, size // 2, count_include_pad=False)


def prepare_pair(pair: Pair, protocol: Protocol, index: int) -> Queries:
    """Choose offset and query points of the `index`-th pair, most textured first."""
    rng = torch.Generator().manual_seed(1_000_003 * protocol.seed + index)
    dx, dy = torch.randint(0, protocol.max_offset + 1, (2,), generator=rng).tolist()
    rgb = local_contrast(torch.tensordot(torch.tensor(LUMA), pair.rgb, 1)[None, None])
    ir = local_contrast(pair.ir[None, :, dy:, dx:])

    # Cells whose texture is above the image's median in both modalities.
    step, shown = protocol.stride, local_contrast(pair.ir[None])
    energy = [texture(x, 5)[0, 0, ::step, ::step] for x in (rgb, shown)]
    good = (energy[0] > energy[0].median()) & (energy[1] > energy[1].median())
    margin = protocol.max_offset // step + 2
    keep = torch.zeros_like(good)
    keep[margin:-margin, margin:-margin] = True
    cells = (good & keep).nonzero()
    cells = cells[torch.randperm(len(cells), generator=rng)[: protocol.queries]]
    strength = (energy[0] * energy[1])[cells[:, 0], cells[:, 1]]
    cells = cells[strength.argsort(descending=True, stable=True)]
    points = step * cells.flip(1).float()
    return Queries(rgb, ir, points, points - torch.tensor([dx, dy]))


def peak(scores: Tensor) -> Tensor:
    """Return the place (x, y), in cells, of the maximum of each map ``(Q, h, w)``.

    One parabola per axis through the maximum and its two neighbours; the cell itself
    where a neighbour is missing, outside the map or −∞.
    """
    q, _, w = scores.shape
    best = scores.flatten(1).argmax(1)
    place = torch.stack([best % w, best // w], dim=-1)
    rows = torch.arange(q, device=scores.device)
    framed = F.pad(scores, (1, 1, 1, 1), value=-torch.inf)

    def score(dx: int, dy: int) -> Tensor:
        return framed[rows, place[:, 1] + 1 + dy, place[:, 0] + 1 + dx]

    shifts = []
    for dx, dy in ((1, 0), (0, 1)):
        before, centre, after = score(-dx, -dy), score(0, 0), score(dx, dy)
        curvature = before - 2 * centre + after
        usable = curvature.isfinite() & (curvature < 0)
        shift = (before - after) / (2 * torch.where(usable, curvature, -1.0))
        shifts.append(torch.where(usable, shift, 0.0).clamp(-0.5, 0.5))
    return place + torch.stack(shifts, dim=-1)


def search_windows(
    truth: Tensor, h: int, w: int, size: int, rng: torch.Generator
) -> Tensor:
    """Mask ``(Q, h, w)`` of a size × size window, the truth at a random place in it.

    Windows are moved inside the map, and are smaller only where the map is.
    """
    masks = []
    for axis, length in ((0, w), (1, h)):
        place = torch.rand(len(truth), generator=rng) * (size - 1)
        start = (truth[:, axis].cpu() - place).round().clamp(0, max(length - size, 0))
        index = torch.arange(length)
        masks.append((index >= start[:, None]) & (index < start[:, None] + size))
    return masks[1][:, :, None] & masks[0][:, None, :]


def measure_pair(
    features_rgb: Tensor,
    features_ir: Tensor,
    queries: Queries,
    protocol: Protocol,
    index: int,
) -> dict[str, np.ndarray]:
    """Measure one pair's features ``(1, D, h, w)``; one value per query."""
    unit = protocol.downscale * protocol.stride  # full-resolution pixels per cell
    _, _, h, w = features_ir.shape
    device = features_ir.device
    truth = queries.points_ir.to(device) / protocol.stride
    points = queries.points_rgb[None].to(device)
    anchors = sample_at(features_rgb, points, protocol.stride)
    scores = F.normalize(anchors[0], dim=1) @ features_ir[0].flatten(1)

    axes = torch.arange(w, device=device), torch.arange(h, device=device)
    cells = torch.stack(torch.meshgrid(*axes, indexing="xy"), dim=-1).view(1, -1, 2)
    distance = unit * (cells - truth[:, None]).norm(dim=-1)
    hit = distance <= protocol.tolerance
    ranked = hit.gather(1, scores.topk(min(5, h * w), dim=1).indices)

    rng = torch.Generator().manual_seed(1_000_003 * protocol.seed + index + 500_009)
    window = search_windows(truth, h, w, protocol.window, rng).to(device)
    found = peak(scores.view(-1, h, w).masked_fill(~window, -torch.inf))
    error = unit * (found - truth).norm(dim=-1)
    measured = {
        "top1": ranked[:, 0],
        "top5": ranked.any(1),
        "error": error,
        "within": error <= protocol.tolerance,
        "chance_top1": hit.float().mean(1),
        "chance_within": (hit & window.flatten(1)).sum(1) / window.sum((1, 2)),
    }
    return {name: value.double().cpu().numpy() for name, value in measured.items()}


def summarise(per_pair: Sequence[dict[str, np.ndarray]]) -> dict[str, list[float]]:
    """Reduce each pair to one number per metric: means, and the median error."""
    reduce = dict.fromkeys(per_pair[0], np.mean) | {"error": np.median}
    return {
        name: [float(how(measured[name])) for measured in per_pair]
        for name, how in reduce.items()
    }


@torch.no_grad()
def evaluate(
    embed: Embed, pairs: Sequence[Pair], protocol: Protocol
) -> dict[str, list[float]]:
    """Measure every pair; lists with one entry per pair, in the pairs' order.

    ``top1``, ``top5``, ``within`` (localised within the tolerance) and their
    ``chance_`` values are shares of the queries, ``error`` the median localisation
    error in full-resolution pixels. A pair without any textured cell is left out.
    """
    measured = []
    for index, pair in enumerate(pairs):
        queries = prepare_pair(pair, protocol, index)
        if len(queries.points_rgb):
            features = embed(queries.rgb), embed(queries.ir)
            measured.append(measure_pair(*features, queries, protocol, index))
    return summarise(measured)


@torch.no_grad()
def query_maps(embed: Embed, pairs: Sequence[Pair], protocol: Protocol) -> list[Tensor]:
    """Return, per pair, the similarity of its first query with all infrared cells."""
    maps = []
    for index, pair in enumerate(pairs):
        queries = prepare_pair(pair, protocol, index)
        features_rgb, features_ir = embed(queries.rgb), embed(queries.ir)
        point = queries.points_rgb[None, :1].to(features_rgb.device)
        anchor = sample_at(features_rgb, point, protocol.stride)[0, 0]
        anchor = F.normalize(anchor, dim=0)
        maps.append(torch.tensordot(anchor, features_ir[0], 1).cpu())
    return maps
