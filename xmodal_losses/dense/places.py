"""Choosing places of a map: grid, random, stratified, weighted.

Places are pixels, so that no two of them are one, a mask decides on each without
rounding, and reading them mixes nothing. What is not whole (jitter, another stride,
another crop) belongs to the partner in the other map.

Weighted places are those of the largest log s + g with Gumbel's g, which are drawn in
turn, without replacement, with probabilities proportional to the scores s left
:cite:p:`efraimidis2006weighted`; with equal scores this is drawing at random. Keys are
float64: in float32 the few largest of a million have but a handful of values.
"""

import math
from typing import Literal, NamedTuple

import torch
from torch import Tensor
from torch.nn.functional import pad

from xmodal_losses._core import checks
from xmodal_losses._core.draws import uniform, widest_dtype
from xmodal_losses.dense.cells import Cells, cut

__all__ = ["Places", "sample_positions"]

METHODS = ("grid", "random", "stratified", "weighted")
Method = Literal["grid", "random", "stratified", "weighted"]


class Places(NamedTuple):
    """Places in the maps of a batch, and which of them count."""

    positions: Tensor
    valid: Tensor


class Plan(NamedTuple):
    """How to choose places: the options of the functions."""

    num: int | tuple[int, int]
    method: Method
    min_distance: float
    shared: bool
    generator: torch.Generator | None

    def check(self, caller: str) -> None:
        """Require options that fit together."""
        checks.option(caller, "method", self.method, METHODS)
        in_cells = self.method in ("grid", "stratified")
        if in_cells and isinstance(self.num, tuple) and len(self.num) == 2:
            checks.count(caller, "num[0]", self.num[0])
            checks.count(caller, "num[1]", self.num[1])
        else:
            checks.count(caller, "num", self.num)
        checks.number(caller, "min_distance", self.min_distance, at_least=0.0)
        checks.flag(caller, "shared", self.shared)
        checks.generator(caller, self.generator)


def sample_positions(
    like: Tensor,
    num: int | tuple[int, int],
    *,
    method: Method = "random",
    scores: Tensor | None = None,
    valid: Tensor | None = None,
    min_distance: float = 0.0,
    shared: bool = False,
    generator: torch.Generator | None = None,
) -> Places:
    """Return P different pixels of every map of a batch.

    Args:
        like: A map ``(B, …, H, W)``, of which only shape, dtype and device are read.
        num: P, or, for grid and stratified, (rows, columns) of the cells.
        method: ``"grid"``: the middle pixels of cells that divide the map as equally as
            whole pixels can. ``"random"``: drawn without replacement.
            ``"stratified"``: one drawn in each of these cells. ``"weighted"``: drawn
            without replacement, in proportion to the ``scores``.
        scores: How much a pixel is worth, say that of a keypoint detector, ``(B, H,
            W)``; in any scale. Where it is 0, negative or NaN, nothing is drawn. For
            weighted, and only there. No gradient goes through the choice.
        valid: Boolean ``(B, H, W)``: False where nothing may be drawn.
        min_distance: In pixels: two valid places of a map differ by no less in x or in
            y. Random and weighted go on drawing from what is far enough from all
            before; grid and stratified drop a place that is too near to one in an
            earlier cell.
        shared: Choose places once, for all maps: row p is the same place in each, as
            ``negatives="cross"`` of InfoNCE wants it. They come from pixels that are
            valid in any of the maps, with the mean of the scores, and count in those
            where they are valid.
        generator: What to draw from, on any device: a generator of the CPU gives the
            same places on every device. None: the default one of the device of
            ``like``. Grids draw nothing.

    Returns:
        ``positions``, (x, y) in pixels, ``(B, P, 2)``, whole numbers in float32 or
        wider; and ``valid``, booleans ``(B, P)``, False where no place was left, or the
        cell had none. What is not valid lies somewhere in the map.

    Cost: a pass over the pixels and a selection of P of them, or, for random and
    weighted with a ``min_distance`` above 1, P passes, one after the other, all maps at
    once. No value goes to the host.

    Raises:
        TypeError: If an input is of another type.
        ValueError: If shapes do not fit together or an option is out of range.

    Examples:
        >>> import torch
        >>> from xmodal_losses import dense
        >>> dense.sample_positions(torch.zeros(1, 1, 4, 6), 4, method="grid")[0]
        tensor([[[1., 0.],
                 [4., 0.],
                 [1., 2.],
                 [4., 2.]]])
    """
    caller = "sample_positions"
    plan = Plan(num, method, min_distance, shared, generator)
    plan.check(caller)
    checks.tensor(caller, "like", like, checks.REAL)
    if like.ndim < 3 or 0 in (like.shape[0], *like.shape[-2:]):
        raise ValueError(
            f"{caller}: like must be a map (B, …, H, W) of one pixel at least, got "
            f"shape {tuple(like.shape)}."
        )
    size = (like.shape[0], *like.shape[-2:])
    check_scores(caller, method, scores, size, like)
    checks.pixels(caller, "valid", valid, size, checks.BOOLEAN, like)
    if valid is None:
        valid = like.new_ones(size, dtype=torch.bool)
    pixels, counts = choose(plan, valid, scores)
    dtype = torch.promote_types(like.dtype, torch.float32)
    return Places(coordinates(pixels, size[-1]).to(dtype), counts)


