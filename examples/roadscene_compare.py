"""Trained features beside what needs no training, on the same held-out pairs.

    python examples/roadscene_compare.py runs/roadscene runs/cnn --data RoadScene
        --redfeat path/to/VIS_IR --mmim path/to/VIS_IR --publish comparison.json

Every run (a folder of `seed_0`, `seed_1`, … is a run with several seeds), and each
backbone as it was before the first of them, are compared with correlation of
intensities and gradients, mutual information, HOG, SIFT and ORB: at finding places
(`roadscene/evaluate.py`), and at registering pairs that a homography took apart
(`roadscene/warps.py`): drawn ones, and, where their folders are given, those of
ReDFeat's benchmark and the unaligned pairs of a matching survey.
"""

import argparse
import hashlib
import sys
from collections.abc import Iterable, Sequence
from dataclasses import asdict, fields
from pathlib import Path
from typing import Any

import torch
from roadscene.baselines import MATCHERS, SEARCHES, at_corners
from roadscene.checkpoint import read
from roadscene.comparison import Entry, floor, localisation, registration, text
from roadscene.data import DataError
from roadscene.download import MMIM, REDFEAT, download_files
from roadscene.evaluate import Protocol, by_features
from roadscene.kept import Keep
from roadscene.model import Describer, Features
from roadscene.processes import Processes
from roadscene.report import write_json
from roadscene.settings import Settings
from roadscene.sources import add_source_flags, check_source_flags, open_source
from roadscene.warps import mmim_cases, random_cases, redfeat_cases

__all__ = ["main", "trained"]

BACKBONES = {"swinfuse": "SwinFuse", "cnn": "control"}
FOUND = {"top1": "top-1", "top5": "top-5", "within": "8 px", "error": "error, px"}
REGISTERED = {
    "srr": "SRR@10",
    "mean_success": "mean, px",
    "collapsed": "> 100 px",
    **{f"auc_{x}": f"AUC@{x}" for x in (3, 5, 10)},
    "ncm": "NCM@3",
    "precision_3": "prec@3",
    "inliers": "inliers",
}


def seeds_of(folder: Path) -> list[Path]:
    """Return the folder of a run, or those of its seeds, as the study makes them."""
    found = [folder] if (folder / "checkpoint.pt").exists() else []
    found += sorted(path.parent for path in folder.glob("seed_*/checkpoint.pt"))
    if not found:
        raise DataError(f"{folder}: holds neither checkpoint.pt nor seed_*/")
    return found


def trained(folder: Path, device: torch.device) -> dict[str, list[Entry]]:
    """Return what a run had before training, and the weights it selected, by seed.

    The former is called after the backbone: lengths of training do not change it.
    """
    out: dict[str, list[Entry]] = {}
    for one in seeds_of(folder):
        progress = read(one / "checkpoint.pt")["progress"]
        names = {field.name for field in fields(Settings)}
        stored = {k: v for k, v in progress["settings"].items() if k in names}
        settings = Settings(**stored)
        before = f"{BACKBONES[settings.backbone]}, untrained"
        for name, key in ((before, "initial"), (f"{folder.name}, trained", "best")):
            model = Features(settings).to(device)
            model.load_state_dict(progress[key])
            describe = Describer(model, settings.downscale, device)
            out.setdefault(name, []).append(Entry(describe, digest(model)))
    return out


def digest(model: Features) -> str:
    """Return what tells weights apart."""
    found = hashlib.sha256()
    for name, values in model.state_dict().items():
        found.update(name.encode() + values.cpu().numpy().tobytes())
    return found.hexdigest()


def names_of(some: Iterable[Any]) -> list[str]:
    """Return the names of pairs, or of cases."""
    return [one.name for one in some]


def main(argv: Sequence[str] | None = None) -> dict[str, Any]:
    """Compare, print, and write JSON."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    add_source_flags(parser)
    add = parser.add_argument
    add("runs", nargs="*", type=Path, help="folders of runs, or of their seeds")
    add("--redfeat", type=Path, help=f"ReDFeat's benchmark: {REDFEAT.url}")
    add("--mmim", type=Path, help=f"the matching survey: {MMIM.url}")
    about = "fetch what --redfeat and --mmim name, where it does not exist"
    add("--fetch", action="store_true", help=about)
    about = "keep what is measured in this folder, and measure what is not there "
    about += "(empty it when the code changes)"
    add("--keep", type=Path, help=about)
    add("--limit", type=int, default=0, help="test pairs at most; 0: all")
    add("--device", default="cuda" if torch.cuda.is_available() else "cpu")
    add("--publish", type=Path, help="write the tables here, as JSON")
    args = parser.parse_args(argv)
    try:
        check_source_flags(args)
    except ValueError as error:
        parser.error(str(error))
    device = torch.device(args.device)

    source = open_source(args, Processes())
    test = source.pairs(source.split.test, args.limit)
    learned: dict[str, list[Entry]] = {}
    for folder in args.runs:
        for name, some in trained(folder, device).items():
            learned.setdefault(name, some)  # untrained: of the first

    protocol = Protocol()
    keep = Keep(args.keep, "places", source.label, names_of(test), asdict(protocol))
    searches = {name: [Entry(search)] for name, search in SEARCHES.items()}
    searches |= {name: [x.by(by_features) for x in y] for name, y in learned.items()}
    found = localisation(searches, test, protocol, keep)
    print(f"\nFinding places, {len(test)} test pairs of {source.label}")
    print(text(found, FOUND))

    sets = {"drawn homographies": random_cases(test)}
    for folder, files in ((args.redfeat, REDFEAT), (args.mmim, MMIM)):
        if args.fetch and folder and not folder.exists():
            download_files(folder, files)
    if args.redfeat:
        cases = redfeat_cases(args.redfeat, source.read, names_of(test))
        sets["ReDFeat's homographies"] = cases
    if args.mmim:
        sets["unaligned pairs of another place"] = mmim_cases(args.mmim)
    methods = {name: [Entry(method)] for name, method in MATCHERS.items()}
    methods |= {name: [x.by(at_corners) for x in y] for name, y in learned.items()}
    registered = {}
    for name, cases in sets.items():
        keep = Keep(args.keep, name, source.label, names_of(cases))
        registered[name] = registration(methods, cases, keep)
        print(f"\nRegistration, {name}, {len(cases)} pairs")
        print(text(registered[name], REGISTERED))
    result = {
        "data": source.label,
        "pairs": names_of(test),
        "cases": {name: len(cases) for name, cases in sets.items()},
        "floor": {name: floor(cases) for name, cases in sets.items()},
        "localisation": found,
        "registration": registered,
    }
    if args.publish:
        write_json(args.publish, result)
    return result


if __name__ == "__main__":
    try:
        main()
    except DataError as error:
        sys.exit(f"error: {error}")
