"""Power and level of the deep-kernel test on the Blob data of its paper.

    python -m benchmarks.blob

Nine modes on a grid, round ones against correlated ones, 40 rows of each mode in a
sample on average. A kernel is learned on one pair of samples and tested with on 100
others, ten times, as by Liu et al. (ICML 2020), who report a power of 0.985. The level
is that of the same kernels on 100 pairs of samples of one law each.
"""

import math
from typing import Any

import torch
from torch import Tensor, nn

import xmodal_losses as xl
from benchmarks import common

__all__ = ["blobs", "deep_kernel", "run", "shown"]

PUBLISHED = 0.985
LEVEL = 0.05
PERMUTATIONS = 200


def blobs(
    rows: int, generator: torch.Generator, *, equal: bool = False
) -> tuple[Tensor, Tensor]:
    """Return samples of both laws, or two of the first.

    Rows of the second are standard normal rows times the lower Cholesky factor L of the
    mode, as in the authors' code: their covariance is LᵀL, not the LLᵀ of the paper.
    """
    covariance = torch.zeros(9, 2, 2, dtype=torch.float64)
    covariance[:] = 0.03 * torch.eye(2)
    for mode in range(9):
        if mode != 4:
            c = -0.02 - 0.002 * mode if mode < 4 else 0.02 + 0.002 * (mode - 5)
            covariance[mode, 0, 1] = covariance[mode, 1, 0] = c
    factor = torch.linalg.cholesky(covariance).float()

    def sample(factors: Tensor) -> Tensor:
        noise = torch.randn(rows, 1, 2, generator=generator)
        mode = torch.randint(9, (rows,), generator=generator)
        centre = torch.stack((mode // 3, mode % 3), -1)
        return (noise @ factors[mode]).squeeze(1) + centre

    plain = math.sqrt(0.03) * torch.eye(2).expand(9, 2, 2)
    return sample(plain), sample(plain if equal else factor)


def deep_kernel(generator: torch.Generator, width: int = 50) -> xl.DeepKernel:
    """Return the kernel of the paper where its training starts.

    Its Gaussians are exp(−d²/s): of the rows with s = 0.3·u, of the features with
    s = 0.002·u, u uniform; and ε = ½.
    """
    layers: list[nn.Module] = []
    for columns in (2, width, width):
        layers += [nn.Linear(columns, width), nn.Softplus()]
    network = nn.Sequential(*layers, nn.Linear(width, width))
    for layer in network:
        if isinstance(layer, nn.Linear):  # as torch does, from this generator
            bound = layer.in_features**-0.5
            with torch.no_grad():
                for parameter in layer.parameters():
                    parameter.uniform_(-bound, bound, generator=generator)
    s = torch.tensor([0.002, 0.3]) * torch.rand(2, generator=generator)
    feature, inputs = (s / 2).sqrt().tolist()
    return xl.DeepKernel(
        network,
        feature_kernel=xl.GaussianKernel(feature, learn=True),
        input_kernel=xl.GaussianKernel(inputs, learn=True),
        epsilon=0.5,
    )


def run(
    seed: int, *, rows: int, steps: int, tests: int, permutations: int = PERMUTATIONS
) -> dict[str, Any]:
    """Learn a kernel on one pair of samples; test with it on others."""
    generator = torch.Generator().manual_seed(seed)
    kernel = deep_kernel(generator)
    history = xl.two_sample.fit_kernel(
        *blobs(rows, generator), kernel, steps=steps, estimator="paired"
    )

    def rejected(equal: bool) -> int:
        return sum(
            xl.two_sample.kernel_test(
                *blobs(rows, generator, equal=equal),
                kernel,
                level=LEVEL,
                permutations=permutations,
                generator=generator,
            ).rejected
            for _ in range(tests)
        )

    return {
        "seed": seed,
        "tests": tests,
        "criterion_before": history[0].item(),
        "criterion_after": history[-1].item(),
        "epsilon": kernel.epsilon.item(),
        "rejected": rejected(False),
        "rejected_equal": rejected(True),
    }


def summary(runs: list[dict[str, Any]]) -> dict[str, float]:
    """Return power and level, and how far they are from what they should be."""
    power = torch.tensor([run["rejected"] / run["tests"] for run in runs])
    # That of the mean over kernels; of few, all alike, at least that of the tests.
    tests = sum(run["tests"] for run in runs)
    binomial = math.sqrt(PUBLISHED * (1 - PUBLISHED) / tests)
    error = max(power.std().item() / len(runs) ** 0.5, binomial)
    level = sum(run["rejected_equal"] for run in runs) / tests
    return {
        "power": power.mean().item(),
        "standard_error": error,
        "published": PUBLISHED,
        # The published number has an error, too: that of the same experiment.
        "errors_from_published": (power.mean().item() - PUBLISHED) / (2**0.5 * error),
        "level": level,
        "errors_from_level": (level - LEVEL) / math.sqrt(LEVEL * (1 - LEVEL) / tests),
    }


def shown(runs: list[dict[str, Any]]) -> str:
    """Return one line."""
    s = summary(runs)
    return (
        f"power {s['power']:.3f} ± {s['standard_error']:.3f} (published "
        f"{s['published']}: {s['errors_from_published']:+.1f} standard errors), level "
        f"{s['level']:.3f} at {LEVEL} ({s['errors_from_level']:+.1f})"
    )


def main() -> None:
    """Run, print, save."""
    parser = common.parser(__doc__.splitlines()[0])
    parser.add_argument("--kernels", type=int, default=10)
    args = parser.parse_args()
    torch.set_num_threads(args.threads)
    sizes = {"rows": 360, "steps": 1000, "tests": 100}
    kernels = args.kernels
    if args.quick:
        sizes, kernels = {"rows": 36, "steps": 3, "tests": 2}, 2
    runs = []
    for seed in range(kernels):
        runs.append({**run(seed, **sizes), **sizes})
        print(runs[-1], flush=True)
    print(shown(runs) if len(runs) > 1 else "")
    partial = args.kernels != 10
    common.save("blob", args, [summary(runs), *runs], partial=partial)


if __name__ == "__main__":
    main()
