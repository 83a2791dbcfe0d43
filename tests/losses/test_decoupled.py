"""Decoupled contrast: closed forms, its kin, and who else computes it."""

import pytest
import torch
from numpy.testing import assert_allclose

import xmodal_losses as xl
import xmodal_losses.functional as F
from benchmarks.peers.registry import module
from harness import with_grad


def _pair(rows=5, dim=4, seed=0):
    generator = torch.Generator().manual_seed(seed)
    return torch.randn(2, rows, dim, generator=generator, dtype=torch.float64)


@pytest.mark.parametrize("intra_modal", [True, False])
@pytest.mark.parametrize("sigma", [None, 0.5])
def test_equal_rows_count_their_negatives(sigma, intra_modal):
    """All logits are 1/τ, all weights 1: the log of the number of negatives is left."""
    z = torch.ones(5, 3, dtype=torch.float64)
    count = torch.tensor(8.0 if intra_modal else 4.0, dtype=torch.float64)
    value = F.decoupled(z, z, sigma=sigma, intra_modal=intra_modal)
    assert_allclose(value, count.log(), rtol=1e-12)


@pytest.mark.parametrize("sigma", [None, 0.5])
def test_one_pair_has_no_negatives(sigma):
    value, *grads = with_grad(lambda a, b: F.decoupled(a, b, sigma=sigma), *_pair(1))
    assert value == 0
    assert all((grad == 0).all() for grad in grads)


def test_nt_xent_of_hopeless_pairs():
    """Where the negatives win by far, the partner's share of the softmax is nothing."""
    z_a = torch.eye(4, dtype=torch.float64)
    z_b = -z_a
    options = {"temperature": 0.02, "intra_modal": True}
    gap = F.decoupled(z_a, z_b, **options) - F.nt_xent(z_a, z_b, temperature=0.02)
    assert abs(gap) < 1e-12


def test_infoloob_is_the_infonce_whose_partner_does_not_count():
    z_a, z_b = _pair()
    u, v = (torch.nn.functional.normalize(z, dim=1) for z in (z_a, z_b))
    s = u @ v.T / 0.07
    off = s.masked_fill(torch.eye(5, dtype=torch.bool), -torch.inf)
    expected = (off.logsumexp(0) + off.logsumexp(1)) / 2 - s.diagonal()
    assert_allclose(
        F.decoupled(z_a, z_b, intra_modal=False, reduction="none"), expected, rtol=1e-12
    )


def test_the_pull_of_a_pair_does_not_wane():
    """The gradient in a positive is −1/τ per row, however easy its negatives are."""
    z_a = torch.eye(3, dtype=torch.float64)
    _, grad, _ = with_grad(
        lambda a, b: F.decoupled(a, b, normalize=False, temperature=0.01), z_a, z_a
    )
    assert_allclose(grad.diagonal(), [-100 / 3] * 3, rtol=1e-9)


def test_weights_are_larger_for_partners_that_are_far_apart():
    z_a, z_b = _pair(6)
    similarity = torch.nn.functional.cosine_similarity(z_a, z_b)
    plain, weighted = (
        F.decoupled(z_a, z_b, sigma=sigma, reduction="none") for sigma in (None, 0.5)
    )
    pull = 1 + (plain - weighted) * 0.07 / similarity  # of ℓ = … − w c / τ
    assert_allclose(pull.mean(), 1.0, rtol=1e-9)
    assert pull[similarity.argmin()] == pull.max()


@pytest.mark.peers
@pytest.mark.filterwarnings("ignore:To copy construct")
def test_it_is_the_loss_of_lightly():
    try:
        losses = module("lightly", "lightly.loss.dcl_loss")
    except ImportError as error:
        pytest.skip(str(error))
    pair = _pair(6)
    for sigma, theirs in ((None, losses.DCLLoss()), (0.5, losses.DCLWLoss(sigma=0.5))):
        ours = xl.DecoupledContrastiveLoss(temperature=0.1, sigma=sigma)
        results = zip(with_grad(ours, *pair), with_grad(theirs, *pair), strict=True)
        for x, y in results:
            assert_allclose(x, y, rtol=1e-6, atol=1e-9)


def test_a_row_that_is_not_there_cannot_outweigh_all_others():
    """Its similarity counts as 0, which is far above those of opposite partners."""
    z_a = torch.eye(4)
    weight = torch.tensor([1.0, 1.0, 1.0, 0.0])
    options = {"sigma": 0.005, "intra_modal": False}
    value, *grads = with_grad(
        lambda a, b: F.decoupled(a, b, weight=weight, **options), z_a, -z_a
    )
    expected, *others = with_grad(
        lambda a, b: F.decoupled(a, b, **options), z_a[:3], -z_a[:3]
    )
    assert_allclose(value, expected, rtol=1e-6)
    for grad, other in zip(grads, others, strict=True):
        assert_allclose(grad[:3], other, rtol=1e-5, atol=1e-5)
        assert (grad[3] == 0).all()
