"""Every loss has what a loss comes with: a page, a row, a reference, a benchmark."""

import ast
import inspect
import json
import re

import pytest

import xmodal_losses as xl
import xmodal_losses.functional as F
from test_api import LOSSES, OF_THEIR_OWN, PACKAGE, ROOT
from test_layers import sources
from xmodal_losses import dense, diagnostics, two_sample


def text(*parts):
    return ROOT.joinpath(*parts).read_text(encoding="utf-8")


def bibliography():
    return set(re.findall(r"^@\w+\{(\w+),", text("docs", "references.bib"), re.M))


@pytest.mark.parametrize("loss", LOSSES)
def test_loss_has_its_documents(loss):
    module, file = LOSSES[loss]
    page = text("docs", "losses", f"{loss}.md")
    path = "xmodal_losses." + file.removesuffix(".py").replace("/", ".")
    assert f".. automodule:: {path}" in page
    for heading in ("When to use", "What breaks", "Cost"):
        assert f"## {heading}\n" in page

    index = text("docs", "losses", "index.md")
    assert f"({loss}.md) |" in index
    assert f"\n{loss}\n" in index

    rows = [line for line in text("README.md").splitlines() if line.startswith("|")]
    (row,) = (row for row in rows if f"`F.{loss}` · `{module}`" in row)
    assert row.count("|") == 7
    assert "](http" in row

    docstring = ast.get_docstring(ast.parse((PACKAGE / file).read_text()))
    cited = set(re.findall(r":cite:\w+:`([^`]+)`", docstring))
    assert cited, f"{file} cites nothing"


@pytest.mark.parametrize("loss", LOSSES)
def test_page_of_a_loss_shows_the_examples_that_use_it_and_some_do(loss):
    module, _ = LOSSES[loss]
    examples = (ROOT / "docs" / "gallery").glob("plot_*.py")
    uses = re.compile(rf"\bF\.{loss}\b|\bxl\.{module}\b")
    used = any(uses.search(path.read_text("utf-8")) for path in examples)
    page = text("docs", "losses", f"{loss}.md")
    shown = re.findall(r"^\.\. minigallery::\n((?:   \S+\n)+)", page, re.M)
    names = "".join(shown).split()
    assert used, f"no example of the gallery uses {loss}"
    assert f"xmodal_losses.functional.{loss}" in names
    assert f"xmodal_losses.{module}" in names


def test_every_public_name_is_on_a_page():
    pages = "".join(page.read_text() for page in (ROOT / "docs").rglob("*.md"))
    for module in (F, xl, dense, diagnostics, two_sample):
        for name in module.__all__:
            if callable(getattr(module, name)):
                directive = rf":: {module.__name__}\.{name}(\(\))?$"
                assert re.search(directive, pages, re.M), f"{name} is on no page"


@pytest.mark.parametrize(
    "function",
    [
        getattr(module, name)
        for module in (F, dense, diagnostics, two_sample)
        for name in module.__all__
        if inspect.isfunction(getattr(module, name))
    ],
    ids=lambda function: function.__name__,
)
def test_what_is_returned_is_not_read_as_a_type(function):
    """Of "a scalar. Dtype: that of the inputs" Sphinx makes a type and its text."""
    docstring = inspect.getdoc(function) + "\n"
    (returned,) = re.findall(r"^Returns:\n((?:    .*\n)+)", docstring, re.M)
    assert ":" not in re.sub(r"``.*?``|:\w+:`.*?`", "", returned)


def test_every_citation_has_an_entry():
    cited = set()
    for path in sources():
        keys = re.findall(r":cite:\w+:`([^`]+)`", (PACKAGE / path).read_text())
        cited |= {key.strip() for group in keys for key in group.split(",")}
    for page in (ROOT / "docs").rglob("*.md"):
        if "_build" not in page.parts:
            keys = re.findall(r"\{cite:\w+\}`([^`]+)`", page.read_text())
            cited |= {key.strip() for group in keys for key in group.split(",")}
    assert cited <= bibliography()


@pytest.mark.parametrize("loss", LOSSES)
def test_loss_has_its_reference_spec_and_benchmark(loss):
    assert (ROOT / "tests" / "reference" / f"{loss}.py").is_file()
    if loss not in OF_THEIR_OWN:
        assert f'name="{loss}"' in text("tests", "specs.py")
    if loss != "contrastive_center":  # of rows and centres
        assert f'"{loss}"' in text("benchmarks", "cases.py")


def test_what_reads_files_executes_nothing():
    for folder in ("xmodal_losses", "examples"):
        for path in (ROOT / folder).rglob("*.py"):
            source = path.read_text(encoding="utf-8")
            for call in re.findall(r"torch\.load\([^)]*\)", source):
                assert "weights_only=True" in call, path
            assert not re.search(r"^\s*(import|from) (pickle|joblib)\b", source, re.M)


def test_workflows_run_what_is_run_here_and_name_actions_by_commit():
    folder = ROOT / ".github" / "workflows"
    assert {path.name for path in folder.iterdir()} == {"ci.yml", "publish.yml"}
    for path in folder.iterdir():
        used = re.findall(r"uses: (\S+)", path.read_text(encoding="utf-8"))
        assert used
        for action in used:
            assert re.fullmatch(r"[\w./-]+@[0-9a-f]{40}", action), action
    assert "- run: bash .ci/run\n" in text(".github", "workflows", "ci.yml")
    assert "make wheel-check" in text(".github", "workflows", "publish.yml")
    assert "wheel-check" in text(".ci", "run")


def test_version_is_one():
    assert re.fullmatch(r"\d+\.\d+\.\d+((a|b|rc)\d+)?", xl.__version__)
    (cited,) = re.findall(r"^version: (\S+)$", text("CITATION.cff"), re.M)
    released = re.findall(r"^## \[(\d[^\]]*)\]", text("CHANGELOG.md"), re.M)
    assert cited == xl.__version__ == released[0]


def test_the_first_page_counts_the_losses():
    assert f"[{len(LOSSES)} losses](losses/index.md)" in " ".join(
        text("docs", "index.md").split()
    )


def test_costs_on_the_first_page_are_those_that_were_measured():
    rows = re.findall(r"^(\| .* \| [\d.]+ \|)$", text("docs", "index.md"), re.M)
    assert len(rows) > 5
    measured = text("docs", "performance.md").replace("\u00a0", " ")
    for row in rows:
        assert f"\n{row} " in measured, row


def test_changes_that_no_test_sees_are_explained():
    told = json.loads(text("tests", "mutants.json"))
    unexplained = [change for change, why in told["survived"].items() if not why]
    assert told["killed"] > 0
    assert unexplained == []
