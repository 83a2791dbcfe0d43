"""Pairs taken apart by a known homography, to be registered again.

Three sources. `redfeat_cases` reads the stored homographies and hand-clicked landmarks
of ReDFeat's benchmark (github.com/ACuOoOoO/Multimodal_Feature_Evaluation, folder
VIS_IR), the public protocol for RoadScene: which image is warped, and how, is in its
files. `mmim_cases` reads the unaligned pairs of another place and other cameras.
`random_cases` draws homographies for any aligned pairs.

Points are (x, y) in pixels of the full-resolution images, pixel centres on whole
numbers.
"""

import io
import zipfile
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path
from typing import NamedTuple

import cv2
import numpy as np
from scipy.io import loadmat

from .data import DataError, Pair

__all__ = ["Case", "mmim_cases", "project", "random_cases", "redfeat_cases"]

LANDMARKS = 5  # fewer say too little


class Case(NamedTuple):
    """One pair to register: `source` is as it was, `target` was warped by `truth`."""

    name: str
    source: np.ndarray  # (H, W) or (H, W, 3), uint8
    target: np.ndarray  # the other modality
    source_is_rgb: bool
    truth: np.ndarray  # (3, 3), from pixels of the source to pixels of the target
    valid: np.ndarray  # (H, W) uint8, 255 where the target shows the scene
    landmarks: tuple[np.ndarray, np.ndarray] | None  # (K, 2) in source and target

    @property
    def corners(self) -> np.ndarray:
        """The source's corners, (4, 2)."""
        h, w = self.source.shape[:2]
        return np.array([[0, 0], [w - 1, 0], [w - 1, h - 1], [0, h - 1]], float)


def project(homography: np.ndarray, points: np.ndarray) -> np.ndarray:
    """Map points (K, 2)."""
    if not len(points):
        return points
    points = np.asarray(points, np.float64).reshape(-1, 1, 2)
    return cv2.perspectiveTransform(points, homography.astype(np.float64))[:, 0]


def case_of(
    pair: Pair,
    homography: np.ndarray,
    *,
    warp_rgb: bool,
    landmarks: tuple[np.ndarray, np.ndarray] | None = None,
) -> Case:
    """Warp one half of a pair; `landmarks` are points of the visible and infrared."""
    rgb, ir = (
        (255 * image).round().byte().permute(1, 2, 0).numpy()
        for image in (pair.rgb, pair.ir)
    )
    ir = ir[..., 0]
    source, target = (ir, rgb) if warp_rgb else (rgb, ir)
    height, width = target.shape[:2]
    target = cv2.warpPerspective(target, homography, (width, height))
    whole = np.full((height, width), 255, np.uint8)
    valid = cv2.warpPerspective(whole, homography, (width, height))
    if landmarks is not None:
        of_source, of_target = landmarks[::-1] if warp_rgb else landmarks
        landmarks = of_source, project(homography, of_target)
    return Case(
        name=pair.name,
        source=source,
        target=target,
        source_is_rgb=not warp_rgb,
        truth=homography,
        valid=valid,
        landmarks=landmarks,
    )


def redfeat_cases(
    folder: str | Path, read: Callable[[str], Pair], names: Iterable[str]
) -> list[Case]:
    """Read the benchmark's cases of the named pairs, in the order of its list.

    Args:
        folder: Its VIS_IR folder: test.txt, transforms.zip and landmarks.zip.
        read: Returns a pair by name, in full resolution.
        names: The pairs that are wanted.

    Raises:
        DataError: If a file is missing, or one of the pairs has no homography.
    """
    folder, wanted = Path(folder), set(names)
    for name in ("test.txt", "transforms.zip", "landmarks.zip"):
        if not (folder / name).is_file():
            raise DataError(
                f"{folder / name} does not exist. It is a file of VIS_IR in "
                "github.com/ACuOoOoO/Multimodal_Feature_Evaluation."
            )
    listed = (folder / "test.txt").read_text("utf-8").split()
    cases = []
    with (
        zipfile.ZipFile(folder / "transforms.zip") as transforms,
        zipfile.ZipFile(folder / "landmarks.zip") as landmarks,
    ):

        def stored(archive: zipfile.ZipFile, name: str) -> dict[str, np.ndarray] | None:
            if name not in archive.namelist():
                return None
            return loadmat(io.BytesIO(archive.read(name)))

        for number, file in enumerate(listed, 1):
            name = Path(file).stem
            if name not in wanted:
                continue
            # 21: the infrared image is warped; 12: the visible one.
            of_ir = stored(transforms, f"test/transforms/{number}.21.mat")
            of_rgb = stored(transforms, f"test/transforms/{number}.12.mat")
            found = of_ir or of_rgb
            if found is None:
                raise DataError(f"{folder / 'transforms.zip'} has none for {name}.")
            clicked = stored(landmarks, f"landmarks/{number}.lms.mat")
            points = None
            if clicked is not None and len(clicked["ir_points"]) >= LANDMARKS:
                points = clicked["vis_points"], clicked["ir_points"]
            homography = found["H"].astype(np.float64)
            cases.append(
                case_of(
                    read(name), homography, warp_rgb=of_ir is None, landmarks=points
                )
            )
    return cases


def mmim_cases(folder: str | Path) -> list[Case]:
    """Read the 11 unaligned pairs of the matching survey by Jiang, Ma et al. (2021).

    Of github.com/StaRainJ/Multi-modality-image-matching-database-metrics-methods, the
    folder Multimodal_Image_Matching_Datasets/ComputerVision/VIS_IR: ``.mat`` files with
    the visible image ``I_fix``, the infrared ``I_move``, and the transform ``T``
    between them, of row vectors and pixels that count from 1. The landmarks follow
    from T.

    Raises:
        DataError: If there are no such files.
    """
    shift = np.array([[1, 0, 1], [0, 1, 1], [0, 0, 1.0]])  # to pixels from 1
    cases = []
    for path in sorted(Path(folder).glob("*.mat")):
        stored = loadmat(path)
        if not {"I_fix", "I_move", "T", "Landmarks"} <= stored.keys():
            continue
        points = stored["Landmarks"][0, 0]
        visible = stored["I_fix"]
        cases.append(
            Case(
                name=path.stem,
                source=np.ascontiguousarray(stored["I_move"][..., 0]),
                target=visible,
                source_is_rgb=False,
                truth=np.linalg.inv(shift) @ stored["T"].T @ shift,
                valid=np.full(visible.shape[:2], 255, np.uint8),
                landmarks=(points["LMmov"] - 1, points["LMfix"] - 1),
            )
        )
    if not cases:
        raise DataError(f"{folder} holds no .mat files of unaligned pairs.")
    return cases


def random_cases(
    pairs: Sequence[Pair], *, seed: int = 0, shift: float = 0.12
) -> list[Case]:
    """Move the corners of one image of each pair by up to `shift` of its sides.

    Visible and infrared take turns in being warped. There are no landmarks.
    """
    rng = np.random.default_rng(seed)
    cases = []
    for index, pair in enumerate(pairs):
        height, width = pair.ir.shape[-2:]
        corners = np.array([[0, 0], [1, 0], [1, 1], [0, 1]]) * [width - 1, height - 1]
        moved = corners + rng.uniform(-shift, shift, (4, 2)) * [width, height]
        homography = cv2.getPerspectiveTransform(
            corners.astype(np.float32), moved.astype(np.float32)
        )
        cases.append(case_of(pair, homography, warp_rgb=index % 2 == 1))
    return cases
