"""How well features find a visible place in the infrared image.

Query points are places of the visible image with texture in both modalities. The
infrared image is cropped by a random offset of 0 to 27 pixels per axis first, so that
the answer is neither "the same place" nor "the same phase of the windows".

- Retrieval: all cells of the infrared image are candidates. Top-k is the share of
  queries with one of the k most similar cells within `tolerance` of the truth.
- Localisation: the peak of the similarity map, refined between cells by a parabola,
  in a search window that holds the truth at a random place. The error is its distance
  to the truth.
- The peak itself, in the same window: its height; the peak-to-sidelobe ratio, how many
  standard deviations it stands above the rest of the window; its width at half of its
  height above the median.

Everything is in pixels of the full-resolution images, whatever the resolution of the
features. Every draw comes from the seed and the pair's place in the list: two calls
return the same numbers, and all methods are asked the same.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from .data import DataError, Pair
from .images import luma
from .patches import local_contrast, sample_at

__all__ = [
    "Describe",
    "Described",
    "Protocol",
    "Queries",
    "Search",
    "by_features",
    "evaluate",
    "measure_pair",
    "peak",
    "prepare_pair",
    "query_maps",
    "summarise",
]


class Described(NamedTuple):
    """A map of features; cell (i, j) lies on pixel first + pitch·(i, j)."""

    maps: Tensor  # (1, D, h, w), of unit length along D
    pitch: float
    first: float

    def at(self, points: Tensor) -> Tensor:
        """Read unit features at points (P, 2) in pixels → (P, D)."""
        cells = (points.to(self.maps) - self.first) / self.pitch
        return F.normalize(sample_at(self.maps, cells[None])[0], dim=1)

    def thinned(self, pitch: float) -> "Described":
        """Leave out cells, so that those that stay are at most `pitch` pixels apart."""
        every = max(int(pitch / self.pitch), 1)
        maps = self.maps[:, :, ::every, ::every]
        return Described(maps, every * self.pitch, self.first)


# From an image (1, 3 | 1, H, W) in [0, 1], and whether it is the visible one.
Describe = Callable[[Tensor, bool], Described]
# From Q queries to the similarities (1, Q, h, w) of all places of the infrared image.
Search = Callable[["Queries"], Described]


@dataclass(frozen=True)
class Protocol:
    """What is measured; lengths in pixels."""

    seed: int = 0
    queries: int = 128  # per pair
    spacing: int = 8  # of the grid of places that are asked for
    tolerance: float = 8.0
    window: int = 112  # side of the search window
    max_offset: int = 27
    lobe: float = 12.0  # what is nearer to the peak than this belongs to it


class Queries(NamedTuple):
    """What one pair asks: both images and where the answers lie."""

    rgb: Tensor  # (1, 3, H, W)
    ir: Tensor  # (1, 1, H', W'), cropped by the offset
    points_rgb: Tensor  # (Q, 2), pixels, (x, y)
    points_ir: Tensor  # (Q, 2), the same places in `ir`


def texture(image: Tensor, protocol: Protocol) -> Tensor:
    """Mean gradient energy about the places of the grid, (h, w)."""
    small = local_contrast(F.avg_pool2d(image, protocol.spacing // 2))
    dy = F.pad(small.diff(dim=-2), (0, 0, 0, 1))
    dx = F.pad(small.diff(dim=-1), (0, 1))
    energy = F.avg_pool2d(dx**2 + dy**2, 5, 1, 2, count_include_pad=False)
    return F.avg_pool2d(energy, 2)[0, 0]


def prepare_pair(pair: Pair, protocol: Protocol, index: int) -> Queries:
    """Choose offset and query points of the `index`-th pair, most textured first."""
    rng = torch.Generator().manual_seed(1_000_003 * protocol.seed + index)
    dx, dy = torch.randint(0, protocol.max_offset + 1, (2,), generator=rng).tolist()
    grey = luma(pair.rgb[None])

    # Places whose texture is above the image's median in both modalities.
    energy = [texture(image, protocol) for image in (grey, pair.ir[None])]
    good = (energy[0] > energy[0].median()) & (energy[1] > energy[1].median())
    margin = -(-protocol.max_offset // protocol.spacing) + 1
    keep = torch.zeros_like(good)
    keep[margin:-margin, margin:-margin] = True
    cells = (good & keep).nonzero()
    cells = cells[torch.randperm(len(cells), generator=rng)[: protocol.queries]]
    strength = (energy[0] * energy[1])[cells[:, 0], cells[:, 1]]
    cells = cells[strength.argsort(descending=True, stable=True)]
    points = protocol.spacing * (cells.flip(1) + 0.5) - 0.5
    ir = pair.ir[None, :, dy:, dx:]
    return Queries(pair.rgb[None], ir, points, points - torch.tensor([dx, dy]))


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


def half_widths(profiles: Tensor, start: Tensor, level: Tensor) -> Tensor:
    """How far from `start` each profile ``(Q, n)`` first falls to its `level`.

    In cells, along growing index, linear between two; NaN where it never does.
    """
    index = torch.arange(profiles.shape[1], device=profiles.device)
    beyond = index > start[:, None]
    below = beyond & (profiles < level[:, None])
    last = below.int().argmax(1)  # the first below; 0 where there is none
    value = profiles.gather(1, last[:, None])[:, 0]
    before = profiles.gather(1, (last - 1).clamp(min=0)[:, None])[:, 0]
    crossing = last - 1 + (before - level) / (before - value)
    usable = below.any(1) & value.isfinite()
    return torch.where(usable, crossing - start, torch.nan)


def peak_shape(scores: Tensor, protocol: Protocol, pitch: float) -> dict[str, Tensor]:
    """Height, sidelobe ratio and width (pixels) of the peaks of maps ``(Q, h, w)``.

    Cells outside the search windows are −∞.
    """
    q, h, w = scores.shape
    flat = scores.flatten(1)
    height, best = flat.max(1)
    x, y = best % w, best // w
    across = torch.arange(w, device=scores.device) - x[:, None]
    down = torch.arange(h, device=scores.device) - y[:, None]
    far = (across[:, None, :] ** 2 + down[:, :, None] ** 2) * pitch**2 > (
        protocol.lobe**2
    )
    rest = torch.where(far.flatten(1) & flat.isfinite(), flat, torch.nan)
    mean = rest.nanmean(1)
    deviation = (rest - mean[:, None]).square().nanmean(1).sqrt()
    middle = rest.nanmedian(1).values
    level = (height + middle) / 2
    rows = torch.arange(q, device=scores.device)
    row, column = scores[rows, y], scores[rows, :, x]
    widths = [
        half_widths(profile, place, level)
        + half_widths(profile.flip(1), profile.shape[1] - 1 - place, level)
        for profile, place in ((row, x), (column, y))
    ]
    return {
        "height": height,
        "sidelobe_ratio": (height - mean) / deviation,
        "width": pitch * (widths[0] * widths[1]).sqrt(),
    }


def by_features(describe: Describe) -> Search:
    """Return the search by the product of unit features."""

    def search(queries: Queries) -> Described:
        anchors = describe(queries.rgb, True).at(queries.points_rgb)
        ir = describe(queries.ir, False)
        scores = torch.einsum("qd,bdhw->bqhw", anchors, ir.maps)
        return Described(scores, ir.pitch, ir.first)

    return search


def measure_pair(
    found: Described, queries: Queries, protocol: Protocol, index: int
) -> dict[str, np.ndarray]:
    """Measure one pair's similarities; one value per query."""
    *_, h, w = found.maps.shape
    device, pitch = found.maps.device, found.pitch
    truth = (queries.points_ir.to(device) - found.first) / pitch
    scores = found.maps[0].flatten(1)

    axes = torch.arange(w, device=device), torch.arange(h, device=device)
    cells = torch.stack(torch.meshgrid(*axes, indexing="xy"), dim=-1).view(1, -1, 2)
    distance = pitch * (cells - truth[:, None]).norm(dim=-1)
    hit = distance <= protocol.tolerance
    ranked = scores.topk(min(5, h * w), dim=1).indices
    hits = hit.gather(1, ranked)
    anywhere = distance.gather(1, ranked[:, :1])[:, 0]

    rng = torch.Generator().manual_seed(1_000_003 * protocol.seed + index + 500_009)
    size = round(protocol.window / pitch)
    window = search_windows(truth, h, w, size, rng).to(device)
    scores = scores.view(-1, h, w).masked_fill(~window, -torch.inf)
    error = pitch * (peak(scores) - truth).norm(dim=-1)
    measured = {
        "top1": hits[:, 0],
        "top5": hits.any(1),
        "anywhere": anywhere,
        "error": error,
        "within": error <= protocol.tolerance,
        "chance_top1": hit.float().mean(1),
        "chance_within": (hit & window.flatten(1)).sum(1) / window.sum((1, 2)),
        **peak_shape(scores, protocol, pitch),
    }
    return {name: value.double().cpu().numpy() for name, value in measured.items()}


