r"""MMD: the distance of two distributions, as seen by a kernel.

The squared maximum mean discrepancy of the laws of :math:`x` and :math:`y` is

.. math::
    \mathrm{MMD}^2 = \mathbb{E}\, k(x, x') + \mathbb{E}\, k(y, y')
                     - 2\, \mathbb{E}\, k(x, y) .

Estimators of it, which is what ``estimator`` chooses:

- ``"biased"``: all pairs, the V-statistic; ≥ 0, and 0 for equal batches.
- ``"unbiased"``: without the pairs (i, i) inside a batch, the U-statistic; right on
  average for independent batches, and negative at times.
- ``"paired"``: moreover without the pairs (a_i, b_i). Rows of paired modalities come
  from one scene, and the U-statistic is biased for those; this one is not.
- ``"linear"``: over disjoint pairs of consecutive rows; O(N D), with a large variance.

Numerics: points are measured from the pooled mean, so that distances keep their digits
far from the origin; means of Gaussians, which nearly cancel, are summed in float64.
Cost: O((N + M)² D) time, O((N + M) D) memory and a tile of the pairs.

References: :cite:t:`gretton2012kernel`, Lemma 6 (unbiased: Eq. 3, paired: Eq. 4,
biased: Eq. 5) and Lemma 14 (linear); several kernels: :cite:t:`long2015learning`.
"""

from typing import Literal, TypeAlias

import torch
from torch import Tensor, nn

from xmodal_losses._core import checks, moments, pairs, precision, ranks, reduce
from xmodal_losses._core.modules import describe
from xmodal_losses.distribution.gaussian_family import gaussian_family
from xmodal_losses.distribution.kernels import GaussianKernel, Kernel, MultiKernel

__all__ = ["MMDLoss", "mmd"]

Estimator: TypeAlias = Literal["biased", "unbiased", "paired", "linear"]
ESTIMATORS = ("biased", "unbiased", "paired", "linear")

# σ² = σ₀²·{¼, ½, 1, 2, 4}
_DEFAULT = MultiKernel([GaussianKernel(factor=2 ** (k / 2)) for k in range(-2, 3)])


