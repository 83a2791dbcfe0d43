"""Rows that look for their partner, among the other modality's or among all."""

from collections.abc import Callable
from typing import NamedTuple

import torch
from torch import Tensor

from xmodal_losses._core import precision, reduce
from xmodal_losses._core.pairs.contrast import Contrast
from xmodal_losses._core.pairs.log_sum_exp import Sides, Slopes
from xmodal_losses._core.pairs.one_pass import RowLoss
from xmodal_losses._core.pairs.scales import scaled

Head = Callable[[Tensor, Tensor], tuple[Tensor, Tensor, Tensor]]
"""From the positives and the log-sum-exps of one side to the loss of every row, and its
derivatives in both."""


class Anchors(NamedTuple):
    """The rows of both modalities, each with its partner and its negatives.

    Either in two directions, from a to b and back, or, if ``joint``, as one batch of
    2N rows whose negatives are of both modalities.
    """

    contrast: Contrast
    weight: Tensor | None
    joint: bool

    def scaled(self, temperature: float | Tensor, normalize: bool) -> Contrast:
        """Return them with similarities over the temperature as logits."""
        return scaled(self.contrast, temperature, normalize)

    def log_counts(self) -> Tensor:
        """Return the log of every row's number of negatives, ``(directions, …, N)``."""
        nothing = torch.zeros_like(self.contrast.x[..., :1])
        return log_sums(self.contrast.replaced(x=nothing, y=nothing).sides())

    def over_mean_exp(self, x: Tensor) -> Tensor:
        """Return exp(x) over its weighted mean among the rows of the problem."""
        weight = torch.ones_like(x) if self.weight is None else self.weight.to(x.dtype)
        weight = weight.detach()
        log, total = (
            (x + weight.log()).logsumexp(-1, keepdim=True),
            weight.sum(-1, True),
        )
        if self.contrast.walk is not None:  # one problem, on several ranks
            ranks = self.contrast.walk.ranks
            log, total = ranks.log_sum_exp(log, bounded=False), ranks.sum(total)
        return (x - log.masked_fill(log == -torch.inf, 0.0)).exp() * total

    def reduced(
        self, contrast: Contrast, row_loss: RowLoss, reduction: reduce.Reduction
    ) -> Tensor:
        """Return a loss of rows, given with its slopes, as the caller asked for it."""
        factor = self._factor(reduction)
        return self._pairs(
            contrast.reduced(row_loss, factor, self.weight, reduction), reduction
        )

    def reduced_rows(self, loss: Tensor, reduction: reduce.Reduction) -> Tensor:
        """Return row losses ``(directions, …, N)`` as the caller asked for them."""
        with precision.no_autocast(loss):
            ranks = self.contrast.ranks
            loss = self._factor(reduction) * loss.sum(0)
            return self._pairs(
                reduce.rows(loss, self.weight, reduction, ranks), reduction
            )

    def _factor(self, reduction: reduce.Reduction) -> float:
        """Return what makes a mean of a pair's two rows, or of its two directions."""
        if self.joint:
            return 1.0 if reduction == "mean" else 0.5
        return 0.5 if self.contrast.both else 1.0

    def _pairs(self, value: Tensor, reduction: reduce.Reduction) -> Tensor:
        if reduction != "none" or not self.joint:
            return value
        of_a, of_b = value.chunk(2, -1)
        return of_a + of_b


def anchors(
    contrast: Contrast, weight: Tensor | None, intra_modal: bool = False
) -> Anchors:
    """Return the rows of both modalities; ``intra_modal``: each against all others."""
    if not intra_modal:
        return Anchors(contrast, weight, joint=False)
    if contrast.ids is None:  # of a row itself, which is no negative of it
        contrast = contrast.replaced(ids=contrast.indices())
    if weight is not None:
        weight = torch.cat((weight, weight), -1)
    return Anchors(contrast.doubled().replaced(both=False), weight, joint=True)


def log_sums(found: Sides) -> Tensor:
    """Return the log-sum-exps of every direction, ``(directions, …, N)``."""
    if found.columns is None:
        return found.rows.unsqueeze(0)
    return torch.stack((found.rows, found.columns))


def of_sides(head: Head, shares: tuple[float, float] = (1.0, 1.0)) -> RowLoss:
    """Return the sum over directions of a loss of one side, each by its share."""

    # Quoted, since torch 2.4 cannot trace the type.
    def row_loss(found: Sides) -> "tuple[Tensor, Slopes]":
        loss, positive, rows = head(found.positive, found.rows)
        if found.columns is None:
            return loss, Slopes(positive, rows)
        more, also, columns = head(found.positive, found.columns)
        if shares != (1.0, 1.0):
            loss, positive, rows = (shares[0] * part for part in (loss, positive, rows))
            more, also, columns = (shares[1] * part for part in (more, also, columns))
        return loss + more, Slopes(positive + also, rows, columns)

    return row_loss
