"""Cells, one after the other: measured, or as a run before has left them."""

import argparse
import hashlib
import json
import math
import os
import statistics
from collections.abc import Iterable, Iterator, Sequence
from functools import cache
from pathlib import Path
from typing import Any

import numpy
import torch
from tqdm import tqdm

from benchmarks import common
from benchmarks.certificate.extended import EXTENDED
from benchmarks.certificate.measure import Errors, measured
from benchmarks.certificate.regimes import DTYPES, REGIMES
from benchmarks.certificate.subjects import SUBJECTS, Entrant, agrees, entrants
from benchmarks.contestants import LIBRARY

__all__ = ["main"]

SUITE = "certificate"
KEPT = common.ROOT / "runs" / "certificate"  # git does not see it
DRAWS = 100_000
Row = dict[str, Any]


def cells(args: argparse.Namespace) -> Iterator[tuple[str, str, str]]:
    """Yield loss, dtype and regime of what was asked for."""
    for loss in args.losses or SUBJECTS:
        for dtype in args.dtypes or DTYPES:
            for regime in args.regimes or REGIMES:
                yield loss, dtype, regime


def each(draws: int) -> int:
    """Return how many draws of a cell make so many of all."""
    return math.ceil(draws / (len(SUBJECTS) * len(DTYPES) * len(REGIMES)))


@cache
def sources() -> str:
    """Return a digest of all code that the results depend on."""
    folders = ("xmodal_losses", "benchmarks/certificate", "benchmarks/peers")
    files = [p for some in folders for p in sorted((common.ROOT / some).rglob("*.py"))]
    files.append(common.ROOT / "benchmarks" / "plain.py")
    files = [path for path in files if path.name not in ("figures.py", "read.py")]
    out = hashlib.sha256(torch.__version__.encode())
    for path in files:
        out.update(path.read_bytes())
    return out.hexdigest()[:16]


@cache
def tried(loss: str) -> tuple[Entrant, ...]:
    """Return the entrants of a loss; one that is another formula says so."""
    out = []
    for entrant in entrants(SUBJECTS[loss]):
        absent = entrant.absent or _other_formula(loss, entrant)
        out.append(Entrant(**vars(entrant) | {"absent": absent}))
    return tuple(out)


def _other_formula(loss: str, entrant: Entrant) -> str:
    """Say that an entrant is not the truth on ordinary inputs, in its widest dtype."""
    for dtype in ("float64", "float32"):
        found, _ = measured(loss, "ordinary", dtype, range(4), [entrant])
        errors = found[entrant.name]
        if errors.value:
            worst = max(
                statistics.median(errors.value), statistics.median(errors.gradient)
            )
            if agrees(worst, DTYPES[dtype]):
                return ""
            return f"another formula: differs by {worst:.1e}"
    return "no result: " + errors.raised[0]


def summary(errors: Sequence[float], numbers: Sequence[int]) -> Row:
    """Return worst and median of the errors that are finite, and who is the worst."""
    pairs = [pair for pair in zip(errors, numbers, strict=True) if pair[0] == pair[0]]
    if not pairs:
        return {"worst": None, "median": None, "draw": None, "nonfinite": len(errors)}
    worst, draw = max(pairs)
    return {
        "worst": _short(worst),
        "median": _short(statistics.median(error for error, _ in pairs)),
        "draw": draw,
        "nonfinite": len(errors) - len(pairs),
    }


def _short(number: float) -> float:
    return float(f"{number:.3g}")


def cell(loss: str, dtype: str, regime: str, draws: int, tick: Any) -> Row:
    """Measure one cell."""
    present = [entrant for entrant in tried(loss) if not entrant.absent]
    found, own = measured(loss, regime, dtype, range(draws), present, tick)
    rows = []
    for entrant in present:
        errors = found[entrant.name]
        rows.append(
            {
                "entrant": entrant.name,
                "value": summary(errors.value, errors.numbers),
                "gradient": summary(errors.gradient, errors.numbers),
                "raised": len(errors.raised),
                "said": errors.raised[0] if errors.raised else "",
            }
        )
    known = {name: _worst(errors) for name, errors in own.items()}
    where = {"loss": loss, "dtype": dtype, "regime": regime, "draws": draws}
    return where | known | {"rows": rows}


def _worst(errors: Errors) -> Row:
    return {
        name: _short(max(some)) if (some := getattr(errors, name)) else None
        for name in ("value", "gradient")
    }


