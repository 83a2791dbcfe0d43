r"""MMDAgg: do two samples differ in distribution, by any of many kernels?

The squared MMD of two samples says little by itself: how large is large? A test draws
it again and again under the null, that both have one distribution, and asks how often
it is as large. Which bandwidth to take is asked here by taking all of a collection, and
correcting the level for it without giving away more than need be: with weights
:math:`w_\lambda`, the p-value of kernel λ has to be below :math:`\hat{u}\, w_\lambda`,
where :math:`\hat{u}` is the largest number at which draws of the null are rejected no
more often than α.

- ``"wild_bootstrap"``, of N pairs: the statistic is the mean over i ≠ j of
  :math:`h_{ij} = k(x_i, x_j) + k(y_i, y_j) - k(x_i, y_j) - k(y_i, x_j)`, and a draw
  swaps :math:`x_i` with :math:`y_i` for every other i or so, which changes the sign of
  row and column i of h. It leaves pairs together, so that rows of x and y may depend on
  each other as those of registered images do.
- ``"permutation"``, of any N and M: the two-sample U-statistic, and a draw deals all
  rows out again, which is right for independent samples only.

The level is exact, for any N, where swapping (permuting) leaves the law of the data
as it is; of pairs with equal marginals that may not be swapped it is so as N grows.

``num_diagonals`` = R keeps the pairs with 0 < j − i ≤ R, of NR instead of N² terms.

Numerics: kernels in float64, products of all draws in float32 (float64 for such input)
of centred entries; draws that are equal but for rounding are equal. Cost: N²B/2
multiply-adds per kernel for B draws of N pairs, four times as many for permutations of
N + M = 2N rows, and O(N B) memory: one byte per row and draw, and some tiles.

References: :cite:t:`schrab2023mmd`, Algorithm 1; the incomplete test:
:cite:t:`schrab2022efficient`.
"""

from collections.abc import Sequence
from typing import Literal, TypeAlias

import torch
from torch import Tensor

from xmodal_losses._core import checks, precision
from xmodal_losses._core.pairs import Pool
from xmodal_losses.two_sample import draws, require
from xmodal_losses.two_sample.aggregate import aggregate
from xmodal_losses.two_sample.collection import Choice, Kernels, Weighting
from xmodal_losses.two_sample.quadratic import Forms, forms, pooled, swapped
from xmodal_losses.two_sample.result import KernelVerdict, MMDAggResult

Resampling: TypeAlias = Literal["auto", "wild_bootstrap", "permutation"]
RESAMPLINGS = ("auto", "wild_bootstrap", "permutation")
# Edge of a tile. Half of the tiles on the diagonal is made in vain, so they are small;
# a GPU wants work for all its processors at once (not measured yet).
_EDGE, _EDGE_ELSEWHERE = {"cpu": 256}, 1024


