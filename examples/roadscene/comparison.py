"""Every method on the same held-out pairs: finding places, and registering.

One table each. Rows are methods; a trained one may be there with several seeds, and is
then the mean over them. Intervals are 95 % bootstrap intervals over pairs, of the means
over seeds.
"""

from collections.abc import Callable, Mapping, Sequence
from functools import partial
from typing import Any, NamedTuple

import numpy as np

from .data import Pair
from .evaluate import Protocol, evaluate
from .kept import Keep
from .refinement import search_again
from .registration import Keypoints, Matches, Method, match, register, seen_by, summary
from .report import bootstrap_interval
from .warps import Case, project

__all__ = ["WAYS", "Entry", "floor", "localisation", "registration", "text"]

LOCALISATION = ("top1", "top5", "anywhere", "within", "error")
SHAPE = ("height", "sidelobe_ratio", "width")


class Way(NamedTuple):
    """How matches become a homography."""

    estimator: str
    threshold: float  # pixels
    ratio: float | None = None  # of the nearest distance to the second, at most
    search: bool = False  # for the rest of the way, with dense features

    def register(
        self, case: Case, both: tuple[Keypoints, Keypoints], matches: Matches
    ) -> dict[str, float]:
        """Register one case by what a method saw in both images, and its matches."""
        return register(
            case,
            matches,
            estimator=self.estimator,
            threshold=self.threshold,
            again=partial(search_again, case, *both) if self.search else None,
        )


# The first is that of ReDFeat's protocol.
WAYS = {
    "RANSAC": Way("RANSAC", 10.0),
    "MAGSAC": Way("MAGSAC", 3.0),
    "RANSAC, ratio test": Way("RANSAC", 10.0, ratio=0.9),
    "RANSAC, then search": Way("RANSAC", 10.0, search=True),
}


class Entry(NamedTuple):
    """A method, and which."""

    method: Any  # a Describe, a Search, or a Method
    digest: str = ""  # of its weights, if it has some

    def by(self, change: Callable[[Any], Any]) -> "Entry":
        """Return what is made of the method."""
        return Entry(change(self.method), self.digest)


def localisation(
    entries: Mapping[str, Sequence[Entry]],
    pairs: Sequence[Pair],
    protocol: Protocol,
    keep: Keep | None = None,
) -> dict[str, dict[str, Any]]:
    """Return, per method, the mean of each metric over pairs, and of each seed."""
    keep = keep or Keep(None)
    table = {}
    for name, seeds in entries.items():
        measured = [
            keep(partial(evaluate, search, pairs, protocol), name, digest)
            for search, digest in seeds
        ]
        row: dict[str, Any] = {"seeds": len(seeds)}
        for metric in (*LOCALISATION, *SHAPE, "chance_top1", "chance_within"):
            values = np.array([one[metric] for one in measured])  # (seeds, pairs)
            values = values[:, np.isfinite(values).all(0)]
            if values.size:
                row[metric] = float(values.mean())
                row[f"{metric}_interval"] = bootstrap_interval(values.mean(0))
                row[f"{metric}_seeds"] = values.mean(1).tolist()
        table[name] = row
    return table


def registered(method: Method, cases: Sequence[Case]) -> dict[str, list[Any]]:
    """Return what is measured of each case, by way to estimate.

    Methods without dense features cannot go the ways that search.
    """
    out: dict[str, list[Any]] = {}
    for case in cases:
        both = seen_by(method, case)
        matched = {
            ratio: match(*both, ratio) for ratio in {way.ratio for way in WAYS.values()}
        }
        for label, way in WAYS.items():
            if both[1].dense is not None or not way.search:
                one = way.register(case, both, matched[way.ratio])
                out.setdefault(label, []).append(one)
    return out


def registration(
    entries: Mapping[str, Sequence[Entry]],
    cases: Sequence[Case],
    keep: Keep | None = None,
    *,
    progress: Callable[[str], None] = lambda _: None,
) -> dict[str, dict[str, Any]]:
    """Return, per method and way to estimate, the summary over cases and seeds."""
    keep = keep or Keep(None)
    table: dict[str, dict[str, Any]] = {}
    for name, seeds in entries.items():
        measured = [
            keep(partial(registered, method, cases), name, digest)
            for method, digest in seeds
        ]
        for label in measured[0]:
            results = [one[label] for one in measured]
            pooled = [case for one in results for case in one]
            row: dict[str, Any] = {"seeds": len(seeds)} | summary(pooled)
            if row["srr"] is not None:
                errors = np.array([[x["landmarks"] for x in one] for one in results])
                good = errors[:, ~np.isnan(errors).any(0)] < 10
                row["srr_interval"] = bootstrap_interval(good.mean(0))
                row["srr_seeds"] = good.mean(1).tolist()
            table[f"{name} · {label}"] = row
        progress(name)
    return table


def floor(cases: Sequence[Case]) -> dict[str, float] | None:
    """Return what the true homographies reach, if there are landmarks.

    ``srr``, the share of cases below 10 px, and ``mean``, in pixels, over all: people
    click, and images are not registered exactly.
    """
    errors = [
        np.sqrt(((project(case.truth, source) - target) ** 2).sum(1).mean())
        for case in cases
        if case.landmarks is not None
        for source, target in [case.landmarks]
    ]
    if not errors:
        return None
    return {"srr": float(np.mean(np.less(errors, 10))), "mean": float(np.mean(errors))}


def text(table: Mapping[str, Mapping[str, Any]], columns: Mapping[str, str]) -> str:
    """Format rows; `columns` maps the metrics that are shown to their headings."""
    width = max(map(len, table), default=0)
    lines = [" " * width + "".join(f"{head:>12}" for head in columns.values())]
    for name, row in table.items():
        cells = []
        for metric in columns:
            value = row.get(metric)
            cells.append(f"{'–' if value is None else f'{value:.3g}':>12}")
        lines.append(f"{name:{width}}" + "".join(cells))
    return "\n".join(lines)
