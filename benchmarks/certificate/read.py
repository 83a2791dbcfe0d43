"""The published file, as the page and the figures need it."""

import hashlib
import json
import math
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from benchmarks.certificate.regimes import DTYPES, REGIMES
from benchmarks.certificate.subjects import SUBJECTS
from benchmarks.contestants import LIBRARY, PLAIN
from benchmarks.page import TITLES

__all__ = [
    "NAMES",
    "WHAT",
    "Certificate",
    "Comparison",
    "Row",
    "careful",
    "certificates",
    "fails",
]

WHAT = ("value", "gradient")
NAMES = TITLES | {
    "contrastive_center": "Contrastive-center",
    "dgcca": "Deep generalised CCA",
    "mcca": "Multiset CCA",
    "eckart_young": "Eckart–Young",
}
Row = dict[str, Any]


@dataclass(frozen=True)
class Comparison:
    """An entrant beside the library's spelling of the same, in one cell."""

    loss: str
    dtype: str
    regime: str
    entrant: str
    theirs: Row
    ours: Row

    def better(self, what: str, factor: float = 1.0) -> bool:
        """Return whether the worst error of the other is lower by a factor.

        Ours may be a unit in the last digit of what is returned.
        """
        theirs, ours = self.theirs, self.ours
        if fails(theirs, what) > fails(ours, what) or theirs[what]["worst"] is None:
            return False
        if fails(ours, what) > fails(theirs, what) or ours[what]["worst"] is None:
            return True
        if ours[what]["worst"] <= torch.finfo(returned(self.dtype, what)).eps:
            return False
        return bool(factor * theirs[what]["worst"] < ours[what]["worst"])

    def ratio(self, what: str) -> float:
        """Return ours over theirs."""
        ours, theirs = self.ours[what]["worst"], self.theirs[what]["worst"]
        return ours / theirs if ours is not None and theirs else math.inf


def returned(dtype: str, what: str) -> torch.dtype:
    """Return the dtype of values, or gradients, of inputs of a dtype."""
    of_input = DTYPES[dtype]
    wide = torch.promote_types(of_input, torch.float32)
    return wide if what == "value" else of_input


def fails(row: Row, what: str) -> int:
    """Return in how many draws there was no finite number."""
    return int(row[what]["nonfinite"] + row["raised"])


class Certificate:
    """One file."""

    def __init__(self, path: Path) -> None:
        content = json.loads(path.read_text(encoding="utf-8"))
        self.path = path
        self.metadata: Row = content["metadata"]
        self.entrants: list[Row] = content["entrants"]
        self.cells = {
            (one["loss"], one["dtype"], one["regime"]): one
            for one in content["results"]
        }
        self.rows = {
            (*where, row["entrant"]): row
            for where, one in self.cells.items()
            for row in one["rows"]
        }
        self.losses = [
            name for name in SUBJECTS if any(w[0] == name for w in self.cells)
        ]

    @property
    def digest(self) -> str:
        """Return what the figures of this file carry."""
        return hashlib.sha256(self.path.read_bytes()).hexdigest()[:16]

    def row(self, loss: str, dtype: str, regime: str, entrant: str = LIBRARY) -> Row:
        """Return what an entrant did in a cell."""
        return self.rows[loss, dtype, regime, entrant]

    def others(self, peers: bool | None = None) -> list[Row]:
        """Return who is not the library: all, the peers, or the plain formulas."""
        return [
            one
            for one in self.entrants
            if one["beside"]
            and not one["absent"]
            and (peers is None or peers == (one["entrant"] != PLAIN))
        ]

    def comparisons(self, peers: bool | None = None) -> list[Comparison]:
        """Return every entrant in every cell in which it returned anything."""
        out = []
        for one in self.others(peers):
            loss, entrant = one["loss"], one["entrant"]
            for dtype in DTYPES:
                for regime in REGIMES:
                    where = loss, dtype, regime
                    if where not in self.cells:
                        continue
                    theirs = self.row(*where, entrant)
                    if theirs["raised"] < self.cells[where]["draws"]:
                        ours = self.row(*where, one["beside"])
                        out.append(Comparison(*where, entrant, theirs, ours))
        return out


def certificates(folder: Path) -> list[Certificate]:
    """Return the published files."""
    return [Certificate(path) for path in sorted(folder.glob("certificate--*.json"))]


def careful(dtype: str) -> float:
    """Return from where on an error is one to be careful about.

    √eps of the dtype that is computed in; of gradients that are stored in 16 bits, no
    less than twice the rounding of these.
    """
    computed, stored = (torch.finfo(returned(dtype, what)).eps for what in WHAT)
    return max(computed**0.5, 2 * stored)
