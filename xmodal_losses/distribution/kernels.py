r"""Kernels for the maximum mean discrepancy.

A kernel module maps rows ``x (…, N, D)`` and ``y (…, M, D)`` to the matrix
:math:`k(x_i, y_j)`, ``(…, N, M)``. With :math:`d = \lVert x - y \rVert_2`:

======================================= ===============================================
:class:`GaussianKernel`                 :math:`\exp(-d^2 / 2\sigma^2)`
:class:`LaplacianKernel`                :math:`\exp(-\lVert x - y \rVert_p / \sigma)`
:class:`InverseMultiquadricKernel`      :math:`(1 + d^2 / \sigma^2)^{-1/2}`
:class:`RationalQuadraticKernel`        :math:`(1 + d^2 / 2\alpha\sigma^2)^{-\alpha}`
:class:`MaternKernel`                   Matérn of order ν in :math:`d / \sigma`
:class:`EnergyKernel`                   :math:`-d`
:class:`LinearKernel`                   :math:`\langle x, y \rangle`
:class:`PolynomialKernel`               :math:`(\gamma \langle x, y \rangle + c)^p`
:class:`~xmodal_losses.MultiKernel`     :math:`\sum_u w_u k_u`
:class:`~xmodal_losses.JointKernel`     :math:`\prod_l k_l`, each of some columns
:class:`~xmodal_losses.DeepKernel`      a kernel of what a network makes of rows
:class:`~xmodal_losses.RandomFeatures`  one of these, from random frequencies
======================================= ===============================================

The bandwidth σ is a length, in the units of the embeddings: a number, a scalar tensor
(a parameter is learned), or a rule that takes it from the pooled sample of each
problem, without gradient: ``"mean"`` sets σ² to half the mean squared distance over
i ≠ j, which needs no pairwise matrix; ``"median"`` to half the median, which does (of
a fixed choice of 2048 rows where there are more). ``factor`` then multiplies σ. A
sample of identical points gets σ = 1. With ``learn=True`` the factor is exp of the
parameter ``log_factor``, for a number as for a rule: σ stays positive, within e^±30
times what it was.

References: :cite:t:`gretton2012kernel`; sums of kernels: :cite:t:`long2015learning`;
the energy kernel makes the MMD the energy distance of :cite:t:`szekely2013energy`.
"""

import math
from typing import Literal

import torch
from torch import Tensor

from xmodal_losses._core import checks, pairs
from xmodal_losses._core.pairs import Pairs, Pool
from xmodal_losses.distribution.base_kernel import (
    Bandwidth,
    Kernel,
    ScaledKernel,
    Shift,
)

__all__ = [
    "EnergyKernel",
    "GaussianKernel",
    "InverseMultiquadricKernel",
    "LaplacianKernel",
    "LinearKernel",
    "MaternKernel",
    "PolynomialKernel",
    "RationalQuadraticKernel",
]


class GaussianKernel(ScaledKernel):
    """The kernel exp(−d²/2σ²).

    Args:
        bandwidth: σ > 0: a number, a tensor of shape ``()``, ``"mean"`` or
            ``"median"``.
        factor: > 0, multiplies the σ of a rule.
        learn: Learn the factor, from this one on.

    Examples:
        >>> import torch, xmodal_losses as xl
        >>> xl.GaussianKernel(1.0)(torch.zeros(1, 2), torch.ones(3, 2))
        tensor([[0.3679, 0.3679, 0.3679]])
    """

    def bind(self, pool: Pool) -> pairs.Kernel:
        """See :meth:`Kernel.bind`."""
        rate = 1 / (2 * self.sigma(pool).square())
        return lambda p: torch.exp(-rate * p.squared_distance())


class LaplacianKernel(ScaledKernel):
    """The kernel exp(−‖x − y‖_p/σ).

    Args:
        bandwidth: σ > 0: a number, a tensor of shape ``()``, ``"mean"`` or
            ``"median"`` (of Euclidean distances, for either norm).
        factor: > 0, multiplies the σ of a rule.
        learn: Learn the factor, from this one on.
        norm: p: 2, or 1, which holds an N×M×D tensor.

    Note:
        The gradient between coinciding points, where the kernel has a kink, is 0.
    """

    def __init__(
        self,
        bandwidth: Bandwidth = "mean",
        *,
        factor: float = 1.0,
        learn: bool = False,
        norm: Literal[1, 2] = 2,
    ) -> None:
        super().__init__(bandwidth, factor=factor, learn=learn)
        checks.option("LaplacianKernel", "norm", norm, (1, 2))
        self.norm = norm

    def bind(self, pool: Pool) -> pairs.Kernel:
        """See :meth:`Kernel.bind`."""
        sigma = self.sigma(pool)
        if self.norm == 1:
            return lambda p: torch.exp(-p.manhattan() / sigma)
        return lambda p: torch.exp(-p.distance() / sigma)

    def extra_repr(self) -> str:
        """Return the options."""
        return f"{super().extra_repr()}, norm={self.norm}"


