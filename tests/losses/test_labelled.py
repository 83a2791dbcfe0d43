"""SupCon and SINCERE: their limits, what a class may be, and who else computes them."""

import pytest
import torch
from numpy.testing import assert_allclose

import xmodal_losses.functional as F
from harness import two_samples, with_grad

LOSSES = [
    pytest.param(F.sup_con, {}, id="out"),
    pytest.param(F.sup_con, {"variant": "in"}, id="in"),
    pytest.param(F.sincere, {}, id="sincere"),
]


def _labels(*counts):
    generator = torch.Generator().manual_seed(3)
    return [torch.randint(3, (count,), generator=generator) for count in counts]


@pytest.mark.parametrize("temperature", [0.05, 0.5])
@pytest.mark.parametrize(("loss", "options"), LOSSES)
def test_a_class_for_each_pair_is_nt_xent(loss, options, temperature):
    z_a, z_b = two_samples((6, 6))
    each = torch.arange(6)
    options = options | {"temperature": temperature}
    ours = with_grad(lambda a, b: loss(a, b, each, each, **options), z_a, z_b)
    theirs = with_grad(lambda a, b: F.nt_xent(a, b, temperature=temperature), z_a, z_b)
    for one, other in zip(ours, theirs, strict=True):
        assert_allclose(one, other, rtol=1e-9, atol=1e-12)


@pytest.mark.parametrize(("loss", "options"), LOSSES)
def test_a_class_for_each_pair_is_infonce_across_modalities(loss, options):
    z_a, z_b = two_samples((6, 6))
    each = torch.arange(6)
    options = options | {"intra_modal": False}
    ours = with_grad(lambda a, b: loss(a, b, each, each, **options), z_a, z_b)
    theirs = with_grad(F.info_nce, z_a, z_b)
    for one, other in zip(ours, theirs, strict=True):
        assert_allclose(one, other, rtol=1e-9, atol=1e-12)


def test_across_modalities_inside_is_mil_nce():
    """But for the count of positives, which is the same for all rows here."""
    z_a, z_b = two_samples((6, 6))
    bags = torch.arange(6) // 2
    options = {"variant": "in", "intra_modal": False}
    value = F.sup_con(z_a, z_b, bags, bags, **options)
    gap = torch.log(torch.tensor(2.0, dtype=torch.float64))
    assert_allclose(value - gap, F.mil_nce(z_a, z_b, ids=bags), rtol=1e-9)


@pytest.mark.parametrize(("loss", "options"), LOSSES)
def test_across_modalities_a_class_of_one_modality_has_no_loss(loss, options):
    z_a, z_b = two_samples((4, 3))
    labels_a, labels_b = torch.tensor([0, 0, 1, 1]), torch.tensor([1, 2, 2])
    rows = loss(
        z_a,
        z_b,
        labels_a,
        labels_b,
        intra_modal=False,
        reduction="none",
        **options,
    )
    assert (rows[[0, 1, 5, 6]] == 0).all()
    assert (rows[[2, 3, 4]] > 0).all()


def test_inside_is_at_most_outside():
    z_a, z_b = two_samples((8, 7))
    labels = _labels(8, 7)
    rows = [
        F.sup_con(z_a, z_b, *labels, variant=variant, reduction="none")
        for variant in ("in", "out")
    ]
    assert (rows[0] <= rows[1] + 1e-12).all()
    assert (rows[0] < rows[1] - 1e-3).any()


def test_sincere_is_at_most_supcon():
    """Its denominator has fewer terms."""
    z_a, z_b = two_samples((8, 7))
    labels = _labels(8, 7)
    assert F.sincere(z_a, z_b, *labels) < F.sup_con(z_a, z_b, *labels)


def test_a_margin_is_a_shift_of_the_positive():
    """For one pair and one negative, in closed form."""
    z = torch.eye(3, dtype=torch.float64)
    labels = torch.tensor([0, 0, 1])
    # Nothing is like anything: every logit is 0.
    for margin in (0.0, 0.25, 2.0):
        value = F.sincere(z[:2], z[2:], labels[:2], labels[2:], margin=margin)
        share = 1 + torch.tensor(-margin, dtype=torch.float64).exp()
        assert_allclose(value, share.log(), rtol=1e-12)


