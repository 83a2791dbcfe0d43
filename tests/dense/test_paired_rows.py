"""Rows of two maps: partners, warps, masks, jitter."""

import numpy as np
import pytest
import torch
import torch.nn.functional as nnf
from hypothesis import given
from hypothesis import strategies as st
from numpy.testing import assert_allclose
from scipy.stats import kstest

import xmodal_losses.functional as F
from dense_maps import METHODS, maps, read, sample, seeded
from xmodal_losses import dense

# ------------------------------------------------------------------ partners


@pytest.mark.parametrize("method", METHODS)
def test_registered_maps_are_read_at_the_same_pixels(method):
    map_a, map_b = maps(channels=(3, 5))
    rows = sample(map_a, map_b, 9, method)
    assert rows.z_a.shape == (2, 9, 3)
    assert rows.z_b.shape == (2, 9, 5)
    assert torch.equal(rows.positions, rows.positions_b)
    assert (rows.weight == 1).all()
    at = (
        torch.arange(2)[:, None],
        slice(None),
        *rows.positions.long().flip(-1).unbind(-1),
    )
    assert torch.equal(rows.z_a, map_a[at])
    assert torch.equal(rows.z_b, map_b[at])
    places = dense.sample_positions(
        map_a,
        9,
        method=method,
        generator=seeded(),
        scores=torch.rand(2, 6, 8, generator=seeded(3)) + 0.01
        if method == "weighted"
        else None,
    )
    assert torch.equal(places.positions, rows.positions)


@pytest.mark.parametrize("size_b", [(3, 4), (12, 16), (2, 16), (5, 7), (1, 1)])
def test_maps_of_other_strides_meet_edge_to_edge(size_b):
    map_a, map_b = maps(size_b=size_b)
    rows = sample(map_a, map_b, 48)
    assert (rows.weight == 1).all()
    for p, q in zip(
        rows.positions.flatten(0, 1).tolist(),
        rows.positions_b.flatten(0, 1).tolist(),
        strict=True,
    ):
        for k in (0, 1):
            # The middle of a pixel, as a part of the map, is the same in both.
            n_a, n_b = (8, 6)[k], size_b[1 - k]
            here = (p[k] + 0.5) / n_a * n_b - 0.5
            assert_allclose(q[k], min(max(here, 0), n_b - 1), atol=1e-12)
    assert_allclose(rows.z_b, read(map_b, rows.positions_b), rtol=1e-12)
    if size_b == (3, 4):  # a pixel of b is the mean of four of a
        pooled = nnf.avg_pool2d(map_a, 2)
        back = nnf.interpolate(pooled, size=(6, 8), mode="bilinear")
        again = sample(map_a, pooled, 48)
        x, y = again.positions.long().unbind(-1)
        assert_allclose(again.z_b, back[torch.arange(2)[:, None], :, y, x], rtol=1e-10)


def test_offsets_of_the_crops():
    """Crops of one scene at different places, and only what both show counts."""
    scene = maps((9, 11), channels=(4, 1))[0]
    cuts = torch.tensor([[1, 2], [3, 0]])  # (x, y) of the crop of b; a is at (2, 1)
    map_a = scene[:, :, 1:7, 2:10]
    map_b = torch.stack(
        [m[:, y : y + 6, x : x + 8] for m, (x, y) in zip(scene, cuts, strict=True)]
    )
    offset = torch.tensor([2, 1]) - cuts
    rows = sample(map_a, map_b, 48, offset=offset)
    # 7 × 5 pixels of 8 × 6 are in both.
    assert rows.weight.sum(1).tolist() == [35, 35]
    kept = rows.weight > 0
    assert torch.equal(rows.z_a[kept], rows.z_b[kept])
    expected = (rows.positions + offset[:, None])[kept]
    assert torch.equal(rows.positions_b[kept], expected)
    assert (rows.z_b[~kept] == 0).all()


def test_fractions_of_a_pixel():
    map_a, map_b = maps()
    offset = torch.tensor([[0.25, -0.4], [-0.6, 3.5]], dtype=torch.float64)
    rows = sample(map_a, map_b, 48, offset=offset)
    kept = rows.weight > 0
    # A pixel goes on for half a pixel: −0.6 costs a column, 3.5 costs three rows.
    assert kept.sum(1).tolist() == [48, 7 * 3]
    reference = read(map_b, rows.positions + offset[:, None])
    assert_allclose(rows.z_b[kept], reference[kept.numpy()], rtol=1e-12)