@torch.no_grad()
def mmd_agg(
    x: Tensor,
    y: Tensor,
    *,
    alpha: float = 0.05,
    kernels: Kernels = ("laplace", "gaussian"),
    num_bandwidths: int = 10,
    weights: Weighting | Sequence[float] = "uniform",
    paired: bool = False,
    ids: Tensor | None = None,
    resampling: Resampling = "auto",
    num_diagonals: int | None = None,
    quantile_draws: int = 2000,
    level_draws: int = 2000,
    chunk_size: int | None = None,
    generator: torch.Generator | None = None,
) -> MMDAggResult:
    """Test whether two samples have one distribution.

    Args:
        x: The one sample, ``(N, D)``, N ≥ 2; finite.
        y: The other, ``(M, D)``, M ≥ 2.
        alpha: Level of the test, in (0, 1).
        kernels: The collection. Names stand for a kernel with ``num_bandwidths``
            bandwidths found from the pooled sample: ``"laplace"`` (L1), ``"gaussian"``,
            ``"imq"`` (inverse multiquadric), ``"matern_0.5"``, ``"matern_1.5"``,
            ``"matern_2.5"``. Or kernels of :mod:`xmodal_losses.kernels`, as they are.
        num_bandwidths: Kernels for each name, ≥ 2.
        weights: How the level is shared out: ``"uniform"``, ``"increasing"`` or
            ``"decreasing"`` (in the order of the collection, which for names goes from
            narrow to wide), ``"centred"`` (most for the middle); of several names each
            gets as much. Or one number > 0 per kernel, in any scale.
        paired: Whether row i of x and row i of y belong together, as two views of one
            place do. It takes N = M and the wild bootstrap.
        ids: ``(N,)`` integers: rows of one id (patches of one scene) depend on each
            other, and are swapped all at once. For the wild bootstrap.
        resampling: ``"wild_bootstrap"``, ``"permutation"`` or ``"auto"``: the former
            where N = M, which is four times faster and right for pairs too.
        num_diagonals: R, for the incomplete test, in O(N R) time, of N = M rows by the
            wild bootstrap; their order should mean nothing. None: the complete one.
        quantile_draws: Draws that the quantiles of each kernel are taken from.
        level_draws: Further draws that the correction of the level is taken from, at
            least 1/alpha − 1.
        chunk_size: Edge of the tiles of pairs to hold at a time; changes nothing but
            time and memory. None chooses by device.
        generator: What to draw from, on any device: a generator of the CPU makes the
            same draws on every device. None: the default one of the device of ``x``.

    Returns:
        The outcome as plain numbers, which ``print`` puts in words; see
        :class:`~xmodal_losses.two_sample.MMDAggResult`.

    Raises:
        TypeError: If an input or an option is of another type.
        ValueError: If shapes do not fit together, an option is out of range, or a value
            is not finite. (A verdict is worth waiting for the device.)

    Examples:
        >>> import torch
        >>> from xmodal_losses.two_sample import mmd_agg
        >>> g = torch.Generator().manual_seed(0)
        >>> rgb = torch.randn(100, 8, generator=g)
        >>> ir = 0.8 * rgb + 0.6 * torch.randn(100, 8, generator=g)
        >>> mmd_agg(rgb, ir, paired=True, generator=g).rejected
        False
        >>> mmd_agg(rgb, ir + 0.5, paired=True, generator=g).rejected
        True
    """
    caller = "mmd_agg"
    choice = Choice(caller, kernels, num_bandwidths, weights)
    _check_samples(caller, x, y)
    n, m = len(x), len(y)
    wild = _check_design(caller, n, m, paired, resampling, num_diagonals)
    _check_ids(caller, ids, x, wild)
    _check_draws(caller, alpha, quantile_draws, level_draws)
    if chunk_size is not None:
        checks.count(caller, "chunk_size", chunk_size)
    checks.generator(caller, generator)

    dtype = precision.compute_dtype(x, y)
    wide = precision.sum_dtype(x)
    count = quantile_draws + level_draws
    with precision.no_autocast(x):
        z = torch.cat((x.to(wide), y.to(wide)))
        # What looks at some rows only looks at random ones: which of them are of x is
        # then of no account.
        rows = z[draws.order(n + m, z.device, generator)]
        collection = choice.on(rows)
        pool = Pool(rows)
        bound = [kernel.bind(pool) for kernel in collection]
        size = chunk_size or _EDGE.get(x.device.type, _EDGE_ELSEWHERE)
        if wild:
            signs = draws.swaps(n, count, ids, x.device, generator)
            reach = n - 1 if num_diagonals is None else min(num_diagonals, n - 1)
            if chunk_size is None:
                size = min(size, max(reach, 128))
            entries = swapped(bound, z[:n], z[n:])
            per_pair = 1 / (n * reach - reach * (reach + 1) / 2)
        else:
            signs = draws.splits(n, m, count, x.device, generator)
            reach = n + m - 1
            entries = pooled(bound, z, size)
            # Of sᵀCs the pairs in x, in y and across make a quarter each, the last with
            # the other sign; half of it is in the pairs with i < j.
            per_pair = 1 / (2 * n * (n - 1)) + 1 / (2 * m * (m - 1)) + 1 / (n * m)
        found = forms(entries, len(bound), signs, reach, size, dtype)
    values, noise = _finite(caller, found, per_pair)
    outcome = aggregate(values, noise, choice.weights, quantile_draws, alpha)
    tests = tuple(
        KernelVerdict(*row)
        for row in zip(
            collection,
            choice.weights,
            values[:, 0].tolist(),
            outcome.thresholds,
            outcome.p_values,
            outcome.levels,
            outcome.rejected,
            strict=True,
        )
    )
    clearest = tests[outcome.clearest]
    return MMDAggResult(
        rejected=outcome.p_value <= alpha,
        p_value=outcome.p_value,
        alpha=alpha,
        statistic=clearest.statistic,
        threshold=clearest.threshold,
        kernel=clearest.kernel,
        tests=tests,
        n=n,
        m=m,
        paired=paired,
        resampling="wild_bootstrap" if wild else "permutation",
        num_diagonals=num_diagonals,
        num_ids=None if ids is None else len(torch.unique(ids)),
        draws=(quantile_draws, level_draws),
    )


