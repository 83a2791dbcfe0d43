"""Soft decorrelation: a column that hardly varies."""

import pytest
import torch

import xmodal_losses.functional as F


@pytest.mark.parametrize("size", [1e-147, 1e-120, 1e-60, 1.0])
def test_columns_that_hardly_vary_have_a_finite_gradient(size):
    z = torch.zeros(3, 3, dtype=torch.float64)
    z[0] = torch.tensor([size, 2 * size, 1.0], dtype=z.dtype)
    z[1, 1] = size
    z = z.requires_grad_()
    value = F.soft_decorrelation(z, torch.zeros_like(z))
    value.backward()
    assert value > 1.0  # correlations have no scale
    assert z.grad.isfinite().all()
    assert (z.grad[:, :2] * size).abs().max() > 0.01


@pytest.mark.parametrize("weight", [None, torch.ones(3)])
def test_the_gradient_of_a_column_of_subnormal_numbers_is_finite(weight):
    z = torch.tensor([[1.0, 0.0], [0.0, 3.5e-44], [0.0, 0.0]]).requires_grad_()
    value = F.soft_decorrelation(z, z, weight_a=weight, weight_b=weight)
    (grad,) = torch.autograd.grad(value, z)
    assert value == 0
    assert (grad == 0).all()
