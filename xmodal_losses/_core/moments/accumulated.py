"""Second moments of batches that come in chunks, and gradients handed back to them.

The sums are float64, about a common mean, and merged by the update of
:cite:t:`chan1983algorithms`: as exact as if all rows had been there at once.
"""

import copy
import math
from collections.abc import Callable
from typing import NamedTuple

import torch
from torch import Tensor

from xmodal_losses._core.linalg import negligible, sqrt
from xmodal_losses._core.moments.energy import sum_of_squares
from xmodal_losses._core.moments.pair import Pair, Spread
from xmodal_losses._core.moments.products import Directions
from xmodal_losses._core.moments.relative import share
from xmodal_losses._core.moments.rows import drop
from xmodal_losses._core.ranks import Ranks
from xmodal_losses._core.reduce import inverse


class Summary(NamedTuple):
    """A :class:`~xmodal_losses._core.moments.Pair` of known second moments."""

    width: int
    present: Tensor
    total_over_dof: Tensor  # (…)
    moments: dict[str, Tensor]
    dtype: torch.dtype = torch.float64  # of what is returned, but for covariances
    ranks: Ranks | None = None

    def mean_gap(self) -> Tensor:
        return self.moments["mean_gap"].to(self.dtype)

    def mean_square_gap(self) -> Tensor:
        return self.moments["square_gap"].to(self.dtype)

    def covariances(self) -> tuple[Tensor, Tensor, Tensor]:
        return self.moments["aa"], self.moments["bb"], self.moments["ab"]

    def along(self, value: Tensor, directions: Directions) -> Tensor:
        c_aa, c_bb, c_ab = self.covariances()
        a, b, rho, slope = directions

        def form(x: Tensor, c: Tensor, y: Tensor) -> Tensor:  # x_kᵀ C y_k
            return (x * (c @ y)).sum(-2)

        f = form(a, c_ab, b) - rho / 2 * (form(a, c_aa, a) + form(b, c_bb, b))
        f = (slope * f).sum(-1)
        return value + (f - f.detach())

    def own_covariances(self) -> tuple[Tensor, Tensor]:
        return self.moments["aa"], self.moments["bb"]

    def covariance_gap(self) -> Tensor:
        gap = self.moments["aa"] - self.moments["bb"]
        return sum_of_squares(gap).to(self.dtype)

    def of_covariances(self, f: Callable[[Tensor, Tensor], Tensor]) -> Tensor:
        return f(self.moments["aa"], self.moments["bb"]).to(self.dtype)

    def relative_covariance_gap(self) -> Tensor:
        a, b = self.moments["aa"], self.moments["bb"]
        sizes = sum_of_squares(a) + sum_of_squares(b)
        return share(sum_of_squares(a - b), sizes).to(self.dtype)

    def relative_mean_gap(self) -> Tensor:
        between = self.moments["mean_gap"].square().sum(-1)
        traces = (
            self.moments[name].diagonal(dim1=-2, dim2=-1).sum(-1)
            for name in ("aa", "bb")
        )
        return share(between, between + 2 * sum(traces)).to(self.dtype)

    def spreads(self) -> tuple[Spread, Spread]:
        a, b = (
            Spread(
                c.diagonal(dim1=-2, dim2=-1).to(self.dtype),
                _off_diagonal_energy(c).to(self.dtype),
            )
            for c in (self.moments["aa"], self.moments["bb"])
        )
        return a, b

    def correlation(
        self, eps: float, *, unbiased: bool = False, target: float = 0.0
    ) -> tuple[Tensor, Tensor]:
        floor = (eps * self.total_over_dof).unsqueeze(-1)
        scales = []
        for name in ("variance_a", "variance_b"):
            variance = self.moments[name]
            of_std = (sqrt(variance) + eps).square()
            squares = of_std if unbiased else variance + floor
            constant = negligible(squares)
            scale = squares.masked_fill(constant, 1.0).rsqrt()
            scales.append(scale.masked_fill(constant, 0.0))
        r = scales[0].unsqueeze(-1) * self.moments["ab"] * scales[1].unsqueeze(-2)
        if unbiased:
            r = r * inverse(self.total_over_dof)[..., None, None]
        one_minus = 1 - r.diagonal(dim1=-2, dim2=-1)
        off_diagonal = _off_diagonal_energy(r - target)
        return one_minus.to(self.dtype), off_diagonal.to(self.dtype)


def _off_diagonal_energy(c: Tensor) -> Tensor:
    diagonal = torch.eye(c.shape[-1], dtype=torch.bool, device=c.device)
    return c.masked_fill(diagonal, 0.0).square().sum((-2, -1))


