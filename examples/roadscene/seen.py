"""What the network makes of a pair: similarities, colours, matches, a profile."""

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor

from .baselines import corners
from .evaluate import Describe, Described, Queries
from .registration import Keypoints, match, seen_by
from .warps import Case, project

__all__ = ["Colours", "View", "aligned_case", "pixels", "profile"]


def pixels(image: Tensor) -> np.ndarray:
    """Return (1, 3 | 1, H, W) in [0, 1] as (H, W, 3) or (H, W), uint8."""
    array = (255 * image[0]).round().byte().permute(1, 2, 0).numpy()
    return array[..., 0] if array.shape[2] == 1 else array


def aligned_case(name: str, queries: Queries) -> Case:
    """State the offset of a pair as a homography, to match it as others are."""
    source, target = pixels(queries.rgb), pixels(queries.ir)
    dy, dx = (a - b for a, b in zip(source.shape, target.shape, strict=False))
    return Case(
        name=name,
        source=source,
        target=target,
        source_is_rgb=True,
        truth=np.array([[1, 0, -dx], [0, 1, -dy], [0, 0, 1]], float),
        valid=np.full(target.shape, 255, np.uint8),
        landmarks=None,
    )


class View(NamedTuple):
    """The features of both halves of a pair."""

    rgb: Described
    ir: Described

    @classmethod
    def of(cls, describe: Describe, rgb: Tensor, ir: Tensor) -> "View":
        """Describe images (1, 3, H, W) and (1, 1, H', W')."""
        return cls(describe(rgb, True), describe(ir, False))

    def thinned(self, pitch: float) -> "View":
        """Leave out cells, so that those that stay are at most `pitch` pixels apart."""
        return View(*(one.thinned(pitch) for one in self))

    @property
    def cells(self) -> int:
        """How many there are in both maps."""
        return sum(one.maps[0, 0].numel() for one in self)

    def scores(self, points: Tensor) -> Tensor:
        """Similarities of visible places (Q, 2) with all infrared cells, (Q, h, w)."""
        anchors = self.rgb.at(points)
        return torch.einsum("qd,dhw->qhw", anchors, self.ir.maps[0]).cpu()

    def matches(self, case: Case) -> np.ndarray:
        """Match the corners of both images of the pair this is a view of.

        Returns:
            Rows of x, y, matched x, y, and how many pixels that is from the truth.
        """

        def read(image: np.ndarray, mask: np.ndarray, is_rgb: bool) -> Keypoints:
            points = corners(image, mask)
            rows = (self.rgb if is_rgb else self.ir).at(torch.from_numpy(points))
            return Keypoints(points, rows.cpu().numpy())

        found = match(*seen_by(read, case))
        off = project(case.truth, found.source) - found.target
        distance = np.linalg.norm(off, axis=1)
        return np.column_stack([found.source, found.target, distance])


class Colours(NamedTuple):
    """Three principal components as red, green and blue."""

    mean: Tensor  # (D,)
    axes: Tensor  # (D, 3)
    low: Tensor  # (3,), black
    high: Tensor  # (3,), full

    @classmethod
    def fit(cls, views: Sequence[View]) -> "Colours":
        """Fit to both modalities together: a gap between them stays visible."""
        maps = [one.maps[0].flatten(1).T for view in views for one in view]
        rows = torch.cat(maps).double().cpu()
        mean = rows.mean(0)
        rows = rows - mean
        axes = torch.linalg.eigh(rows.T @ rows).eigenvectors.flip(1)[:, :3]
        # quantile() takes no more than 2²⁴ values.
        levels = rows[:: -(-len(rows) // 100_000)] @ axes
        return cls(mean, axes, levels.quantile(0.02, 0), levels.quantile(0.98, 0))

    def paint(self, features: Described) -> np.ndarray:
        """Return (h, w, 3), uint8."""
        rows = features.maps[0].permute(1, 2, 0).double().cpu()
        levels = ((rows - self.mean) @ self.axes - self.low) / (self.high - self.low)
        return (255 * levels.clamp(0, 1)).round().byte().numpy()


def profile(
    scores: Sequence[Tensor], truths: Sequence[Tensor], pitch: float, reach: float
) -> dict[str, list[float | None]]:
    """Return quartiles, over queries, of similarity against distance to the truth.

    Args:
        scores: Per pair, (Q, h, w).
        truths: Per pair, (Q, 2), in cells.
        pitch: Pixels between cells, and the width of a ring.
        reach: Pixels up to which it goes.

    Returns:
        ``distance`` in pixels, and ``low``, ``middle``, ``high``; None where no query
        has a cell.
    """
    rings = int(reach / pitch) + 1
    means = []
    for maps, truth in zip(scores, truths, strict=True):
        _, h, w = maps.shape
        x, y = torch.arange(w) - truth[:, :1], torch.arange(h) - truth[:, 1:]
        ring = torch.hypot(x[:, None, :], y[:, :, None]).round()
        inside = [(ring == one).flatten(1) for one in range(rings)]
        values = maps.flatten(1)
        means.append(
            torch.stack([(values * one).sum(1) / one.sum(1) for one in inside], dim=1)
        )
    shares = torch.tensor([0.25, 0.5, 0.75])
    quartiles = torch.cat(means).nanquantile(shares, dim=0)
    low, middle, high = (
        [value if np.isfinite(value) else None for value in row]
        for row in quartiles.tolist()
    )
    distance = [pitch * one for one in range(rings)]
    return {"distance": distance, "low": low, "middle": middle, "high": high}
