r"""Linear CKA: how alike the geometry of two embeddings of the same rows is.

Of paired rows about their means, :math:`X \in \mathbb{R}^{N \times D_a}` and
:math:`Y \in \mathbb{R}^{N \times D_b}`,

.. math::
    \operatorname{CKA} = \frac{h(X, Y)}{\sqrt{h(X, X)\, h(Y, Y)}} , \qquad
    h(X, Y) = \lVert X^\top Y \rVert_F^2 .

It does not change under rotations and a common scale of either, and needs no common
width: 1 where one is a rotation of the other. Of unrelated embeddings it is far from 0
where N is not well above D; there, the unbiased estimate of HSIC serves as h,

.. math::
    h_u = \frac{1}{N (N - 3)} \Bigl[ h - \tfrac{N}{N - 2} \textstyle\sum_i x_i y_i
        + \frac{\sum_i x_i \sum_i y_i}{(N - 1)(N - 2)} \Bigr] , \qquad
    x_i = \lVert X_i \rVert^2 , \; y_i = \lVert Y_i \rVert^2 ,

which is the usual one with zero diagonals, for rows that add up to 0. It is 0 on
average for unrelated rows, and may be negative.

Numerics: in float64; through D × D products, or N × N where that is less. Cost:
O(N D min(N, D)) time, O(N D + min(N, D)²) memory.

References: Eq. 3 of :cite:t:`kornblith2019similarity`; h_u is Eq. 5 of
:cite:t:`song2012feature`, in CKA as by :cite:t:`nguyen2021wide`.
"""

import torch
from torch import Tensor

from xmodal_losses._core import checks, linalg, moments, precision
from xmodal_losses._core.reduce import inverse

__all__ = ["linear_cka"]


def linear_cka(
    z_a: Tensor, z_b: Tensor, *, unbiased: bool = False, weight: Tensor | None = None
) -> Tensor:
    """Return the linear CKA of paired rows.

    Args:
        z_a: Embeddings of modality *a*, ``(…, N, D_a)``, N ≥ 2; leading dimensions are
            independent problems.
        z_b: Embeddings of modality *b*, ``(…, N, D_b)``; row *i* belongs to row *i* of
            ``z_a``.
        unbiased: Correct for the number of rows; N ≥ 4.
        weight: Weights ≥ 0 of the rows, ``(…, N)``, where ``unbiased`` is False; their
            scale does not matter. A row of weight 0 is as if it were not there.

    Returns:
        ``(…)``, in [0, 1], unbiased at most 1; 0 where a modality is the same in all
        rows, unbiased also where all its rows are at one distance from each other. In
        the dtype of the inputs, float32 at least. Differentiable.

    Raises:
        TypeError: If an input is not a floating-point tensor.
        ValueError: If shapes do not fit together or an option is out of range.

    Examples:
        >>> import torch
        >>> from xmodal_losses import diagnostics
        >>> z = torch.tensor([[1., 1.], [1., -1.], [-1., 1.], [-1., -1.]])
        >>> diagnostics.linear_cka(z, z[:, :1] + 5)
        tensor(0.7071)
    """
    caller = "linear_cka"
    checks.flag(caller, "unbiased", unbiased)
    least = 4 if unbiased else 2
    checks.embeddings(caller, z_a, z_b, paired=True, same_width=False, min_rows=least)
    checks.row_weight(caller, "weight", weight, z_a)
    if weight is not None and unbiased:
        raise ValueError(
            f"{caller}: weight must be None with unbiased=True, got weights. Leave out "
            "the rows that do not count."
        )
    with precision.no_autocast(z_a):
        x, y = _rows(z_a, weight), _rows(z_b, weight)
        xy, xx, yy = _products(x, y)
        if unbiased:
            xy, xx, yy = (
                _unbiased(*part) for part in ((xy, x, y), (xx, x, x), (yy, y, y))
            )
        cka = xy * inverse(linalg.sqrt(xx) * linalg.sqrt(yy))
        return cka.to(precision.compute_dtype(z_a, z_b))


def _rows(z: Tensor, weight: Tensor | None) -> Tensor:
    """Return √w·(z − mean), scaled to length 1 as a whole, in float64."""
    z = moments.drop(z, weight).to(precision.sum_dtype(z))
    x = moments.moments(z, weight).rows
    if weight is not None:
        x = linalg.sqrt(weight.to(x.dtype)).unsqueeze(-1) * x
    return linalg.unit(x.flatten(-2), -1).view_as(x)


def _products(x: Tensor, y: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """Return ‖XᵀY‖², ‖XᵀX‖² and ‖YᵀY‖²."""
    if max(x.shape[-1], y.shape[-1]) > x.shape[-2]:
        # ‖XᵀY‖² = ⟨XXᵀ, YYᵀ⟩
        k_x, k_y = x @ x.mT, y @ y.mT
        parts = (k_x, k_y), (k_x, k_x), (k_y, k_y)
        xy, xx, yy = ((k * other).sum((-2, -1)) for k, other in parts)
    else:
        products = x.mT @ y, x.mT @ x, y.mT @ y
        xy, xx, yy = (c.square().sum((-2, -1)) for c in products)
    return xy, xx, yy


def _unbiased(h: Tensor, x: Tensor, y: Tensor) -> Tensor:
    """Return the unbiased estimate of HSIC, but for a factor, given ‖XᵀY‖²."""
    n = x.shape[-2]
    a, b = x.square().sum(-1), y.square().sum(-1)
    pairs = (a * b).sum(-1)
    of_sums = a.sum(-1) * b.sum(-1) / ((n - 1) * (n - 2))
    found = h - n / (n - 2) * pairs + of_sums
    # Of rows at one distance from each other it is 0, and would be a rounding error.
    return found.masked_fill(found.abs() <= n * torch.finfo(h.dtype).eps * h, 0.0)
