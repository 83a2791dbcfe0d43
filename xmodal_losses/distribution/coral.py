r"""Deep CORAL: match the covariances of two batches.

For :math:`Z_a \in \mathbb{R}^{N \times D}` and :math:`Z_b \in \mathbb{R}^{M \times D}`,

.. math::
    \mathcal{L} = \frac{1}{4 D^2} \lVert C_a - C_b \rVert_F^2
                  + w \cdot \frac{1}{D} \lVert \mu_a - \mu_b \rVert_2^2 ,

with :math:`C_a, C_b` the unbiased covariances. Rows need not be paired, and N may
differ from M. The published loss has :math:`w = 0`: a constant shift of one modality
costs nothing.

Scale: the published loss is of fourth order in Z. On unit-length rows it is below
:math:`1/(2 D^2)`, next to nothing; give it the projection before normalisation, or take
the scale-free form, ``scale="relative"``, both of whose terms are in [0, 1]:

.. math::
    \mathcal{L} = \frac{\lVert C_a - C_b \rVert_F^2}
                       {\lVert C_a \rVert_F^2 + \lVert C_b \rVert_F^2}
                  + w \cdot \frac{\lVert \mu_a - \mu_b \rVert_2^2}
        {\lVert \mu_a - \mu_b \rVert_2^2 + 2 \operatorname{tr}(C_a + C_b)} .

The second is the part of the variance of both batches together that lies between them.
The gradient goes through the quotients: it is orthogonal to a common scale of the
batches, and nothing is won by shrinking both.

``metric`` chooses another distance of the covariances:

- ``"root"``: the square root of the covariance term, and of the mean term, in either
  scale.
- ``"log_euclidean"``: :math:`\frac{1}{4 D^2} \lVert \log(C_a + \rho I) - \log(C_b +
  \rho I) \rVert_F^2`. It compares variances by their ratios, the small ones as well as
  the large ones; ρ, ``ridge``, is where small ends.
- ``"bures"``: :math:`\frac{1}{D} \operatorname{tr} (C_a + C_b - 2 (C_a^{1/2} C_b
  C_a^{1/2})^{1/2})`; with :math:`w = 1` the loss is the squared 2-Wasserstein distance
  of two Gaussians, over D. With ``scale="relative"`` its divisor is
  :math:`\operatorname{tr}(C_a + C_b)`, and it is in [0, 1].

Numerics: rows are centred before the product; moments about the origin lose every digit
in float32 once the mean exceeds a thousand standard deviations. Where D is well above
N, products are N × N, in float64: the loss is then a difference of far larger numbers.
Cost: O(N D min(N, D)) time, O(N D + min(N, D)²) memory, for N = M. The last two metrics
decompose D × D matrices, in float64, and take O(D³ + N D²) time and O(N D + D²) memory;
gradients are known without differentiating eigenvectors, and finite where eigenvalues
repeat.

References: Eq. 1–3 of :cite:t:`sun2016deep`; the log-Euclidean form:
:cite:t:`morerio2018minimal`, its metric: :cite:t:`arsigny2007geometric`; the Bures
distance: :cite:t:`bhatia2019bures`.
"""

from functools import partial
from typing import Literal, NamedTuple, TypeAlias

from torch import Tensor, nn

from xmodal_losses._core import (
    checks,
    linalg,
    moments,
    precision,
    ranks,
    reduce,
    spectral,
)
from xmodal_losses._core.modules import describe

__all__ = ["CORALLoss", "CORALTerms", "coral", "coral_terms"]

Scale: TypeAlias = Literal["published", "relative"]
SCALES = ("published", "relative")
Metric: TypeAlias = Literal["frobenius", "root", "log_euclidean", "bures"]
METRICS = ("frobenius", "root", "log_euclidean", "bures")
# What the loss looks at, where the rows are not all here.
_MOMENTS = frozenset({"aa", "bb", "mean_gap"})


class _Form(NamedTuple):
    """Which distance of the covariances, in which scale."""

    scale: Scale
    metric: Metric
    ridge: float  # of log_euclidean


