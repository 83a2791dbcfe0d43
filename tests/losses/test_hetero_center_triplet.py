"""Hetero-center triplet: closed forms, which centres are negatives, and ties."""

import math

import pytest
import torch
from numpy.testing import assert_allclose

import xmodal_losses as xl
import xmodal_losses.functional as F
from benchmarks import plain
from counting import Work
from harness import two_samples, with_grad

EXACT = {"rtol": 1e-12, "atol": 1e-12}


def _points(*points):
    return torch.tensor(points, dtype=torch.float64)


def _labels(*counts):
    generator = torch.Generator().manual_seed(4)
    return [torch.randint(4, (count,), generator=generator) for count in counts]


def test_two_classes():
    """Rows (0, 0), (0, 1) and (4, 0), (4, 3), and a centre of two of them."""
    z_a, z_b = _points([-1, 0], [1, 0], [4, 0]), _points([0, 1], [4, 3])
    labels_a, labels_b = torch.tensor([7, 7, -2]), torch.tensor([7, -2])
    for margin in (0.0, 0.5, 3.0, 10.0):
        # Own distances 1 and 3; each centre's nearest of the other class.
        gaps = [1 - 4, 1 - math.hypot(4, 1), 3 - 4, 3 - math.hypot(4, 2)]
        expected = sum(max(0.0, margin + gap) for gap in gaps) / 4
        value = F.hetero_center_triplet(z_a, z_b, labels_a, labels_b, margin=margin)
        assert_allclose(value, expected, **EXACT)


def test_negatives_are_of_either_modality():
    """The other class is nearer in the other modality, or in the own one."""
    labels = torch.tensor([0, 1])
    for nearest, farther in (((2.0, 0.0), (0.0, 9.0)), ((0.0, 9.0), (2.0, 0.0))):
        z_a, z_b = _points([0, 0], nearest), _points([0, 0], farther)
        value = F.hetero_center_triplet(z_a, z_b, labels, labels, margin=5.0)
        # Class 0 sees what is nearest, 2; both centres of class 1 see class 0.
        apart = math.hypot(2, 9)
        expected = (2 * (5 - 2) + (5 + apart - 2) + max(0.0, 5 + apart - 9)) / 4
        assert_allclose(value, expected, **EXACT)


def test_a_class_of_one_modality_is_no_negative():
    z_a, z_b = two_samples((8, 7))
    labels_a, labels_b = _labels(8, 7)
    expected = with_grad(
        lambda a, b: F.hetero_center_triplet(a, b, labels_a, labels_b, margin=9.0),
        z_a,
        z_b,
    )
    more = torch.cat((z_a, z_b.mean(0, keepdim=True), z_a[:2]))
    more_labels = torch.cat((labels_a, torch.tensor([11, 12, 11])))
    value, grad_a, grad_b = with_grad(
        lambda a, b: F.hetero_center_triplet(a, b, more_labels, labels_b, margin=9.0),
        more,
        z_b,
    )
    assert_allclose(value, expected[0], **EXACT)
    assert_allclose(grad_a[:8], expected[1], **EXACT)
    assert (grad_a[8:] == 0).all()
    assert_allclose(grad_b, expected[2], **EXACT)


@pytest.mark.parametrize("shared", [0, 1])
def test_without_two_shared_classes_it_is_zero_with_no_gradient(shared):
    z_a, z_b = two_samples((4, 3))
    labels_a, labels_b = torch.arange(4), torch.arange(3) + 4 - shared
    value, *grads = with_grad(
        lambda a, b: F.hetero_center_triplet(a, b, labels_a, labels_b), z_a, z_b
    )
    assert value == 0
    assert all((grad == 0).all() for grad in grads)


def test_the_mean_passes_over_problems_without_a_shared_class_only():
    z_a, z_b = two_samples((4, 4), lead=(3,))
    labels = torch.arange(4).expand(3, 4)
    other = labels.clone()
    other[1] += 10
    other[2, 1:] += 10  # one class is shared: a loss of 0, which counts
    rows = F.hetero_center_triplet(z_a, z_b, labels, other, reduction="none")
    assert rows[0] > 0
    assert (rows[1:] == 0).all()
    mean = F.hetero_center_triplet(z_a, z_b, labels, other)
    assert_allclose(mean, rows[0] / 2, **EXACT)


def test_coincident_centres_get_no_gradient():
    """All in one point: the loss is the margin, and does not tell where to go."""
    z = torch.ones(6, 3, dtype=torch.float64)
    labels = torch.arange(6) % 3
    value, *grads = with_grad(
        lambda a, b: F.hetero_center_triplet(a, b, labels, labels), z, z
    )
    assert_allclose(value, 0.3, **EXACT)
    assert all((grad == 0).all() for grad in grads)

    # Partners that coincide are pushed from the others, and not from each other.
    z_a, _ = two_samples((6, 6))
    value, grad_a, grad_b = with_grad(
        lambda a, b: F.hetero_center_triplet(a, b, labels, labels, margin=9.0), z_a, z_a
    )
    assert value > 0
    assert_allclose(grad_a.sum(0) + grad_b.sum(0), 0, atol=1e-12)
    assert grad_a.abs().max() > 0


