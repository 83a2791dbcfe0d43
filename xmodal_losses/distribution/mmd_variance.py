r"""The variance of an estimate of the MMD.

For the two-sample U-statistic (``estimator="unbiased"`` of the MMD) of independent
rows, and for the one-sample one (``"paired"``), whose kernel is
:math:`H_{ij} = k(x_i, x_j) + k(y_i, y_j) - k(x_i, y_j) - k(x_j, y_i)`, in two forms:

- ``"exact"``: right on average, for every number of rows from 4 on:
  :math:`\widehat{\mathrm{MMD}}{}^4` minus the estimate of :math:`\mathrm{MMD}^4` from
  sums over different rows, which is a U-statistic, too. Negative at times.
- ``"first_order"``: the leading term in 1/N, with means for expectations; ≥ 0. For
  ``"paired"`` it is :math:`4/N` times the variance of the row means of :math:`H`, 1/N
  times Eq. 5 of :cite:t:`liu2020learning`. That equation has a difference of large sums
  instead, which in float32 comes out negative where the batches are far apart.

References: moments of U-statistics: :cite:t:`hoeffding1948class`; the exact form, for
equal numbers of rows: :cite:t:`sutherland2019unbiased`.
"""

from typing import Literal, TypeAlias

import torch
from torch import Tensor

from xmodal_losses._core import checks, precision
from xmodal_losses.distribution.base_kernel import Kernel, check_kernel
from xmodal_losses.distribution.gram import Gram, gram
from xmodal_losses.distribution.multi_kernel import DEFAULT

__all__ = ["mmd_variance"]

Statistic: TypeAlias = Literal["unbiased", "paired"]
STATISTICS = ("unbiased", "paired")
Form: TypeAlias = Literal["exact", "first_order"]


def mmd_variance(
    z_a: Tensor,
    z_b: Tensor,
    *,
    kernel: Kernel | None = None,
    estimator: Statistic = "unbiased",
    form: Form = "exact",
) -> Tensor:
    """Return an estimate of the variance of an estimate of the squared MMD.

    Args:
        z_a: Embeddings of modality *a*, shape ``(…, N, D)``; leading dimensions are
            independent problems.
        z_b: Embeddings of modality *b*, shape ``(…, M, D)``.
        kernel: As in :func:`~xmodal_losses.functional.mmd`. Of a bandwidth by rule the
            variance is that of a constant.
        estimator: Whose variance: ``"unbiased"`` or ``"paired"`` (N = M).
        form: ``"exact"`` (N, M ≥ 4), unbiased; ``"first_order"`` (N, M ≥ 2), ≥ 0.

    Returns:
        Shape ``(…)``, in the dtype of the inputs, float32 at least. It holds all pairs,
        O((N + M)²) memory, and is differentiable.

    Raises:
        TypeError: If an input is not a floating-point tensor, or the kernel no kernel.
        ValueError: If shapes do not fit together or an option is out of range.

    Examples:
        >>> import torch, xmodal_losses.functional as F
        >>> a, b = torch.randn(2, 50, 3)
        >>> value = F.mmd(a, b, estimator="unbiased")
        >>> standard_error = F.mmd_variance(a, b).clamp_min(0).sqrt()
    """
    checks.option("mmd_variance", "estimator", estimator, STATISTICS)
    checks.option("mmd_variance", "form", form, ("exact", "first_order"))
    check_kernel("mmd_variance", kernel, optional=True)
    checks.embeddings(
        "mmd_variance",
        z_a,
        z_b,
        paired=estimator == "paired",
        min_rows=4 if form == "exact" else 2,
    )
    matrices = gram(DEFAULT if kernel is None else kernel, z_a, z_b)
    if form == "first_order":
        out = first_order(matrices, estimator)
    elif estimator == "paired":
        h = _without_diagonal(_wide(_one_sample(matrices)))
        out = (_sum(h) / _falling(h.shape[-1], 2)).square() - _square_of_mean(h)
    else:
        out = _two_sample(matrices)
    return out.to(matrices.xy.dtype)


