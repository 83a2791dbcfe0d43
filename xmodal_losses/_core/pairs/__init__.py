"""The pairs engine: losses that are functions of all N×M pairs of rows.

Contrastive losses ask for the log-sum-exp of each row's negatives, kernel losses for
the mean of a kernel over the pairs. How the N×M matrix is walked is decided here.
"""

from xmodal_losses._core.pairs.across_ranks import (
    EXCHANGES,
    NEGATIVES,
    Exchange,
    Negatives,
    Walk,
    meet,
    meet_both,
)
from xmodal_losses._core.pairs.anchors import Anchors, anchors, log_sums, of_sides
from xmodal_losses._core.pairs.contrast import Contrast
from xmodal_losses._core.pairs.discrepancy import discrepancy
from xmodal_losses._core.pairs.discrepancy_across_ranks import (
    Batch,
    discrepancy_across_ranks,
)
from xmodal_losses._core.pairs.extra import ExtraNegatives
from xmodal_losses._core.pairs.features import Features, feature_discrepancy
from xmodal_losses._core.pairs.gaussians import Mixture
from xmodal_losses._core.pairs.hardest import floor
from xmodal_losses._core.pairs.kernel_mean import Kernel, Pairs
from xmodal_losses._core.pairs.labelled import check_labelled, labelled
from xmodal_losses._core.pairs.log_sum_exp import Sides, Slopes
from xmodal_losses._core.pairs.paired import (
    check_jitter,
    check_options,
    paired,
    widest,
)
from xmodal_losses._core.pairs.pool import Pool, PoolAcrossRanks
from xmodal_losses._core.pairs.scales import against, scaled, shifted
from xmodal_losses._core.pairs.similarity_gap import similarity_gap
from xmodal_losses._core.pairs.targets import uniform_mean, weighted_mean

__all__ = [
    "EXCHANGES",
    "NEGATIVES",
    "Anchors",
    "Batch",
    "Contrast",
    "Exchange",
    "ExtraNegatives",
    "Features",
    "Kernel",
    "Mixture",
    "Negatives",
    "Pairs",
    "Pool",
    "PoolAcrossRanks",
    "Sides",
    "Slopes",
    "Walk",
    "against",
    "anchors",
    "check_jitter",
    "check_labelled",
    "check_options",
    "discrepancy",
    "discrepancy_across_ranks",
    "feature_discrepancy",
    "floor",
    "labelled",
    "log_sums",
    "meet",
    "meet_both",
    "of_sides",
    "paired",
    "scaled",
    "shifted",
    "similarity_gap",
    "uniform_mean",
    "weighted_mean",
    "widest",
]
