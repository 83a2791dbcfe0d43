"""Second moments of batches that lie on several ranks.

Two ways, and the same result. Moments are added up over ranks: O(D²) numbers, however
many rows there are. Or all rows go to all ranks, O(N·D) numbers, and products may be
N×N: less where there are far more columns than rows. Either way the loss is then known
to all ranks alike, and none has to send anything back for the gradient.
"""

from typing import Any, Literal, TypeAlias

import torch
from torch import Tensor

from xmodal_losses._core.function import Function
from xmodal_losses._core.moments.accumulated import Accumulator, Summary
from xmodal_losses._core.moments.pair import Pair
from xmodal_losses._core.moments.rows import PairOfRows
from xmodal_losses._core.ranks import Ranks, refuse_twice

Exchange: TypeAlias = Literal["statistics", "gather"]
EXCHANGES = ("statistics", "gather")

# Up to so many columns moments are small whatever the number of rows, and nobody has to
# wait to be told it.
_FEW_COLUMNS = 512


def pair_of(
    caller: str,
    names: frozenset[str],
    z_a: Tensor,
    z_b: Tensor,
    weight_a: Tensor | None,
    weight_b: Tensor | None,
    *,
    ranks: Ranks | None,
    exchange: Exchange | None,
    wide: torch.dtype = torch.float64,
) -> Pair:
    """Return the moments of two batches, wherever their rows are.

    Problems of several leading indices are on one rank each; only their reduction goes
    across. Weights get no gradient across ranks.

    Args:
        caller: Who is called.
        names: The moments that are asked for, as for an :class:`Accumulator`.
        z_a: Rows, ``(…, N, D_a)``.
        z_b: Rows, ``(…, M, D_b)``.
        weight_a: ``(…, N)``, or None.
        weight_b: ``(…, M)``, or None.
        ranks: The ranks; None: all rows are here.
        exchange: "statistics", "gather" or None.
        wide: Dtype of covariances, where all rows are here.
    """
    if ranks is None or z_a.ndim > 2:
        return PairOfRows(z_a, z_b, weight_a, weight_b, wide=wide, ranks=ranks)
    weight_a, weight_b = (
        None if weight is None else weight.detach() for weight in (weight_a, weight_b)
    )
    counts = _counts_to_gather(
        caller, names, z_a, z_b, weight_a, weight_b, ranks, exchange
    )
    if counts is not None:
        of_a, of_b = counts
        w_a = None if weight_a is None else torch.cat(ranks.gather(weight_a, of_a, 0))
        w_b = None if weight_b is None else torch.cat(ranks.gather(weight_b, of_b, 0))
        z_a, z_b = ranks.rows(z_a, of_a), ranks.rows(z_b, of_b)
        return PairOfRows(z_a, z_b, w_a, w_b, wide=wide, ranks=ranks)
    return summary_of(names, z_a, z_b, weight_a, weight_b, ranks)


def summary_of(
    names: frozenset[str],
    z_a: Tensor,
    z_b: Tensor,
    weight_a: Tensor | None,
    weight_b: Tensor | None,
    ranks: Ranks | None,
) -> Summary:
    """Return the moments themselves, of the rows here or of all ranks.

    They have a gradient in the rows, and no second.
    """
    accumulator = Accumulator(names, z_a, z_b)
    moments = _Moments.call(z_a, z_b, weight_a, weight_b, accumulator, ranks)
    dtype = torch.promote_types(z_a.dtype, z_b.dtype)
    return accumulator.summary()._replace(
        moments=dict(zip(sorted(names), moments, strict=True)), dtype=dtype, ranks=ranks
    )


def _counts_to_gather(
    caller: str,
    names: frozenset[str],
    z_a: Tensor,
    z_b: Tensor,
    weight_a: Tensor | None,
    weight_b: Tensor | None,
    ranks: Ranks,
    exchange: Exchange | None,
) -> list[tuple[int, ...]] | None:
    """Return the rows of all ranks if they are to be gathered; None if moments are."""
    d_a, d_b = z_a.shape[-1], z_b.shape[-1]
    few = max(d_a, d_b) <= _FEW_COLUMNS
    if exchange == "statistics" or (exchange is None and few):
        return None
    alike = {"exchange must be the same": int(exchange == "gather")}
    counts = ranks.agree_on_batches(caller, z_a, z_b, weight_a, weight_b, alike)
    of_a, of_b = counts
    rows = sum(of_a) * d_a + sum(of_b) * d_b
    moments = d_a**2 * ("aa" in names) / 2 + d_b**2 * ("bb" in names) / 2
    moments += d_a * d_b * ("ab" in names)
    # Sums go to and fro, in float64.
    cheaper = rows * z_a.element_size() < 2 * 8 * moments
    return counts if exchange == "gather" or cheaper else None


class _Moments(Function):
    """The moments of all ranks, with the gradient of this one's rows.

    Whatever is made of them is made by all ranks alike, so that the derivatives by the
    moments are known here, and those of what all ranks return are W times as large.
    """

    @staticmethod
    def forward(
        z_a: Tensor,
        z_b: Tensor,
        weight_a: Tensor | None,
        weight_b: Tensor | None,
        accumulator: Accumulator,
        ranks: Ranks | None,
    ) -> tuple[Tensor, ...]:
        accumulator.update(z_a, z_b, weight_a, weight_b)
        if ranks is not None:
            accumulator.join(ranks)
        return tuple(accumulator.summary().moments.values())

    @staticmethod
    def setup_context(ctx: Any, inputs: Any, output: Any) -> None:
        *tensors, ctx.accumulator, ctx.ranks = inputs
        ctx.save_for_backward(*tensors)

    @staticmethod
    def backward(ctx: Any, *slopes: Tensor) -> Any:
        refuse_twice()
        z_a, z_b, weight_a, weight_b = ctx.saved_tensors
        accumulator = ctx.accumulator
        names = accumulator.summary().moments
        accumulator.take(dict(zip(names, slopes, strict=True)))
        grads = accumulator.gradients(z_a, z_b, weight_a, weight_b)
        factor = 1 if ctx.ranks is None else ctx.ranks.size
        grad_a, grad_b = (
            (factor * grad).to(z.dtype)
            for grad, z in zip(grads, (z_a, z_b), strict=True)
        )
        return grad_a, grad_b, None, None, None, None
