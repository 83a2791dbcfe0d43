r"""DCCA: maximise the canonical correlations of paired batches.

With the (cross-)covariances of paired :math:`A \in \mathbb{R}^{N \times D_a}` and
:math:`B \in \mathbb{R}^{N \times D_b}`, and a ridge :math:`r`, let

.. math::
    T = (\Sigma_{aa} + r I)^{-1/2} \, \Sigma_{ab} \, (\Sigma_{bb} + r I)^{-1/2} .

Its singular values :math:`\rho_1 \ge \rho_2 \ge \dots` are the canonical correlations;
the loss is :math:`-\sum_{i \le K} \rho_i` (``"trace"``, the trace norm of the paper) or
:math:`-\sum_{i \le K} \rho_i^2` (``"frobenius"``), down to −K.

Numerics: whitening by Cholesky factors, which has the same singular values, and the
paper's gradient in closed form, which has no differences of singular values in it: it
is finite where they repeat. The trace takes one singular value decomposition, in the
forward pass; ‖T‖_F needs none. All in float64, covariances included: in float32, with
N < D and a small ridge, the value is fine and the error of the gradient exceeds it. The
ridge is in units of variance, so that shrinking features shrinks the correlations, or
relative to the mean variance of each modality, tr(Σ)/D. Cost: O(N D² + D³) time,
O(N D + D²) memory.

Beware of small batches: independent views reach :math:`\sum \rho_i^2 \approx
D_a D_b / (N - 1)`, and once :math:`D_a + D_b \ge N` some are 1 for any data.

References: Eq. 10–13 of :cite:t:`andrew2013deep`; canonical correlations are those of
:cite:t:`hotelling1936relations`, computed as by :cite:t:`bjorck1973numerical`.
"""

from typing import Literal, TypeAlias

import torch
from torch import Tensor, nn

from xmodal_losses._core import canonical, checks, moments, precision, ranks, reduce
from xmodal_losses._core.modules import describe

__all__ = ["DCCALoss", "dcca"]

Objective: TypeAlias = Literal["trace", "frobenius"]
OBJECTIVES = ("trace", "frobenius")
# What the loss looks at, where the rows are not all here.
MOMENTS = frozenset({"aa", "bb", "ab"})


def dcca(
    z_a: Tensor,
    z_b: Tensor,
    *,
    num_components: int | None = None,
    ridge: float = 1e-4,
    ridge_scale: canonical.RidgeScale = "absolute",
    objective: Objective = "trace",
    compute_dtype: torch.dtype = torch.float64,
    weight: Tensor | None = None,
    reduction: reduce.Reduction = "mean",
    group: ranks.Group | None = None,
    grad_reduce: ranks.GradReduce = "mean",
    exchange: moments.Exchange | None = None,
) -> Tensor:
    """Return minus the sum of the (squared) canonical correlations of paired rows.

    Args:
        z_a: Embeddings of modality *a*, shape ``(…, N, D_a)``, N ≥ 2; leading
            dimensions are independent problems.
        z_b: Embeddings of modality *b*, shape ``(…, N, D_b)``; row *i* belongs to row
            *i* of ``z_a``.
        num_components: K in [1, min(D_a, D_b)], the largest correlations to sum; None
            takes all.
        ridge: r ≥ 0. It changes the optimum; 0 is linear CCA.
        ridge_scale: ``"absolute"``: r is added to the variances. ``"relative"``: r
            times the mean variance of the modality, so that its scale does not matter.
        objective: ``"trace"`` (−Σρ) or ``"frobenius"`` (−Σρ²; better conditioned).
        compute_dtype: ``torch.float64`` or ``torch.float32``, for covariances and
            decompositions.
        weight: Weights ≥ 0 of the rows, ``(…, N)``; their scale does not matter. A row
            of weight 0 is as if it were not there.
        reduction: ``"mean"``, ``"sum"`` or ``"none"`` over the leading dimensions.
        group: A process group whose ranks each have a part of the batch; the loss is
            that of the parts joined along the first dimension. None: the batch is here.
        grad_reduce: ``"mean"`` if gradients are averaged over ranks, as by DDP;
            ``"sum"`` if they are added up.
        exchange: What goes between ranks: ``"statistics"``, sums of O(D²) moments, or
            ``"gather"``, the rows. None chooses by size.

    Returns:
        Scalar, or ``(…)`` for ``reduction="none"``, in [−K, 0]. In the dtype of the
        inputs, float32 at least.

    Raises:
        TypeError: If an input is not a floating-point tensor.
        ValueError: If shapes do not fit together or an option is out of range.
        RuntimeError: On a second derivative, except of ``"frobenius"`` with all
            components.

    Note:
        The trace norm has a kink where a correlation is 0. The gradient of such a
        component is taken as 0; a modality that has collapsed to a point gets none.

    Examples:
        >>> import torch, xmodal_losses.functional as F
        >>> z = torch.tensor([[1., 1.], [1., -1.], [-1., 1.], [-1., -1.]])
        >>> F.dcca(z, z @ torch.tensor([[1., 2.], [0., 1.]]), ridge=0.0)
        tensor(-2.)
    """
    check_options(
        "dcca", num_components, ridge, ridge_scale, objective, compute_dtype, reduction
    )
    everyone = ranks.joined("dcca", group, grad_reduce, exchange, moments.EXCHANGES)
    least = 2 if everyone is None else 0
    checks.embeddings("dcca", z_a, z_b, paired=True, same_width=False, min_rows=least)
    checks.row_weight("dcca", "weight", weight, z_a)
    dtype = precision.compute_dtype(z_a, z_b)
    rows = torch.float32 if compute_dtype == torch.float32 else dtype
    pair = moments.pair_of(
        "dcca",
        MOMENTS,
        z_a.to(rows),
        z_b.to(rows),
        weight,
        weight,
        ranks=everyone,
        exchange=exchange,
        wide=compute_dtype,
    )
    with precision.no_autocast(z_a):
        loss = _loss(pair, num_components, ridge, ridge_scale, objective, reduction)
        return loss.to(dtype)


