"""What is trained and how: backbones, heads, schedules, patience, reconstruction."""

import json

import numpy as np
import pytest
import roadscene_compare as compare
import roadscene_study as study
import torch
from roadscene.cnn import SmallCNN
from roadscene.data import DataError, Pair
from roadscene.evaluate import by_features, evaluate
from roadscene.heads import HEADS
from roadscene.model import Describer, Features
from roadscene.pretrain import ssim
from roadscene.recipe import recipe
from roadscene.settings import PRESETS, Settings
from roadscene.synthetic import synthetic_pair
from roadscene.training import Training
from scipy.ndimage import uniform_filter

SMALL = Settings(
    steps=4,
    batch_size=2,
    crop_size=28,
    grid=4,
    downscale=4,
    validate_every=2,
    precision="float32",
    backbone="cnn",
)


@pytest.fixture(scope="module")
def pairs():
    return [synthetic_pair(f"scene_{i:03d}") for i in range(3)]


def training(pairs, **changes):
    settings = Settings(**{**vars(SMALL), **changes})
    torch.manual_seed(0)
    return Training(
        settings,
        Features(settings),
        recipe(settings),
        pairs[:2],
        pairs[2:],
        torch.device("cpu"),
    )


def changed(before, module):
    """Return the names of the parameters that are no longer what they were."""
    now = module.named_parameters()
    return {name for name, value in now if not torch.equal(value, before[name])}


def copies(module):
    return {name: value.detach().clone() for name, value in module.named_parameters()}


# ------------------------------------------------------------------ parts


def test_the_control_has_the_size_it_is_said_to_have():
    model = Features(Settings(backbone="cnn"))
    count = sum(parameter.numel() for parameter in model.parameters())
    assert 350_000 < count < 450_000


