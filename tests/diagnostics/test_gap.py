"""The modality gap: exact p-values, their level, and where draws come from."""

import numpy as np
import pytest
import torch
from numpy.testing import assert_allclose
from scipy.stats import binomtest

from reference import diagnostics as reference
from tolerances import SAME, VALUE
from xmodal_losses.diagnostics import gap as module
from xmodal_losses.diagnostics import modality_gap

#: Below this a fixed seed is called a bias: one in 10⁴ seeds would fail.
P_VALUE = 1e-4


def seeded(seed=0):
    return torch.Generator().manual_seed(seed)


def views(n, m, shift=0.3, correlation=0.8, dim=3, seed=0):
    rng = np.random.default_rng(seed)
    z_a = rng.normal(size=(n, dim)) + 1
    z_b = rng.normal(size=(m, dim)) + 1
    rows = min(n, m)
    z_b[:rows] = correlation * z_a[:rows] + (1 - correlation) * z_b[:rows]
    return z_a, z_b + shift


def measured(z_a, z_b, **options):
    options = {"generator": seeded()} | options
    return modality_gap(torch.tensor(z_a), torch.tensor(z_b), **options)


# ------------------------------------------------------------------ against all draws


@pytest.mark.parametrize("weighted", [False, True])
@pytest.mark.parametrize(("n", "seed"), [(2, 0), (5, 1), (8, 2), (8, 3)])
def test_signs_are_all_swaps(n, seed, weighted):
    z_a, z_b = views(n, n, shift=0.2, seed=seed)
    weight = np.random.default_rng(seed).uniform(0.1, 2, size=n) if weighted else None
    gaps = reference.all_swaps(z_a, z_b, weight)
    _compare(
        measured(
            z_a,
            z_b,
            num_permutations=4000,
            weight=None if weight is None else torch.tensor(weight),
        ),
        reference.gap(z_a, z_b, weight),
        gaps,
    )


@pytest.mark.parametrize(
    ("n", "m", "seed"), [(1, 2, 0), (4, 4, 1), (3, 7, 2), (8, 4, 3)]
)
def test_choices_are_all_choices(n, m, seed):
    z_a, z_b = views(n, m, shift=0.5, seed=seed)
    gaps = reference.all_choices(z_a, z_b)
    found = measured(z_a, z_b, paired=False, num_permutations=4000)
    _compare(found, reference.gap(z_a, z_b), gaps)


def _compare(found, gap, gaps):
    assert_allclose(found.gap, gap, **VALUE)
    as_large = (gaps >= gap * (1 - 1e-9)).mean()
    count = round(float(found.p_value) * 4001) - 1
    assert binomtest(count, 4000, as_large).pvalue > P_VALUE
    assert abs(float(found.chance) - gaps.mean()) <= 4 * gaps.std() / 4000**0.5


def test_draws_are_those_of_the_generator():
    z_a, z_b = views(6, 6)
    found = measured(z_a, z_b, num_permutations=50)
    u = torch.rand(50, 6, generator=seeded(), dtype=torch.float64).numpy()
    a, b = (z / np.linalg.norm(z, axis=1, keepdims=True) for z in (z_a, z_b))
    sums = [np.linalg.norm(np.where(row < 0.5, -1, 1) @ (a - b)) / 6 for row in u]
    least = reference.gap(z_a, z_b) * (1 - 1e-9)  # some draws are the sample
    count = sum(total >= least for total in sums)
    assert_allclose(found.chance, np.mean(sums), **VALUE)
    assert_allclose(found.p_value, (count + 1) / 51, **VALUE)


# ------------------------------------------------------------------ level and power


def _normal(trials, n, correlation, shift, seed=0):
    """Return exchangeable pairs, but for the shift."""
    rng = np.random.default_rng(seed)
    z_a, other = rng.normal(size=(2, trials, n, 2))
    z_b = correlation * z_a + (1 - correlation**2) ** 0.5 * other
    return torch.tensor(z_a), torch.tensor(z_b + shift)


def _rejected(paired, correlation, shift, trials=600, n=20):
    z_a, z_b = _normal(trials, n, correlation, shift)
    p_values = [
        modality_gap(
            a,
            b,
            paired=paired,
            normalize=False,
            num_permutations=99,
            generator=seeded(trial),
        ).p_value
        for trial, (a, b) in enumerate(zip(z_a, z_b, strict=True))
    ]
    return int((torch.stack(p_values) <= 0.05).sum())


