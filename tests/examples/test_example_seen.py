"""What the report shows of features, on features whose answer is known."""

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from roadscene.compact import compress, similarities, survival
from roadscene.evaluate import Described, Protocol, prepare_pair
from roadscene.registration import Keypoints
from roadscene.registration_figure import (
    checkerboard,
    register_case,
    registration_figure,
)
from roadscene.seen import Colours, View, aligned_case, profile
from roadscene.synthetic import synthetic_pair
from roadscene.warps import project, random_cases


def random_view(dims=24, rank=24, seed=0):
    """Unit features of a visible map of 9 × 12 cells and an infrared of 7 × 11."""
    rng = torch.Generator().manual_seed(seed)
    basis = torch.randn(dims, rank, generator=rng)

    def features(h, w):
        maps = basis @ torch.randn(rank, h * w, generator=rng)
        return Described(F.normalize(maps, dim=0).view(1, dims, h, w), 8, 3.5)

    return View(features(9, 12), features(7, 11))


PLACES = torch.tensor([[3.5, 3.5], [40.0, 21.7], [0.0, 0.0], [95.0, 71.0], [91.5, 30]])


@pytest.mark.parametrize(
    ("pitch", "every"), [(8, 1), (15, 1), (16, 2), (24, 3), (4, 1)]
)
def test_thinned_cells_are_where_they_were(pitch, every):
    view = random_view()
    thin = view.thinned(pitch)
    for some, whole in zip(thin, view, strict=True):
        assert some.pitch == 8 * every
        h, w = (-(-n // every) for n in whole.maps.shape[2:])
        assert some.maps.shape == (1, 24, h, w)
        cells = torch.cartesian_prod(torch.arange(h), torch.arange(w)).flip(1)
        points = some.first + some.pitch * cells.double()
        torch.testing.assert_close(
            whole.at(points), some.maps[0].flatten(1).T, atol=1e-5, rtol=0
        )
    assert thin.cells == sum(some.maps[0, 0].numel() for some in thin)


def test_compact_features_keep_similarities_between_cells_and_at_the_border():
    view = random_view()
    compact = compress(*view, dims=24)
    assert compact.rgb.dtype == compact.ir.dtype == torch.int8
    kept = similarities(compact, (PLACES - 3.5) / 8)
    torch.testing.assert_close(kept, view.scores(PLACES), atol=0.02, rtol=0)
    assert kept.shape == (5, 7, 11)


def test_as_many_directions_are_kept_as_matter():
    view = random_view(rank=6)
    cells = (PLACES - 3.5) / 8
    kept = similarities(compress(*view, dims=6), cells)
    torch.testing.assert_close(kept, view.scores(PLACES), atol=0.02, rtol=0)
    less = similarities(compress(*view, dims=3), cells)
    assert (less - view.scores(PLACES)).abs().max() > 0.1
    torch.testing.assert_close(
        similarities(compress(*view, dims=99), cells),
        view.scores(PLACES),
        atol=0.02,
        rtol=0,
    )


def test_survival_is_a_correlation_and_a_share_of_peaks():
    full = torch.zeros(3, 5, 6)
    full[0, 2, 2] = full[1, 1, 1] = full[2, 4, 5] = 1
    kept = torch.zeros(3, 5, 6)
    kept[0, 2, 2] = kept[1, 2, 0] = kept[2, 4, 3] = 1  # same, next to it, two away
    result = survival([full[:1], full[1:]], [kept[:1], kept[1:]])
    assert result["same_peak"] == pytest.approx(2 / 3)
    expected = np.corrcoef(full.flatten(), kept.flatten())[0, 1]
    assert result["correlation"] == pytest.approx(expected, rel=1e-5)


def test_profile_of_a_known_peak():
    """Similarity 1 − r/10 about the truth, and another 0.2 higher."""
    y, x = torch.meshgrid(torch.arange(21.0), torch.arange(25.0), indexing="ij")
    at = torch.tensor([[12.0, 10.0], [11.0, 9.0]])
    r = torch.hypot(x - at[:, :1, None], y - at[:, 1:, None])
    scores = 1 - r / 10 + torch.tensor([0.0, 0.2])[:, None, None]
    result = profile([scores[:1], scores[1:]], [at[:1], at[1:]], 4.0, 33.0)
    assert result["distance"] == [4.0 * i for i in range(9)]
    # Cells of a ring are not all equally far.
    np.testing.assert_allclose(result["middle"], 1.1 - np.arange(9) / 10, atol=0.025)
    np.testing.assert_allclose(np.subtract(result["high"], result["low"]), 0.1, 1e-4)
    assert result["middle"][0] == pytest.approx(1.1)


def test_a_ring_without_cells_has_no_profile():
    between = torch.tensor([[3.5, 3.5]])  # 0.7 cells from the nearest
    result = profile([torch.ones(1, 8, 8)], [between], 8.0, 8.0)
    assert result["middle"] == [None, 1.0]


def test_colours_show_a_gap_between_the_modalities_and_their_structure():
    view = random_view()
    shifted = View(view.rgb, view.ir._replace(maps=view.ir.maps + 3))
    colours = Colours.fit([shifted])
    rgb, ir = colours.paint(shifted.rgb), colours.paint(shifted.ir)
    assert rgb.shape == (9, 12, 3)
    assert ir.shape == (7, 11, 3)
    assert rgb.dtype == np.uint8
    # The first component is the gap: one modality is dark in it, the other bright.
    red = sorted([rgb[..., 0].mean(), ir[..., 0].mean()])
    assert red[0] < 40
    assert red[1] > 215
    # Equal features get equal colours, whichever image they are from.
    assert (colours.paint(shifted.rgb) == rgb).all()
    twin = View(view.rgb, view.rgb)
    fitted = Colours.fit([twin])
    assert (fitted.paint(twin.rgb) == fitted.paint(twin.ir)).all()
    assert fitted.paint(twin.rgb).std() > 30


def test_offset_is_the_truth_of_an_aligned_case():
    pair = synthetic_pair("scene_000", height=160, width=192)
    queries = prepare_pair(pair, Protocol(), 3)
    case = aligned_case("one", queries)
    points = queries.points_rgb.numpy()
    np.testing.assert_allclose(
        project(case.truth, points), queries.points_ir, atol=1e-9
    )
    assert case.valid.shape == queries.ir.shape[-2:]


def test_matches_of_features_that_are_places_are_right():
    pair = synthetic_pair("scene_001", height=160, width=192)
    queries = prepare_pair(pair, Protocol(), 0)
    dy, dx = (
        a - b for a, b in zip(queries.rgb.shape[2:], queries.ir.shape[2:], strict=True)
    )

    def waves(height, width, left, top):
        y, x = torch.meshgrid(
            torch.arange(height) + top, torch.arange(width) + left, indexing="ij"
        )
        phases = torch.stack([0.01 * (i + 1) * one for one in (x, y) for i in range(6)])
        maps = torch.cat([phases.sin(), phases.cos()])[None]
        return Described(F.normalize(maps, dim=1), 1, 0)

    view = View(waves(160, 192, 0, 0), waves(160 - dy, 192 - dx, dx, dy))
    found = view.matches(aligned_case("one", queries))
    assert len(found) > 20
    off = np.linalg.norm(found[:, :2] - [dx, dy] - found[:, 2:4], axis=1)
    np.testing.assert_allclose(found[:, 4], off, atol=1e-6)
    assert np.median(found[:, 4]) < 4


@pytest.fixture(scope="module")
def cases():
    pairs = [synthetic_pair(f"scene_{i:03d}", height=160, width=192) for i in (2, 3)]
    return random_cases(pairs)


def truth_of(case):
    """A method that knows the answer: places of the source, in both images."""
    at = np.random.default_rng(0).uniform(20, 140, (40, 2))

    def method(image, mask, is_rgb):
        here = is_rgb == case.source_is_rgb
        points = at if here else project(case.truth, at)
        return Keypoints(points, np.eye(40, dtype=np.float32))

    return method


def lost(image, mask, is_rgb):
    return Keypoints(np.zeros((0, 2)), np.zeros((0, 4), np.float32))


def test_registration_of_known_matches_is_exact_and_of_none_fails(cases):
    for case in cases:
        result = register_case(case, truth_of(case))
        assert result.error < 1e-3
        assert result.label == "corners 0.0 px off"
        assert register_case(case, lost).label == "failed"


def test_tiles_are_of_both_images_where_they_belong(cases):
    case = cases[0]
    drawn = checkerboard(case, case.truth)
    height, width = case.target.shape
    top, left = round(0.14 * height), round(0.14 * width)
    assert drawn.shape == (height + 2 * top, width + 2 * left, 3)
    # The target is grey, the source is not: about half of the tiles are coloured.
    coloured = (np.ptp(drawn.astype(int), axis=2) > 12)[top:-top, left:-left]
    assert 0.15 < coloured.mean() < 0.6
    alone = checkerboard(case, None)
    assert (np.ptp(alone.astype(int), axis=2) == 0).all()
    inside = (slice(top + 40, top + 60), slice(left + 60, left + 80))
    np.testing.assert_array_equal(alone[inside][..., 0], case.target[40:60, 60:80])


def test_a_wild_homography_is_drawn_all_the_same(cases):
    wild = np.array([[1, 0, 0], [0, 1, 0], [-1 / 100, 0, 1]], float)
    assert checkerboard(cases[0], wild).any()


def test_registration_figure(tmp_path, cases):
    path = tmp_path / "registration.png"
    methods = {"before": lost, "after": truth_of(cases[0])}
    registration_figure(path, cases[:1], methods)
    assert path.read_bytes().startswith(b"\x89PNG")
