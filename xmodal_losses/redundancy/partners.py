"""Which places of two maps belong together, by position or by features."""

from typing import Literal, NamedTuple, TypeAlias

import torch
from torch import Tensor

from xmodal_losses._core import checks, moments, precision

Matching: TypeAlias = Literal["positions", "features"]
MATCHINGS = ("positions", "features")


class Side(NamedTuple):
    """The places of one modality."""

    rows: Tensor  # (…, N, P, D)
    positions: Tensor | None  # (…, N, P, C)
    weight: Tensor | None  # (…, N, P)


def present(side: Side, dtype: torch.dtype) -> Side:
    """Return rows and weights of a dtype; what stands in rows of weight 0 is gone."""
    rows = moments.drop(side.rows.to(dtype), side.weight)
    weight = None if side.weight is None else side.weight.to(dtype)
    return Side(rows, side.positions, weight)


def pairs(
    a: Side, b: Side, matching: Matching, num_matches: int | None
) -> tuple[Tensor, Tensor, Tensor | None]:
    """Return rows of *a* and their partners, ``(…, N, K, D)``, and pairs' weights."""
    if matching == "positions" and a.positions is None:
        if a.weight is None or b.weight is None:
            return a.rows, b.rows, b.weight if a.weight is None else a.weight
        return a.rows, b.rows, a.weight * b.weight
    with torch.no_grad():
        distance, partner = _distances(a, b, matching).min(-1)
        kept = None
        if num_matches is not None:
            nearest = distance.argsort(dim=-1, stable=True)[..., :num_matches]
            kept = nearest.sort(-1).values  # in the order of the places
            partner = partner.gather(-1, kept)
            distance = distance.gather(-1, kept)
    x = a.rows if kept is None else _read(a.rows, kept)
    y = _read(b.rows, partner)
    if a.weight is None and b.weight is None:
        return x, y, None
    # Where nothing is left to be a partner, some place of weight 0 is.
    weight = torch.ones_like(distance)
    if a.weight is not None:
        weight = weight * (a.weight if kept is None else a.weight.gather(-1, kept))
    if b.weight is not None:
        weight = weight * b.weight.gather(-1, partner)
    return x, y, weight


def _read(rows: Tensor, places: Tensor) -> Tensor:
    return rows.gather(-2, places.unsqueeze(-1).expand(*places.shape, rows.shape[-1]))


def _distances(a: Side, b: Side, matching: Matching) -> Tensor:
    """Return distances of places, ``(…, N, P, Q)``; ∞ from those that are not there."""
    if matching == "features":
        # About a common point: cdist adds up squares.
        origin = b.rows.mean(-2, keepdim=True)
        distance = torch.cdist(a.rows - origin, b.rows - origin)
    else:
        assert a.positions is not None
        assert b.positions is not None
        dtype = precision.compute_dtype(a.positions, b.positions)
        x, y = a.positions.to(dtype), b.positions.to(dtype)
        # By differences: as sums of squares, pixels in float32 would not be told apart.
        distance = torch.cdist(x, y, compute_mode="donot_use_mm_for_euclid_dist")
    if a.weight is not None:
        distance = distance.masked_fill((a.weight == 0).unsqueeze(-1), torch.inf)
    if b.weight is not None:
        distance = distance.masked_fill((b.weight == 0).unsqueeze(-2), torch.inf)
    return distance


def check(
    caller: str,
    a: Side,
    b: Side,
    matching: Matching,
    num_matches: int | None,
    min_images: int,
) -> None:
    """Check the places of both modalities, and that they can be matched so."""
    checks.rows(caller, "z_a", a.rows)
    checks.rows(caller, "z_b", b.rows)
    got = f"got z_a {tuple(a.rows.shape)} and z_b {tuple(b.rows.shape)}."
    if a.rows.ndim < 3 or a.rows.shape[:-2] != b.rows.shape[:-2]:
        raise ValueError(
            f"{caller}: z_a and z_b must have the same leading dimensions, the last of "
            f"them images, {got}"
        )
    if a.rows.shape[-1] != b.rows.shape[-1]:
        raise ValueError(
            f"{caller}: z_a and z_b must have the same number of columns, {got} "
            "Project both modalities to one width first."
        )
    if a.rows.shape[-3] < min_images:
        raise ValueError(
            f"{caller}: z_a must have at least {min_images} images, {got} Statistics "
            "are over images, unless pooled=True."
        )
    for side, name in ((a, "a"), (b, "b")):
        checks.row_positions(caller, f"positions_{name}", side.positions, side.rows)
        checks.row_weight(caller, f"weight_{name}", side.weight, side.rows)
    if (a.positions is None) != (b.positions is None):
        raise ValueError(
            f"{caller}: positions_a and positions_b must be given both or neither, got "
            "one."
        )
    if a.positions is not None and b.positions is not None:
        axes_a, axes_b = a.positions.shape[-1], b.positions.shape[-1]
        if axes_a != axes_b:
            raise ValueError(
                f"{caller}: positions_a and positions_b must have the same number of "
                f"coordinates, got {axes_a} and {axes_b}."
            )
    if matching == "features" and a.positions is not None:
        raise ValueError(
            f"{caller}: positions_a must be None with matching='features', got a "
            "tensor."
        )
    known = matching == "positions" and a.positions is None
    if known and a.rows.shape != b.rows.shape:
        raise ValueError(
            f"{caller}: z_a and z_b must have the same places, {got} Give positions_a "
            "and positions_b."
        )
    if num_matches is not None:
        if known:
            raise ValueError(
                f"{caller}: num_matches must be None where partners are known, got "
                f"{num_matches}. No pair is nearer than another."
            )
        most = min(a.rows.shape[-2], b.rows.shape[-2])
        checks.count(caller, "num_matches", num_matches, at_most=most, of="places")
