"""Where each method puts places: grids, frequencies, scores, distances."""

import numpy as np
import pytest
import torch
from hypothesis import example, given
from hypothesis import strategies as st
from scipy.stats import chisquare

from reference import dense as reference
from sampled_places import P_VALUE, mask, pixels, sample, seeded

# ------------------------------------------------------------------ grid


@given(
    num=st.one_of(
        st.integers(1, 90), st.tuples(st.integers(1, 12), st.integers(1, 12))
    ),
    height=st.integers(1, 14),
    width=st.integers(1, 14),
)
@example(num=1, height=14, width=1)
def test_grid_places_are_the_middles_of_the_cells(num, height, width):
    places = sample((1, height, width), num, "grid")
    cells = reference.cells(num, height, width)
    assert places.valid.shape[1] == len(cells)
    covered = np.zeros((height, width), dtype=int)
    for (x, y), valid, (top, bottom, left, right) in zip(
        places.positions[0].tolist(), places.valid[0], cells, strict=True
    ):
        covered[top:bottom, left:right] += 1
        assert bool(valid) == (top < bottom and left < right)
        if valid:
            assert x == (left + right - 1) // 2
            assert y == (top + bottom - 1) // 2
    assert (covered == 1).all()


@given(num=st.integers(1, 200), height=st.integers(1, 40), width=st.integers(1, 40))
@example(num=11, height=2, width=10)  # no band has more cells than pixels
@example(num=4, height=40, width=1)  # nor are there more bands than cells
def test_grid_is_as_regular_as_whole_pixels_can_be(num, height, width):
    places = sample((1, height, width), num, "grid")
    assert places.valid.sum() == min(num, height * width)
    at = places.positions[0][places.valid[0]]
    bands = [at[at[:, 1] == y, 0] for y in at[:, 1].unique()]
    for gaps in [at[:, 1].unique().diff(), *(x.diff() for x in bands)]:
        assert len(gaps) == 0 or gaps.max() - gaps.min() <= 1
    counts = [len(x) for x in bands]
    assert max(counts) - min(counts) <= 1


