"""Mutation testing: a change of the package, does any test see it?

    python tests/mutants.py --sample 400 --publish tests/mutants.json

Changes are cosmic-ray's: an operator, a comparison, a number or a flag becomes another
one, within one function. Those that no test has seen are read: a test is missing, or
the change makes no difference, and the published file says why.

cosmic-ray itself starts pytest for each change, which imports torch and collects tens
of thousands of tests. Here one process does so once, notes which functions of the
package each test enters, and forks for each change. The child puts changed code into
the function and runs tests that enter it, as many as fit into `--seconds`. Python 3.11
is needed.
"""

import argparse
import difflib
import gc
import itertools
import json
import os
import random
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from types import CodeType, FrameType, FunctionType

import pytest
from _pytest.runner import runtestprotocol
from cosmic_ray.ast import ast_nodes, get_ast
from cosmic_ray.mutating import mutate_code
from cosmic_ray.plugins import get_operator
from tqdm import tqdm

ROOT = Path(__file__).parents[1]
PACKAGE = ROOT / "xmodal_losses"
OPERATORS = [
    *(f"ReplaceBinaryOperator_{x}" for x in ("Add_Sub", "Sub_Add", "Mul_Div")),
    *(f"ReplaceBinaryOperator_{x}" for x in ("Div_Mul", "Mul_Add", "Pow_Mul")),
    *(f"ReplaceBinaryOperator_{x}" for x in ("BitAnd_BitOr", "BitOr_BitAnd")),
    *(f"ReplaceComparisonOperator_{x}" for x in ("Lt_LtE", "LtE_Lt", "Gt_GtE")),
    *(f"ReplaceComparisonOperator_{x}" for x in ("GtE_Gt", "Eq_NotEq", "NotEq_Eq")),
    *(f"ReplaceComparisonOperator_{x}" for x in ("Is_IsNot", "IsNot_Is")),
    *(f"ReplaceUnaryOperator_Delete_{x}" for x in ("USub", "Not", "Invert")),
    *("AddNot", "ReplaceTrueWithFalse", "ReplaceFalseWithTrue", "ReplaceAndWithOr"),
    *("ReplaceOrWithAnd", "NumberReplacer", "ZeroIterationForLoop"),
]
# Tests that take long, or that run the package in processes of their own; what these
# alone see, functions that are about ranks by their name, is not changed.
LEFT_OUT = ("examples", "benchmarks", "site", "distributed", "test_documents.py")
PYTEST = [
    *("-q", "-p", "no:cacheprovider", "-m", "not slow and not peers and not cuda"),
    *(f"--ignore={ROOT / 'tests' / name}" for name in LEFT_OUT),
]


def function_of(code: CodeType) -> str:
    """Return file and name of the function that code is part of."""
    name = code.co_qualname.split(".<locals>")[0]
    return f"{Path(code.co_filename).relative_to(PACKAGE)}:{name}"


def codes(code: CodeType) -> Iterator[CodeType]:
    """Yield the functions in a module or class."""
    for inner in code.co_consts:
        if isinstance(inner, CodeType):
            if inner.co_flags & 2:  # of a function: it has fast locals
                yield inner
            else:
                yield from codes(inner)


class Change:
    """One function's code, changed in one place."""

    def __init__(self, old: str, new: str, before: CodeType, code: CodeType):
        lines = difflib.unified_diff(old.splitlines(), new.splitlines(), n=0)
        diff = [line for line in lines if line[:2] not in ("--", "++", "@@")]
        self.name = f"{function_of(before)}: {' '.join(' '.join(diff).split())}"
        self.before, self.code = before, code


def places(path: Path) -> list[tuple[Path, str, int]]:
    """Return all there is to change in a file: the operator, and which occurrence."""
    nodes = list(ast_nodes(get_ast(path.read_text("utf-8"))))
    found = []
    for name in OPERATORS:
        positions = get_operator(f"core/{name}")().mutation_positions
        count = sum(len(list(positions(node))) for node in nodes)
        found += [(path, name, occurrence) for occurrence in range(count)]
    return found


def change(path: Path, name: str, occurrence: int) -> Change | None:
    """Make a change; None if it is not within a function."""
    old = path.read_text("utf-8")
    new = mutate_code(old, get_operator(f"core/{name}")(), occurrence)
    try:
        pair = [compile(x, str(path), "exec", dont_inherit=True) for x in (old, new)]
    except SyntaxError:
        return None
    for before, after in zip(*map(codes, pair), strict=True):
        if before != after and not before.co_name.startswith("<"):
            return Change(old, new, before, after)
    return None


