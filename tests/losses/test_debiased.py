"""Debiased contrast with hard negatives: limits, bounds, and the code of its papers."""

import math

import pytest
import torch
from numpy.testing import assert_allclose

import xmodal_losses.functional as F
from harness import with_grad
from xmodal_losses.contrastive import debiased


def _pair(rows=5, dim=4, seed=0):
    generator = torch.Generator().manual_seed(seed)
    return torch.randn(2, rows, dim, generator=generator, dtype=torch.float64)


def _same(ours, theirs, z_a, z_b):
    for x, y in zip(
        with_grad(ours, z_a, z_b), with_grad(theirs, z_a, z_b), strict=True
    ):
        assert_allclose(x, y, rtol=1e-10, atol=1e-12)


@pytest.mark.parametrize(
    ("intra_modal", "limit"), [(True, F.nt_xent), (False, F.info_nce)]
)
def test_without_false_or_hard_negatives(intra_modal, limit):
    def ours(a, b):
        return F.debiased(a, b, false_negatives=0.0, intra_modal=intra_modal)

    _same(ours, limit, *_pair())


def test_little_hardness_is_none():
    z_a, z_b = _pair()
    some = F.debiased(z_a, z_b, hardness=1e-9)
    assert_allclose(some, F.debiased(z_a, z_b), rtol=1e-7)


@pytest.mark.parametrize("hardness", [0.0, 1.0])
@pytest.mark.parametrize("share", [0.0, 0.3])
def test_equal_rows_are_a_uniform_guess(share, hardness):
    """U = M e^p, and what is subtracted in the numerator is in the denominator."""
    z = torch.ones(4, 3, dtype=torch.float64)
    value = F.debiased(z, z, false_negatives=share, hardness=hardness)
    assert_allclose(value, math.log(7), rtol=1e-9)


def test_much_hardness_sees_the_hardest_negative():
    z_a, z_b = _pair(4)
    u = torch.nn.functional.normalize(torch.cat((z_a, z_b)), dim=1)
    s = u @ u.T / 0.5
    partner = torch.cat((s.diagonal(4), s.diagonal(-4)))
    pair = torch.eye(4, dtype=torch.bool).repeat(2, 2)
    hardest = s.masked_fill(pair, -torch.inf).amax(1)
    expected = torch.log1p(6 * (hardest - partner).exp()).mean()
    value = F.debiased(z_a, z_b, temperature=0.5, false_negatives=0.0, hardness=1000.0)
    assert_allclose(value, expected, rtol=1e-9)


def test_at_the_bound_negatives_get_no_gradient():
    """Partners coincide, negatives are orthogonal: less than nothing is left."""
    z = torch.eye(4, dtype=torch.float64)
    options = {"temperature": 0.5, "false_negatives": 0.5, "normalize": False}
    value, grad, _ = with_grad(lambda a, b: F.debiased(a, b, **options), z, z)
    least = 6 * math.exp(-1 / 0.5)
    assert_allclose(value, math.log1p(least / math.exp(2)), rtol=1e-12)
    off = grad[~torch.eye(4, dtype=torch.bool)]
    assert (off == 0).all()
    assert (grad.diagonal() < 0).all()


def test_one_pair_has_no_negatives():
    value, *grads = with_grad(lambda a, b: F.debiased(a, b, hardness=1.0), *_pair(1))
    assert value == 0
    assert all((grad == 0).all() for grad in grads)


def test_a_learned_temperature_gets_its_gradient():
    """Also through the bound, e^(−1/τ)."""
    z_a, z_b = _pair(3)
    for z in (z_a, z_b), (z_a, z_a):
        tau = torch.tensor(0.4, dtype=torch.float64, requires_grad=True)
        assert torch.autograd.gradcheck(
            lambda t, z=z: F.debiased(
                *z, temperature=t, false_negatives=0.4, hardness=0.5
            ),
            (tau,),
        )


@pytest.mark.parametrize("hardness", [0.0, 0.7])
def test_saturated_pairs_keep_value_and_gradient(hardness):
    """In float32, where exponentials of the logits have long overflown."""
    z_a, z_b = _pair(6)

    def loss(a, b):
        return F.debiased(
            a, b, temperature=0.005, hardness=hardness, false_negatives=0.01
        )

    exact, *true_grads = with_grad(loss, z_a, z_b)
    value, *grads = with_grad(loss, z_a.float(), z_b.float())
    assert_allclose(value, exact, rtol=1e-4)
    for grad, true in zip(grads, true_grads, strict=True):
        assert_allclose(grad, true, atol=2e-3 * true.abs().max())


def test_negatives_that_are_all_positives_leave_nothing():
    """Where as much is taken away as there is: no logarithm, and no gradient."""
    positives = torch.tensor([1.0, 2.0], dtype=torch.float64)
    negatives = (positives + math.log(0.5)).requires_grad_()
    rest = debiased._without(negatives, positives, 0.5)
    assert (rest == -torch.inf).all()
    rest.exp().sum().backward()
    assert (negatives.grad == 0).all()
