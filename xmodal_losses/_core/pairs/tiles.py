"""How an N×M matrix is walked: in which parts, and how large they are."""

from collections.abc import Iterator
from typing import NamedTuple

from torch import Tensor

from xmodal_losses._core.parts import parts

# Edge of a tile. On a CPU the tile should stay in cache through the dozen operations
# done on it (from 512 to 1024 all are nearly as fast); a GPU wants work for all its
# processors at once (not measured yet).
_EDGE = {"cpu": 768}
_EDGE_ELSEWHERE = 4096
# Edge of what is held whole, a problem or as many entries of a strip of rows: several
# tiles' worth, for what is saved by making the entries once.
_WHOLE = {"cpu": 2048}
_WHOLE_ELSEWHERE = 8192


class Tiling(NamedTuple):
    """Problems, rows and columns at a time."""

    groups: int
    rows: int
    columns: int

    def over_groups(self, groups: int) -> Iterator[slice]:
        """Yield the parts of the problems."""
        return parts(groups, self.groups) if groups else iter((slice(0, 0),))

    def over_rows(self, n: int) -> Iterator[slice]:
        """Yield the parts of the rows."""
        return parts(n, self.rows)

    def over_columns(self, m: int) -> Iterator[slice]:
        """Yield the parts of the columns."""
        return parts(m, self.columns)

    def over_tiles(
        self, n: int, m: int, diagonal_first: bool = False
    ) -> list[tuple[slice, slice]]:
        """Return the parts of rows and columns, maybe those that start alike first."""
        tiles = [(i, j) for i in self.over_rows(n) for j in self.over_columns(m)]
        if not diagonal_first:
            return tiles
        first = [(i, j) for i, j in tiles if i.start == j.start]
        return first + [(i, j) for i, j in tiles if i.start != j.start]


def square(n: int, m: int, chunk_size: int | None, like: Tensor) -> Tiling:
    """Return tiles of at most edge² entries; small problems share one."""
    size = edge(like, chunk_size)
    rows, columns = (max(1, n if n <= size else size), max(1, m if m <= size else size))
    return Tiling(max(1, size**2 // (rows * columns)), rows, columns)


def strips(
    n: int, m: int, both: bool, chunk_size: int | None, like: Tensor
) -> Tiling | None:
    """Return tiles with all columns, and all rows if ``both``; None if that is worse.

    It is where the strip would be so flat that adding its part to the gradient of all
    columns takes longer than making the logits twice.
    """
    size = whole(like, chunk_size)
    if n <= size and m <= size:
        rows = n
    else:
        rows = min(n, max(1, size**2 // m))
        if rows < (n if both else min(n, size // 8)):
            return None
    return Tiling(max(1, edge(like, chunk_size) ** 2 // (rows * m)), rows, m)


def edge(like: Tensor, chunk_size: int | None) -> int:
    """Return the edge of a tile."""
    if chunk_size is not None:
        return chunk_size
    return _EDGE.get(like.device.type, _EDGE_ELSEWHERE)


def whole(like: Tensor, chunk_size: int | None) -> int:
    """Return the edge of what may be held whole: of a given tile, twice its edge."""
    if chunk_size is not None:
        return 2 * chunk_size
    return _WHOLE.get(like.device.type, _WHOLE_ELSEWHERE)
