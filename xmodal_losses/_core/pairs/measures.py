"""What diagnostics know of the negatives beside their log-sum-exp; without gradient."""

from typing import NamedTuple

import torch
from torch import Tensor

from xmodal_losses._core.pairs.logits import Plan, exponentials
from xmodal_losses._core.ranks import Ranks


class Measures(NamedTuple):
    """The negatives of every row, or of every column, of G problems: ``(G, N)``."""

    rivals: Tensor  # int64: how many have a logit that is not below the positive's
    number: Tensor  # int64: how many there are
    total: Tensor  # the sum of their logits
    squares: Tensor  # log Σ exp(2 · logit)

    def added(self, other: "Measures") -> "Measures":
        """Return those of these negatives and others."""
        return Measures(
            self.rivals + other.rivals,
            self.number + other.number,
            self.total + other.total,
            torch.logaddexp(self.squares, other.squares),
        )

    def mean(self) -> Tensor:
        """Return the mean logit; 0 of none."""
        return self.total / self.number.clamp_min(1)

    def effective(self, log: Tensor) -> Tensor:
        """Return 1/Σp² of their softmax, given their log-sum-exp; 0 of none.

        Rounding does not lead out of [1, number].
        """
        effective = (2 * log.detach() - self.squares).exp().clamp_min(1.0)
        effective = torch.minimum(effective, self.number.to(effective.dtype))
        return effective.masked_fill(self.number == 0, 0.0)

    def over_ranks(self, ranks: Ranks, bounded: bool) -> "Measures":
        """Return those of the negatives on all ranks."""
        rivals, number = ranks.sums((self.rivals, self.number))
        squares = ranks.log_sum_exp(self.squares, bounded)
        return Measures(rivals, number, ranks.sum(self.total), squares)


def least_rival(x: Tensor, y: Tensor, positive: Tensor) -> Tensor:
    """Return above what logit a negative of x_i, or of y_i, rivals the positive.

    Equal rows have equal logits up to rounding, which depends on where in which product
    they stand: ties would be decided by chance, and collapsed embeddings might find
    their partners. So it lies below the positive by what rounding makes of an inner
    product, as a multiple of ‖x_i‖ ‖y_i‖.
    """
    rounding = 2 * x.shape[-1] ** 0.5 * torch.finfo(x.dtype).eps
    least: Tensor = positive - rounding * x.norm(dim=-1) * y.norm(dim=-1)
    return least


def measured(
    t: Tensor, least_x: Tensor, least_y: Tensor, plan: Plan
) -> list[tuple[Tensor, ...]]:
    """Return the log-sum-exps and the measures of the rows and columns of a tile.

    It may overwrite the logits. A NaN among them, or as the positive, is a rival.
    """
    counts = _counted(t, least_x, least_y)
    out: list[tuple[Tensor, ...]] = []
    for dim, some, side in zip((-1, -2), counts, exponentials(t, plan), strict=True):
        squares = side.exp.square().sum(dim).log()
        if side.shift is not None:
            squares = squares + 2 * side.shift
        out.append((side.log, *some, squares))
    return out


def _counted(
    t: Tensor, least_x: Tensor, least_y: Tensor
) -> list[tuple[Tensor, Tensor, Tensor]]:
    """Return the numbers of rivals and of negatives, and the sums of logits."""
    negative = t != -torch.inf
    sums = t.masked_fill(~negative, 0.0)
    return [
        ((negative & ~(t < least)).sum(dim), negative.sum(dim), sums.sum(dim))
        for dim, least in ((-1, least_x.unsqueeze(-1)), (-2, least_y.unsqueeze(-2)))
    ]
