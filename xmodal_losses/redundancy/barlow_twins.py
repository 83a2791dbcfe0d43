r"""Barlow Twins: make the cross-correlation of paired batches the identity.

For paired, centred :math:`A, B \in \mathbb{R}^{N \times D}` with the correlations

.. math::
    C_{ij} = \frac{\sum_n a_{ni} b_{nj}}
                  {\sqrt{\sum_n a_{ni}^2} \sqrt{\sum_n b_{nj}^2}} , \qquad
    \mathcal{L} = \sum_i (1 - C_{ii})^2 + \lambda \sum_i \sum_{j \ne i} C_{ij}^2 .

The first term asks that a feature says the same in both modalities, the second that no
two features say the same. C does not change with the scale or mean of any column.

Both sums grow with D, and with them what a weight of the loss means.
``scale="per_column"`` divides them by D: the mean over columns of what each costs.
λ stays, and so does the optimum.

That is Eq. 1 and 2. Codes differ in how a column is normalised, in λ, and in a factor;
``convention`` names them. With batch normalisation, ε is added to a variance with the
divisor N. In Algorithm 1 of the paper, standard deviations s are unbiased (and where
there is an ε, it is added to s), while the product is still divided by N: of identical
columns it makes (N − 1)/N. The HSIC form asks of different features not for
independence but for opposition, :math:`\sum_{i \ne j} (1 + C_{ij})^2`.

Numerics: :math:`1 - C_{ii}` is computed as half the squared distance of the unit
columns, which keeps its digits near 0. A constant column has C = 0. Once N − 1 < D, the
second term cannot fall below D²/(N − 1) − D: compare losses above that floor. Where
D is well above N, products are N × N. Cost: O(N D min(N, D)) time, O(N D + min(N, D)²)
memory.

References: Eq. 1–2 and Algorithm 1 of :cite:t:`zbontar2021barlow`; the HSIC form is
that of :cite:t:`tsai2021note`.
"""

from typing import Literal, NamedTuple, TypeAlias

from torch import Tensor, nn

from xmodal_losses._core import checks, moments, precision, ranks, reduce
from xmodal_losses._core.modules import describe

__all__ = ["BarlowTwinsLoss", "BarlowTwinsTerms", "barlow_twins", "barlow_twins_terms"]

Scale: TypeAlias = Literal["published", "per_column"]
SCALES = ("published", "per_column")
Convention: TypeAlias = Literal[
    "paper",
    "algorithm1",
    "official",
    "lightly",
    "solo-learn",
    "monai",
    "stable-pretraining",
    "hsic",
]
# What the loss looks at, where the rows are not all here.
_MOMENTS = frozenset({"ab", "variance_a", "variance_b"})


class _Form(NamedTuple):
    """What conventions differ in."""

    unbiased: bool  # the standard deviations, to which eps is then added
    eps: float
    redundancy_weight: float
    target: float = 0.0  # of C_ij, i ≠ j
    factor: float = 1.0  # of the loss


_FORMS = {
    "paper": _Form(False, 0.0, 5e-3),
    "algorithm1": _Form(True, 0.0, 5e-3),
    "official": _Form(False, 1e-5, 0.0051),
    "lightly": _Form(False, 1e-5, 5e-3),
    "solo-learn": _Form(False, 1e-5, 5e-3, factor=0.025),
    "monai": _Form(True, 1e-6, 5e-3),
    "stable-pretraining": _Form(True, 1e-5, 5e-3),
    "hsic": _Form(True, 0.0, 5e-3, target=-1.0),
}


class BarlowTwinsTerms(NamedTuple):
    """The terms of :func:`~xmodal_losses.functional.barlow_twins`, unweighted."""

    invariance: Tensor
    redundancy: Tensor


