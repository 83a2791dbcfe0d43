r"""Soft decorrelation: no column of a modality should repeat another.

With the correlations :math:`R^a, R^b` of the columns of either modality, the loss is

.. math::
    \sum_{i \ne j} |R^a_{ij}| + \sum_{i \ne j} |R^b_{ij}| .

It is what Soft CCA has in place of whitening, beside a term that pulls partners
together. The paper standardises columns first, which is what makes covariances
correlations, and averages them over the batches of some time:
:class:`~xmodal_losses.RunningMoments` of this loss.

Numerics: covariances in float64; a constant column is correlated with nothing. Cost:
O(N D²) time, O(N D + D²) memory.

References: the decorrelation loss of :cite:t:`chang2018scalable`.
"""

import torch
from torch import Tensor, nn

from xmodal_losses._core import checks, linalg, moments, precision, ranks, reduce
from xmodal_losses._core.modules import describe

__all__ = ["SoftDecorrelationLoss", "soft_decorrelation"]

# What the loss looks at, where the rows are not all here.
_MOMENTS = frozenset({"aa", "bb"})


def soft_decorrelation(
    z_a: Tensor,
    z_b: Tensor,
    *,
    weight_a: Tensor | None = None,
    weight_b: Tensor | None = None,
    reduction: reduce.Reduction = "mean",
    group: ranks.Group | None = None,
    grad_reduce: ranks.GradReduce = "mean",
    exchange: moments.Exchange | None = None,
) -> Tensor:
    """Return the sum of the absolute correlations between columns of a modality.

    Args:
        z_a: Embeddings of modality *a*, shape ``(…, N, D_a)``; leading dimensions are
            independent problems.
        z_b: Embeddings of modality *b*, shape ``(…, M, D_b)``.
        weight_a: Weights ≥ 0 of the rows of ``z_a``, ``(…, N)``; their scale does not
            matter. A row of weight 0 is as if it were not there.
        weight_b: Weights of the rows of ``z_b``, ``(…, M)``.
        reduction: ``"mean"``, ``"sum"`` or ``"none"`` over the leading dimensions.
        group: A process group whose ranks each have a part of the batch; the loss is
            that of the parts joined along the first dimension. None: the batch is here.
        grad_reduce: ``"mean"`` if gradients are averaged over ranks, as by DDP;
            ``"sum"`` if they are added up.
        exchange: What goes between ranks: ``"statistics"``, sums of O(D²) moments, or
            ``"gather"``, the rows. None chooses by size.

    Returns:
        Scalar, or ``(…)`` for ``reduction="none"``, between 0 and D_a(D_a − 1) +
        D_b(D_b − 1). In the dtype of the inputs, float32 at least.

    Raises:
        TypeError: If an input is not a floating-point tensor.
        ValueError: If shapes do not fit together or an option is out of range.

    Note:
        A correlation of exactly 0 gets no gradient.

    Examples:
        >>> import torch, xmodal_losses.functional as F
        >>> z = torch.tensor([[1., 1.], [1., -1.], [-1., 1.], [-1., -1.]])
        >>> F.soft_decorrelation(z, z[:, [0, 0]])
        tensor(2.)
    """
    checks.option("soft_decorrelation", "reduction", reduction, reduce.REDUCTIONS)
    everyone = ranks.joined(
        "soft_decorrelation", group, grad_reduce, exchange, moments.EXCHANGES
    )
    least = 2 if everyone is None else 0
    checks.embeddings(
        "soft_decorrelation",
        z_a,
        z_b,
        paired=False,
        same_width=False,
        min_rows=least,
    )
    checks.row_weight("soft_decorrelation", "weight_a", weight_a, z_a)
    checks.row_weight("soft_decorrelation", "weight_b", weight_b, z_b)
    dtype = precision.compute_dtype(z_a, z_b)
    pair = moments.pair_of(
        "soft_decorrelation",
        _MOMENTS,
        z_a.to(dtype),
        z_b.to(dtype),
        weight_a,
        weight_b,
        ranks=everyone,
        exchange=exchange,
    )
    with precision.no_autocast(z_a):
        return _loss(pair, reduction).to(dtype)


def _loss(pair: moments.Pair, reduction: reduce.Reduction) -> Tensor:
    loss = sum(_absolute_correlations(c, pair.dtype) for c in pair.own_covariances())
    assert isinstance(loss, Tensor)
    return reduce.problems(loss, pair.present, reduction, pair.ranks)


def _absolute_correlations(c: Tensor, dtype: torch.dtype) -> Tensor:
    """Return Σ_{i≠j} |R_ij| of a covariance, ``(…)``, for gradients in a dtype."""
    variance = c.diagonal(dim1=-2, dim2=-1)
    constant = linalg.negligible(variance, dtype)
    # Divided one by one: the cube in the gradient of v^(-1/2) would overflow before
    # the gradient of a correlation does.
    std = variance.masked_fill(constant, 1.0).sqrt()
    left_out = torch.eye(c.shape[-1], dtype=torch.bool, device=c.device)
    left_out = left_out | constant.unsqueeze(-1) | constant.unsqueeze(-2)
    r = c.masked_fill(left_out, 0.0) / std.unsqueeze(-1) / std.unsqueeze(-2)
    return r.abs().sum((-2, -1))


class SoftDecorrelationLoss(nn.Module):
    """Module form of :func:`~xmodal_losses.functional.soft_decorrelation`.

    Args:
        reduction: As in the function.
        gather: True: the default process group; or a process group, the ``group`` of
            the function. False: the batch is here.
        grad_reduce: As in the function.
        exchange: As in the function.

    State: none.

    Shape:
        - ``z_a``: ``(…, N, D_a)``; ``z_b``: ``(…, M, D_b)``; ``weight_a``: ``(…, N)``;
          ``weight_b``: ``(…, M)``.
        - Output: scalar, or ``(…)`` for ``reduction="none"``.

    Examples:
        >>> import torch, xmodal_losses as xl
        >>> rgb, ir = torch.randn(2, 256, 32, requires_grad=True)
        >>> xl.SoftDecorrelationLoss()(rgb, ir).backward()
    """

    _moments = _MOMENTS

    def __init__(
        self,
        *,
        reduction: reduce.Reduction = "mean",
        gather: bool | ranks.Group = False,
        grad_reduce: ranks.GradReduce = "mean",
        exchange: moments.Exchange | None = None,
    ) -> None:
        super().__init__()
        caller = "SoftDecorrelationLoss"
        checks.option(caller, "reduction", reduction, reduce.REDUCTIONS)
        ranks.check_module(caller, gather, grad_reduce, exchange, moments.EXCHANGES)
        self.reduction: reduce.Reduction = reduction
        self.gather = gather
        self.grad_reduce: ranks.GradReduce = grad_reduce
        self.exchange: moments.Exchange | None = exchange

    def forward(
        self,
        z_a: Tensor,
        z_b: Tensor,
        *,
        weight_a: Tensor | None = None,
        weight_b: Tensor | None = None,
    ) -> Tensor:
        """Return the loss of the two batches."""
        return soft_decorrelation(
            z_a,
            z_b,
            weight_a=weight_a,
            weight_b=weight_b,
            reduction=self.reduction,
            group=ranks.of_module("SoftDecorrelationLoss", self.gather),
            grad_reduce=self.grad_reduce,
            exchange=self.exchange,
        )

    def _of_moments(self, pair: moments.Pair) -> Tensor:
        return _loss(pair, self.reduction)

    def extra_repr(self) -> str:
        """Return the options."""
        return describe(self, "reduction", "gather", "grad_reduce", "exchange")
