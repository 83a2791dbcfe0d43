r"""VICReg of places: the local term of VICRegL, for feature maps of both modalities.

Images n have rows :math:`a_{np}` and :math:`b_{nq}`, one for each place. Every place p
of *a* has a partner in *b*,

.. math::
    q(n, p) = \operatorname{arg\,min}_q \lVert x^a_{np} - x^b_{nq} \rVert
    \quad \text{or} \quad
    \operatorname{arg\,min}_q \lVert a_{np} - b_{nq} \rVert ,

the nearest by position, or by features. Of each image the K pairs that are nearest to
each other are kept, in the order of p; slot k of all images is a batch of N paired
rows, and the loss is the mean over slots of the VICReg loss of each, halved with that
of the partners found for the places of *b*. The local term of the paper is this loss by
position plus this loss by features.

Where maps are registered and read at the same places, partners by position are known,
``positions`` need not be given, and either direction is the other.

Statistics of a slot are over images: with few of them they are noisy, and with K < P
they mix places. ``pooled=True`` takes all N·K pairs for one batch, whose statistics do
not depend on the order of places.

Numerics: partners are found without a gradient, which goes through the rows alone.
Cost: O(N P² D) to find partners by features, else O(N P²), or nothing; and VICReg of K
batches of N rows.

References: :cite:t:`bardes2022vicregl`, with the factors of its code, which has a ½
before the covariance.
"""

from typing import NamedTuple

import torch
from torch import Tensor, nn

from xmodal_losses._core import checks, moments, precision, ranks, reduce
from xmodal_losses._core.modules import describe
from xmodal_losses.redundancy import partners, vicreg

__all__ = ["VICRegLocalLoss", "vicreg_local"]


class _Options(NamedTuple):
    matching: partners.Matching
    num_matches: int | None
    pooled: bool
    weights: tuple[float, float, float]
    target_std: float
    eps: float


def vicreg_local(
    z_a: Tensor,
    z_b: Tensor,
    *,
    positions_a: Tensor | None = None,
    positions_b: Tensor | None = None,
    matching: partners.Matching = "positions",
    num_matches: int | None = None,
    pooled: bool = False,
    invariance_weight: float = 25.0,
    variance_weight: float = 25.0,
    covariance_weight: float = 1.0,
    target_std: float = 1.0,
    eps: float = 1e-4,
    weight_a: Tensor | None = None,
    weight_b: Tensor | None = None,
    reduction: reduce.Reduction = "mean",
    group: ranks.Group | None = None,
    grad_reduce: ranks.GradReduce = "mean",
) -> Tensor:
    """Return the VICReg loss of places and their nearest ones in the other modality.

    Rows are those of a map, ``map.flatten(2).mT``, or of chosen places, as
    :func:`~xmodal_losses.dense.paired_rows` returns them.

    Args:
        z_a: Rows of modality *a*, ``(…, N, P, D)``: N ≥ 2 images of P places; leading
            dimensions are independent problems.
        z_b: Rows of modality *b*, ``(…, N, Q, D)``.
        positions_a: Where the rows of *a* are, ``(…, N, P, C)``, in coordinates that
            both modalities share. With partners by position only. None: row p of both
            is one place, and P = Q.
        positions_b: The same for *b*, ``(…, N, Q, C)``.
        matching: ``"positions"`` or ``"features"``: what tells the partner of a place.
        num_matches: K, how many pairs of an image and a direction count, no more than P
            and Q. None: all. Pairs of known partners are all equally near: None.
        pooled: False: statistics of each slot, over images. True: of all pairs at once;
            N may be 1 then.
        invariance_weight: λ ≥ 0 of VICReg.
        variance_weight: μ ≥ 0 of VICReg.
        covariance_weight: ν ≥ 0 of VICReg.
        target_std: γ ≥ 0 of VICReg.
        eps: ε ≥ 0 of VICReg.
        weight_a: Weights ≥ 0 of the places, ``(…, N, P)``; their scale does not matter.
            A place of weight 0 is as if it were not there, and is nobody's partner. A
            pair has the product of the weights of its places.
        weight_b: The same for *b*, ``(…, N, Q)``.
        reduction: ``"mean"``, ``"sum"`` or ``"none"`` over the leading dimensions.
        group: A process group whose ranks each have some of the images; the loss is
            that of the images joined. None: all are here.
        grad_reduce: ``"mean"`` if gradients are averaged over ranks, as by DDP;
            ``"sum"`` if they are added up.

    Returns:
        Scalar, or ``(…)`` for ``reduction="none"``; ≥ 0. The mean is over slots that
        have a pair of positive weight. In the dtype of the inputs, float32 at least.

    Raises:
        TypeError: If an input is not a floating-point tensor.
        ValueError: If shapes do not fit together, or an option is out of range or of no
            use with the others.

    Examples:
        >>> import torch, xmodal_losses.functional as F
        >>> rgb, ir = torch.randn(2, 8, 16, 6, 6, requires_grad=True)
        >>> rows = [z.flatten(2).mT for z in (rgb, ir)]
        >>> by_place = F.vicreg_local(*rows, pooled=True)
        >>> by_features = F.vicreg_local(*rows, matching="features", num_matches=20)
        >>> (by_place + by_features).backward()
    """
    caller = "vicreg_local"
    weights = invariance_weight, variance_weight, covariance_weight
    options = _Options(matching, num_matches, pooled, weights, target_std, eps)
    _check_options(caller, options)
    checks.option(caller, "reduction", reduction, reduce.REDUCTIONS)
    everyone = ranks.joined(caller, group, grad_reduce)
    a = partners.Side(z_a, positions_a, weight_a)
    b = partners.Side(z_b, positions_b, weight_b)
    least = 2 if everyone is None and not pooled else 0
    partners.check(caller, a, b, matching, num_matches, least)
    with precision.no_autocast(z_a):
        dtype = precision.compute_dtype(z_a, z_b)
        a, b = (partners.present(side, dtype) for side in (a, b))
        value, present = _direction(caller, a, b, options, everyone)
        if options.matching == "features" or positions_a is not None:
            back, _ = _direction(caller, b, a, options, everyone)
            value = (value + back) / 2
        return reduce.problems(value, present, reduction, everyone)


