r"""Alignment and uniformity: partners are near, and all rows fill the sphere.

Of rows of unit length, paired :math:`a_i, b_i` and any two of one batch
:math:`z_i, z_j`,

.. math::
    \text{alignment} = \tfrac1N \sum_i \lVert a_i - b_i \rVert^\alpha , \qquad
    \text{uniformity} = \log \operatorname*{mean}_{i \ne j}
        e^{-t \lVert z_i - z_j \rVert^2} .

Both are the smaller the better. Contrastive losses bring down their sum; either alone
is at its best for useless embeddings: one point, or noise. Rows spread evenly over the
sphere of :math:`D` dimensions reach :math:`-2t + \log {}_0F_1(; D/2; t^2)`, nearly
:math:`-2t` where :math:`D` is large.

The pairs (i, i) are left out, as in the authors' code. Squared distances are those
about the mean of the rows, and their exponentials a log-sum-exp: nothing overflows or
underflows, however far rows are apart. Cost: O(N D) for alignment; for uniformity
O(N² D) time, O(N D) memory and a tile.

References: Eq. 2 and Eq. 5 of :cite:t:`wang2020understanding`.
"""

import math

import torch
from torch import Tensor

from xmodal_losses._core import checks, linalg, moments, pairs, precision
from xmodal_losses._core.reduce import inverse

__all__ = ["alignment", "uniformity"]


def alignment(
    z_a: Tensor,
    z_b: Tensor,
    *,
    power: float = 2.0,
    normalize: bool = True,
    weight: Tensor | None = None,
) -> Tensor:
    """Return the mean distance of partners, to a power.

    Args:
        z_a: Embeddings of modality *a*, ``(…, N, D)``; leading dimensions are
            independent problems.
        z_b: Embeddings of modality *b*, same shape; row *i* belongs to row *i* of
            ``z_a``.
        power: α > 0.
        normalize: Scale rows to unit length first; a zero row stays 0.
        weight: Weights ≥ 0 of the rows, ``(…, N)``; their scale does not matter. A row
            of weight 0 is as if it were not there.

    Returns:
        ``(…)``, ≥ 0, of unit rows at most 2^α; 0 if all weights are 0. In the dtype of
        the inputs, float32 at least. Differentiable; partners that coincide get no
        gradient.

    Raises:
        TypeError: If an input is not a floating-point tensor.
        ValueError: If shapes do not fit together or an option is out of range.

    Examples:
        >>> import torch
        >>> from xmodal_losses import diagnostics
        >>> z = torch.eye(4)
        >>> diagnostics.alignment(z, z.flip(0))
        tensor(2.)
    """
    caller = "alignment"
    checks.embeddings(caller, z_a, z_b, paired=True)
    checks.number(caller, "power", power, above=0.0)
    checks.flag(caller, "normalize", normalize)
    checks.row_weight(caller, "weight", weight, z_a)
    dtype = precision.compute_dtype(z_a, z_b)
    a, b = (moments.drop(z, weight).to(dtype) for z in (z_a, z_b))
    if normalize:
        a, b = linalg.unit(a, -1), linalg.unit(b, -1)
    distance = (a - b).square().sum(-1)
    if power != 2:
        same = distance == 0
        distance = distance.masked_fill(same, 1.0) ** (power / 2)
        distance = distance.masked_fill(same, 0.0)
    if weight is None:
        return distance.mean(-1)
    weight = weight.to(dtype)
    return (weight * distance).sum(-1) * inverse(weight.sum(-1))


def uniformity(
    z: Tensor,
    *,
    t: float = 2.0,
    normalize: bool = True,
    weight: Tensor | None = None,
    chunk_size: int | None = None,
) -> Tensor:
    """Return the log of the mean Gaussian potential of two different rows.

    Args:
        z: Embeddings, ``(…, N, D)``; leading dimensions are independent problems.
        t: t > 0, the inverse of the squared distances that matter.
        normalize: Scale rows to unit length first; a zero row stays 0.
        weight: Weights ≥ 0 of the rows, ``(…, N)``; their scale does not matter. A pair
            counts by the product, and a row of weight 0 is as if it were not there.
        chunk_size: Edge of the tiles in which the pairs are gone through. None takes
            one that suits the device.

    Returns:
        ``(…)``, ≤ 0, of unit rows at least −4t; 0 without any pair. In the dtype of the
        input, float32 at least. Differentiable, but for the weights.

    Raises:
        TypeError: If an input is not a floating-point tensor.
        ValueError: If shapes do not fit together or an option is out of range.

    Examples:
        >>> import torch
        >>> from xmodal_losses import diagnostics
        >>> diagnostics.uniformity(torch.eye(4))  # all at a squared distance of 2
        tensor(-4.)
    """
    caller = "uniformity"
    checks.rows(caller, "z", z)
    checks.number(caller, "t", t, above=0.0)
    checks.flag(caller, "normalize", normalize)
    checks.row_weight(caller, "weight", weight, z)
    if chunk_size is not None:
        checks.count(caller, "chunk_size", chunk_size)
    dtype = precision.compute_dtype(z)
    x = moments.drop(z, weight).to(dtype)
    if normalize:
        x = linalg.unit(x, -1)
    if weight is None:
        n = x.shape[-2]
        bound = 4 * t if normalize else math.inf
        rows = _contrast(x, t, None, None, bound, chunk_size).sides().rows
        return _total(rows) - math.log(max(n * (n - 1), 1))
    weight = weight.detach().to(dtype)
    largest = weight.amax(-1, keepdim=True)
    weight = weight * inverse(largest)  # so that no product underflows
    valid = weight != 0
    log_weight = weight.masked_fill(~valid, 1.0).log()
    found = _contrast(x, t, log_weight, valid, math.inf, chunk_size).sides()
    of_pairs = weight.sum(-1).square() - weight.square().sum(-1)
    of_pairs = of_pairs.masked_fill(of_pairs <= 0, 1.0)
    return _total(found.rows + log_weight) - of_pairs.log()


def _contrast(
    x: Tensor,
    t: float,
    log_weight: Tensor | None,
    valid: Tensor | None,
    bound: float,
    chunk_size: int | None,
) -> pairs.Contrast:
    """Return the rows as ones whose inner products are −t‖x_i − x_j‖² + log w_j."""
    # The mean moves no distance: a constant to the gradient.
    x = x - _mean(x.detach(), valid)
    square = -t * x.square().sum(-1, keepdim=True)
    ones = torch.ones_like(square)
    own = square if log_weight is None else square + log_weight.unsqueeze(-1)
    return pairs.Contrast(
        torch.cat((2 * t * x, square, ones), -1),
        torch.cat((x, ones, own), -1),
        both=False,
        valid=valid,
        bound=bound,
        chunk_size=chunk_size,
    )


def _mean(x: Tensor, valid: Tensor | None) -> Tensor:
    m = moments.moments(x, valid)
    return (m.origin + m.mean).unsqueeze(-2)


def _total(rows: Tensor) -> Tensor:
    """Return the log-sum-exp of all rows, 0 where none has another."""
    none = (rows == -torch.inf).all(-1)
    total = torch.logsumexp(rows.masked_fill(none.unsqueeze(-1), 0.0), -1)
    return total.masked_fill(none, 0.0)
