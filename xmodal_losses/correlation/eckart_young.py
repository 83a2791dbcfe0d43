r"""Eckart–Young: CCA of any number of views without a constraint or an inverse.

Of views :math:`Z_1, \dots, Z_V` of one width K, with :math:`C_{ij}` the covariance of
two and :math:`V = \sum_i C_{ii}`, the loss is

.. math::
    -2 \sum_{i \ne j} \operatorname{tr} C_{ij} + \lVert V \rVert_F^2 .

Over linear maps its minimum is :math:`-\sum_{k \le K} \lambda_k^2`, of the largest
generalised eigenvalues of the cross-covariances against the covariances of the views:
for two views :math:`-\sum \rho_k^2` of the canonical correlations ρ. It is reached by
the canonical components, in any rotation, component k with variance :math:`\lambda_k`
in all views together.

:math:`\lVert V \rVert_F^2` of a batch is larger than that of all data, on average, by
O(K²/N). ``"unbiased"`` takes the mean of :math:`\langle A_{nm}, A_{pq} \rangle` over
all four different rows instead, with :math:`A_{nm} = \tfrac12 \sum_i (z_{in} -
z_{im})(z_{in} - z_{im})^\top`, whose expectation is that of all data; with centred rows
and :math:`Q = \sum_n \sum_{ij} (z_{in}^\top z_{jn})^2` it is

.. math::
    \frac{(N - 1) \bigl[ (N^2 - 3N + 1) \lVert V \rVert^2 + \sum_{ij} (\operatorname{tr}
    C_{ij})^2 + \operatorname{tr} C_{ij}^2 \bigr] - N Q}{N (N - 2)(N - 3)} .

The paper takes ⟨V′, V″⟩ of two independent batches, which has the same expectation and
more noise. Nothing is whitened: there is no ridge, and N < K is no problem.

Numerics: no decomposition; in float64. Cost: O(N V K²) time, O(N VK + K²) memory;
``"unbiased"`` O(N (VK)²) time, O(N VK + (VK)²) memory.

References: :cite:t:`chapman2024unconstrained`; of one view the unbiased form is that of
:cite:t:`himeno2014estimations`.
"""

from collections.abc import Sequence
from typing import Literal, TypeAlias

import torch
from torch import Tensor, nn

from xmodal_losses._core import checks, moments, precision, ranks, reduce
from xmodal_losses._core.modules import describe

__all__ = ["EckartYoungLoss", "eckart_young"]

Estimator: TypeAlias = Literal["biased", "unbiased"]
ESTIMATORS = ("biased", "unbiased")


def eckart_young(
    views: Sequence[Tensor],
    *,
    estimator: Estimator = "biased",
    mask: Tensor | None = None,
    compute_dtype: torch.dtype = torch.float64,
    weight: Tensor | None = None,
    reduction: reduce.Reduction = "mean",
    group: ranks.Group | None = None,
    grad_reduce: ranks.GradReduce = "mean",
) -> Tensor:
    """Return −2 Σ tr C_ij + ‖ΣC_ii‖²_F.

    Args:
        views: Two or more batches of embeddings of one width, ``(…, N, K)``, N ≥ 2; row
            *i* of one belongs to row *i* of all others. Leading dimensions are
            independent problems. ``"unbiased"`` needs N ≥ 4.
        estimator: ``"biased"``: that of the batch; ``"unbiased"``: its expectation is
            the loss of all data. The latter takes neither ``mask`` nor ``weight``.
        mask: Boolean ``(V, …, N)``, True where a view has the row. What stands in the
            others may be anything. None: nothing is missing.
        compute_dtype: ``torch.float64`` or ``torch.float32``, for covariances.
        weight: Weights ≥ 0 of the rows, ``(…, N)``; their scale does not matter. A row
            of weight 0 is as if it were not there. Weights get no gradient.
        reduction: ``"mean"``, ``"sum"`` or ``"none"`` over the leading dimensions.
        group: A process group whose ranks each have a part of the batch; the loss is
            that of the parts joined along the first dimension. None: the batch is here.
        grad_reduce: ``"mean"`` if gradients are averaged over ranks, as by DDP;
            ``"sum"`` if they are added up.

    Returns:
        Scalar, or ``(…)`` for ``reduction="none"``; of ``"biased"``, at least
        −K (V − 1)². In the dtype of the inputs, float32 at least.

    Raises:
        TypeError: If the views are no list or tuple of floating-point tensors.
        ValueError: If shapes do not fit together or an option is out of range.
        RuntimeError: On a second derivative.

    Examples:
        >>> import torch, xmodal_losses.functional as F
        >>> z = torch.tensor([[1., 1.], [1., -1.], [-1., 1.], [-1., -1.]]) * 0.375**0.5
        >>> F.eckart_young([z, z])  # both of variance ½: two correlations of 1
        tensor(-2.)
    """
    _check_options("eckart_young", estimator, compute_dtype, reduction)
    everyone = ranks.joined("eckart_young", group, grad_reduce)
    least = {"biased": 2, "unbiased": 4}[estimator] if everyone is None else 0
    checks.views("eckart_young", views, same_width=True, min_rows=least)
    checks.presence("eckart_young", "mask", mask, views)
    checks.row_weight("eckart_young", "weight", weight, views[0])
    if estimator == "unbiased":
        for name, given in (("mask", mask), ("weight", weight)):
            if given is not None:
                raise ValueError(
                    f"eckart_young: {name} must be None for estimator='unbiased', got "
                    "a tensor. Take 'biased'."
                )
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
        loss = _loss(batch, estimator).to(dtype)
        return reduce.problems(loss, batch.present, reduction, everyone)


