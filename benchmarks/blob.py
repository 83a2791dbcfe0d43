"""Power and level of the deep-kernel test on the Blob data of its paper.

    python -m benchmarks.blob

Nine modes on a grid, round ones against correlated ones, 40 rows of each mode in a
sample on average. A kernel is learned on one pair of samples and tested with on 100
others, ten times, as by Liu et al. (ICML 2020), who report a power of 0.985; the level
is that of the same kernels on 100 pairs of samples of one law each. Twice:

- "authors": the rows, and where the training starts, are those of the authors' seeds.
- "drawn": all of them are drawn anew.
"""

import math
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

import xmodal_losses as xl
from benchmarks import common

__all__ = ["blobs", "deep_kernel", "run", "shown"]

PUBLISHED = 0.985
LEVEL = 0.05
PERMUTATIONS = 200
ROWS = 360
STARTS = ("authors", "drawn")
SEED = 1102


def blobs(
    rows: int, seed: int | np.random.RandomState, *, equal: bool = False
) -> tuple[Tensor, Tensor]:
    """Return samples of both laws, or two of the first; the authors' of their seeds.

    Rows of the second are standard normal rows times the lower Cholesky factor L of the
    mode, as in the authors' code: their covariance is LᵀL, not the LLᵀ of the paper.
    """
    random = np.random.RandomState(seed) if isinstance(seed, int) else seed
    x = random.multivariate_normal(np.zeros(2), 0.03 * np.eye(2), size=rows)
    y = random.multivariate_normal(np.zeros(2), np.eye(2), size=rows)
    x += np.stack([random.randint(3, size=rows) for _ in range(2)], -1)
    centre = np.stack([random.randint(3, size=rows) for _ in range(2)], -1)
    mode = 3 * centre[:, 0] + centre[:, 1]
    factors = np.stack([_factor(i) for i in range(9)])
    if equal:
        factors[:] = math.sqrt(0.03) * np.eye(2)
    y = (y[:, None] @ factors[mode])[:, 0] + centre
    return torch.tensor(x).float(), torch.tensor(y).float()


def _factor(mode: int) -> np.ndarray:
    off = -0.02 - 0.002 * mode if mode < 4 else 0.02 + 0.002 * (mode - 5)
    off = 0.0 if mode == 4 else off
    return np.linalg.cholesky([[0.03, off], [off, 0.03]])


def deep_kernel(random: np.random.RandomState) -> xl.DeepKernel:
    """Return the kernel of the paper where its training starts.

    Its Gaussians are exp(−d²/s²): of the rows with s² = 0.3·u, of the features with
    s² = 0.002·u, u uniform, and what is learned is s, not its logarithm; and ε = ½. The
    network starts as those of torch do, from torch's own generator.
    """
    layers: list[nn.Module] = []
    for columns in (2, 50, 50):
        layers += [nn.Linear(columns, 50), nn.Softplus()]
    network = nn.Sequential(*layers, nn.Linear(50, 50))
    _, of_rows, of_features = random.rand(3)  # the first is theirs for ε
    feature, inputs = (
        xl.GaussianKernel(nn.Parameter(torch.tensor(math.sqrt(s2 / 2)).float()))
        for s2 in (0.002 * of_features, 0.3 * of_rows)
    )
    return xl.DeepKernel(network, feature_kernel=feature, input_kernel=inputs)


def start_of(start: str, index: int, rows: int) -> xl.DeepKernel:
    """Return the kernel that one training starts from."""
    if start == "drawn":
        torch.manual_seed(index)
        return deep_kernel(np.random.RandomState(index))
    # Their generators are seeded before each training, and go on through 101 tests of
    # 200 permutations.
    torch.manual_seed(SEED)
    random = np.random.RandomState(SEED)
    if index > 0:
        for _ in range(101 * 200):
            torch.randperm(2 * rows)
        random = np.random.RandomState(_seed_of_test("authors", index, 99))
        blobs(rows, random)
    return deep_kernel(random)


