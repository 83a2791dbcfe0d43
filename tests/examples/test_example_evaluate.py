"""Metrics on planted features whose answer is known."""

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from roadscene.data import Pair
from roadscene.evaluate import (
    Described,
    Protocol,
    Queries,
    by_features,
    evaluate,
    measure_pair,
    peak,
    peak_shape,
    prepare_pair,
    query_maps,
    search_windows,
)
from roadscene.patches import LUMA, sample_at
from roadscene.report import bootstrap_interval, compare, table

PROTOCOL = Protocol(tolerance=8.0, window=72)
H, W = 20, 24
PITCH, FIRST = 8, 3.5


def planted(orders):
    """Features under which query q ranks the listed displacements from its truth.

    Every infrared cell has its own dimension, and a query the sum of the listed
    cells', the first weighing most.
    """
    cells = torch.cartesian_prod(torch.arange(6, 18, 4), torch.arange(6, 14, 4))
    cells = cells[: len(orders)].float()  # (x, y) of the truth in the infrared map
    queries = Queries(None, None, PITCH * (cells + 1) + FIRST, PITCH * cells + FIRST)
    features_ir = torch.eye(H * W).view(1, H * W, H, W)
    features_rgb = torch.zeros(1, H * W, H + 2, W + 2)
    for (x, y), order in zip(cells.int().tolist(), orders, strict=True):
        for rank, (dx, dy) in enumerate(order):
            features_rgb[0, (y + dy) * W + x + dx, y + 1, x + 1] = 0.9**rank
    rgb, ir = (
        Described(maps, PITCH, FIRST)
        for maps in (F.normalize(features_rgb, dim=1), features_ir)
    )
    return by_features(lambda _, is_rgb: rgb if is_rgb else ir), queries


def measured(orders):
    search, queries = planted(orders)
    return measure_pair(search(queries), queries, PROTOCOL, index=0)


def test_right_answers():
    result = measured([[(0, 0)]] * 5)
    assert result["top1"].tolist() == result["top5"].tolist() == [1] * 5
    assert result["within"].tolist() == [1] * 5
    np.testing.assert_allclose(result["error"], 0, atol=1e-5)
    np.testing.assert_allclose(result["anywhere"], 0, atol=1e-5)
    np.testing.assert_allclose(result["height"], 1, rtol=1e-6)


def test_tolerance_is_one_cell_straight_but_not_diagonally():
    result = measured([[(1, 0)], [(0, -1)], [(1, 1)], [(-2, 0)]])
    assert result["top1"].tolist() == [1, 1, 0, 0]
    assert result["within"].tolist() == [1, 1, 0, 0]
    np.testing.assert_allclose(result["error"], [8, 8, 8 * 2**0.5, 16], rtol=1e-5)


def test_top5_looks_at_five():
    wrong = [(3, 0), (0, 3), (-3, 0), (0, -3), (3, 3)]
    result = measured([[*wrong[:4], (0, 0)], [*wrong, (0, 0)]])
    assert result["top1"].tolist() == [0, 0]
    assert result["top5"].tolist() == [1, 0]


def test_localisation_ignores_what_lies_outside_its_window():
    # The best cell is 9 away: no window of 9 cells holds it and the truth.
    result = measured([[(9, 0), (0, 0)]])
    assert result["top1"].tolist() == [0]
    np.testing.assert_allclose(result["error"], 0, atol=1e-5)


def test_chance_is_the_share_of_right_candidates():
    result = measured([[(0, 0)]] * 4)
    np.testing.assert_allclose(result["chance_top1"], 5 / (H * W))
    assert ((result["chance_within"] * 81).round() <= 5).all()
    assert (result["chance_within"] >= 3 / 81).all()


