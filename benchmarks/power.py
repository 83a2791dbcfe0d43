"""Power and level of MMDAgg beside the numbers its authors published.

    python -m benchmarks.power [--quick] [--repetitions 200]

The samples are theirs, number for number, where they published the seeds: uniform on
[0, 1] against a uniform density with P perturbations. What the tests draw is not. A
published share and ours are estimates of one number; the difference is told in standard
errors of it. Levels are compared with α.
"""

import math
from collections.abc import Callable, Iterator
from typing import Any, NamedTuple

import numpy as np
import torch

import xmodal_losses as xl
from benchmarks import common
from benchmarks.page import table
from xmodal_losses.two_sample import mmd_agg

__all__ = ["SUITES", "cells", "measured", "shown"]

ALPHA = 0.05
Samples = Iterator[tuple[np.ndarray, np.ndarray]]


class Cell(NamedTuple):
    """One share: of what test on what samples, and what was published."""

    suite: str
    row: str
    column: str
    samples: Callable[[], Samples]
    options: dict[str, Any]
    published: float | None  # None: α is expected
    published_repetitions: int
    repetitions: int  # at most


# --------------------------------------------------------------------------------------
# The samples of the papers
# --------------------------------------------------------------------------------------


def bump(t: np.ndarray) -> np.ndarray:
    """Return G of Section 5.4: up on (−1, −½), down on (−½, 0)."""
    out = np.zeros_like(t)
    for low, centre, sign in ((-1.0, 3, 1), (-0.5, 1, -1)):
        inside = (t > low) & (t < low + 0.5)
        out[inside] = sign * np.exp(-1 / (1 - (4 * t[inside] + centre) ** 2))
    return out


def perturbed(
    theta_seed: int, seed: int, n: int, perturbations: int, height: float
) -> np.ndarray:
    """Draw from 1 + c Σ_ν θ_ν G(Px − ν) on [0, 1] by rejection, ``(n, 1)``."""
    legacy = np.random.RandomState  # the published generator
    signs = legacy(theta_seed).choice([-1, 1], perturbations)
    proposals = legacy(seed).random_sample((8 * n, 2))
    x, level = proposals[:, 0], proposals[:, 1] * (1 + height * math.exp(-1))
    density = 1.0 + height * sum(
        sign * bump(perturbations * x - (i + 1)) for i, sign in enumerate(signs)
    )
    accepted = x[level <= density][:n, None]
    assert len(accepted) == n
    return accepted


def concatenated(*digits: int) -> int:
    """Return the seed of a repetition."""
    *first, last = digits
    return int("".join(map(str, first)) + f"{last:04d}")


def of_mmdagg(weighting: int, perturbations: int) -> Samples:
    """Yield the samples of Figure 4, the same stream of numbers for x and y."""
    for i in range(500):
        seed = concatenated(0, 0, 1, weighting, perturbations - 1, i)
        x = perturbed(seed, seed, 500, perturbations, 2.7 / perturbations)
        yield x, np.random.RandomState(seed).random_sample((500, 1))


def of_mmdagg_star(perturbations: int) -> Samples:
    """Yield the samples of MMDAgg*, from streams of their own."""
    for i in range(500):
        seed = concatenated(1, 0, 0, 0, perturbations - 1, i)
        x = perturbed(seed + 1, seed + 2, 500, perturbations, 2.7 / perturbations)
        yield x, np.random.RandomState(seed).random_sample((500, 1))


def of_mmdagg_inc(n: int) -> Samples:
    """Yield the samples of Figure 1 (a) of the paper on MMDAggInc."""
    stream, seed = np.random.RandomState(0), 0
    for _ in range(100):
        for size in (200, 400, 600, 800, 1000):
            seed += 1
            x = stream.random_sample((size, 1))
            if size == n:
                yield x, perturbed(0, seed, n, 2, math.e / 2)


def uniform(n: int, m: int) -> Samples:
    """Yield two uniform samples."""
    stream = np.random.RandomState(0)
    while True:
        yield stream.random_sample((n, 1)), stream.random_sample((m, 1))


