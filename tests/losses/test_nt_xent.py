"""NT-Xent: closed forms, its kin, and who else computes it."""

import pytest
import torch
from numpy.testing import assert_allclose

import xmodal_losses as xl
import xmodal_losses.functional as F
from harness import with_grad


def _pair(rows=5, dim=4, seed=0):
    generator = torch.Generator().manual_seed(seed)
    return torch.randn(2, rows, dim, generator=generator, dtype=torch.float64)


@pytest.mark.parametrize("n", [2, 3, 10])
def test_equal_rows_are_a_uniform_guess(n):
    z = torch.ones(n, 3, dtype=torch.float64)
    assert_allclose(F.nt_xent(z, z), torch.log(torch.tensor(2.0 * n - 1)), rtol=1e-6)


def test_one_pair_has_no_negatives():
    assert F.nt_xent(*_pair(rows=1)) == 0


def test_it_is_infonce_with_the_negatives_of_both_modalities():
    """One direction of InfoNCE over both batches in a row."""
    z_a, z_b = _pair()
    n = len(z_a)
    itself = torch.eye(n, dtype=torch.bool).repeat(2, 2)

    def joint(a, b):
        return F.info_nce(
            torch.cat((a, b)), torch.cat((b, a)), symmetric=False, exclude=itself
        )

    for ours, theirs in zip(
        with_grad(F.nt_xent, z_a, z_b), with_grad(joint, z_a, z_b), strict=True
    ):
        assert_allclose(ours, theirs, rtol=1e-12, atol=1e-13)


def test_easy_negatives_of_the_same_modality_change_nothing():
    """Orthogonal ones; a row's own copy, if it counted, would be the hardest of all."""
    z_a = torch.eye(4, dtype=torch.float64)
    z_b = z_a.flip(0)
    none = F.nt_xent(z_a, z_b, temperature=0.01) - F.info_nce(
        z_a, z_b, temperature=0.01
    )
    assert abs(none) < 1e-9


def test_values_of_rows_are_means_of_two():
    z_a, z_b = _pair()
    rows = F.nt_xent(z_a, z_b, reduction="none")
    assert rows.shape == (5,)
    assert_allclose(rows.mean(), F.nt_xent(z_a, z_b), rtol=1e-12)
    assert_allclose(rows.sum(), F.nt_xent(z_a, z_b, reduction="sum"), rtol=1e-12)


def test_a_learned_temperature_gets_its_gradient():
    z_a, z_b = _pair()
    tau = torch.tensor(0.3, dtype=torch.float64, requires_grad=True)
    assert torch.autograd.gradcheck(
        lambda t: F.nt_xent(z_a, z_b, temperature=t), (tau,)
    )


@pytest.mark.peers
def test_it_is_the_loss_of_pytorch_metric_learning():
    losses = pytest.importorskip("pytorch_metric_learning.losses", exc_type=ImportError)
    z_a, z_b = _pair()
    labels = torch.arange(5).repeat(2)
    theirs = losses.NTXentLoss(temperature=0.07)(torch.cat((z_a, z_b)), labels)
    assert_allclose(xl.NTXentLoss()(z_a, z_b), theirs, rtol=1e-9)
