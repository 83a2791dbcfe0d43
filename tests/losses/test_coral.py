"""CORAL: closed forms, numpy's covariance, the gradient of the paper."""

import numpy as np
import pytest
import torch
from numpy.testing import assert_allclose

import xmodal_losses.functional as F
from harness import Case, to_torch, value_and_grad
from specs import BY_NAME
from tolerances import SAME, VALUE

SPEC = BY_NAME["coral"]


def _orthonormal_rows(rows, dim):
    """Return centred columns with unit ddof-1 covariance."""
    rng = np.random.default_rng(0)
    z = rng.normal(size=(rows, dim))
    q, _ = np.linalg.qr(z - z.mean(0))
    return q * np.sqrt(rows - 1)


@pytest.mark.parametrize(("s", "t"), [(1.0, 2.0), (0.5, 3.0), (1.0, 1.0)])
@pytest.mark.parametrize("dim", [1, 3, 8])
def test_scaled_identities(s, t, dim):
    """C_a = s²I, C_b = t²I: (s² - t²)²/(4D), whatever the numbers of rows."""
    z_a, z_b = s * _orthonormal_rows(12, dim) + 5.0, t * _orthonormal_rows(20, dim)
    value = F.coral(torch.tensor(z_a), torch.tensor(z_b))
    assert_allclose(value, (s**2 - t**2) ** 2 / (4 * dim), rtol=1e-12, atol=1e-15)


def test_equals_numpy():
    inputs = SPEC.draw(Case(rows=(9, 6), dims=(4, 4)))
    difference = np.cov(inputs["z_a"].T) - np.cov(inputs["z_b"].T)
    expected = (difference**2).sum() / (4 * 4**2)
    assert_allclose(SPEC(to_torch(inputs, grad=False)), expected, **VALUE)


def test_equals_numpy_with_weights():
    inputs = SPEC.draw(Case(rows=(9, 6), dims=(4, 4), weighted=True))
    difference = np.cov(inputs["z_a"].T, aweights=inputs["weight_a"]) - np.cov(
        inputs["z_b"].T, aweights=inputs["weight_b"]
    )
    expected = (difference**2).sum() / (4 * 4**2)
    assert_allclose(SPEC(to_torch(inputs, grad=False)), expected, **VALUE)
    mean = np.average(inputs["z_a"], 0, inputs["weight_a"]) - np.average(
        inputs["z_b"], 0, inputs["weight_b"]
    )
    terms = F.coral_terms(**to_torch(inputs, grad=False))
    assert_allclose(terms.covariance, expected, **VALUE)
    assert_allclose(terms.mean, (mean**2).sum() / 4, **VALUE)


def test_gradient_of_the_paper():
    """Eq. 4 and 5: (Z_a - μ_a)(C_a - C_b)/(D²(N - 1)), and minus it for b."""
    inputs = SPEC.draw(Case(rows=(9, 6), dims=(4, 4)))
    _, *grads = value_and_grad(SPEC, inputs)
    z_a, z_b = (inputs[name] - inputs[name].mean(0) for name in ("z_a", "z_b"))
    difference = z_a.T @ z_a / 8 - z_b.T @ z_b / 5
    assert_allclose(grads[0], z_a @ difference / (16 * 8), **VALUE)
    assert_allclose(grads[1], -z_b @ difference / (16 * 5), **VALUE)


def test_means_are_ignored_unless_weighted():
    z = torch.randn(8, 3, dtype=torch.float64)
    shift = torch.tensor([1.0, -2.0, 2.0], dtype=torch.float64)
    assert_allclose(F.coral(z, z + shift), 0, atol=1e-28)
    assert_allclose(F.coral(z, z + shift, mean_weight=0.5), 0.5 * 9 / 3, rtol=1e-13)
    terms = F.coral_terms(z, z + shift)
    assert_allclose(terms.mean, 3.0, rtol=1e-13)
    assert type(terms).__name__ == "CORALTerms"
    assert terms._fields == ("covariance", "mean")


def test_small_differences_are_seen():
    """Two nearly equal covariances: the value is a difference, not a rounding."""
    z = torch.randn(64, 8)
    near = z * (1 + 1e-3)
    exact = F.coral(z.double(), near.double())
    assert_allclose(F.coral(z, near), exact, rtol=1e-3)


def test_gram_of_wide_features():
    """D ≫ N: the same value and gradient as the D × D definition."""
    inputs = SPEC.draw(Case(rows=(5, 7), dims=(200, 200)))
    value, *grads = value_and_grad(SPEC, inputs)
    difference = np.cov(inputs["z_a"].T) - np.cov(inputs["z_b"].T)
    assert_allclose(value, (difference**2).sum() / (4 * 200**2), rtol=1e-11)
    centred = inputs["z_a"] - inputs["z_a"].mean(0)
    expected = centred @ difference / (200**2 * 4)
    assert_allclose(grads[0], expected, rtol=1e-9, atol=1e-13)


# --------------------------------------------------------------------------------------
# scale="relative"
# --------------------------------------------------------------------------------------