def pairs(correlation: float, shift: float = 0.0) -> Samples:
    """Yield pairs of correlated Gaussian rows, of which one side is shifted."""
    stream = np.random.RandomState(0)
    while True:
        x, z = stream.standard_normal((2, 50, 4))
        yield x, correlation * x + math.sqrt(1 - correlation**2) * z + shift


# --------------------------------------------------------------------------------------
# The cells
# --------------------------------------------------------------------------------------

SUITES = {
    "mmdagg": "Power of MMDAgg, bandwidths 2^ℓ times the median, ℓ = −4 … 0",
    "mmdagg_star": "Power of MMDAgg*, the default collection",
    "mmdagg_inc": "Power of MMDAggInc, ten Gaussians, two perturbations",
    "level": "Level: equal distributions",
    "paired": "Pairs: 50 of four columns with correlation ρ, one side shifted by s",
}
EQ_16 = {
    "kernels": [xl.GaussianKernel("median", factor=2.0**i) for i in range(-4, 1)],
    "quantile_draws": 500,
    "level_draws": 500,
}
FEW = {"quantile_draws": 500, "level_draws": 500}
# mmdagg-paper, commit 3412315: paper/raw/results.csv, results/exp1_0.npy
MMDAGG = {
    "uniform": (1.0, 0.974, 0.346, 0.038),
    "increasing": (1.0, 0.988, 0.268, 0.04),
    "decreasing": (1.0, 0.968, 0.272, 0.016),
    "centred": (1.0, 0.996, 0.45, 0.064),
}
PERMUTATION = (1.0, 0.976, 0.348, 0.032)
MMDAGG_STAR = (1.0, 0.988, 0.602, 0.228)
# agginc-paper: results/mmd_vary_n.npy
MMDAGG_INC = {
    100: (0.55, 0.86, 0.95, 1.0, 0.99),
    200: (0.64, 0.93, 0.99, 1.0, 1.0),
    None: (0.64, 0.96, 1.0, 1.0, 1.0),
}


def cells() -> Iterator[Cell]:
    """Yield everything that is measured."""
    for number, (weights, shares) in enumerate(MMDAGG.items()):
        for p, share in enumerate(shares, 1):
            yield Cell(
                "mmdagg",
                f"{weights} weights",
                f"P = {p}",
                lambda number=number, p=p: of_mmdagg(number, p),
                {**EQ_16, "weights": weights},
                share,
                500,
                500,
            )
    for p, share in enumerate(PERMUTATION, 1):
        yield Cell(
            "mmdagg",
            "uniform weights, permutations",
            f"P = {p}",
            lambda p=p: of_mmdagg(0, p),
            {**EQ_16, "resampling": "permutation"},
            share,
            500,
            50,
        )
    for p, share in enumerate(MMDAGG_STAR, 1):
        yield Cell(
            "mmdagg_star",
            "Laplace and Gaussian",
            f"P = {p}",
            lambda p=p: of_mmdagg_star(p),
            {},
            share,
            500,
            80,
        )
    for diagonals, shares in MMDAGG_INC.items():
        for n, share in zip((200, 400, 600, 800, 1000), shares, strict=True):
            yield Cell(
                "mmdagg_inc",
                "complete" if diagonals is None else f"R = {diagonals}",
                f"n = {n}",
                lambda n=n: of_mmdagg_inc(n),
                {**FEW, "kernels": "gaussian", "num_diagonals": diagonals},
                share,
                100,
                100,
            )
    yield from levels()


