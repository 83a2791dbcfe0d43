r"""Noise regularisation of CCA: encoders should treat noise as they treat data.

Of data :math:`X`, noise :math:`A` of its shape and an encoder :math:`f`, the loss is

.. math::
    \zeta = \bigl| \operatorname{Corr}(f(X), f(A)) - \operatorname{Corr}(X, A) \bigr|

with :math:`\operatorname{Corr} = \sum \rho` of the canonical correlations of
:func:`~xmodal_losses.functional.dcca`. An invertible linear f has ζ = 0, at ridge 0.
One that has lost directions has not: what is left has fewer correlations.

Correlations with noise are chance, and large: independent rows have
:math:`\operatorname{E} \sum \rho^2 = D_x D_a / (N - 1)`. It depends on the widths, so
that an encoder that changes them is asked for what it cannot do. ``chance_corrected``
compares :math:`\sum \rho^2 (N - 1) / (D_x D_a)` instead, which is 1 on average at any
widths, at ridge 0; and 1 is what encoded noise is compared with where X and A are not
given, as of images with more pixels than the batch has rows.

Tensors come in, no encoder: whether noise passes through its batch normalisation in
``eval`` mode, and from which generator it is drawn, is the caller's business.

Numerics and cost: those of :func:`~xmodal_losses.functional.dcca`, twice.

References: :cite:t:`he2024preventing`, for a view; the chance correction is ours.
"""

import torch
from torch import Tensor, nn

from xmodal_losses._core import canonical, checks, moments, precision, ranks, reduce
from xmodal_losses._core.modules import describe
from xmodal_losses.correlation.dcca import MOMENTS, Objective, check_options, losses

__all__ = ["NoiseRegularizationLoss", "noise_regularization"]


