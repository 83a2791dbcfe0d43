"""Kernels for :func:`xmodal_losses.functional.mmd`, and what one's own are made of."""

from xmodal_losses._core.pairs import Pairs, Pool
from xmodal_losses.distribution.base_kernel import Kernel
from xmodal_losses.distribution.deep_kernel import DeepKernel
from xmodal_losses.distribution.joint_kernel import JointKernel
from xmodal_losses.distribution.kernels import (
    EnergyKernel,
    GaussianKernel,
    InverseMultiquadricKernel,
    LaplacianKernel,
    LinearKernel,
    MaternKernel,
    PolynomialKernel,
    RationalQuadraticKernel,
)
from xmodal_losses.distribution.multi_kernel import MultiKernel
from xmodal_losses.distribution.random_features import RandomFeatures

__all__ = [
    "DeepKernel",
    "EnergyKernel",
    "GaussianKernel",
    "InverseMultiquadricKernel",
    "JointKernel",
    "Kernel",
    "LaplacianKernel",
    "LinearKernel",
    "MaternKernel",
    "MultiKernel",
    "Pairs",
    "PolynomialKernel",
    "Pool",
    "RandomFeatures",
    "RationalQuadraticKernel",
]
