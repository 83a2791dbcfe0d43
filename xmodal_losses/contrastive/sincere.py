r"""SINCERE: each positive is told from the negatives, not from other positives.

The rows :math:`u` of both modalities, of unit length, are one batch, with
:math:`s_{ij} = \langle u_i, u_j \rangle / \tau`. The positives :math:`P(i)` are the
other rows of the class of :math:`i`, the negatives :math:`N(i)` all rows of other
classes. With the negatives' log-sum-exp :math:`L_i`,

.. math::
    \ell_i &= \frac1{|P(i)|} \sum_{p \in P(i)} -\log
        \frac{e^{s_{ip}}}{e^{s_{ip} - \varepsilon} + \sum_{n \in N(i)} e^{s_{in}}} \\
    &= \frac1{|P(i)|} \sum_{p \in P(i)}
        \operatorname{softplus}(L_i - s_{ip} + \varepsilon) - \varepsilon ,

and the loss is the mean over the rows that have a positive. With ε = 0 it is SINCERE:
the other positives, which repel in SupCon, are left out of the denominator. A margin
ε > 0 is that of ε-SupInfoNCE. Where each class is one pair of rows, and ε = 0, it is
NT-Xent.

Numerics: the sum over positives goes through the logits once more, with the threshold
that the first pass found. Cost: O((N + M)² D) time, O((N + M) D) memory and a tile.

References: :cite:t:`feeney2023sincere`; the margin, in units of the logits, is that of
:cite:t:`barbano2023unbiased`.
"""

import torch
from torch import Tensor, nn

from xmodal_losses._core import checks, pairs, precision, ranks, reduce
from xmodal_losses._core.modules import describe

__all__ = ["SINCERELoss", "sincere"]


def sincere(
    z_a: Tensor,
    z_b: Tensor,
    labels_a: Tensor,
    labels_b: Tensor,
    *,
    temperature: float | Tensor = 0.07,
    margin: float = 0.0,
    intra_modal: bool = True,
    normalize: bool = True,
    weight_a: Tensor | None = None,
    weight_b: Tensor | None = None,
    reduction: reduce.Reduction = "mean",
    chunk_size: int | None = None,
    group: ranks.Group | None = None,
    grad_reduce: ranks.GradReduce = "mean",
    exchange: pairs.Exchange | None = None,
) -> Tensor:
    """Return the SINCERE loss of the rows of both modalities.

    Args:
        z_a: Embeddings of modality *a*, shape ``(…, N, D)``; leading dimensions are
            independent problems.
        z_b: Embeddings of modality *b*, ``(…, M, D)``; N and M may differ.
        labels_a: Classes, any integers, ``(…, N)``. A row whose class nobody else has
            is a negative of all others, and has no loss.
        labels_b: Classes, ``(…, M)``.
        temperature: τ > 0, a number or a tensor of shape ``()``, which gets its
            gradient.
        margin: ε ≥ 0, by how much a positive's logit should be above the negatives'.
        intra_modal: Whether rows of one modality are compared, too. If not, positives
            and negatives of a row are of the other modality.
        normalize: Scale rows to unit length first. A zero row stays zero, and gets no
            gradient.
        weight_a: Weights ≥ 0 of the rows' losses, ``(…, N)``. A row of weight 0 is as
            if it were not there.
        weight_b: The same for modality *b*, ``(…, M)``.
        reduction: ``"mean"`` (Σwℓ/Σw over rows with a positive), ``"sum"`` (Σwℓ) or
            ``"none"`` (wℓ, shape ``(…, N + M)``, those of *a* first).
        chunk_size: Edge of the largest tile of the logits to hold at a time; the
            result is the same. None chooses by size and device.
        group: A process group whose ranks each have a part of the batch; the loss is
            that of the parts joined along the first dimension. None: the batch is here.
        grad_reduce: ``"mean"`` if gradients are averaged over ranks, as by DDP;
            ``"sum"`` if they are added up.
        exchange: How rows come from other ranks: ``"gather"``, all at once, or
            ``"ring"``, one rank's after the other's. None chooses by size.

    Returns:
        Scalar, or ``(…, N + M)`` for ``reduction="none"``; ≥ −ε. In the dtype of the
        inputs, float32 at least.

    Raises:
        TypeError: If an input is of another type.
        ValueError: If shapes do not fit together or an option is out of range.

    Examples:
        >>> import torch, xmodal_losses.functional as F
        >>> z, labels = torch.eye(4), torch.arange(4)
        >>> F.sincere(z, z, labels, labels, temperature=0.5)
        tensor(0.5944)
    """
    checks.number("sincere", "margin", margin, at_least=0.0)
    batch = pairs.labelled(
        "sincere",
        z_a,
        z_b,
        labels_a,
        labels_b,
        temperature=temperature,
        intra_modal=intra_modal,
        normalize=normalize,
        weight_a=weight_a,
        weight_b=weight_b,
        reduction=reduction,
        chunk_size=chunk_size,
        group=group,
        grad_reduce=grad_reduce,
        exchange=exchange,
    )
    with precision.no_autocast(z_a):
        negatives = batch.of_class(same=False).sides().rows
        # Without negatives, any number that is low enough: its softplus is 0.
        lowest = torch.finfo(negatives.dtype).min / 4
        threshold = negatives.masked_fill(negatives == -torch.inf, lowest) + margin
        positives = pairs.against(batch.of_class(same=True), threshold)
        total = positives.replaced(softplus=True).sides().rows
        return batch.reduced(batch.mean(total) - margin, reduction)