@pytest.mark.parametrize(("loss", "options"), LOSSES)
def test_the_modality_of_a_row_does_not_matter(loss, options):
    z_a, z_b = two_samples((6, 5))
    labels_a, labels_b = _labels(6, 5)
    value = loss(z_a, z_b, labels_a, labels_b, **options)
    z, labels = torch.cat((z_a, z_b)), torch.cat((labels_a, labels_b))
    order = torch.randperm(11)
    some, rest = order[:3], order[3:]
    moved = loss(z[some], z[rest], labels[some], labels[rest], **options)
    assert_allclose(moved, value, rtol=1e-10)


@pytest.mark.parametrize(("loss", "options"), LOSSES)
def test_rows_alone_in_their_class_are_negatives_without_a_loss(loss, options):
    z_a, z_b = two_samples((4, 3))
    labels_a, labels_b = torch.tensor([0, 0, 1, 5]), torch.tensor([1, 7, 0])
    rows = loss(z_a, z_b, labels_a, labels_b, reduction="none", **options)
    assert rows.shape == (7,)
    assert (rows[[3, 5]] == 0).all()
    rest = rows[[0, 1, 2, 4, 6]]
    assert (rest > 0).all()
    assert_allclose(loss(z_a, z_b, labels_a, labels_b, **options), rest.mean())
    without = loss(z_a[:3], z_b[[0, 2]], labels_a[:3], labels_b[[0, 2]], **options)
    assert without < rest.mean()


@pytest.mark.parametrize(("loss", "options"), LOSSES)
def test_nobody_has_a_positive(loss, options):
    z_a, z_b = two_samples((3, 3))
    value, *grads = with_grad(
        lambda a, b: loss(a, b, torch.arange(3), torch.arange(3, 6), **options),
        z_a,
        z_b,
    )
    assert value == 0
    assert all((grad == 0).all() for grad in grads)


def test_one_class_has_no_negatives():
    z_a, z_b = two_samples((3, 3))
    one = torch.zeros(3, dtype=torch.long)
    for margin in (0.0, 0.5):
        value, *grads = with_grad(
            lambda a, b, m=margin: F.sincere(a, b, one, one, margin=m), z_a, z_b
        )
        assert value == -margin
        assert all((grad == 0).all() for grad in grads)


def test_learned_temperature_gets_its_gradient():
    z_a, z_b = two_samples((6, 5))
    labels = _labels(6, 5)
    for loss in (F.sup_con, F.sincere):
        tau = torch.tensor(0.3, dtype=torch.float64, requires_grad=True)
        assert torch.autograd.gradcheck(
            lambda t, f=loss: f(z_a, z_b, *labels, temperature=t), (tau,)
        )


@pytest.mark.peers
def test_values_of_pytorch_metric_learning():
    losses = pytest.importorskip("pytorch_metric_learning.losses")
    reducers = pytest.importorskip("pytorch_metric_learning.reducers")
    z_a, z_b = two_samples((7, 6), dim=5)
    labels = _labels(7, 6)
    z, y = torch.cat((z_a, z_b)), torch.cat(labels)
    theirs = losses.SupConLoss(temperature=0.1)(z, y)
    ours = F.sup_con(z_a, z_b, *labels, temperature=0.1)
    assert_allclose(ours, theirs, rtol=1e-9)
    # NT-Xent of theirs, averaged for each anchor, is SINCERE.
    by_anchor = losses.NTXentLoss(temperature=0.1, reducer=reducers.PerAnchorReducer())
    assert_allclose(
        F.sincere(z_a, z_b, *labels, temperature=0.1), by_anchor(z, y), rtol=1e-9
    )


def test_published_numbers():
    """The angles, labels and temperature of a test of pytorch-metric-learning."""
    angles = torch.deg2rad(torch.tensor([0.0, 10, 20, 50, 60, 80], dtype=torch.float64))
    z = torch.stack((angles.cos(), angles.sin()), -1)
    labels = torch.tensor([0, 0, 0, 1, 1, 2])
    arguments = z[:4], z[4:], labels[:4], labels[4:]
    value = F.sup_con(*arguments, temperature=0.1)
    assert_allclose(value, 0.720060445081673, rtol=1e-9)
    value = F.sincere(*arguments, temperature=0.1)
    assert_allclose(value, 0.352942415717443, rtol=1e-9)
