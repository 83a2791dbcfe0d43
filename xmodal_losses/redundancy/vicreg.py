r"""VICReg: variance, invariance and covariance, each with its own term.

For paired :math:`A, B \in \mathbb{R}^{N \times D}`, per modality
:math:`S_j = \sqrt{\operatorname{Var}(z_j) + \epsilon}` and :math:`C` the covariance,
both unbiased,

.. math::
    s &= \tfrac{1}{N D} \textstyle\sum_n \lVert a_n - b_n \rVert^2 , \quad
    v(Z) = \tfrac{1}{D} \sum_j \max(0, \gamma - S_j) , \quad
    c(Z) = \tfrac{1}{D} \sum_{i \ne j} C_{ij}^2 , \\
    \mathcal{L} &= \lambda s + \mu \, \tfrac12 [v(A) + v(B)] + \nu \, [c(A) + c(B)] .

The invariance term pulls partners together, the variance term keeps each feature
spread out, the covariance term keeps features from repeating each other. No negatives.

Conventions differ in three factors: ``"official"`` is the authors' code and the formula
above, and ``"lightly"`` the same; ``"algorithm1"`` of the paper's appendix has no ½
before the variance, and ``"solo-learn"`` follows it; ``"paper"``, Eq. 1–6, moreover has
no 1/D in s; ``"vicregl"``, of feature maps, has a ½ before the covariance, too.

Numerics: rows are centred before the products. Where both modalities have collapsed to
a point the variance term has no gradient: the hinge is steep there, but the derivative
of the variance itself is 0. Where D is well above N, products are N × N, in float64.
Cost: O(N D min(N, D)) time, O(N D + min(N, D)²) memory.

References: Eq. 1–6 and Algorithm 1 of :cite:t:`bardes2022vicreg`; the code of
:cite:t:`bardes2022vicregl`.
"""

from typing import Literal, NamedTuple, TypeAlias

import torch
from torch import Tensor, nn

from xmodal_losses._core import checks, linalg, moments, precision, ranks, reduce
from xmodal_losses._core.modules import describe

__all__ = ["VICRegLoss", "VICRegTerms", "vicreg", "vicreg_terms"]

Convention: TypeAlias = Literal[
    "official", "algorithm1", "paper", "lightly", "solo-learn", "vicregl"
]
# What the loss looks at, where the rows are not all here.
_MOMENTS = frozenset({"aa", "bb", "square_gap"})


class _Form(NamedTuple):
    """What conventions differ in."""

    per_column: bool  # the invariance
    variance: float  # factor of both modalities' hinges
    covariance: float


_FORMS = {
    "official": _Form(True, 0.5, 1.0),
    "algorithm1": _Form(True, 1.0, 1.0),
    "paper": _Form(False, 1.0, 1.0),
    "lightly": _Form(True, 0.5, 1.0),
    "solo-learn": _Form(True, 1.0, 1.0),
    "vicregl": _Form(True, 0.5, 0.5),
}


class VICRegTerms(NamedTuple):
    """The terms of :func:`~xmodal_losses.functional.vicreg`, unweighted."""

    invariance: Tensor
    variance: Tensor
    covariance: Tensor


def vicreg_terms(
    z_a: Tensor,
    z_b: Tensor,
    *,
    target_std: float = 1.0,
    eps: float = 1e-4,
    convention: Convention = "official",
    weight: Tensor | None = None,
    reduction: reduce.Reduction = "mean",
    group: ranks.Group | None = None,
    grad_reduce: ranks.GradReduce = "mean",
    exchange: moments.Exchange | None = None,
) -> VICRegTerms:
    """Return the three terms of :func:`~xmodal_losses.functional.vicreg`.

    Args:
        z_a: As in :func:`~xmodal_losses.functional.vicreg`.
        z_b: As in :func:`~xmodal_losses.functional.vicreg`.
        target_std: As in :func:`~xmodal_losses.functional.vicreg`.
        eps: As in :func:`~xmodal_losses.functional.vicreg`.
        convention: As in :func:`~xmodal_losses.functional.vicreg`.
        weight: As in :func:`~xmodal_losses.functional.vicreg`.
        reduction: As in :func:`~xmodal_losses.functional.vicreg`.
        group: As in :func:`~xmodal_losses.functional.vicreg`.
        grad_reduce: As in :func:`~xmodal_losses.functional.vicreg`.
        exchange: As in :func:`~xmodal_losses.functional.vicreg`.

    Returns:
        ``invariance`` s, ``variance`` and ``covariance`` of both modalities, with the
        factors of the convention; all ≥ 0.
    """
    _check_options("vicreg_terms", target_std, eps, convention, reduction)
    pair = _pair("vicreg_terms", z_a, z_b, weight, group, grad_reduce, exchange)
    with precision.no_autocast(z_a):
        return _terms(pair, target_std, eps, convention, reduction)