class Accumulator:
    """Takes two batches in chunk by chunk, and hands gradients out the same way.

    Args:
        names: The moments a loss looks at: "aa", "bb", "ab" (covariances),
            "variance_a", "variance_b", "mean_gap", "square_gap".
        z_a: Some rows, for their shape and device.
        z_b: Some rows of the other batch.
    """

    def __init__(self, names: frozenset[str], z_a: Tensor, z_b: Tensor) -> None:
        self._names = names
        self._a, self._b = Side(z_a), Side(z_b)
        self._square_gap = torch.zeros_like(self._a.total)
        self._products: dict[str, Tensor] = {}
        self._slopes: dict[str, Tensor] = {}

    def update(
        self, z_a: Tensor, z_b: Tensor, weight_a: Tensor | None, weight_b: Tensor | None
    ) -> None:
        """Take a chunk in."""
        z_a, w_a = _wide(z_a, weight_a)
        z_b, w_b = _wide(z_b, weight_b)
        x, y = self._a.update(z_a, w_a), self._b.update(z_b, w_b)
        for name, left, right in (("aa", x, x), ("bb", y, y), ("ab", x, y)):
            if name in self._names:
                product = left.mT @ right
                self._products[name] = self._products.get(name, 0.0) + product
        if "square_gap" in self._names:
            squares = (z_a - z_b).square().sum(-1)
            self._square_gap = self._square_gap + (w_a * squares).sum(-1)

    def joined(self, ranks: Ranks) -> "Accumulator":
        """Return what all ranks have taken in together; this one may take in more."""
        out = copy.copy(self)
        out._a, out._b = copy.copy(self._a), copy.copy(self._b)
        out._products = dict(self._products)
        out.join(ranks)
        return out

    def join(self, ranks: Ranks) -> None:
        """Join what all ranks have taken in: each has the moments of all then."""
        sides = self._a, self._b
        origins = ranks.maxima([side.lower_origin() for side in sides])
        for side, origin in zip(sides, origins, strict=True):
            side.move(origin)
        totals = ranks.sums([total for side in sides for total in side.totals()])
        x, y = self._a.join(*totals[:3]), self._b.join(*totals[3:])
        parts = [side.squares for side in sides] + [self._square_gap]
        for name, product in self._products.items():
            left, right = {"aa": (x, x), "bb": (y, y), "ab": (x, y)}[name]
            product = product + left.mT @ right
            parts.append(product if name == "ab" else triangle(product))
        parts = ranks.sums(parts)
        self._a.squares, self._b.squares, self._square_gap = parts[:3]
        for name, part in zip(self._products, parts[3:], strict=True):
            self._products[name] = part if name == "ab" else symmetric(part)

    def solve(self, loss: Callable[[Pair], Tensor]) -> Tensor:
        """Return the loss of what has been taken in, and keep its derivatives."""
        with torch.enable_grad():
            summary = self.summary()
            for moment in summary.moments.values():
                moment.requires_grad_()
            value = loss(summary)
            # A term of weight 0 does not look at its moments.
            slopes = torch.autograd.grad(
                value, list(summary.moments.values()), materialize_grads=True
            )
        self.take(dict(zip(summary.moments, slopes, strict=True)))
        return value.detach()

    def take(self, slopes: dict[str, Tensor]) -> None:
        """Take the derivatives by the moments, for :meth:`gradients`."""
        self._slopes = dict(slopes)
        for name in slopes.keys() & {"aa", "bb"}:  # of XᵀX: X(G + Gᵀ)
            self._slopes[name] = slopes[name] + slopes[name].mT

    def gradients(
        self, z_a: Tensor, z_b: Tensor, weight_a: Tensor | None, weight_b: Tensor | None
    ) -> tuple[Tensor, Tensor]:
        """Return the gradients of a chunk, of the loss solved for, in float64."""
        z_a, w_a = _wide(z_a, weight_a)
        z_b, w_b = _wide(z_b, weight_b)
        a, b, slopes = self._a, self._b, self._slopes
        x, y = z_a - a.origin - a.mean, z_b - b.origin - b.mean
        grad_x, grad_y = torch.zeros_like(x), torch.zeros_like(y)
        # Of second moments. Through the mean: 0, as rows about it add up to 0.
        if "aa" in slopes:
            grad_x += x @ slopes["aa"]
        if "bb" in slopes:
            grad_y += y @ slopes["bb"]
        if "ab" in slopes:
            grad_x += y @ slopes["ab"].mT
            grad_y += x @ slopes["ab"]
        if "variance_a" in slopes:
            grad_x += 2 * x * slopes["variance_a"].unsqueeze(-2)
            grad_y += 2 * y * slopes["variance_b"].unsqueeze(-2)
        grad_x *= a.over_dof()[..., None, None]
        grad_y *= b.over_dof()[..., None, None]
        # Of first moments.
        if "mean_gap" in slopes:
            slope = slopes["mean_gap"].unsqueeze(-2)
            grad_x += slope * inverse(a.total)[..., None, None]
            grad_y -= slope * inverse(b.total)[..., None, None]
        if "square_gap" in slopes:
            slope = (slopes["square_gap"] * inverse(a.total))[..., None, None]
            gap = 2 * slope * (z_a - z_b)
            grad_x += gap
            grad_y -= gap
        return w_a.unsqueeze(-1) * grad_x, w_b.unsqueeze(-1) * grad_y

    def summary(self) -> Summary:
        """Return the moments of what has been taken in."""
        a, b = self._a, self._b
        over_a, over_b = a.over_dof(), b.over_dof()
        moments = {
            "variance_a": a.squares * over_a.unsqueeze(-1),
            "variance_b": b.squares * over_b.unsqueeze(-1),
            "square_gap": self._square_gap * inverse(a.total),
        }
        if "mean_gap" in self._names:
            gap = (a.origin - b.origin) + (a.mean - b.mean)
            moments["mean_gap"] = gap.squeeze(-2)
        for name, product in self._products.items():
            over_dof = over_b if name == "bb" else over_a
            moments[name] = product * over_dof[..., None, None]
        return Summary(
            a.mean.shape[-1],
            (a.total > 0) & (b.total > 0),
            a.total * over_a,
            {name: moments[name] for name in sorted(self._names)},
        )


