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
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

import torch
from roadscene.checkpoint import load_swinfuse
from roadscene.data import DataError, Pair
from roadscene.dry_run import dry_run
from roadscene.evaluate import by_features, query_maps
from roadscene.export import save_features
from roadscene.figures import matches_figure, training_figure
from roadscene.html_report import weights, write_report
from roadscene.model import Features
from roadscene.processes import Processes
from roadscene.recipe import recipe
from roadscene.report import compare, finite, table, write_json
from roadscene.settings import Settings, add_flags, settings_from
from roadscene.sources import (
    Source,
    add_source_flags,
    check_source_flags,
    open_source,
)
from roadscene.training import Training


def parse(argv: Sequence[str] | None) -> tuple[argparse.Namespace, Settings]:
    """Read the command line."""
    parser = argparse.ArgumentParser(
        description="Fine-tune SwinFuse's features on RGB-infrared pairs."
    )
    add_source_flags(parser)
    add = parser.add_argument
    add("--dry-run", action="store_true", help="measure the pairs, and train nothing")
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
        check_source_flags(args)
        if args.dry_run and args.resume:
            raise ValueError("--dry-run and --resume exclude each other")
        return args, settings_from(args)
    except ValueError as error:
        parser.error(str(error))


def write_results(
    out: Path, source: Source, test: list[Pair], shown: list[Pair], training: Training
) -> dict[str, Any]:
    """Evaluate the selected weights; write the figures and the metrics."""
    progress, protocol = training.progress, training.protocol
    after = training.measure(test)
    result = compare(progress["before"], after)
    maps = {
        "before": progress["maps"],
        "after": query_maps(by_features(training.describe), shown, protocol),
    }
    matches_figure(out / "matches.png", shown, maps, protocol)
    training_figure(
        out / "training.png",
        progress["terms"],
        progress["gradient_shares"],
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
        "per_pair": {"before": finite(progress["before"]), "after": finite(after)},
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


def shares(metrics: dict[str, Any]) -> str:
    """Say what each term did at the end: one without a share does nothing."""
    last = {name: values[-1] for name, values in metrics["gradient_shares"].items()}
    return ", ".join(f"{name} {100 * share:.3g} %" for name, share in last.items())


def main(argv: Sequence[str] | None = None) -> dict[str, Any] | None:
    """Run the example; return what metrics.json holds, None where nothing is done."""
    started = time.perf_counter()
    args, settings = parse(argv)
    device = torch.device(args.device)
    if device.type == "cuda" and "LOCAL_RANK" in os.environ:
        device = torch.device("cuda", int(os.environ["LOCAL_RANK"]))
    processes = Processes.start(device)

    # Data, divided by scene.
    source = open_source(args, processes)
    if args.dry_run:
        if processes.first:
            print(dry_run(source, settings.exclude_px))
        processes.end()
        return None
    args.out.mkdir(parents=True, exist_ok=True)
    checkpoint = args.out / "checkpoint.pt"

    s, split = settings, source.split
    train = source.pairs(split.train)
    validation = source.pairs(split.validation, s.validation_pairs)
    test = source.pairs(split.test, s.test_pairs)
    shown = test[:: -(-len(test) // 4)]  # four of them, or fewer, for the figure
    if processes.first:
        print(
            f"{source.label}: {len(train)} pairs to train, {len(validation)} to "
            f"validate, {len(test)} to test; {len(split.left_out)} left out as too near"
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
            maps = query_maps(by_features(training.describe), shown, training.protocol)
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
    save_features(args.out / "features.pt", training.averaged.module, s)
    metrics = write_results(args.out, source, test, shown, training)
    if args.report:
        write_report(args.out / "report.html", metrics, training, train, test)

    caption = f"\n{len(test)} test pairs of {source.label}, seed {s.seed}"
    print(table(metrics["result"], caption))
    print(f"Shares of the gradient at the end: {shares(metrics)}")
    seconds = time.perf_counter() - started
    print(f"\n{seconds:.0f} s; features, metrics and figures are in {args.out}/")
    return metrics


if __name__ == "__main__":
    try:
        main()
    except DataError as error:
        sys.exit(f"error: {error}")
