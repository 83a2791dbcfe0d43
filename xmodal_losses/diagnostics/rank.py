r"""RankMe and effective rank: how many directions the rows take up.

Of a matrix with singular values :math:`\sigma_1, \dots, \sigma_K`, and their shares
:math:`p_k = \sigma_k / \sum_l \sigma_l`, the effective rank is
:math:`\exp(-\sum_k p_k \log p_k)`: K where all are equal, 1 where one is all there is.

- RankMe is that of the rows Z as they are, not centred, with
  :math:`p_k = \sigma_k / \sum_l \sigma_l + \epsilon`.
- Of the covariance of the rows, whose singular values are the squares of those of the
  centred rows, the effective rank counts the directions in which rows differ. A mean
  that all rows share is no direction, and small directions count for less.

Singular values are in float64 whatever the inputs, of the rows themselves and not of
their products: small ones keep their digits. Cost: O(N D min(N, D)) time, O(N D)
memory.

References: Eq. 1 of :cite:t:`garrido2023rankme`; :cite:t:`roy2007effective`.
"""

from typing import Literal, TypeAlias

import torch
from torch import Tensor

from xmodal_losses._core import checks, linalg, moments, precision
from xmodal_losses._core.reduce import inverse

__all__ = ["effective_rank", "rank_me"]

Matrix: TypeAlias = Literal["covariance", "rows"]
MATRICES = ("covariance", "rows")


def rank_me(z: Tensor, *, eps: float = 1e-7, weight: Tensor | None = None) -> Tensor:
    """Return RankMe of the rows.

    The paper measures it on N well above D rows; it is at most min(N, D).

    Args:
        z: Embeddings, ``(…, N, D)``; leading dimensions are independent problems.
        eps: ε ≥ 0, added to every share. That of the paper raises the rank by a factor
            of about 1 + 1.5e-6·min(N, D).
        weight: Weights ≥ 0 of the rows, ``(…, N)``; their scale does not matter. A row
            counts as √w times itself, and one of weight 0 is as if it were not there.

    Returns:
        ``(…)``, between 1 and min(N, D), but for ε; 0 if all rows are zeros. In the
        dtype of the input, float32 at least. A constant to the gradient.

    Raises:
        TypeError: If an input is not a floating-point tensor.
        ValueError: If shapes do not fit together or an option is out of range.

    Examples:
        >>> import torch
        >>> from xmodal_losses import diagnostics
        >>> diagnostics.rank_me(torch.eye(8, 4))
        tensor(4.0000)
    """
    checks.rows("rank_me", "z", z)
    checks.number("rank_me", "eps", eps, at_least=0.0)
    checks.row_weight("rank_me", "weight", weight, z)
    with torch.no_grad():
        sigma = _singular_values(z, weight, centre=False)
        share = _shares(sigma) + eps
        if weight is not None:  # of rows that are not there, not even ε
            index = torch.arange(sigma.shape[-1], device=z.device)
            rows = (weight != 0).sum(-1, keepdim=True)
            share = share.masked_fill(index >= rows, 0.0)
        return _effective(sigma, share, z)


def effective_rank(
    z: Tensor, *, of: Matrix = "covariance", weight: Tensor | None = None
) -> Tensor:
    """Return the effective rank of the covariance of the rows.

    Args:
        z: Embeddings, ``(…, N, D)``; leading dimensions are independent problems.
        of: ``"covariance"``; or ``"rows"``, the matrix z itself: RankMe without its ε.
        weight: Weights ≥ 0 of the rows, ``(…, N)``; their scale does not matter. A row
            of weight 0 is as if it were not there.

    Returns:
        ``(…)``, between 1 and min(N − 1, D), of rows min(N, D); 0 if the matrix is 0,
        as the covariance of rows that are all the same, or of one row. In the dtype of
        the input, float32 at least. A constant to the gradient.

    Raises:
        TypeError: If an input is not a floating-point tensor.
        ValueError: If shapes do not fit together or an option is out of range.

    Examples:
        >>> import torch
        >>> from xmodal_losses import diagnostics
        >>> z = torch.tensor([[1., 1.], [1., -1.], [-1., 1.], [-1., -1.]])
        >>> diagnostics.effective_rank(z + 100)
        tensor(2.)
        >>> diagnostics.rank_me(z + 100)
        tensor(1.0427)
    """
    checks.rows("effective_rank", "z", z)
    checks.option("effective_rank", "of", of, MATRICES)
    checks.row_weight("effective_rank", "weight", weight, z)
    with torch.no_grad():
        sigma = _singular_values(z, weight, centre=of == "covariance")
        if of == "covariance":
            # Before the squares, so that these do not underflow.
            sigma = (sigma * inverse(sigma[..., :1])).square()
        return _effective(sigma, _shares(sigma), z)


def _singular_values(z: Tensor, weight: Tensor | None, *, centre: bool) -> Tensor:
    """Return those of √w·z, or of √w·(z − mean), in descending order."""
    x = moments.drop(z, weight).to(precision.sum_dtype(z))
    if centre:
        x = moments.moments(x, weight).rows
    if weight is not None:
        x = linalg.sqrt(weight.to(x.dtype)).unsqueeze(-1) * x
    sigma: Tensor = torch.linalg.svdvals(x)
    return sigma


def _shares(sigma: Tensor) -> Tensor:
    return sigma * inverse(sigma.sum(-1, keepdim=True))


def _effective(sigma: Tensor, share: Tensor, like: Tensor) -> Tensor:
    """Return exp(−Σ p log p), 0 where all singular values are 0."""
    entropy = -torch.xlogy(share, share).sum(-1)
    rank = entropy.exp().masked_fill((sigma == 0).all(-1), 0.0)
    return rank.to(precision.compute_dtype(like))
