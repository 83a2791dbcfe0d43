"""Fine-tune SwinFuse so that a place looks alike in visible and infrared.

    L = InfoNCE + λ_DA · (MMD | CORAL) + λ_RR · (Barlow Twins | VICReg)

InfoNCE asks of each patch of the visible image that its own place in the infrared
image be more similar than other places of the same image and the same place of other
images. The second term brings the two clouds of features together, the third keeps
every dimension informative. Before and after, the features must find patches again in
pairs they were not trained on. From a checkout, with the extra `examples` installed:

    python examples/roadscene_swinfuse.py --quick --data path/to/RoadScene

or, with the same numbers, on several processes:

    torchrun --nproc-per-node=2 examples/roadscene_swinfuse.py --quick
"""

import argparse
import os
import platform
import sys
import time
from collections.abc import Callable, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any, NamedTuple

import torch
import torch.distributed as dist
from roadscene.checkpoint import load_swinfuse
from roadscene.data import DataError, Pair, find_pairs, read_pair
from roadscene.download import HOW_TO_GET, download
from roadscene.evaluate import query_maps
from roadscene.figures import matches_figure, training_figure
from roadscene.html_report import weights, write_report
from roadscene.model import Features
from roadscene.processes import Processes
from roadscene.recipe import recipe
from roadscene.report import compare, table, write_json
from roadscene.settings import Settings, add_flags, settings_from
from roadscene.splits import Split, split_by_scene
from roadscene.synthetic import SYNTHETIC_SPLIT, synthetic_pair
from roadscene.training import Training