MEDIANS = ("anywhere", "error", "width")  # a few are far off, or not defined


def summarise(per_pair: Sequence[dict[str, np.ndarray]]) -> dict[str, list[float]]:
    """Reduce each pair to one number per metric: means, and medians of lengths.

    NaN where a pair has none.
    """
    out: dict[str, list[float]] = {}
    for measured in per_pair:
        for name, values in measured.items():
            values = values[np.isfinite(values)]
            reduce = np.median if name in MEDIANS else np.mean
            value = float(reduce(values)) if len(values) else np.nan
            out.setdefault(name, []).append(value)
    return out


@torch.no_grad()
def evaluate(
    search: Search, pairs: Sequence[Pair], protocol: Protocol
) -> dict[str, list[float]]:
    """Return one number per metric and pair; pairs without queries are left out.

    Raises:
        DataError: If no pair has one.
    """
    measured = []
    for index, pair in enumerate(pairs):
        queries = prepare_pair(pair, protocol, index)
        if len(queries.points_rgb):
            measured.append(measure_pair(search(queries), queries, protocol, index))
    if not measured:
        raise DataError(
            f"None of {len(pairs)} pairs (the first is {pairs[0].name}) has places "
            "with texture in both images: nothing can be measured."
        )
    return summarise(measured)


@torch.no_grad()
def query_maps(
    search: Search, pairs: Sequence[Pair], protocol: Protocol
) -> list[Described]:
    """Return the similarities (1, 1, h, w) of each pair's first query."""
    maps = []
    for index, pair in enumerate(pairs):
        queries = prepare_pair(pair, protocol, index)
        one = queries._replace(
            points_rgb=queries.points_rgb[:1], points_ir=queries.points_ir[:1]
        )
        found = search(one)
        maps.append(found._replace(maps=found.maps.cpu()))
    return maps