def mmd(
    z_a: Tensor,
    z_b: Tensor,
    *,
    kernel: Kernel | None = None,
    estimator: Estimator = "biased",
    weight_a: Tensor | None = None,
    weight_b: Tensor | None = None,
    reduction: reduce.Reduction = "mean",
    chunk_size: int | None = None,
    group: ranks.Group | None = None,
    grad_reduce: ranks.GradReduce = "mean",
    exchange: pairs.Exchange | None = None,
) -> Tensor:
    """Return the squared maximum mean discrepancy of two batches.

    Args:
        z_a: Embeddings of modality *a*, shape ``(…, N, D)``; leading dimensions are
            independent problems.
        z_b: Embeddings of modality *b*, shape ``(…, M, D)``.
        kernel: A kernel of :mod:`xmodal_losses.kernels`. None is the mean of five
            Gaussians with σ² = σ₀²·{¼, ½, 1, 2, 4}, where σ₀² is half the mean squared
            distance of the pooled sample, without gradient.
        estimator: ``"biased"``, ``"unbiased"`` (N, M ≥ 2), ``"paired"`` or
            ``"linear"`` (both N = M ≥ 2; linear ignores the last row of an odd N).
        weight_a: Weights ≥ 0 of the rows of ``z_a``, ``(…, N)``; their scale does not
            matter. A row of weight 0 is as if it were not there. For ``"paired"`` the
            weight of a pair is the product; ``"linear"`` takes none.
        weight_b: The same for ``z_b``, ``(…, M)``.
        reduction: ``"mean"``, ``"sum"`` or ``"none"`` over the leading dimensions.
        chunk_size: Edge of the largest tile of the pairs to hold at a time; the result
            is the same. None chooses by size and device.
        group: A process group whose ranks each have a part of the batch; the loss is
            that of the parts joined along the first dimension. None: the batch is here.
        grad_reduce: ``"mean"`` if gradients are averaged over ranks, as by DDP;
            ``"sum"`` if they are added up.
        exchange: How rows come from other ranks: ``"gather"``, all at once, or
            ``"ring"``, one rank's after the other's. None chooses by size.

    Returns:
        Scalar, or ``(…)`` for ``reduction="none"``; ≥ 0 if biased, of either sign if
        not. In the dtype of the inputs, float32 at least.

    Raises:
        TypeError: If an input is not a floating-point tensor, or the kernel no kernel.
        ValueError: If shapes do not fit together or an option is out of range.

    Examples:
        >>> import torch, xmodal_losses as xl, xmodal_losses.functional as F
        >>> a, b = torch.zeros(4, 2), torch.ones(4, 2)
        >>> F.mmd(a, b, kernel=xl.LinearKernel())
        tensor(2.)
        >>> F.mmd(a, a)
        tensor(0.)
    """
    checks.option("mmd", "estimator", estimator, ESTIMATORS)
    checks.option("mmd", "reduction", reduction, reduce.REDUCTIONS)
    _check_kernel("mmd", kernel)
    if chunk_size is not None:
        checks.count("mmd", "chunk_size", chunk_size)
    everyone = ranks.joined("mmd", group, grad_reduce, exchange, pairs.EXCHANGES)
    least = 1 if estimator == "biased" else 2
    checks.embeddings(
        "mmd",
        z_a,
        z_b,
        paired=estimator in ("paired", "linear"),
        min_rows=least if everyone is None else 0,
    )
    checks.row_weight("mmd", "weight_a", weight_a, z_a)
    checks.row_weight("mmd", "weight_b", weight_b, z_b)
    if estimator == "linear" and (weight_a is not None or weight_b is not None):
        raise ValueError(
            "mmd: weight_a and weight_b must be None for estimator='linear', got a "
            "tensor. Use 'paired'."
        )

    dtype = precision.compute_dtype(z_a, z_b)
    with precision.no_autocast(z_a):
        x, y = z_a.to(dtype), z_b.to(dtype)
        w_x = None if weight_a is None else weight_a.to(dtype)
        w_y = None if weight_b is None else weight_b.to(dtype)
        if estimator == "paired":
            w_x = w_y = _product(w_x, w_y)
        walks = None
        if everyone is not None and x.ndim == 2:
            walks = pairs.meet_both("mmd", everyone, exchange, x, y, w_x, w_y)
            w_x = None if w_x is None else w_x.detach()
            w_y = None if w_y is None else w_y.detach()
            if estimator == "linear":  # pairs of rows, which may be on two ranks
                x, y = (everyone.rows(z, walks[0].counts) for z in (x, y))
                walks = None
        if estimator == "linear":
            even = x.shape[-2] // 2 * 2
            # One leading dimension more, for the pairs of rows of `_linear`.
            x, y = x[..., None, :even, :], y[..., None, :even, :]

        kernel = _DEFAULT if kernel is None else kernel
        constant = not any(w is not None and w.requires_grad for w in (w_x, w_y))
        family = gaussian_family(kernel) if constant else None
        x, y = moments.drop(x, w_x), moments.drop(y, w_y)
        weighted = w_x is not None or w_y is not None
        pool = _pool(x, y, w_x, w_y, walks)
        if kernel.shift == "invariant" or (
            kernel.shift == "balanced" and not (weighted and estimator == "unbiased")
        ):
            mean = pool.mean()
            x, y = moments.drop(x - mean, w_x), moments.drop(y - mean, w_y)

        if estimator == "linear":
            value = _linear(kernel.bind(pool), x, y)
        else:
            k: pairs.Kernel | pairs.Mixture
            if family is None:
                k = kernel.bind(pool)
            else:
                k, sigma = family.bind(pool)
                x, y = x / sigma, y / sigma
            del pool  # as large as both batches
            inside, across = estimator != "biased", estimator == "paired"
            if walks is None:
                value = pairs.discrepancy(
                    k,
                    x,
                    y,
                    w_x,
                    w_y,
                    inside=inside,
                    across=across,
                    chunk_size=chunk_size,
                )
            else:
                value = pairs.discrepancy_across_ranks(
                    k,
                    pairs.Batch(x, w_x),
                    pairs.Batch(y, w_y),
                    inside=inside,
                    across=across,
                    chunk_size=chunk_size,
                    walks=walks,
                )
        # Without weight anywhere, the mean over pairs on all ranks is 0 already.
        present = reduce.present(w_x, w_y) if walks is None else None
        return reduce.problems(value, present, reduction, everyone)


def _product(u: Tensor | None, v: Tensor | None) -> Tensor | None:
    if u is None or v is None:
        return v if u is None else u
    return u * v


