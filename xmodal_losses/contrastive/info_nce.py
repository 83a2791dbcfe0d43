r"""InfoNCE: pick the partner of each row out of the batch.

With :math:`s_{ij} = \langle \hat a_i, \hat b_j \rangle / \tau` of unit rows, the row
:math:`i` of one modality has its partner :math:`b_i` as positive and the rows
:math:`b_j,\ j \in \mathcal{N}(i)` as negatives:

.. math::
    \ell_i^{a \to b}
    = -\log \frac{e^{s_{ii}}}{e^{s_{ii}} + \sum_{j \in \mathcal{N}(i)} e^{s_{ij}}}
    = \operatorname{softplus}\Bigl(
        \log \sum_{j \in \mathcal{N}(i)} e^{s_{ij}} - s_{ii} \Bigr) .

The symmetric loss is :math:`\tfrac12 (\ell_i^{a \to b} + \ell_i^{b \to a})`, the mean
over rows that of CLIP.

Numerics: the softplus form keeps value and gradient of a pair that is already right; a
float32 cross entropy is exactly 0 from a gap of 17 on, and pulls the pair no more.
Logits are float32 or wider under autocast and for 16-bit inputs; of bfloat16 inputs on
CUDA, what is multiplied is rounded to bfloat16. Cost: O(N² D) time, O(N D) memory and a
tile of the logits.

References: Eq. 4 of :cite:t:`oord2018representation`; the symmetric form is Eq. 2–4 of
:cite:t:`zhang2022contrastive` with λ = ½ and Fig. 3 of :cite:t:`radford2021learning`.
"""

import math
from collections.abc import Sequence
from functools import partial

import torch
from torch import Tensor, nn

from xmodal_losses._core import checks, pairs, precision, ranks, reduce
from xmodal_losses._core.linalg import within
from xmodal_losses._core.modules import describe

__all__ = ["InfoNCELoss", "info_nce"]


def info_nce(
    z_a: Tensor,
    z_b: Tensor,
    *,
    temperature: float | Tensor = 0.07,
    symmetric: bool = True,
    direction_weight: float = 0.5,
    margin: float = 0.0,
    normalize: bool = True,
    negatives: pairs.Negatives = "group",
    exclude: Tensor | None = None,
    ids: Tensor | None = None,
    positions: Tensor | None = None,
    exclude_radius: float | None = None,
    guide: tuple[Tensor, Tensor] | None = None,
    guide_margin: float = 0.0,
    hardest: int | None = None,
    extra: pairs.ExtraNegatives | None = None,
    weight: Tensor | None = None,
    reduction: reduce.Reduction = "mean",
    chunk_size: int | None = None,
    group: ranks.Group | None = None,
    grad_reduce: ranks.GradReduce = "mean",
    exchange: pairs.Exchange | None = None,
) -> Tensor:
    """Return the InfoNCE loss of paired rows: (a_i, b_i) is the positive.

    Args:
        z_a: Embeddings of modality *a*, shape ``(…, N, D)``; leading dimensions are
            groups, say images.
        z_b: Embeddings of modality *b*, same shape; row *i* belongs to row *i* of
            ``z_a``.
        temperature: τ > 0, a number or a tensor of shape ``()``, which gets its
            gradient. Common: 0.05 to 0.2.
        symmetric: Average the losses a→b and b→a; otherwise a→b alone.
        direction_weight: λ in [0, 1] of the average λ·(a→b) + (1 − λ)·(b→a).
        margin: By how much the logit of the positive should be above the negatives'; m
            of a cosine is m/τ of a logit.
        normalize: Scale rows to unit length first. A zero row stays zero, and gets no
            gradient.
        negatives: ``"group"``: the other rows of the same group. ``"all"``: every
            other row of every group. ``"cross"``: the other rows of the same group
            and the same row of the other groups.
        exclude: Boolean ``(…, N, N)``: True where (a_i, b_j) of one group is not a
            negative, for either of the two. The diagonal does not matter: a positive
            stays.
        ids: Integers ``(…, N)``: rows with the same id, of any group, are no negatives
            of each other.
        positions: Coordinates ``(…, N, P)``, say of patches in their image: rows of one
            group that are not further apart than ``exclude_radius`` are no negatives of
            each other.
        exclude_radius: A distance ≥ 0 in the units of ``positions``, which go with it:
            the largest difference of a coordinate (Chebyshev's), so that rows are left
            out in a square window.
        guide: Other embeddings of the same rows, of *a* and of *b*, ``(…, N, G)`` each:
            of a_i, no b_j is a negative whose guides are more similar (by their cosine)
            than those of a_i and b_i less ``guide_margin``; and the other way. Say of a
            trained model, or ``(z_a, z_b)``. They get no gradient.
        guide_margin: See ``guide``; below 0, negatives have to be more similar by so
            much to be left out.
        hardest: Of what is left, so many negatives of each row count, those of the
            largest logits. None: all.
        extra: Negatives beside those of the batch, say of an
            :class:`~xmodal_losses.EmbeddingQueue`; as normalised as the rows are.
        weight: Weights ≥ 0 of the rows, ``(…, N)``. A row of weight 0 is as if it were
            not there; it is no negative either.
        reduction: ``"mean"`` (Σwℓ/Σw over rows and groups), ``"sum"`` (Σwℓ) or
            ``"none"`` (wℓ, shape ``(…, N)``).
        chunk_size: Edge of the largest tile of the N×N logits to hold at a time; the
            result is the same. None chooses by size and device. Masks told by ``ids``
            and ``positions`` are made for a tile at a time; ``exclude`` is N×N.
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
        >>> F.info_nce(torch.eye(4), torch.eye(4), temperature=0.5)
        tensor(0.3408)
        >>> F.info_nce(torch.eye(4), torch.eye(4).flip(0), temperature=0.5)
        tensor(2.3408)
    """
    _check("info_nce", symmetric, direction_weight, margin, guide_margin, hardest)
    contrast = pairs.paired(
        "info_nce",
        z_a,
        z_b,
        normalize=normalize,
        negatives=negatives,
        exclude=exclude,
        ids=ids,
        positions=positions,
        exclude_radius=exclude_radius,
        guide=guide,
        guide_margin=guide_margin,
        extra=extra,
        weight=weight,
        reduction=reduction,
        chunk_size=chunk_size,
        group=group,
        grad_reduce=grad_reduce,
        exchange=exchange,
    )
    checks.positive_scalar("info_nce", "temperature", temperature)
    contrast = pairs.scaled(contrast, temperature, normalize)
    shares = (direction_weight, 1 - direction_weight) if symmetric else (1.0, 0.0)
    row_loss = pairs.of_sides(partial(head, margin=margin), shares)
    if guide is None and hardest is None:
        contrast = contrast.replaced(both=symmetric)
        return contrast.reduced(row_loss, 1.0, weight, reduction)
    # Which negatives count depends on the row: one direction after the other.
    ways = (contrast, contrast.swapped()) if symmetric else (contrast,)
    total = None
    for way, share in zip(ways, shares, strict=False):
        way = way.replaced(both=False)
        if hardest is not None:
            way = way.replaced(floor=pairs.floor(way, hardest))
        value = way.reduced(row_loss, share, weight, reduction)
        total = value if total is None else total + value
    assert total is not None
    return total