class CORALTerms(NamedTuple):
    """The terms of :func:`~xmodal_losses.functional.coral`, unweighted."""

    covariance: Tensor
    mean: Tensor


def coral_terms(
    z_a: Tensor,
    z_b: Tensor,
    *,
    scale: Scale = "published",
    metric: Metric = "frobenius",
    ridge: float | None = None,
    weight_a: Tensor | None = None,
    weight_b: Tensor | None = None,
    reduction: reduce.Reduction = "mean",
    group: ranks.Group | None = None,
    grad_reduce: ranks.GradReduce = "mean",
    exchange: moments.Exchange | None = None,
) -> CORALTerms:
    """Return both terms of :func:`~xmodal_losses.functional.coral`.

    Args:
        z_a: As in :func:`~xmodal_losses.functional.coral`.
        z_b: As in :func:`~xmodal_losses.functional.coral`.
        scale: As in :func:`~xmodal_losses.functional.coral`.
        metric: As in :func:`~xmodal_losses.functional.coral`.
        ridge: As in :func:`~xmodal_losses.functional.coral`.
        weight_a: As in :func:`~xmodal_losses.functional.coral`.
        weight_b: As in :func:`~xmodal_losses.functional.coral`.
        reduction: As in :func:`~xmodal_losses.functional.coral`.
        group: As in :func:`~xmodal_losses.functional.coral`.
        grad_reduce: As in :func:`~xmodal_losses.functional.coral`.
        exchange: As in :func:`~xmodal_losses.functional.coral`.

    Returns:
        ``covariance``, ‖C_a − C_b‖²_F / 4D², and ``mean``, ‖μ_a − μ_b‖² / D; both ≥ 0.
        With ``scale="relative"`` the two quotients above, both in [0, 1]; with another
        ``metric``, what is above in their place.
    """
    form = _form("coral_terms", scale, metric, ridge)
    pair = _pair(
        "coral_terms",
        z_a,
        z_b,
        weight_a,
        weight_b,
        reduction,
        group,
        grad_reduce,
        exchange,
    )
    with precision.no_autocast(z_a):
        return CORALTerms(
            reduce.problems(
                _covariance(pair, form), pair.present, reduction, pair.ranks
            ),
            reduce.problems(_mean(pair, form), pair.present, reduction, pair.ranks),
        )


