"""Alignment and uniformity: closed forms, and what a walk over the pairs may cost."""

import math

import pytest
import torch
from numpy.testing import assert_allclose
from scipy.special import hyp0f1

from counting import Work
from tolerances import SAME, VALUE
from xmodal_losses.diagnostics import alignment, uniformity


def unit(*shape):
    z = torch.randn(*shape, dtype=torch.float64)
    return z / z.norm(dim=-1, keepdim=True)


# ------------------------------------------------------------------ alignment


@pytest.mark.parametrize("power", [0.5, 1.0, 2.0, 3.0])
@pytest.mark.parametrize("angle", [0.0, 0.1, 1.0, math.pi])
def test_alignment_of_rows_turned_by_an_angle(power, angle):
    z = unit(9, 2)
    turn = torch.tensor(
        [[math.cos(angle), -math.sin(angle)], [math.sin(angle), math.cos(angle)]],
        dtype=torch.float64,
    )
    expected = (2 * math.sin(angle / 2)) ** power
    assert_allclose(alignment(z, 3 * z @ turn, power=power), expected, atol=1e-7)


@pytest.mark.parametrize("power", [0.5, 1.0, 2.0, 3.0])
def test_partners_that_coincide_get_no_gradient(power):
    z = unit(4, 3).requires_grad_()
    other = unit(4, 3)
    other[0] = z[0].detach()
    alignment(z, other, power=power, normalize=False).backward()
    assert (z.grad[0] == 0).all()
    assert (z.grad[1:].norm(dim=-1) > 0).all()


def test_a_zero_row_is_at_distance_one_from_any_other():
    z_a, z_b = torch.zeros(1, 3), torch.tensor([[0.0, 5.0, 0.0]])
    assert alignment(z_a, z_b) == 1
    assert_allclose(uniformity(torch.cat((z_a, z_b)), t=3.0), -3.0, rtol=1e-6)


# ------------------------------------------------------------------ uniformity


@pytest.mark.parametrize("t", [0.5, 2.0, 9.0, 11.0])
@pytest.mark.parametrize("n", [2, 5, 16])
def test_uniformity_of_orthogonal_rows(t, n):
    assert_allclose(uniformity(torch.eye(n).double(), t=t), -2 * t, **VALUE)


@pytest.mark.parametrize("dim", [2, 3, 64])
@pytest.mark.parametrize("t", [1.0, 2.0])
def test_uniformity_of_rows_spread_over_the_sphere(dim, t):
    value = uniformity(unit(4000, dim), t=t)
    expected = -2 * t + math.log(hyp0f1(dim / 2, t * t))
    assert_allclose(value, expected, atol=0.005)


def test_uniformity_of_one_point_is_zero_and_of_two_is_least():
    point = torch.tensor([[3.0, 4.0]]).double()
    assert uniformity(point.expand(5, 2)) == 0
    assert uniformity(point) == 0
    assert_allclose(uniformity(torch.cat((point, -point))), -8.0, **VALUE)


def test_rows_however_far_apart_do_not_underflow():
    """The exponential of −2·10¹⁰ is 0 in every dtype."""
    z = 1e5 * torch.eye(4)
    assert_allclose(uniformity(z, t=1.0, normalize=False), -2e10, rtol=1e-5)
    weight = torch.tensor([1.0, 2.0, 3.0, 0.0])
    value = uniformity(z, t=1.0, normalize=False, weight=weight)
    assert_allclose(value, -2e10, rtol=1e-5)


@pytest.mark.parametrize("t", [9.0, 11.0, 60.0, 1e4])
def test_nor_do_unit_rows_of_a_large_t(t):
    """In float32 the exponential of −240 is 0."""
    z = torch.tensor([[3.0, 4.0], [-3.0, -4.0]])
    assert_allclose(uniformity(z, t=t), -4 * t, rtol=1e-6)


@pytest.mark.parametrize("scale", [1e-30, 1e30])
def test_products_of_weights_do_not_underflow(scale):
    z, weight = torch.randn(9, 4), torch.rand(9)
    found = uniformity(z, weight=scale * weight)
    assert_allclose(found, uniformity(z, weight=weight), rtol=1e-5)


@pytest.mark.parametrize("other", [1.0, 0.2, 1e-6])
def test_two_rows_are_one_pair_whatever_they_weigh(other):
    z = torch.tensor([[1.0, 0.0], [0.0, 1.0]], dtype=torch.float64)
    weight = torch.tensor([1.0, other], dtype=torch.float64)
    assert_allclose(uniformity(z, weight=weight), -4.0, rtol=1e-9)


def test_far_from_the_origin_distances_keep_their_digits():
    z = torch.randn(64, 8)
    near = uniformity(z, normalize=False)
    assert_allclose(uniformity(z + 1000, normalize=False), near, rtol=1e-3)


@pytest.mark.parametrize("chunk_size", [1, 2, 5, 13, 64])
@pytest.mark.parametrize("weighted", [False, True])
@pytest.mark.parametrize("t", [2.0, 20.0])
def test_tiles_change_nothing(chunk_size, weighted, t):
    weight = None
    if weighted:
        weight = torch.rand(2, 13, dtype=torch.float64)
        weight[0, :3] = 0.0
    results = []
    for size in (None, chunk_size):
        torch.manual_seed(1)
        z = torch.randn(2, 13, 4, dtype=torch.float64).requires_grad_()
        value = uniformity(z, t=t, weight=weight, chunk_size=size)
        value.sum().backward()
        results.append((value.detach(), z.grad))
    for whole, tiled in zip(*results, strict=True):
        assert_allclose(tiled, whole, **SAME)


def test_no_tensor_holds_all_pairs():
    n, d, edge = 512, 8, 64
    z = torch.randn(n, d).requires_grad_()
    with Work() as work:
        uniformity(z, chunk_size=edge).backward()
    assert work.largest <= max(edge**2, 4 * n * (d + 2))
    assert n**2 > 4 * work.largest
