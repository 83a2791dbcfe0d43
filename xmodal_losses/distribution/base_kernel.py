"""What a kernel is, and a kernel with a bandwidth."""

import math
from collections.abc import Callable
from typing import Literal, TypeAlias

import torch
from torch import Tensor, nn

from xmodal_losses._core import checks, pairs, precision
from xmodal_losses._core.pairs import Pairs, Pool

__all__ = ["Bandwidth", "Bind", "Kernel", "ScaledKernel", "Shift", "check_kernel"]

Shift: TypeAlias = Literal["invariant", "balanced", "sensitive"]
Bandwidth: TypeAlias = float | Tensor | Literal["mean", "median"]
Bind: TypeAlias = Callable[[Pool], pairs.Kernel]


class Kernel(nn.Module):
    """Base of the kernels: ``kernel(x, y)`` is the matrix of k(x_i, y_j).

    To write one, override :meth:`bind`, and say what :attr:`shift` is.

    Examples:
        >>> import torch, xmodal_losses as xl
        >>> class CauchyKernel(xl.Kernel):
        ...     def bind(self, pool):
        ...         d2 = pool.mean_squared_distance()[..., None, None]
        ...         return lambda pairs: 1 / (1 + pairs.squared_distance() / d2)
        >>> criterion = xl.MMDLoss(kernel=CauchyKernel())
        >>> value = criterion(torch.randn(6, 2), torch.ones(4, 2))
    """

    shift: Shift = "invariant"
    """Whether it matters that all points are shifted. ``"invariant"``, not at all;
    ``"balanced"``, not to an MMD in which every row meets the same weight of others
    (all but the weighted U-statistic); ``"sensitive"``, it does."""

    of_features: bool = False
    """Whether :meth:`bind` returns an inner product of features, which sums over pairs
    need no pairs for."""

    maps_rows: bool = False
    """Whether the kernel is one of rows that it makes of those it is given."""

    def __init__(self) -> None:
        super().__init__()

    def bind(self, pool: Pool) -> pairs.Kernel:
        """Return the kernel as a function of pairs, its bandwidth taken from ``pool``.

        Args:
            pool: The pooled sample.

        Returns:
            A function from what is known of the pairs of two batches (inner products,
            distances) to the matrix ``(…, N, M)``. It is called for every tile.
        """
        raise NotImplementedError

    def lift(self, x: Tensor, y: Tensor) -> tuple[Tensor, Tensor, Bind]:
        """Return the rows that pairs are made of, and what binds a pool of those.

        For a kernel that maps rows first: they are mapped here, once, before they are
        paired in tiles or sent to other ranks.
        """
        return x, y, self.bind

    def forward(self, x: Tensor, y: Tensor) -> Tensor:
        """Return the matrix k(x_i, y_j), ``(…, N, M)``, in float32 or wider."""
        checks.embeddings(type(self).__name__, x, y, paired=False)
        dtype = precision.compute_dtype(x, y)
        with precision.no_autocast(x):
            wide_x = x.to(dtype)
            wide_y = wide_x if y is x else y.to(dtype)
            wide_x, wide_y, bind = self.lift(wide_x, wide_y)
            k = bind(Pool(torch.cat((wide_x, wide_y), -2)))
            return k(Pairs(wide_x, wide_y))


def check_kernel(
    caller: str, kernel: object, *, name: str = "kernel", optional: bool = False
) -> None:
    """Require a kernel, or None."""
    if not isinstance(kernel, Kernel) and not (optional and kernel is None):
        raise TypeError(
            f"{caller}: {name} must be a Kernel{' or None' if optional else ''}, got "
            f"{type(kernel).__name__}. See xmodal_losses.kernels."
        )


class ScaledKernel(Kernel):
    """A kernel with a bandwidth."""

    bandwidth: Bandwidth
    log_factor: nn.Parameter | None

    def __init__(
        self,
        bandwidth: Bandwidth = "mean",
        *,
        factor: float = 1.0,
        learn: bool = False,
    ) -> None:
        super().__init__()
        name = type(self).__name__
        checks.number(name, "factor", factor, above=0.0)
        if isinstance(bandwidth, str):
            if bandwidth not in ("mean", "median"):
                raise ValueError(
                    f"{name}: bandwidth must be a number > 0, a tensor of shape (), "
                    f"'mean' or 'median', got {bandwidth!r}."
                )
        else:
            checks.positive_scalar(name, "bandwidth", bandwidth)
            if factor != 1.0:
                raise ValueError(
                    f"{name}: factor must be 1 unless the bandwidth is a rule, got "
                    f"{factor!r}. Multiply the bandwidth itself."
                )
        if isinstance(bandwidth, Tensor) and not isinstance(bandwidth, nn.Parameter):
            self.register_buffer("bandwidth", bandwidth)
        else:
            self.bandwidth = bandwidth
        checks.flag(name, "learn", learn)
        if learn and isinstance(bandwidth, Tensor):
            raise ValueError(
                f"{name}: learn must be False for a bandwidth that is a tensor, got "
                "True. A parameter is learned as it is."
            )
        self.factor = factor
        start = nn.Parameter(torch.tensor(math.log(factor))) if learn else None
        self.register_parameter("log_factor", start)

    def sigma(self, pool: Pool) -> Tensor:
        """Return the bandwidth for every problem, ``(…, 1, 1)`` or ``()``."""
        sigma, factor = self._base(pool), self.log_factor
        if factor is None:
            return sigma if self.factor == 1.0 else self.factor * sigma
        # Wider, or narrower, is a constant, or the identity. Some optimisers go there,
        # and σ² would overflow.
        return factor.to(sigma.dtype).clamp(-30, 30).exp() * sigma

    def _base(self, pool: Pool) -> Tensor:
        """Return the bandwidth without its factor."""
        like = pool.like
        if isinstance(self.bandwidth, Tensor):
            return self.bandwidth.to(like.dtype)
        if not isinstance(self.bandwidth, str):
            return like.new_full((), self.bandwidth)
        squared = (
            pool.mean_squared_distance()
            if self.bandwidth == "mean"
            else pool.median_squared_distance()
        )
        # All points equal, or so near that squares are no longer normal numbers: every
        # kernel is constant then, whatever its bandwidth.
        info = torch.finfo(squared.dtype)
        sigma = (squared / 2).masked_fill(squared < info.tiny / info.eps, 1.0).sqrt()
        return sigma[..., None, None]

    def extra_repr(self) -> str:
        """Return the options."""
        b = self.bandwidth
        shown = (
            f"bandwidth={b.item():.4g}" if isinstance(b, Tensor) else f"bandwidth={b!r}"
        )
        if self.log_factor is not None:
            return f"{shown}, factor={self.log_factor.exp().item():.4g}, learn=True"
        return shown if self.factor == 1.0 else f"{shown}, factor={self.factor:.4g}"
