"""RankMe and effective rank at matrices whose rank is known."""

import math

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from numpy.testing import assert_allclose

from tolerances import VALUE
from xmodal_losses.diagnostics import effective_rank, rank_me


def with_singular_values(sigma, n, d, seed=0):
    """Return rows of mean 0 that have these singular values."""
    rng = np.random.default_rng(seed)
    left = rng.normal(size=(n, len(sigma)))
    u = np.linalg.qr(left - left.mean(0)).Q
    v = np.linalg.qr(rng.normal(size=(d, len(sigma)))).Q
    return torch.tensor(u @ np.diag(sigma) @ v.T)


@pytest.mark.parametrize(("n", "d"), [(12, 5), (5, 12), (6, 6)])
@pytest.mark.parametrize("scale", [1e-170, 1.0, 1e6])
def test_equal_directions_count_one_each(n, d, scale):
    z = scale * with_singular_values([1.0] * 4, n, d)
    assert_allclose(rank_me(z, eps=0.0), 4.0, **VALUE)
    assert_allclose(effective_rank(z), 4.0, **VALUE)
    assert_allclose(effective_rank(z, of="rows"), 4.0, **VALUE)


def test_shares_of_rows_and_of_variance():
    """Singular values 2 and 1: shares 2/3 and 1/3, squared 4/5 and 1/5."""
    z = with_singular_values([2.0, 1.0], 9, 3)
    of_rows = (2 / 3) ** (-2 / 3) * (1 / 3) ** (-1 / 3)
    of_variance = 0.8**-0.8 * 0.2**-0.2
    assert_allclose(effective_rank(z, of="rows"), of_rows, **VALUE)
    assert_allclose(effective_rank(z), of_variance, **VALUE)


def test_of_the_paper_every_share_is_raised():
    z = with_singular_values([1.0] * 4, 12, 10)
    p, k = 0.25 + 1e-7, 6
    entropy = -4 * p * math.log(p) - k * 1e-7 * math.log(1e-7)
    assert_allclose(rank_me(z), math.exp(entropy), rtol=1e-13)


def test_the_factor_that_the_docstring_tells():
    z = torch.zeros(3000, 1000, dtype=torch.float64)
    z[0, 0] = 1.0
    assert_allclose(float(rank_me(z)) - 1, 1.5e-6 * 1000, rtol=0.1)


def test_a_common_mean_is_a_direction_of_the_rows_only():
    z = with_singular_values([1.0] * 4, 30, 8)
    far = z + 1e4
    assert_allclose(effective_rank(far), 4.0, rtol=1e-9)
    assert rank_me(far) < 1.01


@pytest.mark.parametrize("n", [1, 3])
def test_rows_that_are_all_the_same(n):
    z = torch.tensor([[3.0, -4.0, 0.1]]).expand(n, 3)
    assert effective_rank(z) == 0
    assert_allclose(rank_me(z, eps=0.0), 1.0, rtol=1e-6)
    assert rank_me(0 * z) == 0
    assert effective_rank(0 * z, of="rows") == 0


@given(
    n=st.integers(1, 9),
    d=st.integers(1, 9),
    power=st.floats(0.0, 30.0, allow_subnormal=False),
    seed=st.integers(0, 99),
)
def test_between_one_and_the_smaller_side(n, d, power, seed):
    rng = np.random.default_rng(seed)
    z = torch.tensor(rng.normal(size=(n, d)) * np.arange(1, d + 1) ** -power)
    slack = 1 + 1e-9
    for rank, most in (
        (rank_me(z, eps=0.0), min(n, d)),
        (effective_rank(z, of="rows"), min(n, d)),
        (effective_rank(z), min(n - 1, d)),
    ):
        assert min(most, 1) <= rank * slack
        assert rank <= most * slack


def test_integer_weights_repeat_rows():
    z = torch.randn(6, 4, dtype=torch.float64)
    weight = torch.tensor([1, 3, 2, 0, 1, 2])
    repeated = z.repeat_interleave(weight, 0)
    for function in (rank_me, effective_rank):
        assert_allclose(function(z, weight=weight), function(repeated), **VALUE)


def test_small_singular_values_keep_their_digits():
    """Through products of the rows 1e-9 would be lost beside 1, even in float64."""
    z = with_singular_values([1.0] + [1e-9] * 19, 40, 20)
    p = np.array([1.0] + [1e-9] * 19)
    p /= p.sum()
    expected = -(p * np.log(p)).sum()
    assert_allclose(math.log(rank_me(z, eps=0.0)), expected, rtol=1e-6)
