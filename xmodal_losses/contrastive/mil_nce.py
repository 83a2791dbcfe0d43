r"""MIL-NCE: a row has several positives, and does with any of them.

With :math:`s_{ij} = \langle \hat a_i, \hat b_j \rangle / \tau` of unit rows, row
:math:`i` of one modality has a bag :math:`P(i) \ni i` of positives in the other, say
its partner and the neighbours of that where sensors are registered to a pixel or two,
and negatives :math:`j \in \mathcal{N}(i)`:

.. math::
    \ell_i^{a \to b} = -\log
        \frac{\sum_{p \in P(i)} e^{s_{ip}}}
             {\sum_{p \in P(i)} e^{s_{ip}} + \sum_{j \in \mathcal{N}(i)} e^{s_{ij}}}
    = \operatorname{softplus}\Bigl(
        \log \sum_{j \in \mathcal{N}(i)} e^{s_{ij}}
        - \log \sum_{p \in P(i)} e^{s_{ip}} \Bigr) .

The gradient goes to the positives by their share of the bag: the row chooses. A bag of
one is InfoNCE. The symmetric loss is the mean over both directions.

Numerics: as in InfoNCE. Cost: O(N² D) time, O(N D) memory and a tile of the logits; the
logits are gone through once for the negatives and once for the bags.

References: Eq. 1 of :cite:t:`miech2020end`, whose video clips have several captions.
"""

import torch
from torch import Tensor, nn

from xmodal_losses._core import checks, pairs, precision, ranks, reduce
from xmodal_losses._core.modules import describe

__all__ = ["MILNCELoss", "mil_nce"]


def mil_nce(
    z_a: Tensor,
    z_b: Tensor,
    *,
    temperature: float | Tensor = 0.07,
    symmetric: bool = True,
    normalize: bool = True,
    negatives: pairs.Negatives = "group",
    exclude: Tensor | None = None,
    ids: Tensor | None = None,
    positions: Tensor | None = None,
    exclude_radius: float | None = None,
    jitter: float | None = None,
    weight: Tensor | None = None,
    reduction: reduce.Reduction = "mean",
    chunk_size: int | None = None,
    group: ranks.Group | None = None,
    grad_reduce: ranks.GradReduce = "mean",
    exchange: pairs.Exchange | None = None,
) -> Tensor:
    """Return the MIL-NCE loss of paired rows with bags of positives.

    Args:
        z_a: Embeddings of modality *a*, shape ``(…, N, D)``; leading dimensions are
            groups, say images.
        z_b: Embeddings of modality *b*, same shape; row *i* belongs to row *i* of
            ``z_a``.
        temperature: τ > 0, a number or a tensor of shape ``()``, which gets its
            gradient.
        symmetric: Average the losses a→b and b→a; otherwise a→b alone.
        normalize: Scale rows to unit length first. A zero row stays zero, and gets no
            gradient.
        negatives: ``"group"``: the other rows of the same group. ``"all"``: every
            other row of every group. ``"cross"``: the other rows of the same group
            and the same row of the other groups.
        exclude: Boolean ``(…, N, N)``: True where (a_i, b_j) of one group is not a
            negative, for either of the two. Positives stay.
        ids: Integers ``(…, N)``: rows with the same id are of one bag, positives of
            each other; also of different groups, as far as ``negatives`` goes.
        positions: Coordinates ``(…, N, P)``, say of patches in their image, for
            ``jitter`` and ``exclude_radius``.
        exclude_radius: A distance ≥ 0 in the units of ``positions``: rows of one group
            that are not further apart are no negatives of each other. It is the largest
            difference of a coordinate.
        jitter: A distance ≥ 0 in the units of ``positions``: rows of one group that are
            not further apart are positives of each other, too.
        weight: Weights ≥ 0 of the rows, ``(…, N)``. A row of weight 0 is as if it were
            not there, neither as a negative nor as a positive.
        reduction: ``"mean"`` (Σwℓ/Σw over rows and groups), ``"sum"`` (Σwℓ) or
            ``"none"`` (wℓ, shape ``(…, N)``).
        chunk_size: Edge of the largest tile of the N×N logits to hold at a time; the
            result is the same. None chooses by size and device.
        group: A process group whose ranks each have a part of the batch; the loss is
            that of the parts joined along the first dimension. ``exclude`` of a batch
            ``(N, D)`` is then ``(n, N)``, own rows by all. None: the batch is here.
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
        >>> clips, captions = torch.eye(4), torch.eye(4).roll(1, 0)
        >>> F.mil_nce(clips, captions, temperature=0.5)
        tensor(2.3408)
        >>> F.mil_nce(clips, captions, temperature=0.5, ids=torch.tensor([0, 0, 1, 1]))
        tensor(0.9307)
    """
    checks.flag("mil_nce", "symmetric", symmetric)
    contrast = pairs.paired(
        "mil_nce",
        z_a,
        z_b,
        normalize=normalize,
        negatives=negatives,
        exclude=exclude,
        ids=ids,
        positions=positions,
        exclude_radius=pairs.widest("mil_nce", positions, jitter, exclude_radius),
        weight=weight,
        reduction=reduction,
        chunk_size=chunk_size,
        group=group,
        grad_reduce=grad_reduce,
        exchange=exchange,
    )
    checks.positive_scalar("mil_nce", "temperature", temperature)
    rows = pairs.anchors(contrast.replaced(both=symmetric), weight)
    logits = rows.scaled(temperature, normalize)
    with precision.no_autocast(z_a):
        found = logits.sides()
        positive = found.positive
        if ids is not None or jitter is not None:
            bags = logits.replaced(exclude=None, radius=jitter or 0.0, only=True)
            if jitter is None:
                bags = bags.replaced(positions=None)
            positive = torch.logaddexp(positive, pairs.log_sums(bags.sides()))
        loss = precision.softplus(pairs.log_sums(found) - positive)
        return rows.reduced_rows(loss, reduction)