class SINCERELoss(nn.Module):
    """Module form of :func:`~xmodal_losses.functional.sincere`.

    Args:
        temperature: As in the function, a number.
        margin: As in the function.
        intra_modal: As in the function.
        normalize: As in the function.
        reduction: As in the function.
        chunk_size: As in the function.
        gather: True: the default process group; or a process group, the ``group`` of
            the function. False: the batch is here.
        grad_reduce: As in the function.
        exchange: As in the function.

    State: none.

    Shape:
        - ``z_a``: ``(…, N, D)``; ``z_b``: ``(…, M, D)``; ``labels_a`` and ``weight_a``:
          ``(…, N)``; ``labels_b`` and ``weight_b``: ``(…, M)``.
        - Output: scalar, or ``(…, N + M)`` for ``reduction="none"``.

    Examples:
        >>> import torch, xmodal_losses as xl
        >>> rgb, ir = torch.randn(2, 32, 128, requires_grad=True)
        >>> label_rgb, label_ir = torch.randint(4, (2, 32))
        >>> xl.SINCERELoss()(rgb, ir, label_rgb, label_ir).backward()
    """

    def __init__(
        self,
        *,
        temperature: float = 0.07,
        margin: float = 0.0,
        intra_modal: bool = True,
        normalize: bool = True,
        reduction: reduce.Reduction = "mean",
        chunk_size: int | None = None,
        gather: bool | ranks.Group = False,
        grad_reduce: ranks.GradReduce = "mean",
        exchange: pairs.Exchange | None = None,
    ) -> None:
        super().__init__()
        caller = "SINCERELoss"
        checks.number(caller, "temperature", temperature, above=0.0)
        checks.number(caller, "margin", margin, at_least=0.0)
        pairs.check_labelled(caller, intra_modal, normalize, reduction, chunk_size)
        ranks.check_module(caller, gather, grad_reduce, exchange, pairs.EXCHANGES)
        self.temperature = float(temperature)
        self.margin = float(margin)
        self.intra_modal = intra_modal
        self.normalize = normalize
        self.reduction: reduce.Reduction = reduction
        self.chunk_size = chunk_size
        self.gather = gather
        self.grad_reduce: ranks.GradReduce = grad_reduce
        self.exchange: pairs.Exchange | None = exchange

    def forward(
        self,
        z_a: Tensor,
        z_b: Tensor,
        labels_a: Tensor,
        labels_b: Tensor,
        *,
        weight_a: Tensor | None = None,
        weight_b: Tensor | None = None,
    ) -> Tensor:
        """Return the loss of the labelled batches."""
        return sincere(
            z_a,
            z_b,
            labels_a,
            labels_b,
            temperature=self.temperature,
            margin=self.margin,
            intra_modal=self.intra_modal,
            normalize=self.normalize,
            weight_a=weight_a,
            weight_b=weight_b,
            reduction=self.reduction,
            chunk_size=self.chunk_size,
            group=ranks.of_module("SINCERELoss", self.gather),
            grad_reduce=self.grad_reduce,
            exchange=self.exchange,
        )

    def extra_repr(self) -> str:
        """Return the options."""
        return describe(
            self,
            "temperature",
            "margin",
            "intra_modal",
            "normalize",
            "reduction",
            "chunk_size",
            "gather",
            "grad_reduce",
            "exchange",
        )