def _direction(
    caller: str,
    a: partners.Side,
    b: partners.Side,
    options: _Options,
    everyone: ranks.Ranks | None,
) -> tuple[Tensor, Tensor | None]:
    """Return the loss of the places of *a*, ``(…)``, and where there is any pair."""
    x, y, weight = partners.pairs(a, b, options.matching, options.num_matches)
    if everyone is not None and x.ndim == 3:
        x, y, weight = _of_all_ranks(caller, x, y, weight, everyone)
    if options.pooled:  # one slot of all pairs
        x, y = (z.flatten(-3, -2).unsqueeze(-3) for z in (x, y))
        weight = None if weight is None else weight.flatten(-2).unsqueeze(-2)
    else:
        x, y = x.transpose(-3, -2), y.transpose(-3, -2)
        weight = None if weight is None else weight.mT
    pair = moments.PairOfRows(x, y, weight, weight)
    slots = vicreg.loss_of(
        pair, options.weights, options.target_std, options.eps, "vicregl", "none"
    )
    present = pair.present
    if present is None:
        return slots.mean(-1), None
    return slots.sum(-1) * reduce.inverse(present.sum(-1).to(slots)), present.any(-1)


def _of_all_ranks(
    caller: str, x: Tensor, y: Tensor, weight: Tensor | None, everyone: ranks.Ranks
) -> tuple[Tensor, Tensor, Tensor | None]:
    """Return the pairs of all images. Weights get no gradient."""
    alike = {"the number of pairs must be the same": x.shape[1]}
    flat_x, flat_y = x.flatten(1), y.flatten(1)
    counts, _ = everyone.agree_on_batches(caller, flat_x, flat_y, weight, weight, alike)
    x, y = (everyone.rows(z, counts).view(-1, *x.shape[1:]) for z in (flat_x, flat_y))
    if weight is not None:
        weight = torch.cat(everyone.gather(weight, counts, 0))
    return x, y, weight


