r"""The canonical spectrum: how much two modalities share, beside what chance shows.

The canonical correlations :math:`\rho_1 \ge \rho_2 \ge \dots` of paired
:math:`A \in \mathbb{R}^{N \times D_a}` and :math:`B \in \mathbb{R}^{N \times D_b}` are
those of Deep CCA, with the same ridge r. Of modalities that share nothing they are not
0: fitted to N rows, some directions agree by chance. With the effective number of
dimensions :math:`d_a = \operatorname{tr}[\Sigma_{aa} (\Sigma_{aa} + r I)^{-1}]`, which
is :math:`D_a` where r = 0, and :math:`d_b`,

.. math::
    \operatorname{E} \textstyle\sum_i \rho_i^2 = \frac{d_a d_b}{N - 1} , \qquad
    \rho_{\max} \to \sqrt{p (1 - q)} + \sqrt{q (1 - p)} , \quad
    p = \tfrac{d_a}{N - 1} , \; q = \tfrac{d_b}{N - 1} .

The first is exact for rows paired at random, whatever their distribution. The second is
the edge of the spectrum of many independent normal rows (without a ridge; with one,
chance stays below it), and 1 where p + q ≥ 1: then some correlations are 1 for any
data. What is above the edge is shared; where all is 1, take more rows.

Numerics: in float64, as Deep CCA is. Cost: O(N D² + D³) time, O(N D + D²) memory.

References: :cite:t:`hotelling1936relations`; the edge is that of
:cite:t:`wachter1980limiting`.
"""

from typing import NamedTuple

import torch
from torch import Tensor

from xmodal_losses._core import canonical, checks, linalg, moments, precision
from xmodal_losses._core.reduce import inverse

__all__ = ["CanonicalSpectrum", "canonical_spectrum"]


class CanonicalSpectrum(NamedTuple):
    """Canonical correlations, and what chance makes of them."""

    correlations: Tensor
    chance_largest: Tensor
    chance_energy: Tensor


def canonical_spectrum(
    z_a: Tensor, z_b: Tensor, *, ridge: float = 1e-4, weight: Tensor | None = None
) -> CanonicalSpectrum:
    """Return the canonical correlations of paired rows, and their chance level.

    Args:
        z_a: Embeddings of modality *a*, ``(…, N, D_a)``, N ≥ 2; leading dimensions are
            independent problems.
        z_b: Embeddings of modality *b*, ``(…, N, D_b)``; row *i* belongs to row *i* of
            ``z_a``.
        ridge: r ≥ 0, added to the variances, as in
            :func:`~xmodal_losses.functional.dcca`.
        weight: Weights ≥ 0 of the rows, ``(…, N)``; their scale does not matter. A row
            of weight 0 is as if it were not there. For the chance level, N is
            (Σw)²/Σw².

    Returns:
        ``correlations``, ``(…, min(D_a, D_b))``, in descending order, in [0, 1];
        ``chance_largest``, ``(…)``, the edge; ``chance_energy``, ``(…)``, E Σρ². All
        are 0 of a modality that is the same in all rows. In the dtype of the inputs,
        float32 at least. Constants to the gradient.

    Raises:
        TypeError: If an input is not a floating-point tensor.
        ValueError: If shapes do not fit together or an option is out of range.

    Examples:
        >>> import torch
        >>> from xmodal_losses import diagnostics
        >>> rgb, ir = torch.randn(2, 2001, 100)
        >>> spectrum = diagnostics.canonical_spectrum(rgb, ir, ridge=0.0)
        >>> spectrum.chance_largest, spectrum.chance_energy
        (tensor(0.4359), tensor(5.))
    """
    caller = "canonical_spectrum"
    checks.embeddings(caller, z_a, z_b, paired=True, same_width=False, min_rows=2)
    checks.number(caller, "ridge", ridge, at_least=0.0)
    checks.row_weight(caller, "weight", weight, z_a)
    wide = precision.sum_dtype(z_a)
    with torch.no_grad(), precision.no_autocast(z_a):
        dtype = precision.compute_dtype(z_a, z_b)
        pair = moments.PairOfRows(
            z_a.to(dtype), z_b.to(dtype), weight, weight, wide=wide
        )
        c_aa, c_bb, c_ab = pair.covariances()
        rho = canonical.correlations(c_aa, c_bb, c_ab, ridge, min(c_ab.shape[-2:]))
        dof = _degrees_of_freedom(z_a, weight, wide)
        d_a, d_b = _dimensions(c_aa, ridge), _dimensions(c_bb, ridge)
        p, q = d_a * inverse(dof), d_b * inverse(dof)
        edge = linalg.sqrt(p * (1 - q)) + linalg.sqrt(q * (1 - p))
        edge = edge.masked_fill(p + q >= 1, 1.0)
        edge = edge.masked_fill((d_a == 0) | (d_b == 0), 0.0)
        found = rho, edge, d_a * d_b * inverse(dof)
        return CanonicalSpectrum(*(part.to(dtype) for part in found))


def _degrees_of_freedom(z: Tensor, weight: Tensor | None, dtype: torch.dtype) -> Tensor:
    """Return N − 1, of weights (Σw)²/Σw² − 1, ``(…)``."""
    if weight is None:
        return z.new_full(z.shape[:-2], z.shape[-2] - 1, dtype=dtype)
    weight = weight.to(dtype)
    number = weight.sum(-1).square() * inverse(weight.square().sum(-1))
    return (number - 1).clamp_min(0.0)


def _dimensions(c: Tensor, ridge: float) -> Tensor:
    """Return tr[C (C + r I)⁻¹], ``(…)``."""
    factor = linalg.cholesky(c, ridge)
    share = torch.cholesky_solve(c, factor)
    return share.diagonal(dim1=-2, dim2=-1).sum(-1).clamp_min(0.0)
