"""The same places read in the maps of both modalities, as the losses take them."""

from collections.abc import Callable
from typing import NamedTuple

import torch
from torch import Tensor

from xmodal_losses._core import checks, precision
from xmodal_losses._core.draws import uniform
from xmodal_losses.dense.bilinear import corners, gather_rows, read
from xmodal_losses.dense.places import (
    Method,
    Plan,
    check_scores,
    choose,
    coordinates,
)

__all__ = ["PairedRows", "paired_rows"]


class PairedRows(NamedTuple):
    """P rows of every pair of maps: row i of both is one place of the scene."""

    z_a: Tensor
    z_b: Tensor
    positions: Tensor
    ids: Tensor
    weight: Tensor
    positions_b: Tensor


def paired_rows(
    map_a: Tensor,
    map_b: Tensor,
    num: int | tuple[int, int],
    *,
    method: Method = "random",
    scores: Tensor | None = None,
    valid_a: Tensor | None = None,
    valid_b: Tensor | None = None,
    min_distance: float = 0.0,
    shared: bool = False,
    warp: Callable[[Tensor], Tensor] | None = None,
    offset: Tensor | None = None,
    jitter: float = 0.0,
    ids: Tensor | None = None,
    generator: torch.Generator | None = None,
) -> PairedRows:
    """Return P rows of either map that show the same places.

    Places are pixels of ``map_a``. Their partners in ``map_b`` are found in three
    steps, each of which may be left out: ``warp``, then ``offset``, then ``jitter``.
    Coordinates are (x, y) in pixels of the map they belong to; centres of pixels are
    whole numbers.

    Args:
        map_a: Features of modality *a*, ``(B, C_a, H_a, W_a)``.
        map_b: Features of modality *b*, ``(B, C_b, H_b, W_b)``, of any other stride.
        num: As in :func:`~xmodal_losses.dense.sample_positions`.
        method: As in :func:`~xmodal_losses.dense.sample_positions`.
        scores: As in :func:`~xmodal_losses.dense.sample_positions`, of the pixels of
            ``map_a``.
        valid_a: Boolean ``(B, H_a, W_a)``: False where *a* sees nothing.
        valid_b: Boolean ``(B, H_b, W_b)``: False where *b* sees nothing. Places whose
            partner would take of such a pixel are not chosen.
        min_distance: As in :func:`~xmodal_losses.dense.sample_positions`, in pixels of
            ``map_a``.
        shared: As in :func:`~xmodal_losses.dense.sample_positions`.
        warp: From positions of ``map_a`` to those of ``map_b``, ``(B, n, 2)`` both,
            point by point; called once, with all pixels. It may be learned: gradients
            go through. None: the maps cover the same part of the scene, edge to edge.
        offset: Where the crop of *b* was cut at another place than that of *a*: what is
            to be added to positions in ``map_b``, ``(B, 2)``.
        jitter: In pixels of ``map_b``, how far the registration may be off: x and y
            move by up to so much, evenly, as far as the map goes.
        ids: What is seen at the pixels of ``map_a``, integers ``(B, H_a, W_a)``: rows
            with one id are no negatives of each other. Classes may be had as rows in
            the same way. None: no two rows of the call have the same.
        generator: As in :func:`~xmodal_losses.dense.sample_positions`.

    Returns:
        ``z_a`` and ``z_b``, rows ``(B, P, C)`` in the dtype of their map, float32 at
        least; ``positions`` in ``map_a``, ``(B, P, 2)``; ``ids``, ``(B, P)``;
        ``weight``, ``(B, P)``, 1, or 0 for rows that do not count; and ``positions_b``
        in ``map_b``, ``(B, P, 2)``. Rows of weight 0 are 0.

    A row counts if a place was left for it, valid in *a*, and its partner lies in
    ``map_b`` (in a pixel, that is, up to ½ beyond the last centre; what is read is
    clamped to it) and takes of valid pixels only: up to four, always four where warp or
    offset require a gradient. Places are chosen for this before the
    jitter, which may move a partner on to an invalid pixel: then the row is dropped.

    Note:
        On several processes, ids of different ranks have to differ, too: give ``ids``,
        or do not hand those of this call to a loss with a ``group``.

    Raises:
        TypeError: If an input is of another type.
        ValueError: If shapes do not fit together or an option is out of range.

    Examples:
        >>> import torch, xmodal_losses.functional as F
        >>> from xmodal_losses import dense
        >>> rgb, ir = torch.randn(2, 4, 128, 32, 40, requires_grad=True)
        >>> rows = dense.paired_rows(rgb, ir, 64, method="stratified", jitter=1.0)
        >>> loss = F.info_nce(
        ...     rows.z_a,
        ...     rows.z_b,
        ...     positions=rows.positions,
        ...     exclude_radius=2,
        ...     weight=rows.weight,
        ... )
    """
    caller = "paired_rows"
    plan = Plan(num, method, min_distance, shared, generator)
    plan.check(caller)
    checks.number(caller, "jitter", jitter, at_least=0.0)
    checks.feature_map(caller, "map_a", map_a)
    checks.feature_map(caller, "map_b", map_b)
    _check_together(caller, map_a, map_b, warp, offset)
    size_a = (map_a.shape[0], *map_a.shape[-2:])
    size_b = (map_b.shape[0], *map_b.shape[-2:])
    check_scores(caller, method, scores, size_a, map_a)
    checks.pixels(caller, "valid_a", valid_a, size_a, checks.BOOLEAN, map_a)
    checks.pixels(caller, "valid_b", valid_b, size_b, checks.BOOLEAN, map_b)
    checks.pixels(caller, "ids", ids, size_a, checks.INTEGER, map_a)
    batch, height, width = size_a

    dtype = precision.compute_dtype(map_a, map_b)
    pixels = torch.arange(height * width, device=map_a.device).expand(batch, -1)
    here = coordinates(pixels, width).to(dtype)
    across = _scaled(here, size_a, size_b) if warp is None else warp(here)
    _check_warped(caller, across, here)
    if offset is not None:
        across = across + offset[:, None]
    across = across.to(dtype)
    # In a pixel, not between the first and the last centre: of a coarser map those of
    # the first and last pixels of the finer one lie outside. NaN is nowhere.
    beyond = (across - _clamped(across, size_b)).abs()
    valid = (beyond <= 0.5).all(-1)
    if valid_a is not None:
        valid = valid & valid_a.flatten(1)
    if valid_b is not None:
        valid = valid & _sees(valid_b, across)

    chosen, counts = choose(plan, valid.view(size_a), scores)
    partners = across.gather(1, chosen[..., None].expand(-1, -1, 2))
    # A place that does not count may lie anywhere, even at NaN.
    partners = partners.masked_fill(~counts[..., None], 0.0)
    partners = _clamped(partners, size_b)
    if jitter:
        u = uniform(tuple(partners.shape), partners.device, generator).to(dtype)
        low = _clamped(partners - jitter, size_b)
        high = _clamped(partners + jitter, size_b)
        partners = low + u * (high - low)
        if valid_b is not None:
            counts = counts & _sees(valid_b, partners)

    chosen_ids = chosen if ids is None else ids.flatten(1).gather(1, chosen)
    if ids is None:
        image = torch.arange(batch, device=chosen.device)[:, None]
        chosen_ids = chosen_ids + image * (height * width)
    absent = ~counts[..., None]
    return PairedRows(
        z_a=read(map_a, chosen).masked_fill(absent, 0.0),
        z_b=gather_rows(map_b, partners).masked_fill(absent, 0.0),
        positions=coordinates(chosen, width).to(dtype),
        ids=chosen_ids,
        weight=counts.to(dtype),
        positions_b=partners,
    )