def coral(
    z_a: Tensor,
    z_b: Tensor,
    *,
    mean_weight: float = 0.0,
    scale: Scale = "published",
    metric: Metric = "frobenius",
    ridge: float | None = None,
    weight_a: Tensor | None = None,
    weight_b: Tensor | None = None,
    reduction: reduce.Reduction = "mean",
    group: ranks.Group | None = None,
    grad_reduce: ranks.GradReduce = "mean",
    exchange: moments.Exchange | None = None,
) -> Tensor:
    """Return the Deep CORAL loss of two batches, which need not be paired.

    Args:
        z_a: Embeddings of modality *a*, shape ``(…, N, D)``, N ≥ 2; leading dimensions
            are independent problems.
        z_b: Embeddings of modality *b*, shape ``(…, M, D)``, M ≥ 2.
        mean_weight: Weight ≥ 0 of the squared distance of the means.
        scale: ``"published"``, as in the paper, or ``"relative"``, by the size of the
            covariances, see above. There is no relative form of ``"log_euclidean"``.
        metric: ``"frobenius"``, ``"root"``, ``"log_euclidean"`` or ``"bures"``, see
            above.
        ridge: ρ > 0 of ``"log_euclidean"``; None: 1e-4. It should be well below the
            variances that matter. Only there.
        weight_a: Weights ≥ 0 of the rows of ``z_a``, ``(…, N)``; their scale does not
            matter. A row of weight 0 is as if it were not there.
        weight_b: The same for ``z_b``, ``(…, M)``.
        reduction: ``"mean"``, ``"sum"`` or ``"none"`` over the leading dimensions.
        group: A process group whose ranks each have a part of the batch; the loss is
            that of the parts joined along the first dimension. None: the batch is here.
        grad_reduce: ``"mean"`` if gradients are averaged over ranks, as by DDP;
            ``"sum"`` if they are added up.
        exchange: What goes between ranks: ``"statistics"``, sums of O(D²) moments, or
            ``"gather"``, the rows. None chooses by size.

    Returns:
        Scalar, or ``(…)`` for ``reduction="none"``; ≥ 0, and 0 iff the covariances (and
        means, if they have a weight) agree; at most 1 + ``mean_weight`` for
        ``scale="relative"``, where each quotient is 0 if its divisor is. In the dtype
        of the inputs, float32 at least.

    Raises:
        TypeError: If an input is not a floating-point tensor.
        ValueError: If shapes do not fit together, or an option is out of range or of no
            use with the others.

    Examples:
        >>> import torch, xmodal_losses.functional as F
        >>> z = torch.eye(4)
        >>> F.coral(z, z + 5)
        tensor(0.)
        >>> F.coral(z, z + 5, mean_weight=1.0)
        tensor(25.)
        >>> F.coral(z, 2 * z, scale="relative")
        tensor(0.5294)
        >>> F.coral(z, 2 * z, metric="bures")  # (2 − 1)² · tr C_a / 4
        tensor(0.2500)
    """
    checks.number("coral", "mean_weight", mean_weight, at_least=0.0)
    form = _form("coral", scale, metric, ridge)
    pair = _pair(
        "coral",
        z_a,
        z_b,
        weight_a,
        weight_b,
        reduction,
        group,
        grad_reduce,
        exchange,
    )
    with precision.no_autocast(z_a):
        return _loss(pair, mean_weight, form, reduction)


def _form(caller: str, scale: Scale, metric: Metric, ridge: float | None) -> _Form:
    """Check the options of the distance."""
    checks.option(caller, "scale", scale, SCALES)
    checks.option(caller, "metric", metric, METRICS)
    if metric != "log_euclidean":
        if ridge is not None:
            raise ValueError(
                f"{caller}: ridge must be None with metric={metric!r}, got {ridge!r}. "
                "It is for 'log_euclidean'."
            )
        return _Form(scale, metric, 0.0)
    if scale == "relative":
        raise ValueError(
            f"{caller}: scale must be 'published' with metric='log_euclidean', got "
            "'relative'. A common scale of the batches changes it by the ridge only."
        )
    if ridge is None:
        ridge = 1e-4
    checks.number(caller, "ridge", ridge, above=0.0)
    return _Form(scale, metric, ridge)


def _loss(
    pair: moments.Pair, mean_weight: float, form: _Form, reduction: reduce.Reduction
) -> Tensor:
    loss = _covariance(pair, form)
    if mean_weight > 0:
        loss = loss + mean_weight * _mean(pair, form)
    return reduce.problems(loss, pair.present, reduction, pair.ranks)


def _covariance(pair: moments.Pair, form: _Form) -> Tensor:
    relative = form.scale == "relative"
    if form.metric == "log_euclidean":
        log_gap = partial(spectral.log_euclidean, ridge=form.ridge)
        return pair.of_covariances(log_gap) / (4 * pair.width**2)
    if form.metric == "bures":
        if relative:
            return pair.of_covariances(_relative_bures)
        return pair.of_covariances(spectral.bures) / pair.width
    if relative:
        return _power(pair.relative_covariance_gap(), form)
    return _power(pair.covariance_gap() / (4 * pair.width**2), form)


def _mean(pair: moments.Pair, form: _Form) -> Tensor:
    if form.scale == "relative":
        return _power(pair.relative_mean_gap(), form)
    return _power(pair.mean_gap().square().sum(-1) / pair.width, form)


def _power(term: Tensor, form: _Form) -> Tensor:
    # Where batches agree the root has no slope; it is taken to be 0.
    return linalg.sqrt(term) if form.metric == "root" else term


