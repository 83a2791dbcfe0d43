"""Learning a kernel for a test, and testing with it.

The rows are divided (:cite:t:`liu2020learning`, Alg. 1): on one part the kernel's
parameters (a network, bandwidths, ε, weights of a sum) maximise the power criterion, on
the other the batches are tested with it. A kernel learned on the rows it tests would
find differences in any two batches.
"""

from typing import NamedTuple

import torch
from torch import Tensor

from xmodal_losses._core import checks
from xmodal_losses.distribution.base_kernel import Kernel, check_kernel
from xmodal_losses.distribution.mmd_variance import STATISTICS, Statistic
from xmodal_losses.two_sample import require
from xmodal_losses.two_sample.power import power_criterion
from xmodal_losses.two_sample.relabelling import check_test, kernel_test
from xmodal_losses.two_sample.result import KernelTestResult

__all__ = ["deep_kernel_test", "fit_kernel", "split"]


class Split(NamedTuple):
    """Two batches, divided."""

    train_a: Tensor
    train_b: Tensor
    test_a: Tensor
    test_b: Tensor


def deep_kernel_test(
    z_a: Tensor,
    z_b: Tensor,
    kernel: Kernel,
    *,
    train_fraction: float = 0.5,
    optimizer: torch.optim.Optimizer | None = None,
    steps: int = 1000,
    batch_size: int | None = None,
    ridge: float = 1e-8,
    alpha: float = 0.05,
    permutations: int = 499,
    paired: bool = False,
    generator: torch.Generator | None = None,
) -> KernelTestResult:
    """Test whether two batches have one distribution, with a kernel learned on a part.

    :func:`~xmodal_losses.two_sample.split`, then
    :func:`~xmodal_losses.two_sample.fit_kernel`, then
    :func:`~xmodal_losses.two_sample.kernel_test`; call these where the parts are known.

    Args:
        z_a: Embeddings of modality *a*, shape ``(N, D)``, N ≥ 4.
        z_b: Embeddings of modality *b*, shape ``(M, D)``, M ≥ 4.
        kernel: A kernel with parameters: a :class:`~xmodal_losses.DeepKernel`, or any
            with ``learn=True``. It is trained in place.
        train_fraction: Share of either batch that the kernel is learned on, in (0, 1).
        optimizer: As in :func:`~xmodal_losses.two_sample.fit_kernel`.
        steps: As there.
        batch_size: As there.
        ridge: As there.
        alpha: The level, in (0, 1).
        permutations: B, at least 1/alpha − 1. The smallest p-value is 1/(B + 1).
        paired: Row i of both batches belongs together; N = M.
        generator: What to draw from, on any device; None is torch's own.

    Returns:
        The result, of the rows that were tested.

    Raises:
        TypeError: If an input is not a floating-point tensor, or the kernel no kernel.
        ValueError: If shapes do not fit together or an option is out of range.

    Examples:
        >>> import torch, xmodal_losses as xl
        >>> kernel = xl.DeepKernel(torch.nn.Linear(2, 4))
        >>> a, b = torch.zeros(20, 2), torch.ones(20, 2)
        >>> result = xl.two_sample.deep_kernel_test(a, b, kernel, steps=2)
        >>> result.rejected
        True
    """
    caller = "deep_kernel_test"
    check_test(caller, z_a, z_b, alpha, permutations, paired, generator, min_rows=4)
    estimator: Statistic = "paired" if paired else "unbiased"
    parts = split(z_a, z_b, fraction=train_fraction, paired=paired, generator=generator)
    fit_kernel(
        parts.train_a,
        parts.train_b,
        kernel,
        optimizer=optimizer,
        steps=steps,
        batch_size=batch_size,
        estimator=estimator,
        ridge=ridge,
        generator=generator,
    )
    return kernel_test(
        parts.test_a,
        parts.test_b,
        kernel,
        alpha=alpha,
        permutations=permutations,
        paired=paired,
        generator=generator,
    )


