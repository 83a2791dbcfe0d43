"""What all losses of paired rows take: checked, and made ready for the engine."""

from torch import Tensor

from xmodal_losses._core import checks, moments, precision, reduce
from xmodal_losses._core.linalg import unit
from xmodal_losses._core.pairs.across_ranks import (
    EXCHANGES,
    NEGATIVES,
    Exchange,
    Negatives,
    meet,
)
from xmodal_losses._core.pairs.contrast import Contrast
from xmodal_losses._core.pairs.extra import ExtraNegatives, checked
from xmodal_losses._core.ranks import GradReduce, Group, joined


def paired(
    caller: str,
    z_a: Tensor,
    z_b: Tensor,
    *,
    normalize: bool,
    negatives: Negatives = "group",
    exclude: Tensor | None = None,
    targets: Tensor | None = None,
    ids: Tensor | None = None,
    positions: Tensor | None = None,
    exclude_radius: float | None = None,
    guide: tuple[Tensor, Tensor] | None = None,
    guide_margin: float = 0.0,
    extra: ExtraNegatives | None = None,
    weight: Tensor | None = None,
    reduction: reduce.Reduction = "mean",
    chunk_size: int | None = None,
    group: Group | None = None,
    grad_reduce: GradReduce = "mean",
    exchange: Exchange | None = None,
) -> Contrast:
    """Check, and return the rows, as they are, with what is known of their pairs."""
    check_options(caller, normalize, negatives, exclude_radius, reduction, chunk_size)
    ranks = joined(caller, group, grad_reduce, exchange, EXCHANGES)
    least = 1 if ranks is None else 0
    checks.embeddings(caller, z_a, z_b, paired=True, min_rows=least)
    checks.row_ids(caller, "ids", ids, z_a)
    checks.row_positions(caller, "positions", positions, z_a)
    if (positions is None) != (exclude_radius is None):
        raise ValueError(
            f"{caller}: exclude_radius must be given with positions and only then, got "
            f"exclude_radius={exclude_radius!r} "
            f"{'without' if positions is None else 'with'} positions."
        )
    checks.row_weight(caller, "weight", weight, z_a)
    checks.number(caller, "guide_margin", guide_margin)
    if guide is not None:
        _check_guide(caller, guide, z_a)
    walk, columns = None, z_a.shape[-2]
    if ranks is not None and z_a.ndim == 2:
        negatives = "group"  # the batch is one
    if ranks is not None and (z_a.ndim == 2 or negatives != "group"):
        told = {
            "exclude": exclude,
            "targets": targets,
            "ids": ids,
            "positions": positions,
            "guide": None if guide is None else guide[0],
            "weight": weight,
        }
        walk = meet(caller, ranks, exchange, z_a, z_b, negatives, told)
        if z_a.ndim == 2:
            columns = sum(walk.counts)
    checks.pair_mask(caller, "exclude", exclude, z_a, columns)
    checks.pair_weight(caller, "targets", targets, z_a, columns)

    dtype = precision.compute_dtype(z_a, z_b)
    if extra is not None:
        extra = checked(caller, extra, z_a, ids, dtype)
    if guide is not None:
        of_a, of_b = (moments.drop(g.detach().to(dtype), weight) for g in guide)
        guide = unit(of_a, -1), unit(of_b, -1)
    return Contrast(
        x=moments.drop(z_a.to(dtype), weight),
        y=moments.drop(z_b.to(dtype), weight),
        both=True,
        negatives=negatives,
        exclude=exclude,
        kept=None if targets is None else targets != 0,
        ids=ids,
        positions=None if positions is None else positions.to(dtype),
        radius=exclude_radius or 0.0,
        valid=None if weight is None else weight != 0,
        guide=guide,
        guide_margin=guide_margin,
        extra=extra,
        narrow=precision.narrow_products(z_a, z_b),
        chunk_size=chunk_size,
        ranks=ranks,
        walk=walk,
    )


def _check_guide(caller: str, guide: object, z: Tensor) -> None:
    if not isinstance(guide, tuple) or len(guide) != 2:
        raise TypeError(
            f"{caller}: guide must be a pair of embeddings, of z_a and of z_b, got "
            f"{type(guide).__name__}."
        )
    for name, rows in zip(("guide[0]", "guide[1]"), guide, strict=True):
        checks.rows(caller, name, rows, 0, z)
        if rows.shape[:-1] != z.shape[:-1] or rows.shape[-1] != guide[0].shape[-1]:
            raise ValueError(
                f"{caller}: {name} must be of shape {tuple(z.shape[:-1])} + (G,), with "
                f"the same G in both, got {tuple(rows.shape)}."
            )


def widest(
    caller: str,
    positions: Tensor | None,
    jitter: float | None,
    exclude_radius: float | None,
) -> float | None:
    """Return within what distance rows are no negatives, or are positives."""
    if jitter is None:
        return exclude_radius
    check_jitter(caller, jitter)
    if positions is None:
        raise ValueError(
            f"{caller}: jitter must be given with positions and only then, got "
            f"jitter={jitter!r} without positions."
        )
    if exclude_radius is None:
        return jitter
    checks.number(caller, "exclude_radius", exclude_radius, at_least=0.0)
    return max(jitter, exclude_radius)


def check_jitter(caller: str, jitter: object) -> None:
    """Check the largest distance of positives."""
    if jitter is not None:
        checks.number(caller, "jitter", jitter, at_least=0.0)


def check_options(
    caller: str,
    normalize: object,
    negatives: object,
    exclude_radius: object,
    reduction: object,
    chunk_size: object,
) -> None:
    """Check what is no tensor."""
    checks.flag(caller, "normalize", normalize)
    checks.option(caller, "negatives", negatives, NEGATIVES)
    if exclude_radius is not None:
        checks.number(caller, "exclude_radius", exclude_radius, at_least=0.0)
    checks.option(caller, "reduction", reduction, reduce.REDUCTIONS)
    if chunk_size is not None:
        checks.count(caller, "chunk_size", chunk_size)