def _clamped(positions: Tensor, size: tuple[int, ...]) -> Tensor:
    """Move positions to the nearest ones between the outer centres."""
    x, y = positions.unbind(-1)
    return torch.stack((x.clamp(0, size[2] - 1), y.clamp(0, size[1] - 1)), -1)


def _scaled(positions: Tensor, size: tuple[int, ...], other: tuple[int, ...]) -> Tensor:
    """Return positions in a map of another stride that covers the same part."""
    x, y = (positions + 0.5).unbind(-1)
    scaled = (x * (other[2] / size[2]), y * (other[1] / size[1]))
    return torch.stack(scaled, -1) - 0.5


def _sees(valid: Tensor, positions: Tensor) -> Tensor:
    """Tell where all pixels are valid that are read for a position."""
    # Not detached: for a gradient of positions, those without a share are read, too.
    pixels, _ = corners(positions, *valid.shape[1:])
    seen = valid.flatten(1).gather(1, pixels.flatten(1))
    return seen.view(pixels.shape).all(1)


def _check_together(
    caller: str, map_a: Tensor, map_b: Tensor, warp: object, offset: Tensor | None
) -> None:
    batch = map_a.shape[0]
    if batch != map_b.shape[0]:
        raise ValueError(
            f"{caller}: map_a and map_b must have the same number of images, got map_a "
            f"{tuple(map_a.shape)} and map_b {tuple(map_b.shape)}."
        )
    if map_a.device != map_b.device:
        raise ValueError(
            f"{caller}: map_a and map_b must be on the same device, got "
            f"{map_a.device} and {map_b.device}."
        )
    if warp is not None and not callable(warp):
        raise TypeError(
            f"{caller}: warp must be a function of positions or None, got "
            f"{type(warp).__name__}."
        )
    if offset is None:
        return
    checks.tensor(caller, "offset", offset, checks.REAL, map_a)
    if offset.shape != (batch, 2):
        raise ValueError(
            f"{caller}: offset must be of shape {(batch, 2)}, the (x, y) of every "
            f"image, got {tuple(offset.shape)}."
        )


def _check_warped(caller: str, across: object, here: Tensor) -> None:
    if not isinstance(across, Tensor) or not across.is_floating_point():
        got = across.dtype if isinstance(across, Tensor) else type(across).__name__
        raise TypeError(
            f"{caller}: warp must be a function to a floating-point tensor, got {got}."
        )
    if across.shape != here.shape:
        raise ValueError(
            f"{caller}: warp must be a function that keeps the shape "
            f"{tuple(here.shape)}, got {tuple(across.shape)}."
        )
