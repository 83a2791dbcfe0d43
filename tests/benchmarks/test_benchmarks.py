"""The harness sees what it is there to see, and the page is what was measured."""

import argparse
import json
from dataclasses import replace

import pytest
import torch

from benchmarks import (
    common,
    contestants,
    measure,
    memory,
    page,
    plot,
    scaling,
    targets,
)
from benchmarks.cases import CASES, GROUPS
from benchmarks.peers import PEERS, Contestant

ARGS = argparse.Namespace(
    quick=True, device="cpu", seconds=60.0, compile=False, losses=None, json=None
)
LOSSES = [case.name for case in (*CASES, GROUPS)]


def impostor(loss="coral", **fields):
    (plain,) = contestants.contestants(loss, (contestants.PLAIN,))
    function = plain.build()
    build = lambda: lambda z_a, z_b: 1.001 * function(z_a, z_b)  # noqa: E731
    return replace(plain, build=build, **fields)


# --------------------------------------------------------------------------------------
# Agreement
# --------------------------------------------------------------------------------------


@pytest.mark.peers
@pytest.mark.parametrize("loss", LOSSES)
def test_what_is_installed_agrees_with_the_library(loss):
    for one in contestants.contestants(loss):
        if one.compiles:
            continue
        try:
            assert contestants.disagreement(one) == "", one.name
        except ImportError:
            assert one in PEERS, one.name


def test_a_wrong_peer_is_caught_and_left_out():
    wrong = impostor()
    assert "differs by 1.0e-03 in value" in contestants.disagreement(wrong)
    rows = measure.at_size(
        [wrong], (8, 4), ARGS, 1, {wrong.name: measure.unable(wrong, ARGS)}
    )
    assert rows[0]["timing"] is None
    assert "differs by" in rows[0]["skipped"]


def test_a_wrong_gradient_is_caught_behind_a_right_value():
    def half(z_a, z_b):
        value = plain.build()(z_a, z_b)
        return value / 2 + value.detach() / 2

    (plain,) = contestants.contestants("coral", (contestants.PLAIN,))
    wrong = replace(plain, build=lambda: half)
    assert "5.0e-01 in gradient" in contestants.disagreement(wrong)


def test_who_is_said_to_differ_has_to():
    assert contestants.disagreement(impostor(differs="on purpose")) == ""
    (plain,) = contestants.contestants("coral", (contestants.PLAIN,))
    same = replace(plain, differs="on purpose")
    assert contestants.disagreement(same) == "said to differ, and does not"


def test_a_missing_peer_is_a_row_with_the_reason():
    def build():
        raise ImportError("there is no such thing")

    one = Contestant("coral", "nowhere", build, package="no-such-distribution")
    rows = measure.at_size(
        [one], (8, 4), ARGS, 1, {one.name: measure.unable(one, ARGS)}
    )
    assert rows[0]["how"] == "no-such-distribution, not installed"
    assert rows[0]["skipped"] == "ImportError: there is no such thing"


@pytest.mark.parametrize("loss", LOSSES)
def test_every_loss_has_sizes_products_and_a_compiled_form(loss):
    assert loss in scaling.GRIDS
    names = [one.name for one in contestants.contestants(loss)]
    assert names[0] == contestants.LIBRARY
    assert {contestants.COMPILED, contestants.FLOOR} < set(names)
    assert len(set(names)) == len(names)


# --------------------------------------------------------------------------------------
# Memory
# --------------------------------------------------------------------------------------

linux = pytest.mark.skipif(
    memory._status("VmHWM") is None, reason="memory is measured on Linux and CUDA"
)


