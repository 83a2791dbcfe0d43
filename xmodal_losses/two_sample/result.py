"""What tests say."""

import re
from dataclasses import dataclass, field

from torch import Tensor

from xmodal_losses.distribution.base_kernel import Kernel


@dataclass(frozen=True)
class KernelVerdict:
    """What one kernel of the collection of an MMDAgg test says.

    Attributes:
        kernel: The kernel, with its bandwidth.
        weight: Its share of the level, before correction.
        statistic: The estimate of the squared MMD; of either sign.
        threshold: The kernel rejects above it.
        p_value: In (0, 1], of this kernel alone.
        level: The kernel rejects where its p-value is below.
        rejected: Whether it does.
    """

    kernel: Kernel
    weight: float
    statistic: float
    threshold: float
    p_value: float
    level: float
    rejected: bool


@dataclass(frozen=True)
class MMDAggResult:
    """What :func:`~xmodal_losses.two_sample.mmd_agg` says; ``print`` it.

    Attributes:
        rejected: True: the samples differ, at level ``alpha``. It is so where
            ``p_value <= alpha``, where ``statistic > threshold`` and where any of
            ``tests`` rejects, which is one and the same.
        p_value: Of the aggregated test, in (0, 1].
        alpha: The level that was asked for.
        statistic: The estimate of the squared MMD by ``kernel``.
        threshold: Above which it would reject.
        kernel: The one that speaks most clearly against equal distributions.
        tests: All kernels, in the order of the collection.
        n: Rows of x.
        m: Rows of y.
        paired: Whether rows were said to be paired.
        resampling: ``"wild_bootstrap"`` or ``"permutation"``.
        num_diagonals: Of the incomplete test; None if it was the complete one.
        num_ids: How many different ``ids`` there were; None without.
        draws: How many for the quantiles, and for the level.
    """

    rejected: bool
    p_value: float
    alpha: float
    statistic: float
    threshold: float
    kernel: Kernel
    tests: tuple[KernelVerdict, ...] = field(repr=False)
    n: int
    m: int
    paired: bool
    resampling: str
    num_diagonals: int | None
    num_ids: int | None
    draws: tuple[int, int]

    def __str__(self) -> str:
        """Return the result in words."""
        sizes = _sizes(self)
        if self.num_ids is not None:
            sizes += f" of {self.num_ids} ids"
        count = len(self.tests)
        rejecting = sum(test.rejected for test in self.tests)
        part = (
            ""
            if self.num_diagonals is None
            else f"incomplete ({self.num_diagonals} diagonals), "
        )
        draws = " + ".join(map(str, self.draws))
        number = "kernel rejects" if count == 1 else "kernels reject"
        # Bandwidths that a rule has found have sixteen digits.
        kernel = re.sub(
            r"\d+\.\d{5,}(e[+-]\d+)?", lambda m: f"{float(m[0]):.4g}", repr(self.kernel)
        )
        return (
            f"MMDAgg: {_verdict(self)}.\n"
            f"{sizes}; {part}{self.resampling.replace('_', ' ')}, {draws} draws; "
            f"{rejecting} of {count} {number}.\n"
            f"Clearest: {kernel}, {_comparison(self)}."
        )


@dataclass(frozen=True, eq=False)
class KernelTestResult:
    """What a test with one kernel says; ``print`` it.

    Attributes:
        rejected: True: the samples differ, at level ``alpha``. It is so where
            ``p_value <= alpha`` and where ``statistic > threshold``, which is one and
            the same.
        p_value: From 1/(B + 1) to 1.
        alpha: The level that was asked for.
        statistic: The unbiased estimate of the squared MMD; of either sign.
        threshold: Above which it rejects.
        n: Rows of ``z_a`` that were tested.
        m: Rows of ``z_b``.
        paired: Whether rows were said to be paired.
        null: The relabelled estimates, ``(B,)``.
    """

    rejected: bool
    p_value: float
    alpha: float
    statistic: float
    threshold: float
    n: int
    m: int
    paired: bool
    null: Tensor = field(repr=False)

    def __str__(self) -> str:
        """Return the result in words."""
        draws = "swaps of pairs" if self.paired else "permutations"
        return (
            f"Kernel test: {_verdict(self)}.\n"
            f"{_sizes(self)}; {len(self.null)} {draws}; {_comparison(self)}."
        )


def _verdict(result: MMDAggResult | KernelTestResult) -> str:
    if result.rejected:
        return f"the samples differ (p = {result.p_value:.4g} <= {result.alpha:g})"
    return (
        f"no difference found (p = {result.p_value:.4g} > {result.alpha:g}), which "
        "does not prove that there is none"
    )


def _sizes(result: MMDAggResult | KernelTestResult) -> str:
    return f"{result.n} pairs" if result.paired else f"{result.n} and {result.m} rows"


def _comparison(result: MMDAggResult | KernelTestResult) -> str:
    sign = ">" if result.rejected else "<="
    return f"squared MMD {result.statistic:.4g} {sign} {result.threshold:.4g}"
