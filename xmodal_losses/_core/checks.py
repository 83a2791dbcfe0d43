"""Argument checks in one grammar.

``<callable>: <argument> must be <constraint>, got <value>. <remedy>``

They look at shapes, dtypes and options, never at the values inside a tensor:
that would stall the device queue and break ``torch.compile(fullgraph=True)``.
"""

import math
from collections.abc import Sequence

import torch
from torch import Tensor

FLOATS = (torch.float16, torch.bfloat16, torch.float32, torch.float64)


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


def rows(caller: str, name: str, z: Tensor, min_rows: int = 1) -> None:
    """Require a batch of rows ``(…, N, D)``."""
    if not isinstance(z, Tensor):
        raise TypeError(f"{caller}: {name} must be a tensor, got {type(z).__name__}.")
    if z.dtype not in FLOATS:
        raise TypeError(
            f"{caller}: {name} must be a floating-point tensor of 16, 32 or 64 "
            f"bits, got {z.dtype}."
        )
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


def feature_map(caller: str, name: str, z: Tensor) -> None:
    """Require a batch of maps ``(B, C, H, W)`` of one pixel at least."""
    if not isinstance(z, Tensor):
        raise TypeError(f"{caller}: {name} must be a tensor, got {type(z).__name__}.")
    if z.dtype not in FLOATS:
        raise TypeError(
            f"{caller}: {name} must be a floating-point tensor of 16, 32 or 64 "
            f"bits, got {z.dtype}."
        )
    if z.ndim != 4 or 0 in z.shape:
        raise ValueError(
            f"{caller}: {name} must be a batch of maps (B, C, H, W), none of them 0, "
            f"got shape {tuple(z.shape)}."
        )


def pixels(
    caller: str, name: str, value: Tensor | None, size: Sequence[int], kind: str
) -> None:
    """Require one value per pixel; its kind is "boolean", "integer" or "real"."""
    if value is None:
        return
    if (
        not isinstance(value, Tensor)
        or value.is_complex()
        or (kind == "boolean" and value.dtype != torch.bool)
        or (kind == "integer" and value.is_floating_point())
    ):
        got = value.dtype if isinstance(value, Tensor) else type(value).__name__
        raise TypeError(f"{caller}: {name} must be a tensor of {kind}s, got {got}.")
    if value.shape != tuple(size):
        raise ValueError(
            f"{caller}: {name} must be of shape {tuple(size)}, one value per pixel of "
            f"the map, got {tuple(value.shape)}."
        )


def row_weight(caller: str, name: str, weight: Tensor | None, z: Tensor) -> None:
    """Require one real weight per row of ``z``."""
    if weight is None:
        return
    if not isinstance(weight, Tensor) or weight.is_complex():
        got = weight.dtype if isinstance(weight, Tensor) else type(weight).__name__
        raise TypeError(f"{caller}: {name} must be a real tensor, got {got}.")
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
    if not isinstance(mask, Tensor) or mask.dtype != torch.bool:
        got = mask.dtype if isinstance(mask, Tensor) else type(mask).__name__
        raise TypeError(f"{caller}: {name} must be a boolean tensor, got {got}.")
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
    if not isinstance(weight, Tensor) or weight.is_complex():
        got = weight.dtype if isinstance(weight, Tensor) else type(weight).__name__
        raise TypeError(f"{caller}: {name} must be a real tensor, got {got}.")
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
    if not isinstance(ids, Tensor) or ids.is_floating_point() or ids.is_complex():
        got = ids.dtype if isinstance(ids, Tensor) else type(ids).__name__
        raise TypeError(f"{caller}: {name} must be a tensor of integers, got {got}.")
    if ids.shape != z.shape[:-1]:
        raise ValueError(
            f"{caller}: {name} must be of shape {tuple(z.shape[:-1])}, one id per row, "
            f"got {tuple(ids.shape)}."
        )


def row_positions(caller: str, name: str, positions: Tensor | None, z: Tensor) -> None:
    """Require the coordinates of every row of ``z``."""
    if positions is None:
        return
    if not isinstance(positions, Tensor) or positions.is_complex():
        got = (
            positions.dtype
            if isinstance(positions, Tensor)
            else type(positions).__name__
        )
        raise TypeError(f"{caller}: {name} must be a real tensor, got {got}.")
    if positions.shape[:-1] != z.shape[:-1] or positions.shape[-1] < 1:
        raise ValueError(
            f"{caller}: {name} must be of shape {tuple(z.shape[:-1])} + (P,), the "
            f"coordinates of every row, got {tuple(positions.shape)}."
        )


def option(caller: str, name: str, value: object, allowed: Sequence[object]) -> None:
    """Require one of a few values."""
    if value not in allowed:
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


def positive_scalar(caller: str, name: str, value: object) -> None:
    """Require a number > 0, or a scalar tensor (whose value is not looked at)."""
    if not isinstance(value, Tensor):
        number(caller, name, value, above=0.0)
    elif value.ndim != 0 or value.dtype not in FLOATS:
        raise ValueError(
            f"{caller}: {name} must be a number > 0 or a floating-point tensor of "
            f"shape (), got {value.dtype} of shape {tuple(value.shape)}."
        )


def scalar(caller: str, name: str, value: object) -> None:
    """Require a number, or a scalar tensor (whose value is not looked at)."""
    if not isinstance(value, Tensor):
        number(caller, name, value)
    elif value.ndim != 0 or value.dtype not in FLOATS:
        raise ValueError(
            f"{caller}: {name} must be a number or a floating-point tensor of shape "
            f"(), got {value.dtype} of shape {tuple(value.shape)}."
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


def generator(caller: str, value: object) -> None:
    """Require a generator, or None."""
    if not isinstance(value, (torch.Generator, type(None))):
        raise TypeError(
            f"{caller}: generator must be a torch.Generator or None, got "
            f"{type(value).__name__}."
        )
