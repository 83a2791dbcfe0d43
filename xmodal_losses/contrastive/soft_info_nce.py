r"""InfoNCE with soft targets: a row is drawn to several, each by its weight.

With :math:`s_{ij} = \langle \hat a_i, \hat b_j \rangle / \tau` of unit rows and weights
:math:`T_{ij} \ge 0`, the cross entropy of row :math:`i` of one modality, over the rows
:math:`K(i)` of the other that count for it, is

.. math::
    \ell_i^{a \to b} = \log \sum_{j \in K(i)} e^{s_{ij}} - \sum_j Q_{ij} s_{ij} , \qquad
    Q_{ij} = (1 - \varepsilon) \frac{T_{ij}}{\sum_k T_{ik}}
        + \frac{\varepsilon}{|K(i)|} \; [j \in K(i)] ,

with label smoothing :math:`\varepsilon`; from b to a, weights are over the sum of their
column. They are given, or those of neighbours in the image, a Gaussian of the distance
of their places: where sensors are registered to a pixel or two, the partner may be any
of these. Without either, :math:`T` is the identity, the loss InfoNCE. MIL-NCE lets the
row choose instead.

The least value is not 0 but the entropy of :math:`Q_i`.

Numerics: as in InfoNCE; no N×N matrix of weights is made of places. Cost: O(N² D) time,
O(N D) memory and a tile; twice the time of InfoNCE in two passes, with smoothing beside
weights three times.

References: the soft form is the cross entropy of a distribution over keys; smoothing is
that of :cite:t:`szegedy2016rethinking`, §7.
"""

import torch
from torch import Tensor, nn

from xmodal_losses._core import checks, pairs, precision, ranks, reduce
from xmodal_losses._core.modules import describe

__all__ = ["SoftInfoNCELoss", "soft_info_nce"]


