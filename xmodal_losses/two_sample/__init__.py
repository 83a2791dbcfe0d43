"""Is there still a gap? Two-sample tests of features of two modalities."""

from xmodal_losses.two_sample.mmd import mmd_agg
from xmodal_losses.two_sample.result import KernelTest, MMDAggResult

__all__ = ["KernelTest", "MMDAggResult", "mmd_agg"]