class Mutate:
    """The plugin of pytest that runs its tests as described above."""

    def __init__(self, args: argparse.Namespace):
        self.args = args
        self.entered: dict[str, tuple[float, list[str]]] = {}
        self.results: dict[str, list[str]] = {"killed": [], "survived": []}

    def pytest_runtestloop(self, session: pytest.Session) -> bool:
        """Take the place of pytest's own loop."""
        self.items = {item.nodeid: item for item in session.items}
        self.record()
        functions = [f for f in gc.get_objects() if type(f) is FunctionType]
        for one in tqdm(self.changes(), total=self.args.sample):
            live = [
                f
                for f in functions
                if f.__code__ == one.before
                and f.__code__.co_filename == one.before.co_filename
            ]
            assert live, f"{one.name}: no such function"
            result = "survived" if self.survives(one, live) else "killed"
            self.results[result].append(one.name)
            if result == "survived":
                tqdm.write(one.name)
        return True

    def changes(self) -> Iterator[Change]:
        """Yield as many changes as were asked for, or those that had survived."""
        told = None
        if self.args.again:
            told = json.loads(self.args.publish.read_text("utf-8"))["survived"]
        found = []
        for path in sorted(PACKAGE.rglob("*.py")):
            name = str(path.relative_to(PACKAGE))
            again = told is None or any(one.startswith(f"{name}:") for one in told)
            if name.startswith(self.args.only) and again:
                found += places(path)
        random.Random(self.args.seed).shuffle(found)
        made = (one for place in found if (one := change(*place)) is not None)
        made = (one for one in made if "rank" not in one.name.split(": ")[0].lower())
        if told is not None:
            made = (one for one in made if one.name in told)
        return itertools.islice(made, self.args.sample)

    def record(self) -> None:
        """Note what each test enters, and how long it takes."""
        if self.args.record.exists():
            self.entered = json.loads(self.args.record.read_text("utf-8"))
        seen: set[CodeType] = set()
        package = str(PACKAGE)

        def enter(frame: FrameType, *_: object) -> None:
            if frame.f_code.co_filename.startswith(package):
                seen.add(frame.f_code)

        def save() -> None:
            self.args.record.write_text(json.dumps(self.entered), "utf-8")

        missing = [name for name in self.items if name not in self.entered]
        for count, name in enumerate(tqdm(missing, desc="tests", mininterval=5)):
            seen.clear()
            start = time.perf_counter()
            sys.settrace(enter)
            passed = self.passes(name)
            sys.settrace(None)
            seconds = time.perf_counter() - start
            functions = {function_of(c) for c in seen if c.co_name != "<module>"}
            self.entered[name] = seconds, sorted(functions) if passed else []
            if count % 5000 == 4999:
                save()
        save()

    def passes(self, name: str) -> bool:
        """Run a test."""
        reports = runtestprotocol(self.items[name], nextitem=None, log=False)
        return not any(report.failed for report in reports)

    def in_turn(self, function: str) -> list[str]:
        """Return the tests that enter a function, of each kind one after the other."""
        names = [n for n in self.items if function in self.entered.get(n, (0, ()))[1]]
        random.Random(0).shuffle(names)
        kinds: dict[str, list[str]] = {}
        for name in names:
            kinds.setdefault(name.split("[")[0], []).append(name)
        turns = itertools.zip_longest(*kinds.values())
        return [name for turn in turns for name in turn if name is not None]

    def survives(self, change: Change, live: list[FunctionType]) -> bool:
        """Run tests with changed code, in a process of its own, until one fails."""
        seconds, chosen = 0.0, []
        for name in self.in_turn(function_of(change.before)):
            if seconds < self.args.seconds:
                chosen.append(name)
                seconds += self.entered[name][0]
        if not (child := os.fork()):
            signal.alarm(int(60 + 5 * seconds))  # a loop without end is seen, too
            for one in live:
                one.__code__ = change.code
            os._exit(not all(map(self.passes, chosen)))
        return os.waitpid(child, 0)[1] == 0


def publish(args: argparse.Namespace, results: dict[str, list[str]]) -> None:
    """Write what was found; what was said of survivors before is kept."""
    told = {}
    if args.publish.exists():
        told = json.loads(args.publish.read_text("utf-8"))
    why = {name: told.get("survived", {}).get(name, "") for name in results["survived"]}
    if args.again:
        killed = told["killed"] + len(results["killed"])
    else:
        killed = len(results["killed"])
    git = ["git", "-C", str(ROOT), "rev-parse", "--short=12", "HEAD"]
    commit = subprocess.run(git, capture_output=True, text=True, check=True).stdout
    found = {"git_commit": commit.strip(), "seed": args.seed, "seconds": args.seconds}
    found |= {"killed": killed, "survived": dict(sorted(why.items()))}
    text = json.dumps(found, indent=2, ensure_ascii=False)
    args.publish.write_text(text + "\n", "utf-8")


def main() -> None:
    """Collect, change, run, and say what survives."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--sample", type=int, help="so many of all changes, drawn")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument(
        "--only", default="", help="files that begin so, in the package"
    )
    parser.add_argument("--again", action="store_true", help="those that survived")
    parser.add_argument("--seconds", type=float, default=120, help="of tests a change")
    about = "what tests enter; remove it when the package or a test has changed"
    parser.add_argument(
        "--record", type=Path, default=ROOT / ".mutants.json", help=about
    )
    parser.add_argument("--publish", type=Path)
    args = parser.parse_args()
    os.chdir(ROOT)
    os.environ.setdefault("HYPOTHESIS_PROFILE", "few")
    plugin = Mutate(args)
    pytest.main([*PYTEST, "tests"], plugins=[plugin])
    killed, survived = map(len, plugin.results.values())
    print(f"{killed} of {killed + survived} changes are seen")
    if args.publish:
        publish(args, plugin.results)


if __name__ == "__main__":
    main()
