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
- ``"block"``: the mean of ``"paired"`` over blocks of B consecutive rows; O(N B D).
- ``"linear"``: over disjoint pairs of consecutive rows, blocks of B = 2; O(N D), with a
  large variance.

Numerics: points are measured from the pooled mean, so that distances keep their digits
far from the origin; means of Gaussians, which nearly cancel, are summed in float64.
Cost: O((N + M)² D) time, O((N + M) D) memory and a tile of the pairs; O((N + M) D) for
kernels that are inner products of features, whatever the estimator.

References: :cite:t:`gretton2012kernel`, Lemma 6 (unbiased: Eq. 3, paired: Eq. 4,
biased: Eq. 5) and Lemma 14 (linear); :cite:t:`zaremba2013b` (block); several kernels:
:cite:t:`long2015learning`.
"""

import math
from typing import Literal, TypeAlias

import torch
from torch import Tensor, nn

from xmodal_losses._core import checks, moments, pairs, precision, ranks, reduce
from xmodal_losses._core.modules import describe
from xmodal_losses.distribution.base_kernel import Kernel, check_kernel
from xmodal_losses.distribution.gaussian_family import gaussian_family
from xmodal_losses.distribution.multi_kernel import DEFAULT

__all__ = ["MMDLoss", "mmd"]

Estimator: TypeAlias = Literal["biased", "unbiased", "paired", "block", "linear"]
ESTIMATORS = ("biased", "unbiased", "paired", "block", "linear")
BLOCKS = ("block", "linear")


def mmd(
    z_a: Tensor,
    z_b: Tensor,
    *,
    kernel: Kernel | None = None,
    estimator: Estimator = "biased",
    block_size: int | None = None,
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
        estimator: ``"biased"``, ``"unbiased"`` (N, M ≥ 2), ``"paired"``, ``"block"`` or
            ``"linear"`` (all N = M ≥ 2; the rows of a last block that is not full, or
            the last row of an odd N, do not count).
        block_size: B, from 2 to N, for ``"block"``; None is ⌊√N⌋, as in the paper, and
            2 at least.
        weight_a: Weights ≥ 0 of the rows of ``z_a``, ``(…, N)``; their scale does not
            matter. A row of weight 0 is as if it were not there. For ``"paired"`` the
            weight of a pair is the product; ``"block"`` and ``"linear"`` take none.
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
    check_kernel("mmd", kernel, optional=True)
    _check_block_size("mmd", estimator, block_size)
    if chunk_size is not None:
        checks.count("mmd", "chunk_size", chunk_size)
    everyone = ranks.joined("mmd", group, grad_reduce, exchange, pairs.EXCHANGES)
    least = 1 if estimator == "biased" else 2
    checks.embeddings(
        "mmd",
        z_a,
        z_b,
        paired=estimator in ("paired", *BLOCKS),
        min_rows=least if everyone is None else 0,
    )
    checks.row_weight("mmd", "weight_a", weight_a, z_a)
    checks.row_weight("mmd", "weight_b", weight_b, z_b)
    if estimator in BLOCKS and (weight_a is not None or weight_b is not None):
        raise ValueError(
            f"mmd: weight_a and weight_b must be None for estimator={estimator!r}, got "
            "a tensor. Use 'paired'."
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
        kernel = DEFAULT if kernel is None else kernel
        constant = not any(w is not None and w.requires_grad for w in (w_x, w_y))
        family = gaussian_family(kernel) if constant else None
        x, y = moments.drop(x, w_x), moments.drop(y, w_y)
        x, y, bind = kernel.lift(x, y)
        blocks = None
        if estimator in BLOCKS:
            if walks is not None and everyone is not None:
                # Rows of a block may be on two ranks.
                x, y = (everyone.rows(z, walks[0].counts) for z in (x, y))
                walks = None
            blocks = _blocks(x.shape[-2], 2 if estimator == "linear" else block_size)
            # One leading dimension more, which blocks are put along.
            x, y = (z[..., None, : math.prod(blocks), :] for z in (x, y))
        x, y = moments.drop(x, w_x), moments.drop(y, w_y)
        weighted = w_x is not None or w_y is not None
        pool = _pool(x, y, w_x, w_y, walks)
        if kernel.shift == "invariant" or (
            kernel.shift == "balanced" and not (weighted and estimator == "unbiased")
        ):
            mean = pool.mean()
            x, y = moments.drop(x - mean, w_x), moments.drop(y - mean, w_y)

        k: pairs.Kernel | pairs.Mixture
        if family is None:
            k = bind(pool)
        else:
            k, sigma = family.bind(pool)
            x, y = x / sigma, y / sigma
        del pool  # as large as both batches
        if blocks is not None:
            x, y = (z.reshape(*z.shape[:-3], *blocks, -1) for z in (x, y))
        inside, across = estimator != "biased", estimator in ("paired", *BLOCKS)
        which = {"inside": inside, "across": across}
        # Asked first of the kernel, since torch.compile of 2.4 asks no function what
        # it is.
        if kernel.of_features and isinstance(k, pairs.Features):
            some = None if walks is None else everyone
            value = pairs.feature_discrepancy(k, x, y, w_x, w_y, **which, ranks=some)
        elif walks is None:
            value = pairs.discrepancy(k, x, y, w_x, w_y, **which, chunk_size=chunk_size)
        else:
            value = pairs.discrepancy_across_ranks(
                k,
                pairs.Batch(x, w_x),
                pairs.Batch(y, w_y),
                **which,
                chunk_size=chunk_size,
                walks=walks,
            )
        if blocks is not None:
            value = value.mean(-1)
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


def _blocks(rows: int, size: int | None) -> tuple[int, int]:
    """Return how many blocks of consecutive rows there are, and of how many rows."""
    if size is None:
        size = max(2, math.isqrt(rows))
    if size > rows:
        raise ValueError(
            f"mmd: block_size must be at most the number of rows, {rows}, got {size}."
        )
    return rows // size, size


def _check_block_size(caller: str, estimator: str, block_size: object) -> None:
    if block_size is None:
        return
    if estimator != "block":
        raise ValueError(
            f"{caller}: block_size must be None for estimator={estimator!r}, got "
            f"{block_size!r}. Use 'block'."
        )
    checks.count(caller, "block_size", block_size)
    if block_size == 1:
        raise ValueError(f"{caller}: block_size must be >= 2, got 1.")


class MMDLoss(nn.Module):
    """Module form of :func:`~xmodal_losses.functional.mmd`.

    Args:
        kernel: As in the function.
        estimator: As in the function.
        block_size: As in the function.
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
        block_size: int | None = None,
        reduction: reduce.Reduction = "mean",
        chunk_size: int | None = None,
        gather: bool | ranks.Group = False,
        grad_reduce: ranks.GradReduce = "mean",
        exchange: pairs.Exchange | None = None,
    ) -> None:
        super().__init__()
        check_kernel("MMDLoss", kernel, optional=True)
        if chunk_size is not None:
            checks.count("MMDLoss", "chunk_size", chunk_size)
        checks.option("MMDLoss", "estimator", estimator, ESTIMATORS)
        checks.option("MMDLoss", "reduction", reduction, reduce.REDUCTIONS)
        _check_block_size("MMDLoss", estimator, block_size)
        self.kernel = kernel
        self.estimator: Estimator = estimator
        self.block_size = block_size
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
            block_size=self.block_size,
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
            "block_size",
            "reduction",
            "chunk_size",
            "gather",
            "grad_reduce",
            "exchange",
        )
        return shown if self.kernel is not None else f"kernel=None, {shown}"