def estimate(matrices: Gram, estimator: Statistic) -> Tensor:
    """Return the estimate of the squared MMD, ``(…)``, in the widest dtype."""
    if estimator == "paired":
        return _mean_apart(_one_sample(matrices))
    xy = matrices.xy
    mean = xy.mean((-2, -1), dtype=precision.sum_dtype(xy))
    return _mean_apart(matrices.xx) + _mean_apart(matrices.yy) - 2 * mean


def influences(matrices: Gram, estimator: Statistic) -> list[Tensor]:
    """Return what each row adds to the estimate, but for a constant, to first order.

    One tensor ``(…, N)`` for each sample that rows are drawn for independently; the
    variance of the estimate is 4/N times theirs, added up.
    """
    wide = precision.sum_dtype(matrices.xy)
    if estimator == "paired":
        return [_one_sample(matrices).mean(-1, dtype=wide)]
    xx, yy, xy = matrices
    return [
        xx.mean(-1, dtype=wide) - xy.mean(-1, dtype=wide),
        yy.mean(-1, dtype=wide) - xy.mean(-2, dtype=wide),
    ]


def first_order(matrices: Gram, estimator: Statistic) -> Tensor:
    """Return the leading term of the variance, ``(…)``, in the widest dtype."""
    parts = [
        4 * of_rows.var(-1, correction=0) / of_rows.shape[-1]
        for of_rows in influences(matrices, estimator)
    ]
    return parts[0] if len(parts) == 1 else parts[0] + parts[1]


def _one_sample(matrices: Gram) -> Tensor:
    """Return H of N paired rows."""
    xx, yy, xy = matrices
    return xx + yy - xy - xy.mT


def _two_sample(matrices: Gram) -> Tensor:
    """Return MMD⁴ of the estimate less the unbiased estimate of MMD⁴.

    The latter is the sum of the ten products of two of E k(x, x′), E k(y, y′) and
    −2 E k(x, y), each from different rows.
    """
    a, b = (_without_diagonal(_wide(k)) for k in (matrices.xx, matrices.yy))
    c = _wide(matrices.xy)
    n, m = c.shape[-2:]
    s_a, s_b, s_c = _sum(a), _sum(b), _sum(c)
    rows, columns = c.sum(-1), c.sum(-2)
    xx_yy = s_a * s_b / (_falling(n, 2) * _falling(m, 2))
    xy_xy = s_c.square() - rows.square().sum(-1) - columns.square().sum(-1)
    xy_xy = (xy_xy + _sum(c.square())) / (_falling(n, 2) * _falling(m, 2))
    xx_xy = (s_a * s_c - 2 * (a.sum(-1) * rows).sum(-1)) / (_falling(n, 3) * m)
    yy_xy = (s_b * s_c - 2 * (b.sum(-1) * columns).sum(-1)) / (_falling(m, 3) * n)
    square = _square_of_mean(a) + _square_of_mean(b) + 2 * xx_yy
    square = square + 4 * (xy_xy - xx_xy - yy_xy)
    mmd = s_a / _falling(n, 2) + s_b / _falling(m, 2) - 2 * s_c / (n * m)
    return mmd.square() - square


def _square_of_mean(k: Tensor) -> Tensor:
    """Return the mean of k_ij k_lm over different i, j, l, m; the diagonal is 0."""
    total = _sum(k).square() - 4 * k.sum(-1).square().sum(-1) + 2 * _sum(k.square())
    return total / _falling(k.shape[-1], 4)


def _mean_apart(k: Tensor) -> Tensor:
    """Return the mean over i ≠ j."""
    wide = precision.sum_dtype(k)
    apart = k.sum((-2, -1), dtype=wide) - k.diagonal(0, -2, -1).sum(-1, dtype=wide)
    return apart / _falling(k.shape[-1], 2)


def _without_diagonal(k: Tensor) -> Tensor:
    same = torch.eye(k.shape[-1], dtype=torch.bool, device=k.device)
    return k.masked_fill(same, 0.0)


def _wide(k: Tensor) -> Tensor:
    # The variance is what is left of numbers of the size of the kernel, squared.
    return k.to(precision.sum_dtype(k))


def _sum(k: Tensor) -> Tensor:
    return k.sum((-2, -1))


def _falling(n: int, k: int) -> int:
    """Return n(n − 1)…(n − k + 1)."""
    out = 1
    for i in range(k):
        out *= n - i
    return out
