r"""What InfoNCE knows of a batch besides its loss, from the same pass over the logits.

Of the negatives :math:`j \in \mathcal{N}(i)` of a row, with the shares
:math:`p_{ij} = e^{s_{ij}} / \sum_{k \in \mathcal{N}(i)} e^{s_{ik}}`, the effective
number

.. math::
    \frac{1}{\sum_j p_{ij}^2}
    = \exp\Bigl( 2 \log \sum_j e^{s_{ij}} - \log \sum_j e^{2 s_{ij}} \Bigr)

tells how many of them pull: all of them where they are alike, one where it alone is
near. The rank of the partner, the number of negatives that are at least as similar, is
that of retrieval within the batch.

Numerics: negatives count as ties with the partner, and against it, where their logits
differ by no more than rounding does. Cost: no product, no N × N matrix and no gradient
beside those of the loss; a dozen reductions of each tile of the logits.
"""

from collections.abc import Sequence
from typing import NamedTuple

import torch
from torch import Tensor

from xmodal_losses._core import checks, pairs, precision, ranks, reduce

__all__ = ["InfoNCETerms", "info_nce_terms"]

# Below this gap between negatives and positive, 1 + exp(gap) is 1 in float32 (which
# rounds to multiples of 2⁻²³ there: from −24 log 2 = −16.6 on), so that a cross entropy
# is 0, and so is its gradient in the positive.
SATURATED = -17.0


class InfoNCETerms(NamedTuple):
    """Both directions of :func:`~xmodal_losses.functional.info_nce`, and more.

    Attributes:
        a_to_b: The loss from a to b.
        b_to_a: The loss from b to a.
        accuracy_a_to_b: 1 for a row whose positive beats each of its negatives (a tie
            is a miss, collapsed embeddings score 0), reduced as the losses are.
        accuracy_b_to_a: The same from b to a.
        positive: The logit of every pair, ``(…, N)``.
        log_sum_exp_a: Log-sum-exp of the logits of the negatives of a_i, ``(…, N)``;
            −inf without any.
        log_sum_exp_b: The same of b_i.
        rank_a_to_b: How many negatives of a_i have a logit that is not below the
            positive's, up to rounding, ``(…, N)``, int64: 0 is a hit.
        rank_b_to_a: The same of b_i.
        count_a: The number of negatives of a_i, ``(…, N)``, int64.
        count_b: The same of b_i.
        negative_a: Mean logit of the negatives of a_i, ``(…, N)``; 0 without any.
        negative_b: The same of b_i.
        effective_negatives_a: Effective number of negatives of a_i, ``(…, N)``, from 1
            to ``count_a``; 0 without any.
        effective_negatives_b: The same of b_i.
    """

    a_to_b: Tensor
    b_to_a: Tensor
    accuracy_a_to_b: Tensor
    accuracy_b_to_a: Tensor
    positive: Tensor
    log_sum_exp_a: Tensor
    log_sum_exp_b: Tensor
    rank_a_to_b: Tensor
    rank_b_to_a: Tensor
    count_a: Tensor
    count_b: Tensor
    negative_a: Tensor
    negative_b: Tensor
    effective_negatives_a: Tensor
    effective_negatives_b: Tensor

    def summary(
        self,
        *,
        temperature: float | Tensor,
        weight: Tensor | None = None,
        top: Sequence[int] = (1, 5),
        group: ranks.Group | None = None,
    ) -> dict[str, Tensor]:
        """Return scalars to be logged, (weighted) means over rows and groups.

        Args:
            temperature: As given to :func:`~xmodal_losses.functional.info_nce_terms`.
            weight: As given there.
            top: Numbers k ≥ 1 of the top-k retrievals.
            group: As given there; all ranks get the values of the whole batch.

        Returns:
            By name, scalars without gradient, ``*`` being ``a_to_b`` and ``b_to_a``.
            ``top_k_*``, for every k, is the share of rows whose partner is among the k
            candidates of the largest logits; ``positive_similarity`` the mean
            similarity of partners, a cosine if rows were normalised. Of the rows that
            have negatives, ``negative_similarity_*`` is the mean similarity of the
            negatives, ``negatives_*`` and ``effective_negatives_*`` their number and
            effective number, ``saturated_*`` the share whose loss is below exp(−17),
            where a float32 cross entropy is 0 and pulls partners no more. 0 where no
            row counts.

        Raises:
            TypeError: If an option is of another type.
            ValueError: If an option is out of range, or shapes do not fit together.
        """
        caller = "InfoNCETerms.summary"
        checks.positive_scalar(caller, "temperature", temperature)
        checks.row_weight(caller, "weight", weight, self.positive.unsqueeze(-1))
        if not isinstance(top, Sequence):
            raise TypeError(
                f"{caller}: top must be a sequence of integers, got "
                f"{type(top).__name__}."
            )
        for k in top:
            checks.count(caller, "top", k)
        positive = self.positive.detach()
        if isinstance(temperature, Tensor):
            temperature = temperature.detach().to(positive.dtype)
        present = torch.ones_like(positive) if weight is None else weight.to(positive)
        means = {"positive_similarity": _Mean(positive * temperature, present)}
        sides = {
            "a_to_b": (
                self.rank_a_to_b,
                self.count_a,
                self.log_sum_exp_a,
                self.negative_a,
                self.effective_negatives_a,
            ),
            "b_to_a": (
                self.rank_b_to_a,
                self.count_b,
                self.log_sum_exp_b,
                self.negative_b,
                self.effective_negatives_b,
            ),
        }
        for side, (rank, count, log, negative, effective) in sides.items():
            for k in top:
                means[f"top_{k}_{side}"] = _Mean(rank < k, present)
            some = present * (count > 0)
            saturated = log - positive < SATURATED
            means[f"negative_similarity_{side}"] = _Mean(negative * temperature, some)
            means[f"negatives_{side}"] = _Mean(count, some)
            means[f"effective_negatives_{side}"] = _Mean(effective, some)
            means[f"saturated_{side}"] = _Mean(saturated, some)
        parts = [part for mean in means.values() for part in mean.parts()]
        joined = ranks.joined(caller, group)
        if joined is not None:
            parts = joined.sums(parts)
        values = [
            total * reduce.inverse(count)
            for total, count in zip(parts[::2], parts[1::2], strict=True)
        ]
        return dict(zip(means, values, strict=True))