def head(
    positive: Tensor, negatives: Tensor, margin: float = 0.0
) -> tuple[Tensor, Tensor, Tensor]:
    """Return the loss of rows, and its derivatives in positives and log-sum-exps."""
    gap = negatives - positive + margin
    slope = gap.sigmoid()
    return precision.softplus(gap), -slope, slope


def _check(
    caller: str,
    symmetric: object,
    direction_weight: object,
    margin: object,
    guide_margin: object,
    hardest: object,
) -> None:
    checks.flag(caller, "symmetric", symmetric)
    checks.number(caller, "direction_weight", direction_weight, at_least=0.0, at_most=1)
    if not symmetric and direction_weight != 0.5:
        raise ValueError(
            f"{caller}: direction_weight must be 0.5 unless symmetric=True, got "
            f"{direction_weight!r}."
        )
    checks.number(caller, "margin", margin)
    checks.number(caller, "guide_margin", guide_margin)
    if hardest is not None:
        checks.count(caller, "hardest", hardest)


class InfoNCELoss(nn.Module):
    """Module form of :func:`~xmodal_losses.functional.info_nce`.

    Args:
        temperature: τ > 0; the initial value if it is learned.
        learn_temperature: Keep log τ as the parameter ``log_temperature``. Hand the
            parameters of the loss to the optimiser, too.
        temperature_range: Limits of a learned τ. Outside, the gradient that would
            lead further away is 0.
        symmetric: As in the function.
        direction_weight: As in the function.
        margin: As in the function.
        normalize: As in the function.
        negatives: As in the function.
        exclude_radius: As in the function; ``positions`` are given to ``forward``.
        guide_margin: As in the function; a ``guide`` is given to ``forward``.
        hardest: As in the function.
        reduction: As in the function.
        chunk_size: As in the function.
        gather: True: the default process group; or a process group, the ``group`` of
            the function. False: the batch is here.
        grad_reduce: As in the function.
        exchange: As in the function.

    State: ``log_temperature``, a parameter of shape ``()``, if it is learned.

    Shape:
        - ``z_a``, ``z_b``: ``(…, N, D)``; ``exclude``: ``(…, N, N)``; ``ids`` and
          ``weight``: ``(…, N)``; ``positions``: ``(…, N, P)``; ``guide``: two of
          ``(…, N, G)``.
        - Output: scalar, or ``(…, N)`` for ``reduction="none"``.

    Examples:
        >>> import torch, xmodal_losses as xl
        >>> criterion = xl.InfoNCELoss(learn_temperature=True)
        >>> rgb, ir = torch.randn(2, 8, 64, 128, requires_grad=True)
        >>> criterion(rgb, ir).backward()
    """

    def __init__(
        self,
        *,
        temperature: float = 0.07,
        learn_temperature: bool = False,
        temperature_range: tuple[float, float] = (0.01, 1.0),
        symmetric: bool = True,
        direction_weight: float = 0.5,
        margin: float = 0.0,
        normalize: bool = True,
        negatives: pairs.Negatives = "group",
        exclude_radius: float | None = None,
        guide_margin: float = 0.0,
        hardest: int | None = None,
        reduction: reduce.Reduction = "mean",
        chunk_size: int | None = None,
        gather: bool | ranks.Group = False,
        grad_reduce: ranks.GradReduce = "mean",
        exchange: pairs.Exchange | None = None,
    ) -> None:
        super().__init__()
        caller = "InfoNCELoss"
        checks.number(caller, "temperature", temperature, above=0.0)
        _check(caller, symmetric, direction_weight, margin, guide_margin, hardest)
        pairs.check_options(
            caller, normalize, negatives, exclude_radius, reduction, chunk_size
        )
        ranks.check_module(caller, gather, grad_reduce, exchange, pairs.EXCHANGES)
        checks.flag(caller, "learn_temperature", learn_temperature)
        if not isinstance(temperature_range, Sequence) or len(temperature_range) != 2:
            raise ValueError(
                f"{caller}: temperature_range must be two numbers (low, high), got "
                f"{temperature_range!r}."
            )
        low, high = temperature_range
        checks.number(caller, "temperature_range[0]", low, above=0.0)
        checks.number(caller, "temperature_range[1]", high, above=low)
        if learn_temperature and not low <= temperature <= high:
            raise ValueError(
                f"{caller}: temperature must be in temperature_range = ({low:g}, "
                f"{high:g}) to be learned, got {temperature!r}. Widen the range."
            )
        self.learn_temperature = learn_temperature
        self.temperature_range = (float(low), float(high))
        self.symmetric = symmetric
        self.direction_weight = float(direction_weight)
        self.margin = float(margin)
        self.normalize = normalize
        self.negatives: pairs.Negatives = negatives
        self.exclude_radius = exclude_radius
        self.guide_margin = float(guide_margin)
        self.hardest = hardest
        self.reduction: reduce.Reduction = reduction
        self.chunk_size = chunk_size
        self.gather = gather
        self.grad_reduce: ranks.GradReduce = grad_reduce
        self.exchange: pairs.Exchange | None = exchange
        if learn_temperature:
            self.log_temperature = nn.Parameter(torch.tensor(math.log(temperature)))
        else:
            self._temperature = float(temperature)

    @property
    def temperature(self) -> float | Tensor:
        """Temperature in use, a number, or a tensor if it is learned."""
        if not self.learn_temperature:
            return self._temperature
        low, high = self.temperature_range
        return within(self.log_temperature, math.log(low), math.log(high)).exp()

    def forward(
        self,
        z_a: Tensor,
        z_b: Tensor,
        *,
        exclude: Tensor | None = None,
        ids: Tensor | None = None,
        positions: Tensor | None = None,
        guide: tuple[Tensor, Tensor] | None = None,
        extra: pairs.ExtraNegatives | None = None,
        weight: Tensor | None = None,
    ) -> Tensor:
        """Return the loss of the paired batches."""
        return info_nce(
            z_a,
            z_b,
            temperature=self.temperature,
            symmetric=self.symmetric,
            direction_weight=self.direction_weight,
            margin=self.margin,
            normalize=self.normalize,
            negatives=self.negatives,
            exclude=exclude,
            ids=ids,
            positions=positions,
            exclude_radius=self.exclude_radius,
            guide=guide,
            guide_margin=self.guide_margin,
            hardest=self.hardest,
            extra=extra,
            weight=weight,
            reduction=self.reduction,
            chunk_size=self.chunk_size,
            group=ranks.of_module("InfoNCELoss", self.gather),
            grad_reduce=self.grad_reduce,
            exchange=self.exchange,
        )

    def extra_repr(self) -> str:
        """Return the options."""
        temperature = torch.as_tensor(self.temperature).item()
        shown = (
            f"temperature={temperature:.4g}, learn_temperature={self.learn_temperature}"
        )
        if self.learn_temperature:
            shown += f", temperature_range={self.temperature_range}"
        return f"{shown}, " + describe(
            self,
            "symmetric",
            "direction_weight",
            "margin",
            "normalize",
            "negatives",
            "exclude_radius",
            "guide_margin",
            "hardest",
            "reduction",
            "chunk_size",
            "gather",
            "grad_reduce",
            "exchange",
        )
