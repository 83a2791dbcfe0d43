"""Displacements that are planted are found; the dry run tells them."""

import numpy as np
import pytest
import roadscene_swinfuse as script
import torch
from PIL import Image
from roadscene.data import DataError, Pair
from roadscene.displace import displaced, smooth_field
from roadscene.dry_run import dry_run
from roadscene.misalignment import displacements
from roadscene.patches import sample_at
from roadscene.sources import Source
from roadscene.splits import Split
from roadscene.synthetic import Canvas, synthetic_pair, true_displacement

NAMES = [f"scene_{i:03d}" for i in (1, 2, 5, 8)]


@pytest.fixture(autouse=True)
def no_roadscene(monkeypatch):
    monkeypatch.delenv("ROADSCENE_DIR", raising=False)


def errors(**planted):
    """Distances from the truth, of believed blocks, and how many were looked at."""
    off, blocks = [], 0
    for name in NAMES:
        found = displacements(synthetic_pair(name, **planted))
        truth = true_displacement(name, **planted)
        expected = sample_at(truth[None], found.centre[None])[0]
        off.append((found.shift - expected).norm(dim=1))
        blocks += found.blocks
    return torch.cat(off), blocks


@pytest.mark.parametrize("shift", [(0.0, 0.0), (2.4, -4.7), (-6.5, 0.25)])
def test_a_planted_shift_is_found_to_a_fraction_of_a_pixel(shift):
    off, blocks = errors(shift=shift)
    assert len(off) > 0.2 * blocks
    assert off.median() < 0.25
    assert off.quantile(0.9) < 0.6


def test_a_planted_smooth_displacement_is_found_block_by_block():
    # It differs within a block, too.
    off, blocks = errors(misalignment=1.5)
    assert len(off) > 0.15 * blocks
    assert off.median() < 0.4
    assert off.quantile(0.9) < 1.0


def test_what_is_farther_than_the_search_is_not_believed():
    off, blocks = errors(shift=(12.0, -12.0))
    assert len(off) < 0.02 * blocks


def test_unrelated_images_are_not_believed():
    first, second = (synthetic_pair(name) for name in NAMES[:2])
    found = displacements(Pair("mixed", first.rgb, second.ir.flip(1)))
    assert found.blocks == 60
    assert len(found.shift) <= 1


def test_contrast_may_be_the_other_way_round():
    pair = synthetic_pair(NAMES[0], shift=(3.0, 1.5))
    same, inverted = (
        displacements(Pair("", pair.rgb, ir)).shift for ir in (pair.ir, 1 - pair.ir)
    )
    torch.testing.assert_close(same, inverted, rtol=0, atol=1e-2)


def test_flat_and_small_pairs_have_no_displacement():
    flat = displacements(Pair("flat", torch.rand(3, 96, 128), torch.ones(1, 96, 128)))
    assert (len(flat.shift), flat.blocks) == (0, 2)
    small = displacements(Pair("small", torch.rand(3, 79, 99), torch.rand(1, 79, 99)))
    assert (len(small.shift), small.blocks) == (0, 0)


def test_displaced_pixels_lie_where_the_displacement_says():
    x, y = torch.meshgrid(torch.arange(180.0), torch.arange(140.0), indexing="xy")
    image = (torch.sin(x / 9) + torch.cos(y / 7))[None]
    field = 4 * smooth_field(140, 180, 3) + torch.tensor([1.5, -2.0]).view(2, 1, 1)
    assert (field - field.mean((1, 2), keepdim=True)).norm(dim=0).max() > 2
    inner = torch.stack([x, y])[:, 20:-20, 20:-20]
    there = inner + field[:, 20:-20, 20:-20]
    read = sample_at(displaced(image, field)[None], there.flatten(1).mT[None])
    expected = image[:, 20:-20, 20:-20].flatten()
    torch.testing.assert_close(read.flatten(), expected, rtol=0, atol=0.03)


def test_misalignment_has_the_size_asked_for_and_moves_the_infrared_alone():
    field = true_displacement("scene_003", misalignment=3.0)
    assert field.square().sum(0).mean().sqrt().item() == pytest.approx(3, rel=1e-5)
    shifted = true_displacement("scene_003", misalignment=3.0, shift=(1.0, -2.0))
    assert (shifted - field).mean((1, 2)).tolist() == pytest.approx([1, -2], abs=1e-5)
    aligned = synthetic_pair("scene_003")
    moved = synthetic_pair("scene_003", misalignment=3.0)
    assert torch.equal(aligned.rgb, moved.rgb)
    assert not torch.equal(aligned.ir, moved.ir)


