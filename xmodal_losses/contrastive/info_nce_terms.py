"""What is known of a batch besides its InfoNCE, from the same pass over the logits."""

from typing import NamedTuple

from torch import Tensor

from xmodal_losses._core import checks, pairs, precision, ranks, reduce

__all__ = ["InfoNCETerms", "info_nce_terms"]


class InfoNCETerms(NamedTuple):
    """Both directions of :func:`~xmodal_losses.functional.info_nce`, and more."""

    a_to_b: Tensor
    b_to_a: Tensor
    accuracy_a_to_b: Tensor
    accuracy_b_to_a: Tensor
    positive: Tensor
    log_sum_exp_a: Tensor
    log_sum_exp_b: Tensor


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
        ``a_to_b`` and ``b_to_a``, the losses; ``accuracy_a_to_b`` and
        ``accuracy_b_to_a``, without gradient, 1 for a row whose positive beats each of
        its negatives (a tie is a miss, collapsed embeddings score 0); and of every row,
        ``(…, N)``, the logit of the ``positive`` and the log-sum-exps of the negatives
        of a_i and of b_i, ``log_sum_exp_a`` and ``log_sum_exp_b``.
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
    found = contrast.sides(peaks=True)
    assert found.columns is not None
    assert found.row_peaks is not None
    assert found.column_peaks is not None
    dtype = found.rows.dtype

    def reduced(value: Tensor) -> Tensor:
        return reduce.rows(value.to(dtype), weight, reduction, contrast.ranks)

    return InfoNCETerms(
        reduced(precision.softplus(found.rows - found.positive)),
        reduced(precision.softplus(found.columns - found.positive)),
        reduced(found.positive > found.row_peaks),
        reduced(found.positive > found.column_peaks),
        found.positive,
        found.rows,
        found.columns,
    )
