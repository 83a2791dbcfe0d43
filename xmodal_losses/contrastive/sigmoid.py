r"""SigLIP: judge every pair of rows on its own, partners or not.

With :math:`s_{ij} = t \langle \hat a_i, \hat b_j \rangle + c` of unit rows, a scale
:math:`t` and a bias :math:`c`, row :math:`i` of one modality has the loss

.. math::
    \ell_i = \log(1 + e^{-s_{ii}})
        + \tfrac12 \sum_{j \in \mathcal{N}(i)}
          \bigl[ \log(1 + e^{s_{ij}}) + \log(1 + e^{s_{ji}}) \bigr] ,

a logistic regression with the label 1 for partners and 0 for all others. The mean over
rows is the sum over all pairs, over N. No pair depends on another: there is no softmax
to be dominated by a few, and no need for a large batch.

At the start almost all pairs are no partners; the bias begins at −10 to say so.

Numerics: logits are float32 or wider, whatever autocast says. A bias that is a tensor
is one more column of the rows. Cost: O(N² D) time, O(N D) memory and a tile of the
logits.

References: Algorithm 1 of :cite:t:`zhai2023sigmoid`, which begins with t = 10, c = −10.
"""

import math

import torch
from torch import Tensor, nn

from xmodal_losses._core import checks, pairs, precision, ranks, reduce
from xmodal_losses._core.modules import describe

__all__ = ["SigmoidContrastiveLoss", "sigmoid_contrastive"]