def _loss(
    pair: moments.Pair,
    num_components: int | None,
    ridge: float,
    ridge_scale: canonical.RidgeScale,
    objective: Objective,
    reduction: reduce.Reduction,
) -> Tensor:
    loss = losses("dcca", pair, num_components, ridge, ridge_scale, objective)
    return reduce.problems(loss, pair.present, reduction, pair.ranks)


def losses(
    caller: str,
    pair: moments.Pair,
    num_components: int | None,
    ridge: float,
    ridge_scale: canonical.RidgeScale,
    objective: Objective,
) -> Tensor:
    """Return the loss of each problem."""
    c_aa, c_bb, c_ab = pair.covariances()
    own = ridge  # what is added to the variances
    if ridge_scale == "relative":
        c_aa, c_bb = (canonical.with_relative_ridge(c, ridge) for c in (c_aa, c_bb))
        own = 0.0
    covariances = c_aa, c_bb, c_ab
    k = most = min(covariances[2].shape[-2:])
    if num_components is not None:
        k = num_components
        checks.count(caller, "num_components", k, at_most=most, of="min(D_a, D_b)")
    if objective == "frobenius" and k == most:
        # No singular values needed, and differentiable as often as one likes.
        return -canonical.sum_of_squares(*covariances, own)

    power = 1 if objective == "trace" else 2
    if not covariances[2].requires_grad:  # singular vectors are for the gradient
        rho = canonical.correlations(*covariances, own, k)
        return -(rho**power).sum(-1)

    rho, a, b = canonical.correlations_and_directions(*covariances, own, k)
    # Where the correlation is 0 the direction is arbitrary, and so would be its
    # gradient: T has no scale, and rounding errors of order eps.
    arbitrary = rho <= most * torch.finfo(rho.dtype).eps
    for c, along in ((c_aa, a), (c_bb, b)):
        arbitrary = arbitrary | (canonical.guard_share(c, along) > 0.5)
    slope = (-power * rho ** (power - 1)).masked_fill(arbitrary, 0.0)
    # Eq. 12–13 of the paper: of Σf(ρ), f′ABᵀ to C_ab, −½f′ρAAᵀ to C_aa, −½f′ρBBᵀ.
    directions = moments.Directions(a, b, rho, slope)
    loss = pair.along(-(rho**power).sum(-1), directions)
    if ridge_scale == "relative":  # what the ridge grows by, and the loss with it
        for c, along in zip(pair.covariances()[:2], (a, b), strict=True):
            lengths = (slope * rho * along.square().sum(-2)).sum(-1)
            growth = -0.5 * ridge * lengths * canonical.mean_variance(c)
            loss = loss + (growth - growth.detach())
    return loss


def check_options(
    caller: str,
    num_components: object,
    ridge: object,
    ridge_scale: object,
    objective: object,
    compute_dtype: object,
    reduction: object,
) -> None:
    if num_components is not None:
        checks.count(caller, "num_components", num_components)
    checks.number(caller, "ridge", ridge, at_least=0.0)
    checks.option(caller, "ridge_scale", ridge_scale, canonical.RIDGE_SCALES)
    checks.option(caller, "objective", objective, OBJECTIVES)
    checks.option(
        caller, "compute_dtype", compute_dtype, (torch.float64, torch.float32)
    )
    checks.option(caller, "reduction", reduction, reduce.REDUCTIONS)


class DCCALoss(nn.Module):
    """Module form of :func:`~xmodal_losses.functional.dcca`.

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
        - ``z_a``: ``(…, N, D_a)``; ``z_b``: ``(…, N, D_b)``; ``weight``: ``(…, N)``.
        - Output: scalar, or ``(…)`` for ``reduction="none"``.

    Examples:
        >>> import torch, xmodal_losses as xl
        >>> rgb, ir = torch.randn(2, 256, 32, requires_grad=True)
        >>> xl.DCCALoss(num_components=10)(rgb, ir).backward()
    """

    _moments = MOMENTS

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
            "DCCALoss",
            num_components,
            ridge,
            ridge_scale,
            objective,
            compute_dtype,
            reduction,
        )
        self.num_components = num_components
        self.ridge = ridge
        self.ridge_scale: canonical.RidgeScale = ridge_scale
        self.objective: Objective = objective
        self.compute_dtype = compute_dtype
        self.reduction: reduce.Reduction = reduction
        ranks.check_module("DCCALoss", gather, grad_reduce, exchange, moments.EXCHANGES)
        self.gather = gather
        self.grad_reduce: ranks.GradReduce = grad_reduce
        self.exchange: moments.Exchange | None = exchange

    def forward(
        self, z_a: Tensor, z_b: Tensor, *, weight: Tensor | None = None
    ) -> Tensor:
        """Return the loss of the paired batches."""
        return dcca(
            z_a,
            z_b,
            num_components=self.num_components,
            ridge=self.ridge,
            ridge_scale=self.ridge_scale,
            objective=self.objective,
            compute_dtype=self.compute_dtype,
            weight=weight,
            reduction=self.reduction,
            group=ranks.of_module("DCCALoss", self.gather),
            grad_reduce=self.grad_reduce,
            exchange=self.exchange,
        )

    def _of_moments(self, pair: moments.Pair) -> Tensor:
        return _loss(
            pair,
            self.num_components,
            self.ridge,
            self.ridge_scale,
            self.objective,
            self.reduction,
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