@linux
def test_a_known_allocation_is_seen():
    size = 64 * 2**20
    seen = memory._on_linux(lambda: torch.ones(size // 4).sum())
    assert abs(seen.extra_bytes - size) < 8 * 2**20
    assert seen.seconds > 0
    again = memory._on_linux(lambda: torch.ones(4))  # the mark was reset
    assert again.extra_bytes < 8 * 2**20


@linux
def test_memory_of_a_loss_is_that_of_its_matrices():
    (floor,) = contestants.contestants("info_nce", (contestants.FLOOR,))
    matrix = 4 * 2048**2
    seen = memory.measure(floor, (2048, 16))
    assert seen.skipped == ""
    assert matrix < seen.extra_bytes < 2 * matrix


@linux
def test_what_needs_too_much_fails_cleanly():
    (plain,) = contestants.contestants("info_nce", (contestants.PLAIN,))
    seen = memory.measure(plain, (4096, 16), limit=64 * 2**20)
    assert seen == memory.Measured(skipped="out of memory: needs more than 0.1 GB")


def test_what_takes_too_long_is_given_up():
    (plain,) = contestants.contestants("info_nce", (contestants.PLAIN,))
    seen = memory.measure(plain, (4096, 64), seconds=0.001)
    assert seen == memory.Measured(skipped="one call takes more than 0.001 s")


# --------------------------------------------------------------------------------------
# Runs, files, page
# --------------------------------------------------------------------------------------


def test_a_target_is_judged_against_the_fastest_that_computes_the_same():
    def row(name, time, extra, error):
        timing = {"median_us": time, "iqr_us": 0.0, "calls": 1}
        return {
            "contestant": name,
            "shape": [8, 4],
            "timing": timing,
            "extra_bytes": extra,
            "gradient_error": error,
        }

    rows = [
        row("ours", 30.0, 512, 0.0),
        row("fast and wrong", 10.0, 1, 0.1),
        row("right", 100.0, 1024, 1e-6),
        row("slow", 200.0, 1, 1e-6),
    ]
    target = targets.Target(
        "t", "coral", (8, 4), time=0.4, memory=0.4, inputs=3.0, gradient=1e-3
    )
    time, extra, inputs = targets.judge(target, rows)
    assert (time.measured, time.against, time.met) == (0.3, "right", True)
    assert (extra.measured, extra.against, extra.met) == (0.5, "right", False)
    assert (inputs.measured, inputs.met) == (2.0, True)
    rows[0]["timing"] = rows[0]["extra_bytes"] = None
    assert not any(verdict.met for verdict in targets.judge(target, rows))


def test_a_quick_run_is_strict_json_and_tabulated(tmp_path, capsys):
    args = common.parser("").parse_args(["--quick", "--json", str(tmp_path / "x.json")])
    args.compile = False
    results = list(scaling.measure("coral", args))
    results[0]["timing"]["iqr_us"] = float("nan")
    common.save("scaling--coral", args, results, partial=False)
    assert "xmodal_losses" in capsys.readouterr().out

    def forbidden(constant):
        raise AssertionError(constant)

    content = (tmp_path / "x.json").read_text(encoding="utf-8")
    run = json.loads(content, parse_constant=forbidden)
    assert run["results"][0]["timing"]["iqr_us"] is None
    for name in ("git_commit", "torch", "memory_gb", "torch_num_threads"):
        assert name in run["metadata"]

    (tmp_path / "x.json").rename(tmp_path / "scaling--coral--here--cpu.json")
    text = page.generated(tmp_path)
    for row in run["results"]:
        assert f"| {row['contestant']} | {row['how']} |" in text
    assert f"| {page.size((16, 8))} |" in text

    small = next(t for t in targets.TARGETS if t.name == "small_coral")
    rows = targets.measure(small, args)
    assert len(targets.judge(small, rows)) == 1


def test_partial_and_quick_runs_are_not_published(tmp_path, monkeypatch):
    monkeypatch.setattr(common, "RESULTS", tmp_path)
    quick, full = (
        common.parser("").parse_args(["--machine", "here", *options])
        for options in (["--quick"], [])
    )
    common.save("targets", quick, [], partial=False)
    common.save("targets", full, [], partial=True)
    assert not list(tmp_path.iterdir())
    common.save("targets", full, [], partial=False)
    assert [path.name for path in tmp_path.iterdir()] == ["targets--here--cpu.json"]


def test_what_had_no_time_is_measured_again(tmp_path, monkeypatch):
    monkeypatch.setattr(common, "RESULTS", tmp_path)
    args = common.parser("").parse_args(["--quick", "--machine", "here"])
    args.compile = False
    results = list(scaling.measure("coral", args))
    found = {row["contestant"]: row for row in results}
    for name, seconds in ((contestants.LIBRARY, 9), (contestants.PLAIN, 999)):
        found[name] |= {
            "timing": None,
            "extra_bytes": None,
            "skipped": f"one call would take {seconds} s or more",
        }
    floor = dict(found[contestants.FLOOR])
    args.json = common.published("scaling--coral", args)
    common.save("scaling--coral", args, results, partial=False)

    later = {row["contestant"]: row for row in scaling.again("coral", args)}
    assert list(later) == list(found)
    assert later[contestants.LIBRARY]["timing"]["median_us"] > 0
    assert later[contestants.LIBRARY]["skipped"] == ""
    assert later[contestants.PLAIN]["timing"] is None  # 60 s are too few
    assert later[contestants.FLOOR] == floor


def test_the_page_is_what_was_measured():
    """`python -m benchmarks.plot` has been run after the last measurement."""
    text = page.PAGE.read_text(encoding="utf-8")
    assert text.endswith(page.generated(common.RESULTS))
    drawn = set()
    for run in page.runs("scaling", common.RESULTS):
        figure = plot.FIGURES / page.figure_name(run)
        assert f"results {run.digest}" in figure.read_text(encoding="utf-8")
        drawn.add(figure)
    found = set(plot.FIGURES.glob("*.svg")) - set(plot.FIGURES.glob("certificate--*"))
    assert found == drawn


# --------------------------------------------------------------------------------------
# Devices
# --------------------------------------------------------------------------------------


def test_files_of_a_gpu_are_named_after_it(monkeypatch, tmp_path):
    monkeypatch.setattr(torch.cuda, "get_device_name", lambda _: "NVIDIA X1 80GB (A)")
    options = ["--device", "cuda", "--results", str(tmp_path)]
    args = common.parser("").parse_args(options)
    expected = tmp_path / "targets--nvidia-x1-80gb-a--cuda.json"
    assert common.published("targets", args) == expected
    args = common.parser("").parse_args([*options, "--machine", "here"])
    assert common.published("targets", args).name == "targets--here--cuda.json"


def test_each_device_has_its_tables(tmp_path):
    args = common.parser("").parse_args(["--quick", "--no-compile"])
    rows = list(scaling.measure("coral", args))
    about = common.metadata(args)
    gpu = about | {"device": "Some GPU", "cuda": "13.0"}
    for kind, metadata in (("cpu", about), ("cuda", gpu)):
        run = json.dumps({"metadata": metadata, "results": rows})
        (tmp_path / f"scaling--coral--here--{kind}.json").write_text(run)
    text = page.generated(tmp_path)
    first, second = text.split("## Against N and D: Some GPU\n")
    assert f"## Against N and D: {about['device']}\n" in first
    assert "Some GPU, " in second
    assert "threads" not in second
    assert ", CUDA 13.0," in second
    assert "(_static/benchmarks/coral--here--cuda.svg)" in second
    assert "not measured: compiles, which --quick leaves out" in second


def test_what_is_interrupted_is_kept_where_it_is_told(tmp_path, monkeypatch, capsys):
    def stop(target, args):
        if target.loss == "info_nce_groups":
            raise KeyboardInterrupt
        return [
            {
                "shape": [1],
                "contestant": "c",
                "timing": None,
                "extra_bytes": None,
                "skipped": "why",
            }
        ]

    monkeypatch.setattr(targets, "measure", stop)
    monkeypatch.setattr(common, "RESULTS", tmp_path / "published")
    path = tmp_path / "some.json"
    for more in ([], ["--json", str(path)]):
        monkeypatch.setattr("sys.argv", ["targets", *more])
        targets.main()
    assert not (tmp_path / "published").exists()
    names = [target["name"] for target in json.loads(path.read_text())["results"]]
    assert names == [target.name for target in targets.TARGETS][: len(names)]
    assert names[-1] == "dcca_4096"


@pytest.mark.cuda
def test_memory_and_errors_are_those_of_the_device():
    (floor,) = contestants.contestants("info_nce", (contestants.FLOOR,))
    (plain,) = contestants.contestants("info_nce", (contestants.PLAIN,))
    seen = memory.measure(floor, (2048, 16), device="cuda")
    matrix = 4 * 2048**2
    assert seen.skipped == ""
    assert matrix < seen.extra_bytes < 2 * matrix
    too_large = memory.measure(plain, (2**20, 2), device="cuda")
    assert too_large.skipped.startswith("out of memory: needs more than")
    assert contestants.disagreement(plain, device="cuda") == ""
    assert measure.gradient_error(plain, (64, 16), "cuda") < 1e-4
