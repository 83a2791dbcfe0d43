"""The script as a whole: what it writes, and that a resumed run is the same run."""

import json

import pytest
import roadscene_swinfuse as script
import torch
from roadscene import sources
from roadscene.data import DataError
from roadscene.evaluate import Protocol, by_features, evaluate
from roadscene.export import load_features
from roadscene.swinfuse import SwinFuse
from roadscene.synthetic import synthetic_pair

TINY = (
    *("--steps=4", "--batch-size=2", "--crop-size=28", "--grid=4", "--downscale=8"),
    *("--validate-every=2", "--validation-pairs=1", "--test-pairs=2", "--device=cpu"),
)


@pytest.fixture(autouse=True)
def few_scenes(monkeypatch):
    """Without data, from a few of the made scenes."""
    monkeypatch.delenv("ROADSCENE_DIR", raising=False)
    names = [f"scene_{i:03d}" for i in range(8)]
    split = sources.SYNTHETIC_SPLIT._replace(
        train=names[:4], validation=names[4:6], test=names[6:]
    )
    monkeypatch.setattr(sources, "SYNTHETIC_SPLIT", split)


def run(out, *flags):
    return script.main([*TINY, f"--out={out}", *flags])


def test_a_resumed_run_is_the_uninterrupted_run(tmp_path):
    whole = run(tmp_path / "whole")
    assert run(tmp_path / "parts", "--stop-at=1") is None
    assert run(tmp_path / "parts", "--stop-at=3", "--resume") is None
    torch.rand(7)  # the state of the process must not matter
    parts = run(tmp_path / "parts", "--resume")
    for name in ("result", "terms", "validation", "selected_step", "settings"):
        assert whole[name] == parts[name], name

    first, second = (
        torch.load(tmp_path / name / "checkpoint.pt", weights_only=True)
        for name in ("whole", "parts")
    )
    first["progress"].pop("seconds")
    second["progress"].pop("seconds")
    assert_equal(first, second)


def assert_equal(a, b):
    if isinstance(a, dict):
        assert a.keys() == b.keys()
        for key in a:
            assert_equal(a[key], b[key])
    elif isinstance(a, list | tuple):
        assert len(a) == len(b)
        for x, y in zip(a, b, strict=True):
            assert_equal(x, y)
    elif isinstance(a, torch.Tensor):
        assert torch.equal(a, b)
    else:
        assert a == b


def test_what_a_run_writes(tmp_path, capsys):
    metrics = run(tmp_path)
    assert json.loads((tmp_path / "metrics.json").read_text("utf-8")) == metrics
    assert metrics["validation"]["step"] == [0, 2, 4]
    assert all(len(values) == 4 for values in metrics["terms"].values())
    total = metrics["terms"].pop("total")
    assert [sum(x) for x in zip(*metrics["terms"].values(), strict=True)] == (
        pytest.approx(total, rel=1e-5)
    )
    features = load_features(tmp_path / "features.pt")
    test = [synthetic_pair(name) for name in metrics["test_pairs"]]
    again = evaluate(by_features(features.describe), test, Protocol())
    after = metrics["result"]["error"]["after"]
    assert sum(again["error"]) / len(test) == pytest.approx(after, rel=1e-6)
    for name in ("matches.png", "training.png"):
        assert (tmp_path / name).read_bytes().startswith(b"\x89PNG")
    printed = capsys.readouterr().out
    assert "github.com/jiayi-ma/RoadScene" in printed
    assert "retrieval top-1 (%)" in printed
    assert "Shares of the gradient at the end: InfoNCE " in printed


@pytest.mark.parametrize(
    "flags",
    [
        ("--distribution=coral", "--redundancy=vicreg", "--negatives=all"),
        ("--distribution=none", "--redundancy=none", "--negatives=group"),
        ("--blocks-run=2", "--stage=penultimate"),
    ],
)
def test_every_choice_runs(tmp_path, flags):
    metrics = run(tmp_path, *flags, "--steps=1")
    used = {name: metrics["settings"][name] for name in ("distribution", "redundancy")}
    chosen = set(used.values()) - {"none"}
    assert metrics["terms"].keys() == {"InfoNCE", "total"} | chosen


def test_resuming_under_other_settings_is_refused(tmp_path):
    run(tmp_path, "--stop-at=1")
    message = r"checkpoint\.pt was written with lr=0\.002, this run has 0\.1"
    with pytest.raises(DataError, match=message):
        run(tmp_path, "--resume", "--lr=0.1")
    with pytest.raises(DataError, match=r"new.checkpoint\.pt does not exist"):
        run(tmp_path / "new", "--resume")


def test_weights_of_the_released_model_are_taken(tmp_path):
    weights = SwinFuse(img_size=224).state_dict()
    torch.save(weights, tmp_path / "swinfuse.model")
    run(tmp_path, f"--checkpoint={tmp_path / 'swinfuse.model'}", "--lr=0", "--steps=1")
    state = torch.load(tmp_path / "checkpoint.pt", weights_only=True)["parts"]["model"]
    for name, value in weights.items():
        if not name.endswith("attn_mask"):
            assert torch.equal(state[f"backbone.{name}"], value), name


def test_other_weights_are_refused(tmp_path):
    torch.save({"weight": torch.zeros(2)}, tmp_path / "other.pt")
    with pytest.raises(DataError, match=r"other\.pt does not hold SwinFuse's weights"):
        run(tmp_path, f"--checkpoint={tmp_path / 'other.pt'}")
    (tmp_path / "text.pt").write_text("no weights")
    with pytest.raises(DataError, match=r"text\.pt cannot be read as a checkpoint"):
        run(tmp_path, f"--checkpoint={tmp_path / 'text.pt'}")


def test_data_errors_reach_the_command_line(tmp_path, tiny_data):
    with pytest.raises(DataError, match="nowhere is not a directory"):
        run(tmp_path, f"--data={tmp_path / 'nowhere'}")
    with pytest.raises(DataError, match=r"none is for .*data should hold RoadScene"):
        run(tmp_path, f"--data={tiny_data}")


@pytest.mark.parametrize(
    ("flag", "message"),
    [
        ("--crop-size=14", "crop_size must be at least 21, got 14"),
        ("--steps=0", "steps must be at least 1, got 0"),
        ("--redundancy=both", "invalid choice: 'both'"),
        pytest.param(
            "--device=cuda",
            "torch finds no CUDA device here",
            marks=pytest.mark.skipif(torch.cuda.is_available(), reason="there is one"),
        ),
    ],
)
def test_bad_flags_are_refused_before_anything_runs(tmp_path, capsys, flag, message):
    with pytest.raises(SystemExit):
        run(tmp_path / "out", flag)
    assert message in capsys.readouterr().err
    assert not (tmp_path / "out").exists()