@pytest.mark.parametrize(
    ("num", "rows", "columns"),
    [(64, 8, 8), (16, 4, 4), (1, 1, 1), ((2, 16), 2, 16), ((32, 1), 32, 1)],
)
def test_square_maps_get_square_grids(num, rows, columns):
    places = sample((1, 32, 32), num, "grid")
    x = torch.arange(columns) * (32 // columns) + (32 // columns - 1) // 2
    y = torch.arange(rows) * (32 // rows) + (32 // rows - 1) // 2
    expected = torch.stack(torch.meshgrid(x, y, indexing="xy"), -1).view(1, -1, 2)
    assert torch.equal(places.positions, expected.float())
    assert places.valid.all()


def test_cells_are_near_to_squares():
    at = sample((1, 30, 60), 50, "grid").positions[0]
    assert len(at[:, 1].unique()) == 5
    assert (at[:10, 0].diff() == 6).all()


def test_grids_draw_nothing_and_keep_their_slots():
    generator = seeded(3)
    allowed = mask((2, 8, 8))
    places = sample((2, 8, 8), 16, "grid", valid=allowed, generator=generator)
    assert torch.equal(generator.get_state(), seeded(3).get_state())
    everywhere = sample((2, 8, 8), 16, "grid")
    assert torch.equal(places.positions, everywhere.positions)
    assert torch.equal(places.valid, allowed.flatten(1).gather(1, pixels(places, 8)))


# ------------------------------------------------------------------ random


def test_random_places_are_uniform():
    chosen = pixels(sample((5000, 4, 5), 3, "random"), 5)
    assert chisquare(np.bincount(chosen.flatten(), minlength=20)).pvalue > P_VALUE
    # The order says nothing: all 20·19 first two are equally likely.
    first = np.bincount(chosen[:, 0] * 20 + chosen[:, 1], minlength=400)
    first = first.reshape(20, 20)[~np.eye(20, dtype=bool)]
    assert chisquare(first).pvalue > P_VALUE


# ------------------------------------------------------------------ stratified


@given(
    num=st.one_of(st.integers(1, 60), st.tuples(st.integers(1, 9), st.integers(1, 9))),
    height=st.integers(1, 12),
    width=st.integers(1, 12),
    share=st.sampled_from([0.3, 1.0]),
    seed=st.integers(0, 1000),
)
def test_one_place_in_every_cell_that_has_any(num, height, width, share, seed):
    allowed = mask((2, height, width), share, seed)
    places = sample(
        (2, height, width), num, "stratified", valid=allowed, generator=seeded(seed)
    )
    for b in range(2):
        for (x, y), valid, (top, bottom, left, right) in zip(
            places.positions[b].tolist(),
            places.valid[b],
            reference.cells(num, height, width),
            strict=True,
        ):
            assert bool(valid) == bool(allowed[b, top:bottom, left:right].any())
            if valid:
                assert top <= y < bottom
                assert left <= x < right


def test_stratified_places_are_uniform_in_their_cells():
    allowed = mask((1, 7, 9), 0.6).expand(4000, -1, -1)
    chosen = pixels(sample((4000, 7, 9), 6, "stratified", valid=allowed), 9)
    for p, (top, bottom, left, right) in enumerate(reference.cells(6, 7, 9)):
        count = np.bincount(chosen[:, p], minlength=63).reshape(7, 9)
        count = count[top:bottom, left:right][allowed[0, top:bottom, left:right]]
        assert count.sum() == 4000
        assert chisquare(count).pvalue > P_VALUE


# ------------------------------------------------------------------ weighted


def test_weighted_places_come_in_proportion_to_their_scores():
    trials = 20_000
    scores = torch.tensor([[1.0, 2.0, 0.0, 5.0], [0.5, 3.0, 0.25, 8.0]])
    chosen = pixels(
        sample((trials, 2, 4), 2, "weighted", scores=scores.expand(trials, -1, -1)), 4
    )
    p = scores.double().flatten().numpy() / scores.sum().item()
    some = p > 0
    first = np.bincount(chosen[:, 0], minlength=8)
    assert first[~some].sum() == 0
    assert chisquare(first[some], trials * p[some]).pvalue > P_VALUE
    # Then in proportion to what is left.
    both = np.bincount(chosen[:, 0] * 8 + chosen[:, 1], minlength=64).reshape(8, 8)
    expected = trials * p[:, None] * p[None, :] / (1 - p[:, None])
    likely = ~np.eye(8, dtype=bool) & (expected > 0)
    assert both[~likely].sum() == 0
    assert chisquare(both[likely], expected[likely]).pvalue > P_VALUE


def test_equal_scores_are_none():
    ones = torch.ones(2, 6, 6)
    weighted = sample((2, 6, 6), 9, "weighted", scores=ones)
    assert torch.equal(weighted.positions, sample((2, 6, 6), 9).positions)


@pytest.mark.parametrize("scale", [1e-30, 1e30])
def test_scores_have_no_scale(scale):
    scores = torch.rand(2, 6, 6, dtype=torch.float64)
    places = sample((2, 6, 6), 9, "weighted", scores=scores)
    again = sample((2, 6, 6), 9, "weighted", scores=scale * scores)
    assert torch.equal(places.positions, again.positions)


@pytest.mark.parametrize("min_distance", [0.0, 2.0])
@pytest.mark.parametrize("shared", [False, True])
def test_what_has_no_score_is_not_drawn(shared, min_distance):
    scores = torch.full((2, 4, 4), torch.nan)
    scores[:, 0], scores[:, 1], scores[:, 2] = 0.0, -1.0, -torch.inf
    scores[:, 3, 0], scores[:, 3, 3] = 1e-40, torch.inf
    places = sample(
        (2, 4, 4),
        9,
        "weighted",
        scores=scores,
        shared=shared,
        min_distance=min_distance,
    )
    assert places.valid.sum(1).tolist() == [2, 2]
    assert places.positions[0, :2].tolist() == [[3, 3], [0, 3]]


@pytest.mark.parametrize(
    "dtype", [torch.bool, torch.uint8, torch.int64, torch.float16, torch.float64]
)
@pytest.mark.parametrize("shared", [False, True])
def test_scores_of_any_real_dtype(dtype, shared):
    scores = torch.tensor([[[0, 1], [1, 0]]]).to(dtype)
    places = sample((1, 2, 2), 4, "weighted", scores=scores, shared=shared)
    assert places.valid.tolist() == [[True, True, False, False]]
    assert sorted(pixels(places, 2)[0, :2].tolist()) == [1, 2]


def test_no_gradient_goes_to_the_scores():
    scores = torch.rand(1, 4, 4, requires_grad=True)
    assert not sample((1, 4, 4), 3, "weighted", scores=scores).positions.requires_grad


# ------------------------------------------------------------------ distance


@pytest.mark.parametrize("min_distance", [1.0, 1.5, 2.0, 3.0, 5.0])
@pytest.mark.parametrize("num", [4, 100])
def test_it_is_greedy_suppression_in_the_order_of_the_scores(num, min_distance):
    # Scores that differ by so much that luck does not count.
    order = torch.stack([torch.randperm(99, generator=seeded(b)) for b in range(3)])
    scores = (60.0 * (order.view(3, 9, 11).double() - 99)).exp()
    places = sample(
        (3, 9, 11), num, "weighted", scores=scores, min_distance=min_distance
    )
    for b in range(3):
        expected = reference.greedy(scores[b].numpy(), num, min_distance)
        assert places.positions[b][places.valid[b]].tolist() == [
            [x, y] for x, y in expected
        ]


@pytest.mark.parametrize("method", ["random", "weighted"])
def test_fewer_only_if_no_other_is_far_enough(method):
    allowed = mask((4, 12, 12), 0.5)
    places = sample((4, 12, 12), 60, method, valid=allowed, min_distance=3.0)
    for b in range(4):
        assert 4 <= places.valid[b].sum() < 60
        at = places.positions[b][places.valid[b]]
        left = allowed[b].nonzero().flip(-1).float()
        gaps = (left[:, None] - at).abs().amax(-1).amin(1)
        assert (gaps < 3).all()


def test_distance_leaves_the_first_choice_alone():
    near = sample((3, 20, 20), 50)
    far = sample((3, 20, 20), 50, min_distance=4.0)
    assert torch.equal(near.positions[:, 0], far.positions[:, 0])
    assert far.valid.sum() < 150


def test_stratified_places_too_near_to_an_earlier_one_are_dropped():
    free = sample((3, 20, 20), 25, "stratified")
    apart = sample((3, 20, 20), 25, "stratified", min_distance=4.0)
    assert torch.equal(free.positions, apart.positions)
    for b in range(3):
        kept = []
        for p, at in enumerate(free.positions[b]):
            far = all((at - free.positions[b, q]).abs().max() >= 4 for q in kept)
            assert bool(apart.valid[b, p]) == far
            kept += [p] if far else []
        assert 5 < len(kept) < 25


# ------------------------------------------------------------------ shared


def test_shared_places_are_those_valid_anywhere():
    allowed = torch.zeros(2, 4, 4, dtype=torch.bool)
    allowed[0, 0], allowed[1, 3, :2] = True, True
    places = sample((2, 4, 4), 16, valid=allowed, shared=True)
    assert sorted(pixels(places, 4)[0, :6].tolist()) == [0, 1, 2, 3, 12, 13]
    assert places.valid.sum(1).tolist() == [4, 2]
    top = places.positions[0, :6, 1] == 0
    assert torch.equal(places.valid[0, :6], top)
    assert torch.equal(places.valid[1, :6], ~top)


def test_shared_places_follow_the_mean_of_the_scores():
    trials = 3000
    scores = torch.tensor([[[1.0, 4.0, torch.nan, 0.0]], [[5.0, -3.0, 2.0, 100.0]]])
    allowed = torch.ones(2, 1, 4, dtype=torch.bool)
    allowed[1, 0, 1], allowed[1, 0, 3] = False, False  # and their scores do not count
    generator = seeded(5)
    count = np.zeros(4)
    for _ in range(trials):
        places = sample(
            (2, 1, 4),
            1,
            "weighted",
            scores=scores,
            valid=allowed,
            shared=True,
            generator=generator,
        )
        x = int(places.positions[0, 0, 0])
        count[x] += 1
        assert torch.equal(places.valid[:, 0], ((scores > 0) & allowed)[:, 0, x])
    assert count[3] == 0
    assert chisquare(count[:3], trials * np.array([6, 4, 2]) / 12).pvalue > P_VALUE
