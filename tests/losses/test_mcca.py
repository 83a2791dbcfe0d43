"""MCCA: two views, published pairs, and rows that not all views have."""

import numpy as np
import pytest
import torch
from numpy.testing import assert_allclose

import xmodal_losses.functional as F
from published import iris
from view_specs import VIEWS_BY_NAME, ViewCase, to_torch, value_and_grad

SPEC = VIEWS_BY_NAME["mcca"]


@pytest.mark.parametrize("objective", ["trace", "frobenius"])
@pytest.mark.parametrize("k", [None, 2])
def test_two_views_are_dcca(k, objective):
    inputs = SPEC.draw(ViewCase(dims=(3, 4), weighted=True), 1)
    options = {"num_components": k, "objective": objective}
    value, *grads = value_and_grad(SPEC, inputs, **options)
    tensors = to_torch(inputs)
    expected = F.dcca(*tensors["views"], weight=tensors["weight"], **options)
    expected.backward()
    assert_allclose(value, expected.detach(), rtol=1e-12)
    for z, grad in zip(tensors["views"], grads, strict=True):
        assert_allclose(grad, z.grad, rtol=1e-12)


def test_published_pairs():
    """R, cancor(iris[, 1:2], iris[, 3:4]): with a third view that says the same."""
    a, b = iris()
    mixed = b @ torch.tensor([[1.0, 2.0], [0.5, -1.0]], dtype=torch.float64)
    rho = 0.940969 + 0.123937
    assert_allclose(F.mcca([a, b, mixed], ridge=0.0), -2 * rho - 2, atol=5e-6)
    assert_allclose(
        F.mcca([a, b, mixed], ridge=0.0, num_components=1),
        -2 * 0.940969 - 1,
        atol=5e-6,
    )


def test_each_pair_is_looked_at_over_the_rows_of_both():
    inputs = SPEC.draw(ViewCase(dims=(2, 3, 2), masked=True), 2)
    value = SPEC(to_torch(inputs, grad=False))
    expected = 0.0
    for i, j in ((0, 1), (0, 2), (1, 2)):
        rows = np.flatnonzero(inputs["mask"][i] & inputs["mask"][j])
        pair = [torch.tensor(inputs["views"][k][rows]) for k in (i, j)]
        expected = expected + F.dcca(*pair)
    assert_allclose(value, expected, rtol=1e-12)


def test_components_are_bounded_by_the_smallest_width():
    message = r"^mcca: num_components must be in \[1, min\(D_a, D_b\)\] = \[1, 2\]"
    with pytest.raises(ValueError, match=message):
        F.mcca([torch.randn(8, d) for d in (2, 3, 3)], num_components=3)