def _pool(
    x: Tensor,
    y: Tensor,
    w_x: Tensor | None,
    w_y: Tensor | None,
    walks: tuple[pairs.Walk, pairs.Walk] | None,
) -> pairs.Pool:
    """Return the pooled sample; a batch without weights, beside one with, has 1."""
    if w_x is not None or w_y is not None:
        w_x = x.new_ones(x.shape[:-1]) if w_x is None else w_x
        w_y = y.new_ones(y.shape[:-1]) if w_y is None else w_y
    if walks is not None:
        counts = [walk.counts for walk in walks]
        return pairs.PoolAcrossRanks(x, y, w_x, w_y, walks[0].ranks, counts)
    weight = None if w_x is None or w_y is None else torch.cat((w_x, w_y), -1)
    return pairs.Pool(torch.cat((x, y), -2), weight)


def _linear(k: pairs.Kernel, x: Tensor, y: Tensor) -> Tensor:
    """Mean of k(x, x') + k(y, y') − k(x, y') − k(x', y) over consecutive rows."""
    # N/2 problems of one row each: (…, 1, N, D) → (…, N/2, 1, D).
    x, x_next = x[..., 0, 0::2, None, :], x[..., 0, 1::2, None, :]
    y, y_next = y[..., 0, 0::2, None, :], y[..., 0, 1::2, None, :]

    def one_each(u: Tensor, v: Tensor) -> Tensor:
        return k(pairs.Pairs(u, v)).squeeze((-2, -1))

    h = (
        one_each(x, x_next)
        + one_each(y, y_next)
        - one_each(x, y_next)
        - one_each(x_next, y)
    )
    return h.mean(-1)


def _check_kernel(caller: str, kernel: object) -> None:
    if kernel is not None and not isinstance(kernel, Kernel):
        raise TypeError(
            f"{caller}: kernel must be a Kernel or None, got {type(kernel).__name__}. "
            "See xmodal_losses.kernels."
        )


class MMDLoss(nn.Module):
    """Module form of :func:`~xmodal_losses.functional.mmd`.

    Args:
        kernel: As in the function.
        estimator: As in the function.
        reduction: As in the function.
        chunk_size: As in the function.
        gather: True: the default process group; or a process group, the ``group`` of
            the function. False: the batch is here.
        grad_reduce: As in the function.
        exchange: As in the function.

    State: that of the kernel.

    Shape:
        - ``z_a``: ``(…, N, D)``; ``z_b``: ``(…, M, D)``; ``weight_a``: ``(…, N)``;
          ``weight_b``: ``(…, M)``.
        - Output: scalar, or ``(…)`` for ``reduction="none"``.

    Examples:
        >>> import torch, xmodal_losses as xl
        >>> rgb, ir = torch.randn(2, 256, 128, requires_grad=True)
        >>> xl.MMDLoss(estimator="paired")(rgb, ir).backward()
    """

    def __init__(
        self,
        *,
        kernel: Kernel | None = None,
        estimator: Estimator = "biased",
        reduction: reduce.Reduction = "mean",
        chunk_size: int | None = None,
        gather: bool | ranks.Group = False,
        grad_reduce: ranks.GradReduce = "mean",
        exchange: pairs.Exchange | None = None,
    ) -> None:
        super().__init__()
        _check_kernel("MMDLoss", kernel)
        if chunk_size is not None:
            checks.count("MMDLoss", "chunk_size", chunk_size)
        checks.option("MMDLoss", "estimator", estimator, ESTIMATORS)
        checks.option("MMDLoss", "reduction", reduction, reduce.REDUCTIONS)
        self.kernel = kernel
        self.estimator: Estimator = estimator
        self.reduction: reduce.Reduction = reduction
        self.chunk_size = chunk_size
        ranks.check_module("MMDLoss", gather, grad_reduce, exchange, pairs.EXCHANGES)
        self.gather = gather
        self.grad_reduce: ranks.GradReduce = grad_reduce
        self.exchange: pairs.Exchange | None = exchange

    def forward(
        self,
        z_a: Tensor,
        z_b: Tensor,
        *,
        weight_a: Tensor | None = None,
        weight_b: Tensor | None = None,
    ) -> Tensor:
        """Return the squared MMD of the two batches."""
        return mmd(
            z_a,
            z_b,
            kernel=self.kernel,
            estimator=self.estimator,
            weight_a=weight_a,
            weight_b=weight_b,
            reduction=self.reduction,
            chunk_size=self.chunk_size,
            group=ranks.of_module("MMDLoss", self.gather),
            grad_reduce=self.grad_reduce,
            exchange=self.exchange,
        )

    def extra_repr(self) -> str:
        """Return the options."""
        shown = describe(
            self,
            "estimator",
            "reduction",
            "chunk_size",
            "gather",
            "grad_reduce",
            "exchange",
        )
        return shown if self.kernel is not None else f"kernel=None, {shown}"