def barlow_twins_terms(
    z_a: Tensor,
    z_b: Tensor,
    *,
    eps: float | None = None,
    convention: Convention = "paper",
    scale: Scale = "published",
    weight: Tensor | None = None,
    reduction: reduce.Reduction = "mean",
    group: ranks.Group | None = None,
    grad_reduce: ranks.GradReduce = "mean",
    exchange: moments.Exchange | None = None,
) -> BarlowTwinsTerms:
    """Return both terms of :func:`~xmodal_losses.functional.barlow_twins`.

    Args:
        z_a: As in :func:`~xmodal_losses.functional.barlow_twins`.
        z_b: As in :func:`~xmodal_losses.functional.barlow_twins`.
        eps: As in :func:`~xmodal_losses.functional.barlow_twins`.
        convention: As in :func:`~xmodal_losses.functional.barlow_twins`.
        scale: As in :func:`~xmodal_losses.functional.barlow_twins`.
        weight: As in :func:`~xmodal_losses.functional.barlow_twins`.
        reduction: As in :func:`~xmodal_losses.functional.barlow_twins`.
        group: As in :func:`~xmodal_losses.functional.barlow_twins`.
        grad_reduce: As in :func:`~xmodal_losses.functional.barlow_twins`.
        exchange: As in :func:`~xmodal_losses.functional.barlow_twins`.

    Returns:
        ``invariance``, Σ(1 − C_ii)², and ``redundancy``, Σ_{i≠j} C_ij², or what the
        convention has in its place; both ≥ 0, with the convention's factor, and divided
        by D with ``scale="per_column"``.
    """
    form = _form("barlow_twins_terms", convention, None, eps, scale)
    pair = _pair(
        "barlow_twins_terms",
        z_a,
        z_b,
        weight,
        reduction,
        group,
        grad_reduce,
        exchange,
    )
    with precision.no_autocast(z_a):
        return _terms(pair, form, scale, reduction)


def barlow_twins(
    z_a: Tensor,
    z_b: Tensor,
    *,
    redundancy_weight: float | None = None,
    eps: float | None = None,
    convention: Convention = "paper",
    scale: Scale = "published",
    weight: Tensor | None = None,
    reduction: reduce.Reduction = "mean",
    group: ranks.Group | None = None,
    grad_reduce: ranks.GradReduce = "mean",
    exchange: moments.Exchange | None = None,
) -> Tensor:
    """Return the Barlow Twins loss of paired rows.

    Give it the projection before L2 normalisation of the rows.

    Args:
        z_a: Embeddings of modality *a*, shape ``(…, N, D)``, N ≥ 2; leading dimensions
            are independent problems.
        z_b: Embeddings of modality *b*, same shape; row *i* belongs to row *i* of
            ``z_a``.
        redundancy_weight: λ ≥ 0. None: that of the convention.
        eps: ε ≥ 0, added to the (biased) variance of a column before its root is taken,
            as in batch normalisation; or, in conventions with unbiased standard
            deviations, to these. None: that of the convention.
        convention: ``"paper"``, ``"algorithm1"``, ``"official"``, ``"lightly"``,
            ``"solo-learn"``, ``"monai"``, ``"stable-pretraining"`` or ``"hsic"``: whose
            loss it is, with the λ and ε that are the default there.
        scale: ``"published"``, the sums of the convention, or ``"per_column"``, these
            over D.
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

    Note:
        With ε = 0, a constant column gets no gradient: its correlation does not exist.

    Examples:
        >>> import torch, xmodal_losses.functional as F
        >>> z = torch.tensor([[1., 1.], [1., -1.], [-1., 1.], [-1., -1.]])
        >>> F.barlow_twins(z, 2 * z + 1)
        tensor(0.)
        >>> F.barlow_twins(z, -z)
        tensor(8.)
        >>> F.barlow_twins(z, -z, scale="per_column")
        tensor(4.)
        >>> F.barlow_twins(z, z, convention="algorithm1")  # 2 · (1 − ¾)²
        tensor(0.1250)
    """
    form = _form("barlow_twins", convention, redundancy_weight, eps, scale)
    pair = _pair(
        "barlow_twins", z_a, z_b, weight, reduction, group, grad_reduce, exchange
    )
    with precision.no_autocast(z_a):
        return _loss(pair, form, scale, reduction)


