r"""Decoupled contrast (DCL): the partner does not compete with the negatives.

The 2N unit rows :math:`u` of both modalities are told apart as in NT-Xent, with
:math:`s_{ij} = \langle u_i, u_j \rangle / \tau` and the partner :math:`p(i)`, but the
positive is left out of the denominator:

.. math::
    \ell_i = \log \sum_{j \ne i,\, p(i)} e^{s_{ij}} - w_i \, s_{i p(i)} , \qquad
    w_i = 2 - \frac{e^{c_i/\sigma}}{\operatorname{mean}_k e^{c_k/\sigma}} ,
    \quad c_i = \langle u_i, u_{p(i)} \rangle .

NT-Xent pulls a pair by the share that its negatives have of the softmax, so that few
negatives teach little. Here the pull is constant. DCL has :math:`w_i = 1`; DCLW gives
more weight to partners that are far apart, and none of its gradient goes through
:math:`w`. The loss is the mean over all 2N rows.

Without negatives of the same modality (``intra_modal=False``) the mean is over both
directions: InfoLOOB, the loss of CLOOB.

Numerics: as in NT-Xent. Cost: that of NT-Xent; DCLW makes the logits twice.

References: Eq. 6 and §3 of :cite:t:`yeh2022decoupled`; Eq. 4 of
:cite:t:`fuerst2022cloob`.
"""

import torch
from torch import Tensor, nn

from xmodal_losses._core import checks, pairs, precision, ranks, reduce
from xmodal_losses._core.modules import describe

__all__ = ["DecoupledContrastiveLoss", "decoupled"]


def decoupled(
    z_a: Tensor,
    z_b: Tensor,
    *,
    temperature: float | Tensor = 0.07,
    sigma: float | None = None,
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
    """Return the decoupled contrastive loss of paired rows.

    Args:
        z_a: Embeddings of modality *a*, shape ``(…, N, D)``; leading dimensions are
            independent problems.
        z_b: Embeddings of modality *b*, same shape; row *i* belongs to row *i* of
            ``z_a``.
        temperature: τ > 0, a number or a tensor of shape ``()``, which gets its
            gradient.
        sigma: None: DCL. A number σ > 0: DCLW, whose authors take 0.5. The mean in
            the weights is over the problem, on however many ranks it lies.
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
        Scalar, or ``(…, N)`` for ``reduction="none"``; it may be negative, and has no
        least value. A row without negatives has loss 0. In the dtype of the inputs,
        float32 at least.

    Raises:
        TypeError: If an input is not a floating-point tensor, or an option of another
            type.
        ValueError: If shapes do not fit together or an option is out of range.

    Examples:
        >>> import torch, xmodal_losses.functional as F
        >>> F.decoupled(torch.eye(4), torch.eye(4), temperature=0.5)
        tensor(-0.2082)
    """
    _check("decoupled", sigma, intra_modal)
    contrast = pairs.paired(
        "decoupled",
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
    checks.positive_scalar("decoupled", "temperature", temperature)
    rows = pairs.anchors(contrast, weight, intra_modal)
    logits = rows.scaled(temperature, normalize)
    if sigma is None:
        return rows.reduced(logits, pairs.of_sides(_head), reduction)
    with precision.no_autocast(z_a):
        found = logits.sides()
        negatives = pairs.log_sums(found)
        similarity = (found.positive * temperature).detach()
        share = rows.over_mean_exp(similarity / sigma)
        loss = negatives - (2 - share) * found.positive
        loss = loss.masked_fill(negatives == -torch.inf, 0.0)
        return rows.reduced_rows(loss, reduction)


def _head(positive: Tensor, negatives: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    some = negatives != -torch.inf
    slope = some.to(negatives.dtype)
    return (negatives - positive).masked_fill(~some, 0.0), -slope, slope


def _check(caller: str, sigma: object, intra_modal: object) -> None:
    if sigma is not None:
        checks.number(caller, "sigma", sigma, above=0.0)
    checks.flag(caller, "intra_modal", intra_modal)


class DecoupledContrastiveLoss(nn.Module):
    """Module form of :func:`~xmodal_losses.functional.decoupled`.

    Args:
        temperature: As in the function, a number.
        sigma: As in the function.
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
        >>> xl.DecoupledContrastiveLoss(sigma=0.5)(rgb, ir).backward()
    """

    def __init__(
        self,
        *,
        temperature: float = 0.07,
        sigma: float | None = None,
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
        caller = "DecoupledContrastiveLoss"
        checks.number(caller, "temperature", temperature, above=0.0)
        _check(caller, sigma, intra_modal)
        pairs.check_options(
            caller, normalize, "group", exclude_radius, reduction, chunk_size
        )
        ranks.check_module(caller, gather, grad_reduce, exchange, pairs.EXCHANGES)
        self.temperature = float(temperature)
        self.sigma = sigma
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
        return decoupled(
            z_a,
            z_b,
            temperature=self.temperature,
            sigma=self.sigma,
            intra_modal=self.intra_modal,
            normalize=self.normalize,
            ids=ids,
            positions=positions,
            exclude_radius=self.exclude_radius,
            weight=weight,
            reduction=self.reduction,
            chunk_size=self.chunk_size,
            group=ranks.of_module("DecoupledContrastiveLoss", self.gather),
            grad_reduce=self.grad_reduce,
            exchange=self.exchange,
        )

    def extra_repr(self) -> str:
        """Return the options."""
        return describe(
            self,
            "temperature",
            "sigma",
            "intra_modal",
            "normalize",
            "exclude_radius",
            "reduction",
            "chunk_size",
            "gather",
            "grad_reduce",
            "exchange",
        )
