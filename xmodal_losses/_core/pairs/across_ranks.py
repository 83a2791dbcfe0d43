"""Log-sum-exps along both sides of the logits, of batches that lie on several ranks.

A rank makes the logits of its own rows with all columns, which come to it at once or
one rank's after the other's. Its rows are then known, the columns are joined over
ranks. In the backward pass the columns come once more (or are still there), each with
the gradient it has collected, which goes back to its owner. A rank makes 8·n·N·D
operations of N rows, n of them its own.
"""

from collections.abc import Iterator, Sequence
from typing import Any, Literal, NamedTuple, TypeAlias

import torch
from torch import Tensor

from xmodal_losses._core import checks
from xmodal_losses._core.function import Function
from xmodal_losses._core.pairs.left_out import LeftOut
from xmodal_losses._core.pairs.log_sum_exp import (
    Sides,
    Slopes,
    gradients,
    merged,
    of_nothing,
    packed,
    reduced,
)
from xmodal_losses._core.pairs.logits import Plan
from xmodal_losses._core.pairs.measures import Measures, least_rival
from xmodal_losses._core.ranks import Ranks, refuse_twice

Negatives: TypeAlias = Literal["group", "all", "cross"]
NEGATIVES = ("group", "all", "cross")
Exchange: TypeAlias = Literal["gather", "ring"]
EXCHANGES = ("gather", "ring")

# All columns at once take fewer and larger messages, one rank's after the other's less
# memory. Not tuned on any network.
_MOST_BYTES = 256 * 2**20


class Walk(NamedTuple):
    """How the columns of all ranks come to a rank."""

    ranks: Ranks
    counts: Sequence[int]  # columns of each rank
    exchange: Exchange | None  # None chooses

    def ring(self, y: Tensor) -> bool:
        """Tell whether columns y come one rank's after the other's."""
        if self.exchange is not None:
            return self.exchange == "ring"
        width = y.shape[0] * y.shape[2] * y.element_size()
        return sum(self.counts) * width > _MOST_BYTES

    def in_turn(self, y: Tensor) -> Iterator[tuple[int, Tensor]]:
        """Yield the columns of every rank, and whose they are."""
        if self.ring(y):
            return self.ranks.around(y.detach(), self.counts, 1)
        return enumerate(self.ranks.gather(y, self.counts, 1))

    def own_first(self, everyone: Sequence[Tensor]) -> list[tuple[int, Tensor]]:
        """Return the columns of every rank, and whose they are, as a ring begins."""
        return sorted(enumerate(everyone), key=lambda of: of[0] != self.ranks.rank)


def meet(
    caller: str,
    ranks: Ranks,
    exchange: Exchange | None,
    z_a: Tensor,
    z_b: Tensor,
    negatives: Negatives,
    told: dict[str, Tensor | None],
) -> Walk:
    """Return how the columns of all ranks come; see that the ranks fit together.

    Those that do not would hang, or worse. Where groups lie on several ranks, as for
    ``"cross"``, they are what is counted.
    """
    cross = negatives == "cross"
    counted = z_a.shape[:-2] if cross else z_a.shape[:-1]
    gradients = torch.is_grad_enabled() and (z_a.requires_grad or z_b.requires_grad)
    alike = {
        "z_a must have the same number of columns": z_a.shape[-1],
        "z_a must have the same number of rows per group": z_a.shape[-2] * cross,
        "z_a must have the same dtype": checks.FLOATS.index(z_a.dtype),
        "z_b must have the same dtype": checks.FLOATS.index(z_b.dtype),
        "z_a and z_b must have gradients, or none,": gradients,
        "exchange must be the same": (None, *EXCHANGES).index(exchange),
    }
    for name, tensor in told.items():
        # Their shapes are known, but for the number of columns of these two.
        wide = tensor is not None and name in ("positions", "guide")
        size = 0 if tensor is None else 1 + (tensor.shape[-1] if wide else 0)
        alike[f"{name} must be given, or not,"] = size
    (counts,) = ranks.agree(caller, (counted.numel(),), alike, z_a.device)
    return Walk(ranks, counts, exchange)


