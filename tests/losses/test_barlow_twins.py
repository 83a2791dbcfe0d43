"""Barlow Twins: numpy's correlations, batch norm, affine invariance."""

import numpy as np
import pytest
import torch
from numpy.testing import assert_allclose

import xmodal_losses.functional as F
from harness import Case, to_torch, value_and_grad
from specs import BY_NAME
from tolerances import SAME, VALUE

SPEC = BY_NAME["barlow_twins"]


def _from_correlation(c, redundancy_weight=5e-3):
    on = ((1 - np.diag(c)) ** 2).sum()
    return on + redundancy_weight * ((c**2).sum() - (np.diag(c) ** 2).sum())


@pytest.mark.parametrize("rows", [3, 6, 20])
def test_equals_numpy(rows):
    inputs = SPEC.draw(Case(rows=(rows, rows)))
    c = np.corrcoef(inputs["z_a"].T, inputs["z_b"].T)[:4, 4:]
    value = SPEC(to_torch(inputs, grad=False))
    assert_allclose(value, _from_correlation(c), **VALUE)


def test_equals_weighted_numpy():
    inputs = SPEC.draw(Case(rows=(9, 9), weighted=True))
    joint = np.cov(inputs["z_a"].T, inputs["z_b"].T, aweights=inputs["weight"])
    std = np.sqrt(np.diag(joint))
    c = (joint / np.outer(std, std))[:4, 4:]
    value = SPEC(to_torch(inputs, grad=False))
    assert_allclose(value, _from_correlation(c), **VALUE)


@pytest.mark.parametrize("eps", [1e-5, 1e-2, 1.0])
def test_eps_is_that_of_batch_norm(eps):
    """The released code: BatchNorm1d without affine, then c = z_aᵀ z_b / N."""
    inputs = SPEC.draw(Case(rows=(9, 9)))
    value, *grads = value_and_grad(SPEC, inputs, eps=eps, redundancy_weight=0.1)
    norm = torch.nn.BatchNorm1d(4, eps=eps, affine=False).double()
    z_a, z_b = (to_torch(inputs)[name] for name in ("z_a", "z_b"))
    c = norm(z_a).T @ norm(z_b) / 9
    on = ((c.diagonal() - 1) ** 2).sum()
    off = (c**2).sum() - (c.diagonal() ** 2).sum()
    (on + 0.1 * off).backward()
    assert_allclose(value, (on + 0.1 * off).detach(), **VALUE)
    assert_allclose(grads[0], z_a.grad, rtol=1e-9, atol=1e-11)
    assert_allclose(grads[1], z_b.grad, rtol=1e-9, atol=1e-11)


def test_uncorrelated_columns_shared_by_the_views():
    """C = I: nothing to lose; against each other's columns: C = a permutation."""
    z = torch.linalg.qr(torch.randn(16, 4, dtype=torch.float64))[0]
    z = torch.linalg.qr(z - z.mean(0))[0]
    assert_allclose(F.barlow_twins(z, 2 * z + 7), 0, atol=1e-26)
    assert_allclose(F.barlow_twins(z, -z), 4 * 4, rtol=1e-13)
    rolled = F.barlow_twins_terms(z, z.roll(1, -1))
    assert_allclose(rolled.invariance, 4, rtol=1e-12)
    assert_allclose(rolled.redundancy, 4, rtol=1e-12)
    assert type(rolled).__name__ == "BarlowTwinsTerms"


def test_affine_maps_of_the_columns():
    """Positive scale and shift per column and view; a flip of both signs."""
    inputs = SPEC.draw(Case(rows=(9, 9)))
    scale = np.array([0.1, 2.0, 30.0, 1e3])
    mapped = {"z_a": scale * inputs["z_a"] + 4, "z_b": inputs["z_b"] / scale - 1}
    flipped = {name: -z for name, z in mapped.items()}
    value = SPEC(to_torch(inputs, grad=False))
    assert_allclose(SPEC(to_torch(mapped, grad=False)), value, rtol=1e-9)
    assert_allclose(SPEC(to_torch(flipped, grad=False)), value, rtol=1e-9)