class Source(NamedTuple):
    """Where the pairs come from."""

    label: str
    split: Split
    read: Callable[[str], Pair]  # by name, in full resolution

    def pairs(self, names: Sequence[str], limit: int = 0) -> list[Pair]:
        """Read the named pairs, at most `limit` of them spread evenly (0 = all)."""
        spread = names[:: max(len(names) // limit, 1)][:limit] if limit else names
        return [self.read(name) for name in spread]


def open_source(args: argparse.Namespace, processes: Processes) -> Source:
    """Find RoadScene, or fall back to made scenes."""
    if args.download:
        if processes.first:
            download(args.data or "data/roadscene")
        if processes.several:
            dist.barrier()
    root = args.data or ("data/roadscene" if args.download else None)
    if root is None:
        if processes.first:
            print(HOW_TO_GET)
        return Source("synthetic scenes", SYNTHETIC_SPLIT, synthetic_pair)
    found = find_pairs(root)
    split = split_by_scene(found)
    for part in ("train", "validation", "test"):
        if not getattr(split, part):
            raise DataError(f"{root} holds no pairs for {part}; is it RoadScene?")
    return Source("RoadScene", split, lambda name: read_pair(name, *found[name]))


def parse(argv: Sequence[str] | None) -> tuple[argparse.Namespace, Settings]:
    """Read the command line."""
    parser = argparse.ArgumentParser(
        description="Fine-tune SwinFuse's features on RoadScene.",
        epilog="Without data, runs on procedurally made scenes.",
    )
    add = parser.add_argument
    add(
        "--data",
        default=os.environ.get("ROADSCENE_DIR") or None,
        help="RoadScene's directory; default: $ROADSCENE_DIR",
    )
    add("--download", action="store_true", help="fetch RoadScene to --data first")
    add("--out", type=Path, default=Path("runs/roadscene"), help="where to write")
    add("--device", default="auto", help="auto, cpu or cuda")
    add("--checkpoint", type=Path, help="SwinFuse weights to start from")
    add("--resume", action="store_true", help="continue from OUT/checkpoint.pt")
    add("--stop-at", type=int, help="stop after this step, to resume later")
    add("--report", action="store_true", help="write OUT/report.html, to look around")
    add_flags(parser)
    args = parser.parse_args(argv)
    if args.device == "auto":
        args.device = "cuda" if torch.cuda.is_available() else "cpu"
    elif args.device.startswith("cuda") and not torch.cuda.is_available():
        parser.error("--device: torch finds no CUDA device here")
    try:
        return args, settings_from(args)
    except ValueError as error:
        parser.error(str(error))


def write_results(
    out: Path, source: Source, test: list[Pair], shown: list[Pair], training: Training
) -> dict[str, Any]:
    """Evaluate the selected weights; write the figures and the metrics."""
    progress, protocol = training.progress, training.protocol
    result = compare(progress["before"], training.measure(test))
    maps = {
        "before": progress["maps"],
        "after": query_maps(training.describe, shown, protocol),
    }
    matches_figure(out / "matches.png", shown, maps, protocol)
    training_figure(
        out / "training.png",
        progress["terms"],
        progress["validation"],
        progress["best_step"],
    )
    metrics = {
        "data": source.label,
        "split": source.split._asdict(),
        "test_pairs": [pair.name for pair in test],
        "settings": asdict(training.settings),
        "protocol": asdict(protocol),
        "result": result,
        "selected_step": progress["best_step"],
        "training_seconds": progress["seconds"],
        "environment": {
            "torch": torch.__version__,
            "python": platform.python_version(),
            "device": str(training.device),
            "threads": torch.get_num_threads(),
        },
        "validation": progress["validation"],
        "terms": progress["terms"],
        "gradient_shares": progress["gradient_shares"],
    }
    write_json(out / "metrics.json", metrics)
    return metrics


def main(argv: Sequence[str] | None = None) -> dict[str, Any] | None:
    """Run the example; return what metrics.json holds, or None if stopped before."""
    started = time.perf_counter()
    args, settings = parse(argv)
    device = torch.device(args.device)
    if device.type == "cuda" and "LOCAL_RANK" in os.environ:
        device = torch.device("cuda", int(os.environ["LOCAL_RANK"]))
    processes = Processes.start(device)
    args.out.mkdir(parents=True, exist_ok=True)
    checkpoint = args.out / "checkpoint.pt"

    # Data, divided by scene.
    source = open_source(args, processes)
    s, split = settings, source.split
    train = source.pairs(split.train)
    validation = source.pairs(split.validation, s.validation_pairs)
    test = source.pairs(split.test, s.test_pairs)
    shown = test[:: -(-len(test) // 4)]  # four of them, or fewer, for the figure
    if processes.first:
        print(
            f"{source.label}: {len(train)} pairs to train, {len(validation)} to "
            f"validate, {len(test)} to test; {len(split.left_out)} too near to the "
            "test left out"
        )

    # Model and objective.
    torch.manual_seed(s.seed)
    model = Features(s)
    if args.checkpoint:
        load_swinfuse(model.backbone, args.checkpoint)
    objective = recipe(s, gather=processes.several)
    training = Training(s, model, objective, train, validation, device, processes)

    # Before, training, after.
    if args.resume:
        training.resume(checkpoint)
    else:
        training.pretrain()
        training.calibrate()
        if processes.first:
            maps = query_maps(training.describe, shown, training.protocol)
            before = training.measure(test)
            training.progress |= {"before": before, "maps": list(map(tuple, maps))}
            training.progress["initial"] = weights(training)
    training.run(checkpoint, args.stop_at)
    finished = training.finished
    processes.end()
    if not processes.first:
        return None
    if not finished:
        step = training.progress["step"]
        print(f"Stopped at step {step} of {s.steps}; go on with --resume.")
        return None
    training.keep_best()
    metrics = write_results(args.out, source, test, shown, training)
    if args.report:
        write_report(args.out / "report.html", metrics, training, train, test)

    caption = f"\n{len(test)} test pairs of {source.label}, seed {s.seed}"
    print(table(metrics["result"], caption))
    seconds = time.perf_counter() - started
    print(f"\n{seconds:.0f} s; checkpoint, metrics and figures are in {args.out}/")
    return metrics


if __name__ == "__main__":
    try:
        main()
    except DataError as error:
        sys.exit(f"error: {error}")
