r"""DGCCA: what any number of views have in common, some rows missing in some.

Of centred views :math:`Z_j \in \mathbb{R}^{N \times D_j}` with covariances
:math:`C_j`, and a ridge :math:`r`, let

.. math::
    P_j = \tfrac{1}{N - 1} Z_j \, (C_j + r I)^{-1} Z_j^\top .

At r = 0 it is the projection onto the columns of the view. The loss is
:math:`-\sum_{i \le K} \lambda_i(\sum_j P_j)`, the largest eigenvalues, down to −VK for
V views. Its G, the eigenvectors, and :math:`U_j` solve

.. math::
    \min_{G, U_j} \sum_j \lVert G - Z_j U_j \rVert_F^2 , \qquad G^\top G = I ,

whose value at r = 0 is VK plus the loss. Of two views the eigenvalues are :math:`1 \pm
\rho` there, with the canonical correlations ρ of
:func:`~xmodal_losses.functional.dcca`.

A view that lacks rows is centred over those that it has, and its :math:`P_j` is 0 at
the others: nothing is made up for them, and a row that one view alone has says nothing
of what views have in common.

Numerics: eigenvalues of the ΣD × ΣD matrix :math:`L^{-1} C L^{-\top}`, of the
covariances C of all views side by side and Cholesky factors of its ridged diagonal
blocks, which are those of the N × N sum. With :math:`C b = \lambda D b`, D the ridged
diagonal blocks, the gradient is :math:`d\lambda = b^\top (dC - \lambda \, dD) b`: no
differences of eigenvalues, hence finite where they repeat. In float64, covariances
included. Cost: O(N (ΣD)² + (ΣD)³) time, O(N ΣD + (ΣD)²) memory.

References: :cite:t:`benton2019deep`; its linear form with rows missing as in
:cite:t:`rastogi2015multiview`, without their weights of rows.
"""

from collections.abc import Sequence

import torch
from torch import Tensor, nn

from xmodal_losses._core import canonical, checks, moments, precision, ranks, reduce
from xmodal_losses._core.modules import describe

__all__ = ["DGCCALoss", "dgcca"]


def dgcca(
    views: Sequence[Tensor],
    *,
    num_components: int,
    ridge: float = 1e-4,
    ridge_scale: canonical.RidgeScale = "absolute",
    mask: Tensor | None = None,
    compute_dtype: torch.dtype = torch.float64,
    weight: Tensor | None = None,
    reduction: reduce.Reduction = "mean",
    group: ranks.Group | None = None,
    grad_reduce: ranks.GradReduce = "mean",
) -> Tensor:
    """Return minus the sum of the largest eigenvalues of ΣP_j.

    Args:
        views: Two or more batches of embeddings, ``(…, N, D_j)``, N ≥ 2; row *i* of one
            belongs to row *i* of all others. Leading dimensions are independent
            problems.
        num_components: K in [1, ΣD_j], the largest eigenvalues to sum. Beyond the
            smallest D_j they are no longer of what all views may share.
        ridge: r ≥ 0. It changes the optimum; 0 is linear generalised CCA.
        ridge_scale: ``"absolute"``: r is added to the variances. ``"relative"``: r
            times the mean variance of the view, so that its scale does not matter.
        mask: Boolean ``(V, …, N)``, True where a view has the row. What stands in the
            others may be anything. None: nothing is missing.
        compute_dtype: ``torch.float64`` or ``torch.float32``, for covariances and
            decompositions.
        weight: Weights ≥ 0 of the rows, ``(…, N)``; their scale does not matter. A row
            of weight 0 is as if it were not there. Weights get no gradient.
        reduction: ``"mean"``, ``"sum"`` or ``"none"`` over the leading dimensions.
        group: A process group whose ranks each have a part of the batch; the loss is
            that of the parts joined along the first dimension. None: the batch is here.
        grad_reduce: ``"mean"`` if gradients are averaged over ranks, as by DDP;
            ``"sum"`` if they are added up.

    Returns:
        Scalar, or ``(…)`` for ``reduction="none"``, in [−VK, 0]. In the dtype of the
        inputs, float32 at least.

    Raises:
        TypeError: If the views are no list or tuple of floating-point tensors.
        ValueError: If shapes do not fit together or an option is out of range.
        RuntimeError: On a second derivative.

    Note:
        Where the K-th and the next eigenvalue are equal, a subgradient is returned. A
        view without rows, or that has collapsed to a point, gets no gradient.

    Examples:
        >>> import torch, xmodal_losses.functional as F
        >>> z = torch.tensor([[1., 1.], [1., -1.], [-1., 1.], [-1., -1.]])
        >>> F.dgcca([z, 2 * z, z.flip(1)], num_components=2, ridge=0.0)
        tensor(-6.)
    """
    _check_options(
        "dgcca", num_components, ridge, ridge_scale, compute_dtype, reduction
    )
    everyone = ranks.joined("dgcca", group, grad_reduce)
    checks.views("dgcca", views, min_rows=2 if everyone is None else 0)
    checks.presence("dgcca", "mask", mask, views)
    checks.row_weight("dgcca", "weight", weight, views[0])
    most = sum(z.shape[-1] for z in views)
    checks.count("dgcca", "num_components", num_components, at_most=most, of="ΣD_j")
    dtype = precision.compute_dtype(*views)
    rows = torch.float32 if compute_dtype == torch.float32 else dtype
    with precision.no_autocast(views[0]):
        batch = moments.Views(
            [z.to(rows) for z in views],
            mask,
            weight,
            wide=compute_dtype,
            ranks=everyone if views[0].ndim == 2 else None,
        )
        loss = _loss(batch, num_components, ridge, ridge_scale).to(dtype)
        return reduce.problems(loss, batch.present, reduction, everyone)


