"""Which of torch's tools each loss works with, found out by using them.

    python -m benchmarks.compatibility [--losses mmd dcca] [--checks vmap export]

Every check compares: values and gradients of the loss used so with those of the plain
call in float64. What is recorded is a tick, a reason, or what went wrong. A run of some
losses or checks joins the file of its environment.
"""

import json
import platform
import re
import warnings
from argparse import Namespace
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import Any

import torch

from benchmarks import common
from benchmarks.compatibility import checks, processes, programs
from benchmarks.compatibility.checks import NotRunError, Setting
from benchmarks.compatibility.subjects import SUBJECTS, Subject

__all__ = ["CHECKS", "SUBJECTS", "joined", "main", "outcome", "suite"]

Check = Callable[[Subject, Setting], str | None]

CHECKS: dict[str, Check] = {
    "fp64": checks.float64,
    "fp32": checks.narrow(torch.float32),
    "bf16": checks.narrow(torch.bfloat16),
    "fp16": checks.narrow(torch.float16),
    "autocast": checks.autocast,
    "compile": checks.compiled,
    "dynamic": checks.dynamic,
    "vmap": checks.vmap,
    "func_grad": checks.func_grad,
    "double_backward": checks.twice,
    "ddp": processes.ddp,
    "cuda_graph": programs.cuda_graph,
    "pickle": programs.pickled,
    "export": programs.exported,
    "export_dynamic": programs.exported_dynamic,
}


@dataclass(frozen=True)
class Refusal:
    """An error that is meant, or not ours.

    Attributes:
        check: Where it is raised.
        pattern: What its text has.
        reason: What is recorded; "" takes the first sentence of the text.
    """

    check: str
    pattern: str
    reason: str = ""


_NO_CONTEXT = (
    "this torch cannot export the context in which losses keep their precision under "
    "autocast"
)
REFUSALS = (
    Refusal("double_backward", r"^\w+: \w+ must be .* got "),
    Refusal(
        "cuda_graph",
        "called a synchronizing CUDA operation",
        "waits for the device: a decomposition tells the host whether it has converged",
    ),
    Refusal("export", "_enter_autocast is missing val", _NO_CONTEXT),
    Refusal("export_dynamic", "_enter_autocast is missing val", _NO_CONTEXT),
)


def outcome(subject: Subject, check: str, setting: Setting) -> dict[str, Any]:
    """Return what comes of a check, and why."""
    row = {"loss": subject.name, "check": check}
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # whatever compilers and exporters have to say
        try:
            return row | {"status": "ok", "reason": CHECKS[check](subject, setting)}
        except NotRunError as reason:
            return row | {"status": "not run", "reason": str(reason)}
        except Exception as error:
            text = str(error)
            for known in REFUSALS:
                if known.check == check and re.search(known.pattern, text):
                    reason = known.reason or text.partition(". ")[0].rstrip(".")
                    return row | {"status": "refused", "reason": reason}
            first = " ".join(text.split())[:300]
            reason = f"{type(error).__name__}: {first}"
            return row | {"status": "failed", "reason": reason}


def suite() -> str:
    """Return what files of this environment are called."""
    python = ".".join(platform.python_version_tuple()[:2])
    return f"compatibility--python{python}-torch{torch.__version__.partition('+')[0]}"


def joined(
    before: Iterable[dict[str, Any]], now: Iterable[dict[str, Any]]
) -> list[dict[str, Any]]:
    """Return the rows of both runs in the usual order; the later one counts."""
    rows = {(row["loss"], row["check"]): row for row in (*before, *now)}
    return [
        rows[loss, check]
        for loss in SUBJECTS
        for check in CHECKS
        if (loss, check) in rows
    ]


def main(argv: list[str] | None = None) -> None:
    """Check, print, save."""
    parser = common.parser(__doc__.splitlines()[0], SUBJECTS)
    parser.add_argument("--checks", nargs="+", choices=list(CHECKS))
    parser.add_argument(
        "--backend",
        default="inductor",
        choices=["inductor", "aot_eager"],
        help="what compiles (--quick: aot_eager, which only traces)",
    )
    args = parser.parse_args(argv)
    torch.set_num_threads(args.threads)
    backend = "aot_eager" if args.quick or not args.compile else args.backend
    setting = Setting(torch.device(args.device).type, backend)
    found = []
    for loss in args.losses or SUBJECTS:
        for check in args.checks or CHECKS:
            row = outcome(SUBJECTS[loss], check, setting)
            said = f": {row['reason']}" if row["reason"] else ""
            print(f"{loss:<34}{check:<17}{row['status']}{said}", flush=True)
            found.append(row)
    common.save(suite(), args, joined(_before(args), found), partial=False)


def _before(args: Namespace) -> list[dict[str, Any]]:
    path = args.json or common.published(suite(), args)
    if not path.exists():
        return []
    rows: list[dict[str, Any]] = json.loads(path.read_text(encoding="utf-8"))["results"]
    return rows
