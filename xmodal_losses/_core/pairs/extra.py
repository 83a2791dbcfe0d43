"""Negatives that are not in the batch."""

from collections.abc import Callable
from typing import NamedTuple

import torch
from torch import Tensor

from xmodal_losses._core import checks, moments
from xmodal_losses._core.pairs.left_out import LeftOut

__all__ = ["ExtraNegatives", "checked", "problem"]

KINDS = {"extra.ids": checks.INTEGER, "extra.valid": checks.BOOLEAN}


class ExtraNegatives(NamedTuple):
    """Rows that are negatives beside those of a batch ``(…, N, D)``.

    They are for all rows, ``(K, D)``; for those of a group, ``(…, K, D)``; or for one
    row each, ``(…, N, K, D)``. On several ranks, those for all rows are to be alike.

    Attributes:
        a: Negatives of modality *a*, for the rows of *b*.
        b: Negatives of modality *b*, for the rows of *a*.
        ids: Integers, ``(K,)``, ``(…, K)`` or ``(…, N, K)``: of a row with the same id
            they are no negatives.
        valid: Booleans of that shape, False where there is no row (yet).
    """

    a: Tensor | None = None
    b: Tensor | None = None
    ids: Tensor | None = None
    valid: Tensor | None = None

    def map(
        self, of_a: Callable[[Tensor], Tensor], of_b: Callable[[Tensor], Tensor]
    ) -> "ExtraNegatives":
        """Return them with functions of the rows in their place."""
        a = None if self.a is None else of_a(self.a)
        b = None if self.b is None else of_b(self.b)
        return ExtraNegatives(a, b, self.ids, self.valid)

    def swapped(self) -> "ExtraNegatives":
        """Return them with the modalities exchanged."""
        return ExtraNegatives(self.b, self.a, self.ids, self.valid)


def checked(
    caller: str,
    extra: ExtraNegatives,
    z: Tensor,
    ids: Tensor | None,
    dtype: torch.dtype,
) -> ExtraNegatives:
    """Check, and return them in the dtype, with zeros where there is no row."""
    if not isinstance(extra, ExtraNegatives):
        raise TypeError(
            f"{caller}: extra must be ExtraNegatives, got {type(extra).__name__}."
        )
    some = [rows for rows in (extra.a, extra.b) if rows is not None]
    if not some:
        raise ValueError(
            f"{caller}: extra must have rows of a or of b, got neither. None is for no "
            "extra negatives."
        )
    told = {
        "extra.a": extra.a,
        "extra.b": extra.b,
        "extra.ids": extra.ids,
        "extra.valid": extra.valid,
    }
    for name, rows in told.items():
        if rows is None:
            continue
        if name in ("extra.a", "extra.b"):
            checks.rows(caller, name, rows, 0, z)
            lead, width = rows.shape[:-2], rows.shape[-1]
            if lead not in ((), z.shape[:-2], z.shape[:-1]) or width != z.shape[-1]:
                raise ValueError(
                    f"{caller}: {name} must be of shape (K, D), (…, K, D) or "
                    f"(…, N, K, D) for rows {tuple(z.shape)}, got {tuple(rows.shape)}."
                )
        else:
            checks.tensor(caller, name, rows, KINDS[name], z)
            if rows.shape != some[0].shape[:-1]:
                raise ValueError(
                    f"{caller}: {name} must be of shape {tuple(some[0].shape[:-1])}, "
                    f"one entry per row, got {tuple(rows.shape)}."
                )
    if len({rows.shape for rows in some}) > 1:
        raise ValueError(
            f"{caller}: extra.a and extra.b must be of the same shape, got "
            f"{tuple(some[0].shape)} and {tuple(some[1].shape)}."
        )
    if extra.ids is not None and ids is None:
        raise ValueError(f"{caller}: ids must be given where extra has ids, got None.")

    def ready(rows: Tensor) -> Tensor:
        return moments.drop(rows.to(dtype), extra.valid)

    return extra.map(ready, ready)


def problem(
    x: Tensor,
    rows: Tensor,
    extra: ExtraNegatives,
    ids: Tensor | None,
    floor: Tensor | None,
) -> tuple[Tensor, Tensor, LeftOut]:
    """Return rows ``(…, N, D)`` and their extra negatives as problems of the engine."""
    lead = x.shape[:-1]
    if rows.ndim == 2:  # one problem
        shape = (1, lead.numel())
    elif rows.ndim == x.ndim:  # one per group
        shape = (lead[:-1].numel(), lead[-1])
    else:  # one per row
        shape = (lead.numel(), 1)
    k = rows.shape[-2]

    def own(told: Tensor | None) -> Tensor | None:
        return None if told is None else told.reshape(shape)

    def theirs(told: Tensor | None) -> Tensor | None:
        return None if told is None else told.reshape(shape[0], k)

    left_out = LeftOut(ids_y=theirs(extra.ids), valid_y=theirs(extra.valid))
    if extra.ids is not None:
        left_out = left_out._replace(ids=own(ids))
    if extra.valid is not None:
        present = torch.ones(shape, dtype=torch.bool, device=x.device)
        left_out = left_out._replace(valid=present)
    left_out = left_out._replace(floor=own(floor), paired=False)
    x, rows = x.reshape(*shape, x.shape[-1]), rows.reshape(shape[0], k, x.shape[-1])
    return x, rows, left_out
