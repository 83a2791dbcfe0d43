"""Argument checks in one grammar.

``<callable>: <argument> must be <constraint>, got <value>. <remedy>``

They look at shapes, dtypes and options, never at the values inside a tensor:
that would stall the device queue and break ``torch.compile(fullgraph=True)``.
"""

import math
import sys
from collections.abc import Iterable, Sequence

import torch
from torch import Tensor

FLOATS = (torch.float16, torch.bfloat16, torch.float32, torch.float64)
# Booleans are integers here: classes may be two.
INTEGERS = (
    torch.bool,
    torch.uint8,
    torch.int8,
    torch.int16,
    torch.int32,
    torch.int64,
)
FLOATING = "a floating-point tensor of 16, 32 or 64 bits"
BOOLEAN, INTEGER, REAL = "a boolean tensor", "a tensor of integers", "a real tensor"
_DTYPES = {
    FLOATING: FLOATS,
    BOOLEAN: (torch.bool,),
    INTEGER: INTEGERS,
    REAL: (*FLOATS, *INTEGERS),
}


def tensor(
    caller: str, name: str, value: object, kind: str, like: Tensor | None = None
) -> None:
    """Require a dense tensor of a kind (say ``REAL``), on the device of another."""
    if not isinstance(value, Tensor):
        raise TypeError(f"{caller}: {name} must be {kind}, got {type(value).__name__}.")
    if value.dtype not in _DTYPES[kind]:
        raise TypeError(f"{caller}: {name} must be {kind}, got {value.dtype}.")
    if value.layout != torch.strided:
        raise TypeError(
            f"{caller}: {name} must be a dense tensor, got {value.layout}. Call its "
            "to_dense()."
        )
    if like is not None and value.device != like.device:
        raise ValueError(
            f"{caller}: {name} must be on {like.device}, as the rest is, got "
            f"{value.device}."
        )


def embeddings(
    caller: str,
    z_a: Tensor,
    z_b: Tensor,
    *,
    paired: bool,
    same_width: bool = True,
    min_rows: int = 1,
) -> None:
    """Require two batches ``(…, N, D)`` and ``(…, M, D)`` that fit together."""
    rows(caller, "z_a", z_a, min_rows)
    rows(caller, "z_b", z_b, min_rows)
    got = f"got z_a {tuple(z_a.shape)} and z_b {tuple(z_b.shape)}."
    if z_a.device != z_b.device:
        raise ValueError(
            f"{caller}: z_a and z_b must be on the same device, got {z_a.device} and "
            f"{z_b.device}."
        )
    if z_a.shape[:-2] != z_b.shape[:-2]:
        raise ValueError(
            f"{caller}: z_a and z_b must have the same leading dimensions, {got}"
        )
    if paired and z_a.shape[-2] != z_b.shape[-2]:
        raise ValueError(
            f"{caller}: z_a and z_b must have the same number of rows, {got} "
            "Row i of z_a is the positive of row i of z_b."
        )
    if same_width and z_a.shape[-1] != z_b.shape[-1]:
        raise ValueError(
            f"{caller}: z_a and z_b must have the same number of columns, {got} "
            "Project both modalities to one width first."
        )


def rows(
    caller: str, name: str, z: Tensor, min_rows: int = 1, like: Tensor | None = None
) -> None:
    """Require a batch of rows ``(…, N, D)``, on the device of another."""
    tensor(caller, name, z, FLOATING, like)
    if z.ndim < 2:
        raise ValueError(
            f"{caller}: {name} must be a batch of rows (…, N, D), got shape "
            f"{tuple(z.shape)}. Add a leading dimension."
        )
    if z.shape[-2] < min_rows:
        raise ValueError(
            f"{caller}: {name} must have at least {min_rows} "
            f"row{'s' if min_rows > 1 else ''}, got shape {tuple(z.shape)}."
        )
    if z.shape[-1] < 1:
        raise ValueError(
            f"{caller}: {name} must have at least 1 column, got shape {tuple(z.shape)}."
        )