def test_gradient_is_orthogonal_to_the_columns():
    """Scaling a column changes nothing: ⟨a_j, ∂L/∂a_j⟩ = 0."""
    inputs = SPEC.draw(Case(rows=(9, 9)))
    _, *grads = value_and_grad(SPEC, inputs)
    for name, grad in zip(("z_a", "z_b"), grads, strict=True):
        centred = inputs[name] - inputs[name].mean(0)
        assert_allclose((centred * grad.numpy()).sum(0), np.zeros(4), atol=1e-13)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("constant", [0.0, 0.1, 1e3])
def test_constant_column(constant, dtype):
    """Its row and column of C are 0, and it gets exactly no gradient."""
    inputs = SPEC.draw(Case(rows=(9, 9)))
    inputs["z_a"][:, 1] = constant
    value, grad_a, grad_b = value_and_grad(SPEC, inputs, dtype)
    with np.errstate(invalid="ignore"):
        c = np.corrcoef(inputs["z_a"].T, inputs["z_b"].T)[:4, 4:]
    c[1] = 0
    assert_allclose(value, _from_correlation(c), rtol=1e-5)
    assert (grad_a[:, 1] == 0).all()
    assert grad_a[:, 0].abs().max() > 0
    assert grad_b.isfinite().all()


def test_repeating_the_batch_changes_nothing():
    inputs = SPEC.draw(Case(rows=(9, 9)))
    twice = {name: np.tile(z, (2, 1)) for name, z in inputs.items()}
    value = SPEC(to_torch(inputs, grad=False), eps=1e-3)
    assert_allclose(SPEC(to_torch(twice, grad=False), eps=1e-3), value, **SAME)


def test_integer_weights_are_repetitions():
    inputs = SPEC.draw(Case(rows=(6, 6)))
    count = np.array([1, 3, 0, 2, 1, 1])
    repeated = {name: np.repeat(z, count, 0) for name, z in inputs.items()}
    value = SPEC(to_torch(inputs | {"weight": count * 1.0}, grad=False), eps=0.1)
    assert_allclose(SPEC(to_torch(repeated, grad=False), eps=0.1), value, **SAME)


@pytest.mark.parametrize("dim", [1, 4, 40])
def test_per_column_is_the_loss_over_their_number(dim):
    """Repeating every column once doubles the first term, and leaves its mean."""
    inputs = SPEC.draw(Case(rows=(9, 9), dims=(dim, dim)))
    options = {"scale": "per_column"}
    value, *grads = value_and_grad(SPEC, inputs, **options)
    published, *expected = value_and_grad(SPEC, inputs)
    assert_allclose(value, published / dim, rtol=1e-12)
    for grad, reference in zip(grads, expected, strict=True):
        assert_allclose(grad, reference / dim, rtol=1e-11, atol=1e-15)
    terms = F.barlow_twins_terms(**to_torch(inputs, grad=False), **options)
    twice = {name: np.concatenate((z, z), 1) for name, z in inputs.items()}
    again = F.barlow_twins_terms(**to_torch(twice, grad=False), **options)
    assert_allclose(again.invariance, terms.invariance, rtol=1e-12)
    assert 0 <= terms.invariance <= 4
    assert 0 <= terms.redundancy <= dim - 1


def test_rank_floor():
    """N - 1 < D: unit diagonal and rank N - 1 force Σ_{i≠j} C² ≥ D²/(N-1) - D."""
    inputs = SPEC.draw(Case(rows=(5, 5), dims=(24, 24)))
    terms = F.barlow_twins_terms(*[to_torch(inputs, grad=False)["z_a"]] * 2)
    assert_allclose(terms.invariance, 0, atol=1e-24)
    assert float(terms.redundancy) >= 24**2 / 4 - 24