def soft_info_nce(
    z_a: Tensor,
    z_b: Tensor,
    *,
    temperature: float | Tensor = 0.07,
    targets: Tensor | None = None,
    label_smoothing: float = 0.0,
    symmetric: bool = True,
    normalize: bool = True,
    negatives: pairs.Negatives = "group",
    exclude: Tensor | None = None,
    ids: Tensor | None = None,
    positions: Tensor | None = None,
    exclude_radius: float | None = None,
    jitter: float | None = None,
    spread: float | None = None,
    weight: Tensor | None = None,
    reduction: reduce.Reduction = "mean",
    chunk_size: int | None = None,
    group: ranks.Group | None = None,
    grad_reduce: ranks.GradReduce = "mean",
    exchange: pairs.Exchange | None = None,
) -> Tensor:
    """Return the InfoNCE loss of paired rows with soft targets.

    Args:
        z_a: Embeddings of modality *a*, shape ``(…, N, D)``; leading dimensions are
            groups, say images.
        z_b: Embeddings of modality *b*, same shape; row *i* belongs to row *i* of
            ``z_a``.
        temperature: τ > 0, a number or a tensor of shape ``()``, which gets its
            gradient.
        targets: Weights T ≥ 0 of the pairs (a_i, b_j) of a group, ``(…, N, N)``; not
            beside ``jitter``. They get no gradient. A row (or, from b to a, a column)
            of zeros has loss 0.
        label_smoothing: ε in [0, 1), the share that goes to all rows that count.
        symmetric: Average the losses a→b and b→a; otherwise a→b alone.
        normalize: Scale rows to unit length first. A zero row stays zero, and gets no
            gradient.
        negatives: ``"group"``: the other rows of the same group. ``"all"``: every
            other row of every group. ``"cross"``: the other rows of the same group
            and the same row of the other groups.
        exclude: Boolean ``(…, N, N)``: True where (a_i, b_j) of one group is not a
            negative, for either of the two. Pairs of positive weight stay.
        ids: Integers ``(…, N)``: rows with the same id, of any group, are no negatives
            of each other.
        positions: Coordinates ``(…, N, P)``, say of patches in their image, for
            ``jitter`` and ``exclude_radius``.
        exclude_radius: A distance ≥ 0 in the units of ``positions``: rows of one group
            that are not further apart are no negatives of each other. It is the largest
            difference of a coordinate.
        jitter: A distance ≥ 0 in the units of ``positions``: rows of one group that are
            not further apart are targets of each other.
        spread: σ > 0 of the weights exp(−d²/2σ²) of these, d the Euclidean distance of
            their positions. None: all weigh as much as the partner.
        weight: Weights ≥ 0 of the rows, ``(…, N)``. A row of weight 0 is as if it were
            not there, neither as a negative nor as a positive.
        reduction: ``"mean"`` (Σwℓ/Σw over rows and groups), ``"sum"`` (Σwℓ) or
            ``"none"`` (wℓ, shape ``(…, N)``).
        chunk_size: Edge of the largest tile of the N×N logits to hold at a time; the
            result is the same. None chooses by size and device.
        group: A process group whose ranks each have a part of the batch; the loss is
            that of the parts joined along the first dimension. ``exclude`` and
            ``targets`` of a batch
            ``(N, D)`` are then ``(n, N)``, own rows by all. None: the batch is here.
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
        >>> F.soft_info_nce(torch.eye(4), torch.eye(4), temperature=0.5)
        tensor(0.3408)
        >>> neighbours = torch.eye(4) + 0.5 * torch.eye(4).roll(1, 0)
        >>> F.soft_info_nce(
        ...     torch.eye(4), torch.eye(4), temperature=0.5, targets=neighbours
        ... )
        tensor(1.0074)
    """
    _check("soft_info_nce", label_smoothing, spread, symmetric)
    if targets is not None and jitter is not None:
        raise ValueError(
            "soft_info_nce: targets must be None where jitter says what they are, got "
            "both."
        )
    if spread is not None and jitter is None:
        raise ValueError(
            f"soft_info_nce: spread must be given with jitter and only then, got "
            f"spread={spread!r} without jitter."
        )
    contrast = pairs.paired(
        "soft_info_nce",
        z_a,
        z_b,
        normalize=normalize,
        negatives=negatives,
        exclude=exclude,
        targets=targets,
        ids=ids,
        positions=positions,
        exclude_radius=pairs.widest("soft_info_nce", positions, jitter, exclude_radius),
        weight=weight,
        reduction=reduction,
        chunk_size=chunk_size,
        group=group,
        grad_reduce=grad_reduce,
        exchange=exchange,
    )
    checks.positive_scalar("soft_info_nce", "temperature", temperature)
    contrast = contrast.replaced(both=symmetric, kept_radius=jitter)
    rows = pairs.anchors(contrast, weight)
    logits = rows.scaled(temperature, normalize)
    with precision.no_autocast(z_a):
        found = logits.sides()
        gap = pairs.log_sums(found) - found.positive
        pull, has = found.positive.expand(gap.shape), torch.ones_like(gap).bool()
        if targets is not None or jitter is not None:
            pull, has = pairs.weighted_mean(logits, targets, jitter, spread)
        if label_smoothing > 0:
            uniform = pairs.uniform_mean(logits)
            pull = torch.lerp(pull, uniform, label_smoothing)
        loss = precision.softplus(gap) + (found.positive - pull)
        return rows.reduced_rows(loss.masked_fill(~has, 0.0), reduction)


def _check(
    caller: str, label_smoothing: object, spread: object, symmetric: object
) -> None:
    checks.number(caller, "label_smoothing", label_smoothing, at_least=0.0, below=1.0)
    if spread is not None:
        checks.number(caller, "spread", spread, above=0.0)
    checks.flag(caller, "symmetric", symmetric)


