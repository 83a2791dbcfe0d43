"""Barlow Twins: numpy's correlations, batch norm, affine invariance."""

import numpy as np
import pytest
import torch
from numpy.testing import assert_allclose

import xmodal_losses as xl
import xmodal_losses.functional as F
from benchmarks.peers import PEERS
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


# --------------------------------------------------------------------------------------
# Conventions
# --------------------------------------------------------------------------------------


def _batch_norm(z):
    return torch.nn.functional.batch_norm(z, None, None, training=True)


def _over_std(eps):
    return lambda z: (z - z.mean(0)) / (z.std(0) + eps)


# How each code divides a column, its λ, its target of C_ij, its factor.
CODES = {
    "algorithm1": (_over_std(0.0), 5e-3, 0.0, 1.0),
    "official": (_batch_norm, 0.0051, 0.0, 1.0),
    "lightly": (_batch_norm, 5e-3, 0.0, 1.0),
    "solo-learn": (_batch_norm, 5e-3, 0.0, 0.025),
    "monai": (_over_std(1e-6), 5e-3, 0.0, 1.0),
    "stable-pretraining": (_over_std(1e-5), 5e-3, 0.0, 1.0),
    "hsic": (_over_std(0.0), 5e-3, -1.0, 1.0),
}


def _as_published(convention, z_a, z_b):
    normalise, redundancy_weight, target, factor = CODES[convention]
    c = normalise(z_a).T @ normalise(z_b) / len(z_a)
    on = (c.diagonal() - 1).square().sum()
    off = (c - target)[~torch.eye(len(c), dtype=torch.bool)].square().sum()
    return factor * (on + redundancy_weight * off)


@pytest.mark.parametrize("shape", [(6, 4), (40, 7), (5, 24)], ids=str)
@pytest.mark.parametrize("convention", CODES)
def test_conventions(convention, shape):
    """To rounding, value and gradient; small columns, where ε counts, included."""
    inputs = SPEC.draw(Case(rows=shape[:1] * 2, dims=shape[1:] * 2))
    inputs["z_a"] *= np.logspace(-4, 1, shape[1])
    value, *grads = value_and_grad(SPEC, inputs, convention=convention)
    z_a, z_b = (to_torch(inputs)[name] for name in ("z_a", "z_b"))
    expected = _as_published(convention, z_a, z_b)
    expected.backward()
    assert_allclose(value, expected.detach(), rtol=1e-13)
    for grad, z in zip(grads, (z_a, z_b), strict=True):
        scale = float(z.grad.abs().max())
        assert_allclose(grad / scale, z.grad / scale, rtol=1e-10, atol=1e-12)


@pytest.mark.peers
@pytest.mark.parametrize("convention", ["lightly", "solo-learn"])
def test_conventions_are_those_of_the_installed_code(convention):
    peers = [p for p in PEERS if p.loss == "barlow_twins" and p.name == convention]
    try:
        theirs = peers[0].build()
    except ImportError as error:
        pytest.skip(str(error))
    views = to_torch(SPEC.draw(Case(rows=(32, 32))), torch.float32, grad=False)
    expected = theirs(*(z.clone() for z in views.values()))
    assert_allclose(SPEC(views, convention=convention), expected, rtol=2e-6)


# Its test_barlow_twins_loss.py, with four digits: input, target, λ, value.
MONAI = [
    ([[1, 1, 0, 0], [1, 1, 0, 0]], [[1, 1, 0, 0], [1, 1, 0, 0]], 5e-3, 4.0),
    ([[0, 0, 1, 1], [0, 0, 1, 1]], [[1, 1, 0, 0], [1, 1, 0, 0]], 5e-3, 4.0),
    ([[1, 0, 1, 1], [0, 1, 1, 0]], [[1, 1, 1, 0], [1, 1, 0, 1]], 5e-3, 5.2562),
    ([[2, 3, 1, 2], [0, 1, 2, 5]], [[1, 2, 3, 4], [5, 6, 7, 8]], 5e-4, 5.0015),
    (
        [[1, 2, 1, 1], [3, 1, 1, 2], [1, 1, 1, 1], [2, 1, 1, 0]],
        np.array([[0, 3, -3, 0], [1, 0, -2, 1], [-2, -3, 7, 1], [1, 0, 1, -2]]) / 3,
        5e-3,
        1.4736,
    ),
]


@pytest.mark.parametrize(("z_a", "z_b", "redundancy_weight", "expected"), MONAI)
def test_values_that_monai_tests(z_a, z_b, redundancy_weight, expected):
    value = F.barlow_twins(
        torch.tensor(z_a, dtype=torch.float64),
        torch.tensor(z_b, dtype=torch.float64),
        convention="monai",
        redundancy_weight=redundancy_weight,
    )
    assert_allclose(value, expected, atol=1e-4)


@pytest.mark.parametrize("rows", [2, 5, 50])
def test_identical_views_of_algorithm_1(rows):
    """C_ii = (N - 1)/N: D/N² is left."""
    z = torch.randn(rows, 3, dtype=torch.float64)
    terms = F.barlow_twins_terms(z, 2 * z + 1, convention="algorithm1")
    assert_allclose(terms.invariance, 3 / rows**2, rtol=1e-12)


def test_hsic_wants_opposites():
    """Two columns that are each other's opposites cost nothing, but for 1/N."""
    z = torch.randn(1000, 1, dtype=torch.float64)
    z = torch.cat((z, -z), 1)
    terms = F.barlow_twins_terms(z, z, convention="hsic")
    assert_allclose(terms.redundancy, 2 / 1000**2, atol=1e-12)
    terms = F.barlow_twins_terms(z, z.abs(), convention="hsic")
    assert terms.redundancy > 1


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("convention", CODES)
def test_constant_column_of_a_convention(convention, dtype):
    """With an ε the slope at a constant column is that of x/ε; without, 0."""
    inputs = SPEC.draw(Case(rows=(9, 9)))
    inputs["z_a"][:, 1] = 0.3
    value, grad_a, grad_b = value_and_grad(SPEC, inputs, dtype, convention=convention)
    assert value.isfinite()
    assert grad_a.isfinite().all()
    assert grad_b.isfinite().all()
    if convention in ("algorithm1", "hsic"):
        assert (grad_a[:, 1] == 0).all()
        return
    z_a, z_b = (to_torch(inputs)[name] for name in ("z_a", "z_b"))
    # The square root at 0 has no slope in autograd: a hair beside it, it has.
    with torch.no_grad():
        z_a[:, 1] += 1e-13 * z_b[:, 1]
    _as_published(convention, z_a, z_b).backward()
    assert_allclose(grad_a[:, 1], z_a.grad[:, 1], rtol=1e-5, atol=1e-3)


@pytest.mark.parametrize("convention", CODES)
def test_options_take_the_place_of_the_convention(convention):
    inputs = to_torch(SPEC.draw(Case()), grad=False)
    terms = F.barlow_twins_terms(**inputs, convention=convention, eps=0.5)
    value = F.barlow_twins(
        **inputs, convention=convention, eps=0.5, redundancy_weight=0.7
    )
    assert_allclose(value, terms.invariance + 0.7 * terms.redundancy, **SAME)
    default = F.barlow_twins_terms(**inputs, convention=convention)
    assert abs(default.invariance - terms.invariance) > 1e-3 * terms.invariance
    module = xl.BarlowTwinsLoss(convention=convention)
    expected = F.barlow_twins(**inputs, convention=convention)
    assert module.redundancy_weight == CODES[convention][1]
    assert torch.equal(module(**inputs), expected)
