r"""Modality gap: the distance of the mean embeddings of two modalities, and a p-value.

Of rows of unit length the gap is :math:`\lVert \bar a - \bar b \rVert`. It is never 0:
two halves of one cloud have some distance, too. How often chance brings about as much
is found by drawing, with the null distribution exact for any number of rows:

- **paired** rows: if the modalities are alike, the two rows of a pair may trade places,
  and :math:`\lVert \tfrac1N \sum_i s_i (a_i - b_i) \rVert` with random signs
  :math:`s_i` is distributed as the gap.
- **unpaired** rows: any of the N + M rows may be of either modality, and the gap is
  that of a random choice of N of them.

Paired rows in the unpaired test differ by less than chance would have it, and a true
gap goes unnoticed. The p-value is :math:`(1 + \#\{\text{draws} \ge \text{gap}\}) /
(B + 1)` of B draws, which is never 0 and keeps its level whatever B.

All draws are one matrix product, in float64. Cost: O(B (N + M) D) time, O(B (N + M))
memory, in parts where that is large.

References: the gap is that of :cite:t:`liang2022mind`; the p-value that of
:cite:t:`phipson2010permutation`.
"""

from collections.abc import Callable
from typing import NamedTuple

import torch
from torch import Tensor

from xmodal_losses._core import checks, linalg, moments, precision
from xmodal_losses._core.draws import uniform
from xmodal_losses._core.reduce import inverse

__all__ = ["ModalityGap", "modality_gap"]

# Entries of the matrix of draws at a time.
_MOST = 2**24
# Draws that are the sample itself, up to rounding, are no less than it.
_TIE = 1e-9


class ModalityGap(NamedTuple):
    """The gap between two modalities, what chance makes of it, and how probable."""

    gap: Tensor
    p_value: Tensor
    chance: Tensor


def modality_gap(
    z_a: Tensor,
    z_b: Tensor,
    *,
    paired: bool = True,
    normalize: bool = True,
    num_permutations: int = 999,
    generator: torch.Generator | None = None,
    weight: Tensor | None = None,
) -> ModalityGap:
    """Return the distance of the mean rows of two modalities, and its p-value.

    Args:
        z_a: Embeddings of modality *a*, ``(…, N, D)``; leading dimensions are
            independent problems.
        z_b: Embeddings of modality *b*, ``(…, M, D)``.
        paired: True if row *i* of ``z_b`` belongs to row *i* of ``z_a``: signs of pairs
            are drawn. False: which rows are of which modality.
        normalize: Scale rows to unit length first; a zero row stays 0.
        num_permutations: B ≥ 1. The least p-value is 1/(B + 1).
        generator: What to draw from, on any device: a generator of the CPU gives the
            same draws on every device. None: the default one of the device of ``z_a``.
        weight: Weights ≥ 0 of the pairs, ``(…, N)``, for paired rows only; their scale
            does not matter. A pair of weight 0 is as if it were not there.

    Returns:
        ``gap``, ``p_value`` and ``chance``, the mean gap of the draws; each ``(…)``, in
        the dtype of the inputs, float32 at least. All problems have the same draws, so
        that none depends on another, but their p-values are not independent. Of one
        pair, of pairs that agree, or without any weight, the p-value is 1. Constants to
        the gradient.

    Raises:
        TypeError: If an input is of another type.
        ValueError: If shapes do not fit together or an option is out of range.

    Examples:
        >>> import torch
        >>> from xmodal_losses import diagnostics
        >>> z = torch.eye(16)
        >>> generator = torch.Generator().manual_seed(0)
        >>> diagnostics.modality_gap(z, z + 0.5, generator=generator).p_value
        tensor(0.0010)
    """
    caller = "modality_gap"
    checks.flag(caller, "paired", paired)
    checks.embeddings(caller, z_a, z_b, paired=paired)
    checks.flag(caller, "normalize", normalize)
    checks.count(caller, "num_permutations", num_permutations)
    checks.generator(caller, generator)
    checks.row_weight(caller, "weight", weight, z_a)
    if weight is not None and not paired:
        raise ValueError(
            f"{caller}: weight must be None with paired=False, got weights of pairs. "
            "Leave out the rows that do not count."
        )
    with torch.no_grad(), precision.no_autocast(z_a):
        wide = precision.sum_dtype(z_a)
        a, b = (moments.drop(z, weight).to(wide) for z in (z_a, z_b))
        if normalize:
            a, b = linalg.unit(a, -1), linalg.unit(b, -1)
        if paired:
            gap, drawn = _of_signs(a - b, weight, num_permutations, generator)
        else:
            gap, drawn = _of_choices(a, b, num_permutations, generator)
        chance = drawn.mean(-1)
        least = gap - _TIE * (gap + chance)
        as_large = (drawn >= least.unsqueeze(-1)).sum(-1)
        p_value = (as_large + 1).to(wide) / (num_permutations + 1)
        dtype = precision.compute_dtype(z_a, z_b)
        return ModalityGap(*(part.to(dtype) for part in (gap, p_value, chance)))


def _of_signs(
    difference: Tensor,
    weight: Tensor | None,
    draws: int,
    generator: torch.Generator | None,
) -> tuple[Tensor, Tensor]:
    """Return the gap ``(…)`` and those of random signs of the pairs ``(…, B)``."""
    n = difference.shape[-2]
    if weight is None:
        share = difference.new_full((1, 1), 1 / n)
    else:
        weight = weight.to(difference.dtype).unsqueeze(-1)
        share = weight * inverse(weight.sum(-2, keepdim=True))
    difference = share * difference

    def signs(count: int) -> Tensor:
        u = uniform((count, n), difference.device, generator)
        return torch.where(u < 0.5, -1.0, 1.0).to(difference.dtype)

    gap = torch.linalg.vector_norm(difference.sum(-2), dim=-1)
    return gap, _lengths(signs, difference, draws)


def _of_choices(
    a: Tensor, b: Tensor, draws: int, generator: torch.Generator | None
) -> tuple[Tensor, Tensor]:
    """Return the gap ``(…)`` and those of random choices of N rows ``(…, B)``.

    Rows about the mean of all add up to 0: the sum of those chosen tells that of the
    others, and the gap is its length times 1/N + 1/M.
    """
    n, m = a.shape[-2], b.shape[-2]
    rows = moments.moments(torch.cat((a, b), -2)).rows * (1 / n + 1 / m)

    def choices(count: int) -> Tensor:
        u = uniform((count, n + m), rows.device, generator)
        chosen = u.argsort(-1)[:, :n]
        return torch.zeros_like(u).scatter_(-1, chosen, 1.0).to(rows.dtype)

    gap = torch.linalg.vector_norm(rows[..., :n, :].sum(-2), dim=-1)
    return gap, _lengths(choices, rows, draws)


def _lengths(draw: Callable[[int], Tensor], rows: Tensor, draws: int) -> Tensor:
    """Return the lengths of random sums of the rows, ``(…, B)``."""
    most = max(1, _MOST // rows.shape[-2])
    parts = []
    for start in range(0, draws, most):
        sums = draw(min(most, draws - start)) @ rows
        parts.append(torch.linalg.vector_norm(sums, dim=-1))
    return torch.cat(parts, -1)