def triangle(c: Tensor) -> Tensor:
    """Return the upper half of a symmetric matrix."""
    d = c.shape[-1]
    i, j = torch.triu_indices(d, d, device=c.device)
    return c[..., i, j]


def symmetric(triangle: Tensor) -> Tensor:
    """Return the matrix whose upper half is known."""
    d = (math.isqrt(8 * triangle.shape[-1] + 1) - 1) // 2
    i, j = torch.triu_indices(d, d, device=triangle.device)
    out = triangle.new_empty((*triangle.shape[:-1], d, d))
    out[..., i, j] = triangle
    out[..., j, i] = triangle
    return out


def _wide(z: Tensor, weight: Tensor | None) -> tuple[Tensor, Tensor]:
    """Return rows and weights in float64."""
    if weight is None:
        return z.double(), z.new_ones(z.shape[:-1], dtype=torch.float64)
    return drop(z, weight).double(), weight.double()


class Side:
    """Sums over the rows of one batch."""

    def __init__(self, z: Tensor) -> None:
        lead, d = z.shape[:-2], z.shape[-1]

        def zeros(*shape: int) -> Tensor:
            return z.new_zeros((*lead, *shape), dtype=torch.float64)

        self.total, self.squared_total = zeros(), zeros()
        self.origin, self.mean = zeros(1, d), zeros(1, d)  # mean − origin
        self.squares = zeros(d)

    def update(self, z: Tensor, weight: Tensor) -> Tensor:
        """Take rows in; return rows whose products are what the scatter grew by.

        They are √w·(z − mean of the chunk), and one more for the distance of that mean
        from the mean so far.
        """
        if not z.shape[-2]:
            return z
        # A row as the origin, as for rows in memory: a constant column is exactly 0.
        heaviest = weight.argmax(-1)[..., None, None].expand_as(self.origin)
        first = (self.total == 0)[..., None, None]
        self.origin = torch.where(first, z.gather(-2, heaviest), self.origin)
        z = z - self.origin
        w = weight.unsqueeze(-1)
        total = weight.sum(-1)
        mean = (w * z).sum(-2, keepdim=True) * inverse(total)[..., None, None]
        share = total * inverse(self.total + total)
        distance = mean - self.mean
        between = (self.total * share).sqrt()[..., None, None] * distance
        rows = torch.cat((w.sqrt() * (z - mean), between), -2)

        self.mean = self.mean + share[..., None, None] * distance
        self.total = self.total + total
        self.squared_total = self.squared_total + weight.square().sum(-1)
        self.squares = self.squares + rows.square().sum(-2)
        return rows

    def lower_origin(self) -> Tensor:
        """Return the origin, −inf where there are no rows.

        The largest of all ranks is one for all: about it, a constant column is exactly
        0 everywhere.
        """
        return self.origin.masked_fill((self.total == 0)[..., None, None], -torch.inf)

    def move(self, origin: Tensor) -> None:
        """Measure from another origin."""
        origin = origin.masked_fill(origin == -torch.inf, 0.0)
        self.mean = self.mean + (self.origin - origin)
        self.origin = origin

    def totals(self) -> tuple[Tensor, Tensor, Tensor]:
        """Return what adds up over ranks: Σw, Σw² and Σwz."""
        return self.total, self.squared_total, self.total[..., None, None] * self.mean

    def join(self, total: Tensor, squared_total: Tensor, weighted: Tensor) -> Tensor:
        """Take the totals of all ranks; return √Σw·(own mean − mean of all).

        Its products are what scatters about the own mean lack of those about that of
        all. Its squares are in ``squares`` afterwards.
        """
        mean = weighted * inverse(total)[..., None, None]
        between = self.total.sqrt()[..., None, None] * (self.mean - mean)
        self.squares = self.squares + between.square().sum(-2)
        self.total, self.squared_total, self.mean = total, squared_total, mean
        return between

    def over_dof(self) -> Tensor:
        return inverse(self.total - self.squared_total * inverse(self.total))
