"""What a homography found from features does to a pair that was taken apart.

Both images are laid into one frame, in alternating tiles: where the homography is
right, edges go on from one tile to the next. Beside the tiles, the frame of the source
where it belongs and where the homography puts it.
"""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import NamedTuple

import cv2
import matplotlib as mpl
import numpy as np

from .figures import STYLE, new_figure
from .registration import FAILED, Method, estimate, match, seen_by
from .warps import Case, project

__all__ = ["Registered", "checkerboard", "register_case", "registration_figure"]

TILE = 40  # pixels
MARGIN = 0.14  # of the sides: the frame may be outside the image
TRUE, FOUND = (255, 255, 255), (230, 159, 0)


class Registered(NamedTuple):
    """What was estimated for a case, and how far its corners are off."""

    homography: np.ndarray | None  # (3, 3), from the source to the target
    error: float  # pixels, mean over the four corners; a million without one

    @property
    def label(self) -> str:
        """The error in words."""
        if self.error >= 1000:
            return "failed"
        return f"corners {self.error:.1f} px off"


def register_case(
    case: Case, method: Method, *, estimator: str = "RANSAC", threshold: float = 10.0
) -> Registered:
    """Match, estimate, and compare with the truth."""
    found, _ = estimate(match(*seen_by(method, case)), estimator, threshold)
    if found is None:
        return Registered(None, FAILED)
    off = project(found, case.corners) - project(case.truth, case.corners)
    error = float(np.linalg.norm(off, axis=1).mean())
    return Registered(found, min(error, FAILED) if np.isfinite(error) else FAILED)


def checkerboard(case: Case, homography: np.ndarray | None) -> np.ndarray:
    """Draw both images in tiles (H, W, 3), in the frame of the target.

    Without a homography, only the target and where the source belongs.
    """
    height, width = case.target.shape[:2]
    dx, dy = round(MARGIN * width), round(MARGIN * height)
    move = np.array([[1, 0, dx], [0, 1, dy], [0, 0, 1]], float)
    size = width + 2 * dx, height + 2 * dy

    def colour(image: np.ndarray) -> np.ndarray:
        return cv2.cvtColor(image, cv2.COLOR_GRAY2RGB) if image.ndim == 2 else image

    def frame(corners: np.ndarray, rgb: tuple[int, ...], wide: int) -> None:
        # Far-off corners would not fit the integers that lines are drawn with.
        points = np.clip(corners, -1e4, 1e4).round().astype(np.int32)
        cv2.polylines(drawn, [points], True, rgb, wide, cv2.LINE_AA)

    drawn = cv2.warpPerspective(colour(case.target), move, size)
    if homography is not None:
        there = move @ homography
        source = cv2.warpPerspective(colour(case.source), there, size)
        covered = cv2.warpPerspective(
            np.full(case.source.shape[:2], 255, np.uint8), there, size
        )
        y, x = np.ogrid[: size[1], : size[0]]
        odd = (x // TILE + y // TILE) % 2 == 1
        drawn = np.where((odd & (covered == 255))[..., None], source, drawn)
    frame(project(move @ case.truth, case.corners), TRUE, 2)
    if homography is not None:
        frame(project(move @ homography, case.corners), FOUND, 2)
    return drawn


def registration_figure(
    path: Path, cases: Sequence[Case], methods: Mapping[str, Method]
) -> None:
    """Draw the cases below each other, one column per method.

    Args:
        path: File to write.
        cases: Pairs taken apart by a known homography.
        methods: By title, what finds and describes keypoints.
    """
    with mpl.rc_context(STYLE):
        figure = new_figure(4.2 * len(methods), 0.3 + 2.7 * len(cases))
        grid = figure.subplots(len(cases), len(methods), squeeze=False)
        for row, case in zip(grid, cases, strict=True):
            for axis, (title, method) in zip(row, methods.items(), strict=True):
                result = register_case(case, method)
                axis.imshow(checkerboard(case, result.homography))
                axis.set_title(f"{title}: {result.label}", fontsize=8)
                axis.set(xticks=[], yticks=[])
                axis.spines[:].set_visible(False)
            row[0].set_ylabel(case.name.removeprefix("FLIR_"), color="0.4")
        figure.savefig(path)