def affine(parameters, positions):
    return positions @ parameters[:, :2].T + parameters[:, 2]


PARAMETERS = torch.tensor([[0.8, 0.1, 0.5], [-0.1, 0.9, 0.3]], dtype=torch.float64)


def test_warps():
    map_a, map_b = maps(size_b=(7, 9))
    asked = []

    def warp(positions):
        asked.append(positions.shape)
        return affine(PARAMETERS, positions)

    rows = sample(map_a, map_b, 20, warp=warp, offset=torch.tensor([[1.0, 0], [0, 1]]))
    assert asked == [(2, 48, 2)]
    expected = affine(PARAMETERS, rows.positions)
    expected[0, :, 0] += 1
    expected[1, :, 1] += 1
    assert (rows.weight == 1).all()
    assert_allclose(rows.positions_b, expected.clamp_min(0), rtol=1e-12, atol=1e-14)
    assert_allclose(rows.z_b, read(map_b, expected), rtol=1e-12)


@pytest.mark.parametrize("jitter", [0.0, 0.7])
def test_gradients_go_through_warps(jitter):
    map_a, map_b = maps((4, 5), (6, 7), grad=True)

    def loss(map_a, map_b, parameters):
        rows = sample(
            map_a, map_b, 6, warp=lambda p: affine(parameters, p), jitter=jitter
        )
        return rows.z_a, rows.z_b, rows.positions_b

    # Clear of whole numbers, where slopes jump.
    parameters = (1.0137 * PARAMETERS).requires_grad_()
    assert torch.autograd.gradcheck(loss, (map_a, map_b, parameters))


def test_a_warp_that_begins_as_the_identity_is_moved():
    map_a, map_b = maps()
    shift = torch.zeros(2, dtype=torch.float64, requires_grad=True)
    rows = sample(map_a, map_b, 48, warp=lambda p: p + shift)
    (rows.z_a - rows.z_b).square().sum().backward()
    assert (shift.grad.abs() > 0.1).all()


def test_learned_warps_beside_what_is_masked():
    """The slope at a whole number is made of the next pixel, which may hold NaN."""
    map_a, map_b = maps()
    valid_b = torch.ones(2, 6, 8, dtype=torch.bool)
    valid_b[:, 2:4, 3:5] = False
    map_b = map_b.masked_fill(~valid_b[:, None], torch.nan)
    shift = torch.zeros(2, dtype=torch.float64, requires_grad=True)
    rows = sample(map_a, map_b, 48, warp=lambda p: p + shift, valid_b=valid_b)
    assert rows.weight.sum(1).tolist() == [48 - 9] * 2
    assert rows.z_b.isfinite().all()
    rows.z_b.square().sum().backward()
    assert shift.grad.isfinite().all()
    known = sample(map_a, map_b, 48, warp=lambda p: p + 0, valid_b=valid_b)
    assert known.weight.sum(1).tolist() == [48 - 4] * 2


def test_warps_to_nowhere():
    map_a, map_b = maps(grad=True)
    scale = torch.ones((), dtype=torch.float64, requires_grad=True)

    def warp(positions):
        gone = torch.tensor([torch.nan, torch.inf, -torch.inf, 1e30])
        out = scale * positions
        return torch.cat((out[:, :-4], out[:, -4:] + gone[:, None]), 1)

    rows = sample(map_a, map_b, 48, warp=warp)
    assert rows.weight.sum(1).tolist() == [44, 44]
    assert all(field.isfinite().all() for field in rows)
    rows.z_b.sum().backward()
    assert scale.grad.isfinite()
    assert map_b.grad.isfinite().all()


# ------------------------------------------------------------------ masks


