r"""Floors: how low Barlow Twins and VICReg can get with fewer rows than columns.

The correlations of D columns of N rows make a matrix of rank N − 1 at most, with ones
on its diagonal. Welch's bound on what is off it is

.. math::
    \sum_{i \ne j} C_{ij}^2 \ge W = \frac{D^2}{N - 1} - D ,

and some columns reach it. With fewer rows than columns the redundancy terms cannot
reach 0, and most of their value may be this constant: look at loss − floor.

**Barlow Twins.** By the same argument, with :math:`k = \lambda\,(\tfrac{D}{N-1} - 1)`,

.. math::
    \mathcal{L} \ge D\,k / (1 + k) ,

less than λW, as a diagonal short of 1 lowers both. For λ > 1 the bound is that of 1.

**VICReg.** Columns that all have the variance m ≤ g = γ² − ε cost one view

.. math::
    \tfrac{\mu}{2} (\gamma - \sqrt{m + \epsilon})
        + \nu \, (\tfrac{D}{N-1} - 1) \, m^2

in the variance and covariance terms, and the floor is twice the least of this, which is
reached. With the usual weights and D up to four times N − 1 the hinge holds, m = g.
Other columns than equal ones pay only where the covariance weighs much,
:math:`8 \nu \gamma^3 > \mu / 2`; there :math:`\nu (\tfrac{D}{N-1} m^2 - g m)` is a
bound in place of the last term.

Both bounds hold for any rows and any weights of them, where N is the number of weights
that are not 0. Cost: none to speak of; they look at shapes alone.

References: :cite:t:`welch1974lower`; that it is reached, :cite:t:`benedetto2003finite`.
"""

import math
from typing import Literal, TypeAlias

from xmodal_losses._core import checks

__all__ = ["barlow_twins_floor", "vicreg_floor", "welch_floor"]

SCALES = ("published", "per_column")
Convention: TypeAlias = Literal[
    "official", "algorithm1", "paper", "lightly", "solo-learn", "vicregl"
]
# What conventions of VICReg multiply the variance and the covariance term by.
FACTORS = {
    "official": (0.5, 1.0),
    "algorithm1": (1.0, 1.0),
    "paper": (1.0, 1.0),
    "lightly": (0.5, 1.0),
    "solo-learn": (1.0, 1.0),
    "vicregl": (0.5, 0.5),
}


def welch_floor(num_rows: int, num_columns: int) -> float:
    """Return the least Σ_{i≠j} C_ij² of the correlations of columns.

    It is the floor of ``redundancy`` in
    :func:`~xmodal_losses.functional.barlow_twins_terms` where the diagonal is fitted.

    Args:
        num_rows: N ≥ 2.
        num_columns: D ≥ 1.

    Returns:
        max(0, D²/(N − 1) − D).

    Raises:
        TypeError: If a number is no integer.
        ValueError: If it is out of range.

    Examples:
        >>> from xmodal_losses import diagnostics
        >>> diagnostics.welch_floor(9, 24)
        48.0
    """
    return num_columns * _excess("welch_floor", num_rows, num_columns)


def barlow_twins_floor(
    num_rows: int,
    num_columns: int,
    *,
    redundancy_weight: float = 5e-3,
    scale: Literal["published", "per_column"] = "published",
) -> float:
    """Return what :func:`~xmodal_losses.functional.barlow_twins` cannot get below.

    It holds for any ε and every convention but ``"hsic"``, given its λ; that of
    ``"solo-learn"`` times 0.025.

    Args:
        num_rows: N ≥ 2.
        num_columns: D ≥ 1.
        redundancy_weight: As in the loss.
        scale: As in the loss.

    Returns:
        D·k/(1 + k); 0 if D < N.

    Raises:
        TypeError: If an argument is of another type.
        ValueError: If it is out of range.

    Examples:
        >>> from xmodal_losses import diagnostics
        >>> round(diagnostics.barlow_twins_floor(2048, 8192), 1)
        121.1
    """
    caller = "barlow_twins_floor"
    checks.number(caller, "redundancy_weight", redundancy_weight, at_least=0.0)
    checks.option(caller, "scale", scale, SCALES)
    k = min(redundancy_weight, 1.0) * _excess(caller, num_rows, num_columns)
    share = k / (1 + k)
    return share if scale == "per_column" else num_columns * share


def vicreg_floor(
    num_rows: int,
    num_columns: int,
    *,
    variance_weight: float = 25.0,
    covariance_weight: float = 1.0,
    target_std: float = 1.0,
    eps: float = 1e-4,
    convention: Convention = "official",
) -> float:
    """Return what :func:`~xmodal_losses.functional.vicreg` cannot get below.

    Args:
        num_rows: N ≥ 2.
        num_columns: D ≥ 1.
        variance_weight: As in the loss.
        covariance_weight: As in the loss.
        target_std: As in the loss.
        eps: As in the loss.
        convention: As in the loss.

    Returns:
        The floor of both views together; 0 if D < N.

    Raises:
        TypeError: If an argument is of another type.
        ValueError: If it is out of range.

    Examples:
        >>> from xmodal_losses import diagnostics
        >>> round(diagnostics.vicreg_floor(2048, 8192), 2)
        6.0
    """
    caller = "vicreg_floor"
    checks.number(caller, "variance_weight", variance_weight, at_least=0.0)
    checks.number(caller, "covariance_weight", covariance_weight, at_least=0.0)
    checks.number(caller, "target_std", target_std, at_least=0.0)
    checks.number(caller, "eps", eps, at_least=0.0)
    checks.option(caller, "convention", convention, tuple(FACTORS))
    ratio = 1 + _excess(caller, num_rows, num_columns)  # D/(N − 1), or 1
    # The variance that the hinge asks for. Products are infinite where powers would be
    # an error.
    most = max(target_std * target_std - eps, 0.0)
    if not most:
        return 0.0
    of_variance, of_covariance = FACTORS[convention]
    per_view = of_variance * variance_weight
    covariance_weight = of_covariance * covariance_weight

    # The covariance term is at least ν(α m² − β m), m the mean variance. As a function
    # of each column's variance the sum is convex, and equal columns best, if so:
    if per_view >= 8 * covariance_weight * target_std * target_std * target_std:
        alpha, beta = ratio - 1, 0.0
    else:
        alpha, beta = ratio, most
    if not alpha:
        return 0.0

    def slope(m: float) -> float:
        hinge = per_view / (2 * math.sqrt(m + eps)) if m + eps else math.inf
        return covariance_weight * (2 * alpha * m - beta) - hinge

    # The sum falls up to β/α, from where on it is convex.
    low, high = beta / alpha, most
    while low < (middle := (low + high) / 2) < high:
        low, high = (low, middle) if slope(middle) > 0 else (middle, high)
    hinge = per_view * max(target_std - math.sqrt(low + eps), 0.0)
    return 2 * (hinge + covariance_weight * low * (alpha * low - beta))


def _excess(caller: str, num_rows: int, num_columns: int) -> float:
    """Return D/(N − 1) − 1, or 0."""
    checks.count(caller, "num_rows", num_rows)
    checks.count(caller, "num_columns", num_columns)
    if num_rows < 2:
        raise ValueError(
            f"{caller}: num_rows must be >= 2, got {num_rows}. One row has no "
            "correlations."
        )
    return max(num_columns / (num_rows - 1) - 1, 0.0)
