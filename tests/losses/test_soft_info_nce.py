"""InfoNCE with soft targets: limits, torch's cross entropy, windows of neighbours."""

import pytest
import torch
from numpy.testing import assert_allclose

import xmodal_losses as xl
import xmodal_losses.functional as F
from harness import with_grad


def _pair(*shape, seed=0):
    generator = torch.Generator().manual_seed(seed)
    return torch.randn(2, *shape, generator=generator, dtype=torch.float64)


def _logits(a, b, temperature=0.07):
    unit = torch.nn.functional.normalize
    return unit(a, dim=-1) @ unit(b, dim=-1).mT / temperature


def _same(ours, theirs, *pair):
    results = zip(with_grad(ours, *pair), with_grad(theirs, *pair), strict=True)
    for x, y in results:
        assert_allclose(x, y, rtol=1e-10, atol=1e-12)


@pytest.mark.parametrize("negatives", ["group", "all", "cross"])
def test_hard_targets_are_infonce(negatives):
    at = torch.arange(5.0).unsqueeze(-1).expand(3, 5, 1)
    hard = torch.eye(5).expand(3, 5, 5)
    for some in ({}, {"targets": hard}, {"positions": at, "jitter": 0.5}):
        _same(
            lambda a, b, some=some: F.soft_info_nce(a, b, negatives=negatives, **some),
            lambda a, b: F.info_nce(a, b, negatives=negatives),
            *_pair(3, 5, 4),
        )


@pytest.mark.parametrize("smoothing", [0.0, 0.2])
def test_it_is_the_cross_entropy_of_torch(smoothing):
    targets = torch.rand(5, 5, generator=torch.Generator().manual_seed(1)).double()

    def theirs(a, b):
        s = _logits(a, b)
        rows, columns = (
            torch.nn.functional.cross_entropy(
                logits, t / t.sum(1, keepdim=True), label_smoothing=smoothing
            )
            for logits, t in ((s, targets), (s.T, targets.T))
        )
        return (rows + columns) / 2

    _same(
        lambda a, b: F.soft_info_nce(a, b, targets=targets, label_smoothing=smoothing),
        theirs,
        *_pair(5, 4),
    )


def test_smoothed_labels_are_those_of_torch():
    def theirs(a, b):
        s, target = _logits(a, b), torch.arange(5)
        return torch.nn.functional.cross_entropy(s, target, label_smoothing=0.1)

    _same(
        lambda a, b: F.soft_info_nce(a, b, symmetric=False, label_smoothing=0.1),
        theirs,
        *_pair(5, 4),
    )


def test_the_scale_of_a_row_of_targets_does_not_matter():
    z_a, z_b = _pair(5, 4)
    targets = torch.rand(5, 5, dtype=torch.float64) + torch.eye(5)
    times = torch.arange(1.0, 6.0).unsqueeze(1)
    one, other = (
        F.soft_info_nce(z_a, z_b, targets=t, symmetric=False)
        for t in (targets, targets * times)
    )
    assert_allclose(one, other, rtol=1e-12)


def test_a_narrow_spread_is_hard_and_a_wide_one_even():
    z_a, z_b = _pair(6, 4)
    at = torch.arange(6.0).unsqueeze(-1)
    narrow, wide, even = (
        F.soft_info_nce(z_a, z_b, positions=at, jitter=1.0, spread=spread)
        for spread in (0.01, 1000.0, None)
    )
    assert_allclose(narrow, F.info_nce(z_a, z_b), rtol=1e-10)
    assert_allclose(wide, even, rtol=1e-5)
    near = ((at - at.T).abs() <= 1).double()
    assert_allclose(even, F.soft_info_nce(z_a, z_b, targets=near), rtol=1e-10)


def test_a_row_that_is_drawn_to_nobody():
    z_a, z_b = _pair(4, 3)
    targets = torch.eye(4)
    targets[2] = 0
    value = F.soft_info_nce(z_a, z_b, targets=targets, reduction="none")
    kept = F.info_nce(z_a, z_b, reduction="none")
    assert value[2] == 0
    assert_allclose(value[[0, 1, 3]], kept[[0, 1, 3]], rtol=1e-12)
    nothing = F.soft_info_nce(z_a, z_b, targets=torch.zeros(4, 4))
    assert nothing == 0


def test_the_least_value_is_the_entropy_of_the_targets():
    """Reached where the softmax is the targets."""
    targets = torch.tensor([[0.7, 0.3], [0.3, 0.7]], dtype=torch.float64)
    value, *grads = with_grad(
        lambda a, b: F.soft_info_nce(
            a, b, targets=targets, normalize=False, temperature=1.0
        ),
        targets.log(),
        torch.eye(2, dtype=torch.float64),
    )
    assert_allclose(value, -(targets * targets.log()).sum(1).mean(), rtol=1e-12)
    for grad in grads:
        assert_allclose(grad, torch.zeros(2, 2), atol=1e-15)


def test_easy_pairs_keep_their_gradient_in_float32():
    """As InfoNCE: cross entropy would say 0."""
    z = torch.eye(3)
    value, grad, _ = with_grad(
        lambda a, b: F.soft_info_nce(a, b, temperature=0.04), z, z
    )
    assert value > 0
    assert grad.abs().max() > 0


def test_options_that_contradict_each_other():
    z_a, z_b = _pair(4, 3)
    at, targets = torch.zeros(4, 2), torch.eye(4)
    with pytest.raises(ValueError, match="targets must be None where jitter says"):
        F.soft_info_nce(z_a, z_b, targets=targets, positions=at, jitter=1.0)
    with pytest.raises(ValueError, match="spread must be given with jitter"):
        F.soft_info_nce(z_a, z_b, spread=1.0)
    with pytest.raises(ValueError, match="spread must be a finite number > 0"):
        xl.SoftInfoNCELoss(jitter=1.0, spread=0.0)
    with pytest.raises(ValueError, match=r"label_smoothing must be .* >= 0 and < 1"):
        xl.SoftInfoNCELoss(label_smoothing=1.0)
    with pytest.raises(ValueError, match=r"targets must be of shape \(4, 4\)"):
        F.soft_info_nce(z_a, z_b, targets=torch.eye(3))
    with pytest.raises(TypeError, match="targets must be a real tensor, got str"):
        F.soft_info_nce(z_a, z_b, targets="partner")