def _seed_of_test(start: str, index: int, test: int) -> int:
    if start == "authors":  # the same for every kernel
        return 11 * test + 10 + ROWS // 9
    return 10_000 * (index + 1) + test


def run(
    start: str,
    index: int,
    *,
    rows: int = ROWS,
    steps: int = 1000,
    tests: int = 100,
    permutations: int = PERMUTATIONS,
) -> dict[str, Any]:
    """Learn a kernel on one pair of samples; test with it on others."""
    kernel = start_of(start, index, rows)
    seed = 112 * index + 1 + ROWS // 9 if start == "authors" else 100 + index
    history = xl.two_sample.fit_kernel(
        *blobs(rows, seed), kernel, steps=steps, estimator="paired"
    )
    generator = torch.Generator().manual_seed(index)

    def rejected(equal: bool) -> int:
        # Samples of one law are never the same.
        named = "drawn" if equal else start
        return sum(
            xl.two_sample.kernel_test(
                *blobs(rows, _seed_of_test(named, index, test), equal=equal),
                kernel,
                alpha=LEVEL,
                permutations=permutations,
                generator=generator,
            ).rejected
            for test in range(tests)
        )

    return {
        "start": start,
        "index": index,
        "rows": rows,
        "steps": steps,
        "tests": tests,
        "criterion_before": history[0].item(),
        "criterion_after": history[-1].item(),
        "epsilon": kernel.epsilon.item(),
        "rejected": rejected(False),
        "rejected_equal": rejected(True),
    }


def summary(start: str, runs: list[dict[str, Any]]) -> dict[str, Any]:
    """Return power and level, and how far they are from what they should be."""
    runs = [run for run in runs if run["start"] == start]
    power = torch.tensor([run["rejected"] / run["tests"] for run in runs])
    total = sum(run["tests"] for run in runs)
    # Over kernels, and over samples, of which the authors' are the same for all.
    samples = runs[0]["tests"] if start == "authors" else total
    of_kernels = power.var().item() / len(runs)
    of_samples = PUBLISHED * (1 - PUBLISHED) / samples
    error = math.sqrt(of_kernels + of_samples)
    level = sum(run["rejected_equal"] for run in runs) / total
    return {
        "start": start,
        "power": power.mean().item(),
        "standard_error": error,
        "published": PUBLISHED,
        "errors_from_published": (power.mean().item() - PUBLISHED) / error,
        "level": level,
        "errors_from_level": (level - LEVEL) / math.sqrt(LEVEL * (1 - LEVEL) / total),
    }


def shown(row: dict[str, Any]) -> str:
    """Return one line."""
    return (
        f"{row['start']}: power {row['power']:.3f} ± {row['standard_error']:.3f} "
        f"(published {row['published']}: {row['errors_from_published']:+.1f} standard "
        f"errors), level {row['level']:.3f} at {LEVEL} "
        f"({row['errors_from_level']:+.1f})"
    )


def main() -> None:
    """Run, print, save."""
    parser = common.parser(__doc__.splitlines()[0])
    parser.add_argument("--starts", nargs="+", choices=STARTS, default=STARTS)
    args = parser.parse_args()
    torch.set_num_threads(args.threads)
    sizes: dict[str, int] = {}
    if args.quick:
        sizes = {"rows": 36, "steps": 3, "tests": 2, "permutations": 19}
    runs, summaries = [], []
    for start in args.starts:
        for index in range(2 if args.quick else 10):
            runs.append(run(start, index, **sizes))
            print(runs[-1], flush=True)
        summaries.append(summary(start, runs))
        print(shown(summaries[-1]), flush=True)
    partial = len(args.starts) < len(STARTS)
    common.save("blob", args, [*summaries, *runs], partial=partial)


if __name__ == "__main__":
    main()