def _form(
    caller: str,
    convention: str,
    redundancy_weight: float | None,
    eps: float | None,
    scale: object,
) -> _Form:
    """Check the options, and return the convention with what is given in its place."""
    checks.option(caller, "convention", convention, tuple(_FORMS))
    checks.option(caller, "scale", scale, SCALES)
    form = _FORMS[convention]
    if redundancy_weight is None:
        redundancy_weight = form.redundancy_weight
    if eps is None:
        eps = form.eps
    checks.number(caller, "redundancy_weight", redundancy_weight, at_least=0.0)
    checks.number(caller, "eps", eps, at_least=0.0)
    return _Form(form.unbiased, eps, redundancy_weight, form.target, form.factor)


def _loss(
    pair: moments.Pair, form: _Form, scale: Scale, reduction: reduce.Reduction
) -> Tensor:
    terms = _terms(pair, form, scale, reduction)
    return terms.invariance + form.redundancy_weight * terms.redundancy


def _terms(
    pair: moments.Pair, form: _Form, scale: Scale, reduction: reduce.Reduction
) -> BarlowTwinsTerms:
    one_minus_c, redundancy = pair.correlation(
        form.eps, unbiased=form.unbiased, target=form.target
    )
    invariance = one_minus_c.square().sum(-1)
    if scale == "per_column":
        invariance, redundancy = invariance / pair.width, redundancy / pair.width
    if form.factor != 1:
        invariance, redundancy = form.factor * invariance, form.factor * redundancy
    return BarlowTwinsTerms(
        reduce.problems(invariance, pair.present, reduction, pair.ranks),
        reduce.problems(redundancy, pair.present, reduction, pair.ranks),
    )


def _pair(
    caller: str,
    z_a: Tensor,
    z_b: Tensor,
    weight: Tensor | None,
    reduction: reduce.Reduction,
    group: ranks.Group | None,
    grad_reduce: ranks.GradReduce,
    exchange: moments.Exchange | None,
) -> moments.Pair:
    checks.option(caller, "reduction", reduction, reduce.REDUCTIONS)
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


class BarlowTwinsLoss(nn.Module):
    """Module form of :func:`~xmodal_losses.functional.barlow_twins`.

    Args:
        redundancy_weight: As in the function.
        eps: As in the function.
        convention: As in the function.
        scale: As in the function.
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
        >>> xl.BarlowTwinsLoss()(rgb, ir).backward()
    """

    _moments = _MOMENTS

    def __init__(
        self,
        *,
        redundancy_weight: float | None = None,
        eps: float | None = None,
        convention: Convention = "paper",
        scale: Scale = "published",
        reduction: reduce.Reduction = "mean",
        gather: bool | ranks.Group = False,
        grad_reduce: ranks.GradReduce = "mean",
        exchange: moments.Exchange | None = None,
    ) -> None:
        super().__init__()
        caller = "BarlowTwinsLoss"
        form = _form(caller, convention, redundancy_weight, eps, scale)
        checks.option(caller, "reduction", reduction, reduce.REDUCTIONS)
        self.redundancy_weight = form.redundancy_weight
        self.eps = form.eps
        self.convention: Convention = convention
        self.scale: Scale = scale
        self.reduction: reduce.Reduction = reduction
        ranks.check_module(caller, gather, grad_reduce, exchange, moments.EXCHANGES)
        self.gather = gather
        self.grad_reduce: ranks.GradReduce = grad_reduce
        self.exchange: moments.Exchange | None = exchange

    def forward(
        self, z_a: Tensor, z_b: Tensor, *, weight: Tensor | None = None
    ) -> Tensor:
        """Return the loss of the paired batches."""
        return barlow_twins(
            z_a,
            z_b,
            redundancy_weight=self.redundancy_weight,
            eps=self.eps,
            convention=self.convention,
            scale=self.scale,
            weight=weight,
            reduction=self.reduction,
            group=ranks.of_module("BarlowTwinsLoss", self.gather),
            grad_reduce=self.grad_reduce,
            exchange=self.exchange,
        )

    def _of_moments(self, pair: moments.Pair) -> Tensor:
        form = _form(
            "BarlowTwinsLoss",
            self.convention,
            self.redundancy_weight,
            self.eps,
            self.scale,
        )
        return _loss(pair, form, self.scale, self.reduction)

    def extra_repr(self) -> str:
        """Return the options."""
        return describe(
            self,
            "redundancy_weight",
            "eps",
            "convention",
            "scale",
            "reduction",
            "gather",
            "grad_reduce",
            "exchange",
        )
