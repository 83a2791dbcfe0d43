"""Register once more: search where a first homography points.

A corner of one image and the corner of the other that matches it are seldom the same
point, and features that see far hardly tell close corners apart. Dense features need no
corner in the other image: they are compared around the place where the homography puts
a corner of the source, the peak of the similarity is read between cells, and the
homography is estimated again from all peaks.
"""

import numpy as np
import torch

from .evaluate import peak
from .registration import Keypoints, Matches, estimate, masks
from .warps import Case, project

__all__ = ["search_again"]

REACH, PITCH = 3, 4.0  # steps on every side of a place, and pixels of one
ROUNDS = 2
THRESHOLD = 3.0  # of MAGSAC, pixels


def search_again(
    case: Case, source: Keypoints, target: Keypoints, homography: np.ndarray
) -> tuple[np.ndarray, float]:
    """Return a better homography, and the share of inliers.

    Where a round finds nothing to estimate from, the homography stays.
    """
    assert target.dense is not None
    along = PITCH * torch.arange(-REACH, REACH + 1, dtype=torch.float64)
    around = torch.stack(torch.meshgrid(along, along, indexing="xy"), -1)
    _, mask = masks(case)
    inliers = 0.0
    for _ in range(ROUNDS):
        expected = project(homography, source.points)
        rows = np.flatnonzero(shown(expected, mask))
        places = torch.from_numpy(expected[rows])[:, None, None] + around
        near = target.dense.at(places.flatten(0, 2)).unflatten(0, places.shape[:3])
        wanted = torch.from_numpy(source.descriptors[rows]).to(near)
        found = peak(torch.einsum("pd,phwd->phw", wanted, near)).double().cpu()
        # At the edge it may be the flank of a peak beyond.
        inside = ((found > 0) & (found < 2 * REACH)).all(1).numpy()
        moved = expected[rows] + PITCH * (found - REACH).numpy()
        matches = Matches(source.points[rows][inside], moved[inside])
        better, share = estimate(matches, "MAGSAC", THRESHOLD)
        if better is None:
            break
        homography, inliers = better, share
    return homography, inliers


def shown(points: np.ndarray, mask: np.ndarray) -> np.ndarray:
    """Return which points (K, 2) lie where a mask is set."""
    height, width = mask.shape
    whole = np.nan_to_num(points, nan=-1).round().clip(-1, max(mask.shape))
    x, y = whole.astype(int).T
    inside = (x >= 0) & (y >= 0) & (x < width) & (y < height)
    inside[inside] &= mask[y[inside], x[inside]] > 0
    return inside