@pytest.mark.parametrize("stride", [2, 4])
@pytest.mark.parametrize("head", HEADS)
@pytest.mark.parametrize("context", [0, 1])
def test_cell_ij_sits_on_the_pixel_it_is_said_to(head, stride, context):
    """The gradient of a cell is centred on its pixel, however odd the size."""
    torch.manual_seed(0)
    model = HEADS[head](8, 16, stride=stride, context=context).eval()
    for size in ((60, 60), (61, 63)):
        tokens = torch.randn(1, 8, *size, requires_grad=True)
        projection, embedding = model(tokens)
        h, w = (-(-n // stride) for n in size)
        assert projection.shape == embedding.shape == (1, 16, h, w)
        torch.testing.assert_close(embedding.norm(dim=1), torch.ones(1, h, w))
        i, j = 32 // stride, 32 // stride
        (seen,) = torch.autograd.grad(projection[0, :, i, j].square().sum(), tokens)
        rows, columns = seen.abs().sum((0, 1)).nonzero().unbind(1)
        middle = [(x.min() + x.max()).item() / 2 for x in (rows, columns)]
        assert middle == [stride * i, stride * j]


def test_the_control_sees_five_pixels():
    image = torch.randn(1, 1, 21, 21, requires_grad=True)
    features = SmallCNN().eval()(image)
    (seen,) = torch.autograd.grad(features[0, :, 10, 10].square().sum(), image)
    rows, columns = seen[0, 0].nonzero().unbind(1)
    assert rows.min() == columns.min() == 8
    assert rows.max() == columns.max() == 12


def test_ssim_is_that_of_a_loop():
    rng = np.random.default_rng(0)
    a, b = rng.uniform(-1, 1, (2, 20, 24))
    assert ssim(*torch.tensor(np.stack([a, a]))[:, None, None]).item() == 1

    def mean(x):
        return uniform_filter(x, 7)[3:-3, 3:-3]

    c1, c2 = 0.02**2, 0.06**2
    mean_a, mean_b = mean(a), mean(b)
    cov = mean(a * b) - mean_a * mean_b
    both = mean(a * a) - mean_a**2 + mean(b * b) - mean_b**2
    expected = (2 * mean_a * mean_b + c1) / (mean_a**2 + mean_b**2 + c1)
    expected = (expected * (2 * cov + c2) / (both + c2)).mean()
    found = ssim(*torch.tensor(np.stack([a, b]))[:, None, None])
    assert found.item() == pytest.approx(expected, rel=1e-10)


def test_checkpointing_changes_no_gradient():
    image = torch.randn(2, 1, 14, 14)
    grads = []
    for checkpointing in (False, True):
        torch.manual_seed(0)
        settings = Settings(blocks_run=2, checkpointing=checkpointing)
        model = Features(settings).train()
        model(image)[0].square().sum().backward()
        named = model.named_parameters()
        grads.append({n: p.grad for n, p in named if p.grad is not None})
    assert grads[0].keys() == grads[1].keys()
    for name, grad in grads[0].items():
        torch.testing.assert_close(grads[1][name], grad, msg=name)


def test_descriptions_lie_where_they_say(pairs):
    """A place is described alike, whatever part of the image is shown."""
    model = Features(Settings(backbone="cnn", stride=4))
    describe = Describer(model, downscale=2)
    assert describe(pairs[0].rgb[None]).pitch == 8
    image = pairs[0].ir[None]
    whole, part = describe(image), describe(image[..., 16:, 24:])
    points = torch.tensor([[150.0, 120.0], [203.5, 99.5], [171.0, 140.0]])
    here, there = whole.at(points), part.at(points - torch.tensor([24.0, 16.0]))
    torch.testing.assert_close(here, there, atol=1e-4, rtol=0)
    torch.testing.assert_close(here.norm(dim=1), torch.ones(3))


# ------------------------------------------------------------------ training


def test_a_frozen_backbone_is_pretrained_and_then_left(pairs):
    run = training(pairs, backbone="swinfuse", finetune="head", pretrain_steps=2)
    before = copies(run.model.backbone)
    run.pretrain()
    made = changed(before, run.model.backbone)
    assert {"conv.weight", "EN1_0.blocks.0.mlp.fc1.weight"} <= made
    assert not any(p.requires_grad for p in run.model.backbone.parameters())
    backbone, head = copies(run.model.backbone), copies(run.model.head)
    run.step()
    assert not changed(backbone, run.model.backbone)
    assert changed(head, run.model.head)


def test_reconstruction_reduces_its_error(pairs):
    run = training(pairs, backbone="swinfuse", pretrain_steps=15)
    images = run.draw().rgb

    def error():
        made = run.model.backbone.eval().reconstruct(images)
        return (made - images).abs().mean().item()

    before = error()
    run.pretrain()
    assert error() < 0.8 * before


def test_a_learned_temperature_moves(pairs):
    run = training(pairs, learn_temperature=True)
    (log_temperature,) = run.objective.parameters()
    before = log_temperature.item()
    run.step()
    assert log_temperature.item() != before


def test_the_temperature_follows_its_schedule(pairs, monkeypatch):
    run = training(pairs, temperature=0.2, temperature_end=0.05)
    seen = []
    loss = run.objective.losses["InfoNCE"]
    monkeypatch.setattr(
        loss,
        "forward",
        lambda *rows, tau, _forward=loss.forward, **rest: (
            seen.append(tau.item()),
            _forward(*rows, tau=tau, **rest),
        )[1],
    )
    for _ in range(4):
        run.step()
    assert seen[0] == pytest.approx(0.2)
    assert seen[2] == pytest.approx(0.125)
    assert seen == sorted(seen, reverse=True)


def test_weights_of_the_terms_rise(pairs):
    run = training(pairs, weight_warmup=1.0, batch_size=2)
    for _ in range(4):
        run.step()
    run.record()
    terms = run.progress["terms"]
    assert terms["mmd"][0] == terms["barlow"][0] == 0
    assert all(value != 0 for value in terms["barlow"][1:])
    total = np.sum([terms[name] for name in ("InfoNCE", "mmd", "barlow")], axis=0)
    np.testing.assert_allclose(total, terms["total"], rtol=1e-5)


def test_gradient_shares_are_recorded(pairs, tmp_path):
    run = training(pairs)
    run.run(tmp_path / "checkpoint.pt")
    shares = run.progress["gradient_shares"]
    assert shares.keys() == {"InfoNCE", "mmd", "barlow"}
    assert [len(x) for x in shares.values()] == [2, 2, 2]  # of steps 0 and 2
    np.testing.assert_allclose(sum(map(np.array, shares.values())), 1, rtol=1e-5)


def test_what_is_kept_is_the_mean_of_the_last_weights(pairs):
    run = training(pairs, ema=0.5, steps=4)  # a decay of 1/2
    expected = None
    for _ in range(3):
        run.step()
        state = copies(run.model)
        expected = (
            state
            if expected is None
            else {n: (expected[n] + value) / 2 for n, value in state.items()}
        )
    for name, value in run.averaged.module.named_parameters():
        torch.testing.assert_close(value.detach(), expected[name], msg=name)


def test_patience_ends_a_run_that_gains_nothing(pairs, tmp_path, monkeypatch):
    run = training(pairs, steps=40, patience=3, lr=1e-9)
    scores = iter([0.1, 0.5, *[0.3] * 40])
    monkeypatch.setattr(
        run,
        "measure",
        lambda _: {"top1": [next(scores)], "top5": [0.0], "within": [0.0]},
    )
    run.run(tmp_path / "checkpoint.pt")
    assert run.progress["step"] == 2 + 3 * 2  # the best at 2, three without a gain
    assert run.progress["best_step"] == 2
    assert run.finished
    again = training(pairs, steps=40, patience=3, lr=1e-9)
    again.resume(tmp_path / "checkpoint.pt")
    again.run(tmp_path / "checkpoint.pt")
    assert again.progress["step"] == 8


def test_half_precision_trains(pairs):
    run = training(pairs, precision="bfloat16", backbone="swinfuse")
    before = copies(run.model.backbone)
    run.step()
    assert np.isfinite(run.record())
    assert changed(before, run.model.backbone)
    assert all(p.dtype == torch.float32 for p in run.model.parameters())


def test_deep_cca_can_take_the_place_of_the_contrast(pairs):
    run = training(pairs, contrast="dcca", distribution="none", redundancy="none")
    run.step()
    run.record()
    assert run.progress["terms"].keys() == {"DCCA", "total"}


def test_positives_may_be_off(pairs):
    batches = [training(pairs, jitter_px=jitter).draw() for jitter in (0.0, 8.0)]
    assert torch.equal(batches[0].points_rgb, batches[1].points_rgb)
    off = (batches[1].points_ir - batches[0].points_ir).abs()
    assert 1.0 < off.max() <= 2.0  # 8 px of the full resolution are 2 here


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"learn_temperature": True, "temperature_end": 0.1}, "temperature_end"),
        ({"backbone": "cnn", "pretrain_steps": 5}, "pretrain_steps must be 0"),
    ],
)
def test_settings_that_contradict_each_other(changes, message):
    with pytest.raises(ValueError, match=message):
        Settings(**changes)