def _check_options(caller: str, options: _Options) -> None:
    invariance, variance, covariance = options.weights
    checks.option(caller, "matching", options.matching, partners.MATCHINGS)
    if options.num_matches is not None:
        checks.count(caller, "num_matches", options.num_matches)
    checks.flag(caller, "pooled", options.pooled)
    checks.number(caller, "invariance_weight", invariance, at_least=0.0)
    checks.number(caller, "variance_weight", variance, at_least=0.0)
    checks.number(caller, "covariance_weight", covariance, at_least=0.0)
    checks.number(caller, "target_std", options.target_std, at_least=0.0)
    checks.number(caller, "eps", options.eps, at_least=0.0)


class VICRegLocalLoss(nn.Module):
    """Module form of :func:`~xmodal_losses.functional.vicreg_local`.

    Args:
        matching: As in the function.
        num_matches: As in the function.
        pooled: As in the function.
        invariance_weight: As in the function.
        variance_weight: As in the function.
        covariance_weight: As in the function.
        target_std: As in the function.
        eps: As in the function.
        reduction: As in the function.
        gather: True: the default process group; or a process group, the ``group`` of
            the function. False: all images are here.
        grad_reduce: As in the function.

    State: none.

    Shape:
        - ``z_a``: ``(…, N, P, D)``; ``z_b``: ``(…, N, Q, D)``; ``positions_a``:
          ``(…, N, P, C)``; ``positions_b``: ``(…, N, Q, C)``; ``weight_a``:
          ``(…, N, P)``; ``weight_b``: ``(…, N, Q)``.
        - Output: scalar, or ``(…)`` for ``reduction="none"``.

    Examples:
        >>> import torch, xmodal_losses as xl
        >>> rgb, ir = torch.randn(2, 8, 36, 16, requires_grad=True)
        >>> xl.VICRegLocalLoss(matching="features", num_matches=20)(rgb, ir).backward()
    """

    def __init__(
        self,
        *,
        matching: partners.Matching = "positions",
        num_matches: int | None = None,
        pooled: bool = False,
        invariance_weight: float = 25.0,
        variance_weight: float = 25.0,
        covariance_weight: float = 1.0,
        target_std: float = 1.0,
        eps: float = 1e-4,
        reduction: reduce.Reduction = "mean",
        gather: bool | ranks.Group = False,
        grad_reduce: ranks.GradReduce = "mean",
    ) -> None:
        super().__init__()
        caller = "VICRegLocalLoss"
        weights = invariance_weight, variance_weight, covariance_weight
        options = _Options(matching, num_matches, pooled, weights, target_std, eps)
        _check_options(caller, options)
        checks.option(caller, "reduction", reduction, reduce.REDUCTIONS)
        ranks.check_module(caller, gather, grad_reduce)
        self.matching: partners.Matching = matching
        self.num_matches = num_matches
        self.pooled = pooled
        self.invariance_weight = invariance_weight
        self.variance_weight = variance_weight
        self.covariance_weight = covariance_weight
        self.target_std = target_std
        self.eps = eps
        self.reduction: reduce.Reduction = reduction
        self.gather = gather
        self.grad_reduce: ranks.GradReduce = grad_reduce

    def forward(
        self,
        z_a: Tensor,
        z_b: Tensor,
        *,
        positions_a: Tensor | None = None,
        positions_b: Tensor | None = None,
        weight_a: Tensor | None = None,
        weight_b: Tensor | None = None,
    ) -> Tensor:
        """Return the loss of the places of both modalities."""
        return vicreg_local(
            z_a,
            z_b,
            positions_a=positions_a,
            positions_b=positions_b,
            matching=self.matching,
            num_matches=self.num_matches,
            pooled=self.pooled,
            invariance_weight=self.invariance_weight,
            variance_weight=self.variance_weight,
            covariance_weight=self.covariance_weight,
            target_std=self.target_std,
            eps=self.eps,
            weight_a=weight_a,
            weight_b=weight_b,
            reduction=self.reduction,
            group=ranks.of_module("VICRegLocalLoss", self.gather),
            grad_reduce=self.grad_reduce,
        )

    def extra_repr(self) -> str:
        """Return the options."""
        return describe(
            self,
            "matching",
            "num_matches",
            "pooled",
            "invariance_weight",
            "variance_weight",
            "covariance_weight",
            "target_std",
            "eps",
            "reduction",
            "gather",
            "grad_reduce",
        )
