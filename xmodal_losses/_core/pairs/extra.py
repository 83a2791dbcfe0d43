"""Negatives that are not in the batch."""

from typing import NamedTuple

from torch import Tensor

__all__ = ["ExtraNegatives"]


class ExtraNegatives(NamedTuple):
    """Rows that are negatives of all rows of a batch, besides those in it."""

    a: Tensor | None = None  # (K, D): negatives of modality a, for the rows of b
    b: Tensor | None = None  # (K, D): negatives of modality b, for the rows of a
    ids: Tensor | None = None  # (K,) ids: of no row with the same id are they negatives
    valid: Tensor | None = None  # (K,) bool: False where there is none (yet)
