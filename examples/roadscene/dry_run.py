"""What a run would be given: the pairs, their split, and how well they are aligned."""

from collections import Counter
from collections.abc import Iterator, Sequence
from itertools import chain

import torch
from tqdm import tqdm

from .data import DataError, Files, some
from .images import image_info
from .misalignment import REACH, Displacements, displacements
from .sources import Source

__all__ = ["dry_run"]

FEW = 0.01  # of blocks believed; of unrelated images it is a thousandth


def sizes(widths: Sequence[int], heights: Sequence[int]) -> Iterator[str]:
    """Tell the range of sizes."""
    yield f"{'':12}{'min':>8}{'median':>8}{'max':>8}"
    for label, values in (("width, px", widths), ("height, px", heights)):
        values = sorted(values)
        three = values[0], values[len(values) // 2], values[-1]
        yield f"{label:12}" + "".join(f"{value:8}" for value in three)


def kinds(files: Files) -> Iterator[str]:
    """Tell channels and depths of the files."""
    for side, label in enumerate(("visible", "infrared")):
        found = Counter(image_info(both[side])[2:] for both in files.values())
        text = ", ".join(
            f"{number} of {channels} × {bits} bits"
            for (channels, bits), number in found.most_common()
        )
        yield f"{label:12}{text}"


def alignment(measured: dict[str, Displacements], tolerance: float) -> Iterator[str]:
    """Tell how far apart the halves are, where that could be measured."""
    blocks = sum(one.blocks for one in measured.values())
    shift = torch.cat([one.shift for one in measured.values()])
    believed = f"{len(shift)} of {blocks} blocks"
    if len(shift) < max(FEW * blocks, 1):
        yield (
            f"warning: misalignment could be measured in {believed} only. The pairs "
            f"are without texture, more than {REACH} px apart, or not registered."
        )
    if not len(shift):
        return
    share = len(shift) / blocks
    yield f"Misalignment where it could be measured, {believed} ({share:.1%}):"
    median, most = shift.norm(dim=1).quantile(torch.tensor([0.5, 0.9])).tolist()
    dx, dy = shift.median(0).values.tolist()
    yield f"  median {median:.2f} px, 90 % below {most:.2f} px"
    yield f"  common to all: ({dx:+.2f}, {dy:+.2f}) px (x, y)"
    medians = {
        name: one.shift.norm(dim=1).median().item()
        for name, one in measured.items()
        if len(one.shift)
    }
    worst = sorted(medians, key=medians.__getitem__, reverse=True)[:3]
    listed = ", ".join(f"{name} {medians[name]:.1f}" for name in worst)
    yield f"  largest medians of pairs: {listed} px"
    if unknown := measured.keys() - medians.keys():
        yield f"  nothing is known about {len(unknown)} pairs: {some(unknown)}"
    if median > tolerance:
        yield (
            f"warning: half of the blocks are more than {median:.1f} px apart, but "
            f"places beyond {tolerance:g} px count as others (--exclude-px). Register "
            "the pairs better, or raise it."
        )


def dry_run(source: Source, tolerance: float) -> str:
    """Read every pair and describe what was found.

    Args:
        source: The pairs.
        tolerance: Pixels within which a place counts as the same in training.

    Raises:
        DataError: If pairs cannot be used; it names them all.
    """
    split = source.split
    names = list(chain(*split))
    problems: list[str] = []
    shapes: list[tuple[int, int]] = []
    measured: dict[str, Displacements] = {}

    def look_at(name: str) -> None:
        try:
            (pair,) = source.pairs([name])
        except DataError as error:
            problems.append(str(error))
        else:
            shapes.append(tuple(pair.ir.shape[:0:-1]))
            measured[name] = displacements(pair)

    for name in tqdm(names, desc="measure", leave=False, disable=None):
        look_at(name)
    if problems:
        text = "\n  ".join(problems)
        raise DataError(
            f"{len(problems)} of {len(names)} pairs cannot be used:\n  {text}"
        )
    lines = [
        f"{source.label}: {len(names)} pairs; {len(split.train)} to train, "
        f"{len(split.validation)} to validate, {len(split.test)} to test, "
        f"{len(split.left_out)} left out as too near",
        *sizes(*zip(*shapes, strict=True)),
        *(kinds(source.files) if source.files else ()),
        *alignment(measured, tolerance),
    ]
    return "\n".join(lines)
