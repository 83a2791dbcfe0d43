r"""Supervised contrast (SupCon): all rows of the same class are positives.

The rows :math:`u` of both modalities, of unit length, are one batch, with
:math:`s_{ij} = \langle u_i, u_j \rangle / \tau`. The positives :math:`P(i)` are the
other rows of the class of :math:`i`, in whichever modality:

.. math::
    \ell_i^{\text{out}} = \log \sum_{j \ne i} e^{s_{ij}}
        - \frac1{|P(i)|} \sum_{p \in P(i)} s_{ip} ,
    \qquad
    \ell_i^{\text{in}} = \log \sum_{j \ne i} e^{s_{ij}}
        - \log \frac1{|P(i)|} \sum_{p \in P(i)} e^{s_{ip}} .

The loss is the mean over the rows that have a positive. Where each class is one pair of
rows, both are NT-Xent; with ``intra_modal=False`` the sums go over rows of the other
modality, and both are InfoNCE. The least value is not 0, since positives are among the
rows they are told from: :math:`\log |P(i)|` if all of them coincide.

Numerics: the sums of positives are those of their rows, found by class. Cost:
O((N + M)² D) time, O((N + M) D) memory and a tile of the logits; ``"in"`` takes twice
the time.

References: Eqs. 2 and 3 of :cite:t:`khosla2020supervised`, who prefer ``"out"``.
"""

from typing import Literal, TypeAlias

from torch import Tensor, nn

from xmodal_losses._core import checks, pairs, precision, ranks, reduce
from xmodal_losses._core.modules import describe

__all__ = ["SupConLoss", "sup_con"]

Variant: TypeAlias = Literal["out", "in"]
VARIANTS = ("out", "in")


def sup_con(
    z_a: Tensor,
    z_b: Tensor,
    labels_a: Tensor,
    labels_b: Tensor,
    *,
    temperature: float | Tensor = 0.07,
    variant: Variant = "out",
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
    """Return the supervised contrastive loss of the rows of both modalities.

    Args:
        z_a: Embeddings of modality *a*, shape ``(…, N, D)``; leading dimensions are
            independent problems.
        z_b: Embeddings of modality *b*, ``(…, M, D)``; N and M may differ.
        labels_a: Classes, any integers, ``(…, N)``. A row whose class nobody else has
            is a negative of all others, and has no loss.
        labels_b: Classes, ``(…, M)``.
        temperature: τ > 0, a number or a tensor of shape ``()``, which gets its
            gradient.
        variant: ``"out"``: the mean over positives outside of the logarithm; ``"in"``:
            inside.
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
        Scalar, or ``(…, N + M)`` for ``reduction="none"``. In the dtype of the
        inputs, float32 at least.

    Raises:
        TypeError: If an input is of another type.
        ValueError: If shapes do not fit together or an option is out of range.

    Examples:
        >>> import torch, xmodal_losses.functional as F
        >>> z, labels = torch.eye(4), torch.arange(4)
        >>> F.sup_con(z, z, labels, labels, temperature=0.5)
        tensor(0.5944)
    """
    checks.option("sup_con", "variant", variant, VARIANTS)
    batch = pairs.labelled(
        "sup_con",
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
        everyone = batch.contrast.sides().rows
        if variant == "in":
            count = batch.positives.clamp_min(1)
            positive = batch.of_class(same=True).sides().rows - count.log()
        else:
            positive = batch.mean(batch.positive_sums())
        alone = batch.positives <= 0
        loss = everyone.masked_fill(alone, 0.0) - positive.masked_fill(alone, 0.0)
        return batch.reduced(loss, reduction)


class SupConLoss(nn.Module):
    """Module form of :func:`~xmodal_losses.functional.sup_con`.

    Args:
        temperature: As in the function, a number.
        variant: As in the function.
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
        >>> xl.SupConLoss()(rgb, ir, label_rgb, label_ir).backward()
    """

    def __init__(
        self,
        *,
        temperature: float = 0.07,
        variant: Variant = "out",
        intra_modal: bool = True,
        normalize: bool = True,
        reduction: reduce.Reduction = "mean",
        chunk_size: int | None = None,
        gather: bool | ranks.Group = False,
        grad_reduce: ranks.GradReduce = "mean",
        exchange: pairs.Exchange | None = None,
    ) -> None:
        super().__init__()
        caller = "SupConLoss"
        checks.number(caller, "temperature", temperature, above=0.0)
        checks.option(caller, "variant", variant, VARIANTS)
        pairs.check_labelled(caller, intra_modal, normalize, reduction, chunk_size)
        ranks.check_module(caller, gather, grad_reduce, exchange, pairs.EXCHANGES)
        self.temperature = float(temperature)
        self.variant: Variant = variant
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
        return sup_con(
            z_a,
            z_b,
            labels_a,
            labels_b,
            temperature=self.temperature,
            variant=self.variant,
            intra_modal=self.intra_modal,
            normalize=self.normalize,
            weight_a=weight_a,
            weight_b=weight_b,
            reduction=self.reduction,
            chunk_size=self.chunk_size,
            group=ranks.of_module("SupConLoss", self.gather),
            grad_reduce=self.grad_reduce,
            exchange=self.exchange,
        )

    def extra_repr(self) -> str:
        """Return the options."""
        return describe(
            self,
            "temperature",
            "variant",
            "intra_modal",
            "normalize",
            "reduction",
            "chunk_size",
            "gather",
            "grad_reduce",
            "exchange",
        )
