"""Time and extra peak memory of forward and backward against N and D.

    python -m benchmarks.scaling [--quick] [--device cuda] [--losses coral mmd]

For every loss, every contestant at every size of a grid that ends where memory or
patience does. Memory is that of one call in a fresh process, which also finds what is
too large or too slow; what is left is timed in this process, all contestants of a size
in turns.

With `--again`, what the committed results say was given up for want of time, and would
fit into the `--seconds` given now, is measured and put in its place.
"""

import argparse
import json
import re
from collections.abc import Iterator

import torch

from benchmarks import common
from benchmarks.cases import CASES, GROUPS
from benchmarks.contestants import contestants
from benchmarks.measure import Row, at_size, show, unable
from benchmarks.page import by

__all__ = ["GRIDS", "LOSSES", "QUICK"]

LOSSES = [case.name for case in (*CASES, GROUPS)]
Shape = tuple[int, ...]


def _pairs(columns: int) -> list[Shape]:
    return [(rows, columns) for rows in (256, 1024, 4096, 16384, 65536)]


def _moments(columns: int) -> list[Shape]:
    largest = 1024 if columns > 1024 else 8192
    return [(n, columns) for n in (64, 256, 1024, 8192) if n <= largest]


# Series of sizes, each from small to large: what ends one contestant ends its series.
GRIDS: dict[str, list[list[Shape]]] = {
    "info_nce": [_pairs(128), _pairs(512)],
    "nt_xent": [_pairs(128)],
    "sigmoid_contrastive": [_pairs(128)],
    "decoupled": [_pairs(128)],
    "debiased": [_pairs(128)],
    "mil_nce": [_pairs(128)],
    "soft_info_nce": [_pairs(128)],
    "mmd": [_pairs(128), _pairs(512)],
    "sup_con": [_pairs(128)],
    "sincere": [_pairs(128)],
    "contrastive_center": [_moments(128)],
    "hetero_center": [_moments(128)],
    "hetero_center_triplet": [_moments(128)],
    "cross_modality_contrastive_center": [_moments(128)],
    "similarity_preservation": [_pairs(128)],
    "coral": [_moments(128), _moments(1024), _moments(8192)],
    "barlow_twins": [_moments(128), _moments(1024), _moments(8192)],
    "vicreg": [_moments(128), _moments(1024), _moments(8192)],
    "vicreg_local": [_moments(128)],
    "soft_decorrelation": [_moments(128), _moments(1024)],
    "eckart_young": [_moments(128), _moments(1024)],
    # Its decompositions grow as D³, and N < D has no canonical correlations to find.
    "dcca": [[(256, 128), (1024, 128), (8192, 128)], [(1024, 512), (8192, 512)]],
    "mcca": [[(1024, 128), (8192, 128)]],
    "dgcca": [[(1024, 128), (8192, 128)]],
    "noise_regularization": [[(1024, 128), (8192, 128)]],
    "info_nce_groups": [[(groups, 256, 128) for groups in (4, 16, 64, 256)]],
}
# The power of N with which a call grows at least; how fast it does is found by trying.
PAIRS = (
    "info_nce",
    "nt_xent",
    "sigmoid_contrastive",
    "decoupled",
    "debiased",
    "mil_nce",
    "soft_info_nce",
    "sup_con",
    "sincere",
    "similarity_preservation",
    "mmd",
)
GROWTH = {loss: 2 if loss in PAIRS else 1 for loss in GRIDS}
QUICK: dict[str, list[list[Shape]]] = {
    loss: [[(2, 16, 8) if loss == GROUPS.name else (16, 8)]] for loss in GRIDS
}


def measure(loss: str, args: argparse.Namespace) -> Iterator[Row]:
    """Yield a row for each contestant and size."""
    everyone = contestants(loss)
    unfit = {one.name: reason for one in everyone if (reason := unable(one, args))}
    for series in (QUICK if args.quick else GRIDS)[loss]:
        skipped = dict(unfit)
        for shape, larger in zip(series, [*series[1:], None], strict=True):
            print(f"{loss}, {' × '.join(map(str, shape))}")
            for row in at_size(everyone, shape, args, rounds=5, skipped=skipped):
                show(row)
                yield row
                name = row["contestant"]
                if row["skipped"]:
                    skipped.setdefault(name, f"{row['skipped']}, at {shape[0]} already")
                elif larger is not None:
                    growth = (larger[0] / shape[0]) ** GROWTH[loss]
                    measured = row["timing"]["median_us"] / 1e6
                    least = min(row["seconds"], measured) * growth
                    if least > args.seconds:
                        skipped[name] = f"one call would take {least:.0f} s or more"


def again(loss: str, args: argparse.Namespace) -> list[Row]:
    """Return the committed rows of a loss, with those measured that had no time."""
    results: list[Row] = json.loads(
        common.published(f"scaling--{loss}", args).read_text(encoding="utf-8")
    )["results"]
    everyone = {one.name: one for one in contestants(loss)}
    for shape, rows in by(results, "shape").items():
        late = {
            row["contestant"]: row
            for row in rows
            if (time := re.match(r"one call would take (\d+) s", row["skipped"]))
            and int(time[1]) <= args.seconds
        }
        if late:
            print(f"{loss}, {' × '.join(map(str, shape))}")
        some = [everyone[name] for name in late if name in everyone]
        for row in at_size(some, shape, args, rounds=5, skipped={}) if some else []:
            show(row)
            late[row["contestant"]].update(row)
    return results


def main() -> None:
    """Measure, print, save."""
    parser = common.parser(__doc__.splitlines()[0], LOSSES)
    parser.add_argument("--again", action="store_true", help="what had no time")
    args = parser.parse_args()
    if args.json is not None and len(args.losses or LOSSES) > 1:
        raise SystemExit("--json is for one of the --losses at a time")
    torch.set_num_threads(args.threads)
    for loss in args.losses or LOSSES:
        results = again(loss, args) if args.again else list(measure(loss, args))
        # A file for each: what an hour of measuring has found is not lost in the next.
        common.save(f"scaling--{loss}", args, results, partial=False)
    print("median ± interquartile range of one call; extra peak memory")


if __name__ == "__main__":
    main()
