"""The kernels, evaluated pair by pair, under the names and options of the package."""

from dataclasses import dataclass, field
from itertools import combinations

import numpy as np


def squared_distance(x, y):
    """Return ‖x - y‖² (no conjugate)."""
    return ((x - y) ** 2).sum()


def _distance(x, y):
    d2 = squared_distance(x, y)
    return np.sqrt(d2) if d2 != 0 else d2


def resolve(bandwidth, factor, pool):
    """Return the length σ that a rule gives on the pooled sample, times the factor."""
    if not isinstance(bandwidth, str):
        return bandwidth
    squares = [squared_distance(x, y) for x, y in combinations(pool, 2)]
    typical = np.mean(squares) if bandwidth == "mean" else np.median(squares)
    return factor * (np.sqrt(typical / 2) if typical > 0 else 1.0)


@dataclass(frozen=True)
class _Scaled:
    bandwidth: float | str = "mean"
    factor: float = field(default=1.0, kw_only=True)

    def fixed(self, pool):
        """Return the kernel with its rule replaced by the length it gives on pool."""
        sigma = resolve(self.bandwidth, self.factor, pool)
        options = {k: v for k, v in vars(self).items() if k != "factor"}
        return type(self)(**{**options, "bandwidth": sigma})


class GaussianKernel(_Scaled):
    """exp(-d²/2σ²)."""

    def __call__(self, x, y):
        return np.exp(-squared_distance(x, y) / (2 * self.bandwidth**2))


@dataclass(frozen=True)
class LaplacianKernel(_Scaled):
    """exp(-‖x - y‖_p/σ), p = 1 or 2."""

    norm: int = field(default=2, kw_only=True)

    def __call__(self, x, y):
        if self.norm == 2:
            return np.exp(-_distance(x, y) / self.bandwidth)
        difference = x - y
        return np.exp(-(np.sign(difference.real) * difference).sum() / self.bandwidth)


class InverseMultiquadricKernel(_Scaled):
    """(1 + d²/σ²)^(-1/2)."""

    def __call__(self, x, y):
        return 1 / np.sqrt(1 + squared_distance(x, y) / self.bandwidth**2)


@dataclass(frozen=True)
class RationalQuadraticKernel(_Scaled):
    """(1 + d²/(2ασ²))^(-α)."""

    alpha: float = field(default=1.0, kw_only=True)

    def __call__(self, x, y):
        scaled = squared_distance(x, y) / (2 * self.alpha * self.bandwidth**2)
        return (1 + scaled) ** -self.alpha


@dataclass(frozen=True)
class MaternKernel(_Scaled):
    """Matérn of ν = ½, 1½ or 2½ in the Euclidean distance."""

    nu: float = field(default=1.5, kw_only=True)

    def __call__(self, x, y):
        d = _distance(x, y) / self.bandwidth
        if self.nu == 0.5:
            return np.exp(-d)
        if self.nu == 1.5:
            return (1 + np.sqrt(3) * d) * np.exp(-np.sqrt(3) * d)
        return (1 + np.sqrt(5) * d + 5 * d**2 / 3) * np.exp(-np.sqrt(5) * d)


@dataclass(frozen=True)
class _Unscaled:
    def fixed(self, pool):
        return self


@dataclass(frozen=True)
class PolynomialKernel(_Unscaled):
    """(γ x·y + c)^p, γ = 1/D unless given."""

    degree: int = 3
    gamma: float | None = None
    coef0: float = 1.0

    def __call__(self, x, y):
        gamma = 1 / len(x) if self.gamma is None else self.gamma
        return (gamma * (x * y).sum() + self.coef0) ** self.degree


class LinearKernel(_Unscaled):
    """x·y."""

    def __call__(self, x, y):
        return (x * y).sum()


class EnergyKernel(_Unscaled):
    """-‖x - y‖."""

    def __call__(self, x, y):
        return -_distance(x, y)


@dataclass(frozen=True)
class MultiKernel:
    """Σ_u w_u k_u, the mean unless weights are given."""

    kernels: tuple
    weights: tuple | None = None

    def fixed(self, pool):
        return MultiKernel(tuple(k.fixed(pool) for k in self.kernels), self.weights)

    def __call__(self, x, y):
        weights = self.weights or [1 / len(self.kernels)] * len(self.kernels)
        return sum(w * k(x, y) for w, k in zip(weights, self.kernels, strict=True))


@dataclass(frozen=True)
class JointKernel:
    """Π_l k_l(x^l, y^l), the parts of a row being cut at some columns."""

    kernels: tuple
    cuts: tuple

    def fixed(self, pool):
        parts = np.split(pool, self.cuts, axis=1)
        fixed = (k.fixed(part) for k, part in zip(self.kernels, parts, strict=True))
        return JointKernel(tuple(fixed), self.cuts)

    def __call__(self, x, y):
        parts = zip(np.split(x, self.cuts), np.split(y, self.cuts), strict=True)
        value = 1.0
        for kernel, (part_x, part_y) in zip(self.kernels, parts, strict=True):
            value = value * kernel(part_x, part_y)
        return value


@dataclass(frozen=True)
class RandomFeatures:
    """Σ_u w_u mean_f cos(w_uf·(x - y)/σ_u), w the frequencies of bandwidth 1."""

    kernel: object
    frequencies: tuple  # (U, F, D), for rows of another width repeated or cut

    def of_width(self, width):
        return np.array(
            [[np.resize(w, width) for w in of_kernel] for of_kernel in self.frequencies]
        )

    def fixed(self, pool):
        return RandomFeatures(self.kernel.fixed(pool), self.frequencies)

    def __call__(self, x, y):
        kernels = getattr(self.kernel, "kernels", (self.kernel,))
        weights = getattr(self.kernel, "weights", None)
        weights = weights or [1 / len(kernels)] * len(kernels)
        frequencies = self.of_width(len(x))
        return sum(
            weight * np.mean(np.cos(of_kernel @ (x - y) / kernel.bandwidth))
            for weight, kernel, of_kernel in zip(
                weights, kernels, frequencies, strict=True
            )
        )


@dataclass(frozen=True)
class DeepKernel:
    """[(1 - ε) κ(φ(x), φ(y)) + ε] q(x, y); φ maps one row."""

    network: object
    feature_kernel: object
    input_kernel: object
    epsilon: float

    def fixed(self, pool):
        features = np.array([self.network(row) for row in pool])
        return DeepKernel(
            self.network,
            self.feature_kernel.fixed(features),
            self.input_kernel.fixed(pool),
            self.epsilon,
        )

    def __call__(self, x, y):
        deep = self.feature_kernel(self.network(x), self.network(y))
        mixed = (1 - self.epsilon) * deep + self.epsilon
        return mixed * self.input_kernel(x, y)


DEFAULT = MultiKernel(
    tuple(GaussianKernel("mean", factor=2 ** (k / 2)) for k in range(-2, 3))
)
