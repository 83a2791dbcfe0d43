"""One exchange for all losses that look at the moments of the same rows."""

from torch import Tensor

from xmodal_losses._core import checks, precision
from xmodal_losses._core.moments.across_ranks import Exchange, pair_of
from xmodal_losses._core.moments.pair import Pair
from xmodal_losses._core.ranks import Ranks

# Moments of rows that belong together, and of columns that do.
PAIRED = frozenset({"ab", "square_gap"})
SAME_WIDTH = frozenset({"mean_gap", "square_gap", "variance_a"})


def shared_pair(
    caller: str,
    names: frozenset[str],
    z_a: Tensor,
    z_b: Tensor,
    weight_a: Tensor | None,
    weight_b: Tensor | None,
    *,
    ranks: Ranks | None,
    exchange: Exchange | None,
) -> Pair:
    """Check rows of several ranks, and return all moments that any loss looks at.

    The moments of all are added up in the three exchanges of one loss, each of them
    once; or the rows are gathered once.
    """
    checks.embeddings(
        caller,
        z_a,
        z_b,
        paired=bool(names & PAIRED),
        same_width=bool(names & SAME_WIDTH),
        min_rows=0,
    )
    checks.row_weight(caller, "weight of z_a", weight_a, z_a)
    checks.row_weight(caller, "weight of z_b", weight_b, z_b)
    dtype = precision.compute_dtype(z_a, z_b)
    return pair_of(
        caller,
        names,
        z_a.to(dtype),
        z_b.to(dtype),
        weight_a,
        weight_b,
        ranks=ranks,
        exchange=exchange,
    )
