r"""A two-sample test with a kernel that is given.

The estimate of the MMD is compared with what it is where both batches have one law and
are relabelled at random, B times. With :math:`t_b` for the relabelled estimates and
:math:`t` for the one that was found,

.. math:: p = \frac{1 + \#\{b : t_b \ge t\}}{B + 1} ,

so that :math:`\Pr(p \le \alpha) \le \alpha` for every B and number of rows.

- Independent batches: rows of the pooled sample are relabelled, and the estimate is
  the two-sample U-statistic.
- Paired batches (``paired=True``): row i of both is from one scene. Relabelling the
  pool would undo pairs that the batches have, and the test would have another level.
  The two rows of a pair are exchanged instead, each pair with probability ½, and the
  estimate is the one-sample U-statistic.

The kernel has to be chosen without looking at these rows, or at which batch they are
of: a bandwidth by rule is of the pool.

References: :cite:t:`gretton2012kernel`; B + 1: :cite:t:`phipson2010permutation`.
"""

import torch
from torch import Tensor

from xmodal_losses._core import checks, precision
from xmodal_losses._core.draws import uniform
from xmodal_losses.distribution.base_kernel import Kernel, check_kernel
from xmodal_losses.distribution.gram import Gram, gram
from xmodal_losses.two_sample import require
from xmodal_losses.two_sample.result import KernelTestResult

__all__ = ["kernel_test"]


def kernel_test(
    z_a: Tensor,
    z_b: Tensor,
    kernel: Kernel,
    *,
    alpha: float = 0.05,
    permutations: int = 499,
    paired: bool = False,
    generator: torch.Generator | None = None,
) -> KernelTestResult:
    """Test whether two batches have one distribution, with a kernel that is given.

    Args:
        z_a: Embeddings of modality *a*, shape ``(N, D)``, N ≥ 2.
        z_b: Embeddings of modality *b*, shape ``(M, D)``, M ≥ 2.
        kernel: Chosen without these rows (:func:`~xmodal_losses.two_sample.fit_kernel`
            with others). It is in eval mode meanwhile.
        alpha: The level, in (0, 1).
        permutations: B, at least 1/alpha − 1. The smallest p-value is 1/(B + 1).
        paired: Row i of both batches belongs together; N = M.
        generator: What to draw from, on any device; None is torch's own.

    Returns:
        The outcome as plain numbers, which ``print`` puts in words; see
        :class:`~xmodal_losses.two_sample.KernelTestResult`.

    Raises:
        TypeError: If an input is not a floating-point tensor, or the kernel no kernel.
        ValueError: If shapes do not fit together, an option is out of range, or a value
            is not finite. (A verdict is worth waiting for the device.)

    Examples:
        >>> import torch, xmodal_losses as xl
        >>> a, b = torch.zeros(9, 2), torch.ones(9, 2)
        >>> xl.two_sample.kernel_test(a, b, xl.GaussianKernel(1.0)).rejected
        True
    """
    caller = "kernel_test"
    check_test(caller, z_a, z_b, alpha, permutations, paired, generator)
    check_kernel(caller, kernel)
    # Estimates that are equal on paper have to be so up to a rounding error that is
    # far below any difference.
    wide = precision.sum_dtype(z_a)
    training = kernel.training
    kernel.eval()
    try:
        with torch.no_grad():
            matrices = gram(kernel, z_a.to(wide), z_b.to(wide))
    finally:
        kernel.train(training)
    draw = _exchanged if paired else _relabelled
    found = draw(matrices, permutations, generator)
    require.finite(caller, "kernel", found, where=" on the samples")
    statistic, null = found[0], found[1:]
    size = sum(k.abs().mean() for k in matrices) * torch.finfo(found.dtype).eps * 16
    # Relabelled estimates that are equal but for rounding count as reached.
    least = (null + size).sort(descending=True).values
    p_value = (1 + int((least >= statistic).sum())) / (permutations + 1)
    # If no more than so many reach the estimate, p ≤ α.
    allowed = (
        sum((1 + r) / (permutations + 1) <= alpha for r in range(permutations)) - 1
    )
    return KernelTestResult(
        rejected=p_value <= alpha,
        p_value=p_value,
        alpha=alpha,
        statistic=statistic.item(),
        threshold=least[allowed].item(),
        n=z_a.shape[0],
        m=z_b.shape[0],
        paired=paired,
        null=null,
    )


def _relabelled(
    matrices: Gram, count: int, generator: torch.Generator | None
) -> Tensor:
    """Return the two-sample U-statistic as found, and of relabelled pools."""
    n, m = matrices.xy.shape
    k = _hollow(matrices.pooled())
    draws = uniform((count, n + m), k.device, generator)
    sign = k.new_full((1 + count, n + m), -1.0)
    sign[0, :n] = 1.0
    sign[1:].scatter_(1, draws.argsort(1)[:, :n], 1.0)
    # With s = ±1, sums within the batches and across are ¼ Σ (1 ± s_i)(1 ± s_j) k_ij:
    # one product for all of them.
    of_rows, total = k.sum(1), k.sum()
    square, single = (sign * (sign @ k)).sum(1), sign @ of_rows
    xx = (total + 2 * single + square) / (4 * n * (n - 1))
    yy = (total - 2 * single + square) / (4 * m * (m - 1))
    xy = (total - square) / (4 * n * m)
    return xx + yy - 2 * xy


def _exchanged(matrices: Gram, count: int, generator: torch.Generator | None) -> Tensor:
    """Return the one-sample U-statistic as found, and with pairs exchanged."""
    xx, yy, xy = matrices
    h = _hollow(xx + yy - xy - xy.mT)
    n = h.shape[0]
    sign = h.new_ones((1 + count, n))
    # A pair that is exchanged turns the sign of its row and column of H.
    sign[1:] -= 2 * (uniform((count, n), h.device, generator) < 0.5).to(h.dtype)
    return (sign * (sign @ h)).sum(1) / (n * (n - 1))


def _hollow(k: Tensor) -> Tensor:
    """Return a wide copy without the diagonal."""
    return k.to(precision.sum_dtype(k), copy=True).fill_diagonal_(0.0)


def check_test(
    caller: str,
    z_a: Tensor,
    z_b: Tensor,
    alpha: float,
    permutations: int,
    paired: bool,
    generator: torch.Generator | None,
    min_rows: int = 2,
) -> None:
    """Check what tests have in common."""
    checks.flag(caller, "paired", paired)
    checks.number(caller, "alpha", alpha, above=0.0, below=1.0)
    require.draws(caller, "permutations", permutations, alpha)
    checks.generator(caller, generator)
    require.batches(caller, z_a, z_b, paired=paired, min_rows=min_rows)
