"""Where sampled points lie: the same place of the scene in both crops."""

from dataclasses import replace

import pytest
import torch
from roadscene import patches
from roadscene.data import Pair
from roadscene.patches import (
    Augmentation,
    Bank,
    local_contrast,
    sample_at,
    sample_batch,
)
from scipy.ndimage import gaussian_filter

PLAIN = Augmentation(photometric=0.0, invert=0.0)


def twin_pair(name, height=70, width=90):
    """A pair whose infrared image is its grey visible image; every place differs."""
    rng = torch.Generator().manual_seed(sum(name.encode()))
    rgb = torch.rand(3, height, width, generator=rng)
    return Pair(name, rgb, torch.tensordot(torch.tensor(patches.LUMA), rgb, 1)[None])


def gaussian(image):
    return torch.from_numpy(gaussian_filter(image.numpy(), (0, 3, 3)))


def draw(pairs, seed=0, **changes):
    options = {
        "batch_size": 3,
        "crop_size": 42,
        "grid": 6,
        "exclude_radius": 3.0,
        "augmentation": PLAIN,
        "generator": torch.Generator().manual_seed(seed),
    }
    return sample_batch(Bank.of(pairs), **(options | changes))


@pytest.fixture
def pairs():
    return [twin_pair(str(i)) for i in range(4)]


@pytest.fixture
def raw(monkeypatch):
    """Leave pixels as sampled: local contrast depends on where a crop ends."""
    monkeypatch.setattr(patches, "local_contrast", lambda image: image)


@pytest.mark.usefixtures("raw")
@pytest.mark.parametrize("seed", range(5))
def test_points_show_the_same_place_through_augmentation_and_offsets(pairs, seed):
    batch = draw(pairs, seed)
    assert batch.rgb.shape == (3, 1, 42, 42)
    assert batch.points_rgb.shape == (3, 36, 2)
    assert batch.weight.sum() > 50
    inside = batch.weight[..., None]
    seen_rgb = sample_at(batch.rgb, batch.points_rgb) * inside
    seen_ir = sample_at(batch.ir, batch.points_ir) * inside
    torch.testing.assert_close(seen_rgb, seen_ir, atol=1e-4, rtol=0)
    # Without the offsets they would not: the test can fail.
    ignored = sample_at(batch.ir, batch.points_rgb) * inside
    assert (seen_rgb - ignored).abs().mean() > 0.05


@pytest.mark.usefixtures("raw")
def test_points_show_the_same_place_through_a_warp(pairs):
    smooth = [Pair(p.name, gaussian(p.rgb), gaussian(p.ir)) for p in pairs]
    warped = replace(PLAIN, warp=0.35)
    outside = 0
    for seed in range(5):
        batch = draw(smooth, seed, augmentation=warped)
        counts = batch.weight > 0
        assert counts.sum() > 40
        in_crop = ((batch.points_ir >= 4) & (batch.points_ir <= 42 - 5)).all(-1)
        assert in_crop[counts].all()
        outside += (~in_crop).sum()
        seen_rgb = sample_at(batch.rgb, batch.points_rgb)[..., 0]
        seen_ir = sample_at(batch.ir, batch.points_ir)[..., 0]
        spread = seen_rgb[counts].std()
        assert (seen_rgb - seen_ir)[counts].abs().max() < 0.3 * spread
        # The offset alone does not say where a place is.
        assert (batch.points_rgb - batch.points_ir).std(1).mean() > 0.5
    assert outside > 0


@pytest.mark.usefixtures("raw")
def test_an_unchanged_crop_is_a_piece_of_the_image(pairs):
    still = Augmentation(0.0, 1.0, 0.0, 0.0, 0.0, 0)
    batch = draw(pairs[:1], batch_size=1, augmentation=still)
    windows = pairs[0].ir.unfold(1, 42, 1).unfold(2, 42, 1)
    distance = (windows - batch.ir[0]).abs().mean((-1, -2))
    # Between pixels, but not further from the best piece than half a pixel each way.
    assert distance.min() < 0.6 * distance.median()
    assert torch.equal(batch.points_rgb, batch.points_ir)


def test_offsets_are_independent_and_reach_every_phase(pairs):
    shifts = torch.cat(
        [
            (batch.points_rgb - batch.points_ir)[:, 0]
            for batch in (draw(pairs, seed) for seed in range(60))
        ]
    )
    assert torch.equal(shifts, shifts.round())
    for axis in shifts.unbind(1):
        assert set(axis.int().tolist()) == set(range(-6, 7))
        assert set((axis.int() % 7).tolist()) == set(range(7))


def test_points_are_at_the_same_place_in_every_image_before_the_offset(pairs):
    batch = draw(pairs)
    for points in (batch.points_rgb, batch.points_ir):
        shift = points - points[:1]
        torch.testing.assert_close(shift, shift[:, :1].expand_as(shift))
        assert (points >= 4).all()
        assert (points <= 42 - 5).all()


def test_points_outside_the_image_weigh_nothing():
    small = twin_pair("small", height=20, width=90)
    batch = draw([small], batch_size=1, augmentation=Augmentation(0, 1, 0, 0, 0, 0))
    # 20 of the crop's 42 rows show the image: those around its middle.
    rows = batch.points_rgb[0, :, 1]
    expected = ((rows - 20.5).abs() <= 9.5).float()
    assert torch.equal(batch.weight[0], expected)
    assert 0 < batch.weight.sum() < 36


@pytest.mark.parametrize("radius", [0.5, 3.0, 7.5])
def test_exclude_marks_near_places(pairs, radius):
    batch = draw(pairs, exclude_radius=radius)
    for points, exclude in zip(batch.points_rgb, batch.exclude, strict=True):
        apart = (points[:, None] - points[None]).norm(dim=-1)
        unclear = (apart - radius).abs() < 1e-4
        assert torch.equal((apart < radius) | unclear, exclude | unclear)
    assert batch.exclude.diagonal(dim1=1, dim2=2).all()


def test_draws_follow_the_generator(pairs):
    first, again, other = draw(pairs, 1), draw(pairs, 1), draw(pairs, 2)
    assert all(torch.equal(a, b) for a, b in zip(first, again, strict=True))
    assert not torch.equal(first.rgb, other.rgb)


@pytest.mark.usefixtures("raw")
def test_tones_change_in_the_visible_image_only(pairs):
    loud = Augmentation(photometric=1.0, invert=1.0)
    plain = draw(pairs[:1], batch_size=1)
    changed = draw(pairs[:1], batch_size=1, augmentation=loud)
    assert torch.equal(plain.ir, changed.ir)
    tones = torch.stack([plain.rgb.flatten(), changed.rgb.flatten()])
    assert torch.corrcoef(tones)[0, 1] < -0.8


def test_sample_at_reads_between_cells():
    y, x = torch.meshgrid(torch.arange(9.0), torch.arange(12.0), indexing="ij")
    maps = torch.stack([x, y])[None]  # cell (i, j) says where it lies, in cells
    points = torch.tensor([[[0.0, 0.0], [22.0, 16.0], [7.0, 5.0], [2.5, 9.0]]])
    torch.testing.assert_close(sample_at(maps, points, 2), points / 2)


def test_local_contrast_ignores_brightness_and_gain():
    image = torch.rand(1, 1, 40, 40)
    plain = local_contrast(image, floor=0.0)
    assert plain.abs().max() <= 1
    torch.testing.assert_close(
        local_contrast(0.1 * image + 0.5, floor=0.0), plain, atol=1e-3, rtol=0
    )
    assert local_contrast(torch.full_like(image, 0.3)).abs().max() < 1e-3
