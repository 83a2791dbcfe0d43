"""The moments engine: a batch seen through its mean and second moments.

Losses are formulas over a :class:`Pair`, which says what can be asked (a covariance,
the energy off a diagonal). Who answers, and how, is decided here.
"""

from xmodal_losses._core.moments.accumulated import Accumulator, Side, Summary
from xmodal_losses._core.moments.across_ranks import (
    EXCHANGES,
    Exchange,
    pair_of,
    summary_of,
)
from xmodal_losses._core.moments.pair import Pair, Spread
from xmodal_losses._core.moments.products import Directions
from xmodal_losses._core.moments.rows import (
    Moments,
    PairOfRows,
    drop,
    moments,
    variance,
)
from xmodal_losses._core.moments.shared import PAIRED, SAME_WIDTH, shared_pair
from xmodal_losses._core.moments.views import Growth, Views

__all__ = [
    "EXCHANGES",
    "PAIRED",
    "SAME_WIDTH",
    "Accumulator",
    "Directions",
    "Exchange",
    "Growth",
    "Moments",
    "Pair",
    "PairOfRows",
    "Side",
    "Spread",
    "Summary",
    "Views",
    "drop",
    "moments",
    "pair_of",
    "shared_pair",
    "summary_of",
    "variance",
]
