"""The Python of the pages runs, and prints what stands below it.

Every block of a page is run in order, in one scope. A block that follows a comment
`<!-- needs: NAME -->` wants another package: it runs in a test of its own, after the
blocks that want none, and is skipped where the package is missing. What a ``text``
block right below one shows is what it prints.
"""

import importlib
import importlib.util
import io
import re
import sys
import types
from contextlib import redirect_stdout
from typing import NamedTuple

import pytest
import torch.distributed as dist

from benchmarks.peers.registry import module
from test_api import ROOT

BLOCK = re.compile(
    r"(?:^<!-- needs: (?P<needs>\w+) -->\n)?^```python\n(?P<code>.*?)^```$"
    r"(?:\n\n```text\n(?P<shown>.*?)^```$)?",
    re.M | re.S,
)
NUMBER = re.compile(r"-?\d+(?:\.\d+)?(?:e[-+]\d+)?")

#: Run by tests/examples, which has a file of features for it.
ELSEWHERE = {"docs/example.md"}
#: A page of a loss shows a call, of tensors and modules that everyone has.
GIVEN = """
import datetime
import torch
import xmodal_losses as xl
import xmodal_losses.functional as F
rgb, ir, depth = torch.randn(3, 40, 128, requires_grad=True)
rgb_map, ir_map = torch.randn(2, 4, 8, 5, 6, requires_grad=True)
has_rgb, has_ir, has_depth = torch.ones(3, 40, dtype=torch.bool)
label, encoder, weight = torch.arange(40) % 10, torch.nn.Linear(6, 4), 0.1
x, z_b = torch.randn(40, 6), torch.randn(40, 4)
"""

#: Modules of peers that are imported without the packages around them, which want
#: torchvision; distributions have other names than what is imported.
BARE = {
    "lightly": ("lightly.models.modules.memory_bank", "lightly.loss.ntx_ent_loss"),
    "open_clip_torch": ("open_clip.loss",),
}


class Block(NamedTuple):
    """Python of a page, what it wants, and what it prints, if the page says so."""

    code: str
    needs: str | None
    shown: str | None


def blocks(page):
    text = (ROOT / page).read_text(encoding="utf-8")
    return [
        Block(found["code"], found["needs"], found["shown"])
        for found in BLOCK.finditer(text)
    ]


def pages():
    """Return all pages with code, as paths below the root."""
    paths = [ROOT / "README.md", *sorted((ROOT / "docs").rglob("*.md"))]
    names = [path.relative_to(ROOT).as_posix() for path in paths]
    found = [n for n in names if "_build" not in n and n not in ELSEWHERE]
    return [name for name in found if blocks(name)]


PAGES = pages()
NEEDS = [
    (page, need)
    for page in PAGES
    for need in dict.fromkeys(block.needs for block in blocks(page))
    if need is not None
]


def run(page, need=None):
    """Run the blocks that want nothing, and those that want `need`."""
    scope = {}
    if page.startswith("docs/losses/") or page == "docs/distributed.md":
        exec(GIVEN, scope)
    for block in blocks(page):
        if block.needs not in (None, need):
            continue
        printed = io.StringIO()
        with redirect_stdout(printed):
            exec(compile(block.code, page, "exec"), scope)
        if block.shown is not None:
            lines = printed.getvalue().splitlines(keepends=True)
            if need is not None:  # frameworks have their own to say before
                lines = lines[-len(block.shown.splitlines()) :]
            assert_shown(block.shown, "".join(lines))
        if dist.is_initialized():  # each block of the page makes its own
            dist.destroy_process_group()


def assert_shown(shown, printed):
    """Words are the same, numbers nearly: the last digit is the processor's."""
    assert NUMBER.sub("#", shown) == NUMBER.sub("#", printed), printed
    for here, there in zip(NUMBER.findall(shown), NUMBER.findall(printed), strict=True):
        close = pytest.approx(float(there), rel=0.01, abs=1.01 * unit(here))
        assert float(here) == close, printed


def unit(number):
    """Return what the last digit counts."""
    digits, _, exponent = number.partition("e")
    return 10.0 ** (int(exponent or 0) - len(digits.partition(".")[2]))


@pytest.fixture
def one_process(monkeypatch):
    """What torchrun sets, for the page that makes a group."""
    values = {"RANK": "0", "WORLD_SIZE": "1", "MASTER_ADDR": "localhost"}
    for name, value in (values | {"MASTER_PORT": "0"}).items():
        monkeypatch.setenv(name, value)


@pytest.mark.parametrize("page", PAGES)
def test_documented_code_runs(page, one_process):
    run(page)


@pytest.mark.peers
@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize(("page", "need"), NEEDS)
def test_code_beside_other_packages_runs(page, need, monkeypatch, tmp_path):
    monkeypatch.chdir(tmp_path)
    have(need, monkeypatch)
    run(page, need)


def have(need, monkeypatch):
    """Make a package importable, or skip."""
    if need not in BARE:
        pytest.importorskip(need, exc_type=ImportError)
        return
    if importlib.util.find_spec("torchvision") is None:  # for one name, not used
        ops = types.ModuleType("torchvision.ops")
        ops.StochasticDepth = object
        monkeypatch.setitem(sys.modules, "torchvision", types.ModuleType("torchvision"))
        monkeypatch.setitem(sys.modules, "torchvision.ops", ops)
    try:
        for name in BARE[need]:
            module(need, name)
    except ImportError as error:
        pytest.skip(str(error))


def test_every_block_is_found():
    """A block that is indented, or has options, would not be run."""
    for page in PAGES:
        text = (ROOT / page).read_text(encoding="utf-8")
        assert len(re.findall(r"```[ {]*(?:py|code)", text)) == len(blocks(page)), page
        needs = [block.needs for block in blocks(page) if block.needs is not None]
        assert text.count("<!-- needs:") == len(needs), page


@pytest.mark.parametrize(
    ("shown", "printed"),
    [
        ("loss 1.25\n", "loss 1.27\n"),
        ("loss 1.25\n", "gain 1.25\n"),
        ("p 2.1e-03\n", "p 2.4e-03\n"),
        ("20 of 20\n", "18 of 20\n"),
        ("loss nan\n", "loss 0.1\n"),
    ],
)
def test_what_is_shown_has_to_be_printed(shown, printed):
    assert_shown(shown, shown)
    with pytest.raises(AssertionError):
        assert_shown(shown, printed)
