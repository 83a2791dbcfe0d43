r"""Quadratic forms :math:`\sum_{i<j} s_i s_j C_{ij}` of many signs and many matrices.

Every statistic of every draw is one: of a matrix C of the kernel, and the signs of the
draw. One product per tile of C serves all draws; tiles are made when they are used, so
that no matrix is held.

Entries are made in float64, where what nearly cancels does so, and multiplied in the
dtype of the result.
"""

from collections.abc import Callable, Iterator
from typing import NamedTuple, TypeAlias

import torch
from torch import Tensor

from xmodal_losses._core import pairs

Entries: TypeAlias = Callable[[slice, slice], Iterator[tuple[Tensor, Tensor]]]
"""Of some rows and columns, for every kernel: the entries C_ij, and those of k."""


class Forms(NamedTuple):
    """The forms of U matrices and B draws, and what of them is rounding."""

    values: Tensor  # (U, B)
    noise: Tensor  # (U,): values nearer to each other than this are equal


class _Pairs(pairs.Pairs):
    """Pairs that need no gradient: L1 distances without an N×M×D tensor."""

    def columns(self, start: int, stop: int) -> "_Pairs":
        return _Pairs(self.x[..., start:stop], self.y[..., start:stop])

    def manhattan(self) -> Tensor:
        return torch.cdist(self.x, self.y, p=1.0)


def swapped(kernels: list[pairs.Kernel], x: Tensor, y: Tensor) -> Entries:
    """Return h_ij = k(x_i, x_j) + k(y_i, y_j) − k(x_i, y_j) − k(y_i, x_j).

    To swap x_i and y_i is to change the sign of row and column i.
    """

    def entries(i: slice, j: slice) -> Iterator[tuple[Tensor, Tensor]]:
        known = _Pairs(torch.cat((x[i], y[i])), torch.cat((x[j], y[j])))
        rows, columns = i.stop - i.start, j.stop - j.start
        for kernel in kernels:
            k = kernel(known)
            same = k[:rows, :columns] + k[rows:, columns:]
            yield same - k[:rows, columns:] - k[rows:, :columns], k

    return entries


def pooled(kernels: list[pairs.Kernel], z: Tensor, size: int) -> Entries:
    """Return k(z_i, z_j) − f_i − f_j, with f such that all rows sum to 0 without i = j.

    A U-statistic does not see what depends on one row alone. Without it, the three sums
    it is made of, over the pairs in x, in y and across, are one.
    """
    n = len(z)
    sums = z.new_zeros(len(kernels), n)
    for i, j in tiles(n, n - 1, size):
        known, keep = _Pairs(z[i], z[j]), _kept(i, j, n - 1, z.device)
        for of_rows, kernel in zip(sums, kernels, strict=True):
            k = kernel(known)
            k = k if keep is None else k.masked_fill(~keep, 0.0)
            of_rows[i] += k.sum(1)
            of_rows[j] += k.sum(0)
    total = sums.sum(1, keepdim=True) / (2 * (n - 1))
    f = (sums - total) / (n - 2)

    def entries(i: slice, j: slice) -> Iterator[tuple[Tensor, Tensor]]:
        known = _Pairs(z[i], z[j])
        for of_rows, kernel in zip(f, kernels, strict=True):
            k = kernel(known)
            yield k - of_rows[i, None] - of_rows[None, j], k

    return entries


def forms(
    entries: Entries,
    kernels: int,
    signs: Tensor,
    reach: int,
    size: int,
    dtype: torch.dtype,
) -> Forms:
    """Return the forms over the pairs with 0 < j − i ≤ ``reach``.

    Args:
        entries: Makes the matrices.
        kernels: Their number U.
        signs: ±1, ``(N, B)``.
        reach: How far from the diagonal pairs count; N − 1 is all.
        size: Edge of the tiles.
        dtype: That of the products.
    """
    n, draws = signs.shape
    values: Tensor | None = None
    for i, j in tiles(n, reach, size):
        left, right = signs[i].to(dtype), signs[j].to(dtype)
        keep = _kept(i, j, reach, signs.device)
        for u, (c, k) in enumerate(entries(i, j)):
            if values is None:
                values = c.new_zeros(kernels, draws)
                squares = c.new_zeros(2, kernels)
            c = c if keep is None else c.masked_fill(~keep, 0.0)
            values[u] += (left * (c.to(dtype) @ right)).sum(0)
            squares[0, u] += c.square().sum()
            squares[1, u] += k.square().sum()
    assert values is not None
    # Draws that are equal on paper (and of few rows, or of equal rows, many are) have
    # been added up in different orders. A sum of N² products of random signs is of the
    # size of the root of the sum of squares, and so are its errors.
    roots = squares.sqrt()
    exact = torch.finfo(roots.dtype).eps
    noise = 64 * torch.finfo(dtype).eps * roots[0] + 1024 * exact * roots[1]
    return Forms(values, noise)


def tiles(n: int, reach: int, size: int) -> Iterator[tuple[slice, slice]]:
    """Yield the tiles of an N×N matrix in which 0 < j − i ≤ ``reach`` somewhere."""
    for start in range(0, n, size):
        stop = min(start + size, n)
        for column in range(start, min(stop + reach, n), size):
            yield slice(start, stop), slice(column, min(column + size, n))


def _kept(i: slice, j: slice, reach: int, device: torch.device) -> Tensor | None:
    """Return where 0 < j − i ≤ ``reach``; None if that is everywhere."""
    if j.start >= i.stop and j.stop - 1 - i.start <= reach:
        return None
    rows = torch.arange(i.start, i.stop, device=device)[:, None]
    ahead = torch.arange(j.start, j.stop, device=device) - rows
    return (ahead > 0) & (ahead <= reach)
