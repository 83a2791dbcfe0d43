"""Every method on the same held-out pairs: finding places, and registering.

One table each. Rows are methods, trained or not; intervals are 95 % bootstrap
intervals over pairs.
"""

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np

from .data import Pair
from .evaluate import Protocol, Search, evaluate
from .registration import ESTIMATORS, Method, match, register, seen_by, summary
from .report import bootstrap_interval
from .warps import Case, project

__all__ = ["floor", "localisation", "registration", "text"]

LOCALISATION = ("top1", "top5", "anywhere", "within", "error")
SHAPE = ("height", "sidelobe_ratio", "width")


def localisation(
    searches: Mapping[str, Search], pairs: Sequence[Pair], protocol: Protocol
) -> dict[str, dict[str, Any]]:
    """Return, per method, the mean of each metric over pairs and its interval."""
    table = {}
    for name, search in searches.items():
        measured = evaluate(search, pairs, protocol)
        row: dict[str, Any] = {}
        for metric in (*LOCALISATION, *SHAPE, "chance_top1", "chance_within"):
            values = np.array(measured[metric])
            values = values[np.isfinite(values)]
            if len(values):
                row[metric] = float(values.mean())
                row[f"{metric}_interval"] = bootstrap_interval(values)
        table[name] = row
    return table


def registration(
    methods: Mapping[str, Method],
    cases: Sequence[Case],
    *,
    ratio: float | None = None,
    progress: Callable[[str], None] = lambda _: None,
) -> dict[str, dict[str, Any]]:
    """Return, per method and estimator, the summary over cases.

    RANSAC has the 10 px of ReDFeat's protocol, MAGSAC 3 px.
    """
    table: dict[str, dict[str, Any]] = {}
    for name, method in methods.items():
        matches = [match(*seen_by(method, case), ratio) for case in cases]
        for estimator, threshold in zip(ESTIMATORS, (10.0, 3.0), strict=True):
            results = [
                register(case, some, estimator=estimator, threshold=threshold)
                for case, some in zip(cases, matches, strict=True)
            ]
            table[f"{name} · {estimator}"] = summary(results)
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
