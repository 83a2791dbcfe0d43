r"""MCCA: the canonical correlations of every pair of views, added up.

Of views :math:`Z_1, \dots, Z_V`, with :math:`\rho_k(i, j)` the canonical correlations
of two of them as :func:`~xmodal_losses.functional.dcca` has them, the loss is

.. math::
    - \sum_{i < j} \sum_{k \le K} \rho_k(i, j)

or that of their squares, down to −K V (V − 1)/2. Each pair has canonical directions of
its own; where all views should agree on the same ones, see
:func:`~xmodal_losses.functional.dgcca`. A pair is looked at over the rows that both
have.

Numerics and cost: those of :func:`~xmodal_losses.functional.dcca`, for each pair.

References: sums of correlations of several views are of
:cite:t:`kettenring1971canonical`; the correlations those of :cite:t:`andrew2013deep`.
"""

from collections.abc import Sequence
from itertools import combinations

import torch
from torch import Tensor, nn

from xmodal_losses._core import canonical, checks, moments, precision, ranks, reduce
from xmodal_losses._core.modules import describe
from xmodal_losses.correlation.dcca import MOMENTS, Objective, check_options, losses

__all__ = ["MCCALoss", "mcca"]


def mcca(
    views: Sequence[Tensor],
    *,
    num_components: int | None = None,
    ridge: float = 1e-4,
    ridge_scale: canonical.RidgeScale = "absolute",
    objective: Objective = "trace",
    mask: Tensor | None = None,
    compute_dtype: torch.dtype = torch.float64,
    weight: Tensor | None = None,
    reduction: reduce.Reduction = "mean",
    group: ranks.Group | None = None,
    grad_reduce: ranks.GradReduce = "mean",
    exchange: moments.Exchange | None = None,
) -> Tensor:
    """Return minus the sum, over pairs of views, of their (squared) correlations.

    Args:
        views: Two or more batches of embeddings, ``(…, N, D_j)``, N ≥ 2; row *i* of one
            belongs to row *i* of all others. Leading dimensions are independent
            problems.
        num_components: K in [1, min D_j], the largest correlations of each pair to
            sum; None takes all.
        ridge: r ≥ 0. It changes the optimum; 0 is linear CCA.
        ridge_scale: ``"absolute"``: r is added to the variances. ``"relative"``: r
            times the mean variance of the view, so that its scale does not matter.
        objective: ``"trace"`` (−Σρ) or ``"frobenius"`` (−Σρ²; better conditioned).
        mask: Boolean ``(V, …, N)``, True where a view has the row. What stands in the
            others may be anything. None: nothing is missing.
        compute_dtype: ``torch.float64`` or ``torch.float32``, for covariances and
            decompositions.
        weight: Weights ≥ 0 of the rows, ``(…, N)``; their scale does not matter. A row
            of weight 0 is as if it were not there.
        reduction: ``"mean"``, ``"sum"`` or ``"none"`` over the leading dimensions.
        group: A process group whose ranks each have a part of the batch; the loss is
            that of the parts joined along the first dimension. None: the batch is here.
        grad_reduce: ``"mean"`` if gradients are averaged over ranks, as by DDP;
            ``"sum"`` if they are added up.
        exchange: What goes between ranks for each pair: ``"statistics"``, sums of O(D²)
            moments, or ``"gather"``, the rows. None chooses by size.

    Returns:
        Scalar, or ``(…)`` for ``reduction="none"``, in [−K V (V − 1)/2, 0]. In the
        dtype of the inputs, float32 at least.

    Raises:
        TypeError: If the views are no list or tuple of floating-point tensors.
        ValueError: If shapes do not fit together or an option is out of range.
        RuntimeError: On a second derivative, except of ``"frobenius"`` with all
            components.

    Examples:
        >>> import torch, xmodal_losses.functional as F
        >>> z = torch.tensor([[1., 1.], [1., -1.], [-1., 1.], [-1., -1.]])
        >>> F.mcca([z, 2 * z, z.flip(1)], ridge=0.0)
        tensor(-6.)
    """
    check_options(
        "mcca", num_components, ridge, ridge_scale, objective, compute_dtype, reduction
    )
    everyone = ranks.joined("mcca", group, grad_reduce, exchange, moments.EXCHANGES)
    checks.views("mcca", views, min_rows=2 if everyone is None else 0)
    checks.presence("mcca", "mask", mask, views)
    checks.row_weight("mcca", "weight", weight, views[0])
    dtype = precision.compute_dtype(*views)
    rows = torch.float32 if compute_dtype == torch.float32 else dtype
    total: Tensor | None = None
    present: Tensor | None = None
    for i, j in combinations(range(len(views)), 2):
        w = weight
        if mask is not None:
            both = mask[i] & mask[j]
            w = both.to(rows) if w is None else w.masked_fill(~both, 0.0)
        pair = moments.pair_of(
            "mcca",
            MOMENTS,
            views[i].to(rows),
            views[j].to(rows),
            w,
            w,
            ranks=everyone,
            exchange=exchange,
            wide=compute_dtype,
        )
        with precision.no_autocast(views[0]):
            loss = losses("mcca", pair, num_components, ridge, ridge_scale, objective)
        some = pair.present  # a pair without rows has no correlation, and loses nothing
        if some is not None:
            present = some if present is None else present | some
        total = loss if total is None else total + loss
    assert total is not None  # there are two views
    return reduce.problems(total.to(dtype), present, reduction, everyone)


