"""What needs no training: SIFT and its upright kin, ORB, HOG, patches of intensity.

Detectors find their own keypoints; what describes any place (`dense`) is read at
corners, the same for all. Descriptors have unit length, so that the distance of two is
that of their directions.
"""

from collections.abc import Callable

import cv2
import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from .evaluate import Describe, Described, Queries, Search, by_features
from .images import luma
from .patches import sample_at
from .registration import Keypoints, Method

__all__ = ["MATCHERS", "SEARCHES", "at_corners", "corners"]

COUNT = 4096  # keypoints per image, at most


def to_grey(image: np.ndarray) -> np.ndarray:
    """Return (H, W) uint8."""
    return cv2.cvtColor(image, cv2.COLOR_RGB2GRAY) if image.ndim == 3 else image


def corners(image: np.ndarray, mask: np.ndarray) -> np.ndarray:
    """Return the strongest corners (K, 2)."""
    found = cv2.goodFeaturesToTrack(to_grey(image), COUNT, 1e-4, 2, mask=mask)
    return np.zeros((0, 2)) if found is None else found[:, 0].astype(np.float64)


def unit(rows: np.ndarray) -> np.ndarray:
    """Give rows unit length."""
    norms = np.linalg.norm(rows, axis=1, keepdims=True)
    return (rows / np.maximum(norms, 1e-12)).astype(np.float32)


def sift(*, folded: bool = False, upright: bool = False) -> Method:
    """Return SIFT.

    Args:
        folded: Opposite directions of the gradient count as one: across modalities,
            what is brighter than its surroundings may be darker.
        upright: All keypoints have the orientation 0.
    """
    detector = cv2.SIFT_create(nfeatures=COUNT, contrastThreshold=0.005)

    def method(image: np.ndarray, mask: np.ndarray, is_rgb: bool) -> Keypoints:
        del is_rgb
        grey = to_grey(image)
        found = detector.detect(grey, mask)
        found = sorted(found, key=lambda point: -point.response)[:COUNT]
        turns = 0.0 if upright else 180.0 if folded else 360.0
        for point in found:
            point.angle = point.angle % turns if turns else 0.0
        # Several orientations of one place may now be one.
        found = list({(p.pt, p.size, p.angle): p for p in found}.values())
        found, rows = detector.compute(grey, found)
        if rows is None:
            return Keypoints(np.zeros((0, 2)), np.zeros((0, 128), np.float32))
        if folded:
            # 4 × 4 cells of 8 directions: add the opposite ones.
            cells = rows.reshape(-1, 16, 8)
            rows = (cells[..., :4] + cells[..., 4:]).reshape(len(rows), -1)
        return Keypoints(np.array([p.pt for p in found]), unit(rows))

    return method


def orb(image: np.ndarray, mask: np.ndarray, is_rgb: bool) -> Keypoints:
    """Describe by ORB."""
    del is_rgb
    found, rows = cv2.ORB_create(COUNT).detectAndCompute(to_grey(image), mask)
    if rows is None:
        return Keypoints(np.zeros((0, 2)), np.zeros((0, 32), np.uint8))
    return Keypoints(np.array([point.pt for point in found]), rows)


# Dense descriptors: from images (1, 1 | 3, H, W) in [0, 1] to unit features
# (1, D, h, w), one cell for every CELL × CELL pixels.
CELL = 8
AROUND = 5  # cells along the side of what a descriptor sees


def around(cells: Tensor) -> Tensor:
    """Put the AROUND × AROUND cells about each into one centred unit vector."""
    pad = AROUND // 2
    framed = F.pad(cells, (pad, pad, pad, pad), mode="replicate")
    rows = F.unfold(framed, AROUND)
    rows = rows - rows.mean(1, keepdim=True)
    return F.normalize(rows, dim=1).view(1, -1, *cells.shape[-2:])


def gradients(image: Tensor) -> tuple[Tensor, Tensor]:
    """Return central differences along x and y."""
    framed = F.pad(luma(image), (1, 1, 1, 1), mode="replicate")
    dx = (framed[..., 1:-1, 2:] - framed[..., 1:-1, :-2]) / 2
    dy = (framed[..., 2:, 1:-1] - framed[..., :-2, 1:-1]) / 2
    return dx, dy


def raw(image: Tensor) -> Tensor:
    """Mean intensities: their product is the normalised correlation."""
    return around(F.avg_pool2d(luma(image), CELL))


