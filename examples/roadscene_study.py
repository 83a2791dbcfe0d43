"""Which term helps, and by how much: the ablation of the RoadScene example.

Every variant differs from the full recipe in what its flags say, and is trained with
several seeds. A run that is there is not made again, and one that was cut short goes
on, so that the same command finishes what it began:

    python examples/roadscene_study.py --data path/to/RoadScene --out runs/study
    python examples/roadscene_study.py --out runs/study --publish results.json

Flags after `--` go to every run (`-- --quick --backbone cnn`); variants of SwinFuse are
left out where there is none of it.
"""

import argparse
import json
import os
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import roadscene_swinfuse as script
from roadscene.comparison import text
from roadscene.report import bootstrap_interval, write_json

__all__ = ["VARIANTS", "collect", "main"]

NONE = "--distribution=none", "--redundancy=none"
# Name → what its runs are told besides. The first is what all are compared with.
VARIANTS: dict[str, tuple[str, ...]] = {
    "full recipe": (),
    "InfoNCE alone": NONE,
    "+ MMD": ("--redundancy=none",),
    "+ CORAL": ("--distribution=coral", "--redundancy=none"),
    "+ Barlow Twins": ("--distribution=none",),
    "+ VICReg": ("--distribution=none", "--redundancy=vicreg"),
    "+ CORAL + VICReg": ("--distribution=coral", "--redundancy=vicreg"),
    "Deep CCA alone": ("--contrast=dcca", *NONE),
    **{
        f"MMD, λ = {x}": ("--redundancy=none", f"--distribution-weight={x}")
        for x in (0.01, 0.5, 5.0)
    },
    **{
        f"CORAL, λ = {x}": (
            *("--redundancy=none", "--distribution=coral"),
            f"--distribution-weight={x}",
        )
        for x in (0.01, 10.0, 1000.0)
    },
    **{
        f"Barlow Twins, λ = {x}": ("--distribution=none", f"--redundancy-weight={x}")
        for x in (0.005, 0.02, 0.1)
    },
    **{
        f"VICReg, λ = {x}": (
            *("--distribution=none", "--redundancy=vicreg"),
            f"--redundancy-weight={x}",
        )
        for x in (0.005, 0.02, 0.1)
    },
    **{f"τ = {x}": (f"--temperature={x}",) for x in (0.03, 0.15, 0.3)},
    "τ learned": ("--learn-temperature",),
    "negatives of the image alone": ("--negatives=group",),
    "all negatives": ("--negatives=all",),
    "terms on unit vectors": ("--term-input=embedding",),
    "positives off by up to 2 px": ("--jitter-px=2",),
    "crops not warped": ("--warp=0",),
    "a head without context": ("--context=0",),
    "patch head": ("--head=patch",),
    "head alone": ("--finetune=head",),
    "2 blocks per stage": ("--blocks-run=2",),
    "reconstruction first": ("--pretrain-steps=100",),
    "convolutional control": ("--backbone=cnn",),
}
# What makes no difference, or no sense, where all runs are of the control.
OF_SWINFUSE = "2 blocks per stage", "reconstruction first", "convolutional control"
METRICS = ("top1", "top5", "within", "error")


def folder_of(out: Path, variant: str, seed: int) -> Path:
    """Where a run writes."""
    name = "".join(c if c.isalnum() or c == "." else "_" for c in variant)
    return out / name / f"seed_{seed}"


def run(out: Path, variant: str, seed: int, data: str | None, more: list[str]) -> None:
    """Train one variant with one seed, or finish it, or see that it is done."""
    folder = folder_of(out, variant, seed)
    if (folder / "metrics.json").exists():
        return
    print(f"\n{variant}, seed {seed}", flush=True)
    flags = [*more, *VARIANTS[variant], f"--seed={seed}", f"--out={folder}"]
    if data:
        flags.append(f"--data={data}")
    if (folder / "checkpoint.pt").exists():
        flags.append("--resume")
    script.main(flags)


def variants_of(more: Sequence[str]) -> list[str]:
    """Return the variants that differ where all runs get these flags."""
    _, settings = script.parse([*more])
    left_out = OF_SWINFUSE if settings.backbone == "cnn" else ()
    return [name for name in VARIANTS if name not in left_out]


def per_pair(runs: Sequence[dict[str, Any]], metric: str) -> np.ndarray:
    """Return the metric after training, (seeds, pairs)."""
    values = [one["per_pair"]["after"][metric] for one in runs]
    return np.array(values, dtype=float)  # None → NaN


def collect(out: Path, seeds: Sequence[int]) -> dict[str, dict[str, Any]]:
    """Put the runs that are there into one table.

    Means over seeds and test pairs; the interval and that of the difference from the
    first variant are bootstraps over pairs of the means over seeds, and `seeds` are the
    means of each seed. Only seeds that both have are compared.
    """
    found: dict[str, dict[int, dict[str, Any]]] = {}
    for variant in VARIANTS:
        files = {seed: folder_of(out, variant, seed) / "metrics.json" for seed in seeds}
        runs = {
            s: json.loads(f.read_text("utf-8")) for s, f in files.items() if f.exists()
        }
        if runs:
            found[variant] = runs
    base = next(iter(VARIANTS))
    table: dict[str, dict[str, Any]] = {}
    for variant, runs in found.items():
        row: dict[str, Any] = {"flags": VARIANTS[variant], "count": len(runs)}
        for metric in METRICS:
            values = per_pair([*runs.values()], metric)
            row[metric] = float(np.nanmean(values))
            row[f"{metric}_interval"] = bootstrap_interval(np.nanmean(values, 0))
            row[f"{metric}_seeds"] = np.nanmean(values, 1).tolist()
            both = [seed for seed in runs if seed in found.get(base, {})]
            if variant != base and both:
                own, other = (
                    per_pair([some[seed] for seed in both], metric)
                    for some in (runs, found[base])
                )
                change = np.nanmean(own - other, 0)
                row[f"{metric}_change"] = float(change.mean())
                row[f"{metric}_change_interval"] = bootstrap_interval(change)
        last = [one["gradient_shares"] for one in runs.values()]
        row["gradient_shares"] = {
            name: float(np.mean([shares[name][-1] for shares in last]))
            for name in last[0]
        }
        row["seconds"] = float(
            np.mean([one["training_seconds"] for one in runs.values()])
        )
        table[variant] = row
    return table


def main(argv: Sequence[str] | None = None) -> dict[str, dict[str, Any]]:
    """Run what is missing, and show the table."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--data", default=os.environ.get("ROADSCENE_DIR") or None)
    parser.add_argument("--out", type=Path, default=Path("runs/study"))
    parser.add_argument("--only", nargs="+", choices=VARIANTS, metavar="VARIANT")
    parser.add_argument("--seeds", nargs="+", type=int, default=[0, 1, 2])
    parser.add_argument("--publish", type=Path, help="write the table here, as JSON")
    parser.add_argument("more", nargs="*", help="flags of every run, after --")
    args = parser.parse_args(argv)
    for seed in args.seeds:  # one seed of everything is worth more than all of one
        for variant in args.only or variants_of(args.more):
            run(args.out, variant, seed, args.data, args.more)
    table = collect(args.out, args.seeds)
    shown = {"top1": "top-1", "top1_change": "change", "within": "8 px", "error": "px"}
    print(text(table, shown))
    if args.publish:
        write_json(args.publish, {"flags": args.more, "variants": table})
    return table


if __name__ == "__main__":
    main()
