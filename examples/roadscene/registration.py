"""Match keypoints, estimate the homography, and see how far it is off.

One way for every method: keypoints and descriptors of both images, mutual nearest
neighbours, `cv2.findHomography`. Keypoints lie where both images could show the scene.
"""

from collections.abc import Callable, Sequence
from typing import NamedTuple

import cv2
import numpy as np

from .evaluate import Described
from .warps import Case, project

__all__ = [
    "ESTIMATORS",
    "Again",
    "Keypoints",
    "Matches",
    "auc",
    "estimate",
    "masks",
    "match",
    "register",
    "seen_by",
    "summary",
]

# Threshold in pixels, and OpenCV's name for it.
ESTIMATORS = {"RANSAC": cv2.RANSAC, "MAGSAC": cv2.USAC_MAGSAC}
BORDER = 8  # pixels at the edge of what is seen that hold no keypoints
FAILED = 1e6  # the error where nothing was estimated


class Keypoints(NamedTuple):
    """What a method finds in one image."""

    points: np.ndarray  # (K, 2)
    descriptors: np.ndarray  # (K, D) float32, or uint8 for binary ones
    dense: Described | None = None  # of all places, if the method has that


# From an image, where to look (255), and whether it is the visible one.
Method = Callable[[np.ndarray, np.ndarray, bool], Keypoints]


# From a homography to a better one, and the share of inliers.
Again = Callable[[np.ndarray], tuple[np.ndarray, float]]


class Matches(NamedTuple):
    """Matched points, row by row."""

    source: np.ndarray  # (M, 2)
    target: np.ndarray  # (M, 2)


def match(source: Keypoints, target: Keypoints, ratio: float | None = None) -> Matches:
    """Return mutual nearest neighbours; with a ratio, only the distinct ones."""
    if not len(source.points) or not len(target.points):
        return Matches(np.zeros((0, 2)), np.zeros((0, 2)))
    binary = source.descriptors.dtype == np.uint8
    norm = cv2.NORM_HAMMING if binary else cv2.NORM_L2
    mutual = cv2.BFMatcher(norm, crossCheck=True).match(
        source.descriptors, target.descriptors
    )
    if ratio is not None:
        nearest = cv2.BFMatcher(norm).knnMatch(
            source.descriptors, target.descriptors, k=2
        )
        distinct = {
            first.queryIdx
            for first, *rest in (pair for pair in nearest if pair)
            if not rest or first.distance < ratio * rest[0].distance
        }
        mutual = [one for one in mutual if one.queryIdx in distinct]
    return Matches(
        source.points[[one.queryIdx for one in mutual]].reshape(-1, 2),
        target.points[[one.trainIdx for one in mutual]].reshape(-1, 2),
    )


def estimate(
    matches: Matches, estimator: str, threshold: float
) -> tuple[np.ndarray | None, float]:
    """Return the homography, if there is one, and the share of inliers."""
    if len(matches.source) < 4:
        return None, 0.0
    cv2.setRNGSeed(0)
    found, inliers = cv2.findHomography(
        matches.source,
        matches.target,
        ESTIMATORS[estimator],
        threshold,
        maxIters=10_000,
        confidence=0.999,
    )
    return found, 0.0 if found is None else float(inliers.mean())


def masks(case: Case) -> tuple[np.ndarray, np.ndarray]:
    """Return where keypoints may lie in source and target, 255."""
    square = np.ones((2 * BORDER + 1, 2 * BORDER + 1), np.uint8)

    def away_from_the_edge(shown: np.ndarray) -> np.ndarray:
        framed = cv2.copyMakeBorder(shown, 1, 1, 1, 1, cv2.BORDER_CONSTANT, value=0)
        return cv2.erode(framed, square)[1:-1, 1:-1]

    whole = np.full(case.source.shape[:2], 255, np.uint8)
    return away_from_the_edge(whole), away_from_the_edge(case.valid)


def seen_by(method: Method, case: Case) -> tuple[Keypoints, Keypoints]:
    """Let a method look at both images of a case."""
    source, target = masks(case)
    return (
        method(case.source, source, case.source_is_rgb),
        method(case.target, target, not case.source_is_rgb),
    )


def register(
    case: Case,
    matches: Matches,
    *,
    estimator: str = "RANSAC",
    threshold: float = 10.0,
    again: Again | None = None,
) -> dict[str, float]:
    """Return what is measured of one case, in pixels.

    With `again`, of the homography that it makes of the estimated one.

    ``matches``; ``ncm``, the matches within 3 px of the truth, and ``precision_3``,
    ``precision_5``, their share at 3 and 5 px; ``inliers``, the share the estimator
    took; ``corner``, the mean distance of the four corners from where they belong;
    ``landmarks``, the root mean square distance of the landmarks, NaN without any.
    Where nothing could be estimated, errors are a million.
    """
    off = project(case.truth, matches.source) - matches.target
    distance = np.linalg.norm(off, axis=1)
    found, inliers = estimate(matches, estimator, threshold)
    if again is not None and found is not None:
        found, inliers = again(found)

    def share(pixels: float) -> float:
        return float((distance <= pixels).mean()) if len(distance) else 0.0

    def error(source: np.ndarray, target: np.ndarray, power: int) -> float:
        if found is None:
            return FAILED
        apart = np.linalg.norm(project(found, source) - target, axis=1)
        value = float((apart**power).mean() ** (1 / power))
        return min(value, FAILED) if np.isfinite(value) else FAILED

    corners = case.corners
    return {
        "matches": float(len(distance)),
        "ncm": float((distance <= 3).sum()),
        "precision_3": share(3),
        "precision_5": share(5),
        "inliers": inliers,
        "corner": error(corners, project(case.truth, corners), 1),
        "landmarks": np.nan
        if case.landmarks is None
        else error(*case.landmarks, power=2),
    }


def auc(errors: np.ndarray, threshold: float) -> float:
    """Area under the recall curve up to a threshold, over the threshold."""
    errors = np.sort(np.asarray(errors, float))
    below = errors < threshold
    x = np.concatenate([[0.0], errors[below], [threshold]])
    recall = np.arange(below.sum() + 1) / len(errors)
    y = np.append(recall, recall[-1])
    return float((np.diff(x) * (y[1:] + y[:-1])).sum() / 2 / threshold)


def summary(results: Sequence[dict[str, float]]) -> dict[str, float | None]:
    """Put the cases of one method together.

    ``srr``: share of landmark errors below 10 px; ``mean_success``: the mean of those;
    ``collapsed``: share above 100 px; ``median``; ``auc_3``, ``auc_5``, ``auc_10`` of
    the corners; means of the rest. None where there is nothing to say.
    """
    columns = {name: np.array([one[name] for one in results]) for name in results[0]}
    out: dict[str, float | None] = {
        name: float(columns[name].mean())
        for name in ("matches", "ncm", "precision_3", "precision_5", "inliers")
    }
    for threshold in (3, 5, 10):
        out[f"auc_{threshold}"] = auc(columns["corner"], threshold)
    landmarks = columns["landmarks"][~np.isnan(columns["landmarks"])]
    good = landmarks[landmarks < 10]
    some = len(landmarks) > 0
    return out | {
        "srr": float(len(good) / len(landmarks)) if some else None,
        "mean_success": float(good.mean()) if len(good) else None,
        "collapsed": float((landmarks > 100).mean()) if some else None,
        "median": float(np.median(landmarks)) if some else None,
    }
