"""Collections of kernels, and their weights in the aggregated test.

A family is a kernel with a geometric grid of bandwidths from half of a small distance
of the pooled sample to twice the largest. The small one is the smallest; where that is
far below what is usual (less than a third of the median: in few dimensions), it is a
third of the median, or the 5 % quantile if that is larger. It is the collection of
:cite:t:`schrab2023mmd`, Section 5.2, but for two things: the published floor of 0.1
suits data in the unit cube, where a third of the median is just that; and distances
within a sample count as well as those across, so that the grid does not depend on
which row is of which sample, as an exact level requires.
"""

import math
from collections.abc import Callable, Sequence
from typing import Literal, TypeAlias, get_args

import torch
from torch import Tensor

from xmodal_losses._core import checks
from xmodal_losses.distribution.base_kernel import Kernel
from xmodal_losses.distribution.kernels import (
    GaussianKernel,
    InverseMultiquadricKernel,
    LaplacianKernel,
    MaternKernel,
)
from xmodal_losses.two_sample import require

Family: TypeAlias = Literal[
    "laplace", "gaussian", "imq", "matern_0.5", "matern_1.5", "matern_2.5"
]
Weighting: TypeAlias = Literal["uniform", "increasing", "decreasing", "centred"]
Kernels: TypeAlias = Family | Kernel | Sequence[Family] | Sequence[Kernel]

# Of a scale λ: p of the distances it is measured by, and the kernel.
_FAMILIES: dict[str, tuple[float, Callable[[float], Kernel]]] = {
    "laplace": (1.0, lambda scale: LaplacianKernel(scale, norm=1)),
    # exp(−d²/λ²)
    "gaussian": (2.0, lambda scale: GaussianKernel(scale / math.sqrt(2))),
    "imq": (2.0, InverseMultiquadricKernel),
    "matern_0.5": (2.0, lambda scale: MaternKernel(scale, nu=0.5)),
    "matern_1.5": (2.0, lambda scale: MaternKernel(scale, nu=1.5)),
    "matern_2.5": (2.0, lambda scale: MaternKernel(scale, nu=2.5)),
}
# Rows whose distances a grid looks at.
MOST = 1000


class Choice:
    """What kernels were asked for: families with a grid each, or kernels as they are.

    Args:
        caller: Who asks, for messages.
        kernels: As in :func:`~xmodal_losses.two_sample.mmd_agg`.
        num_bandwidths: Kernels per family.
        weights: A weighting, of each family alike, or one number per kernel.
    """

    def __init__(
        self,
        caller: str,
        kernels: Kernels,
        num_bandwidths: int,
        weights: Weighting | Sequence[float],
    ) -> None:
        self.caller = caller
        if not isinstance(kernels, (str, Kernel)):  # a module may be iterable, too
            checks.several(caller, "kernels", kernels, "names or Kernels")
        chosen: list[object] = (
            [kernels] if isinstance(kernels, (str, Kernel)) else list(kernels)
        )
        self.families = [name for name in chosen if isinstance(name, str)]
        self.kernels = [kernel for kernel in chosen if isinstance(kernel, Kernel)]
        if not chosen or len(chosen) not in (len(self.families), len(self.kernels)):
            got = [
                repr(item) if isinstance(item, str) else type(item).__name__
                for item in chosen
            ]
            raise TypeError(
                f"{caller}: kernels must be names or Kernels, one at least and not "
                f"both, got [{', '.join(got)}]. See xmodal_losses.kernels."
            )
        for i, kernel in enumerate(self.kernels):
            if kernel.maps_rows:
                raise TypeError(
                    f"{caller}: kernels[{i}] must be a kernel of the rows it is given, "
                    f"got {type(kernel).__name__}. Test one of a network by "
                    "kernel_test."
                )
        for name in self.families:
            checks.option(caller, "kernels", name, tuple(_FAMILIES))
        checks.count(caller, "num_bandwidths", num_bandwidths)
        if num_bandwidths < 2:
            raise ValueError(
                f"{caller}: num_bandwidths must be >= 2, got {num_bandwidths}. For one "
                "bandwidth pass a Kernel."
            )
        self.num_bandwidths = num_bandwidths
        sizes = [num_bandwidths] * len(self.families) or [len(self.kernels)]
        self.weights = _weights(caller, weights, sizes)

    def on(self, rows: Tensor) -> list[Kernel]:
        """Return the kernels for a pooled sample ``(N, D)`` in random order."""
        if not self.families:
            return self.kernels
        grids: dict[float, list[float]] = {}
        out = []
        for name in self.families:
            p, build = _FAMILIES[name]
            if p not in grids:
                scales = grid(rows[:MOST], p, self.num_bandwidths)
                found = rows.new_tensor(scales)
                require.finite(self.caller, "distances", found, where=" in the pool")
                grids[p] = scales
            out += [build(scale) for scale in grids[p]]
        return out


def grid(rows: Tensor, p: float, count: int) -> list[float]:
    """Return so many scales for the distances ‖·‖_p between rows, smallest first."""
    distances = torch.nn.functional.pdist(rows, p)
    distances = distances[distances > 0]
    if not len(distances):  # all kernels are constant on such a sample
        return [1.0] * count

    def quantile(share: float) -> float:
        return distances.kthvalue(1 + int(share * len(distances))).values.item()

    smallest, largest = distances.min().item(), distances.max().item()
    usual = quantile(0.5) / 3
    if smallest < usual:
        smallest = max(quantile(0.05), usual)
    low, high = smallest / 2, largest * 2
    return [low * (high / low) ** (i / (count - 1)) for i in range(count)]


def _weights(
    caller: str, weights: Weighting | Sequence[float], sizes: list[int]
) -> list[float]:
    """Return one weight per kernel, with sum 1, for families of these sizes."""
    if isinstance(weights, str):
        checks.option(caller, "weights", weights, get_args(Weighting))
        return [one / len(sizes) for size in sizes for one in weighting(weights, size)]
    checks.several(caller, "weights", weights, "numbers")
    given = list(weights)
    if len(given) != sum(sizes):
        raise ValueError(
            f"{caller}: weights must be one per kernel ({sum(sizes)}), got "
            f"{len(given)}."
        )
    for i, weight in enumerate(given):
        checks.number(caller, f"weights[{i}]", weight, above=0.0)
    return [weight / sum(given) for weight in given]


def weighting(name: Weighting, count: int) -> list[float]:
    """Return the weights of Section 5.1, with sum 1."""
    middle = (count + 1) / 2
    # Of the kernel in the middle, or of the two nearest to it, 1.
    least = 1 if count % 2 else 0.5
    raw = {
        "uniform": [1.0] * count,
        "decreasing": [1 / i for i in range(1, count + 1)],
        "increasing": [1 / (count + 1 - i) for i in range(1, count + 1)],
        "centred": [1 / (abs(middle - i) + least) for i in range(1, count + 1)],
    }[name]
    return [weight / sum(raw) for weight in raw]
