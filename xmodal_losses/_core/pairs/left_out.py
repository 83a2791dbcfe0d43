"""Which pairs of rows do not count, told by vectors where possible."""

from typing import NamedTuple

import torch
from torch import Tensor

TENSORS = 7  # fields that are tensors: the first ones


class LeftOut(NamedTuple):
    """The pairs (x_i, y_j) of G problems that are no negatives.

    Of the N×M matrix only the part is made that belongs to a tile of the logits. The
    positives (i, i) are left out in any case, and need not be told; the logits of rows
    and columns that are on different ranks have none.
    """

    # (G, N, W) bool: True for (x_i, y_j); W is M, or `width`.
    dense: Tensor | None = None
    valid: Tensor | None = None  # (G, N) bool: False where a row takes no part
    # (G, N): rows with one id are no negatives, or, if `unlike`, rows with another.
    ids: Tensor | None = None
    positions: Tensor | None = None  # (G, N, P): nor are rows within `radius`
    # The same of the columns, (G, M); None where x and y have them in common.
    valid_y: Tensor | None = None
    ids_y: Tensor | None = None
    positions_y: Tensor | None = None
    radius: float = 0.0
    # Rows i // width come from one image: `dense` and `positions` tell of these only.
    width: int | None = None
    unlike: bool = False
    paired: bool = True  # False: x_i and y_i are no positives, but like all others

    def tile(self, groups: slice, rows: slice, columns: slice) -> Tensor | None:
        """Return the mask of a tile ``(…, rows, columns)``; None: all pairs count."""
        out = None
        if self.dense is not None:
            dense = self.dense[groups, rows]
            if self.width is None:
                out = dense[..., columns]
            else:
                j = _indices(columns, dense) % self.width
                out = dense.index_select(-1, j)
        if self.positions is not None:
            across = self.positions if self.positions_y is None else self.positions_y
            near = _within(
                self.positions[groups, rows], across[groups, columns], self.radius
            )
            out = near if out is None else out | near
        if out is not None and self.width is not None:
            image = _indices(rows, out) // self.width
            out = out & (image[:, None] == _indices(columns, out) // self.width)

        if self.ids is not None:
            across = self.ids if self.ids_y is None else self.ids_y
            same = self.ids[groups, rows, None] == across[groups, None, columns]
            same = ~same if self.unlike else same
            out = same if out is None else out | same
        if self.valid is not None:
            across = self.valid if self.valid_y is None else self.valid_y
            absent = ~(self.valid[groups, rows, None] & across[groups, None, columns])
            out = absent if out is None else out | absent
        return out


def _indices(part: slice, like: Tensor) -> Tensor:
    return torch.arange(part.start, part.stop, device=like.device)


def _within(x: Tensor, y: Tensor, radius: float) -> Tensor:
    """Tell whose coordinates all differ by no more than the radius."""
    near = x.new_ones((), dtype=torch.bool)
    for k in range(x.shape[-1]):
        near = near & ((x[..., :, None, k] - y[..., None, :, k]).abs() <= radius)
    return near
