"""Which pairs of rows do not count, told by vectors where possible."""

from typing import NamedTuple

import torch
from torch import Tensor

TENSORS = 12  # fields that are tensors: the first ones


class LeftOut(NamedTuple):
    """The pairs (x_i, y_j) of G problems that are no negatives.

    Of the N×M matrix only the part is made that belongs to a tile of the logits. The
    positives (i, i) are left out in any case, and need not be told; the logits of rows
    and columns that are on different ranks have none.
    """

    # (G, N, W) bool: True for (x_i, y_j); W is M, or `width`.
    dense: Tensor | None = None
    kept: Tensor | None = None  # (G, N, W) bool: pairs that count whatever tells not to
    valid: Tensor | None = None  # (G, N) bool: False where a row takes no part
    ids: Tensor | None = None  # (G, N): rows with one id are no negatives
    positions: Tensor | None = None  # (G, N, P): nor are rows within `radius`
    # The same of the columns, (G, M); None where x and y have them in common.
    valid_y: Tensor | None = None
    ids_y: Tensor | None = None
    positions_y: Tensor | None = None
    floor: Tensor | None = None  # (G, N): nor are those whose logit is below
    # Nor rows y that the guide, of unit rows (G, N, D) and (G, M, D), finds more
    # similar than the ceiling of row x, (G, N).
    guide: Tensor | None = None
    guide_y: Tensor | None = None
    ceiling: Tensor | None = None
    radius: float | None = 0.0
    kept_radius: float | None = None  # rows within it count whatever tells not to
    # Rows i // width come from one image: what is dense, and `positions`, tell of these
    # only.
    width: int | None = None
    only: bool = False  # but for `valid`, the reverse: pairs that nothing leaves out
    paired: bool = True  # False: x_i and y_i are no positives, but like all others

    def across(self) -> "LeftOut":
        """Return what is told of the same rows of all groups, as N problems."""
        return LeftOut(
            valid=_turned(self.valid),
            ids=_turned(self.ids),
            floor=_turned(self.floor),
            guide=_turned(self.guide),
            guide_y=_turned(self.guide_y),
            ceiling=_turned(self.ceiling),
            only=self.only,
        )

    def tile(
        self, groups: slice, rows: slice, columns: slice, logits: Tensor
    ) -> Tensor | None:
        """Return the mask of a tile of logits; None: all pairs count.

        The floor is not in it.
        """
        out = self._in_image(self.dense, self.radius, groups, rows, columns)
        if self.ids is not None:
            across = self.ids if self.ids_y is None else self.ids_y
            same = self.ids[groups, rows, None] == across[groups, None, columns]
            out = same if out is None else out | same
        if self.guide is not None:
            assert self.guide_y is not None
            assert self.ceiling is not None
            similarity = self.guide[groups, rows] @ self.guide_y[groups, columns].mT
            alike = similarity > self.ceiling[groups, rows, None]
            out = alike if out is None else out | alike
        if out is not None:
            kept = self._in_image(self.kept, self.kept_radius, groups, rows, columns)
            out = out if kept is None else out & ~kept
        if self.only:
            out = logits.new_ones((), dtype=torch.bool) if out is None else ~out
        if self.valid is not None:
            across = self.valid if self.valid_y is None else self.valid_y
            absent = ~(self.valid[groups, rows, None] & across[groups, None, columns])
            out = absent if out is None else out | absent
        return out

    def _in_image(
        self,
        dense: Tensor | None,
        radius: float | None,
        groups: slice,
        rows: slice,
        columns: slice,
    ) -> Tensor | None:
        """Tell which pairs of an image a mask tells, or are within a radius."""
        out = None
        if dense is not None:
            out = dense_tile(dense, self.width, groups, rows, columns)
        if self.positions is not None and radius is not None:
            across = self.positions if self.positions_y is None else self.positions_y
            near = within(self.positions[groups, rows], across[groups, columns], radius)
            out = near if out is None else out | near
        if out is not None and self.width is not None:
            out = out & one_image(self.width, rows, columns, out)
        return out


def dense_tile(
    dense: Tensor, width: int | None, groups: slice, rows: slice, columns: slice
) -> Tensor:
    """Return a tile of what is told of all pairs, or of all pairs of an image."""
    if width is None:
        return dense[groups, rows, columns]
    return dense[groups, rows].index_select(-1, _indices(columns, dense) % width)


def one_image(width: int, rows: slice, columns: slice, like: Tensor) -> Tensor:
    """Tell which pairs are of one image."""
    image = _indices(rows, like) // width
    return image[:, None] == _indices(columns, like) // width


def within(x: Tensor, y: Tensor, radius: float) -> Tensor:
    """Tell whose coordinates all differ by no more than the radius."""
    near = x.new_ones((), dtype=torch.bool)
    for k in range(x.shape[-1]):
        near = near & ((x[..., :, None, k] - y[..., None, :, k]).abs() <= radius)
    return near


def _indices(part: slice, like: Tensor) -> Tensor:
    return torch.arange(part.start, part.stop, device=like.device)


def _turned(told: Tensor | None) -> Tensor | None:
    return None if told is None else told.transpose(0, 1)
