r"""Debiased contrast: negatives less the positives among them, hard ones first.

The 2N unit rows :math:`u` of both modalities are told apart as in NT-Xent, with
:math:`s_{ij} = \langle u_i, u_j \rangle / \tau`, the partner :math:`p(i)` and the
:math:`M` negatives of row :math:`i`. A share :math:`\tau^+` of what is taken for a
negative is thought to be of the same class as the row, and subtracted:

.. math::
    \ell_i = \log \Bigl( 1 + \frac{G_i}{e^{s_{i p(i)}}} \Bigr) , \qquad
    G_i = \max \Bigl(
        \frac{U_i - M \tau^+ e^{s_{i p(i)}}}{1 - \tau^+} ,\; M e^{-1/\tau} \Bigr) ,
    \qquad
    U_i = M \, \frac{\sum_j e^{(1 + \beta) s_{ij}}}{\sum_j e^{\beta s_{ij}}} .

With :math:`\beta = 0`, :math:`U_i` is the sum over the negatives; :math:`\beta > 0`
gives the hard ones more weight. :math:`\tau^+ = \beta = 0` is NT-Xent. The loss is the
mean over all 2N rows; without negatives of the same modality (``intra_modal=False``)
the mean over both directions.

Numerics: all sums and the difference are in the log domain. Where the maximum is the
bound, which is the least value for unit rows, negatives get no gradient. Cost: that of
NT-Xent with the logits made twice, with :math:`\beta > 0` four times.

References: Eqs. 7 and 8 of :cite:t:`chuang2020debiased`; Eq. 4 of
:cite:t:`robinson2021contrastive`, whose code has no gradient stopped, either.
"""

import math

import torch
from torch import Tensor, nn

from xmodal_losses._core import checks, pairs, precision, ranks, reduce
from xmodal_losses._core.modules import describe

__all__ = ["DebiasedContrastiveLoss", "debiased"]