def check_scores(
    caller: str,
    method: Method,
    scores: Tensor | None,
    size: tuple[int, ...],
    like: Tensor,
) -> None:
    """Require scores for the weighted method, and only for it."""
    if (scores is None) == (method == "weighted"):
        raise ValueError(
            f"{caller}: scores must be given with method 'weighted' and only then, got "
            f"method={method!r} {'without' if scores is None else 'with'} scores."
        )
    checks.pixels(caller, "scores", scores, size, checks.REAL, like)


def coordinates(pixels: Tensor, width: int) -> Tensor:
    """Return (x, y) of pixels told by y·W + x."""
    return torch.stack((pixels % width, pixels // width), -1)


@torch.no_grad()
def choose(plan: Plan, valid: Tensor, scores: Tensor | None) -> tuple[Tensor, Tensor]:
    """Return P pixels of every map ``(B, H, W)``, as y·W + x, and which count."""
    batch, height, width = valid.shape
    own = valid.flatten(1)
    if scores is not None:
        scores = scores.flatten(1)
        own = own & (scores > 0)
        if plan.shared:
            scores = torch.where(own, scores, 0)
            scores = scores.mean(0, keepdim=True, dtype=widest_dtype(scores.device))
    eligible = own.any(0, keepdim=True) if plan.shared else own

    distance = plan.min_distance if plan.min_distance > 1 else None
    if plan.method in ("grid", "stratified"):
        cells = cut(plan.num, height, width, valid.device)
        if plan.method == "grid":
            pixels, found = _middles(cells, eligible, width)
        else:
            pixels, found = _one_of_each(cells, eligible, plan.generator)
        if distance is not None:
            found = _thinned(coordinates(pixels, width), found, distance)
    else:
        assert isinstance(plan.num, int)
        keys = _keys(eligible, scores, plan.generator)
        steps = min(plan.num, height * width)
        if distance is None:
            best, pixels = keys.topk(steps)
            found = best > -math.inf
        else:
            pixels, found = _apart(keys.view(-1, height, width), steps, distance)
        pixels, found = (
            pad(out, (0, plan.num - out.shape[1])) for out in (pixels, found)
        )
    if plan.shared:
        pixels = pixels.expand(batch, -1)
        found = found & own.gather(1, pixels)
    return pixels, found


def _keys(
    eligible: Tensor, scores: Tensor | None, generator: torch.Generator | None
) -> Tensor:
    """Return keys of which the largest are those drawn first; −∞ is not drawn."""
    u = uniform(tuple(eligible.shape), eligible.device, generator)
    keys = -(-torch.log1p(-u)).log()
    if scores is not None:
        keys = keys + scores.to(keys.dtype).log()
    return keys.masked_fill(~eligible, -math.inf)


def _apart(keys: Tensor, num: int, distance: float) -> tuple[Tensor, Tensor]:
    """Take the largest key, drop all that is too near, and again."""
    height, width = keys.shape[1:]
    # No more fit: of a square of ⌈distance⌉ pixels a side, one.
    side = math.ceil(distance)
    num = min(num, math.ceil(height / side) * math.ceil(width / side))
    y = torch.arange(height, device=keys.device)
    x = torch.arange(width, device=keys.device)
    taken = []
    for _ in range(num):
        best, pixel = keys.flatten(1).max(1, keepdim=True)
        taken.append((pixel, best > -math.inf))
        near_y = (y - pixel // width).abs() < distance
        near_x = (x - pixel % width).abs() < distance
        keys.masked_fill_(near_y[:, :, None] & near_x[:, None], -math.inf)
    pixels, found = zip(*taken, strict=True)
    return torch.cat(pixels, 1), torch.cat(found, 1)


def _middles(cells: Cells, eligible: Tensor, width: int) -> tuple[Tensor, Tensor]:
    """Return the pixel in the middle of each cell, where there is one."""
    y = ((cells.top + cells.bottom - 1) // 2).clamp_min(0)
    x = ((cells.left + cells.right - 1) // 2).clamp_min(0)
    pixels = (y * width + x).expand(len(eligible), -1)
    some = (cells.bottom > cells.top) & (cells.right > cells.left)
    return pixels, some & eligible.gather(1, pixels)


def _one_of_each(
    cells: Cells, eligible: Tensor, generator: torch.Generator | None
) -> tuple[Tensor, Tensor]:
    """Return one eligible pixel of each cell, all with the same probability."""
    order = cells.of_pixel.argsort(stable=True)
    end = ((cells.bottom - cells.top) * (cells.right - cells.left)).cumsum(0)
    # Eligible pixels up to each one, cell after cell; and before and after each cell.
    counted = eligible[:, order].cumsum(1)
    after = pad(counted, (1, 0))[:, end]
    before = pad(after, (1, 0))[:, :-1]
    number = after - before
    u = uniform(tuple(number.shape), number.device, generator)
    which = torch.minimum((u * number).long(), number - 1)
    # Of a cell without any, this finds one before it, or the first of all.
    return order[torch.searchsorted(counted, before + which + 1)], number > 0


def _thinned(positions: Tensor, found: Tensor, distance: float) -> Tensor:
    """Drop what is too near to a place before it that stays."""
    index = torch.arange(found.shape[1], device=found.device)
    for i in range(found.shape[1] - 1):
        gap = (positions - positions[:, i : i + 1]).abs().amax(-1)
        near = found[:, i : i + 1] & (gap < distance) & (index > i)
        found = found & ~near
    return found
