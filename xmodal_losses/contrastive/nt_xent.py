r"""NT-Xent: pick the partner of each row out of both modalities.

The 2N unit rows :math:`u = (\hat a_1, …, \hat a_N, \hat b_1, …, \hat b_N)` are told
apart from each other, those of the same modality included. With
:math:`s_{ij} = \langle u_i, u_j \rangle / \tau` and the partner :math:`p(i)` of row
:math:`i`,

.. math::
    \ell_i = -\log \frac{e^{s_{i p(i)}}}{\sum_{j \ne i} e^{s_{ij}}}
    = \operatorname{softplus}\Bigl(
        \log \sum_{j \ne i,\, p(i)} e^{s_{ij}} - s_{i p(i)} \Bigr) ,

and the loss is the mean over all 2N. InfoNCE has the N − 1 negatives of the other
modality only; here are the N − 1 of the same one, too.

Numerics: as in InfoNCE. Cost: O(N² D) time, O(N D) memory and a tile of the logits.

References: Eq. 1 and Algorithm 1 of :cite:t:`chen2020simple`.
"""

from torch import Tensor, nn

from xmodal_losses._core import checks, pairs, ranks, reduce
from xmodal_losses._core.modules import describe
from xmodal_losses.contrastive.info_nce import head

__all__ = ["NTXentLoss", "nt_xent"]


def nt_xent(
    z_a: Tensor,
    z_b: Tensor,
    *,
    temperature: float | Tensor = 0.07,
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
    """Return the NT-Xent loss of paired rows, with negatives of both modalities.

    Args:
        z_a: Embeddings of modality *a*, shape ``(…, N, D)``; leading dimensions are
            independent problems.
        z_b: Embeddings of modality *b*, same shape; row *i* belongs to row *i* of
            ``z_a``.
        temperature: τ > 0, a number or a tensor of shape ``()``, which gets its
            gradient. Common: 0.05 to 0.5.
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
        chunk_size: Edge of the largest tile of the 2N×2N logits to hold at a time; the
            result is the same. None chooses by size and device.
        group: A process group whose ranks each have a part of the batch; the loss is
            that of the parts joined along the first dimension. None: the batch is here.
        grad_reduce: ``"mean"`` if gradients are averaged over ranks, as by DDP;
            ``"sum"`` if they are added up.
        exchange: How rows come from other ranks: ``"gather"``, all at once, or
            ``"ring"``, one rank's after the other's. None chooses by size.

    Returns:
        Scalar, or ``(…, N)`` for ``reduction="none"``; ≥ 0. In the dtype of the inputs,
        float32 at least.

    Raises:
        TypeError: If an input is not a floating-point tensor, or an option of another
            type.
        ValueError: If shapes do not fit together or an option is out of range.

    Examples:
        >>> import torch, xmodal_losses.functional as F
        >>> F.nt_xent(torch.eye(4), torch.eye(4), temperature=0.5)
        tensor(0.5944)
    """
    contrast = pairs.paired(
        "nt_xent",
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
    checks.positive_scalar("nt_xent", "temperature", temperature)
    rows = pairs.anchors(contrast, weight, intra_modal=True)
    return rows.reduced(rows.scaled(temperature, normalize), _row_loss, reduction)


_row_loss = pairs.of_sides(head)


class NTXentLoss(nn.Module):
    """Module form of :func:`~xmodal_losses.functional.nt_xent`.

    Args:
        temperature: As in the function, a number.
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
        >>> rgb, ir = torch.randn(2, 256, 128, requires_grad=True)
        >>> xl.NTXentLoss(temperature=0.1)(rgb, ir).backward()
    """

    def __init__(
        self,
        *,
        temperature: float = 0.07,
        normalize: bool = True,
        exclude_radius: float | None = None,
        reduction: reduce.Reduction = "mean",
        chunk_size: int | None = None,
        gather: bool | ranks.Group = False,
        grad_reduce: ranks.GradReduce = "mean",
        exchange: pairs.Exchange | None = None,
    ) -> None:
        super().__init__()
        caller = "NTXentLoss"
        checks.number(caller, "temperature", temperature, above=0.0)
        pairs.check_options(
            caller, normalize, "group", exclude_radius, reduction, chunk_size
        )
        ranks.check_module(caller, gather, grad_reduce, exchange, pairs.EXCHANGES)
        self.temperature = float(temperature)
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
        return nt_xent(
            z_a,
            z_b,
            temperature=self.temperature,
            normalize=self.normalize,
            ids=ids,
            positions=positions,
            exclude_radius=self.exclude_radius,
            weight=weight,
            reduction=self.reduction,
            chunk_size=self.chunk_size,
            group=ranks.of_module("NTXentLoss", self.gather),
            grad_reduce=self.grad_reduce,
            exchange=self.exchange,
        )

    def extra_repr(self) -> str:
        """Return the options."""
        return describe(
            self,
            "temperature",
            "normalize",
            "exclude_radius",
            "reduction",
            "chunk_size",
            "gather",
            "grad_reduce",
            "exchange",
        )
