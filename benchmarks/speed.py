"""Time the six losses against their plain formulas, in one run, in turns.

    python -m benchmarks.speed [--quick] [--device cuda] [--losses coral mmd]

For every loss and size: forward alone, and forward with backward. The ratio is plain
over library: above 1 the library is faster, below 1 it is slower.
"""

import torch

from benchmarks import common
from benchmarks.cases import Case, views

SIZES = ((256, 128), (1024, 128), (4096, 128), (256, 1024), (1024, 1024))
QUICK = ((32, 16),)


def measure(
    case: Case, rows: int, columns: int, device: str, quick: bool
) -> list[dict[str, object]]:
    """Return one row for the forward pass and one for both passes."""
    z_a, z_b = views(rows, columns, device=device, dtype=torch.float32)
    with_grad = [z.clone().requires_grad_() for z in (z_a, z_b)]
    spellings = {"library": case.library, "plain": case.plain}
    min_run_time, rounds = (0.001, 1) if quick else (0.3, 5)
    modes = {
        "forward": {
            name: lambda function=function: function(z_a, z_b)
            for name, function in spellings.items()
        },
        "forward+backward": {
            name: common.step(function, *with_grad)
            for name, function in spellings.items()
        },
    }
    out = []
    for mode, calls in modes.items():
        timing = common.side_by_side(calls, min_run_time, rounds)
        ratio = timing["plain"].median_us / timing["library"].median_us
        out.append(
            {
                "loss": case.name,
                "mode": mode,
                "rows": rows,
                "columns": columns,
                "dtype": "float32",
                "regime": case.regime,
                **{name: value._asdict() for name, value in timing.items()},
                "plain_over_library": ratio,
            }
        )
    return out


def main() -> None:
    """Check the baselines, time, print, save."""
    args = common.parser(__doc__.splitlines()[0]).parse_args()
    torch.set_num_threads(args.threads)
    cases = common.chosen(args)
    for case in cases:
        common.agree(case)
    print(f"{'loss':<14}{'mode':<18}{'N':>6}{'D':>6}", end="")
    print(f"{'library':>16}{'plain':>16}{'plain/library':>15}")
    results = []
    for case in cases:
        for rows, columns in QUICK if args.quick else SIZES:
            for row in measure(case, rows, columns, args.device, args.quick):
                results.append(row)
                cells = "".join(
                    f"{row[name]['median_us']:>9.0f} ±{row[name]['iqr_us']:>4.0f}"
                    for name in ("library", "plain")
                )
                print(
                    f"{case.name:<14}{row['mode']:<18}{rows:>6}{columns:>6}{cells}"
                    f"{row['plain_over_library']:>15.2f}",
                    flush=True,
                )
    print("median ± interquartile range, microseconds a call")
    common.save("speed", args, results)


if __name__ == "__main__":
    main()