def test_shadows_and_signs_are_visible_and_warm_spots_infrared():
    canvas = Canvas(60, 80, torch.Generator().manual_seed(0))
    canvas.night, canvas.sun = False, 1.0
    canvas.paint(torch.ones(60, 80, dtype=torch.bool), (0.2, 0.4), 0.0)
    rgb, ir = canvas.rgb.clone(), canvas.ir.clone()
    canvas.shadow(30, 20, 5, 10)
    assert torch.equal(canvas.ir, ir)
    changed = (canvas.rgb != rgb).all(0).nonzero()
    assert changed.tolist() == [
        [20 + i, 30 + i + j] for i in range(10) for j in range(5)
    ]
    canvas.colour(canvas.box(5, 5, 9, 9), 0.5)
    assert torch.equal(canvas.ir, ir)
    rgb = canvas.rgb.clone()
    canvas.warm(40, 30, 5, 0.3)
    assert torch.equal(canvas.rgb, rgb)
    assert (canvas.ir - ir)[30, 40].item() == pytest.approx(0.3)
    canvas.night = True
    canvas.shadow(30, 20, 5, 10)
    assert torch.equal(canvas.rgb, rgb)


def test_scenes_hold_hot_and_cold_things():
    scenes = [synthetic_pair(f"scene_{i:03d}") for i in range(12)]
    ground = [pair.ir[0, 160:] for pair in scenes]
    assert sum((one > 0.75).float().mean() > 0.002 for one in ground) >= 8
    assert sum((one < 0.15).float().mean() > 0.002 for one in ground) >= 8


def made(**planted):
    split = Split(NAMES[:2], NAMES[2:3], NAMES[3:], [])
    return Source("made", split, lambda name: synthetic_pair(name, **planted))


def test_the_dry_run_tells_sizes_split_and_displacement():
    told = dry_run(made(shift=(3.0, -2.0)), tolerance=4.0)
    assert "made: 4 pairs; 2 to train, 1 to validate, 1 to test, 0 left out" in told
    assert "width, px        384     384     384" in told
    assert "(+3.0" in told or "(+2.9" in told
    assert "median 3.6" in told
    assert "warning" not in told


def test_the_dry_run_warns_of_misaligned_pairs():
    told = dry_run(made(shift=(4.0, -3.0)), tolerance=4.0)
    assert "warning: half of the blocks are more than 5.0 px apart" in told
    told = dry_run(made(shift=(14.0, 14.0)), tolerance=4.0)
    assert "warning: misalignment could be measured in" in told


def write(root, count, dtype=np.uint8, side=100):
    rng = np.random.default_rng(0)
    for folder in ("a", "b"):
        (root / folder).mkdir(parents=True)
        for i in range(count):
            image = rng.integers(0, 256, (side, side)).astype(dtype)
            Image.fromarray(image).save(root / folder / f"{i}.png")
    return f"--data-a={root / 'a'}", f"--data-b={root / 'b'}", "--split-gap=0"


def test_the_dry_run_of_files_tells_their_kinds_and_writes_nothing(tmp_path, capsys):
    flags = write(tmp_path / "data", 4, np.uint16)
    Image.new("RGB", (100, 100)).save(tmp_path / "data" / "a" / "3.png")
    out = tmp_path / "out"
    assert script.main([*flags, "--dry-run", f"--out={out}"]) is None
    told = capsys.readouterr().out
    assert "visible     3 of 1 × 16 bits, 1 of 3 × 8 bits" in told
    assert "infrared    4 of 1 × 16 bits" in told
    assert "warning: misalignment could be measured in 0 of 4 blocks only" in told
    assert not out.exists()


def test_the_dry_run_names_every_pair_that_cannot_be_used(tmp_path):
    flags = write(tmp_path, 4)
    (tmp_path / "a" / "1.png").write_bytes(b"?")
    Image.new("L", (99, 100)).save(tmp_path / "b" / "2.png")
    message = (
        r"2 of 4 pairs cannot be used:\n.*1\.png cannot be read.*\n.*2\.png is 100×100"
    )
    with pytest.raises(DataError, match=message):
        script.main([*flags, "--dry-run"])


def test_a_dry_run_resumes_nothing(capsys):
    with pytest.raises(SystemExit):
        script.parse(["--dry-run", "--resume"])
    assert "--dry-run and --resume exclude each other" in capsys.readouterr().err
