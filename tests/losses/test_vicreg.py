"""VICReg: numpy's moments in three conventions, the hinge, the terms."""

import numpy as np
import pytest
import torch
from numpy.testing import assert_allclose

import xmodal_losses.functional as F
from benchmarks.peers import PEERS
from harness import Case, to_torch, value_and_grad
from specs import BY_NAME
from tolerances import SAME, VALUE

SPEC = BY_NAME["vicreg"]


def _numpy_terms(z_a, z_b, weight=None, target_std=1.0, eps=1e-4):
    """Return the mean squared error, the hinges and covariances of both views."""
    dim = z_a.shape[1]
    invariance = np.average(((z_a - z_b) ** 2).mean(1), weights=weight)
    hinge = covariance = 0.0
    for z in (z_a, z_b):
        c = np.cov(z.T, aweights=weight)
        hinge += np.maximum(0, target_std - np.sqrt(np.diag(c) + eps)).mean()
        covariance += ((c**2).sum() - (np.diag(c) ** 2).sum()) / dim
    return invariance, hinge, covariance


@pytest.mark.parametrize("weighted", [False, True])
@pytest.mark.parametrize(
    ("convention", "invariance_factor", "variance_factor", "covariance_factor"),
    [
        ("official", 1, 0.5, 1),
        ("algorithm1", 1, 1, 1),
        ("paper", 4, 1, 1),
        ("lightly", 1, 0.5, 1),
        ("solo-learn", 1, 1, 1),
        ("vicregl", 1, 0.5, 0.5),
    ],
)
def test_conventions(
    convention, invariance_factor, variance_factor, covariance_factor, weighted
):
    inputs = SPEC.draw(Case(rows=(9, 9), weighted=weighted))
    inputs["z_a"] *= 0.6
    expected = _numpy_terms(**inputs)
    assert expected[1] > 0.1
    terms = F.vicreg_terms(**to_torch(inputs, grad=False), convention=convention)
    assert terms._fields == ("invariance", "variance", "covariance")
    assert type(terms).__name__ == "VICRegTerms"
    assert_allclose(terms.invariance, invariance_factor * expected[0], **VALUE)
    assert_allclose(terms.variance, variance_factor * expected[1], **VALUE)
    assert_allclose(terms.covariance, covariance_factor * expected[2], **VALUE)
    value = SPEC(to_torch(inputs, grad=False), convention=convention)
    total = 25 * terms.invariance + 25 * terms.variance + terms.covariance
    assert_allclose(value, total, **SAME)


def test_official_is_the_released_code():
    inputs = SPEC.draw(Case(rows=(9, 9)))
    z_a, z_b = (to_torch(inputs)[name] for name in ("z_a", "z_b"))
    expected = SPEC.naive(z_a, z_b)
    expected.backward()
    value, *grads = value_and_grad(SPEC, inputs)
    assert_allclose(value, expected.detach(), **VALUE)
    assert_allclose(grads[0], z_a.grad, rtol=1e-9, atol=1e-11)
    assert_allclose(grads[1], z_b.grad, rtol=1e-9, atol=1e-11)


@pytest.mark.peers
@pytest.mark.parametrize("convention", ["lightly", "solo-learn"])
def test_conventions_are_those_of_the_installed_code(convention):
    peers = [p for p in PEERS if p.loss == "vicreg" and p.name == convention]
    try:
        theirs = peers[0].build()
    except ImportError as error:
        pytest.skip(str(error))
    views = to_torch(SPEC.draw(Case(rows=(32, 32))), torch.float32, grad=False)
    views["z_a"] *= 0.6  # so that the hinge counts
    expected = theirs(*(z.clone() for z in views.values()))
    assert_allclose(SPEC(views, convention=convention), expected, rtol=2e-6)


def test_hinge_is_off_beyond_the_target():
    z = 10 * torch.randn(32, 4, dtype=torch.float64)
    assert F.vicreg_terms(z, z).variance == 0
    assert F.vicreg_terms(z, z, target_std=50.0).variance > 0


@pytest.mark.parametrize("eps", [1e-4, 1e-2])
def test_collapse(eps):
    """All rows equal: each hinge is γ - √ε; the gradient of the saddle is 0."""
    z = torch.full((8, 4), 0.3, dtype=torch.float64, requires_grad=True)
    terms = F.vicreg_terms(z, z, eps=eps)
    assert_allclose(terms.variance.detach(), 1 - np.sqrt(eps), rtol=1e-13)
    assert terms.covariance == 0
    assert terms.invariance == 0
    terms.variance.backward()
    assert z.grad.abs().max() < 1e-12


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_eps_zero_is_finite_at_collapse(dtype):
    """√ at 0 has no slope worth the name; 0 is returned for constant columns."""
    inputs = SPEC.draw(Case(rows=(8, 8)))
    inputs["z_a"][:, 1] = 0.5
    value, *grads = value_and_grad(SPEC, inputs, dtype, eps=0.0)
    assert value.isfinite()
    assert all(grad.isfinite().all() for grad in grads)


@pytest.mark.parametrize("name", ["invariance", "variance", "covariance"])
def test_weights_of_the_terms(name):
    inputs = to_torch(SPEC.draw(Case()), grad=False)
    off = {f"{n}_weight": 0.0 for n in ("invariance", "variance", "covariance")}
    value = SPEC(inputs, **off | {f"{name}_weight": 3.0})
    assert_allclose(value, 3 * getattr(F.vicreg_terms(**inputs), name), **SAME)
    assert SPEC(inputs, **off) == 0


def test_rank_floor():
    """N - 1 < D and unit variances: the covariance term is at least D/(N-1) - 1."""
    z = np.random.default_rng(0).normal(size=(5, 24))
    z = torch.tensor((z - z.mean(0)) / z.std(0, ddof=1))
    assert float(F.vicreg_terms(z, z).covariance) >= 2 * (24 / 4 - 1) - 1e-9


def test_wide_features():
    inputs = SPEC.draw(Case(rows=(5, 5), dims=(150, 150)))
    expected = _numpy_terms(**inputs)
    terms = F.vicreg_terms(**to_torch(inputs, grad=False))
    assert_allclose(terms.invariance, expected[0], **VALUE)
    assert_allclose(2 * terms.variance, expected[1], **VALUE)
    assert_allclose(terms.covariance, expected[2], rtol=1e-9)