@pytest.mark.parametrize(
    ("paired", "correlation"), [(True, 0.0), (True, 0.9), (False, 0.0)]
)
def test_level(paired, correlation):
    """Modalities alike are told apart in 5 % of all cases."""
    assert binomtest(_rejected(paired, correlation, 0.0), 600, 0.05).pvalue > P_VALUE


def test_pairs_that_are_not_told_of_hide_a_gap():
    shift = np.array([0.3, 0.0])
    assert _rejected(True, 0.9, shift) > 300
    assert _rejected(False, 0.9, shift) < 10
    assert _rejected(False, 0.9, 0.0) < 10  # far below the level


def test_a_gap_beyond_doubt_has_the_least_p_value():
    z_a, z_b = views(40, 40, shift=5.0)
    for paired in (True, False):
        for draws in (1, 19, 999):
            found = measured(z_a, z_b, paired=paired, num_permutations=draws)
            assert_allclose(found.p_value, 1 / (draws + 1), **VALUE)
            assert found.chance < found.gap / 2


# ------------------------------------------------------------------ ties


@pytest.mark.parametrize("paired", [True, False])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_equal_batches_have_no_gap(paired, dtype):
    z = torch.randn(9, 4, dtype=dtype)
    found = modality_gap(z, z, paired=paired)
    assert_allclose(found.gap, 0.0, atol=1e-15)
    assert found.p_value == 1
    z = z[:1].expand(9, 4)
    assert modality_gap(z, z, paired=paired) == (0, 1, 0)


def test_one_pair_tells_nothing():
    assert measured(*views(1, 1, shift=3.0)).p_value == 1
    assert measured(*views(1, 1, shift=3.0), paired=False).p_value == 1


@pytest.mark.parametrize("seed", range(20))
def test_draws_that_are_the_sample_are_no_less(seed):
    """Of 4 pairs that differ alike, 2 of 16 signs have this gap, rounded or not."""
    rng = np.random.default_rng(seed)
    z_a = rng.normal(size=(4, 3))
    z_b = z_a + rng.normal(size=3)
    found = measured(
        z_a, z_b, normalize=False, num_permutations=999, generator=seeded(seed)
    )
    count = round(float(found.p_value) * 1000) - 1
    assert binomtest(count, 999, 2 / 16).pvalue > P_VALUE


# ------------------------------------------------------------------ draws


@pytest.mark.parametrize("paired", [True, False])
def test_a_seed_tells_the_draws(paired):
    z_a, z_b = views(9, 9)
    before = torch.get_rng_state()
    first = measured(z_a, z_b, paired=paired)
    again = measured(z_a, z_b, paired=paired)
    other = measured(z_a, z_b, paired=paired, generator=seeded(1))
    assert torch.equal(torch.get_rng_state(), before)
    assert first == again
    assert first.chance != other.chance
    torch.manual_seed(0)
    assert measured(z_a, z_b, paired=paired, generator=None) == first


@pytest.mark.parametrize("paired", [True, False])
def test_all_problems_have_the_same_draws(paired):
    z_a, z_b = torch.randn(2, 3, 2, 7, 4, dtype=torch.float64)
    together = modality_gap(z_a, z_b, paired=paired, generator=seeded())
    for index in np.ndindex(3, 2):
        alone = modality_gap(z_a[index], z_b[index], paired=paired, generator=seeded())
        for part, one in zip(together, alone, strict=True):
            assert_allclose(part[index], one, **SAME)


@pytest.mark.parametrize("paired", [True, False])
@pytest.mark.parametrize("most", [1, 40, 64])
def test_draws_in_parts(paired, most, monkeypatch):
    z_a, z_b = views(16, 16)
    whole = measured(z_a, z_b, paired=paired, num_permutations=37)
    monkeypatch.setattr(module, "_MOST", most)
    parts = measured(z_a, z_b, paired=paired, num_permutations=37)
    for one, other in zip(parts, whole, strict=True):
        assert_allclose(one, other, **SAME)


@pytest.mark.cuda
@pytest.mark.parametrize("paired", [True, False])
def test_a_generator_of_the_cpu_serves_every_device(paired):
    z_a, z_b = (torch.tensor(z) for z in views(50, 50))
    expected = modality_gap(z_a, z_b, paired=paired, generator=seeded())
    found = modality_gap(z_a.cuda(), z_b.cuda(), paired=paired, generator=seeded())
    for one, other in zip(found, expected, strict=True):
        assert one.device.type == "cuda"
        assert_allclose(one.cpu(), other, **VALUE)