def views(
    caller: str,
    views: Sequence[Tensor],
    *,
    same_width: bool = False,
    min_rows: int = 1,
) -> None:
    """Require two or more batches ``(…, N, D_j)`` of paired rows."""
    if not isinstance(views, (list, tuple)):
        raise TypeError(
            f"{caller}: views must be a list or tuple of tensors, got "
            f"{type(views).__name__}."
        )
    if len(views) < 2:
        raise ValueError(
            f"{caller}: views must be at least 2 batches, got {len(views)}."
        )
    for index, z in enumerate(views):
        rows(caller, f"views[{index}]", z, min_rows)
    first = views[0]
    for z in views[1:]:
        if z.device != first.device:
            raise ValueError(
                f"{caller}: views must be on one device, got {first.device} and "
                f"{z.device}."
            )
        if z.shape[:-1] != first.shape[:-1]:
            raise ValueError(
                f"{caller}: views must have the same leading dimensions and rows, got "
                f"{tuple(first.shape)} and {tuple(z.shape)}. Row i of one belongs to "
                "row i of all others; say in mask which are missing."
            )
        if same_width and z.shape[-1] != first.shape[-1]:
            raise ValueError(
                f"{caller}: views must have the same number of columns, got "
                f"{tuple(first.shape)} and {tuple(z.shape)}."
            )


def presence(
    caller: str, name: str, mask: Tensor | None, views: Sequence[Tensor]
) -> None:
    """Require a boolean for every row of every view."""
    if mask is None:
        return
    tensor(caller, name, mask, BOOLEAN, views[0])
    shape = (len(views), *views[0].shape[:-1])
    if mask.shape != shape:
        raise ValueError(
            f"{caller}: {name} must be of shape {shape}, True where a view has the "
            f"row, got {tuple(mask.shape)}."
        )


def feature_map(caller: str, name: str, z: Tensor) -> None:
    """Require a batch of maps ``(B, C, H, W)`` of one pixel at least."""
    tensor(caller, name, z, FLOATING)
    if z.ndim != 4 or 0 in z.shape:
        raise ValueError(
            f"{caller}: {name} must be a batch of maps (B, C, H, W), none of them 0, "
            f"got shape {tuple(z.shape)}."
        )


def pixels(
    caller: str,
    name: str,
    value: Tensor | None,
    size: Sequence[int],
    kind: str,
    like: Tensor,
) -> None:
    """Require one value of a kind per pixel, on the device of the map."""
    if value is None:
        return
    tensor(caller, name, value, kind, like)
    if value.shape != tuple(size):
        raise ValueError(
            f"{caller}: {name} must be of shape {tuple(size)}, one value per pixel of "
            f"the map, got {tuple(value.shape)}."
        )


def row_weight(caller: str, name: str, weight: Tensor | None, z: Tensor) -> None:
    """Require one real weight per row of ``z``."""
    if weight is None:
        return
    tensor(caller, name, weight, REAL, z)
    if weight.shape != z.shape[:-1]:
        raise ValueError(
            f"{caller}: {name} must be of shape {tuple(z.shape[:-1])}, one weight per "
            f"row, got {tuple(weight.shape)}."
        )


def pair_mask(
    caller: str, name: str, mask: Tensor | None, z: Tensor, columns: int
) -> None:
    """Require a boolean for every row of ``z`` and every one of so many columns."""
    if mask is None:
        return
    tensor(caller, name, mask, BOOLEAN, z)
    shape = (*z.shape[:-1], columns)
    if mask.shape != shape:
        raise ValueError(
            f"{caller}: {name} must be of shape {tuple(shape)}, one entry per pair of "
            f"rows, got {tuple(mask.shape)}."
        )


def pair_weight(
    caller: str, name: str, weight: Tensor | None, z: Tensor, columns: int
) -> None:
    """Require a real number for every row of ``z`` and every one of so many columns."""
    if weight is None:
        return
    tensor(caller, name, weight, REAL, z)
    shape = (*z.shape[:-1], columns)
    if weight.shape != shape:
        raise ValueError(
            f"{caller}: {name} must be of shape {tuple(shape)}, one weight per pair of "
            f"rows, got {tuple(weight.shape)}."
        )


def row_ids(
    caller: str, name: str, ids: Tensor | None, z: Tensor, *, required: bool = False
) -> None:
    """Require one integer per row of ``z``."""
    if ids is None and not required:
        return
    tensor(caller, name, ids, INTEGER, z)
    assert ids is not None
    if ids.shape != z.shape[:-1]:
        raise ValueError(
            f"{caller}: {name} must be of shape {tuple(z.shape[:-1])}, one id per row, "
            f"got {tuple(ids.shape)}."
        )


def row_positions(caller: str, name: str, positions: Tensor | None, z: Tensor) -> None:
    """Require the coordinates of every row of ``z``."""
    if positions is None:
        return
    tensor(caller, name, positions, REAL, z)
    if positions.shape[:-1] != z.shape[:-1] or positions.shape[-1] < 1:
        raise ValueError(
            f"{caller}: {name} must be of shape {tuple(z.shape[:-1])} + (P,), the "
            f"coordinates of every row, got {tuple(positions.shape)}."
        )


