"""Which kernels MMDAgg takes, and what it draws."""

import itertools

import numpy as np
import pytest
import torch
from numpy.testing import assert_allclose
from test_mmd_agg import CPU, KERNELS, samples, seeded

import xmodal_losses as xl
from reference import two_sample as reference
from xmodal_losses.two_sample import draws, mmd_agg

# ------------------------------------------------------------------ the collection


@pytest.mark.parametrize("count", [2, 5, 10])
@pytest.mark.parametrize(("p", "family"), [(1, "laplace"), (2, "gaussian"), (2, "imq")])
@pytest.mark.parametrize(("columns", "twins"), [(1, False), (40, False), (40, True)])
def test_grids_are_those_of_the_definition(columns, twins, p, family, count):
    x, y = samples(13, 9, columns=columns)
    if twins:  # one distance is far below all others, which are nearly equal
        x[1] = x[0] + 1e-3
    result = mmd_agg(
        x, y, kernels=family, num_bandwidths=count, level_draws=20, quantile_draws=20
    )
    grid = reference.grid(np.concatenate([x, y]), p, count)
    sigma = grid / 2**0.5 if family == "gaussian" else grid
    assert_allclose([test.kernel.bandwidth for test in result.tests], sigma, rtol=1e-9)


def test_in_the_unit_interval_the_smallest_scale_is_the_published_one():
    """Half of 0.1, in the paper's experiments; here half of a third of the median."""
    x, y = (torch.rand(500, 1, generator=seeded(i)) for i in range(2))
    kernels = [test.kernel for test in mmd_agg(x, y).tests]
    assert len(kernels) == 20
    assert [type(kernel) for kernel in kernels] == (
        [xl.LaplacianKernel] * 10 + [xl.GaussianKernel] * 10
    )
    assert kernels[0].bandwidth == pytest.approx(0.05, rel=0.05)
    assert kernels[0].norm == 1
    assert kernels[9].bandwidth == pytest.approx(2.0, rel=0.01)
    assert kernels[10].bandwidth == pytest.approx(0.05 / 2**0.5, rel=0.05)


def test_every_family_has_its_kernel():
    x, y = samples(6, 6)
    names = ("imq", "matern_0.5", "matern_1.5", "matern_2.5")
    result = mmd_agg(x, y, kernels=names, num_bandwidths=2)
    kernels = [test.kernel for test in result.tests[::2]]
    assert isinstance(kernels[0], xl.InverseMultiquadricKernel)
    assert [kernel.nu for kernel in kernels[1:]] == [0.5, 1.5, 2.5]


@pytest.mark.parametrize("scale", [1e-6, 1e6])
@pytest.mark.parametrize("family", ["gaussian", "laplace"])
def test_the_scale_of_the_features_does_not_matter(family, scale):
    x, y = samples(40, 30, shift=0.4)
    one, other = (
        mmd_agg(c * x, c * y, kernels=family, generator=seeded()) for c in (1, scale)
    )
    assert one.p_value == other.p_value
    assert one.statistic == pytest.approx(other.statistic, rel=1e-9)


def test_the_grid_does_not_know_which_row_is_of_which_sample():
    x, y = samples(9, 6, shift=2.0)
    pool = torch.cat((x, y)).flip(0)
    for a, b in ((y, x), (pool[:9], pool[9:])):
        one, other = (
            [test.kernel.bandwidth for test in mmd_agg(*pair).tests]
            for pair in ((x, y), (a, b))
        )
        assert_allclose(one, other, rtol=1e-12)


def test_a_grid_of_many_rows_is_that_of_a_random_thousand():
    x, y = samples(700, 600, columns=2)
    results = [
        mmd_agg(
            x,
            y,
            kernels="gaussian",
            num_diagonals=None,
            num_bandwidths=2,
            quantile_draws=1,
            level_draws=19,
            generator=seeded(seed),
        )
        for seed in (0, 0, 1)
    ]
    first, again, other = (result.tests[0].kernel.bandwidth for result in results)
    assert first == again
    assert first != other
    assert first == pytest.approx(other, rel=0.1)


@pytest.mark.parametrize("count", [1, 2, 5, 10])
@pytest.mark.parametrize("name", ["uniform", "increasing", "decreasing", "centred"])
def test_weightings(name, count):
    x, y = samples(4, 4)
    expected = reference.weighting(name, count)
    assert expected.sum() == pytest.approx(1)
    kernels = [xl.GaussianKernel(1.0 + i) for i in range(count)]
    result = mmd_agg(x, y, kernels=kernels, weights=name)
    assert_allclose([test.weight for test in result.tests], expected)
    if count > 1:
        result = mmd_agg(
            x, y, kernels=["imq", "laplace"], num_bandwidths=count, weights=name
        )
        halves = np.concatenate([expected, expected]) / 2
        assert_allclose([test.weight for test in result.tests], halves)


def test_the_scale_of_weights_does_not_matter():
    x, y = samples(20, 20, shift=0.4)
    one, other = (
        mmd_agg(x, y, kernels=KERNELS[:3], weights=weights, generator=seeded())
        for weights in ([1.0, 2.0, 3.0], [10, 20, 30])
    )
    assert one.p_value == other.p_value
    assert_allclose([test.weight for test in one.tests], [1 / 6, 1 / 3, 1 / 2])


# ------------------------------------------------------------------ the draws


def test_swaps_are_fair_coins():
    signs = draws.swaps(5, 4000, None, CPU, seeded()).double()
    assert (signs[:, 0] == 1).all()
    assert set(signs.unique().tolist()) == {-1, 1}
    assert (signs[:, 1:].mean(1).abs() < 4 / 4000**0.5).all()
    covariance = signs[:, 1:] @ signs[:, 1:].T / 4000
    assert ((covariance - torch.eye(5)).abs() < 4 / 4000**0.5).all()


def test_rows_of_one_id_are_swapped_together():
    ids = torch.tensor([7, -2, 7, 7, 5])
    signs = draws.swaps(5, 500, ids, CPU, seeded())
    assert (signs[:, 0] == 1).all()
    assert (signs[[0, 2, 3]] == signs[0]).all()
    for i, j in itertools.combinations((0, 1, 4), 2):
        assert 0.4 < (signs[i] == signs[j]).double().mean() < 0.6


@pytest.mark.parametrize("at_once", [1, 37, 2**23])
def test_all_splits_are_as_likely(at_once, monkeypatch):
    monkeypatch.setattr(draws, "_AT_ONCE", at_once)
    signs = draws.splits(2, 3, 4000, CPU, seeded())
    assert signs.shape == (5, 4001)
    assert signs[:, 0].tolist() == [1, 1, -1, -1, -1]
    assert (signs.sum(0) == -1).all()
    subsets, counts = signs[:, 1:].unique(dim=1, return_counts=True)
    assert subsets.shape[1] == 10
    assert ((counts - 400).abs() < 4 * (4000 * 0.1 * 0.9) ** 0.5).all()
