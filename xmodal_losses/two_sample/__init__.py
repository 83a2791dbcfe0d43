"""Tests of whether two batches have one distribution."""

from xmodal_losses.two_sample.deep_kernel import (
    Split,
    deep_kernel_test,
    fit_kernel,
    split,
)
from xmodal_losses.two_sample.power import fit_weights, power_criterion
from xmodal_losses.two_sample.relabelling import KernelTestResult, kernel_test

__all__ = [
    "KernelTestResult",
    "Split",
    "deep_kernel_test",
    "fit_kernel",
    "fit_weights",
    "kernel_test",
    "power_criterion",
    "split",
]
