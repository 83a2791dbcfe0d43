"""Sums of Gaussians that are one function of one distance.

Where the bandwidths have fixed ratios, all follow from the widest, and the engine goes
through the pairs once for all of them.
"""

from typing import NamedTuple

from torch import Tensor

from xmodal_losses._core import pairs
from xmodal_losses.distribution.base_kernel import Kernel
from xmodal_losses.distribution.kernels import GaussianKernel
from xmodal_losses.distribution.multi_kernel import leaves


class GaussianFamily(NamedTuple):
    """Gaussians whose bandwidths have fixed ratios, as one function of one distance."""

    widest: GaussianKernel
    mixture: pairs.Mixture

    def bind(self, pool: pairs.Pool) -> tuple[pairs.Mixture, Tensor]:
        """Return the mixture and its largest bandwidth, ``(…, 1, 1)``."""
        return self.mixture, self.widest.sigma(pool)


def gaussian_family(kernel: Kernel) -> GaussianFamily | None:
    """Return a (sum of) Gaussians as a family, or None if it is none.

    The bandwidths are to be numbers, or all from one rule, and nothing learned.
    """
    members: list[tuple[float, float, GaussianKernel]] = []
    rules: set[str] = set()
    for weight, leaf in leaves(kernel):
        # A subclass may bind otherwise; what is learned is no constant.
        if type(leaf) is not GaussianKernel or leaf.log_factor is not None:
            return None
        if isinstance(weight, Tensor):
            return None
        bandwidth = leaf.bandwidth
        if isinstance(bandwidth, Tensor):
            if bandwidth.requires_grad or leaf is not kernel:
                return None
            size = 1.0
        elif isinstance(bandwidth, str):
            rules.add(bandwidth)
            size = leaf.factor
        else:
            rules.add("number")
            size = bandwidth
        # In order of size. (torch.compile traces comparisons, but no sort.)
        at = sum(other >= size for other, _, _ in members)
        members.insert(at, (size, weight, leaf))
    if len(rules) > 1:
        return None
    widest, _, leaf = members[0]
    multiples = tuple((widest / size) ** 2 for size, _, _ in members)
    weights = tuple(weight for _, weight, _ in members)
    return GaussianFamily(leaf, pairs.Mixture(multiples, weights))
