"""The pooled sample of two batches: what rules take a bandwidth from."""

import math
from collections.abc import Sequence

import torch
from torch import Tensor

from xmodal_losses._core import moments, precision
from xmodal_losses._core.pairs.kernel_mean import Pairs
from xmodal_losses._core.ranks import Ranks
from xmodal_losses._core.reduce import inverse


class Pool:
    """The pooled sample: where it lies, and what bandwidth rules look at.

    It takes no part in gradients. With weights, the rows of positive weight are the
    sample, each counted once.

    Args:
        z: Rows ``(…, N, D)``.
        weight: ``(…, N)``.
    """

    def __init__(self, z: Tensor, weight: Tensor | None = None) -> None:
        self.valid = None if weight is None else weight != 0
        self.moments = moments.moments(z.detach(), self.valid)
        self._mean: Tensor | None = None
        self._median: Tensor | None = None

    @property
    def like(self) -> Tensor:
        """Some tensor of the dtype and device of the sample, ``(…, D)``."""
        return self.moments.mean

    def columns(self, start: int, stop: int) -> "Pool":
        """Return the pooled sample of some of the columns, about its mean."""
        return Pool(self.moments.rows[..., start:stop], self.valid)

    def mean(self) -> Tensor:
        """Return the mean of the sample, ``(…, 1, D)``."""
        return (self.moments.origin + self.moments.mean).unsqueeze(-2)

    def mean_squared_distance(self) -> Tensor:
        """Return the mean of ‖z_i − z_j‖² over i ≠ j, ``(…)``: twice the trace of S."""
        if self._mean is None:
            self._mean = 2 * moments.variance(self.moments).sum(-1)
        return self._mean

    def median_squared_distance(self) -> Tensor:
        """Return the median of ‖z_i − z_j‖² over i < j, ``(…)``.

        It holds all pairs. Of more than ``MOST`` rows it is that of ``MOST`` of them,
        the same ones for the same number.
        """
        if self._median is None:
            z = moments.drop(self.moments.rows, self.valid)
            valid, n = self.valid, z.shape[-2]
            if n > MOST:
                rows = spread(n, MOST, z.device)
                z = z.index_select(-2, rows)
                valid = None if valid is None else valid.index_select(-1, rows)
                n = MOST
            i, j = torch.triu_indices(n, n, 1, device=z.device)
            d2 = Pairs(z, z).squared_distance()[..., i, j]
            if valid is None:
                pairs = d2.new_full((*d2.shape[:-1], 1), d2.shape[-1], dtype=torch.long)
            else:
                kept = valid[..., i] & valid[..., j]
                d2 = d2.masked_fill(~kept, torch.inf)
                pairs = kept.sum(-1, keepdim=True)
            # The two in the middle, which are one for an odd number of pairs.
            middle = torch.cat(((pairs - 1) // 2, pairs // 2), -1).clamp_min(0)
            median = d2.sort(-1).values.gather(-1, middle).mean(-1)
            self._median = median.masked_fill(pairs.squeeze(-1) == 0, 0.0)
        return self._median


# Rows whose pairs the median looks at: two million distances, sorted.
MOST = 2048


def spread(n: int, count: int, device: torch.device) -> Tensor:
    """Return ``count`` different indices below n, spread evenly and without a period.

    Multiples of n/φ modulo n: of all sequences this one is furthest from repeating,
    so that no order the rows may have (patches of one image after the other) shows.
    """
    step = round(n / ((1 + math.sqrt(5)) / 2))
    while math.gcd(step, n) > 1:
        step += 1
    return torch.arange(count, device=device) * step % n


class PoolAcrossRanks(Pool):
    """The pooled sample of batches that lie on several ranks.

    Args:
        x: Rows of this rank, ``(n, D)``.
        y: Rows of this rank, ``(m, D)``.
        weight_x: ``(n,)``, or None.
        weight_y: ``(m,)``; None if ``weight_x`` is.
        ranks: The ranks.
        counts: Rows of x, and of y, on every rank.
    """

    def __init__(
        self,
        x: Tensor,
        y: Tensor,
        weight_x: Tensor | None,
        weight_y: Tensor | None,
        ranks: Ranks,
        counts: Sequence[Sequence[int]],
    ) -> None:
        self._ranks, self._counts = ranks, counts
        self._batches = (x.detach(), weight_x), (y.detach(), weight_y)
        z = torch.cat((x, y)).detach().to(precision.sum_dtype(x))
        if weight_x is None or weight_y is None:
            valid = z.new_ones(z.shape[0])
        else:
            valid = (torch.cat((weight_x, weight_y)) != 0).to(z.dtype)
        total, first = ranks.sums((valid.sum(), valid @ z))
        mean = first * inverse(total)
        squares = ranks.sum(valid @ (z - mean).square().sum(-1))
        self._centre = mean.to(x.dtype).unsqueeze(-2)
        # Over i ≠ j: twice the variance.
        self._mean = (2 * squares * inverse(total - 1)).to(x.dtype)
        self._median = None

    def columns(self, start: int, stop: int) -> "PoolAcrossRanks":
        (x, w_x), (y, w_y) = self._batches
        x, y = x[..., start:stop], y[..., start:stop]
        return PoolAcrossRanks(x, y, w_x, w_y, self._ranks, self._counts)

    @property
    def like(self) -> Tensor:
        return self._centre.squeeze(-2)

    def mean(self) -> Tensor:
        return self._centre

    def median_squared_distance(self) -> Tensor:
        if self._median is None:
            rows, weights = [], []
            for (z, weight), counts, chosen in zip(
                self._batches, self._counts, self._chosen(), strict=True
            ):
                start = sum(counts[: self._ranks.rank])
                own = chosen[self._ranks.rank].to(z.device) - start
                some = [len(part) for part in chosen]
                rows += self._ranks.gather(z.index_select(0, own), some, 0)
                if weight is not None:
                    weight = weight.index_select(0, own)
                    weights += self._ranks.gather(weight, some, 0)
            pool = Pool(torch.cat(rows), torch.cat(weights) if weights else None)
            self._median = pool.median_squared_distance()
        return self._median

    def _chosen(self) -> list[list[Tensor]]:
        """Return the rows of x and of y on every rank that the median looks at.

        They are those it looks at where all rows are in one place, x before y.
        """
        n = sum(map(sum, self._counts))
        index = torch.arange(n)
        if n > MOST:
            index = spread(n, MOST, index.device).sort().values
        out, start = [], 0
        for counts in self._counts:
            first, parts = start, []
            for count in counts:
                inside = (index >= start) & (index < start + count)
                parts.append(index[inside] - first)
                start += count
            out.append(parts)
        return out