def _relative_bures(c_a: Tensor, c_b: Tensor) -> Tensor:
    size = (c_a + c_b).diagonal(dim1=-2, dim2=-1).sum(-1)
    return spectral.bures(c_a, c_b) * reduce.inverse(size)


def _pair(
    caller: str,
    z_a: Tensor,
    z_b: Tensor,
    weight_a: Tensor | None,
    weight_b: Tensor | None,
    reduction: reduce.Reduction,
    group: ranks.Group | None,
    grad_reduce: ranks.GradReduce,
    exchange: moments.Exchange | None,
) -> moments.Pair:
    checks.option(caller, "reduction", reduction, reduce.REDUCTIONS)
    everyone = ranks.joined(caller, group, grad_reduce, exchange, moments.EXCHANGES)
    least = 2 if everyone is None else 0
    checks.embeddings(caller, z_a, z_b, paired=False, min_rows=least)
    checks.row_weight(caller, "weight_a", weight_a, z_a)
    checks.row_weight(caller, "weight_b", weight_b, z_b)
    dtype = precision.compute_dtype(z_a, z_b)
    return moments.pair_of(
        caller,
        _MOMENTS,
        z_a.to(dtype),
        z_b.to(dtype),
        weight_a,
        weight_b,
        ranks=everyone,
        exchange=exchange,
    )


class CORALLoss(nn.Module):
    """Module form of :func:`~xmodal_losses.functional.coral`.

    Args:
        mean_weight: As in the function.
        scale: As in the function.
        metric: As in the function.
        ridge: As in the function.
        reduction: As in the function.
        gather: True: the default process group; or a process group, the ``group`` of
            the function. False: the batch is here.
        grad_reduce: As in the function.
        exchange: As in the function.

    State: none.

    Shape:
        - ``z_a``: ``(…, N, D)``; ``z_b``: ``(…, M, D)``; ``weight_a``: ``(…, N)``;
          ``weight_b``: ``(…, M)``.
        - Output: scalar, or ``(…)`` for ``reduction="none"``.

    Examples:
        >>> import torch, xmodal_losses as xl
        >>> rgb, ir = torch.randn(2, 256, 128, requires_grad=True)
        >>> xl.CORALLoss(mean_weight=1.0)(rgb, ir).backward()
    """

    _moments = _MOMENTS

    def __init__(
        self,
        *,
        mean_weight: float = 0.0,
        scale: Scale = "published",
        metric: Metric = "frobenius",
        ridge: float | None = None,
        reduction: reduce.Reduction = "mean",
        gather: bool | ranks.Group = False,
        grad_reduce: ranks.GradReduce = "mean",
        exchange: moments.Exchange | None = None,
    ) -> None:
        super().__init__()
        checks.number("CORALLoss", "mean_weight", mean_weight, at_least=0.0)
        _form("CORALLoss", scale, metric, ridge)
        checks.option("CORALLoss", "reduction", reduction, reduce.REDUCTIONS)
        self.mean_weight = mean_weight
        self.scale: Scale = scale
        self.metric: Metric = metric
        self.ridge = ridge
        self.reduction: reduce.Reduction = reduction
        ranks.check_module(
            "CORALLoss", gather, grad_reduce, exchange, moments.EXCHANGES
        )
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
        return coral(
            z_a,
            z_b,
            mean_weight=self.mean_weight,
            scale=self.scale,
            metric=self.metric,
            ridge=self.ridge,
            weight_a=weight_a,
            weight_b=weight_b,
            reduction=self.reduction,
            group=ranks.of_module("CORALLoss", self.gather),
            grad_reduce=self.grad_reduce,
            exchange=self.exchange,
        )

    def _of_moments(self, pair: moments.Pair) -> Tensor:
        form = _form("CORALLoss", self.scale, self.metric, self.ridge)
        return _loss(pair, self.mean_weight, form, self.reduction)

    def extra_repr(self) -> str:
        """Return the options."""
        return describe(
            self,
            "mean_weight",
            "scale",
            "metric",
            "ridge",
            "reduction",
            "gather",
            "grad_reduce",
            "exchange",
        )
