"""The canonical spectrum and its chance level."""

import numpy as np
import pytest
import torch
from numpy.testing import assert_allclose

from reference import diagnostics as reference
from tolerances import VALUE
from xmodal_losses import functional as F
from xmodal_losses.diagnostics import canonical_spectrum


def independent(n, d_a, d_b, seed=0, decay=0.0):
    rng = np.random.default_rng(seed)
    z_a = rng.normal(size=(n, d_a)) * np.arange(1, d_a + 1) ** -decay
    z_b = rng.normal(size=(n, d_b)) * np.arange(1, d_b + 1) ** -decay
    return torch.tensor(z_a), torch.tensor(z_b)


@pytest.mark.parametrize("ridge", [0.0, 1e-2, 1.0])
@pytest.mark.parametrize(("d_a", "d_b"), [(2, 3), (1, 1), (4, 2), (7, 2), (7, 8)])
def test_chance_energy_is_the_mean_over_all_pairings(d_a, d_b, ridge):
    """Of any rows: these are neither normal nor uncorrelated."""
    rng = np.random.default_rng(d_a)
    z_a = rng.exponential(size=(6, d_a)) @ rng.normal(size=(d_a, d_a))
    z_b = rng.exponential(size=(6, d_b))
    found = canonical_spectrum(torch.tensor(z_a), torch.tensor(z_b), ridge=ridge)
    expected = reference.chance_energy(z_a, z_b, ridge)
    # Without a ridge, the guard of a covariance without full rank shows.
    tolerance = 1e-9 if ridge or max(d_a, d_b) < 6 else 0.05
    assert_allclose(found.chance_energy, expected, rtol=tolerance)


@pytest.mark.parametrize(
    ("n", "d_a", "d_b"), [(401, 20, 20), (801, 100, 20), (301, 64, 64), (2001, 2, 300)]
)
def test_independent_rows_reach_the_edge(n, d_a, d_b):
    largest = []
    for seed in range(8):
        found = canonical_spectrum(*independent(n, d_a, d_b, seed), ridge=0.0)
        largest.append(float(found.correlations[0]))
        assert_allclose(found.chance_energy, d_a * d_b / (n - 1), rtol=1e-9)
    edge = float(found.chance_largest)
    assert_allclose(edge, reference.wachter_edge(d_a, d_b, n), rtol=1e-9)
    assert_allclose(np.mean(largest), edge, rtol=0.07)


@pytest.mark.parametrize("ridge", [1e-4, 1e-2, 1.0])
@pytest.mark.parametrize("decay", [0.0, 1.0])
def test_with_a_ridge_chance_stays_below_the_edge(ridge, decay):
    found = [
        canonical_spectrum(*independent(300, 40, 30, seed, decay), ridge=ridge)
        for seed in range(20)
    ]
    assert sum(bool(one.correlations[0] > one.chance_largest) for one in found) <= 2
    energy = torch.stack([one.correlations.square().sum() for one in found]).mean()
    chance = torch.stack([one.chance_energy for one in found]).mean()
    assert_allclose(energy, chance, rtol=0.15)


def test_what_is_shared_is_above_the_edge():
    z_a, z_b = independent(500, 32, 32)
    z_b[:, :3] += z_a[:, :3]
    found = canonical_spectrum(z_a, z_b)
    assert int((found.correlations > found.chance_largest).sum()) == 3
    assert (found.correlations[:3] > 0.6).all()


def test_with_too_few_rows_everything_is_chance():
    found = canonical_spectrum(*independent(20, 16, 12), ridge=0.0)
    # D_a + D_b − (N − 1) correlations are 1 for any data.
    assert_allclose(found.correlations[:9], 1.0, atol=1e-6)
    assert found.correlations[9] < 0.999
    assert found.chance_largest == 1


@pytest.mark.parametrize("ridge", [0.0, 1e-4])
def test_a_modality_that_has_collapsed(ridge):
    z_a, z_b = independent(9, 3, 4)
    found = canonical_spectrum(z_a, 0 * z_b + 5, ridge=ridge)
    assert all((part == 0).all() for part in found)
    assert found.correlations.shape == (3,)


def test_a_constant_column_is_no_dimension():
    z_a, z_b = independent(101, 6, 5)
    z_a[:, 2] = 3.0
    found = canonical_spectrum(z_a, z_b, ridge=1e-9)
    assert_allclose(found.chance_energy, 5 * 5 / 100, rtol=1e-6)
    assert_allclose(found.chance_largest, reference.wachter_edge(5, 5, 101), rtol=1e-6)


def test_weights_make_rows_fewer():
    """Of weights 1 and 0 the number of ones is N; of others, (Σw)²/Σw²."""
    z_a, z_b = independent(60, 4, 3)
    weight = torch.ones(60).double()
    weight[40:] = 0
    some = canonical_spectrum(z_a[:40], z_b[:40])
    for scale in (1e-12, 1.0, 7.0):
        found = canonical_spectrum(z_a, z_b, weight=scale * weight)
        for one, other in zip(found, some, strict=True):
            assert_allclose(one, other, **VALUE)
    weight[:20] = 3.0
    found = canonical_spectrum(z_a, z_b, weight=weight, ridge=0.0)
    n = (20 * 3 + 20) ** 2 / (20 * 9 + 20)
    assert_allclose(found.chance_energy, 12 / (n - 1), rtol=1e-9)


@pytest.mark.parametrize("ridge", [1e-4, 0.1])
def test_its_sum_is_deep_cca(ridge):
    z_a, z_b = independent(40, 6, 5)
    z_b = z_b + z_a[:, :5]
    rho = canonical_spectrum(z_a, z_b, ridge=ridge).correlations
    assert_allclose(rho.sum(), -F.dcca(z_a, z_b, ridge=ridge), **VALUE)