def noise_regularization(
    z: Tensor,
    z_noise: Tensor,
    x: Tensor | None = None,
    noise: Tensor | None = None,
    *,
    chance_corrected: bool = False,
    ridge: float = 1e-4,
    ridge_scale: canonical.RidgeScale = "absolute",
    compute_dtype: torch.dtype = torch.float64,
    weight: Tensor | None = None,
    reduction: reduce.Reduction = "mean",
    group: ranks.Group | None = None,
    grad_reduce: ranks.GradReduce = "mean",
    exchange: moments.Exchange | None = None,
) -> Tensor:
    """Return how far the correlation of encoded data and noise is from that before.

    Args:
        z: Encoded data f(X), ``(…, N, D)``, N ≥ 2; leading dimensions are independent
            problems.
        z_noise: Encoded noise f(A), ``(…, N, D)``.
        x: What was encoded, X, ``(…, N, D_x)``; gets no gradient.
        noise: The noise that was encoded, A, ``(…, N, D_x)``; gets no gradient.
        chance_corrected: Compare Σρ²(N − 1)/(D D) and Σρ²(N − 1)/(D_x D_x), or, without
            ``x`` and ``noise``, the former and 1. False: compare Σρ, and both are
            needed.
        ridge: r ≥ 0, as of the loss of the data.
        ridge_scale: ``"absolute"``: r is added to the variances. ``"relative"``: r
            times the mean variance, of encoded rows and of others for themselves.
        compute_dtype: ``torch.float64`` or ``torch.float32``, for covariances and
            decompositions.
        weight: Weights ≥ 0 of the rows, ``(…, N)``; their scale does not matter. A row
            of weight 0 is as if it were not there. N is then (Σw)²/Σw².
        reduction: ``"mean"``, ``"sum"`` or ``"none"`` over the leading dimensions.
        group: A process group whose ranks each have a part of the batch; the loss is
            that of the parts joined along the first dimension. None: the batch is here.
        grad_reduce: ``"mean"`` if gradients are averaged over ranks, as by DDP;
            ``"sum"`` if they are added up.
        exchange: What goes between ranks: ``"statistics"``, sums of O(D²) moments, or
            ``"gather"``, the rows. None chooses by size.

    Returns:
        Scalar, or ``(…)`` for ``reduction="none"``, at least 0. In the dtype of ``z``
        and ``z_noise``, float32 at least.

    Raises:
        TypeError: If an input is not a floating-point tensor.
        ValueError: If shapes do not fit together, an option is out of range, or ``x``
            and ``noise`` are missing.
        RuntimeError: On a second derivative, unless ``chance_corrected``.

    Note:
        Where both correlations are equal, the gradient is 0.

    Examples:
        >>> import torch, xmodal_losses.functional as F
        >>> x, noise = torch.randn(2, 64, 3, dtype=torch.float64)
        >>> f = torch.tensor([[1., 2., 0.], [0., 1., 0.], [1., 0., 3.]]).double()
        >>> value = F.noise_regularization(x @ f, noise @ f, x, noise, ridge=0.0)
        >>> value.round(decimals=6)
        tensor(0., dtype=torch.float64)
    """
    caller = "noise_regularization"
    _check_options(
        caller, chance_corrected, ridge, ridge_scale, compute_dtype, reduction
    )
    everyone = ranks.joined(caller, group, grad_reduce, exchange, moments.EXCHANGES)
    pairs = [("z", z, "z_noise", z_noise)]
    if x is not None and noise is not None:
        pairs.append(("x", x, "noise", noise))
    elif x is not None or noise is not None or not chance_corrected:
        got = " and ".join("None" if t is None else "a tensor" for t in (x, noise))
        raise ValueError(
            f"{caller}: x and noise must be given both, got {got}. Only with "
            "chance_corrected=True both may be left out."
        )
    least = 2 if everyone is None else 0
    for first, real, second, other in pairs:
        _check_pair(caller, first, real, second, other, z, least)
    checks.row_weight(caller, "weight", weight, z)
    dtype = precision.compute_dtype(z, z_noise)

    found, present = [], None
    for _, real, _, other in pairs:
        both = precision.compute_dtype(real, other)
        both = torch.float32 if compute_dtype == torch.float32 else both
        pair = moments.pair_of(
            caller,
            MOMENTS,
            (real if real is z else real.detach()).to(both),
            (other if real is z else other.detach()).to(both),
            weight,
            weight,
            ranks=everyone,
            exchange=exchange,
            wide=compute_dtype,
        )
        present = pair.present
        with precision.no_autocast(real):
            objective: Objective = "frobenius" if chance_corrected else "trace"
            total = -losses(caller, pair, None, ridge, ridge_scale, objective)
            if chance_corrected:
                rows = _rows(z, weight, everyone).to(total)
                total = total * (rows - 1) / (real.shape[-1] * other.shape[-1])
            found.append(total)
    target = found[1] if len(found) > 1 else torch.ones_like(found[0])
    loss = (found[0] - target).abs().to(dtype)
    return reduce.problems(loss, present, reduction, everyone)


def _rows(z: Tensor, weight: Tensor | None, everyone: ranks.Ranks | None) -> Tensor:
    """Return how many rows there are, or how many those of unequal weights count as."""
    if weight is None:
        sums = [z.new_full((), z.shape[-2], dtype=torch.float64)] * 2
    else:
        w = weight.detach().double()
        sums = [w.sum(-1), w.square().sum(-1)]
    if everyone is not None and z.ndim == 2:
        sums = everyone.sums(sums)
    return sums[0].square() * reduce.inverse(sums[1])


def _check_pair(
    caller: str,
    first: str,
    real: Tensor,
    second: str,
    other: Tensor,
    z: Tensor,
    least: int,
) -> None:
    checks.rows(caller, first, real, least)
    checks.rows(caller, second, other, least)
    if real.shape != other.shape or real.shape[:-1] != z.shape[:-1]:
        raise ValueError(
            f"{caller}: {first} and {second} must have one shape, and the rows of z, "
            f"got {tuple(real.shape)}, {tuple(other.shape)} and {tuple(z.shape)}."
        )
    if not real.device == other.device == z.device:
        raise ValueError(
            f"{caller}: {first} and {second} must be on the device of z, {z.device}, "
            f"got {real.device} and {other.device}."
        )