@given(
    size_b=st.sampled_from([(6, 8), (3, 4), (9, 5)]),
    method=st.sampled_from(METHODS),
    jitter=st.sampled_from([0.0, 0.6, 2.0]),
    fraction=st.sampled_from([0.0, 0.3]),
    shared=st.booleans(),
    seed=st.integers(0, 1000),
)
def test_what_is_masked_is_never_read(size_b, method, jitter, fraction, shared, seed):
    inputs = maps(size_b=size_b)
    masks = [
        torch.rand(2, *m.shape[-2:], generator=seeded(seed + k)) < 0.7
        for k, m in enumerate(inputs)
    ]
    inputs = [
        m.masked_fill(~mask[:, None], torch.nan).requires_grad_()
        for m, mask in zip(inputs, masks, strict=True)
    ]
    rows = sample(
        *inputs,
        20,
        method,
        valid_a=masks[0],
        valid_b=masks[1],
        jitter=jitter,
        offset=torch.full((2, 2), fraction),
        shared=shared,
        generator=seeded(seed),
    )
    assert all(field.isfinite().all() for field in rows)
    assert ((rows.weight == 0) | (rows.weight == 1)).all()
    absent = rows.weight == 0
    assert (rows.z_a[absent] == 0).all()
    assert (rows.z_b[absent] == 0).all()
    kept = ~absent.numpy()
    for m, z, at in (
        (inputs[0], rows.z_a, rows.positions),
        (inputs[1], rows.z_b, rows.positions_b),
    ):
        assert_allclose(z.detach()[kept], read(m, at)[kept], rtol=1e-10, atol=1e-12)
    (rows.z_a.square().sum() + rows.z_b.square().sum()).backward()
    for m, mask in zip(inputs, masks, strict=True):
        assert m.grad.isfinite().all()
        assert (m.grad.masked_fill(mask[:, None], 0) == 0).all()


def test_places_are_chosen_where_both_see():
    """A mask of either modality costs no row while there are enough places."""
    map_a, map_b = maps(size_b=(12, 16))
    valid_a = torch.ones(2, 6, 8, dtype=torch.bool)
    valid_a[:, :3] = False
    valid_b = torch.ones(2, 12, 16, dtype=torch.bool)
    valid_b[:, :, :8] = False
    rows = sample(map_a, map_b, 12, valid_a=valid_a, valid_b=valid_b)
    assert (rows.weight == 1).all()
    assert (rows.positions >= torch.tensor([4, 3])).all()


@pytest.mark.parametrize("method", METHODS)
def test_nothing_in_common(method):
    inputs = maps(grad=True)
    rows = sample(*inputs, 5, method, offset=torch.full((2, 2), 100.0), jitter=1.0)
    assert (rows.weight == 0).all()
    assert all(field.isfinite().all() for field in rows)
    loss = F.info_nce(rows.z_a, rows.z_b, weight=rows.weight)
    loss.backward()
    assert loss == 0
    assert all((m.grad == 0).all() for m in inputs)


def test_one_pixel_and_more_places_than_pixels():
    inputs = maps((1, 1), (1, 1), grad=True)
    rows = sample(*inputs, 4, jitter=2.0)
    assert rows.weight.tolist() == [[1, 0, 0, 0]] * 2
    assert torch.equal(rows.z_b[:, 0], inputs[1][:, :, 0, 0])
    rows.z_b.sum().backward()
    assert (inputs[1].grad == 1).all()


# ------------------------------------------------------------------ jitter


def test_jitter_is_even_and_stays_inside():
    map_a, map_b = maps((40, 50), (40, 50), channels=(1, 1))
    rows = sample(map_a, map_b, 2000, jitter=1.5)
    at, partner = rows.positions, rows.positions_b
    end = torch.tensor([49, 39])
    assert ((partner >= 0) & (partner <= end)).all()
    low, high = (at - 1.5).clamp_min(0), torch.minimum(at + 1.5, end)
    share = ((partner - low) / (high - low)).flatten(0, 1).numpy()
    for k in (0, 1):
        assert kstest(share[:, k], "uniform").pvalue > 1e-4
    assert abs(np.corrcoef(share.T)[0, 1]) < 0.1
    assert_allclose(rows.z_b, read(map_b, partner), rtol=1e-10, atol=1e-12)
    # Places in a are those without jitter.
    assert torch.equal(at, sample(map_a, map_b, 2000).positions)
    assert (rows.weight == 1).all()


def test_jitter_on_to_an_invalid_pixel_drops_the_row():
    map_a, map_b = maps((20, 20), (20, 20))
    valid_b = torch.ones(2, 20, 20, dtype=torch.bool)
    valid_b[:, :, 10:] = False
    rows = sample(map_a, map_b, 200, valid_b=valid_b, jitter=2.0)
    assert (rows.positions[..., 0] <= 9).all()
    assert torch.equal(rows.weight == 1, rows.positions_b[..., 0] <= 9)
    assert 0.5 < rows.weight.mean() < 1
