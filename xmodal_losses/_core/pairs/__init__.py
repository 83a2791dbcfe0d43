"""The pairs engine: losses that are functions of all N×M pairs of rows.

Contrastive losses ask for the log-sum-exp of each row's negatives, kernel losses for
the mean of a kernel over the pairs. How the N×M matrix is walked is decided here.
"""

from xmodal_losses._core.pairs.contrast import NEGATIVES, Contrast, Negatives
from xmodal_losses._core.pairs.discrepancy import discrepancy
from xmodal_losses._core.pairs.gaussians import Mixture
from xmodal_losses._core.pairs.kernel_mean import Kernel, Pairs, Pool
from xmodal_losses._core.pairs.log_sum_exp import Sides, Slopes

__all__ = [
    "NEGATIVES",
    "Contrast",
    "Kernel",
    "Mixture",
    "Negatives",
    "Pairs",
    "Pool",
    "Sides",
    "Slopes",
    "discrepancy",
]
