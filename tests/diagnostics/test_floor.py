"""Floors: what reaches them, and that nothing gets below."""

import itertools
import math
from typing import get_args

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from numpy.testing import assert_allclose

import xmodal_losses.functional as F
from tolerances import VALUE
from xmodal_losses.diagnostics import barlow_twins_floor, vicreg_floor, welch_floor
from xmodal_losses.redundancy import barlow_twins, vicreg

# A subnormal number is 0 in code that was compiled for speed, and hypothesis minds.
UP_TO_TWO = st.floats(0.0, 2.0, allow_subnormal=False)


def tight_frame(n, d):
    """Return D columns of unit variance whose correlations reach Welch's bound.

    They are columns of a Fourier matrix, real and imaginary parts of its first
    frequencies, in the N − 1 dimensions orthogonal to the mean; N is odd.
    """
    angle = 2 * np.pi * np.outer(np.arange(1, (n - 1) // 2 + 1), np.arange(d)) / d
    frame = np.concatenate([np.cos(angle), np.sin(angle)])  # N − 1 rows
    random = np.random.default_rng(0).normal(size=(n, n - 1))
    basis = np.linalg.qr(random - random.mean(0)).Q
    z = basis @ frame
    return torch.tensor(z / z.std(0, ddof=1))


FRAMES = [(5, 12), (9, 24), (9, 30), (33, 100), (3, 7)]


@pytest.mark.parametrize(("n", "d"), FRAMES)
def test_tight_frames_reach_welchs_bound(n, d):
    z = tight_frame(n, d)
    terms = F.barlow_twins_terms(z, z)
    assert_allclose(terms.redundancy, welch_floor(n, d), rtol=1e-10)
    assert_allclose(terms.invariance, 0.0, atol=1e-12)
    r = np.corrcoef(z.numpy().T)
    assert_allclose((r**2).sum() - d, d * d / (n - 1) - d, rtol=1e-10)


@pytest.mark.parametrize(
    "options",
    [{}, {"eps": 0.0}, *({"convention": c} for c in get_args(vicreg.Convention))],
)
@pytest.mark.parametrize(("n", "d"), [(5, 12), (9, 24), (9, 30), (33, 100)])
def test_tight_frames_reach_the_floor_of_vicreg(n, d, options):
    """With the usual weights, of standard deviations at the target."""
    eps = options.get("eps", 1e-4)
    z = math.sqrt(1 - eps) * tight_frame(n, d)
    floor = vicreg_floor(n, d, **options)
    assert_allclose(F.vicreg(z, z, **options), floor, rtol=1e-7)
    factor = 0.5 if options.get("convention") == "vicregl" else 1.0
    expected = 2 * factor * (1 - eps) ** 2 * welch_floor(n, d) / d
    assert_allclose(floor, expected, **VALUE)


def test_columns_of_two_sizes_may_get_below_equal_ones():
    """Where the covariance weighs much: two tight frames, one of shorter columns."""
    options = {"variance_weight": 10.0, "eps": 0.0}
    z = torch.cat((tight_frame(5, 5), math.sqrt(0.6) * tight_frame(5, 6)), 1)
    value = float(F.vicreg(z, z, **options))
    equal, sizes = tight_frame(5, 11), np.linspace(0.5, 1.0, 501)
    assert value < min(float(F.vicreg(s * equal, s * equal, **options)) for s in sizes)
    assert value > vicreg_floor(5, 11, **options)


@pytest.mark.parametrize("covariance_weight", [1.0, 1.5])
def test_where_columns_pay_to_shrink(covariance_weight):
    """Ten times as many columns as rows: less variance than the hinge asks for."""
    n, d = 5, 40
    weight = {"covariance_weight": covariance_weight}
    floor = vicreg_floor(n, d, **weight)
    z, sizes = tight_frame(n, d), np.linspace(0.3, 1.0, 1001)
    values = [float(F.vicreg(s * z, s * z, **weight)) for s in sizes]
    assert_allclose(min(values), floor, rtol=1e-5)
    assert 0.31 < sizes[np.argmin(values)] < 0.99


@pytest.mark.parametrize("share", [0.95, 1.05])
@pytest.mark.parametrize(("nu", "gamma"), [(1.0, 1.0), (3.0, 2.0), (0.2, 0.5)])
def test_which_bound_is_taken(share, nu, gamma):
    """By the formulas of the module, on a grid, to either side of their limit."""
    n, d, eps = 5, 20, 1e-4
    mu = share * 16 * nu * gamma**3
    g = gamma**2 - eps
    m = np.linspace(0.0, g, 200_001)
    welch = d / (n - 1)
    of_covariance = nu * ((welch - 1) * m**2 if share > 1 else welch * m**2 - g * m)
    least = (mu / 2 * (gamma - np.sqrt(m + eps)) + of_covariance).min()
    weights = {"variance_weight": mu, "covariance_weight": nu, "target_std": gamma}
    assert_allclose(vicreg_floor(n, d, eps=eps, **weights), 2 * least, rtol=1e-7)


def optimum(loss, n, d):
    """Return the least of a loss from a few starts."""
    values = []
    for seed in range(2):
        generator = torch.Generator().manual_seed(seed)
        z_a = torch.randn(n, d, generator=generator).double()
        z_b = z_a + 0.3 * torch.randn(n, d, generator=generator)
        views = [z_a.requires_grad_(), z_b.requires_grad_()]
        optimizer = torch.optim.LBFGS(
            views, max_iter=300, line_search_fn="strong_wolfe", tolerance_grad=1e-10
        )

        def closure(views=views, optimizer=optimizer):
            optimizer.zero_grad()
            value = loss(*views)
            value.backward()
            return value

        optimizer.step(closure)
        values.append(float(loss(*views).detach()))
    return min(values)


@pytest.mark.parametrize("redundancy_weight", [5e-3, 0.1, 1.0])
@pytest.mark.parametrize(("n", "d"), [(5, 12), (4, 15)])
def test_barlow_twins_comes_down_to_its_floor(n, d, redundancy_weight):
    weight = {"redundancy_weight": redundancy_weight}
    floor = barlow_twins_floor(n, d, **weight)
    least = optimum(lambda a, b: F.barlow_twins(a, b, **weight), n, d)
    assert_allclose(least, floor, rtol=1e-6)
    assert floor < redundancy_weight * welch_floor(n, d)


@pytest.mark.parametrize(
    "options",
    [
        {},
        {"covariance_weight": 10.0},
        {"variance_weight": 1.0},
        {"target_std": 2.0},
        {"convention": "algorithm1", "eps": 0.3},
    ],
)
def test_vicreg_does_not_get_below_its_floor(options):
    least = optimum(lambda a, b: F.vicreg(a, b, **options), 5, 20)
    floor = vicreg_floor(5, 20, **options)
    assert floor * (1 - 1e-9) <= least <= 2 * floor


@given(
    n=st.integers(2, 7),
    d=st.integers(1, 30),
    small=UP_TO_TWO,
    convention=st.sampled_from(get_args(barlow_twins.Convention)),
    weight=st.sampled_from([0.0, 5e-3, 0.5, 1.0, 20.0]),
    scale=st.sampled_from(["published", "per_column"]),
    eps=st.sampled_from([0.0, 0.1]),
    seed=st.integers(0, 99),
)
def test_nothing_is_below_the_floor_of_barlow_twins(
    n, d, small, convention, weight, scale, eps, seed
):
    if convention == "hsic":
        return
    z_a, z_b = _some(n, d, small, seed)
    options = {"redundancy_weight": weight, "scale": scale}
    value = float(F.barlow_twins(z_a, z_b, convention=convention, eps=eps, **options))
    floor = barlow_twins_floor(n, d, **options)
    floor *= 0.025 if convention == "solo-learn" else 1.0
    assert value >= floor * (1 - 1e-9) - 1e-12


@given(
    n=st.integers(2, 7),
    d=st.integers(1, 30),
    small=UP_TO_TWO,
    weights=st.tuples(*2 * [st.sampled_from([0.0, 0.2, 1.0, 25.0])]),
    target_std=st.sampled_from([0.0, 0.1, 1.0, 3.0]),
    eps=st.sampled_from([0.0, 1e-4, 0.5]),
    convention=st.sampled_from(get_args(vicreg.Convention)),
    seed=st.integers(0, 99),
)
def test_nothing_is_below_the_floor_of_vicreg(
    n, d, small, weights, target_std, eps, convention, seed
):
    options = {
        "variance_weight": weights[0],
        "covariance_weight": weights[1],
        "target_std": target_std,
        "eps": eps,
        "convention": convention,
    }
    z_a, z_b = _some(n, d, small, seed)
    floor = vicreg_floor(n, d, **options)
    # Nearly all columns dead, or of any size, or as the floor would have them.
    for z in (z_a, 0.1 * z_a, target_std * z_a):
        value = float(F.vicreg(z, z, **options))
        assert value >= floor * (1 - 1e-9) - 1e-12
    assert float(F.vicreg(z_a, z_b, **options)) >= floor * (1 - 1e-9) - 1e-12


def _some(n, d, small, seed):
    rng = np.random.default_rng(seed)
    scale = rng.uniform(size=d) ** small
    z_a = scale * rng.normal(size=(n, d))
    return torch.tensor(z_a), torch.tensor(z_a + small * rng.normal(size=(n, d)))


def test_weights_leave_the_floor_to_the_rows_that_count():
    z = torch.zeros(30, 24, dtype=torch.float64)
    z[::6][:5] = tight_frame(5, 24)
    weight = torch.zeros(30)
    weight[::6] = 1.0
    redundancy = F.barlow_twins_terms(z, z, weight=weight).redundancy
    assert_allclose(redundancy, welch_floor(5, 24), rtol=1e-10)


@pytest.mark.parametrize(("n", "d"), [(9, 8), (100, 3), (2, 1)])
def test_no_floor_with_enough_rows(n, d):
    assert welch_floor(n, d) == barlow_twins_floor(n, d) == vicreg_floor(n, d) == 0


def test_floors_of_published_sizes():
    """2048 rows of 8192 columns, as both papers have them."""
    assert_allclose(welch_floor(2048, 8192) * 5.1e-3, 125.4, rtol=1e-3)
    assert_allclose(
        barlow_twins_floor(2048, 8192, redundancy_weight=5.1e-3), 123.5, rtol=1e-3
    )
    assert_allclose(barlow_twins_floor(2048, 8192), 121.1, rtol=1e-3)
    assert_allclose(vicreg_floor(2048, 8192), 6.0, rtol=1e-3)


def test_per_column_is_over_the_columns():
    published = barlow_twins_floor(5, 40)
    assert_allclose(barlow_twins_floor(5, 40, scale="per_column"), published / 40)


@pytest.mark.parametrize("weight", [1.5, 100.0])
def test_beyond_a_weight_of_one_the_floor_does_not_grow(weight):
    """Constant columns beside uncorrelated ones: D − (N − 1), whatever the weight."""
    n, d = 4, 9
    z = torch.zeros(n, d, dtype=torch.float64)
    z[:, :3] = torch.tensor([[1, 1, 1], [1, -1, -1], [-1, 1, -1], [-1, -1, 1]])
    value = F.barlow_twins(z, z, redundancy_weight=weight)
    assert_allclose(value, barlow_twins_floor(n, d, redundancy_weight=weight))
    assert barlow_twins_floor(n, d, redundancy_weight=weight) == d - n + 1


BAD = [
    ("num_rows", (1, 4), {}, ValueError),
    ("num_rows", (0, 4), {}, ValueError),
    ("num_rows", (4.0, 4), {}, TypeError),
    ("num_columns", (4, 0), {}, ValueError),
    ("num_columns", (4, True), {}, TypeError),
]


@pytest.mark.parametrize(
    ("function", "argument", "sizes", "options", "exception"),
    [
        *(
            (function, *bad)
            for function, bad in itertools.product(
                (welch_floor, barlow_twins_floor, vicreg_floor), BAD
            )
        ),
        (
            barlow_twins_floor,
            "redundancy_weight",
            (4, 4),
            {"redundancy_weight": -1.0},
            ValueError,
        ),
        (barlow_twins_floor, "scale", (4, 4), {"scale": "mean"}, ValueError),
        *(
            (vicreg_floor, name, (4, 4), {name: -1.0}, ValueError)
            for name in ("variance_weight", "covariance_weight", "target_std", "eps")
        ),
        (vicreg_floor, "convention", (4, 4), {"convention": "mine"}, ValueError),
    ],
)
def test_bad_arguments_are_refused(function, argument, sizes, options, exception):
    message = rf"^{function.__name__}: {argument} must be .+, got .+"
    with pytest.raises(exception, match=message):
        function(*sizes, **options)