class MILNCELoss(nn.Module):
    """Module form of :func:`~xmodal_losses.functional.mil_nce`.

    Args:
        temperature: As in the function, a number.
        symmetric: As in the function.
        normalize: As in the function.
        negatives: As in the function.
        exclude_radius: As in the function; ``positions`` are given to ``forward``.
        jitter: As in the function; it goes with ``positions``, too.
        reduction: As in the function.
        chunk_size: As in the function.
        gather: True: the default process group; or a process group, the ``group`` of
            the function. False: the batch is here.
        grad_reduce: As in the function.
        exchange: As in the function.

    State: none.

    Shape:
        - ``z_a``, ``z_b``: ``(…, N, D)``; ``exclude``: ``(…, N, N)``; ``ids`` and
          ``weight``: ``(…, N)``; ``positions``: ``(…, N, P)``.
        - Output: scalar, or ``(…, N)`` for ``reduction="none"``.

    Examples:
        >>> import torch, xmodal_losses as xl
        >>> criterion = xl.MILNCELoss(jitter=1.0)
        >>> rgb, ir = torch.randn(2, 8, 64, 128, requires_grad=True)
        >>> places = torch.cartesian_prod(torch.arange(8), torch.arange(8))
        >>> criterion(rgb, ir, positions=places.expand(8, 64, 2)).backward()
    """

    def __init__(
        self,
        *,
        temperature: float = 0.07,
        symmetric: bool = True,
        normalize: bool = True,
        negatives: pairs.Negatives = "group",
        exclude_radius: float | None = None,
        jitter: float | None = None,
        reduction: reduce.Reduction = "mean",
        chunk_size: int | None = None,
        gather: bool | ranks.Group = False,
        grad_reduce: ranks.GradReduce = "mean",
        exchange: pairs.Exchange | None = None,
    ) -> None:
        super().__init__()
        caller = "MILNCELoss"
        checks.number(caller, "temperature", temperature, above=0.0)
        checks.flag(caller, "symmetric", symmetric)
        pairs.check_options(
            caller, normalize, negatives, exclude_radius, reduction, chunk_size
        )
        pairs.check_jitter(caller, jitter)
        ranks.check_module(caller, gather, grad_reduce, exchange, pairs.EXCHANGES)
        self.temperature = float(temperature)
        self.symmetric = symmetric
        self.normalize = normalize
        self.negatives: pairs.Negatives = negatives
        self.exclude_radius = exclude_radius
        self.jitter = jitter
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
        exclude: Tensor | None = None,
        ids: Tensor | None = None,
        positions: Tensor | None = None,
        weight: Tensor | None = None,
    ) -> Tensor:
        """Return the loss of the paired batches."""
        return mil_nce(
            z_a,
            z_b,
            temperature=self.temperature,
            symmetric=self.symmetric,
            normalize=self.normalize,
            negatives=self.negatives,
            exclude=exclude,
            ids=ids,
            positions=positions,
            exclude_radius=self.exclude_radius,
            jitter=self.jitter,
            weight=weight,
            reduction=self.reduction,
            chunk_size=self.chunk_size,
            group=ranks.of_module("MILNCELoss", self.gather),
            grad_reduce=self.grad_reduce,
            exchange=self.exchange,
        )

    def extra_repr(self) -> str:
        """Return the options."""
        return describe(
            self,
            "temperature",
            "symmetric",
            "normalize",
            "negatives",
            "exclude_radius",
            "jitter",
            "reduction",
            "chunk_size",
            "gather",
            "grad_reduce",
            "exchange",
        )
