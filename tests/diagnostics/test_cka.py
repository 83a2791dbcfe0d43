"""Linear CKA: its range, both routes, and what the unbiased estimate corrects."""

import itertools

import numpy as np
import pytest
import torch
from numpy.testing import assert_allclose

from counting import Work
from reference import diagnostics as reference
from tolerances import VALUE
from xmodal_losses.diagnostics import linear_cka


def normal(*shape, seed=0):
    return torch.tensor(np.random.default_rng(seed).normal(size=shape))


@pytest.mark.parametrize("unbiased", [False, True])
@pytest.mark.parametrize("d", [3, 40])
def test_one_for_a_rotation_and_a_scale(unbiased, d):
    z = normal(12, d)
    turn = torch.linalg.qr(normal(d, d, seed=1)).Q
    found = linear_cka(z, 1e-8 * z @ turn + 3, unbiased=unbiased)
    assert_allclose(found, 1.0, rtol=1e-6)


def test_more_rows_than_one_direction():
    """Two equal directions, of which one is seen: ⟨h⟩ = 1/√2."""
    z = torch.tensor([[1.0, 1.0], [1.0, -1.0], [-1.0, 1.0], [-1.0, -1.0]])
    assert_allclose(linear_cka(z, z[:, :1]), 0.5**0.5, rtol=1e-6)
    assert linear_cka(z[:, :1], z[:, 1:]) == 0


def test_chance_is_large_without_the_correction():
    """Of unrelated batches with N = D, and 0 on average with it."""
    z_a, z_b = normal(400, 32, 32), normal(400, 32, 32, seed=1)
    assert linear_cka(z_a, z_b).mean() > 0.4
    found = linear_cka(z_a, z_b, unbiased=True)
    assert abs(found.mean()) < 4 * found.std() / 20
    assert found.min() < 0


@pytest.mark.parametrize("d", [2, 9])
def test_zero_on_average_over_all_pairings(d):
    """Exactly, of the estimate of HSIC; its size does not depend on the pairing."""
    z_a, z_b = normal(6, d).exp(), normal(6, 3, seed=1)
    found = [
        linear_cka(z_a, z_b[list(order)], unbiased=True)
        for order in itertools.permutations(range(6))
    ]
    assert_allclose(torch.stack(found).mean(), 0.0, atol=1e-14)


@pytest.mark.parametrize("shift", [0.0, 3.0])
def test_a_shift_changes_nothing(shift):
    """Not even the usual formula of the unbiased estimate, which does not centre."""
    z_a, z_b = normal(7, 3) + shift, normal(7, 2, seed=1) - shift
    expected = reference.unbiased_linear_cka(z_a.numpy(), z_b.numpy())
    assert_allclose(linear_cka(z_a, z_b, unbiased=True), expected, rtol=1e-9)


@pytest.mark.parametrize("unbiased", [False, True])
def test_a_modality_that_has_collapsed(unbiased):
    z_a, z_b = normal(6, 3).requires_grad_(), torch.full((6, 2), 0.1).requires_grad_()
    found = linear_cka(z_a, z_b, unbiased=unbiased)
    assert found == 0
    for grad in torch.autograd.grad(found, (z_a, z_b)):
        assert (grad == 0).all()


def test_rows_at_one_distance_from_each_other():
    """Their unbiased HSIC with anything is 0, not a rounding error."""
    z = torch.eye(9, dtype=torch.float64)
    for seed in range(20):
        rows = z @ torch.linalg.qr(normal(9, 9, seed=seed)).Q
        assert linear_cka(rows, normal(9, 2), unbiased=True) == 0
        assert linear_cka(z, rows, unbiased=True) == 0
        assert_allclose(linear_cka(z, rows), 1.0, **VALUE)


@pytest.mark.parametrize(
    ("dtype", "scale"),
    [
        (torch.float32, 1e-30),
        (torch.float32, 1e30),
        (torch.float64, 1e-120),
        (torch.float64, 1e120),
    ],
)
def test_no_square_over_or_underflows(dtype, scale):
    z_a, z_b = normal(8, 3).to(dtype), normal(8, 4, seed=1).to(dtype)
    found = linear_cka(scale * z_a, z_b)
    assert_allclose(found, linear_cka(z_a, z_b), rtol=1e-5)


@pytest.mark.parametrize(("n", "d"), [(64, 8), (8, 64)])
def test_the_smaller_side_is_what_is_multiplied(n, d):
    with Work() as work:
        linear_cka(normal(n, d), normal(n, d, seed=1))
    assert work.multiply_adds <= 3 * n * d * 8
    assert work.largest <= n * d