def sigmoid_contrastive(
    z_a: Tensor,
    z_b: Tensor,
    *,
    scale: float | Tensor = 10.0,
    bias: float | Tensor = -10.0,
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
) -> Tensor:
    """Return the sigmoid loss of paired rows: (a_i, b_i) is the positive.

    Args:
        z_a: Embeddings of modality *a*, shape ``(…, N, D)``; leading dimensions are
            groups, say images.
        z_b: Embeddings of modality *b*, same shape; row *i* belongs to row *i* of
            ``z_a``.
        scale: t > 0, a number or a tensor of shape ``()``, which gets its gradient.
        bias: c, a number or a tensor of shape ``()``, which gets its gradient.
        normalize: Scale rows to unit length first. A zero row stays zero, and gets no
            gradient.
        negatives: ``"group"``: the other rows of the same group. ``"all"``: every
            other row of every group. ``"cross"``: the other rows of the same group
            and the same row of the other groups.
        exclude: Boolean ``(…, N, N)``: True where (a_i, b_j) of one group is not a
            negative. The diagonal does not matter: a positive stays.
        ids: Integers ``(…, N)``: rows with the same id, of any group, are no negatives
            of each other.
        positions: Coordinates ``(…, N, P)``: rows of one group that are not further
            apart than ``exclude_radius`` are no negatives of each other.
        exclude_radius: A distance ≥ 0 in the units of ``positions``, which go with it:
            the largest difference of a coordinate.
        weight: Weights ≥ 0 of the rows, ``(…, N)``. A row of weight 0 is as if it were
            not there; it is no negative either.
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
        Scalar, or ``(…, N)`` for ``reduction="none"``; ≥ 0. In the dtype of the inputs,
        float32 at least.

    Raises:
        TypeError: If an input is not a floating-point tensor, or an option of another
            type.
        ValueError: If shapes do not fit together or an option is out of range.

    Examples:
        >>> import torch, xmodal_losses.functional as F
        >>> F.sigmoid_contrastive(torch.eye(4), torch.eye(4))
        tensor(0.6933)
        >>> F.sigmoid_contrastive(torch.eye(4), torch.eye(4).flip(0))
        tensor(10.6933)
    """
    contrast = pairs.paired(
        "sigmoid_contrastive",
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
    checks.positive_scalar("sigmoid_contrastive", "scale", scale)
    checks.scalar("sigmoid_contrastive", "bias", bias)
    contrast = pairs.shifted(contrast, scale, bias, normalize).replaced(softplus=True)
    return contrast.reduced(_row_loss, 1.0, weight, reduction)


def _row_loss(found: pairs.Sides) -> tuple[Tensor, pairs.Slopes]:
    """Return the loss of every row and its slopes."""
    assert found.columns is not None
    positive = precision.softplus(-found.positive)
    loss = positive + (found.rows + found.columns) / 2
    half = torch.full_like(loss, 0.5)
    return loss, pairs.Slopes(-(-found.positive).sigmoid(), half, half)


class SigmoidContrastiveLoss(nn.Module):
    """Module form of :func:`~xmodal_losses.functional.sigmoid_contrastive`.

    Args:
        scale: t > 0; the initial value if it is learned.
        bias: c; the initial value if it is learned.
        learn: Keep log t and c as the parameters ``log_scale`` and ``bias``, as the
            paper does. Hand the parameters of the loss to the optimiser, too.
        normalize: As in the function.
        negatives: As in the function.
        exclude_radius: As in the function; ``positions`` are given to ``forward``.
        reduction: As in the function.
        chunk_size: As in the function.
        gather: True: the default process group; or a process group, the ``group`` of
            the function. False: the batch is here.
        grad_reduce: As in the function.
        exchange: As in the function.

    State: ``log_scale`` and ``bias``, parameters of shape ``()``, if they are learned.

    Shape:
        - ``z_a``, ``z_b``: ``(…, N, D)``; ``exclude``: ``(…, N, N)``; ``ids`` and
          ``weight``: ``(…, N)``; ``positions``: ``(…, N, P)``.
        - Output: scalar, or ``(…, N)`` for ``reduction="none"``.

    Examples:
        >>> import torch, xmodal_losses as xl
        >>> criterion = xl.SigmoidContrastiveLoss(learn=True)
        >>> rgb, ir = torch.randn(2, 8, 64, 128, requires_grad=True)
        >>> criterion(rgb, ir).backward()
    """

    bias: float | nn.Parameter

    def __init__(
        self,
        *,
        scale: float = 10.0,
        bias: float = -10.0,
        learn: bool = False,
        normalize: bool = True,
        negatives: pairs.Negatives = "group",
        exclude_radius: float | None = None,
        reduction: reduce.Reduction = "mean",
        chunk_size: int | None = None,
        gather: bool | ranks.Group = False,
        grad_reduce: ranks.GradReduce = "mean",
        exchange: pairs.Exchange | None = None,
    ) -> None:
        super().__init__()
        caller = "SigmoidContrastiveLoss"
        checks.number(caller, "scale", scale, above=0.0)
        checks.number(caller, "bias", bias)
        checks.flag(caller, "learn", learn)
        pairs.check_options(
            caller, normalize, negatives, exclude_radius, reduction, chunk_size
        )
        ranks.check_module(caller, gather, grad_reduce, exchange, pairs.EXCHANGES)
        self.learn = learn
        self.normalize = normalize
        self.negatives: pairs.Negatives = negatives
        self.exclude_radius = exclude_radius
        self.reduction: reduce.Reduction = reduction
        self.chunk_size = chunk_size
        self.gather = gather
        self.grad_reduce: ranks.GradReduce = grad_reduce
        self.exchange: pairs.Exchange | None = exchange
        if learn:
            self.log_scale = nn.Parameter(torch.tensor(math.log(scale)))
            self.bias = nn.Parameter(torch.tensor(float(bias)))
        else:
            self._scale, self.bias = float(scale), float(bias)

    @property
    def scale(self) -> float | Tensor:
        """Scale in use, a number, or a tensor if it is learned."""
        return self.log_scale.exp() if self.learn else self._scale

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
        return sigmoid_contrastive(
            z_a,
            z_b,
            scale=self.scale,
            bias=self.bias,
            normalize=self.normalize,
            negatives=self.negatives,
            exclude=exclude,
            ids=ids,
            positions=positions,
            exclude_radius=self.exclude_radius,
            weight=weight,
            reduction=self.reduction,
            chunk_size=self.chunk_size,
            group=ranks.of_module("SigmoidContrastiveLoss", self.gather),
            grad_reduce=self.grad_reduce,
            exchange=self.exchange,
        )

    def extra_repr(self) -> str:
        """Return the options."""
        shown = [
            f"{value.item():.4g}" if isinstance(value, Tensor) else repr(value)
            for value in (self.scale, self.bias)
        ]
        return "scale={}, bias={}, ".format(*shown) + describe(
            self,
            "learn",
            "normalize",
            "negatives",
            "exclude_radius",
            "reduction",
            "chunk_size",
            "gather",
            "grad_reduce",
            "exchange",
        )
