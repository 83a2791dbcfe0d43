"""Kernels for :func:`xmodal_losses.functional.mmd`."""

from xmodal_losses.distribution.kernels import (
    EnergyKernel,
    GaussianKernel,
    InverseMultiquadricKernel,
    Kernel,
    LaplacianKernel,
    LinearKernel,
    MaternKernel,
    MultiKernel,
    PolynomialKernel,
    RationalQuadraticKernel,
)

__all__ = [
    "EnergyKernel",
    "GaussianKernel",
    "InverseMultiquadricKernel",
    "Kernel",
    "LaplacianKernel",
    "LinearKernel",
    "MaternKernel",
    "MultiKernel",
    "PolynomialKernel",
    "RationalQuadraticKernel",
]