def test_of_several_nearest_centres_one_counts():
    """All centres of two classes are 2 from those of class 0, on opposite sides."""
    z = _points([0, 0], [2, 0], [-2, 0])
    labels = torch.arange(3)
    value, grad_a, grad_b = with_grad(
        lambda a, b: F.hetero_center_triplet(a, b, labels, labels, margin=3.0), z, z
    )
    assert_allclose(value, 3 - 2, **EXACT)
    # Each of six anchors is pushed by 1/6 from one other, and that one from it.
    pushes = 6 * torch.stack((grad_a, grad_b))
    assert_allclose(pushes, pushes.round(), **EXACT)
    assert_allclose((pushes[:, 1] - pushes[:, 2]).sum(0), [-6, 0], **EXACT)
    assert_allclose(pushes.sum((0, 1)), [0, 0], **EXACT)


def test_on_the_hinge_the_gradient_is_zero():
    z_a, z_b = _points([0, 0], [3, 0]), _points([0, 2], [3, 2])
    labels = torch.tensor([0, 1])
    value, *grads = with_grad(
        lambda a, b: F.hetero_center_triplet(a, b, labels, labels, margin=1.0), z_a, z_b
    )
    assert value == 0  # 1 + 2 − 3
    assert all((grad == 0).all() for grad in grads)


def test_rows_may_come_in_any_order_and_number():
    z_a, z_b = two_samples((9, 7))
    labels_a, labels_b = _labels(9, 7)
    value = F.hetero_center_triplet(z_a, z_b, labels_a, labels_b)
    order_a, order_b = torch.randperm(9), torch.randperm(7)
    names = torch.tensor([2**60, -(2**60), 17, 0])
    again = F.hetero_center_triplet(
        z_a[order_a], z_b[order_b], names[labels_a[order_a]], names[labels_b[order_b]]
    )
    assert value > 0
    assert_allclose(again, value, rtol=1e-12)


def test_many_classes_are_gone_through_in_strips():
    z_a, z_b = two_samples((1100, 1100), dim=2)
    labels = torch.arange(1100)
    ours, theirs = (
        with_grad(lambda a, b, f=f: f(a, b, labels, labels), z_a, z_b)
        for f in (F.hetero_center_triplet, plain.hetero_center_triplet)
    )
    # The distances of torch.cdist are rounded otherwise.
    for one, other in zip(ours, theirs, strict=True):
        assert_allclose(one, other, rtol=1e-7, atol=1e-9)
    with Work() as work:
        F.hetero_center_triplet(z_a, z_b, labels, labels)
    assert work.largest <= 2048**2 < (2 * 1100) ** 2


@pytest.mark.parametrize(
    "loss", [F.hetero_center_triplet, F.cross_modality_contrastive_center]
)
def test_work_is_of_classes_not_of_rows(loss):
    """Of 96 rows of three classes the distances of three centres, or six, are asked."""
    z_a, z_b = torch.randn(2, 96, 5)
    labels = torch.arange(96) % 3
    with Work() as work:
        loss(z_a, z_b, labels, labels)
    assert 0 < work.multiply_adds <= 6 * 6 * 5
    # Where no number can be looked at, there may be a class for each row.
    many = torch.func.vmap(loss)(*(x[None] for x in (z_a, z_b, labels, labels)))
    assert_allclose(many[0], loss(z_a, z_b, labels, labels), rtol=1e-6)


def test_far_from_the_origin_nothing_is_lost():
    z_a, z_b = (z.float() + 4096 for z in two_samples((64, 48), dim=8))
    labels = torch.arange(64) % 4, torch.arange(48) % 4
    far = F.hetero_center_triplet(z_a, z_b, *labels)
    exact = F.hetero_center_triplet(z_a.double(), z_b.double(), *labels)
    assert_allclose(far, exact, rtol=1e-5)


@pytest.mark.peers
def test_it_is_the_batch_hard_triplet_loss_of_the_centres():
    """As pytorch-metric-learning has it, given the centres."""
    distances = pytest.importorskip("pytorch_metric_learning.distances")
    losses = pytest.importorskip("pytorch_metric_learning.losses")
    miners = pytest.importorskip("pytorch_metric_learning.miners")
    reducers = pytest.importorskip("pytorch_metric_learning.reducers")
    z_a, z_b = two_samples((12, 10), dim=5)
    labels_a, labels_b = torch.arange(12) % 4, torch.arange(10) % 4
    centers = [
        z[labels == k].mean(0)
        for z, labels in ((z_a, labels_a), (z_b, labels_b))
        for k in range(4)
    ]
    distance = distances.LpDistance(normalize_embeddings=False)
    theirs = losses.TripletMarginLoss(
        margin=0.6, distance=distance, reducer=reducers.MeanReducer()
    )
    centers, labels = torch.stack(centers), torch.arange(4).repeat(2)
    hardest = miners.BatchHardMiner(distance=distance)(centers, labels)
    ours = F.hetero_center_triplet(z_a, z_b, labels_a, labels_b, margin=0.6)
    assert ours > 0
    assert_allclose(ours, theirs(centers, labels, hardest), rtol=1e-9)


def test_labels_are_asked_for():
    z = torch.zeros(3, 2)
    with pytest.raises(TypeError, match="labels_a must be a tensor of integers"):
        F.hetero_center_triplet(z, z, None, torch.arange(3))
    with pytest.raises(TypeError, match="labels_b must be a tensor of integers"):
        F.hetero_center_triplet(z, z, torch.arange(3), None)
    with pytest.raises(ValueError, match=r"labels_b must be of shape \(3,\)"):
        xl.HeteroCenterTripletLoss()(z, z, torch.arange(3), torch.arange(4))