def levels() -> Iterator[Cell]:
    """Yield what is to be α, and what pairs do to the level."""
    plain = {
        "wild bootstrap": (50, 50, {}),
        "permutation": (50, 50, {"resampling": "permutation"}),
        "permutation, unequal sizes": (30, 60, {}),
        "incomplete, R = 10": (50, 50, {"num_diagonals": 10}),
        "2^ℓ times the median, centred": (50, 50, {**EQ_16, "weights": "centred"}),
    }
    for row, (n, m, options) in plain.items():
        yield Cell(
            "level",
            row,
            f"n = {n}, m = {m}",
            lambda n=n, m=m: uniform(n, m),
            {**FEW, **options},
            None,
            0,
            1000,
        )
    tests = {
        "paired": {"paired": True},
        "permutation, wrong here": {"resampling": "permutation"},
    }
    for row, options in tests.items():
        for rho in (0.0, 0.5, 0.9):
            for shift in (0.0, 0.15):
                yield Cell(
                    "paired",
                    row,
                    f"ρ = {rho:g}, s = {shift:g}",
                    lambda rho=rho, shift=shift: pairs(rho, shift),
                    {**FEW, **options},
                    None,
                    0,
                    500,
                )


# --------------------------------------------------------------------------------------
# Runs and tables
# --------------------------------------------------------------------------------------


def measured(cell: Cell, repetitions: int) -> dict[str, Any]:
    """Return how often a test rejects."""
    generator = torch.Generator().manual_seed(0)
    count = min(repetitions, cell.repetitions)
    rejected = 0
    for _, (x, y) in zip(range(count), cell.samples(), strict=False):
        samples = torch.from_numpy(x).float(), torch.from_numpy(y).float()
        result = mmd_agg(*samples, alpha=ALPHA, generator=generator, **cell.options)
        rejected += result.rejected
    share = rejected / count
    truth = ALPHA if cell.published is None else cell.published
    variance = truth * (1 - truth) / count
    if cell.published is not None:
        # Both are estimates. Of a published 0 or 1 all that is known is that it is
        # within 1/500 or so.
        truth = min(max(truth, 1 / cell.published_repetitions), 1 - 1e-3)
        variance = truth * (1 - truth) * (1 / count + 1 / cell.published_repetitions)
    return {
        "suite": cell.suite,
        "row": cell.row,
        "column": cell.column,
        "rejected": rejected,
        "repetitions": count,
        "share": share,
        "published": cell.published,
        "standard_error": math.sqrt(variance),
    }


def off(result: dict[str, Any]) -> float:
    """Return how many standard errors a share is from what is expected."""
    expected = ALPHA if result["published"] is None else result["published"]
    return (result["share"] - expected) / result["standard_error"]


def shown(results: list[dict[str, Any]]) -> str:
    """Return the table of a suite."""
    columns = list(dict.fromkeys(result["column"] for result in results))
    rows = list(dict.fromkeys(result["row"] for result in results))
    at = {(result["row"], result["column"]): result for result in results}
    body = [
        [row, *(_entry(at.get((row, column))) for column in columns)] for row in rows
    ]
    return table(["", *columns], body)


def _entry(result: dict[str, Any] | None) -> str:
    if result is None:
        return "–"
    text = f"{result['share']:.3f} ± {error(result):.3f}"
    if result["published"] is not None:
        text += f" ({result['published']:.3f})"
    return text


def error(result: dict[str, Any]) -> float:
    """Return the standard error of a share, by that of one more success and failure."""
    count = result["repetitions"] + 2
    share = (result["rejected"] + 1) / count
    return math.sqrt(share * (1 - share) / count)


def main() -> None:
    """Measure, print, save: one file per suite."""
    parser = common.parser(__doc__.splitlines()[0])
    parser.add_argument("--repetitions", type=int, default=500, help="at most")
    parser.add_argument("--suites", nargs="+", choices=list(SUITES))
    args = parser.parse_args()
    torch.set_num_threads(args.threads)
    for suite in args.suites or SUITES:
        results = []
        for cell in cells():
            if cell.suite != suite:
                continue
            result = measured(cell, 2 if args.quick else args.repetitions)
            print(
                f"{suite}: {cell.row}, {cell.column}: {_entry(result)}, "
                f"{off(result):+.1f} standard errors",
                flush=True,
            )
            results.append(result)
        common.save(f"power--{suite}", args, results, partial=False)


if __name__ == "__main__":
    main()