@pytest.mark.parametrize("size", [9, 14, 100])
def test_search_windows_hold_the_truth_anywhere_in_them(size):
    rng = torch.Generator().manual_seed(0)
    truth = torch.rand(400, 2, generator=rng) * torch.tensor([W - 1.0, H - 1.0])
    windows = search_windows(truth, H, W, size, rng)
    x, y = truth.round().long().unbind(1)
    assert windows[torch.arange(400), y, x].all()
    assert (windows.sum((1, 2)) == min(size, H) * min(size, W)).all()
    if size == 9:
        middle = (truth[:, 0] > 9) & (truth[:, 0] < W - 9)
        place = x - windows.any(1).int().argmax(1)
        assert set(place[middle].tolist()) == set(range(9))


def test_peak_is_refined_between_cells():
    x, y = torch.arange(9.0), torch.arange(7.0)
    at = torch.tensor([[3.3, 2.0], [5.0, 4.6], [0.0, 3.2], [8.0, 0.0]])
    maps = -((x - at[:, :1, None]) ** 2) - (y[:, None] - at[:, 1:, None]) ** 2
    torch.testing.assert_close(peak(maps), at, atol=1e-5, rtol=0)
    # A flat top and a masked neighbour leave the cell itself.
    flat = torch.zeros(1, 5, 5)
    flat[0, 1, 3] = flat[0, 2, 3] = 1
    assert peak(flat)[0].tolist() == [3, 1.5]
    lonely = torch.full((1, 5, 5), -torch.inf)
    lonely[0, 2, 2] = 1
    assert peak(lonely)[0].tolist() == [2, 2]


def test_shape_of_a_known_peak():
    """A cone of height 1 − r / 4 cells on a floor of 0, away from the edges."""
    y, x = torch.meshgrid(torch.arange(21.0), torch.arange(25.0), indexing="ij")
    at = torch.tensor([[12.0, 10.0], [7.0, 13.0]])
    r = ((x - at[:, :1, None]) ** 2 + (y - at[:, 1:, None]) ** 2).sqrt()
    scores = (1 - r / 4).clamp(min=0)
    shape = peak_shape(scores, Protocol(lobe=8.0), pitch=4.0)
    torch.testing.assert_close(shape["height"], torch.ones(2))
    # Half of the height at two cells on either side: four cells, of four pixels.
    torch.testing.assert_close(shape["width"], torch.full((2,), 16.0))
    for one, ratio in zip(scores, shape["sidelobe_ratio"], strict=True):
        rest = one.numpy()[(one < 0.5).numpy()]  # beyond two cells
        assert ratio.item() == pytest.approx((1 - rest.mean()) / rest.std(), rel=1e-5)


def test_a_peak_at_the_edge_of_its_window_has_no_width():
    scores = torch.zeros(1, 9, 9)
    scores[0, 4, :] = torch.linspace(0, 1, 9)  # rises to the edge
    shape = peak_shape(scores, PROTOCOL, 8.0)
    assert shape["width"].isnan().all()
    inside = torch.full((1, 9, 9), -torch.inf)
    inside[0, 3:6, 3:6] = 0.9  # never falls to half before the window ends
    inside[0, 4, 4] = 1.0
    assert peak_shape(inside, PROTOCOL, 8.0)["width"].isnan().all()


