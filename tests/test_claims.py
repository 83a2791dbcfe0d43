"""What docs/numerics.md says goes wrong in the plain formulas does go wrong."""

import pytest
import torch
import torch.nn.functional as nnf

import xmodal_losses.functional as F


@pytest.mark.parametrize("gap", [17.0, 20.0, 40.0])
def test_cross_entropy_forgets_a_pair_that_is_right(gap):
    """In float32 its value and the positive's gradient are 0, not the negative's."""
    logits = torch.tensor([[gap, 0.0]], requires_grad=True)
    plain = nnf.cross_entropy(logits, torch.tensor([0]))
    (grad,) = torch.autograd.grad(plain, logits)
    assert plain == 0
    assert grad[0, 0] == 0
    assert grad[0, 1] > 0

    # The same logits, as inner products of the row (1, 0) with (gap, 0) and (0, 0).
    z_a = torch.tensor([[1.0, 0.0], [0.0, 0.0]])
    z_b = torch.tensor([[gap, 0.0], [0.0, 0.0]], requires_grad=True)
    options = {"temperature": 1.0, "normalize": False, "symmetric": False}
    ours = F.info_nce(z_a, z_b, reduction="none", **options)[0]
    (grad,) = torch.autograd.grad(ours, z_b)
    assert ours > 0
    assert grad[0, 0] < 0
    assert grad[1, 0] > 0


@pytest.mark.parametrize("seed", range(3))
def test_moments_about_the_origin_lose_every_digit(seed):
    """At a mean of a thousand standard deviations, in float32."""
    generator = torch.Generator().manual_seed(seed)
    z = torch.randn(256, 8, generator=generator) + 1000
    total = z.sum(0)
    one_pass = (z.T @ z - torch.outer(total, total) / 256) / 255
    truth = torch.cov(z.double().T)
    assert (one_pass - truth).norm() > 0.1 * truth.norm()


def test_the_usual_normalisation_hands_a_zero_row_a_huge_gradient():
    z = torch.zeros(2, 3, requires_grad=True)
    (grad,) = torch.autograd.grad(nnf.normalize(z, dim=1).sum(), z)
    assert (grad > 1e11).all()
    (grad,) = torch.autograd.grad(F.info_nce(z, torch.eye(2, 3)), z)
    assert (grad == 0).all()


@pytest.mark.parametrize("seed", range(3))
def test_dcca_in_float32_has_a_value_but_no_gradient(seed):
    """With N < D and a small ridge the error exceeds the gradient itself."""
    generator = torch.Generator().manual_seed(seed)
    z_a, z_b = torch.randn(2, 12, 32, generator=generator)
    z_a.requires_grad_()
    results = []
    for dtype in (torch.float64, torch.float32):
        value = F.dcca(z_a, z_b, ridge=1e-4, compute_dtype=dtype)
        results.append((value.detach(), *torch.autograd.grad(value, z_a)))
    (truth, true_grad), (value, grad) = results
    assert abs(value / truth - 1) < 0.01
    assert (grad - true_grad).norm() > true_grad.norm()
