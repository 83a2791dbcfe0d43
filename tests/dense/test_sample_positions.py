"""Which places are chosen by any method: their number, spacing, masks and seeds."""

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from numpy.testing import assert_allclose

from sampled_places import METHODS, distances, mask, pixels, sample, seeded
from xmodal_losses import dense

# ------------------------------------------------------------------ of every method


@given(
    method=st.sampled_from(METHODS),
    size=st.tuples(st.integers(1, 3), st.integers(1, 9), st.integers(1, 9)),
    num=st.integers(1, 30),
    share=st.sampled_from([0.0, 0.2, 0.7, 1.0]),
    min_distance=st.sampled_from([0.0, 1.0, 2.0, 2.5, 4.0]),
    shared=st.booleans(),
    seed=st.integers(0, 1000),
)
def test_what_is_valid_is_allowed_distinct_and_far_enough(
    method, size, num, share, min_distance, shared, seed
):
    valid = mask(size, share, seed)
    scores = mask(size, 0.8, seed + 1).double() if method == "weighted" else None
    places = sample(
        size,
        num,
        method,
        valid=valid,
        scores=scores,
        min_distance=min_distance,
        shared=shared,
        generator=seeded(seed),
    )
    assert places.positions.shape == (size[0], num, 2)
    assert places.positions.dtype == torch.float32
    assert places.valid.shape == (size[0], num)
    assert places.valid.dtype == torch.bool
    chosen = pixels(places, size[2])
    assert ((chosen >= 0) & (chosen < size[1] * size[2])).all()
    allowed = valid if scores is None else valid & (scores > 0)
    for b in range(size[0]):
        kept = chosen[b][places.valid[b]]
        assert len(set(kept.tolist())) == len(kept)
        assert allowed[b].flatten()[kept].all()
        for gap in distances(places.positions[b], places.valid[b]):
            assert gap >= min_distance
    if shared:
        assert (chosen == chosen[:1]).all()


@pytest.mark.parametrize("shared", [False, True])
@pytest.mark.parametrize("min_distance", [0.0, 2.0])
@pytest.mark.parametrize("method", METHODS)
def test_no_valid_place(method, min_distance, shared):
    size = (2, 4, 5)
    options = {"min_distance": min_distance, "shared": shared}
    nowhere = torch.zeros(size, dtype=torch.bool)
    places = sample(size, 6, method, valid=nowhere, **options)
    assert not places.valid.any()
    assert places.positions.isfinite().all()
    # One map without a place does not take those of the other.
    nowhere[0, 1, 2] = True
    places = sample(size, 40, method, valid=nowhere, **options)
    assert places.valid.sum(1).tolist() == [1, 0]


@pytest.mark.parametrize("min_distance", [0.0, 3.0])
@pytest.mark.parametrize("method", METHODS)
def test_one_pixel(method, min_distance):
    places = sample((3, 1, 1), 4, method, min_distance=min_distance)
    assert (places.positions == 0).all()
    assert places.valid.sum(1).tolist() == [1, 1, 1]


@pytest.mark.parametrize("num", [35, 36, 100])
@pytest.mark.parametrize("method", METHODS)
def test_all_pixels_and_more_than_there_are(method, num):
    places = sample((2, 5, 7), num, method)
    assert places.valid.sum(1).tolist() == [35, 35]
    for chosen, valid in zip(pixels(places, 7), places.valid, strict=True):
        assert sorted(chosen[valid].tolist()) == list(range(35))


@pytest.mark.parametrize("method", ["random", "weighted"])
def test_as_many_as_are_allowed(method):
    allowed = mask((4, 6, 6), 0.3)
    places = sample((4, 6, 6), 20, method, valid=allowed)
    count = allowed.sum((1, 2)).clamp(max=20)
    assert torch.equal(places.valid.sum(1), count)
    # What counts comes first.
    assert torch.equal(places.valid, torch.arange(20) < count[:, None])


# ------------------------------------------------------------------ generators


@pytest.mark.parametrize("min_distance", [0.0, 2.0])
@pytest.mark.parametrize("method", METHODS[1:])
def test_a_seed_tells_the_places(method, min_distance):
    options = {"min_distance": min_distance}
    before = torch.get_rng_state()
    first = sample((2, 9, 9), 8, method, generator=seeded(1), **options)
    again = sample((2, 9, 9), 8, method, generator=seeded(1), **options)
    other = sample((2, 9, 9), 8, method, generator=seeded(2), **options)
    assert torch.equal(torch.get_rng_state(), before)
    assert torch.equal(first.positions, again.positions)
    assert torch.equal(first.valid, again.valid)
    assert not torch.equal(first.positions, other.positions)
    assert not torch.equal(first.positions[0], first.positions[1])


