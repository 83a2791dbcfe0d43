r"""Random features: a kernel from a sample of its frequencies.

A kernel that depends on :math:`x - y` is a mean over frequencies
(:cite:t:`rahimi2007random`), which F of them, drawn once, estimate without bias:

.. math::
    k(x, y) = \mathbb{E}_w \cos w^\top (x - y)
    \approx \tfrac{1}{F} \sum_f \cos w_f^\top x \, \cos w_f^\top y
                              + \sin w_f^\top x \, \sin w_f^\top y .

The right-hand side is a kernel itself, the inner product of 2F features of either row:
an MMD of it is a function of their means, in O((N + M)·F·D)
(:cite:t:`zhao2015fastmmd`). Its error against that of the left-hand side is
O(F^{-1/2}).
"""

from collections.abc import Callable

import torch
from torch import Tensor

from xmodal_losses._core import checks, pairs
from xmodal_losses._core.pairs import Pool
from xmodal_losses._core.pairs.kernel_mean import inner
from xmodal_losses.distribution.base_kernel import Kernel, ScaledKernel
from xmodal_losses.distribution.kernels import (
    GaussianKernel,
    InverseMultiquadricKernel,
    LaplacianKernel,
    MaternKernel,
)
from xmodal_losses.distribution.multi_kernel import leaves

__all__ = ["RandomFeatures"]


class RandomFeatures(Kernel):
    """A kernel of few frequencies, whose MMD takes O(N) time.

    Args:
        kernel: A Gaussian, Laplacian, Matérn or inverse multiquadric kernel, or a sum
            of these. Its bandwidths (given, learned or by rule) and weights are used.
        dim: D, the width of the rows.
        num_features: F, frequencies of every kernel of the sum; there are two features
            of each.
        generator: What to draw the frequencies from; None is torch's own.

    State: that of the kernel, and ``frequencies``, a buffer ``(U, F, D)``: those of U
    kernels of bandwidth 1.

    Examples:
        >>> import torch, xmodal_losses as xl
        >>> kernel = xl.RandomFeatures(xl.GaussianKernel("mean"), 128, num_features=256)
        >>> loss = xl.MMDLoss(kernel=kernel)(torch.randn(8, 128), torch.randn(6, 128))
    """

    of_features = True
    frequencies: Tensor

    def __init__(
        self,
        kernel: Kernel,
        dim: int,
        *,
        num_features: int = 256,
        generator: torch.Generator | None = None,
    ) -> None:
        super().__init__()
        checks.count("RandomFeatures", "dim", dim)
        checks.count("RandomFeatures", "num_features", num_features)
        checks.generator("RandomFeatures", generator)
        kernels = [leaf for _, leaf in leaves(kernel)]
        for leaf in kernels:
            if type(leaf) not in _SPECTRA:
                names = ", ".join(kind.__name__ for kind in _SPECTRA)
                raise TypeError(
                    f"RandomFeatures: kernel must be one of {names}, or a MultiKernel "
                    f"of these, got {type(leaf).__name__}."
                )

        def normal(*shape: int) -> Tensor:
            device = None if generator is None else generator.device
            return torch.randn(shape, generator=generator, device=device)

        drawn = [
            _SPECTRA[type(leaf)](leaf, normal, num_features, dim) for leaf in kernels
        ]
        self.kernel = kernel
        self.register_buffer("frequencies", torch.stack(drawn))

    def bind(self, pool: Pool) -> pairs.Kernel:
        """See :meth:`Kernel.bind`."""
        _, num, dim = self.frequencies.shape
        got = pool.like.shape[-1]
        if got != dim:
            raise ValueError(
                f"RandomFeatures: dim must be the width of the rows, {got}, got {dim}."
            )
        parts = []
        for u, (weight, leaf) in enumerate(leaves(self.kernel)):
            assert isinstance(leaf, ScaledKernel)
            scale = (weight / num) ** 0.5
            parts.append((self.frequencies[u], leaf.sigma(pool), scale))

        def features(rows: Tensor) -> Tensor:
            out = []
            for frequencies, sigma, scale in parts:
                phase = inner(rows, frequencies.to(rows.dtype)) / sigma
                if isinstance(scale, Tensor):
                    scale = scale.to(rows.dtype)
                out += [scale * phase.cos(), scale * phase.sin()]
            return torch.cat(out, -1)

        return pairs.Features(features)

    def extra_repr(self) -> str:
        """Return the options."""
        _, num, dim = self.frequencies.shape
        return f"dim={dim}, num_features={num}"


# Normal(F, D) over the spread of its scale mixture.
_Normal = Callable[..., Tensor]


def _gaussian(_: Kernel, normal: _Normal, num: int, dim: int) -> Tensor:
    return normal(num, dim)


def _laplacian(kernel: Kernel, normal: _Normal, num: int, dim: int) -> Tensor:
    """Cauchy: one for all coordinates, or one for each with the 1-norm."""
    assert isinstance(kernel, LaplacianKernel)
    return normal(num, dim) / normal(num, 1 if kernel.norm == 2 else dim).abs()


def _matern(kernel: Kernel, normal: _Normal, num: int, dim: int) -> Tensor:
    """Student's t of 2ν degrees of freedom."""
    assert isinstance(kernel, MaternKernel)
    degrees = round(2 * kernel.nu)
    chi2 = normal(num, degrees).square().sum(-1, keepdim=True)
    return normal(num, dim) * (degrees / chi2).sqrt()


def _multiquadric(_: Kernel, normal: _Normal, num: int, dim: int) -> Tensor:
    """E exp(−s²d²/2) = (1 + d²)^(−1/2) for a normal s."""
    return normal(num, dim) * normal(num, 1)


_SPECTRA: dict[type, Callable[[Kernel, _Normal, int, int], Tensor]] = {
    GaussianKernel: _gaussian,
    LaplacianKernel: _laplacian,
    MaternKernel: _matern,
    InverseMultiquadricKernel: _multiquadric,
}