RELATIVE = {"scale": "relative"}


@pytest.mark.parametrize(("s", "t"), [(1.0, 2.0), (0.5, 3.0), (1.0, 1.0)])
@pytest.mark.parametrize("dim", [1, 3, 8])
def test_relative_of_scaled_identities(s, t, dim):
    """(s² - t²)²/(s⁴ + t⁴), whatever D; of means 3 apart 9D/(9D + 2D(s² + t²))."""
    z_a, z_b = s * _orthonormal_rows(12, dim) + 5.0, t * _orthonormal_rows(20, dim)
    terms = F.coral_terms(torch.tensor(z_a), torch.tensor(z_b + 2.0), **RELATIVE)
    expected = (s**2 - t**2) ** 2 / (s**4 + t**4)
    assert_allclose(terms.covariance, expected, rtol=1e-12, atol=1e-15)
    assert_allclose(terms.mean, 9 / (9 + 2 * (s**2 + t**2)), rtol=1e-12)


def test_relative_mean_is_the_variance_between():
    """Of both batches in one, in equal parts: between their means, and in all."""
    inputs = SPEC.draw(Case(rows=(9, 9)))
    terms = F.coral_terms(**to_torch(inputs, grad=False), **RELATIVE)
    means = [z.mean(0) for z in inputs.values()]
    between = np.var(means, axis=0).sum()
    within = np.mean([z.var(0, ddof=1).sum() for z in inputs.values()])
    assert_allclose(terms.mean, between / (between + within), **VALUE)


@pytest.mark.parametrize("shape", [(9, 4), (4, 30)], ids=["tall", "wide"])
@pytest.mark.parametrize("scale", [1e-30, 1e-15, 1e-3, 1e4, 1e15])
def test_relative_has_no_scale(scale, shape):
    """In float32 the value is the same at 1e-30, where the published one is 0."""
    rows, dim = shape
    inputs = SPEC.draw(Case(rows=(rows, rows + 2), dims=(dim, dim)))
    options = {"mean_weight": 0.7, **RELATIVE}
    value, *grads = value_and_grad(SPEC, inputs, torch.float32, **options)
    scaled = {name: scale * z for name, z in inputs.items()}
    same, *scaled_grads = value_and_grad(SPEC, scaled, torch.float32, **options)
    assert_allclose(same, value, rtol=3e-6)
    for grad, other in zip(grads, scaled_grads, strict=True):
        assert (scale * other - grad).norm() < 3e-6 * grad.norm()


def test_relative_gradient_is_orthogonal_to_the_scale():
    """Unlike the published one, which falls where both batches shrink."""
    inputs = SPEC.draw(Case(rows=(9, 6)))
    along = {}
    for scale in ("published", "relative"):
        _, *grads = value_and_grad(SPEC, inputs, scale=scale)
        along[scale] = sum(
            ((z - z.mean(0)) * grad.numpy()).sum()
            for z, grad in zip(inputs.values(), grads, strict=True)
        )
    assert along["published"] > 1e-3
    assert abs(along["relative"]) < 1e-13


def test_relative_range():
    """0 of equal covariances, 1 of those that share no direction, and in between."""
    z = torch.randn(12, 4, dtype=torch.float64)
    assert_allclose(F.coral(z, z.flip(0) + 3, **RELATIVE), 0, atol=1e-15)
    flat = z * torch.tensor([1.0, 1.0, 0.0, 0.0], dtype=torch.float64)
    assert_allclose(F.coral(flat, z - flat, **RELATIVE), 1, rtol=1e-13)
    for seed in range(20):
        inputs = to_torch(SPEC.draw(Case(rows=(9, 6)), seed), grad=False)
        terms = F.coral_terms(**inputs, **RELATIVE)
        assert all(0 < term < 1 for term in terms)


@pytest.mark.parametrize("rows", [6, 2])
def test_relative_of_points(rows):
    """Batches without variance: 0/0 is 0, and the means are all there is."""
    point = torch.full((rows, 4), 0.3, requires_grad=True)
    other = torch.full((rows, 4), -1.3, requires_grad=True)
    terms = F.coral_terms(point, other, **RELATIVE)
    assert terms.covariance == 0
    assert terms.mean == 1
    assert F.coral_terms(point, point, **RELATIVE).mean == 0
    spread = torch.randn(rows, 4, requires_grad=True)
    assert F.coral(point, spread, **RELATIVE) == 1  # the one has all there is
    for a, b in ((point, other), (point, point), (point, spread)):
        value = F.coral(a, b, mean_weight=1.0, **RELATIVE)
        grads = torch.autograd.grad(value, {a, b})
        assert all(grad.isfinite().all() for grad in grads)


def test_views_are_not_pairs():
    inputs = SPEC.draw(Case(rows=(6, 6), dims=(3, 3)))
    shuffled = inputs | {"z_b": inputs["z_b"][::-1].copy()}
    value = SPEC(to_torch(inputs, grad=False))
    assert_allclose(SPEC(to_torch(shuffled, grad=False)), value, **SAME)