def _check_samples(caller: str, x: Tensor, y: Tensor) -> None:
    for name, sample in (("x", x), ("y", y)):
        checks.rows(caller, name, sample, 2)
        if sample.ndim != 2:
            raise ValueError(
                f"{caller}: {name} must be one sample (N, D), got shape "
                f"{tuple(sample.shape)}. Test leading dimensions one by one."
            )
    if x.device != y.device:
        raise ValueError(
            f"{caller}: x and y must be on the same device, got {x.device} and "
            f"{y.device}."
        )
    if x.shape[1] != y.shape[1]:
        raise ValueError(
            f"{caller}: x and y must have the same number of columns, got x "
            f"{tuple(x.shape)} and y {tuple(y.shape)}. Project both modalities to one "
            "width first."
        )
    require.finite(caller, "x and y", x, y)


def _check_design(
    caller: str,
    n: int,
    m: int,
    paired: bool,
    resampling: Resampling,
    num_diagonals: int | None,
) -> bool:
    """Return whether it is the wild bootstrap."""
    checks.flag(caller, "paired", paired)
    checks.option(caller, "resampling", resampling, RESAMPLINGS)
    if paired and n != m:
        raise ValueError(
            f"{caller}: x and y must have the same number of rows if paired, got {n} "
            f"and {m}. Row i of x is the partner of row i of y."
        )
    if paired and resampling == "permutation":
        raise ValueError(
            f"{caller}: resampling must be 'wild_bootstrap' or 'auto' if paired, got "
            "'permutation'. Permutations of all rows break up the pairs."
        )
    if resampling == "wild_bootstrap" and n != m:
        raise ValueError(
            f"{caller}: resampling must be 'permutation' or 'auto' for {n} and {m} "
            "rows, got 'wild_bootstrap'. It swaps row i of x with row i of y."
        )
    wild = n == m and resampling != "permutation"
    if num_diagonals is not None:
        checks.count(caller, "num_diagonals", num_diagonals)
        if not wild:
            raise ValueError(
                f"{caller}: num_diagonals must be None for permutations, got "
                f"{num_diagonals}. Take as many rows of x as of y, for the wild "
                "bootstrap."
            )
    return wild


def _check_ids(caller: str, ids: Tensor | None, x: Tensor, wild: bool) -> None:
    checks.row_ids(caller, "ids", ids, x)
    if ids is not None and not wild:
        raise ValueError(
            f"{caller}: ids must be None for permutations, got a tensor. Take as many "
            "rows of x as of y, for the wild bootstrap."
        )


def _check_draws(
    caller: str, alpha: float, quantile_draws: int, level_draws: int
) -> None:
    checks.number(caller, "alpha", alpha, above=0.0, below=1.0)
    checks.count(caller, "quantile_draws", quantile_draws)
    require.draws(caller, "level_draws", level_draws, alpha)


def _finite(caller: str, found: Forms, per_pair: float) -> tuple[Tensor, Tensor]:
    """Return statistics and what of them is rounding, in float64 on the CPU."""
    values, noise = (part.to("cpu").double() * per_pair for part in found)
    require.finite(caller, "kernels", values, where=" on the samples")
    return values, noise