def gradient(image: Tensor) -> Tensor:
    """Mean magnitudes of the gradient."""
    dx, dy = gradients(image)
    return around(F.avg_pool2d((dx**2 + dy**2).sqrt(), CELL))


def hog(image: Tensor, bins: int = 9) -> Tensor:
    """Histograms of the gradient's direction, opposite directions as one."""
    dx, dy = gradients(image)
    magnitude = (dx**2 + dy**2).sqrt()
    turn = torch.atan2(dy, dx).remainder(torch.pi) / torch.pi * bins
    low = turn.floor()
    share = turn - low
    first = (low.long() % bins)[:, 0]
    planes = magnitude.new_zeros(1, bins, *magnitude.shape[-2:])
    planes.scatter_add_(1, first[:, None], magnitude * (1 - share))
    planes.scatter_add_(1, (first[:, None] + 1) % bins, magnitude * share)
    cells = F.avg_pool2d(planes, CELL)
    return around(F.normalize(cells, dim=1))


def by_cells(describe: Callable[[Tensor], Tensor]) -> Describe:
    """Say where the cells of a dense descriptor lie."""

    def cells(image: Tensor, is_rgb: bool) -> Described:
        del is_rgb
        return Described(describe(image), CELL, (CELL - 1) / 2)

    return cells


def mutual_information(queries: Queries, bins: int = 8, size: int = 11) -> Described:
    """Search by the mutual information of intensities about two places.

    Intensities of both images are averaged to a quarter of the resolution and ranked
    into `bins` equal shares; `size`² of them count.
    """
    shrink, pad = 4, size // 2
    ranked = []
    for image in (queries.rgb, queries.ir):
        small = F.avg_pool2d(luma(image), shrink)
        edges = small.flatten().quantile(torch.linspace(0, 1, bins + 1)[1:-1])
        ranked.append(F.one_hot(torch.bucketize(small[0, 0], edges), bins).float())
    rgb, ir = (image.permute(2, 0, 1)[:, None] for image in ranked)  # (bins, 1, h, w)
    first, h = (shrink - 1) / 2, ir.shape[-2]
    step = torch.arange(-pad, pad + 1.0)
    around = torch.stack(torch.meshgrid(step, step, indexing="xy"), -1).view(-1, 2)
    centres = ((queries.points_rgb - first) / shrink).round()
    places = (centres[:, None] + around).view(1, -1, 2).expand(bins, -1, -1)
    seen = sample_at(rgb, places).view(bins, len(centres), -1)  # (bins, Q, size²)

    def entropy(counts: Tensor, dim: int) -> Tensor:
        return -torch.special.xlogy(counts, counts).sum(dim)  # of shares: −Σ p log p

    framed = F.pad(ir, (pad, pad, pad, pad), mode="replicate")
    there = F.unfold(framed, size, stride=2) / size**2  # (bins, size², cells)
    joint = torch.einsum("iqp,jpc->qijc", seen, there)
    apart = entropy(joint.sum(2), 1) + entropy(joint.sum(1), 1)
    scores = apart - entropy(joint.flatten(1, 2), 1)
    return Described(scores.view(1, len(centres), -(-h // 2), -1), 2 * shrink, first)


DENSE: dict[str, Describe] = {
    "raw correlation": by_cells(raw),
    "gradient correlation": by_cells(gradient),
    "HOG": by_cells(hog),
}


SEARCHES: dict[str, Search] = {
    **{name: by_features(describe) for name, describe in DENSE.items()},
    "mutual information": mutual_information,
}


@torch.no_grad()
def at_corners(describe: Describe) -> Method:
    """Return a method that reads features at corners, the same for all."""

    def method(image: np.ndarray, mask: np.ndarray, is_rgb: bool) -> Keypoints:
        points = corners(image, mask)
        tensor = torch.from_numpy(np.atleast_3d(image)).permute(2, 0, 1)
        dense = describe(tensor[None].float() / 255, is_rgb)
        rows = dense.at(torch.from_numpy(points)).cpu().numpy()
        return Keypoints(points, rows, dense)

    return method


MATCHERS: dict[str, Method] = {
    "SIFT": sift(),
    "SIFT, folded": sift(folded=True),
    "SIFT, folded and upright": sift(folded=True, upright=True),
    "ORB": orb,
    **{name: at_corners(describe) for name, describe in DENSE.items()},
}