def _loss(
    batch: moments.Views, k: int, ridge: float, ridge_scale: canonical.RidgeScale
) -> Tensor:
    products, single = batch.products()
    relative = ridge_scale == "relative" and ridge > 0
    ridges: list[float | Tensor] = [ridge for _ in batch.widths]
    if relative:
        variances = products.diagonal(dim1=-2, dim2=-1)
        ridges = [ridge * v.mean(-1) for v in torch.split(variances, batch.widths, -1)]
    if not any(z.requires_grad for z in batch.views):  # directions are for the gradient
        return -canonical.eigenvalues(products, batch.widths, ridges, k).sum(-1)
    values, directions = canonical.eigenvalues_and_directions(
        products, batch.widths, ridges, k
    )
    parts = torch.split(directions, batch.widths, -2)
    own = canonical.own_blocks(products, batch.widths)
    shares = [canonical.guard_share(c, b) for c, b in zip(own, parts, strict=True)]
    # Directions in which no view varies are arbitrary, and so would be their gradient.
    arbitrary = torch.stack(shares).sum(0) > 0.5
    slope = -torch.ones_like(values).masked_fill(arbitrary, 0.0)
    shrink = products.new_zeros((*values.shape[:-1], len(batch.widths)))
    if relative:  # what the ridge grows by
        lengths = torch.stack([b.square().sum(-2) / b.shape[-2] for b in parts], -2)
        shrink = ridge * ((slope * values).unsqueeze(-2) * lengths).sum(-1)
    growth = moments.Growth(directions, values, slope, shrink)
    return batch.along(-values.sum(-1), growth, single)


def _check_options(
    caller: str,
    num_components: object,
    ridge: object,
    ridge_scale: object,
    compute_dtype: object,
    reduction: object,
) -> None:
    checks.count(caller, "num_components", num_components)
    checks.number(caller, "ridge", ridge, at_least=0.0)
    checks.option(caller, "ridge_scale", ridge_scale, canonical.RIDGE_SCALES)
    checks.option(
        caller, "compute_dtype", compute_dtype, (torch.float64, torch.float32)
    )
    checks.option(caller, "reduction", reduction, reduce.REDUCTIONS)


class DGCCALoss(nn.Module):
    """Module form of :func:`~xmodal_losses.functional.dgcca`.

    Args:
        num_components: As in the function.
        ridge: As in the function.
        ridge_scale: As in the function.
        compute_dtype: As in the function.
        reduction: As in the function.
        gather: True: the default process group; or a process group, the ``group`` of
            the function. False: the batch is here.
        grad_reduce: As in the function.

    State: none.

    Shape:
        - ``views``: each ``(…, N, D_j)``; ``mask``: ``(V, …, N)``; ``weight``:
          ``(…, N)``.
        - Output: scalar, or ``(…)`` for ``reduction="none"``.

    Examples:
        >>> import torch, xmodal_losses as xl
        >>> rgb, ir, depth = torch.randn(3, 256, 32, requires_grad=True)
        >>> has_depth = torch.arange(256) < 200
        >>> everywhere = torch.ones(256, dtype=torch.bool)
        >>> mask = torch.stack([everywhere, everywhere, has_depth])
        >>> xl.DGCCALoss(num_components=10)([rgb, ir, depth], mask=mask).backward()
    """

    def __init__(
        self,
        *,
        num_components: int,
        ridge: float = 1e-4,
        ridge_scale: canonical.RidgeScale = "absolute",
        compute_dtype: torch.dtype = torch.float64,
        reduction: reduce.Reduction = "mean",
        gather: bool | ranks.Group = False,
        grad_reduce: ranks.GradReduce = "mean",
    ) -> None:
        super().__init__()
        _check_options(
            "DGCCALoss", num_components, ridge, ridge_scale, compute_dtype, reduction
        )
        ranks.check_module("DGCCALoss", gather, grad_reduce)
        self.num_components = num_components
        self.ridge = ridge
        self.ridge_scale: canonical.RidgeScale = ridge_scale
        self.compute_dtype = compute_dtype
        self.reduction: reduce.Reduction = reduction
        self.gather = gather
        self.grad_reduce: ranks.GradReduce = grad_reduce

    def forward(
        self,
        views: Sequence[Tensor],
        *,
        mask: Tensor | None = None,
        weight: Tensor | None = None,
    ) -> Tensor:
        """Return the loss of the paired batches."""
        return dgcca(
            views,
            num_components=self.num_components,
            ridge=self.ridge,
            ridge_scale=self.ridge_scale,
            mask=mask,
            compute_dtype=self.compute_dtype,
            weight=weight,
            reduction=self.reduction,
            group=ranks.of_module("DGCCALoss", self.gather),
            grad_reduce=self.grad_reduce,
        )

    def extra_repr(self) -> str:
        """Return the options."""
        return describe(
            self,
            "num_components",
            "ridge",
            "ridge_scale",
            "compute_dtype",
            "reduction",
            "gather",
            "grad_reduce",
        )