def twin(height=240, width=320, seed=0):
    rng = torch.Generator().manual_seed(seed)
    fine = torch.rand(1, 3, height // 8, width // 8, generator=rng)
    rgb = F.interpolate(fine, (height, width), mode="bilinear")[0]
    return Pair("twin", rgb, torch.tensordot(torch.tensor(LUMA), rgb, 1)[None])


def test_queries_are_textured_places_that_show_the_same():
    offsets = set()
    for index in range(20):
        queries = prepare_pair(twin(), PROTOCOL, index)
        rgb, ir = queries.points_rgb, queries.points_ir
        assert 0 < len(rgb) <= PROTOCOL.queries
        assert (rgb % 8 == 3.5).all()
        (shift,) = (rgb - ir).unique(dim=0).tolist()
        offsets.add(tuple(shift))
        height, width = queries.ir.shape[-2:]
        assert (240 - height, 320 - width) == (shift[1], shift[0])
        grey = torch.tensordot(torch.tensor(LUMA), queries.rgb, ([0], [1]))[None]
        torch.testing.assert_close(
            sample_at(grey, rgb[None]), sample_at(queries.ir, ir[None])
        )
    assert len(offsets) > 10
    assert all(0 <= shift <= 27 for offset in offsets for shift in offset)


def pixels(image, is_rgb):
    """Features that determine the place: 9×9 means of 4×4 pixels."""
    if is_rgb:
        image = torch.tensordot(torch.tensor(LUMA), image, ([0], [1]))[None]
    small = F.avg_pool2d(image, 4)
    around = F.unfold(F.pad(small, (4, 4, 4, 4), mode="replicate"), 9)
    around = around - around.mean(1, keepdim=True)
    maps = F.normalize(around.view(1, 81, *small.shape[-2:]), dim=1)
    return Described(maps, 4, 1.5)


def test_evaluation_of_known_features_is_right_and_repeatable():
    protocol = Protocol(max_offset=0)
    pairs = [twin(seed=seed) for seed in range(3)]
    result = evaluate(by_features(pixels), pairs, protocol)
    assert np.mean(result["top1"]) > 0.99
    assert np.mean(result["within"]) > 0.99
    assert np.mean(result["error"]) < 1
    assert evaluate(by_features(pixels), pairs, protocol) == result
    assert (
        evaluate(by_features(pixels), pairs, Protocol(max_offset=0, seed=1)) != result
    )


def test_features_that_know_only_the_place_gain_nothing():
    """The offset is there to make "at the same place" a wrong answer."""

    def place(image, is_rgb):
        h, w = (n // 8 for n in image.shape[-2:])
        y, x = torch.meshgrid(torch.arange(h), torch.arange(w), indexing="ij")
        maps = F.one_hot(40 * y + x, 1200).permute(2, 0, 1)[None].float()
        return Described(maps, 8, 3.5)

    pairs = [twin(seed=seed) for seed in range(8)]
    assert np.mean(evaluate(by_features(place), pairs, Protocol())["top1"]) < 0.25


def test_query_maps_peak_at_the_truth_of_known_features():
    protocol = Protocol(max_offset=0)
    pairs = [twin(seed=seed) for seed in range(3)]
    for index, found in enumerate(query_maps(by_features(pixels), pairs, protocol)):
        truth = prepare_pair(pairs[index], protocol, index).points_ir[0]
        place = found.first + found.pitch * peak(found.maps[0])[0]
        assert (place - truth).abs().max() < 2
        assert found.maps.max() > 0.7


def test_comparison_and_table():
    names = ("top1", "top5", "within", "chance_top1", "chance_within")
    before = {name: [0.1, 0.2, 0.3] for name in names} | {"error": [40.0, 50.0, 60.0]}
    after = {name: [0.4, 0.5, 0.6] for name in names} | {"error": [10.0, 20.0, 30.0]}
    for result in (before, after):
        result |= {"height": [0.5] * 3, "sidelobe_ratio": [np.nan] * 3}
    before["width"], after["width"] = [8.0, np.nan, 9.0], [4.0, 5.0, 7.0]
    result = compare(before, after)
    assert result["top1"]["before"] == pytest.approx(0.2)
    assert result["top1"]["change_interval"] == pytest.approx([0.3, 0.3])
    assert result["error"]["change"] == pytest.approx(-30)
    assert result["width"]["change"] == pytest.approx(-3)  # of those that have one
    assert "sidelobe_ratio" not in result
    low, high = result["error"]["after_interval"]
    assert 10 <= low < 20 < high <= 30
    text = table(result, "caption")
    assert "+30.0 [+30.0, +30.0]" in text
    assert "-30.0 [-30.0, -30.0]" in text


def test_bootstrap_interval_of_a_normal_sample():
    values = np.random.default_rng(0).normal(5, 2, 400)
    low, high = bootstrap_interval(values)
    half = 1.96 * values.std() / 20
    assert (low, high) == pytest.approx(
        (values.mean() - half, values.mean() + half), abs=0.03
    )
