"""What a loss may ask of two batches."""

from collections.abc import Callable
from typing import NamedTuple, Protocol

import torch
from torch import Tensor

from xmodal_losses._core.moments.products import Directions
from xmodal_losses._core.ranks import Ranks


class Spread(NamedTuple):
    """How the columns of one batch vary, and how they vary together."""

    variance: Tensor  # (…, D)
    off_diagonal: Tensor  # (…): Σ_{i≠j} C²_ij of the covariance


class Pair(Protocol):
    """Two batches of one width, or of paired rows, through their second moments.

    Covariances carry the unbiased divisor; with weights that for reliability weights,
    Σw − Σw²/Σw (``numpy.cov(aweights=w)``): the scale of w does not matter, and 0/1
    weights give the covariance of the chosen rows. Where the divisor is not positive,
    second moments are 0.
    """

    @property
    def width(self) -> int:
        """D, that of the first batch."""

    @property
    def dtype(self) -> torch.dtype:
        """That of what is returned, but for covariances, which are wide."""

    @property
    def present(self) -> Tensor | None:
        """Which problems have rows of positive weight on both sides; None: all."""

    @property
    def ranks(self) -> Ranks | None:
        """The ranks that the problems, or the rows of the only one, lie on."""

    def mean_gap(self) -> Tensor:
        """Return μ_a − μ_b, ``(…, D)``."""

    def mean_square_gap(self) -> Tensor:
        """Return the mean of ‖a_n − b_n‖² over paired rows, ``(…)``."""

    def covariances(self) -> tuple[Tensor, Tensor, Tensor]:
        """Return C_aa, C_bb and C_ab."""

    def along(self, value: Tensor, directions: Directions) -> Tensor:
        """Return ``value`` with the gradient that ``directions`` tell, and no second.

        The value is a function of the covariances; it and they are constants.
        """

    def own_covariances(self) -> tuple[Tensor, Tensor]:
        """Return C_aa and C_bb, of rows that need not be paired."""

    def covariance_gap(self) -> Tensor:
        """Return ‖C_aa − C_bb‖²_F, ``(…)``."""

    def of_covariances(self, f: Callable[[Tensor, Tensor], Tensor]) -> Tensor:
        """Return f(C_aa, C_bb), ``(…)``, computed in float64."""

    def relative_covariance_gap(self) -> Tensor:
        """Return ‖C_aa − C_bb‖²_F / (‖C_aa‖²_F + ‖C_bb‖²_F), ``(…)``; 0/0 is 0."""

    def relative_mean_gap(self) -> Tensor:
        """Return ‖μ_a − μ_b‖² / (‖μ_a − μ_b‖² + 2 tr C_aa + 2 tr C_bb); 0/0 is 0."""

    def spreads(self) -> tuple[Spread, Spread]:
        """Return the spread of either batch."""

    def correlation(
        self, eps: float, *, unbiased: bool = False, target: float = 0.0
    ) -> tuple[Tensor, Tensor]:
        """Return 1 − R_ii ``(…, D)`` and Σ_{i≠j} (R_ij − target)² ``(…)``.

        Of paired rows, R_ij = Σ a_i b_j / (√(Σ a_i² + n·eps) √(Σ b_j² + n·eps)) with
        the eps of batch normalisation; ``unbiased``, R_ij = Σ a_i b_j / n /
        ((s_i + eps) (s_j + eps)) with unbiased standard deviations s. With eps = 0, a
        constant column has R = 0 and gets no gradient.
        """