@pytest.mark.parametrize("method", METHODS[1:])
def test_without_a_generator_the_default_one_is_drawn_from(method):
    torch.manual_seed(7)
    first = sample((2, 9, 9), 8, method, generator=None)
    other = sample((2, 9, 9), 8, method, generator=None)
    again = sample((2, 9, 9), 8, method, generator=torch.Generator().manual_seed(7))
    assert torch.equal(first.positions, again.positions)
    assert not torch.equal(first.positions, other.positions)


@pytest.mark.cuda
@pytest.mark.parametrize("method", METHODS)
def test_a_generator_of_the_cpu_serves_every_device(method):
    like = torch.zeros(2, 3, 16, 16)
    scores = torch.rand(2, 16, 16) if method == "weighted" else None
    for device in ("cpu", "cuda"):
        places = dense.sample_positions(
            like.to(device),
            32,
            method=method,
            scores=None if scores is None else scores.to(device),
            min_distance=2.0,
            generator=seeded(),
        )
        assert places.positions.device.type == device
        if device == "cpu":
            expected = places
    assert torch.equal(places.positions.cpu(), expected.positions)
    assert torch.equal(places.valid.cpu(), expected.valid)


@pytest.mark.parametrize(
    "like",
    [
        torch.zeros(2, 6, 7),
        torch.zeros(2, 3, 6, 7, dtype=torch.float16),
        torch.zeros(2, 1, 1, 6, 7, dtype=torch.uint8),
        torch.zeros(2, 6, 7, dtype=torch.float64),
    ],
    ids=lambda like: f"{like.dtype}{like.ndim}",
)
def test_of_the_map_only_size_and_dtype_are_read(like):
    places = dense.sample_positions(like, 5, generator=seeded())
    assert_allclose(places.positions, sample((2, 6, 7), 5).positions)
    wide = torch.float64 if like.dtype == torch.float64 else torch.float32
    assert places.positions.dtype == wide


# ------------------------------------------------------------------ errors

SCORES = torch.ones(2, 4, 5)


@pytest.mark.parametrize(
    ("argument", "options", "exception"),
    [
        ("like", {"like": [[1.0]]}, TypeError),
        ("like", {"like": torch.zeros(2, 4, 5, dtype=torch.complex64)}, TypeError),
        ("like", {"like": torch.zeros(4, 5)}, ValueError),
        ("like", {"like": torch.zeros(0, 3, 4, 5)}, ValueError),
        ("like", {"like": torch.zeros(2, 3, 4, 0)}, ValueError),
        ("num", {"num": 0}, ValueError),
        ("num", {"num": 2.0}, TypeError),
        ("num", {"num": True}, TypeError),
        ("num", {"num": (2, 2)}, TypeError),
        ("num", {"num": (2, 2, 2), "method": "grid"}, TypeError),
        (r"num\[0\]", {"num": (0, 2), "method": "grid"}, ValueError),
        (r"num\[1\]", {"num": (2, 1.0), "method": "stratified"}, TypeError),
        ("method", {"method": "dense"}, ValueError),
        ("method", {"method": None}, ValueError),
        ("scores", {"method": "weighted"}, ValueError),
        ("scores", {"scores": SCORES}, ValueError),
        ("scores", {"method": "weighted", "scores": [1.0]}, TypeError),
        ("scores", {"method": "weighted", "scores": SCORES + 0j}, TypeError),
        ("scores", {"method": "weighted", "scores": SCORES[:1]}, ValueError),
        ("valid", {"valid": SCORES}, TypeError),
        ("valid", {"valid": np.ones((2, 4, 5), dtype=bool)}, TypeError),
        ("valid", {"valid": SCORES[:, :3].bool()}, ValueError),
        ("min_distance", {"min_distance": -1.0}, ValueError),
        ("min_distance", {"min_distance": float("inf")}, ValueError),
        ("min_distance", {"min_distance": "3"}, TypeError),
        ("shared", {"shared": 1}, TypeError),
        ("generator", {"generator": 0}, TypeError),
    ],
)
def test_bad_input_is_refused(argument, options, exception):
    given = {"like": torch.zeros(2, 3, 4, 5), "num": 4} | options
    message = rf"^sample_positions: {argument} must be .+, got .+"
    with pytest.raises(exception, match=message):
        dense.sample_positions(given.pop("like"), given.pop("num"), **given)