def meet_both(
    caller: str,
    ranks: Ranks,
    exchange: Exchange | None,
    x: Tensor,
    y: Tensor,
    weight_x: Tensor | None,
    weight_y: Tensor | None,
) -> tuple[Walk, Walk]:
    """Return how the rows ``(n, D)`` of either batch come; see that ranks fit."""
    alike = {"exchange must be the same": (None, *EXCHANGES).index(exchange)}
    counts = ranks.agree_on_batches(caller, x, y, weight_x, weight_y, alike)
    of_x, of_y = (Walk(ranks, count, exchange) for count in counts)
    return of_x, of_y


def left_out_across_ranks(left_out: LeftOut, walk: Walk) -> list[LeftOut]:
    """Return what is no negative among own rows and the columns of every rank.

    Of problems made of several images (``width``), an image is on one rank.
    """
    ranks, counts = walk.ranks, walk.counts

    def everywhere(vector: Tensor | None) -> Sequence[Tensor | None]:
        if vector is None:
            return [None] * ranks.size
        return ranks.gather(vector, counts, 1)

    def columns_of(dense: Tensor | None) -> Sequence[Tensor | None]:
        """Return what is told of the columns of every rank."""
        if dense is None or left_out.width is not None:
            return [None] * ranks.size
        return torch.split(dense, list(counts), -1)

    positions: Sequence[Tensor | None] = [None] * ranks.size
    if left_out.width is None:
        positions = everywhere(left_out.positions)
    parts = zip(
        columns_of(left_out.dense),
        columns_of(left_out.kept),
        everywhere(left_out.valid),
        everywhere(left_out.ids),
        positions,
        everywhere(left_out.guide_y),
        strict=True,
    )
    out = [
        left_out._replace(
            dense=dense_q,
            kept=kept_q,
            valid_y=valid_q,
            ids_y=ids_q,
            positions=None if positions_q is None else left_out.positions,
            positions_y=positions_q,
            guide_y=guide_q,
            paired=False,
        )
        for dense_q, kept_q, valid_q, ids_q, positions_q, guide_q in parts
    ]
    own = left_out
    if left_out.width is None:
        dense, kept = columns_of(left_out.dense), columns_of(left_out.kept)
        own = left_out._replace(dense=dense[ranks.rank], kept=kept[ranks.rank])
    out[ranks.rank] = own
    return out


def sides_across_ranks(
    x: Tensor, y: Tensor, left_out: Sequence[LeftOut], plan: Plan, walk: Walk
) -> Sides:
    """Reduce the logits of the own rows x ``(G, n, D)`` with the columns of all ranks.

    Args:
        x: Rows, ``(G, n, D)``.
        y: Columns of this rank, ``(G, n, D)``: y_i is the positive of x_i.
        left_out: For the columns of every rank, which pairs with the own rows are no
            negatives.
        plan: How to go through the logits of one rank's columns.
        walk: How the columns come.

    Returns:
        The sides of the own rows and of the own columns, ``(G, n)``.
    """
    out = _AcrossRanks.call(x, y, left_out, plan, walk)
    return packed(out[: _shown(plan)])


def _shown(plan: Plan) -> int:
    """Return how many outputs are sides; what follows is kept for the gradient."""
    return 2 + plan.both + plan.measured * 2 * len(Measures._fields)


def _along(log: Tensor, measures: Measures | None) -> tuple[Tensor, ...]:
    """Return what is known of the negatives along one side."""
    return (log,) if measures is None else (log, *measures)