class SoftInfoNCELoss(nn.Module):
    """Module form of :func:`~xmodal_losses.functional.soft_info_nce`.

    Args:
        temperature: As in the function, a number.
        label_smoothing: As in the function.
        symmetric: As in the function.
        normalize: As in the function.
        negatives: As in the function.
        exclude_radius: As in the function; ``positions`` are given to ``forward``.
        jitter: As in the function; it goes with ``positions``, too.
        spread: As in the function.
        reduction: As in the function.
        chunk_size: As in the function.
        gather: True: the default process group; or a process group, the ``group`` of
            the function. False: the batch is here.
        grad_reduce: As in the function.
        exchange: As in the function.

    State: none.

    Shape:
        - ``z_a``, ``z_b``: ``(…, N, D)``; ``targets`` and
          ``exclude``: ``(…, N, N)``; ``ids`` and
          ``weight``: ``(…, N)``; ``positions``: ``(…, N, P)``.
        - Output: scalar, or ``(…, N)`` for ``reduction="none"``.

    Examples:
        >>> import torch, xmodal_losses as xl
        >>> criterion = xl.SoftInfoNCELoss(jitter=1.0, spread=0.5)
        >>> rgb, ir = torch.randn(2, 8, 64, 128, requires_grad=True)
        >>> places = torch.cartesian_prod(torch.arange(8), torch.arange(8))
        >>> criterion(rgb, ir, positions=places.expand(8, 64, 2)).backward()
    """

    def __init__(
        self,
        *,
        temperature: float = 0.07,
        label_smoothing: float = 0.0,
        symmetric: bool = True,
        normalize: bool = True,
        negatives: pairs.Negatives = "group",
        exclude_radius: float | None = None,
        jitter: float | None = None,
        spread: float | None = None,
        reduction: reduce.Reduction = "mean",
        chunk_size: int | None = None,
        gather: bool | ranks.Group = False,
        grad_reduce: ranks.GradReduce = "mean",
        exchange: pairs.Exchange | None = None,
    ) -> None:
        super().__init__()
        caller = "SoftInfoNCELoss"
        checks.number(caller, "temperature", temperature, above=0.0)
        _check(caller, label_smoothing, spread, symmetric)
        pairs.check_options(
            caller, normalize, negatives, exclude_radius, reduction, chunk_size
        )
        pairs.check_jitter(caller, jitter)
        ranks.check_module(caller, gather, grad_reduce, exchange, pairs.EXCHANGES)
        self.temperature = float(temperature)
        self.label_smoothing = float(label_smoothing)
        self.symmetric = symmetric
        self.normalize = normalize
        self.negatives: pairs.Negatives = negatives
        self.exclude_radius = exclude_radius
        self.jitter = jitter
        self.spread = spread
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
        targets: Tensor | None = None,
        exclude: Tensor | None = None,
        ids: Tensor | None = None,
        positions: Tensor | None = None,
        weight: Tensor | None = None,
    ) -> Tensor:
        """Return the loss of the paired batches."""
        return soft_info_nce(
            z_a,
            z_b,
            temperature=self.temperature,
            targets=targets,
            label_smoothing=self.label_smoothing,
            symmetric=self.symmetric,
            normalize=self.normalize,
            negatives=self.negatives,
            exclude=exclude,
            ids=ids,
            positions=positions,
            exclude_radius=self.exclude_radius,
            jitter=self.jitter,
            spread=self.spread,
            weight=weight,
            reduction=self.reduction,
            chunk_size=self.chunk_size,
            group=ranks.of_module("SoftInfoNCELoss", self.gather),
            grad_reduce=self.grad_reduce,
            exchange=self.exchange,
        )

    def extra_repr(self) -> str:
        """Return the options."""
        return describe(
            self,
            "temperature",
            "label_smoothing",
            "symmetric",
            "normalize",
            "negatives",
            "exclude_radius",
            "jitter",
            "spread",
            "reduction",
            "chunk_size",
            "gather",
            "grad_reduce",
            "exchange",
        )
