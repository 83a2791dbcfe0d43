"""Cross-modality contrastive-center: closed forms, and which classes count."""

import math

import pytest
import torch
from numpy.testing import assert_allclose

import xmodal_losses as xl
import xmodal_losses.functional as F
from benchmarks import plain
from harness import two_samples, with_grad

EXACT = {"rtol": 1e-12, "atol": 1e-12}
loss = F.cross_modality_contrastive_center


def _points(*points):
    return torch.tensor(points, dtype=torch.float64)


def _softplus(x):
    return math.log1p(math.exp(x))


def test_three_classes():
    """Middles (0, 0), (3, 0), (3, 4); modalities are 2, 0 and 4 apart."""
    z_a = _points([-1, -1], [-1, 1], [3, 0], [3, 6])
    z_b = _points([1, 0], [3, 0], [3, 2], [9, 9])
    labels_a, labels_b = torch.tensor([5, 5, 8, 9]), torch.tensor([5, 8, 9, 77])
    expected = (_softplus(2 - 3) + _softplus(0 - 3) + _softplus(4 - 4)) / 3
    assert_allclose(loss(z_a, z_b, labels_a, labels_b), expected, **EXACT)


def test_a_class_of_one_modality_counts_for_nothing():
    z_a, z_b = two_samples((6, 6))
    labels = torch.arange(6) % 3
    expected = with_grad(lambda a, b: loss(a, b, labels, labels), z_a, z_b)
    more, more_labels = torch.cat((z_b, z_a[:2])), torch.cat((labels, labels[:2] + 40))
    value, grad_a, grad_b = with_grad(
        lambda a, b: loss(a, b, labels, more_labels), z_a, more
    )
    assert_allclose(value, expected[0], **EXACT)
    assert_allclose(grad_a, expected[1], **EXACT)
    assert_allclose(grad_b[:6], expected[2], **EXACT)
    assert (grad_b[6:] == 0).all()


@pytest.mark.parametrize("shared", [0, 1])
def test_without_two_shared_classes_it_is_zero_with_no_gradient(shared):
    """The nearest of no classes is infinitely far."""
    z_a, z_b = two_samples((4, 3))
    labels_a, labels_b = torch.arange(4), torch.arange(3) + 4 - shared
    value, *grads = with_grad(lambda a, b: loss(a, b, labels_a, labels_b), z_a, z_b)
    assert value == 0
    assert all((grad == 0).all() for grad in grads)


def test_one_shared_class_counts_in_the_mean_over_problems():
    z_a, z_b = two_samples((4, 4), lead=(3,))
    labels = torch.arange(4).expand(3, 4)
    other = labels.clone()
    other[1] += 10
    other[2, 1:] += 10
    rows = loss(z_a, z_b, labels, other, reduction="none")
    assert rows[0] > 0
    assert (rows[1:] == 0).all()
    assert_allclose(loss(z_a, z_b, labels, other), rows[0] / 2, **EXACT)


def test_coincident_centres_get_no_gradient():
    z = torch.ones(6, 3, dtype=torch.float64)
    labels = torch.arange(6) % 3
    value, *grads = with_grad(lambda a, b: loss(a, b, labels, labels), z, z)
    assert_allclose(value, math.log(2), **EXACT)
    assert all((grad == 0).all() for grad in grads)


def test_of_several_nearest_classes_one_counts():
    """Class 0 is 2 from either of the others, which are 4 apart."""
    z = _points([0, 0], [2, 0], [-2, 0])
    labels = torch.arange(3)
    value, grad_a, grad_b = with_grad(lambda a, b: loss(a, b, labels, labels), z, z)
    assert_allclose(value, _softplus(-2), **EXACT)
    assert_allclose(grad_a, grad_b, **EXACT)
    # Each is pushed from its nearest; class 0 by two others and from one of them.
    push = 1 / (1 + math.exp(2)) / 3 / 2
    assert_allclose(grad_a[0].abs(), [push, 0], **EXACT)
    assert_allclose(sorted(grad_a[1:, 0].abs().tolist()), [push, 2 * push], **EXACT)


def test_a_large_gap_neither_overflows_nor_vanishes():
    labels = torch.tensor([0, 1])
    for apart, between in ((1e4, 1.0), (1.0, 40.0), (1.0, 80.0)):
        z_a = torch.tensor([[0.0, 0.0], [between, 0.0]])
        z_b = z_a + torch.tensor([0.0, apart])
        value, *grads = with_grad(lambda a, b: loss(a, b, labels, labels), z_a, z_b)
        gap = apart - between
        expected = gap if gap > 100 else math.log1p(math.exp(gap))
        assert value > 0
        assert_allclose(value, expected, rtol=1e-5)
        assert all(0 < grad.abs().max() < 2 for grad in grads)


def test_it_is_the_plain_formula_for_many_classes():
    """In strips: more classes than one strip has."""
    z_a, z_b = two_samples((2100, 2100), dim=2)
    labels = torch.arange(2100)
    ours, theirs = (
        with_grad(lambda a, b, f=f: f(a, b, labels, labels), z_a, z_b)
        for f in (loss, plain.cross_modality_contrastive_center)
    )
    # The distances of torch.cdist are rounded otherwise.
    for one, other in zip(ours, theirs, strict=True):
        assert_allclose(one, other, rtol=1e-7, atol=1e-9)


def test_labels_are_asked_for():
    z = torch.zeros(3, 2)
    with pytest.raises(TypeError, match="labels_b must be a tensor of integers"):
        loss(z, z, torch.arange(3), None)
    with pytest.raises(ValueError, match=r"labels_b must be of shape \(3,\)"):
        xl.CrossModalityContrastiveCenterLoss()(z, z, torch.arange(3), torch.arange(4))