def vicreg(
    z_a: Tensor,
    z_b: Tensor,
    *,
    invariance_weight: float = 25.0,
    variance_weight: float = 25.0,
    covariance_weight: float = 1.0,
    target_std: float = 1.0,
    eps: float = 1e-4,
    convention: Convention = "official",
    weight: Tensor | None = None,
    reduction: reduce.Reduction = "mean",
    group: ranks.Group | None = None,
    grad_reduce: ranks.GradReduce = "mean",
    exchange: moments.Exchange | None = None,
) -> Tensor:
    """Return the VICReg loss of paired rows.

    Give it the projection before L2 normalisation: the columns of unit rows have a
    standard deviation near 1/√D, far below the target of 1.

    Args:
        z_a: Embeddings of modality *a*, shape ``(…, N, D)``, N ≥ 2; leading dimensions
            are independent problems.
        z_b: Embeddings of modality *b*, same shape; row *i* belongs to row *i* of
            ``z_a``.
        invariance_weight: λ ≥ 0.
        variance_weight: μ ≥ 0.
        covariance_weight: ν ≥ 0.
        target_std: γ ≥ 0, the standard deviation each column should reach.
        eps: ε ≥ 0, added to the variance before its root is taken.
        convention: ``"official"``, ``"algorithm1"``, ``"paper"``, ``"lightly"``,
            ``"solo-learn"`` or ``"vicregl"``, see above.
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
        Scalar, or ``(…)`` for ``reduction="none"``; ≥ 0. In the dtype of the inputs,
        float32 at least.

    Raises:
        TypeError: If an input is not a floating-point tensor.
        ValueError: If shapes do not fit together or an option is out of range.

    Examples:
        >>> import torch, xmodal_losses.functional as F
        >>> z = 2 * torch.tensor([[1., 1.], [1., -1.], [-1., 1.], [-1., -1.]])
        >>> F.vicreg(z, z)
        tensor(0.)
        >>> F.vicreg(z, z + 1)
        tensor(25.)
    """
    _check_weights("vicreg", invariance_weight, variance_weight, covariance_weight)
    _check_options("vicreg", target_std, eps, convention, reduction)
    pair = _pair("vicreg", z_a, z_b, weight, group, grad_reduce, exchange)
    weights = invariance_weight, variance_weight, covariance_weight
    with precision.no_autocast(z_a):
        return loss_of(pair, weights, target_std, eps, convention, reduction)


def loss_of(
    pair: moments.Pair,
    weights: tuple[float, float, float],
    target_std: float,
    eps: float,
    convention: Convention,
    reduction: reduce.Reduction,
) -> Tensor:
    """Return the loss of two batches, of which the moments are known."""
    terms = _terms(pair, target_std, eps, convention, reduction)
    invariance, variance, covariance = weights
    return (
        invariance * terms.invariance
        + variance * terms.variance
        + covariance * terms.covariance
    )


def _terms(
    pair: moments.Pair,
    target_std: float,
    eps: float,
    convention: Convention,
    reduction: reduce.Reduction,
) -> VICRegTerms:
    form = _FORMS[convention]
    a, b = pair.spreads()
    gap = pair.mean_square_gap()
    invariance = gap / pair.width if form.per_column else gap
    # With eps = 0, a constant column has std 0 and gradient 0.
    std = linalg.sqrt(torch.stack((a.variance, b.variance)) + eps)
    variance = form.variance * torch.relu(target_std - std).mean(-1).sum(0)
    covariance = (a.off_diagonal + b.off_diagonal) * (form.covariance / pair.width)
    return VICRegTerms(
        reduce.problems(invariance, pair.present, reduction, pair.ranks),
        reduce.problems(variance, pair.present, reduction, pair.ranks),
        reduce.problems(covariance, pair.present, reduction, pair.ranks),
    )