class _Mean(NamedTuple):
    """A weighted mean over rows; rows of weight 0 count for nothing."""

    value: Tensor
    weight: Tensor

    def parts(self) -> tuple[Tensor, Tensor]:
        """Return the sums of the weighted values, and of the weights."""
        return (self.value.to(self.weight) * self.weight).sum(), self.weight.sum()


def info_nce_terms(
    z_a: Tensor,
    z_b: Tensor,
    *,
    temperature: float | Tensor = 0.07,
    normalize: bool = True,
    negatives: pairs.Negatives = "group",
    exclude: Tensor | None = None,
    ids: Tensor | None = None,
    positions: Tensor | None = None,
    exclude_radius: float | None = None,
    weight: Tensor | None = None,
    reduction: reduce.Reduction = "mean",
    chunk_size: int | None = None,
    group: ranks.Group | None = None,
    grad_reduce: ranks.GradReduce = "mean",
    exchange: pairs.Exchange | None = None,
) -> InfoNCETerms:
    """Return the two directions of InfoNCE, and what is known beside them for free.

    Options of :func:`~xmodal_losses.functional.info_nce` that say which negatives
    count, or how much (``guide``, ``hardest``, ``margin``, ``extra``), are not offered:
    terms are of the batch and all its negatives.

    Args:
        z_a: As in :func:`~xmodal_losses.functional.info_nce`.
        z_b: As in :func:`~xmodal_losses.functional.info_nce`.
        temperature: As in :func:`~xmodal_losses.functional.info_nce`.
        normalize: As in :func:`~xmodal_losses.functional.info_nce`.
        negatives: As in :func:`~xmodal_losses.functional.info_nce`.
        exclude: As in :func:`~xmodal_losses.functional.info_nce`.
        ids: As in :func:`~xmodal_losses.functional.info_nce`.
        positions: As in :func:`~xmodal_losses.functional.info_nce`.
        exclude_radius: As in :func:`~xmodal_losses.functional.info_nce`.
        weight: As in :func:`~xmodal_losses.functional.info_nce`.
        reduction: As in :func:`~xmodal_losses.functional.info_nce`; for the losses and
            the accuracies.
        chunk_size: As in :func:`~xmodal_losses.functional.info_nce`.
        group: As in :func:`~xmodal_losses.functional.info_nce`.
        grad_reduce: As in :func:`~xmodal_losses.functional.info_nce`.
        exchange: As in :func:`~xmodal_losses.functional.info_nce`.

    Returns:
        The losses and accuracies, reduced, and what is known of every row, see
        :class:`~xmodal_losses.functional.InfoNCETerms`, whose ``summary`` is for logs.
        The losses, the positives and the log-sum-exps have gradients.

    Examples:
        >>> import torch, xmodal_losses.functional as F
        >>> terms = F.info_nce_terms(torch.eye(4), torch.eye(4).flip(0), temperature=1)
        >>> terms.rank_a_to_b
        tensor([3, 3, 3, 3])
        >>> terms.summary(temperature=1.0, top=(1, 4))["top_4_a_to_b"]
        tensor(1.)
    """
    contrast = pairs.paired(
        "info_nce_terms",
        z_a,
        z_b,
        normalize=normalize,
        negatives=negatives,
        exclude=exclude,
        ids=ids,
        positions=positions,
        exclude_radius=exclude_radius,
        weight=weight,
        reduction=reduction,
        chunk_size=chunk_size,
        group=group,
        grad_reduce=grad_reduce,
        exchange=exchange,
    )
    checks.positive_scalar("info_nce_terms", "temperature", temperature)
    contrast = pairs.scaled(contrast, temperature, normalize)
    found = contrast.sides(measured=True)
    of_a, of_b = found.of_rows, found.of_columns
    assert found.columns is not None
    assert of_a is not None
    assert of_b is not None
    dtype = found.rows.dtype

    def reduced(value: Tensor) -> Tensor:
        return reduce.rows(value.to(dtype), weight, reduction, contrast.ranks)

    return InfoNCETerms(
        reduced(precision.softplus(found.rows - found.positive)),
        reduced(precision.softplus(found.columns - found.positive)),
        reduced(of_a.rivals == 0),
        reduced(of_b.rivals == 0),
        found.positive,
        found.rows,
        found.columns,
        of_a.rivals,
        of_b.rivals,
        of_a.number,
        of_b.number,
        of_a.mean(),
        of_b.mean(),
        of_a.effective(found.rows),
        of_b.effective(found.columns),
    )