def option(caller: str, name: str, value: object, allowed: Sequence[object]) -> None:
    """Require one of a few values."""
    # Types first: True is no 1, and what an array equals is an array.
    same = [c for c in allowed if isinstance(value, type(c)) and value == c]
    if not same or isinstance(value, bool):
        options = ", ".join(repr(choice) for choice in allowed)
        raise ValueError(f"{caller}: {name} must be one of {options}, got {value!r}.")


def flag(caller: str, name: str, value: object) -> None:
    """Require a bool."""
    if not isinstance(value, bool):
        raise TypeError(f"{caller}: {name} must be True or False, got {value!r}.")


def number(
    caller: str,
    name: str,
    value: object,
    *,
    above: float | None = None,
    at_least: float | None = None,
    below: float | None = None,
    at_most: float | None = None,
) -> None:
    """Require a finite real number in a range."""
    limit = (
        f" > {above:g}"
        if above is not None
        else f" >= {at_least:g}"
        if at_least is not None
        else ""
    )
    if below is not None:
        limit += f" and < {below:g}"
    if at_most is not None:
        limit += f" and <= {at_most:g}"
    if isinstance(value, bool) or not isinstance(value, (int, float)):
        raise TypeError(
            f"{caller}: {name} must be a number{limit}, got {type(value).__name__}."
        )
    # Comparisons, unlike math.isfinite, can be traced with symbolic numbers.
    if (
        not -math.inf < value < math.inf
        or (above is not None and value <= above)
        or (at_least is not None and value < at_least)
        or (below is not None and value >= below)
        or (at_most is not None and value > at_most)
    ):
        raise ValueError(
            f"{caller}: {name} must be a finite number{limit}, got {value!r}."
        )
    if isinstance(value, int) and not -sys.maxsize <= value <= sys.maxsize:
        raise ValueError(
            f"{caller}: {name} must be an integer of 64 bits or a float, got {value}."
        )


def _is_scalar(value: Tensor) -> bool:
    dense = value.layout == torch.strided
    return dense and value.ndim == 0 and value.dtype in FLOATS


def positive_scalar(caller: str, name: str, value: object) -> None:
    """Require a number > 0, or a scalar tensor (whose value is not looked at)."""
    if not isinstance(value, Tensor):
        number(caller, name, value, above=0.0)
    elif not _is_scalar(value):
        raise ValueError(
            f"{caller}: {name} must be a number > 0 or a floating-point tensor of "
            f"shape (), got {value.dtype} of shape {tuple(value.shape)}."
        )


def scalar(caller: str, name: str, value: object) -> None:
    """Require a number, or a scalar tensor (whose value is not looked at)."""
    if not isinstance(value, Tensor):
        number(caller, name, value)
    elif not _is_scalar(value):
        raise ValueError(
            f"{caller}: {name} must be a number or a floating-point tensor of shape "
            f"(), got {value.dtype} of shape {tuple(value.shape)}."
        )


def several(caller: str, name: str, value: object, what: str) -> None:
    """Require something that can be gone through, and is no text."""
    scalar = getattr(value, "ndim", 1) == 0  # an array, which says it can be
    if scalar or not isinstance(value, Iterable) or isinstance(value, (str, bytes)):
        raise TypeError(
            f"{caller}: {name} must be a sequence of {what}, got "
            f"{type(value).__name__}."
        )


def count(
    caller: str, name: str, value: object, *, at_most: int | None = None, of: str = ""
) -> None:
    """Require an integer in ``[1, at_most]``; ``of`` says where the bound is from."""
    if isinstance(value, bool) or not isinstance(value, int):
        raise TypeError(
            f"{caller}: {name} must be an integer, got {type(value).__name__}."
        )
    if value < 1 or (at_most is not None and value > at_most):
        limit = ">= 1" if at_most is None else f"in [1, {of}] = [1, {at_most}]"
        raise ValueError(f"{caller}: {name} must be {limit}, got {value}.")
    if value > sys.maxsize:
        raise ValueError(f"{caller}: {name} must be <= {sys.maxsize}, got {value}.")


def generator(caller: str, value: object) -> None:
    """Require a generator of random numbers, or None."""
    if not isinstance(value, (torch.Generator, type(None))):
        raise TypeError(
            f"{caller}: generator must be a torch.Generator or None, got "
            f"{type(value).__name__}."
        )