def test_presets_are_settings_of_swinfuse():
    assert all(preset.backbone == "swinfuse" for preset in PRESETS.values())


@pytest.mark.slow
def test_training_learns(pairs):
    """The control, on three scenes it has seen: far above where it began."""
    run = training(
        pairs, steps=60, batch_size=2, crop_size=56, grid=8, validate_every=60
    )
    run.calibrate()
    seen = [Pair("seen", pair.rgb, pair.ir) for pair in pairs[:2]]
    search = by_features(run.describe)
    before = np.mean(evaluate(search, seen, run.protocol)["top1"])
    for _ in range(60):
        run.step()
    after = np.mean(evaluate(by_features(run.describe), seen, run.protocol)["top1"])
    assert after > 2 * before + 0.05, (before, after)


# ------------------------------------------------------------------ the study

TINY = (
    *("--steps=2", "--batch-size=2", "--crop-size=28", "--grid=4", "--downscale=8"),
    *("--validate-every=1", "--validation-pairs=1", "--test-pairs=2"),
    *("--device=cpu", "--backbone=cnn"),
)


@pytest.mark.slow
def test_the_study_makes_what_is_missing_and_compares(tmp_path, monkeypatch, capsys):
    monkeypatch.delenv("ROADSCENE_DIR", raising=False)
    flags = ["--out", str(tmp_path), "--seeds", "0", "1", "--only"]
    table = study.main([*flags, "full recipe", "InfoNCE alone", "--", *TINY])
    assert list(table) == ["full recipe", "InfoNCE alone"]
    full, alone = table.values()
    assert full["count"] == alone["count"] == 2
    assert full["gradient_shares"].keys() == {"InfoNCE", "mmd", "barlow"}
    assert alone["gradient_shares"] == {"InfoNCE": pytest.approx(1.0)}
    files = sorted(tmp_path.rglob("metrics.json"))
    assert len(files) == 4
    runs = [json.loads(file.read_text("utf-8")) for file in files]
    assert [run["settings"]["seed"] for run in runs] == [0, 1, 0, 1]
    by_hand = {
        name: np.array(
            [
                run["per_pair"]["after"]["top1"]
                for run in runs
                if run["settings"]["distribution"] == name
            ]
        )
        for name in ("mmd", "none")
    }
    assert alone["top1"] == pytest.approx(by_hand["none"].mean())
    change = by_hand["none"].mean() - by_hand["mmd"].mean()
    assert alone["top1_change"] == pytest.approx(change)
    low, high = alone["top1_change_interval"]
    assert low <= alone["top1_change"] <= high

    capsys.readouterr()
    times = [file.stat().st_mtime_ns for file in files]
    again = study.main([*flags, "full recipe", "--publish", str(tmp_path / "t.json")])
    assert again == table  # nothing was made again, and nothing is lost
    assert [file.stat().st_mtime_ns for file in files] == times
    published = json.loads((tmp_path / "t.json").read_text("utf-8"))
    assert published["variants"]["full recipe"]["top1"] == full["top1"]