def _pair(
    caller: str,
    z_a: Tensor,
    z_b: Tensor,
    weight: Tensor | None,
    group: ranks.Group | None,
    grad_reduce: ranks.GradReduce,
    exchange: moments.Exchange | None,
) -> moments.Pair:
    everyone = ranks.joined(caller, group, grad_reduce, exchange, moments.EXCHANGES)
    least = 2 if everyone is None else 0
    checks.embeddings(caller, z_a, z_b, paired=True, min_rows=least)
    checks.row_weight(caller, "weight", weight, z_a)
    dtype = precision.compute_dtype(z_a, z_b)
    return moments.pair_of(
        caller,
        _MOMENTS,
        z_a.to(dtype),
        z_b.to(dtype),
        weight,
        weight,
        ranks=everyone,
        exchange=exchange,
    )


def _check_weights(
    caller: str, invariance: object, variance: object, covariance: object
) -> None:
    checks.number(caller, "invariance_weight", invariance, at_least=0.0)
    checks.number(caller, "variance_weight", variance, at_least=0.0)
    checks.number(caller, "covariance_weight", covariance, at_least=0.0)


def _check_options(
    caller: str, target_std: object, eps: object, convention: object, reduction: object
) -> None:
    checks.number(caller, "target_std", target_std, at_least=0.0)
    checks.number(caller, "eps", eps, at_least=0.0)
    checks.option(caller, "convention", convention, tuple(_FORMS))
    checks.option(caller, "reduction", reduction, reduce.REDUCTIONS)


class VICRegLoss(nn.Module):
    """Module form of :func:`~xmodal_losses.functional.vicreg`.

    Args:
        invariance_weight: As in the function.
        variance_weight: As in the function.
        covariance_weight: As in the function.
        target_std: As in the function.
        eps: As in the function.
        convention: As in the function.
        reduction: As in the function.
        gather: True: the default process group; or a process group, the ``group`` of
            the function. False: the batch is here.
        grad_reduce: As in the function.
        exchange: As in the function.

    State: none.

    Shape:
        - ``z_a``, ``z_b``: ``(…, N, D)``; ``weight``: ``(…, N)``.
        - Output: scalar, or ``(…)`` for ``reduction="none"``.

    Examples:
        >>> import torch, xmodal_losses as xl
        >>> rgb, ir = torch.randn(2, 256, 128, requires_grad=True)
        >>> xl.VICRegLoss()(rgb, ir).backward()
    """

    _moments = _MOMENTS

    def __init__(
        self,
        *,
        invariance_weight: float = 25.0,
        variance_weight: float = 25.0,
        covariance_weight: float = 1.0,
        target_std: float = 1.0,
        eps: float = 1e-4,
        convention: Convention = "official",
        reduction: reduce.Reduction = "mean",
        gather: bool | ranks.Group = False,
        grad_reduce: ranks.GradReduce = "mean",
        exchange: moments.Exchange | None = None,
    ) -> None:
        super().__init__()
        caller = "VICRegLoss"
        _check_weights(caller, invariance_weight, variance_weight, covariance_weight)
        _check_options(caller, target_std, eps, convention, reduction)
        self.invariance_weight = invariance_weight
        self.variance_weight = variance_weight
        self.covariance_weight = covariance_weight
        self.target_std = target_std
        self.eps = eps
        self.convention: Convention = convention
        self.reduction: reduce.Reduction = reduction
        ranks.check_module(
            "VICRegLoss", gather, grad_reduce, exchange, moments.EXCHANGES
        )
        self.gather = gather
        self.grad_reduce: ranks.GradReduce = grad_reduce
        self.exchange: moments.Exchange | None = exchange

    def forward(
        self, z_a: Tensor, z_b: Tensor, *, weight: Tensor | None = None
    ) -> Tensor:
        """Return the loss of the paired batches."""
        return vicreg(
            z_a,
            z_b,
            invariance_weight=self.invariance_weight,
            variance_weight=self.variance_weight,
            covariance_weight=self.covariance_weight,
            target_std=self.target_std,
            eps=self.eps,
            convention=self.convention,
            weight=weight,
            reduction=self.reduction,
            group=ranks.of_module("VICRegLoss", self.gather),
            grad_reduce=self.grad_reduce,
            exchange=self.exchange,
        )

    def _of_moments(self, pair: moments.Pair) -> Tensor:
        weights = self.invariance_weight, self.variance_weight, self.covariance_weight
        return loss_of(
            pair, weights, self.target_std, self.eps, self.convention, self.reduction
        )

    def extra_repr(self) -> str:
        """Return the options."""
        return describe(
            self,
            "invariance_weight",
            "variance_weight",
            "covariance_weight",
            "target_std",
            "eps",
            "convention",
            "reduction",
            "gather",
            "grad_reduce",
            "exchange",
        )
