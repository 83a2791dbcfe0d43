"""The matrix: every loss is in it, each check sees what is wrong, the page is runs."""

import json
import re
from dataclasses import replace

import pytest
import torch
from torch import nn

from benchmarks import common, compatibility, compatibility_page
from benchmarks.compatibility import CHECKS, SUBJECTS, checks, processes
from benchmarks.compatibility.checks import MismatchError, Setting
from benchmarks.compatibility.subjects import ROWS
from test_api import LOSSES

pytestmark = pytest.mark.filterwarnings("ignore")  # whatever compilers have to say
QUICK = Setting(backend="aot_eager")


def test_every_loss_is_in_it():
    found = {name: subject.module for name, subject in SUBJECTS.items()}
    assert found == {name: module for name, (module, _) in LOSSES.items()}


def test_the_page_is_what_was_found():
    """`python -m benchmarks.compatibility_page` has been run after the last run."""
    text = compatibility_page.PAGE.read_text(encoding="utf-8")
    assert compatibility_page.rewritten(text, common.RESULTS) == text


def test_two_losses_are_run_and_joined(tmp_path, capsys):
    path = tmp_path / "some.json"
    options = ["--quick", "--threads", "1", "--json", str(path)]
    some = [check for check in CHECKS if check != "ddp"]
    compatibility.main([*options, "--losses", "dcca", "--checks", *some])
    compatibility.main([*options, "--losses", "coral", "--checks", "vmap", "pickle"])
    run = json.loads(path.read_text(encoding="utf-8"))
    found = {(row["loss"], row["check"]): row for row in run["results"]}
    assert list(found) == [("coral", c) for c in ("vmap", "pickle")] + [
        ("dcca", check) for check in some
    ]
    assert not [row for row in found.values() if row["status"] == "failed"]
    twice = found["dcca", "double_backward"]
    assert twice["status"] == "refused"
    assert twice["reason"].startswith("dcca: objective must be 'frobenius'")
    graph = found["dcca", "cuda_graph"]
    assert (graph["status"], graph["reason"]) == ("not run", "no GPU")
    assert found["dcca", "compile"]["reason"].startswith("traced as one graph")
    assert "python" in run["metadata"]
    assert "dcca" in capsys.readouterr().out
    cells = compatibility_page.cells(run["results"])
    assert cells["mmd", "vmap"] == ("not run", "not tried yet")
    assert "| – |" not in compatibility_page.shown(cells)  # each has its reason


# --------------------------------------------------------------------------------------
# That it would see it
# --------------------------------------------------------------------------------------


class Wrong(nn.Module):
    """A loss that is one, and is wrong in one way."""

    def __init__(self, way):
        super().__init__()
        self.way = way
        self.criterion = SUBJECTS["coral"].build().criterion
        if way == "pickle":
            self.forward = lambda z_a, z_b: self.criterion(z_a, z_b)

    def forward(self, z_a, z_b):
        value = self.criterion(z_a, z_b)
        if self.way == "value":
            return value * 1.001
        if self.way == "gradient":
            return value / 2 + value.detach() / 2
        if self.way == "narrow" and z_a.dtype != torch.float64:
            return self.criterion(z_a.bfloat16(), z_b.bfloat16()).to(z_a.dtype)
        if self.way == "autocast" and torch.is_autocast_enabled("cpu"):
            return value * 1.001
        if self.way == "asks" and value.item() > 0:
            return value
        if self.way == "fixed":
            return value * (1 if z_a.shape[0] == ROWS else 2)
        if self.way == "once":
            return _Linearised.apply(z_a, z_b)
        return value


class _Linearised(torch.autograd.Function):
    """Returns gradients as constants, whose derivative is then 0, and wrong."""

    @staticmethod
    def forward(ctx, z_a, z_b):
        with torch.enable_grad():
            leaves = [z.detach().requires_grad_() for z in (z_a, z_b)]
            value = SUBJECTS["coral"].build().criterion(*leaves)
            ctx.grads = torch.autograd.grad(value, leaves)
        ctx.save_for_backward(z_a, z_b)
        return value.detach()

    @staticmethod
    def backward(ctx, upstream):
        z_a, z_b = ctx.saved_tensors
        a, b = ctx.grads
        return upstream * a + 0 * z_a, upstream * b + 0 * z_b


class Spoilt(compatibility.subjects.Subject):
    """CORAL, but wrong."""

    way = ""

    def build(self, gather=False, seed=0, **options):
        called = super().build(gather, seed, **options)
        called.criterion = Wrong(self.way)
        return called


def spoilt(way):
    subject = Spoilt(**vars(replace(SUBJECTS["coral"])))
    object.__setattr__(subject, "way", way)
    return subject


@pytest.mark.parametrize(
    ("check", "way", "said"),
    [
        ("fp64", "value", "value .* differs"),
        ("fp64", "gradient", "gradient differs by 5.0e-01"),
        ("fp32", "narrow", "differs"),
        ("bf16", "narrow", "dtypes are torch.bfloat16"),
        ("fp16", "narrow", "dtypes are torch.float16"),
        ("autocast", "autocast", "value .* differs"),
        ("compile", "asks", "Unsupported|UserError"),
        ("dynamic", "fixed", "[Rr]ecompil"),
        ("vmap", "asks", "vmap"),
        ("func_grad", "once", "setup_context"),
        ("double_backward", "once", r"second derivative differs by 1.0e\+00"),
        ("pickle", "pickle", "pickle"),
        ("export", "asks", "."),
        ("export_dynamic", "fixed", "Constraints violated"),
    ],
)
def test_each_check_sees_what_is_wrong(check, way, said):
    row = compatibility.outcome(spoilt(way), check, QUICK)
    assert row["status"] == "failed"
    assert re.search(said, row["reason"]), row["reason"]


@pytest.mark.xdist_group("ranks")
def test_ranks_that_gather_nothing_are_seen():
    found = processes.gradients_of_two(("info_nce", "hetero_center"), gather=False)
    for name, grads in found.items():
        with pytest.raises(MismatchError, match="gradient differs"):
            processes.as_one_process(SUBJECTS[name], grads)
    found = processes.gradients_of_two(("info_nce", "hetero_center"))
    for name, grads in found.items():
        processes.as_one_process(SUBJECTS[name], grads)
    with pytest.raises(RuntimeError, match="a rank has failed"):
        processes.as_one_process(SUBJECTS["coral"], "a rank has failed")


def test_nothing_that_is_not_a_number_passes():
    with pytest.raises(MismatchError):
        checks.compare([torch.tensor(torch.nan)] * 2, [torch.ones(())] * 2, 1e-3)


@pytest.mark.cuda
@pytest.mark.parametrize("loss", SUBJECTS)
def test_graphs_replay_or_the_reason_is_said(loss):
    row = compatibility.outcome(SUBJECTS[loss], "cuda_graph", Setting(device="cuda"))
    assert row["status"] in ("ok", "refused"), row["reason"]
