r"""The power of a kernel: what it is chosen by before a test.

Where the laws differ, the estimate of an MMD from N rows of either is nearly normal,
:math:`\sqrt{N} (\widehat{\mathrm{MMD}}{}^2 - \mathrm{MMD}^2) \to \mathcal{N}(0,
\sigma^2)`, and a test with it has a power that grows with
:math:`J = \mathrm{MMD}^2 / \sigma` (:cite:t:`liu2020learning`, Eq. 3–5). J does not
depend on the scale of the kernel. For a sum of kernels with weights
:math:`\beta \ge 0` it is largest, with the mean and the covariance of what they
estimate, at the solution of a quadratic programme (:cite:t:`gretton2012optimal`).
"""

import torch
from torch import Tensor

from xmodal_losses._core import checks
from xmodal_losses.distribution.base_kernel import Kernel, check_kernel
from xmodal_losses.distribution.gram import gram
from xmodal_losses.distribution.mmd_variance import (
    STATISTICS,
    Statistic,
    estimate,
    first_order,
    influences,
)
from xmodal_losses.distribution.multi_kernel import MultiKernel
from xmodal_losses.two_sample import require

__all__ = ["fit_weights", "power_criterion"]


def power_criterion(
    z_a: Tensor,
    z_b: Tensor,
    kernel: Kernel,
    *,
    estimator: Statistic = "unbiased",
    ridge: float = 1e-8,
) -> Tensor:
    """Return J = MMD²/√(σ² + ridge), which is to be **maximised** over the kernel.

    Args:
        z_a: Embeddings of modality *a*, shape ``(…, N, D)``.
        z_b: Embeddings of modality *b*, shape ``(…, M, D)``.
        kernel: Any kernel; J is differentiable in its parameters, and in the rows.
        estimator: ``"unbiased"``: both samples are independent, N, M ≥ 2. ``"paired"``
            (N = M): rows belong together; also Eq. 4 and 5 of the paper, which takes
            rows of independent samples for pairs, in the order they come in.
        ridge: Added to σ², the variance of the estimate to first order times N (of
            N ≠ M rows, times their harmonic mean).

    Returns:
        Shape ``(…)``; more is better.

    Examples:
        >>> import torch, xmodal_losses as xl
        >>> kernel = xl.DeepKernel(torch.nn.Linear(3, 2))
        >>> a, b = torch.randn(2, 50, 3)
        >>> (-xl.two_sample.power_criterion(a, b, kernel)).backward()
    """
    _check("power_criterion", z_a, z_b, kernel, estimator, ridge)
    matrices = gram(kernel, z_a, z_b)
    variance = _rows(matrices.xy) * first_order(matrices, estimator)
    criterion = estimate(matrices, estimator) / (variance + ridge).sqrt()
    return criterion.to(matrices.xy.dtype)


def fit_weights(
    z_a: Tensor,
    z_b: Tensor,
    kernel: MultiKernel,
    *,
    estimator: Statistic = "unbiased",
    ridge: float = 1e-4,
) -> MultiKernel:
    """Return the sum of kernels whose weights ≥ 0 have the largest J.

    They minimise β'(Q + ridge·I)β with β'd = 1, d being the estimates of the kernels
    and Q their covariance to first order, times N, and are then scaled to the sum of
    those of ``kernel``. Where no estimate is positive, all weight is on the kernel of
    the largest J.

    Args:
        z_a: Embeddings of modality *a*, shape ``(N, D)``: rows that are not tested.
        z_b: Embeddings of modality *b*, shape ``(M, D)``.
        kernel: The kernels. Their weights do not count, their bandwidths stay as they
            are.
        estimator: As in :func:`~xmodal_losses.two_sample.power_criterion`.
        ridge: > 0, as in the formula; the default is that of the paper.

    Returns:
        A sum of the same kernels.

    Examples:
        >>> import torch, xmodal_losses as xl
        >>> a, b = torch.randn(2, 100, 3)
        >>> sums = xl.MultiKernel([xl.GaussianKernel(s) for s in (0.5, 1.0, 2.0)])
        >>> fitted = xl.two_sample.fit_weights(a, b + 1, sums)
    """
    if not isinstance(kernel, MultiKernel):
        raise TypeError(
            f"fit_weights: kernel must be a MultiKernel, got {type(kernel).__name__}."
        )
    _check("fit_weights", z_a, z_b, kernel, estimator, ridge)
    # Without it, kernels of one value each could not be told apart.
    checks.number("fit_weights", "ridge", ridge, above=0.0)
    require.batches("fit_weights", z_a, z_b, paired=estimator == "paired")
    estimates: list[Tensor] = []
    found: list[list[Tensor]] = []
    with torch.no_grad():
        for member in kernel.kernels:
            assert isinstance(member, Kernel)
            matrices = gram(member, z_a, z_b)
            estimates.append(estimate(matrices, estimator))
            found.append(influences(matrices, estimator))
        d = torch.stack(estimates).double().cpu()
        q = ridge * torch.eye(len(d), dtype=d.dtype)
        for sample in zip(*found, strict=True):
            of_rows = torch.stack(sample).double().cpu()  # (U, N)
            of_rows = of_rows - of_rows.mean(-1, keepdim=True)
            n = of_rows.shape[-1]
            q += 4 * _rows(matrices.xy) / n**2 * (of_rows @ of_rows.mT)
        require.finite("fit_weights", "kernel", d, q, where=" on the samples")
        if (d > 0).any():
            beta = _non_negative(q, d)
        else:
            best = (d / q.diagonal().sqrt()).argmax()
            beta = torch.nn.functional.one_hot(best, len(d)).to(d.dtype)
        total = float(torch.as_tensor(kernel.weights).sum())
        beta = beta * (total / beta.sum())
    members = [member for member in kernel.kernels if isinstance(member, Kernel)]
    return MultiKernel(members, weights=beta.tolist())


def _rows(xy: Tensor) -> float:
    """Return N, or the harmonic mean of N and M."""
    n, m = xy.shape[-2:]
    return 2 * n * m / (n + m)


def _non_negative(q: Tensor, d: Tensor) -> Tensor:
    """Return the β ≥ 0 that minimises ½β'Qβ − d'β, by active sets (Lawson–Hanson).

    Of all β ≥ 0 its direction is the one of the largest d'β/√(β'Qβ).
    """
    beta = torch.zeros_like(d)
    free = torch.zeros_like(d, dtype=torch.bool)
    # In theory it ends by itself; rounding could make it go in a circle.
    for _ in range(3 * len(d)):
        slope = (d - q @ beta).masked_fill(free, -torch.inf)
        if slope.max() <= 1e-12 * d.abs().max():
            break
        free[slope.argmax()] = True
        while True:
            best = torch.zeros_like(d)
            best[free] = torch.linalg.solve(q[free][:, free], d[free])
            out = free & (best < 0)
            if not out.any():
                break
            # As far as the first that would turn negative, which stays at 0.
            reach = (beta / (beta - best)).masked_fill(~out, torch.inf)
            first = reach.argmin()
            beta = beta + reach[first] * (best - beta)
            free[first] = False
        beta = best
    return beta


def _check(
    caller: str,
    z_a: Tensor,
    z_b: Tensor,
    kernel: object,
    estimator: object,
    ridge: object,
) -> None:
    check_kernel(caller, kernel)
    checks.option(caller, "estimator", estimator, STATISTICS)
    checks.number(caller, "ridge", ridge, at_least=0.0)
    checks.embeddings(caller, z_a, z_b, paired=estimator == "paired", min_rows=2)
