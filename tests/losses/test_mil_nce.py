"""MIL-NCE: limits, bags of several, windows of neighbours."""

import pytest
import torch
from numpy.testing import assert_allclose

import xmodal_losses as xl
import xmodal_losses.functional as F
from harness import with_grad


def _pair(*shape, seed=0):
    generator = torch.Generator().manual_seed(seed)
    return torch.randn(2, *shape, generator=generator, dtype=torch.float64)


def _same(ours, theirs, *pair, **tolerance):
    tolerance = {"rtol": 1e-10, "atol": 1e-12} | tolerance
    results = zip(with_grad(ours, *pair), with_grad(theirs, *pair), strict=True)
    for x, y in results:
        assert_allclose(x, y, **tolerance)


def _places(rows, columns):
    return torch.cartesian_prod(torch.arange(rows), torch.arange(columns))


@pytest.mark.parametrize("negatives", ["group", "all", "cross"])
def test_bags_of_one_are_infonce(negatives):
    ids = torch.arange(15).view(3, 5)
    at = _places(3, 5).view(3, 5, 2)
    for bags in ({}, {"ids": ids}, {"positions": at, "jitter": 0.5}):
        _same(
            lambda a, b, bags=bags: F.mil_nce(a, b, negatives=negatives, **bags),
            lambda a, b: F.info_nce(a, b, negatives=negatives),
            *_pair(3, 5, 4),
        )


def test_one_bag_has_no_negatives():
    ids = torch.zeros(5, dtype=torch.long)
    value, *grads = with_grad(lambda a, b: F.mil_nce(a, b, ids=ids), *_pair(5, 3))
    assert value == 0
    assert all((grad == 0).all() for grad in grads)


def test_several_captions_of_a_clip():
    """Repeating a clip for each of its captions is Eq. 1 of the paper, both ways."""
    clips, _ = _pair(4, 6)
    captions = _pair(12, 6, seed=1)[0]
    ids = torch.arange(4).repeat_interleave(3)
    unit = torch.nn.functional.normalize
    s = unit(clips, dim=1) @ unit(captions, dim=1).T / 0.07
    bag = s.masked_fill(torch.arange(4)[:, None] != ids, -torch.inf)
    clip_to_captions = s.logsumexp(1) - bag.logsumexp(1)
    caption_to_clip = s.logsumexp(0) - bag.logsumexp(0)
    expected = (clip_to_captions.mean() + caption_to_clip.mean()) / 2
    value = F.mil_nce(clips[ids], captions, ids=ids)
    assert_allclose(value, expected, rtol=1e-12)


def test_a_window_is_the_bag_of_its_neighbours():
    """On a line of places each row has its own bag: masks of the whole matrix agree."""
    z_a, z_b = _pair(6, 4)
    at = torch.arange(6.0).unsqueeze(-1)
    near = (at - at.T).abs() <= 1
    unit = torch.nn.functional.normalize

    def dense(a, b):
        s = unit(a, dim=1) @ unit(b, dim=1).T / 0.07
        bags = s.masked_fill(~near, -torch.inf)
        both = (s.logsumexp(k) - bags.logsumexp(k) for k in (0, 1))
        return sum(both).mean() / 2

    _same(lambda a, b: F.mil_nce(a, b, positions=at, jitter=1.0), dense, z_a, z_b)


def test_a_shifted_sensor_is_forgiven():
    """Partners one place off cost InfoNCE a lot, and a window nothing."""
    z = torch.eye(36, dtype=torch.float64)
    shifted = z.view(6, 6, 36).roll(1, 0).view(36, 36)
    at = _places(6, 6)
    inside = (at[:, 0] > 0).double()  # what came around the edge is no neighbour
    options = {"temperature": 0.05, "weight": inside}
    strict = F.info_nce(z, shifted, **options)
    loose = F.mil_nce(z, shifted, positions=at, jitter=1.0, **options)
    assert strict > 15
    assert loose < 4


def test_between_jitter_and_radius_a_row_is_neither():
    z_a, z_b = _pair(6, 4)
    at = torch.arange(6.0).unsqueeze(-1)
    far = (at - at.T).abs()
    for exclude_radius, exclude in ((2.0, None), (None, far == 2)):
        value = F.mil_nce(
            z_a,
            z_b,
            positions=at,
            jitter=1.0,
            exclude_radius=exclude_radius,
            exclude=exclude,
            symmetric=False,
            reduction="none",
        )
        unit = torch.nn.functional.normalize
        s = unit(z_a, dim=1) @ unit(z_b, dim=1).T / 0.07
        bag = s.masked_fill(far > 1, -torch.inf).logsumexp(1)
        counted = s.masked_fill(far == 2, -torch.inf).logsumexp(1)
        assert_allclose(value, counted - bag, rtol=1e-10)


@pytest.mark.parametrize("make", [F.mil_nce, F.soft_info_nce])
def test_jitter_needs_places(make):
    z_a, z_b = _pair(4, 3)
    with pytest.raises(ValueError, match="jitter must be given with positions"):
        make(z_a, z_b, jitter=1.0)
    with pytest.raises(ValueError, match="exclude_radius must be given with positions"):
        make(z_a, z_b, positions=torch.zeros(4, 2))
    with pytest.raises(ValueError, match="jitter must be a finite number >= 0"):
        make(z_a, z_b, positions=torch.zeros(4, 2), jitter=-1.0)
    with pytest.raises(ValueError, match="MILNCELoss: jitter must be a finite number"):
        xl.MILNCELoss(jitter=-1.0)