class InverseMultiquadricKernel(ScaledKernel):
    """The kernel (1 + d²/σ²)^(−1/2): heavier tails than a Gaussian.

    Args:
        bandwidth: σ > 0: a number, a tensor of shape ``()``, ``"mean"`` or
            ``"median"``.
        factor: > 0, multiplies the σ of a rule.
        learn: Learn the factor, from this one on.
    """

    def bind(self, pool: Pool) -> pairs.Kernel:
        """See :meth:`Kernel.bind`."""
        rate = 1 / self.sigma(pool).square()
        return lambda p: (1 + rate * p.squared_distance()).rsqrt()


class RationalQuadraticKernel(ScaledKernel):
    """The kernel (1 + d²/2ασ²)^(−α): a Gaussian mixed over its bandwidth.

    Args:
        bandwidth: σ > 0: a number, a tensor of shape ``()``, ``"mean"`` or
            ``"median"``.
        factor: > 0, multiplies the σ of a rule.
        learn: Learn the factor, from this one on.
        alpha: α > 0; the Gaussian is the limit of large α.
    """

    def __init__(
        self,
        bandwidth: Bandwidth = "mean",
        *,
        factor: float = 1.0,
        learn: bool = False,
        alpha: float = 1.0,
    ) -> None:
        super().__init__(bandwidth, factor=factor, learn=learn)
        checks.number("RationalQuadraticKernel", "alpha", alpha, above=0.0)
        self.alpha = alpha

    def bind(self, pool: Pool) -> pairs.Kernel:
        """See :meth:`Kernel.bind`."""
        rate = 1 / (2 * self.alpha * self.sigma(pool).square())
        return lambda p: (1 + rate * p.squared_distance()) ** -self.alpha

    def extra_repr(self) -> str:
        """Return the options."""
        return f"{super().extra_repr()}, alpha={self.alpha:.4g}"


class MaternKernel(ScaledKernel):
    """The Matérn kernel of order ν, with a = d/σ.

    exp(−a) for ν = ½; (1 + √3a) exp(−√3a) for 3/2; (1 + √5a + 5a²/3) exp(−√5a) for 5/2.

    Args:
        bandwidth: σ > 0: a number, a tensor of shape ``()``, ``"mean"`` or
            ``"median"``.
        factor: > 0, multiplies the σ of a rule.
        learn: Learn the factor, from this one on.
        nu: ν: 0.5, 1.5 or 2.5.
    """

    def __init__(
        self,
        bandwidth: Bandwidth = "mean",
        *,
        factor: float = 1.0,
        learn: bool = False,
        nu: float = 1.5,
    ) -> None:
        super().__init__(bandwidth, factor=factor, learn=learn)
        checks.option("MaternKernel", "nu", nu, (0.5, 1.5, 2.5))
        self.nu = nu

    def bind(self, pool: Pool) -> pairs.Kernel:
        """See :meth:`Kernel.bind`."""
        sigma = self.sigma(pool)

        def kernel(p: Pairs) -> Tensor:
            a = math.sqrt(2 * self.nu) * p.distance() / sigma
            if self.nu == 0.5:
                return torch.exp(-a)
            if self.nu == 1.5:
                return (1 + a) * torch.exp(-a)
            return (1 + a + a.square() / 3) * torch.exp(-a)

        return kernel

    def extra_repr(self) -> str:
        """Return the options."""
        return f"{super().extra_repr()}, nu={self.nu}"


class EnergyKernel(Kernel):
    """The kernel −‖x − y‖: the MMD is the energy distance. It has no bandwidth.

    Conditionally positive definite, which is enough for a (non-negative) MMD. The
    gradient between coinciding points, where the kernel has a kink, is 0.
    """

    def bind(self, pool: Pool) -> pairs.Kernel:
        """See :meth:`Kernel.bind`."""
        return lambda p: -p.distance()


class LinearKernel(Kernel):
    """The kernel ⟨x, y⟩: the MMD is the squared distance of the means, in O(N D)."""

    shift: Shift = "balanced"
    of_features = True

    def bind(self, pool: Pool) -> pairs.Kernel:
        """See :meth:`Kernel.bind`."""
        return pairs.Features(lambda rows: rows)


class PolynomialKernel(Kernel):
    """The kernel (γ⟨x, y⟩ + c)^p: it compares the moments up to order p.

    Args:
        degree: p ≥ 1, an integer.
        gamma: γ > 0; None is 1/D.
        coef0: c ≥ 0.
    """

    shift: Shift = "sensitive"

    def __init__(
        self, degree: int = 3, gamma: float | None = None, coef0: float = 1.0
    ) -> None:
        super().__init__()
        checks.count("PolynomialKernel", "degree", degree)
        if gamma is not None:
            checks.number("PolynomialKernel", "gamma", gamma, above=0.0)
        checks.number("PolynomialKernel", "coef0", coef0, at_least=0.0)
        self.degree = degree
        self.gamma = gamma
        self.coef0 = coef0

    def bind(self, pool: Pool) -> pairs.Kernel:
        """See :meth:`Kernel.bind`."""
        gamma = 1 / pool.like.shape[-1] if self.gamma is None else self.gamma
        return lambda p: (gamma * p.inner() + self.coef0) ** self.degree

    def extra_repr(self) -> str:
        """Return the options."""
        return f"degree={self.degree}, gamma={self.gamma}, coef0={self.coef0}"