def _check_options(
    caller: str,
    chance_corrected: object,
    ridge: object,
    ridge_scale: object,
    compute_dtype: object,
    reduction: object,
) -> None:
    checks.flag(caller, "chance_corrected", chance_corrected)
    check_options(caller, None, ridge, ridge_scale, "trace", compute_dtype, reduction)


class NoiseRegularizationLoss(nn.Module):
    """Module form of :func:`~xmodal_losses.functional.noise_regularization`.

    Args:
        chance_corrected: As in the function.
        ridge: As in the function.
        ridge_scale: As in the function.
        compute_dtype: As in the function.
        reduction: As in the function.
        gather: True: the default process group; or a process group, the ``group`` of
            the function. False: the batch is here.
        grad_reduce: As in the function.
        exchange: As in the function.

    State: none. The noise is drawn by the caller.

    Shape:
        - ``z``, ``z_noise``: ``(…, N, D)``; ``x``, ``noise``: ``(…, N, D_x)``;
          ``weight``: ``(…, N)``.
        - Output: scalar, or ``(…)`` for ``reduction="none"``.

    Examples:
        >>> import torch, xmodal_losses as xl
        >>> encode = torch.nn.Sequential(torch.nn.Linear(8, 16), torch.nn.Tanh())
        >>> x = torch.randn(256, 8)
        >>> noise = torch.randn_like(x)
        >>> criterion = xl.NoiseRegularizationLoss(chance_corrected=True)
        >>> criterion(encode(x), encode(noise), x, noise).backward()
    """

    def __init__(
        self,
        *,
        chance_corrected: bool = False,
        ridge: float = 1e-4,
        ridge_scale: canonical.RidgeScale = "absolute",
        compute_dtype: torch.dtype = torch.float64,
        reduction: reduce.Reduction = "mean",
        gather: bool | ranks.Group = False,
        grad_reduce: ranks.GradReduce = "mean",
        exchange: moments.Exchange | None = None,
    ) -> None:
        super().__init__()
        caller = "NoiseRegularizationLoss"
        _check_options(
            caller, chance_corrected, ridge, ridge_scale, compute_dtype, reduction
        )
        ranks.check_module(caller, gather, grad_reduce, exchange, moments.EXCHANGES)
        self.chance_corrected = chance_corrected
        self.ridge = ridge
        self.ridge_scale: canonical.RidgeScale = ridge_scale
        self.compute_dtype = compute_dtype
        self.reduction: reduce.Reduction = reduction
        self.gather = gather
        self.grad_reduce: ranks.GradReduce = grad_reduce
        self.exchange: moments.Exchange | None = exchange

    def forward(
        self,
        z: Tensor,
        z_noise: Tensor,
        x: Tensor | None = None,
        noise: Tensor | None = None,
        *,
        weight: Tensor | None = None,
    ) -> Tensor:
        """Return the loss of the encoded data and noise."""
        return noise_regularization(
            z,
            z_noise,
            x,
            noise,
            chance_corrected=self.chance_corrected,
            ridge=self.ridge,
            ridge_scale=self.ridge_scale,
            compute_dtype=self.compute_dtype,
            weight=weight,
            reduction=self.reduction,
            group=ranks.of_module("NoiseRegularizationLoss", self.gather),
            grad_reduce=self.grad_reduce,
            exchange=self.exchange,
        )

    def extra_repr(self) -> str:
        """Return the options."""
        return describe(
            self,
            "chance_corrected",
            "ridge",
            "ridge_scale",
            "compute_dtype",
            "reduction",
            "gather",
            "grad_reduce",
            "exchange",
        )
