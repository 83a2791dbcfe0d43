"""Where the pairs come from: RoadScene, one's own images, or made scenes."""

import argparse
import os
from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path
from typing import NamedTuple

import torch.distributed as dist

from .data import DataError, Files, Pair, find_pairs, match_folders, read_pair
from .download import HOW_TO_GET, download
from .processes import Processes
from .splits import Split, split_by_order, split_by_scene
from .synthetic import SYNTHETIC_SPLIT, synthetic_pair
from .table import read_table

__all__ = ["Source", "add_source_flags", "check_source_flags", "open_source"]

MIN_SIDE = 88  # pixels: the evaluation asks for no place nearer than 40 to the edge
VALIDATION, TEST, GAP = 0.15, 0.2, 2


class Source(NamedTuple):
    """Pairs by name, and how they are divided."""

    label: str
    split: Split
    read: Callable[[str], Pair]  # by name, in full resolution
    files: Files | None = None  # None: made, not read

    def pairs(self, names: Sequence[str], limit: int = 0) -> list[Pair]:
        """Read the named pairs, at most `limit` of them spread evenly (0 = all).

        Raises:
            DataError: If one cannot be read or is too small.
        """
        spread = names[:: max(len(names) // limit, 1)][:limit] if limit else names
        pairs = [self.read(name) for name in spread]
        for pair in pairs:
            height, width = pair.ir.shape[-2:]
            if min(height, width) < MIN_SIDE:
                raise DataError(
                    f"Pair {pair.name} is {width}×{height} pixels; both sides must be "
                    f"at least {MIN_SIDE}."
                )
        return pairs


def fraction(text: str) -> float:
    """Parse a share between 0 and 1."""
    value = float(text)
    if not 0 < value < 1:
        raise argparse.ArgumentTypeError(f"must be in (0, 1), got {text}")
    return value


def at_least_0(value: float, text: str) -> None:
    """Refuse negative numbers, and what is none."""
    if not 0 <= value < float("inf"):
        raise argparse.ArgumentTypeError(f"must be at least 0, got {text}")


def count(text: str) -> int:
    """Parse a number of things."""
    value = int(text)
    at_least_0(value, text)
    return value


def pixels(text: str) -> float:
    """Parse a length."""
    value = float(text)
    at_least_0(value, text)
    return value


def add_source_flags(parser: argparse.ArgumentParser) -> None:
    """Add the flags that say where the pairs are."""
    add = parser.add_argument_group("data; without any, made scenes").add_argument
    add("--data", help="RoadScene's directory; default: $ROADSCENE_DIR")
    add("--download", action="store_true", help="fetch RoadScene to --data first")
    add("--data-a", type=Path, metavar="DIR", help="your visible images")
    add("--data-b", type=Path, metavar="DIR", help="your infrared ones, same names")
    add(
        "--pairs",
        type=Path,
        metavar="CSV",
        help="a list of your pairs: columns a and b, and name and split if you like",
    )
    own = f"of your pairs, for validation; default {VALIDATION}"
    add("--validation-fraction", type=fraction, metavar="SHARE", help=own)
    own = f"of your pairs, for test; default {TEST}"
    add("--test-fraction", type=fraction, metavar="SHARE", help=own)
    own = f"of your pairs, left out on both sides of training; default {GAP}"
    add("--split-gap", type=count, metavar="N", help=own)
    made = "how far the halves of made scenes are apart, root mean square"
    add("--misalignment", type=pixels, metavar="PX", help=made)


def check_source_flags(args: argparse.Namespace) -> None:
    """Fill in defaults; refuse flags that contradict each other.

    Raises:
        ValueError: Says which.
    """
    if (args.data_a is None) != (args.data_b is None):
        raise ValueError("--data-a and --data-b must be given together")
    given = {
        "--data": args.data,
        "--data-a": args.data_a,
        "--pairs": args.pairs,
        "--misalignment": args.misalignment,
    }
    chosen = [flag for flag, value in given.items() if value is not None]
    if len(chosen) > 1:
        raise ValueError(
            f"{' and '.join(chosen)} exclude each other: pairs come from one place"
        )
    if not chosen and not args.download:
        args.data = os.environ.get("ROADSCENE_DIR") or None
    if args.download:
        if chosen not in ([], ["--data"]):
            raise ValueError(f"--download fetches RoadScene, which {chosen[0]} is not")
        args.data = args.data or "data/roadscene"
    dividing = {
        "--validation-fraction": args.validation_fraction,
        "--test-fraction": args.test_fraction,
        "--split-gap": args.split_gap,
    }
    for flag, value in dividing.items():
        if value is not None and args.data_a is None and args.pairs is None:
            raise ValueError(f"{flag} is for --data-a or --pairs; other splits are set")
    held = (args.validation_fraction or VALIDATION) + (args.test_fraction or TEST)
    if held >= 1:
        raise ValueError(
            "--validation-fraction and --test-fraction must leave something to train "
            f"on, got {held:g} together"
        )


def divide(files: Files, args: argparse.Namespace) -> Split:
    """Divide one's own pairs as the flags say."""
    return split_by_order(
        files,
        validation=args.validation_fraction or VALIDATION,
        test=args.test_fraction or TEST,
        gap=GAP if args.split_gap is None else args.split_gap,
    )


def find_own(args: argparse.Namespace) -> tuple[str, Files, Split]:
    """Return label, files and split of one's own pairs."""
    if args.pairs is None:
        files = match_folders(args.data_a, args.data_b)
        return f"{args.data_a} and {args.data_b}", files, divide(files, args)
    files, split = read_table(args.pairs)
    if split is None:
        return str(args.pairs), files, divide(files, args)
    for flag in ("validation_fraction", "test_fraction", "split_gap"):
        if getattr(args, flag) is not None:
            raise DataError(
                f"{args.pairs} has a column 'split', which contradicts "
                f"--{flag.replace('_', '-')}. Leave one of them out."
            )
    return str(args.pairs), files, split


def made_scenes(misalignment: float | None, told: bool) -> Source:
    """Return scenes made on demand; say how to get data if nothing was asked for."""
    if misalignment is not None:
        made = partial(synthetic_pair, misalignment=misalignment)
        label = f"synthetic scenes, {misalignment:g} px misaligned"
        return Source(label, SYNTHETIC_SPLIT, made)
    if told:
        print(HOW_TO_GET)
    return Source("synthetic scenes", SYNTHETIC_SPLIT, synthetic_pair)


def open_source(args: argparse.Namespace, processes: Processes) -> Source:
    """Find the pairs that the flags ask for, or fall back to made scenes.

    Raises:
        DataError: If they are not there, or too few to divide.
    """
    if args.download:
        if processes.first:
            download(args.data)
        if processes.several:
            dist.barrier()
    if args.data_a or args.pairs:
        label, files, split = find_own(args)
        remedy = "Name some in a column 'split', or change --split-gap or the fractions"
    elif args.data:
        label, files = "RoadScene", find_pairs(args.data)
        split, remedy = split_by_scene(files), f"{args.data} should hold RoadScene"
    else:
        return made_scenes(args.misalignment, processes.first)
    for name, (a, b) in files.items():
        if a.resolve() == b.resolve():
            raise DataError(f"{a} is both halves of the pair {name}.")
    for part in ("train", "validation", "test"):
        if not getattr(split, part):
            raise DataError(f"Of {len(files)} pairs, none is for {part}. {remedy}.")
    return Source(label, split, lambda name: read_pair(name, *files[name]), files)