def debiased(
    z_a: Tensor,
    z_b: Tensor,
    *,
    temperature: float | Tensor = 0.07,
    false_negatives: float = 0.1,
    hardness: float = 0.0,
    intra_modal: bool = True,
    normalize: bool = True,
    ids: Tensor | None = None,
    positions: Tensor | None = None,
    exclude_radius: float | None = None,
    weight: Tensor | None = None,
    reduction: reduce.Reduction = "mean",
    chunk_size: int | None = None,
    group: ranks.Group | None = None,
    grad_reduce: ranks.GradReduce = "mean",
    exchange: pairs.Exchange | None = None,
) -> Tensor:
    """Return the debiased contrastive loss of paired rows.

    Args:
        z_a: Embeddings of modality *a*, shape ``(…, N, D)``; leading dimensions are
            independent problems.
        z_b: Embeddings of modality *b*, same shape; row *i* belongs to row *i* of
            ``z_a``.
        temperature: τ > 0, a number or a tensor of shape ``()``, which gets its
            gradient.
        false_negatives: τ⁺ in [0, 1), the share of the negatives that are thought to be
            of the row's own class.
        hardness: β ≥ 0, how much more a hard negative counts.
        intra_modal: Whether rows of the same modality are negatives, too.
        normalize: Scale rows to unit length first. A zero row stays zero, and gets no
            gradient.
        ids: Integers ``(…, N)``: pairs with the same id are no negatives of each
            other, in any modality.
        positions: Coordinates ``(…, N, P)``: pairs that are no further apart than
            ``exclude_radius`` are no negatives of each other.
        exclude_radius: A distance ≥ 0 in the units of ``positions``, which go with it:
            the largest difference of a coordinate.
        weight: Weights ≥ 0 of the pairs, ``(…, N)``. A pair of weight 0 is as if it
            were not there.
        reduction: ``"mean"`` (Σwℓ/Σw), ``"sum"`` (Σwℓ) or ``"none"`` (wℓ, shape
            ``(…, N)``), where ℓ of a pair is the mean of its two rows.
        chunk_size: Edge of the largest tile of the logits to hold at a time; the result
            is the same. None chooses by size and device.
        group: A process group whose ranks each have a part of the batch; the loss is
            that of the parts joined along the first dimension. None: the batch is here.
        grad_reduce: ``"mean"`` if gradients are averaged over ranks, as by DDP;
            ``"sum"`` if they are added up.
        exchange: How rows come from other ranks: ``"gather"``, all at once, or
            ``"ring"``, one rank's after the other's. None chooses by size.

    Returns:
        Scalar, or ``(…, N)`` for ``reduction="none"``; ≥ 0. A row without negatives has
        loss 0. In the dtype of the inputs, float32 at least.

    Raises:
        TypeError: If an input is not a floating-point tensor, or an option of another
            type.
        ValueError: If shapes do not fit together or an option is out of range.

    Examples:
        >>> import torch, xmodal_losses.functional as F
        >>> F.debiased(torch.eye(4), torch.eye(4), temperature=0.5)
        tensor(0.2115)
    """
    _check("debiased", false_negatives, hardness, intra_modal)
    contrast = pairs.paired(
        "debiased",
        z_a,
        z_b,
        normalize=normalize,
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
    checks.positive_scalar("debiased", "temperature", temperature)
    rows = pairs.anchors(contrast, weight, intra_modal)
    with precision.no_autocast(z_a):
        found = rows.scaled(temperature / (1 + hardness), normalize).sides()
        positive = found.positive / (1 + hardness)
        counts, negatives = rows.log_counts(), pairs.log_sums(found)
        alone = counts == -torch.inf
        counts = counts.masked_fill(alone, 0.0)
        if hardness > 0:
            weights = rows.scaled(temperature / hardness, normalize).sides()
            negatives = negatives - pairs.log_sums(weights).masked_fill(alone, 0.0)
            negatives = negatives + counts
        negatives = negatives.masked_fill(alone, 0.0)
        negatives = _without(negatives, counts + positive, false_negatives)
        negatives = torch.maximum(negatives, counts - 1 / temperature)
        loss = precision.softplus(negatives - positive).masked_fill(alone, 0.0)
        return rows.reduced_rows(loss, reduction)


def _without(negatives: Tensor, positives: Tensor, share: float) -> Tensor:
    """Return log((eⁿ − share·eᵖ)/(1 − share)), −inf where that is no number."""
    if share == 0:
        return negatives
    log = positives + math.log(share) - negatives  # of the part to take away
    some = log < 0
    part = log.masked_fill(~some, -1.0).exp()
    rest = negatives + torch.log1p(-part) - math.log1p(-share)
    return rest.masked_fill(~some, -torch.inf)


def _check(
    caller: str, false_negatives: object, hardness: object, intra_modal: object
) -> None:
    checks.number(caller, "false_negatives", false_negatives, at_least=0.0, below=1.0)
    checks.number(caller, "hardness", hardness, at_least=0.0)
    checks.flag(caller, "intra_modal", intra_modal)


class DebiasedContrastiveLoss(nn.Module):
    """Module form of :func:`~xmodal_losses.functional.debiased`.

    Args:
        temperature: As in the function, a number.
        false_negatives: As in the function.
        hardness: As in the function.
        intra_modal: As in the function.
        normalize: As in the function.
        exclude_radius: As in the function; ``positions`` are given to ``forward``.
        reduction: As in the function.
        chunk_size: As in the function.
        gather: True: the default process group; or a process group, the ``group`` of
            the function. False: the batch is here.
        grad_reduce: As in the function.
        exchange: As in the function.

    State: none.

    Shape:
        - ``z_a``, ``z_b``: ``(…, N, D)``; ``ids`` and ``weight``: ``(…, N)``;
          ``positions``: ``(…, N, P)``.
        - Output: scalar, or ``(…, N)`` for ``reduction="none"``.

    Examples:
        >>> import torch, xmodal_losses as xl
        >>> rgb, ir = torch.randn(2, 32, 128, requires_grad=True)
        >>> xl.DebiasedContrastiveLoss(hardness=0.5)(rgb, ir).backward()
    """

    def __init__(
        self,
        *,
        temperature: float = 0.07,
        false_negatives: float = 0.1,
        hardness: float = 0.0,
        intra_modal: bool = True,
        normalize: bool = True,
        exclude_radius: float | None = None,
        reduction: reduce.Reduction = "mean",
        chunk_size: int | None = None,
        gather: bool | ranks.Group = False,
        grad_reduce: ranks.GradReduce = "mean",
        exchange: pairs.Exchange | None = None,
    ) -> None:
        super().__init__()
        caller = "DebiasedContrastiveLoss"
        checks.number(caller, "temperature", temperature, above=0.0)
        _check(caller, false_negatives, hardness, intra_modal)
        pairs.check_options(
            caller, normalize, "group", exclude_radius, reduction, chunk_size
        )
        ranks.check_module(caller, gather, grad_reduce, exchange, pairs.EXCHANGES)
        self.temperature = float(temperature)
        self.false_negatives = float(false_negatives)
        self.hardness = float(hardness)
        self.intra_modal = intra_modal
        self.normalize = normalize
        self.exclude_radius = exclude_radius
        self.reduction: reduce.Reduction = reduction
        self.chunk_size = chunk_size
        self.gather = gather
        self.grad_reduce: ranks.GradReduce = grad_reduce
        self.exchange: pairs.Exchange | None = exchange

    def forward(
        self,
        z_a: Tensor,
        z_b: Tensor,
        *,
        ids: Tensor | None = None,
        positions: Tensor | None = None,
        weight: Tensor | None = None,
    ) -> Tensor:
        """Return the loss of the paired batches."""
        return debiased(
            z_a,
            z_b,
            temperature=self.temperature,
            false_negatives=self.false_negatives,
            hardness=self.hardness,
            intra_modal=self.intra_modal,
            normalize=self.normalize,
            ids=ids,
            positions=positions,
            exclude_radius=self.exclude_radius,
            weight=weight,
            reduction=self.reduction,
            chunk_size=self.chunk_size,
            group=ranks.of_module("DebiasedContrastiveLoss", self.gather),
            grad_reduce=self.grad_reduce,
            exchange=self.exchange,
        )

    def extra_repr(self) -> str:
        """Return the options."""
        return describe(
            self,
            "temperature",
            "false_negatives",
            "hardness",
            "intra_modal",
            "normalize",
            "exclude_radius",
            "reduction",
            "chunk_size",
            "gather",
            "grad_reduce",
            "exchange",
        )
