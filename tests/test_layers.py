"""What maintainers rely on: who imports whom, what lies where, a pure import."""

import ast
import inspect
import subprocess
import sys
from pathlib import Path

import pytest

import xmodal_losses as xl
import xmodal_losses.functional as F
from test_api import LOSSES, PACKAGE

FAMILIES = ("contrastive", "correlation", "distribution", "redundancy")
# What feeds the losses, or looks at what they make, and knows none of them.
BESIDE = ("dense", "diagnostics")
# What stands on several families: a folder, and files.
TESTS = ("two_sample",)
ABOVE = (
    "gradient_cache.py",
    "large_batch.py",
    "objective.py",
    "queue.py",
    "running.py",
    "schedules.py",
    "views.py",
)


def sources():
    """Return every file of the package, relative to it."""
    return [path.relative_to(PACKAGE) for path in sorted(PACKAGE.rglob("*.py"))]


def imported(path):
    """Return the absolute names of the modules a file imports."""
    package = ("xmodal_losses", *path.parent.parts)
    names = set()
    for node in ast.walk(ast.parse((PACKAGE / path).read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            names |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            base = package[: len(package) - node.level + 1] if node.level else ()
            module = ".".join((*base, *filter(None, [node.module])))
            names |= {f"{module}.{alias.name}" for alias in node.names}
    return names


@pytest.mark.parametrize("path", sources(), ids=str)
def test_imports_follow_the_layers(path):
    own = {name for name in imported(path) if name.split(".")[0] == "xmodal_losses"}
    others = {name.split(".")[0] for name in imported(path)} - {"xmodal_losses"}
    assert others <= {"torch"} | sys.stdlib_module_names, f"{path} imports {others}"

    layer = path.parts[0]
    if layer == "_core":
        allowed = ("xmodal_losses._core",)
    elif layer in FAMILIES + BESIDE:
        allowed = ("xmodal_losses._core", f"xmodal_losses.{layer}")
    elif path.name in ABOVE or layer in TESTS:
        allowed = tuple(f"xmodal_losses.{layer}" for layer in ("_core", *FAMILIES))
        allowed += ("xmodal_losses.schedules",)
        if layer in TESTS:
            allowed += (f"xmodal_losses.{layer}",)
    else:
        allowed = ("xmodal_losses",)
    for name in own:
        assert name.startswith(allowed), f"{path} imports {name}"


@pytest.mark.parametrize(
    "path",
    [
        path
        for path in sources()
        if path.name == "__init__.py" or len(path.parts) == 1
        # What stands on several families is a file above them.
        if path.name not in ABOVE
    ],
    ids=str,
)
def test_re_exports_define_nothing(path):
    tree = ast.parse((PACKAGE / path).read_text(encoding="utf-8"))
    definitions = (ast.FunctionDef, ast.AsyncFunctionDef, ast.ClassDef, ast.Lambda)
    assert not any(isinstance(node, definitions) for node in ast.walk(tree))


def test_the_families_are_the_folders():
    folders = {path.parts[0] for path in sources() if len(path.parts) > 1}
    assert folders == {*FAMILIES, *BESIDE, *TESTS, "_core"}


@pytest.mark.parametrize("loss", LOSSES)
def test_function_and_module_live_in_one_file(loss):
    module, file = LOSSES[loss]
    for thing in (getattr(F, loss), getattr(xl, module)):
        assert Path(inspect.getsourcefile(thing)) == PACKAGE / file


def test_import_is_pure():
    # torch imports numpy and triton by itself where they are installed, so what
    # counts is what comes on top of it.
    code = """
import sys, torch, torch.utils.checkpoint
before = set(sys.modules)
import xmodal_losses, xmodal_losses.functional, xmodal_losses.kernels
new = {name.partition(".")[0] for name in set(sys.modules) - before}
assert new <= {"xmodal_losses", "torch"} | sys.stdlib_module_names, sorted(new)
assert not torch.cuda.is_initialized()
assert not (torch.distributed.is_available() and torch.distributed.is_initialized())
"""
    subprocess.run([sys.executable, "-c", code], check=True, timeout=120)