def kept(loss: str, dtype: str, regime: str, draws: int) -> Path:
    """Return where a cell of these sources is kept."""
    name = f"{loss}--{dtype}--{regime.replace(' ', '_').replace('<', 'lt')}.json"
    return KEPT / f"{sources()}-{draws}" / name


def write(path: Path, text: str) -> None:
    """Write a file at once or not at all."""
    path.parent.mkdir(parents=True, exist_ok=True)
    part = path.with_suffix(".part")
    part.write_text(text, encoding="utf-8")
    os.replace(part, path)


def run(args: argparse.Namespace) -> list[Row]:
    """Measure what is not kept."""
    draws = 2 if args.quick else each(args.draws)
    todo = list(cells(args))
    out = []
    with tqdm(total=len(todo), unit="cell", smoothing=0.1) as bar:
        for where in todo:
            bar.set_postfix_str(" · ".join(where))
            path = kept(*where, draws)
            if path.exists():
                found = json.loads(path.read_text(encoding="utf-8"))
            else:
                found = cell(*where, draws, lambda _: bar.refresh())
                write(path, json.dumps(found, allow_nan=False))
            out.append(found)
            bar.update()
    return out


def published(about: Row, found: list[Row]) -> str:
    """Return the text of the file: one line for each entrant of a cell."""
    about = about | {
        "sources": sources(),
        "draws": sum(one["draws"] for one in found),
        "eps_of_truth": float(numpy.finfo(EXTENDED).eps),
    }
    who = [
        {
            "loss": loss,
            "entrant": entrant.name,
            "beside": "" if entrant.how == "this library" else entrant.beside,
            "how": entrant.how,
            "note": entrant.note,
            "absent": entrant.absent,
        }
        for loss in dict.fromkeys(one["loss"] for one in found)
        for entrant in tried(loss)
    ]

    def lines(rows: Iterable[Row]) -> str:
        dumped = (json.dumps(row, allow_nan=False, ensure_ascii=False) for row in rows)
        return ",\n".join(dumped)

    results = ",\n".join(
        json.dumps(
            {k: v for k, v in one.items() if k != "rows"},
            allow_nan=False,
            ensure_ascii=False,
        )[:-1]
        + f', "rows": [\n{lines(one["rows"])}]}}'
        for one in found
    )
    return (
        f'{{"metadata": {json.dumps(about, indent=1)},\n"entrants": [\n{lines(who)}],\n'
        f'"results": [\n{results}]}}\n'
    )


def show(args: argparse.Namespace) -> None:
    """Print one draw again, of every entrant."""
    for loss, dtype, regime in cells(args):
        print(f"{loss}, {dtype}, {regime}, draw {args.draw}")
        present = [entrant for entrant in tried(loss) if not entrant.absent]
        found, own = measured(loss, regime, dtype, [args.draw], present)
        print(f"{'':<38}{'value':>14}{'error':>9}{'of gradient':>13}")
        for name, errors in found.items():
            if errors.raised:
                print(f"{name:<38}{errors.raised[0]}")
                continue
            ((got, _),) = errors.values
            print(
                f"{name:<38}{got:>14.6g}{errors.value[0]:>9.1e}"
                f"{errors.gradient[0]:>13.1e}"
            )
        ((_, truth),) = found[LIBRARY].values
        known = own["truth"]
        print(
            f"{'truth, known to':<38}{truth:>14.6g}{known.value[0]:>9.1e}"
            f"{known.gradient[0]:>13.1e}"
        )


def main(argv: list[str] | None = None) -> None:
    """Measure, keep, save."""
    parser = common.parser(__doc__.splitlines()[0], SUBJECTS)
    parser.add_argument("--dtypes", nargs="+", choices=list(DTYPES))
    parser.add_argument("--regimes", nargs="+", choices=list(REGIMES))
    parser.add_argument(
        "--draws", type=int, default=DRAWS, help=f"of all cells together ({DRAWS})"
    )
    parser.add_argument("--draw", type=int, help="only print this one again")
    args = parser.parse_args(argv)
    torch.set_num_threads(args.threads)
    if args.draw is not None:
        show(args)
        return
    about = common.metadata(args)  # of when it began: a revision may follow
    found = run(args)
    whole = len(found) == len(SUBJECTS) * len(DTYPES) * len(REGIMES)
    path = args.json or common.published(SUITE, args)
    if args.json is None and (args.quick or not whole):
        print("not published: " + ("--quick" if args.quick else "not all cells"))
        return
    write(path, published(about, found))
    print(f"written: {path}")
