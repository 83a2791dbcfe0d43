"""Is there still a gap? Two-sample tests of features of two modalities."""

from xmodal_losses.two_sample.deep_kernel import (
    Split,
    deep_kernel_test,
    fit_kernel,
    split,
)
from xmodal_losses.two_sample.mmd import mmd_agg
from xmodal_losses.two_sample.power import fit_weights, power_criterion
from xmodal_losses.two_sample.relabelling import kernel_test
from xmodal_losses.two_sample.result import (
    KernelTestResult,
    KernelVerdict,
    MMDAggResult,
)

__all__ = [
    "KernelTestResult",
    "KernelVerdict",
    "MMDAggResult",
    "Split",
    "deep_kernel_test",
    "fit_kernel",
    "fit_weights",
    "kernel_test",
    "mmd_agg",
    "power_criterion",
    "split",
]