class _AcrossRanks(Function):
    @staticmethod
    def forward(
        x: Tensor, y: Tensor, left_out: Sequence[LeftOut], plan: Plan, walk: Walk
    ) -> tuple[Tensor, ...]:
        ranks = walk.ranks
        everyone = [] if walk.ring(y) else ranks.gather(y, walk.counts, 1)
        nothing = of_nothing(plan, y)
        positive = x.new_empty(x.shape[:2])  # if there are no rows here
        rows = tuple(none.expand(x.shape[:2]) for none in nothing)
        columns = [
            tuple(none.expand(y.shape[0], count) for none in nothing)
            for count in walk.counts
        ]
        least: Sequence[Tensor] = ()
        blocks = walk.own_first(everyone) if everyone else walk.in_turn(y)
        for whose, block in blocks:
            if x.shape[1] and block.shape[1]:
                pair = (least[ranks.rank], least[whose]) if least else None
                found = packed(reduced(x, block, left_out[whose], plan, pair))
                positive = found.positive if whose == ranks.rank else positive
                rows = merged(plan, rows, _along(found.rows, found.of_rows))
                if found.columns is not None:
                    columns[whose] = _along(found.columns, found.of_columns)
            if plan.measured and not least:  # the own ones came first
                least = ranks.gather(least_rival(x, y, positive), walk.counts, 1)
        out = [positive, rows[0].clone()]
        own = slice(sum(walk.counts[: ranks.rank]), sum(walk.counts[: ranks.rank + 1]))
        every_column = nothing[0]
        if plan.both:
            every_column, *of_all = (
                torch.cat(part, 1) for part in zip(*columns, strict=True)
            )
            if plan.softplus:
                every_column = ranks.sum(every_column)
            else:
                every_column = ranks.log_sum_exp(every_column, plan.bounded)
            out.append(every_column[:, own].clone())
        if plan.measured:
            measures = Measures(*of_all).over_ranks(ranks, plan.bounded)
            out += [part.clone() for part in rows[1:]]
            out += [part[:, own].clone() for part in measures]
        return (*out, every_column, *everyone)

    @staticmethod
    def setup_context(ctx: Any, inputs: Any, output: Any) -> None:
        x, y, ctx.left_out, ctx.plan, ctx.walk = inputs
        ctx.mark_non_differentiable(*output[2 + ctx.plan.both :])
        ctx.save_for_backward(x, y, output[1], *output[_shown(ctx.plan) :])

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> Any:
        refuse_twice()
        x, y, rows, columns, *everyone = ctx.saved_tensors
        plan, walk, ranks = ctx.plan, ctx.walk, ctx.walk.ranks
        slope = Slopes(*grads[: 2 + plan.both]).contiguous()
        counts = walk.counts
        all_slopes: Sequence[Tensor | None] = [None] * ranks.size
        all_columns: Sequence[Tensor | None] = all_slopes
        if slope.columns is not None:
            all_slopes = ranks.gather(slope.columns, counts, 1)
            all_columns = torch.split(columns, list(counts), 1)
        grad_x = torch.zeros_like(x)

        def work(whose: int, block: Tensor) -> Tensor:
            """Add to the gradient of the rows; return that of the columns."""
            nonlocal grad_x
            if not x.shape[1] or not block.shape[1]:
                return torch.zeros_like(block)
            some = Slopes(slope.positive, slope.rows, all_slopes[whose])
            logs = rows, all_columns[whose]
            both = gradients(
                x, block, ctx.left_out[whose], plan, (True, True), some, *logs
            )
            assert both[0] is not None
            assert both[1] is not None
            grad_x = grad_x + both[0]
            return both[1]

        if everyone:
            parts = [work(whose, block) for whose, block in enumerate(everyone)]
            grad_y = ranks.scatter_sum(parts, 1)
        else:
            grad_y = torch.zeros_like(y)
            for whose, block in walk.in_turn(y):
                grad_y = grad_y + work(whose, block)
                # After the last step it is handed to whom it belongs.
                count = counts[(whose - 1) % ranks.size]
                shape = (y.shape[0], count, y.shape[2])
                grad_y = ranks.pass_on(grad_y, shape)
        return grad_x, grad_y, None, None, None