class MCCALoss(nn.Module):
    """Module form of :func:`~xmodal_losses.functional.mcca`.

    Args:
        num_components: As in the function.
        ridge: As in the function.
        ridge_scale: As in the function.
        objective: As in the function.
        compute_dtype: As in the function.
        reduction: As in the function.
        gather: True: the default process group; or a process group, the ``group`` of
            the function. False: the batch is here.
        grad_reduce: As in the function.
        exchange: As in the function.

    State: none.

    Shape:
        - ``views``: each ``(…, N, D_j)``; ``mask``: ``(V, …, N)``; ``weight``:
          ``(…, N)``.
        - Output: scalar, or ``(…)`` for ``reduction="none"``.

    Examples:
        >>> import torch, xmodal_losses as xl
        >>> rgb, ir, depth = torch.randn(3, 256, 32, requires_grad=True)
        >>> xl.MCCALoss(num_components=10)([rgb, ir, depth]).backward()
    """

    def __init__(
        self,
        *,
        num_components: int | None = None,
        ridge: float = 1e-4,
        ridge_scale: canonical.RidgeScale = "absolute",
        objective: Objective = "trace",
        compute_dtype: torch.dtype = torch.float64,
        reduction: reduce.Reduction = "mean",
        gather: bool | ranks.Group = False,
        grad_reduce: ranks.GradReduce = "mean",
        exchange: moments.Exchange | None = None,
    ) -> None:
        super().__init__()
        check_options(
            "MCCALoss",
            num_components,
            ridge,
            ridge_scale,
            objective,
            compute_dtype,
            reduction,
        )
        ranks.check_module("MCCALoss", gather, grad_reduce, exchange, moments.EXCHANGES)
        self.num_components = num_components
        self.ridge = ridge
        self.ridge_scale: canonical.RidgeScale = ridge_scale
        self.objective: Objective = objective
        self.compute_dtype = compute_dtype
        self.reduction: reduce.Reduction = reduction
        self.gather = gather
        self.grad_reduce: ranks.GradReduce = grad_reduce
        self.exchange: moments.Exchange | None = exchange

    def forward(
        self,
        views: Sequence[Tensor],
        *,
        mask: Tensor | None = None,
        weight: Tensor | None = None,
    ) -> Tensor:
        """Return the loss of the paired batches."""
        return mcca(
            views,
            num_components=self.num_components,
            ridge=self.ridge,
            ridge_scale=self.ridge_scale,
            objective=self.objective,
            mask=mask,
            compute_dtype=self.compute_dtype,
            weight=weight,
            reduction=self.reduction,
            group=ranks.of_module("MCCALoss", self.gather),
            grad_reduce=self.grad_reduce,
            exchange=self.exchange,
        )

    def extra_repr(self) -> str:
        """Return the options."""
        return describe(
            self,
            "num_components",
            "ridge",
            "ridge_scale",
            "objective",
            "compute_dtype",
            "reduction",
            "gather",
            "grad_reduce",
            "exchange",
        )
