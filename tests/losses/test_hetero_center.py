"""Hetero-center: closed forms, which classes count, and what it is not moved by."""

import pytest
import torch
from numpy.testing import assert_allclose

import xmodal_losses as xl
import xmodal_losses.functional as F
from harness import two_samples, with_grad


def test_it_is_the_mean_over_shared_classes():
    z_a = torch.tensor([[0.0, 0.0], [2.0, 0.0], [9.0, 9.0]])
    z_b = torch.tensor([[1.0, 3.0], [5.0, 5.0], [7.0, 7.0]])
    labels_a, labels_b = torch.tensor([4, 4, -7]), torch.tensor([4, 11, -7])
    # (1, 0) to (1, 3), and (9, 9) to (7, 7); nothing is like class 11.
    assert F.hetero_center(z_a, z_b, labels_a, labels_b) == (9.0 + 8.0) / 2
    assert F.hetero_center(z_a, z_b, labels_a, labels_b, margin=8.5) == 0.5 / 2


def test_rows_may_come_in_any_order_and_number():
    z_a, z_b = two_samples((7, 5))
    labels_a = torch.tensor([3, 1, 1, 0, 3, 3, 2])
    labels_b = torch.tensor([1, 2, 3, 1, 5])
    value = F.hetero_center(z_a, z_b, labels_a, labels_b)
    order_a, order_b = torch.randperm(7), torch.randperm(5)
    again = F.hetero_center(
        z_a[order_a], z_b[order_b], labels_a[order_a], labels_b[order_b]
    )
    assert_allclose(again, value, rtol=1e-12)
    # Names of classes do not matter, how large they may be.
    names = torch.tensor([2**60, -(2**60), 17, 0, 1, 5])
    renamed = F.hetero_center(z_a, z_b, names[labels_a], names[labels_b])
    assert_allclose(renamed, value, rtol=1e-12)


def test_no_shared_class_is_zero_with_no_gradient():
    z_a, z_b = two_samples((4, 3))
    labels = torch.arange(7)
    value, *grads = with_grad(
        lambda a, b: F.hetero_center(a, b, labels[:4], labels[4:]), z_a, z_b
    )
    assert value == 0
    assert all((grad == 0).all() for grad in grads)


def test_the_mean_passes_over_problems_without_a_shared_class():
    z_a, z_b = two_samples((4, 4), lead=(3,))
    labels = torch.arange(4).expand(3, 4).clone()
    other = labels.clone()
    other[1] += 10
    rows = F.hetero_center(z_a, z_b, labels, other, reduction="none")
    assert rows[1] == 0
    mean = F.hetero_center(z_a, z_b, labels, other)
    assert_allclose(mean, (rows[0] + rows[2]) / 2, rtol=1e-12)


def test_one_class_is_the_distance_of_the_means():
    """With each row a class of its own, it is that of the rows."""
    z_a, z_b = two_samples((6, 6))
    one = torch.zeros(6, dtype=torch.long)
    gap = (z_a.mean(0) - z_b.mean(0)).square().sum()
    assert_allclose(F.hetero_center(z_a, z_b, one, one), gap, rtol=1e-12)
    each = torch.arange(6)
    gaps = (z_a - z_b).square().sum(-1).mean()
    assert_allclose(F.hetero_center(z_a, z_b, each, each), gaps, rtol=1e-12)


def test_far_from_the_origin_nothing_is_lost():
    z_a, z_b = two_samples((64, 64), dim=8)
    labels = torch.arange(64) % 4
    truth = F.hetero_center(z_a, z_b, labels, labels)
    far = F.hetero_center(z_a.float() + 4096, z_b.float() + 4096, labels, labels)
    exact = F.hetero_center(
        (z_a.float() + 4096).double(), (z_b.float() + 4096).double(), labels, labels
    )
    assert_allclose(exact, truth, rtol=1e-2)  # what rounding the rows does
    assert_allclose(far, exact, rtol=1e-5)


@pytest.mark.parametrize("dtype", [torch.int32, torch.uint8, torch.bool])
def test_labels_of_any_integer_type(dtype):
    z_a, z_b = two_samples((4, 4))
    labels = torch.tensor([0, 1, 1, 0])
    value = F.hetero_center(z_a, z_b, labels, labels)
    assert F.hetero_center(z_a, z_b, labels.to(dtype), labels.to(dtype)) == value


def test_labels_are_asked_for():
    z = torch.zeros(3, 2)
    with pytest.raises(TypeError, match="labels_b must be a tensor of integers"):
        F.hetero_center(z, z, torch.arange(3), None)
    with pytest.raises(TypeError, match="labels_a must be a tensor of integers"):
        xl.HeteroCenterLoss()(z, z, torch.zeros(3), torch.arange(3))
    with pytest.raises(ValueError, match=r"labels_b must be of shape \(3,\)"):
        F.hetero_center(z, z, torch.arange(3), torch.arange(4))
