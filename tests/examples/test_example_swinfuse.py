"""SwinFuse: the published names and shapes, windows, shifts and sizes."""

import ast
from pathlib import Path

import pytest
import torch
import torch.nn.functional as F
from roadscene.swinfuse import SwinFuse, from_windows, shift_mask, to_windows
from roadscene.swinfuse import relative_position_index as position_index

LISTING = Path(__file__).with_name("swinfuse_state_dict.txt")


def published():
    rows = [line.split() for line in LISTING.read_text().splitlines()[1:]]
    return {
        key: (kind, dtype, ast.literal_eval(shape)) for kind, dtype, shape, key in rows
    }


def reach(model, row, column, size=28):
    """Rows and columns of the output that one input pixel influences."""
    image = torch.rand(1, 1, size, size)
    changed = image.clone()
    changed[..., row, column] += 1
    with torch.no_grad():
        moved = (model(image) - model(changed)).abs().amax((0, 1)) > 1e-6
    rows, columns = moved.nonzero().unbind(1)
    return rows.min(), rows.max(), columns.min(), columns.max()


def test_state_dict_is_the_released_one():
    model = SwinFuse(img_size=224)
    parameters = dict(model.named_parameters())
    ours = {
        key: (
            "P" if key in parameters else "B",
            str(value.dtype).removeprefix("torch."),
            tuple(value.shape),
        )
        for key, value in model.state_dict().items()
    }
    assert ours == published()
    assert len(ours) == 272
    assert sum(p.numel() for p in parameters.values()) == 2_021_276


def test_released_file_loads_into_a_model_of_any_size():
    released = SwinFuse(img_size=224)
    model = torch.nn.Sequential(SwinFuse())  # a prefix must not matter
    state = {f"0.{key}": value for key, value in released.state_dict().items()}
    model.load_state_dict(state)
    image = torch.rand(1, 1, 20, 30)
    torch.testing.assert_close(model(image), released(image))


def test_a_missing_parameter_is_still_an_error():
    state = SwinFuse().state_dict()
    del state["norm.weight"]
    with pytest.raises(RuntimeError, match=r"norm\.weight"):
        SwinFuse().load_state_dict(state)


def test_one_block_per_stage_trains_the_live_parameters_alone():
    model = SwinFuse(blocks_run=1)
    features = model(torch.rand(1, 1, 14, 14))
    (features * torch.randn_like(features)).sum().backward()
    live = [p for p in model.parameters() if p.grad is not None]
    # 47 tensors with 337,376 numbers in the released model; the decoder has two of
    # them, 96 + 1 numbers.
    assert len(live) == 45
    assert sum(p.numel() for p in live) == 337_376 - 97


@pytest.mark.parametrize("pixel", [(0, 0), (10, 16), (27, 27)])
def test_one_block_sees_its_own_cell(pixel):
    row, column = (7 * (p // 7) for p in pixel)
    seen = reach(SwinFuse(blocks_run=1), *pixel)
    assert seen == (row, row + 6, column, column + 6)


def test_shifted_blocks_see_further_but_not_around_the_edge():
    top, bottom, left, right = reach(SwinFuse(blocks_run=2), 0, 0, size=42)
    assert (top, left) == (0, 0)
    assert 6 < bottom < 41
    assert 6 < right < 41


@pytest.mark.parametrize(("height", "width"), [(14, 14), (14, 28), (35, 21)])
def test_shift_mask_separates_what_the_roll_brought_together(height, width):
    y, x = torch.meshgrid(torch.arange(height), torch.arange(width), indexing="ij")
    place = torch.stack([y, x], dim=-1).roll((-3, -3), dims=(0, 1))
    place = to_windows(place[None])[0]  # original (y, x) of each token
    apart = (place[:, :, None] - place[:, None, :]).abs().amax(-1)
    expected = torch.where(apart >= 7, -100.0, 0.0)
    torch.testing.assert_close(shift_mask(height, width), expected)


def test_windows_round_trip():
    tokens = torch.arange(2 * 14 * 21 * 3).view(2, 14, 21, 3)
    windows = to_windows(tokens)
    assert windows.shape == (2, 6, 49, 3)
    assert torch.equal(windows[0, 1].view(7, 7, 3), tokens[0, :7, 7:14])
    assert torch.equal(from_windows(windows, 14, 21), tokens)


def test_position_index_counts_displacements():
    index = position_index()
    for i in range(49):
        for j in range(49):
            dy, dx = i // 7 - j // 7, i % 7 - j % 7
            assert index[i, j] == (dy + 6) * 13 + (dx + 6)


@pytest.mark.parametrize(("height", "width"), [(7, 7), (20, 17), (3, 30), (15, 14)])
@pytest.mark.parametrize("stage", ["last", "penultimate"])
def test_any_size_by_repeating_the_border(height, width, stage):
    model = SwinFuse(blocks_run=2, stage=stage)
    image = torch.rand(2, 1, height, width)
    whole = F.pad(image, (0, -width % 7, 0, -height % 7), mode="replicate")
    features = model(image)
    assert features.shape == (2, 96, height, width)
    torch.testing.assert_close(features, model(whole)[..., :height, :width])


def test_drop_path_keeps_the_mean_and_is_off_in_evaluation():
    block = SwinFuse(drop_path=0.2).EN3_0.blocks[5].drop_path
    assert block.rate == pytest.approx(0.2)
    x = torch.ones(20_000, 1, 1)
    dropped = block(x)
    assert set(dropped.unique().tolist()) == {0.0, 1.25}
    assert dropped.mean().item() == pytest.approx(1.0, abs=0.02)
    assert block.eval()(x) is x


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"blocks_run": 0}, r"SwinFuse: blocks_run must be in \[1, 6\], got 0"),
        ({"stage": "first"}, "SwinFuse: stage must be 'last' or 'penultimate'"),
        ({"img_size": 100}, "SwinFuse: img_size must be a multiple of 7, got 100"),
    ],
)
def test_bad_options(options, message):
    with pytest.raises(ValueError, match=message):
        SwinFuse(**options)