def _loss(batch: moments.Views, estimator: Estimator) -> Tensor:
    if estimator == "biased":
        within, total = batch.of_one_width()
        own = within.diagonal(dim1=-2, dim2=-1).sum(-1)
        return within.square().sum((-2, -1)) - 2 * (total - own)
    v, k = len(batch.widths), batch.widths[0]
    c = batch.differentiable_products()
    c = c.reshape(*c.shape[:-2], v, k, v, k).transpose(-3, -2)  # (…, V, V, K, K)
    traces = c.diagonal(dim1=-2, dim2=-1).sum(-1)
    within = c.diagonal(dim1=-4, dim2=-3).sum(-1)
    n = batch.totals[0]
    crossed = traces.square() + (c * c.mT).sum((-2, -1))
    total = (n * n - 3 * n + 1) * within.square().sum((-2, -1))
    total = total + crossed.sum((-2, -1))
    # Fourth moments come over (N − 1)².
    total = (n - 1) * total - n * (n - 1) ** 2 * batch.fourth_moment()
    energy = total * reduce.inverse(n * (n - 2) * (n - 3))
    own = traces.diagonal(dim1=-2, dim2=-1).sum(-1)
    return energy - 2 * (traces.sum((-2, -1)) - own)


def _check_options(
    caller: str, estimator: object, compute_dtype: object, reduction: object
) -> None:
    checks.option(caller, "estimator", estimator, ESTIMATORS)
    checks.option(
        caller, "compute_dtype", compute_dtype, (torch.float64, torch.float32)
    )
    checks.option(caller, "reduction", reduction, reduce.REDUCTIONS)


class EckartYoungLoss(nn.Module):
    """Module form of :func:`~xmodal_losses.functional.eckart_young`.

    Args:
        estimator: As in the function.
        compute_dtype: As in the function.
        reduction: As in the function.
        gather: True: the default process group; or a process group, the ``group`` of
            the function. False: the batch is here.
        grad_reduce: As in the function.

    State: none.

    Shape:
        - ``views``: each ``(…, N, K)``; ``mask``: ``(V, …, N)``; ``weight``:
          ``(…, N)``.
        - Output: scalar, or ``(…)`` for ``reduction="none"``.

    Examples:
        >>> import torch, xmodal_losses as xl
        >>> rgb, ir = torch.randn(2, 64, 32, requires_grad=True)
        >>> xl.EckartYoungLoss(estimator="unbiased")([rgb, ir]).backward()
    """

    def __init__(
        self,
        *,
        estimator: Estimator = "biased",
        compute_dtype: torch.dtype = torch.float64,
        reduction: reduce.Reduction = "mean",
        gather: bool | ranks.Group = False,
        grad_reduce: ranks.GradReduce = "mean",
    ) -> None:
        super().__init__()
        _check_options("EckartYoungLoss", estimator, compute_dtype, reduction)
        ranks.check_module("EckartYoungLoss", gather, grad_reduce)
        self.estimator: Estimator = estimator
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
        return eckart_young(
            views,
            estimator=self.estimator,
            mask=mask,
            compute_dtype=self.compute_dtype,
            weight=weight,
            reduction=self.reduction,
            group=ranks.of_module("EckartYoungLoss", self.gather),
            grad_reduce=self.grad_reduce,
        )

    def extra_repr(self) -> str:
        """Return the options."""
        return describe(
            self, "estimator", "compute_dtype", "reduction", "gather", "grad_reduce"
        )
