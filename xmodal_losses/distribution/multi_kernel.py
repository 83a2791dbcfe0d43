"""Sums of kernels, with weights that are given, or learned."""

from collections.abc import Iterator, Sequence

import torch
from torch import Tensor, nn

from xmodal_losses._core import checks, pairs
from xmodal_losses._core.pairs import Pairs, Pool
from xmodal_losses.distribution.base_kernel import Kernel, Shift
from xmodal_losses.distribution.kernels import GaussianKernel

__all__ = ["DEFAULT", "MultiKernel", "leaves"]


class MultiKernel(Kernel):
    """A weighted sum of kernels, which share their distances.

    Args:
        kernels: One kernel or more; none that maps rows first
            (:class:`~xmodal_losses.DeepKernel`, whose kernels may be sums).
        weights: One weight ≥ 0 per kernel; None is the mean.
        learn: Learn the weights, from these on (> 0). They are the sum of these times
            the softmax of the parameter ``logits``: positive, and of one sum, so that
            no loss is changed by scaling the kernel. For weights in closed form see
            :func:`~xmodal_losses.two_sample.fit_weights`.

    Examples:
        >>> import xmodal_losses as xl
        >>> kernel = xl.MultiKernel([xl.GaussianKernel(s) for s in (0.5, 1.0, 2.0)])
    """

    logits: nn.Parameter | None

    def __init__(
        self,
        kernels: Sequence[Kernel],
        weights: Sequence[float] | None = None,
        *,
        learn: bool = False,
    ) -> None:
        super().__init__()
        checks.several("MultiKernel", "kernels", kernels, "kernels")
        kernels = list(kernels)
        if not kernels or not all(isinstance(kernel, Kernel) for kernel in kernels):
            got = [type(kernel).__name__ for kernel in kernels]
            raise TypeError(
                f"MultiKernel: kernels must be one Kernel or more, got {got}."
            )
        for i, kernel in enumerate(kernels):
            refuse_maps("MultiKernel", f"kernels[{i}]", kernel)
        if weights is None:
            weights = [1 / len(kernels)] * len(kernels)
        checks.several("MultiKernel", "weights", weights, "numbers")
        weights = list(weights)
        if len(weights) != len(kernels):
            raise ValueError(
                f"MultiKernel: weights must be one per kernel ({len(kernels)}), got "
                f"{len(weights)}."
            )
        checks.flag("MultiKernel", "learn", learn)
        for i, weight in enumerate(weights):
            limit = {"above": 0.0} if learn else {"at_least": 0.0}
            checks.number("MultiKernel", f"weights[{i}]", weight, **limit)
        self.kernels = nn.ModuleList(kernels)
        self._weights = tuple(float(weight) for weight in weights)
        logits = nn.Parameter(torch.tensor(self._weights).log()) if learn else None
        self.register_parameter("logits", logits)
        order: tuple[Shift, ...] = ("invariant", "balanced", "sensitive")
        self.shift = order[max(order.index(kernel.shift) for kernel in kernels)]

    @property
    def weights(self) -> tuple[float, ...] | Tensor:
        """The weights: numbers, or a tensor ``(U,)`` if they are learned."""
        if self.logits is None:
            return self._weights
        return sum(self._weights) * self.logits.softmax(0)

    def bind(self, pool: Pool) -> pairs.Kernel:
        """See :meth:`Kernel.bind`."""
        bound: list[pairs.Kernel] = [
            kernel.bind(pool)  # type: ignore[operator]  # a ModuleList of kernels
            for kernel in self.kernels
        ]
        weights = self.weights
        if isinstance(weights, Tensor):
            weights = weights.to(pool.like.dtype)

        def kernel(p: Pairs) -> Tensor:
            total = weights[0] * bound[0](p)
            for u in range(1, len(bound)):
                total = total + weights[u] * bound[u](p)
            return total

        return kernel

    def extra_repr(self) -> str:
        """Return the options."""
        weights = self.weights
        if isinstance(weights, Tensor):
            weights = tuple(weights.tolist())
        shown = "weights=(" + ", ".join(f"{weight:.4g}" for weight in weights) + ")"
        return shown if self.logits is None else f"{shown}, learn=True"


def leaves(
    kernel: Kernel, weight: float | Tensor = 1.0
) -> Iterator[tuple[float | Tensor, Kernel]]:
    """Yield the kernels of a nested sum, each with its weight."""
    if type(kernel) is not MultiKernel:
        yield weight, kernel
        return
    for one, member in zip(kernel.weights, kernel.kernels, strict=True):
        assert isinstance(member, Kernel)
        yield from leaves(member, weight * one)


def refuse_maps(caller: str, name: str, kernel: Kernel) -> None:
    """Raise for a kernel that maps rows, where rows are taken as they are."""
    if kernel.maps_rows:
        raise TypeError(
            f"{caller}: {name} must be a kernel of the rows it is given, got "
            f"{type(kernel).__name__}. Its own kernels may be sums."
        )


# σ² = σ₀²·{¼, ½, 1, 2, 4}
DEFAULT = MultiKernel([GaussianKernel(factor=2 ** (k / 2)) for k in range(-2, 3)])