def fit_kernel(
    z_a: Tensor,
    z_b: Tensor,
    kernel: Kernel,
    *,
    optimizer: torch.optim.Optimizer | None = None,
    steps: int = 1000,
    batch_size: int | None = None,
    estimator: Statistic = "unbiased",
    ridge: float = 1e-8,
    generator: torch.Generator | None = None,
) -> Tensor:
    """Maximise the power criterion over the parameters of a kernel, in place.

    Args:
        z_a: Embeddings of modality *a*, shape ``(N, D)``: rows that are not tested.
            They get no gradient.
        z_b: Embeddings of modality *b*, shape ``(M, D)``.
        kernel: A kernel with parameters.
        optimizer: Any optimiser, of those parameters of the kernel that are to be
            learned. None is Adam of all, with the paper's step, 5e-4.
        steps: Steps of the optimiser.
        batch_size: Rows of either batch in a step, drawn anew each time; None is all.
        estimator: As in :func:`~xmodal_losses.two_sample.power_criterion`.
        ridge: As there.
        generator: What to draw the rows of a step from; None is torch's own.

    Returns:
        The criterion before each step, ``(steps,)``.

    Raises:
        TypeError: If an input is not a floating-point tensor, or the kernel no kernel.
        ValueError: If there is nothing to learn, shapes do not fit together or an
            option is out of range.

    Examples:
        >>> import torch, xmodal_losses as xl
        >>> kernel = xl.GaussianKernel(1.0, learn=True)
        >>> adam = torch.optim.Adam(kernel.parameters(), lr=0.1)
        >>> a, b = torch.randn(2, 50, 3)
        >>> history = xl.two_sample.fit_kernel(a, b, kernel, optimizer=adam, steps=5)
    """
    caller = "fit_kernel"
    check_kernel(caller, kernel)
    checks.option(caller, "estimator", estimator, STATISTICS)
    checks.count(caller, "steps", steps)
    checks.generator(caller, generator)
    paired = estimator == "paired"
    require.batches(caller, z_a, z_b, paired=paired)
    if batch_size is not None:
        fewest = min(z_a.shape[0], z_b.shape[0])
        checks.count(
            caller, "batch_size", batch_size, at_most=fewest, of="rows of a batch"
        )
        if batch_size == 1:
            raise ValueError(f"{caller}: batch_size must be >= 2, got 1.")
    if not any(p.requires_grad for p in kernel.parameters()):
        got = type(kernel).__name__
        raise ValueError(
            f"{caller}: kernel must have parameters to learn, got {got} with none. See "
            "learn=True of kernels, and DeepKernel."
        )
    if not isinstance(optimizer, (torch.optim.Optimizer, type(None))):
        raise TypeError(
            f"{caller}: optimizer must be a torch.optim.Optimizer or None, got "
            f"{type(optimizer).__name__}."
        )
    if optimizer is None:
        optimizer = torch.optim.Adam(kernel.parameters(), lr=5e-4)
    # Only the kernel is learned: rows are, to it, constants.
    z_a, z_b = z_a.detach(), z_b.detach()
    history: list[Tensor] = []
    for _ in range(steps):
        x, y = z_a, z_b
        if batch_size is not None:
            at_x = _draw(x, generator)[:batch_size]
            at_y = at_x if paired else _draw(y, generator)[:batch_size]
            x, y = x[at_x], y[at_y]
        history.append(_step(optimizer, x, y, kernel, estimator, ridge))
    return torch.stack(history)


def _step(
    optimizer: torch.optim.Optimizer,
    x: Tensor,
    y: Tensor,
    kernel: Kernel,
    estimator: Statistic,
    ridge: float,
) -> Tensor:
    """Do a step; return the criterion before it."""
    values: list[Tensor] = []

    def loss() -> Tensor:
        optimizer.zero_grad()
        value = -power_criterion(x, y, kernel, estimator=estimator, ridge=ridge)
        value.backward()  # type: ignore[no-untyped-call]
        values.append(-value.detach())
        return value

    # Some optimisers ask more than once.
    optimizer.step(loss)  # type: ignore[arg-type]  # as all of them say
    return values[0]


def split(
    z_a: Tensor,
    z_b: Tensor,
    *,
    fraction: float = 0.5,
    paired: bool = False,
    generator: torch.Generator | None = None,
) -> Split:
    """Divide two batches at random, one part to learn a kernel and one to test with it.

    Args:
        z_a: Embeddings of modality *a*, shape ``(N, D)``, N ≥ 4.
        z_b: Embeddings of modality *b*, shape ``(M, D)``, M ≥ 4.
        fraction: Share of either batch that goes to the first part, in (0, 1). Each
            part has at least two rows.
        paired: Keep rows i of both together; N = M.
        generator: What to draw from, on any device; None is torch's own.

    Returns:
        ``train_a``, ``train_b``, ``test_a`` and ``test_b``.

    Examples:
        >>> import torch, xmodal_losses as xl
        >>> a, b = torch.randn(2, 10, 3)
        >>> train_a, train_b, test_a, test_b = xl.two_sample.split(a, b)
    """
    checks.flag("split", "paired", paired)
    checks.number("split", "fraction", fraction, above=0.0, below=1.0)
    checks.generator("split", generator)
    require.batches("split", z_a, z_b, paired=paired, min_rows=4)
    at_a = _draw(z_a, generator)
    at_b = at_a if paired else _draw(z_b, generator)
    (train_a, test_a), (train_b, test_b) = (
        (z[at[:count]], z[at[count:]])
        for z, at in ((z_a, at_a), (z_b, at_b))
        for count in (min(max(round(fraction * len(z)), 2), len(z) - 2),)
    )
    return Split(train_a, train_b, test_a, test_b)


def _draw(z: Tensor, generator: torch.Generator | None) -> Tensor:
    """Return the rows in a random order."""
    source = z.device if generator is None else generator.device
    return torch.randperm(len(z), generator=generator, device=source).to(z.device)