def test_every_variant_is_a_setting(tmp_path):
    """Flags are understood, and no two variants are the same run."""
    seen = {}
    for name, flags in study.VARIANTS.items():
        _, settings = study.script.parse([*flags, f"--out={tmp_path}"])
        assert settings not in seen, (name, seen[settings])
        seen[settings] = name
    folders = {study.folder_of(tmp_path, name, 0) for name in study.VARIANTS}
    assert len(folders) == len(study.VARIANTS)


def test_variants_of_swinfuse_are_left_out_where_there_is_none():
    assert study.variants_of(["--quick"]) == list(study.VARIANTS)
    few = study.variants_of(["--quick", "--backbone", "cnn"])
    assert study.VARIANTS.keys() - few == set(study.OF_SWINFUSE)
    for name in few:
        study.script.parse(["--backbone=cnn", *study.VARIANTS[name]])


# ------------------------------------------------------------------ the comparison


@pytest.mark.slow
def test_a_run_is_compared_with_what_needs_no_training(tmp_path, monkeypatch, capsys):
    monkeypatch.delenv("ROADSCENE_DIR", raising=False)
    few = {name: compare.MATCHERS[name] for name in ("SIFT, folded", "ORB")}
    monkeypatch.setattr(compare, "MATCHERS", few)
    study.script.main([*TINY, f"--out={tmp_path / 'cnn'}"])
    published = tmp_path / "comparison.json"
    flags = "--limit=2", "--device=cpu", f"--publish={published}"
    result = compare.main([str(tmp_path / "cnn"), *flags])
    assert json.loads(published.read_text("utf-8")) == result
    own = {"control, untrained", "cnn, trained"}
    assert own | {"HOG", "mutual information"} <= result["localisation"].keys()
    (registered,) = result["registration"].values()
    assert {f"{name} · MAGSAC" for name in own | few.keys()} <= registered.keys()
    assert len(result["pairs"]) == 2
    # What the run says of itself, of the same pairs, is what is found here.
    metrics = json.loads((tmp_path / "cnn" / "metrics.json").read_text("utf-8"))
    here = result["localisation"]["cnn, trained"]["top1"]
    assert here == pytest.approx(metrics["result"]["top1"]["after"])
    assert "NCM@3" in capsys.readouterr().out


def test_seeds_of_a_run_are_found_where_the_study_puts_them(tmp_path):
    for seed in (0, 1):
        study.script.main(
            [*TINY, f"--seed={seed}", f"--out={tmp_path / f'seed_{seed}'}"]
        )
    found = compare.trained(tmp_path, torch.device("cpu"))
    assert list(found) == ["control, untrained", f"{tmp_path.name}, trained"]
    first, second = (
        next(one.method.model.parameters())
        for one in found[f"{tmp_path.name}, trained"]
    )
    assert not torch.equal(first, second)
    with pytest.raises(DataError, match=r"neither checkpoint\.pt nor seed_"):
        compare.trained(tmp_path / "nothing", torch.device("cpu"))
