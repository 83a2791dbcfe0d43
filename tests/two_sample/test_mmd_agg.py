"""MMDAgg beside its definition, draw by draw; its level; what it says."""

import copy
import pickle
import re

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from numpy.testing import assert_allclose

import xmodal_losses as xl
from counting import Work
from reference import kernels as reference_kernels
from reference import two_sample as reference
from xmodal_losses.two_sample import MMDAggResult, draws, mmd_agg
from xmodal_losses.two_sample.aggregate import aggregate

CPU = torch.device("cpu")
#: The kernels, and the same in the reference.
PAIRS_OF_KERNELS = [
    (xl.GaussianKernel(0.7), reference_kernels.GaussianKernel(0.7)),
    (
        xl.LaplacianKernel("median", factor=0.5, norm=1),
        reference_kernels.LaplacianKernel("median", factor=0.5, norm=1),
    ),
    (
        xl.MaternKernel("mean", nu=2.5),
        reference_kernels.MaternKernel("mean", nu=2.5),
    ),
    (xl.EnergyKernel(), reference_kernels.EnergyKernel()),
    (xl.PolynomialKernel(2), reference_kernels.PolynomialKernel(2)),
    (
        xl.JointKernel([xl.LaplacianKernel(norm=1), xl.GaussianKernel(0.8)], [2, 1]),
        reference_kernels.JointKernel(
            (
                reference_kernels.LaplacianKernel(norm=1),
                reference_kernels.GaussianKernel(0.8),
            ),
            (2,),
        ),
    ),
]
KERNELS = [ours for ours, _ in PAIRS_OF_KERNELS]
REFERENCES = [theirs for _, theirs in PAIRS_OF_KERNELS]


def seeded(seed=0):
    return torch.Generator().manual_seed(seed)


def samples(n, m, *, shift=0.0, columns=3, seed=0, dtype=torch.float64):
    generator = seeded(seed)
    x = torch.randn(n, columns, generator=generator, dtype=torch.float64)
    y = torch.randn(m, columns, generator=generator, dtype=torch.float64) + shift
    return x.to(dtype), y.to(dtype)


def signs_of(n, m, count, wild, ids=None, seed=0):
    """Return the signs of a test with this seed, and its order of the pool."""
    generator = seeded(seed)
    draws.order(n + m, CPU, generator)
    if wild:
        return draws.swaps(n, count, ids, CPU, generator).numpy()
    return draws.splits(n, m, count, CPU, generator).numpy()


# ------------------------------------------------------------------ the definition

DESIGNS = {
    "pairs": (7, 7, {"paired": True}),
    "equal sizes": (6, 6, {}),
    "permutation, equal sizes": (5, 5, {"resampling": "permutation"}),
    "fewer x": (3, 8, {}),
    "fewer y": (7, 2, {}),
    "incomplete": (9, 9, {"num_diagonals": 3}),
    "one diagonal": (8, 8, {"num_diagonals": 1, "paired": True}),
    "more diagonals than rows": (5, 5, {"num_diagonals": 40}),
    "ids": (8, 8, {"paired": True, "ids": torch.tensor([3, 3, 0, 9, 9, 9, -1, 0])}),
}


@pytest.mark.parametrize("chunk_size", [None, 1, 2, 3, 5])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("design", DESIGNS)
def test_every_draw_and_the_verdict_are_those_of_the_definition(
    design, dtype, chunk_size, monkeypatch
):
    n, m, options = DESIGNS[design]
    x, y = samples(n, m, shift=0.9, dtype=dtype)
    seen = {}

    def spy(values, noise, *rest):
        seen.update(values=values.numpy(), noise=noise.numpy())
        return aggregate(values, noise, *rest)

    # The name of the module is hidden by that of the function.
    monkeypatch.setitem(mmd_agg.__wrapped__.__globals__, "aggregate", spy)
    weights = [3.0, 1.0, 1.0, 2.0, 0.5, 1.5]
    result = mmd_agg(
        x,
        y,
        kernels=KERNELS,
        weights=weights,
        alpha=0.2,
        quantile_draws=40,
        level_draws=25,
        chunk_size=chunk_size,
        generator=seeded(3),
        **options,
    )
    wild = n == m and options.get("resampling") != "permutation"
    signs = signs_of(n, m, 65, wild, options.get("ids"), seed=3)
    expected = reference.statistics(
        REFERENCES, x.numpy(), y.numpy(), signs, wild, options.get("num_diagonals")
    )
    scale = np.abs(expected).max(1, keepdims=True)
    tolerance = 1e-12 if dtype == torch.float64 else 1e-6
    assert_allclose(seen["values"] / scale, expected / scale, atol=tolerance)
    # What is called rounding covers it, and is far below what draws differ by.
    assert (np.abs(seen["values"] - expected) < seen["noise"][:, None]).all()
    assert (seen["noise"] < 1e-4 * expected.std(1)).all()

    w = np.array(weights) / sum(weights)
    rejected, each = reference.algorithm_1(expected, w, 40, 0.2)
    assert result.rejected == rejected
    assert [test.rejected for test in result.tests] == list(each)
    assert_allclose([test.statistic for test in result.tests], expected[:, 0], 1e-5)
    assert_allclose([test.weight for test in result.tests], w)
    ranks = [
        (row[:41] > row[0] - 1e-6 * s).mean()
        for row, s in zip(expected, scale[:, 0], strict=True)
    ]
    assert_allclose([test.p_value for test in result.tests], ranks)


@given(
    seed=st.integers(0, 10**6),
    kernels=st.integers(1, 5),
    first=st.integers(1, 60),
    rest=st.integers(20, 60),
    alpha=st.sampled_from([0.05, 0.1, 0.5, 0.9]),
    ties=st.booleans(),
    shift=st.sampled_from([0.0, 2.0, 5.0]),
)
def test_the_closed_form_is_the_bisection(
    seed, kernels, first, rest, alpha, ties, shift
):
    rng = np.random.default_rng(seed)
    values = rng.normal(size=(kernels, 1 + first + rest))
    values += rng.normal(size=(1, 1 + first + rest))  # kernels resemble each other
    values[:, 0] += shift
    if ties:
        values = values.round()
    weights = rng.random(kernels) + 0.1
    weights /= weights.sum()
    noise = torch.full((kernels,), 1e-8, dtype=torch.float64)
    found = aggregate(torch.tensor(values), noise, list(weights), first, alpha)
    rejected, each = reference.algorithm_1(values, weights, first, alpha)
    assert (found.p_value <= alpha) == rejected
    assert found.rejected == list(each)
    # The authors' code leaves the data out when it counts.
    theirs, _ = reference.algorithm_1(values, weights, first, alpha, count_data=False)
    assert (round(found.p_value * (rest + 1) - 1) / rest <= alpha) == theirs
    # The same, told by statistics, by p-values and by levels.
    data = values[:, 0]
    assert list(data > np.array(found.thresholds)) == found.rejected
    assert list(np.array(found.p_values) < np.array(found.levels)) == found.rejected
    assert found.rejected[found.clearest] == rejected


def test_the_p_value_is_the_smallest_level_that_rejects():
    x, y = samples(30, 30, shift=0.3)
    options = {"kernels": "gaussian", "level_draws": 199, "quantile_draws": 199}
    p_value = mmd_agg(x, y, generator=seeded(), **options).p_value
    assert 0.01 < p_value < 0.9
    for alpha, verdict in ((p_value, True), (p_value - 1e-9, False)):
        result = mmd_agg(x, y, generator=seeded(), alpha=alpha, **options)
        assert result.rejected == verdict
        assert result.p_value == p_value
        assert (result.statistic > result.threshold) == verdict
        assert any(test.rejected for test in result.tests) == verdict


def test_the_clearest_of_many_is_the_furthest_in_standard_deviations():
    """Where all p-values are the smallest there is; scales of kernels do not count."""
    rng = np.random.default_rng(0)
    values = rng.normal(size=(3, 100))
    values[:, 0] = 30.0, 90.0, 60.0
    values *= np.array([[100.0], [1.0], [10.0]])
    noise = torch.full((3,), 1e-8, dtype=torch.float64)
    found = aggregate(torch.tensor(values), noise, [1 / 3] * 3, 50, 0.1)
    assert len(set(found.p_values)) == 1
    assert found.clearest == 1


@given(seed=st.integers(0, 10**6), shift=st.sampled_from([0.0, 0.5, 1.5]))
def test_all_ways_to_tell_the_verdict_agree(seed, shift):
    x, y = samples(12, 9, shift=shift, seed=seed)
    result = mmd_agg(
        x, y, quantile_draws=99, level_draws=99, num_bandwidths=3, generator=seeded()
    )
    assert result.rejected == (result.p_value <= result.alpha)
    assert result.rejected == (result.statistic > result.threshold)
    assert result.rejected == any(test.rejected for test in result.tests)
    for test in result.tests:
        assert test.rejected == (test.statistic > test.threshold)
        assert test.rejected == (test.p_value < test.level)
    clearest = min(test.p_value / test.weight for test in result.tests)
    (own,) = (test for test in result.tests if test.kernel is result.kernel)
    assert own.p_value / own.weight == pytest.approx(clearest)
    assert (own.statistic, own.threshold) == (result.statistic, result.threshold)


# ------------------------------------------------------------------ published values


def test_the_example_of_mmdagg():
    """README of github.com/antoninschrab/mmdagg, commit baca0a9, its numpy version."""
    rs = np.random.RandomState(0)
    x = torch.from_numpy(rs.uniform(0, 1, (500, 10)))
    y = torch.from_numpy(rs.uniform(0, 1, (500, 10)) + 1)
    kernel = xl.LaplacianKernel(2.42038079739479, norm=1)
    result = mmd_agg(x, y, kernels=kernel, generator=seeded())
    assert result.statistic == pytest.approx(122196.9529089949 / (500 * 499), rel=1e-12)
    assert result.tests[0].p_value == 0.0004997501249375312


def test_the_example_of_agginc():
    """README of github.com/antoninschrab/agginc, commit 7c3cb8e, `inc("mmd", …)`."""
    rs = np.random.RandomState(0)
    x = torch.from_numpy(rs.randn(500, 10))
    y = torch.from_numpy(rs.randn(500, 10) + 1)
    kernel = xl.GaussianKernel(5.286007689131921 / 2**0.5)
    result = mmd_agg(
        x, y, kernels=kernel, num_diagonals=200, quantile_draws=500, generator=seeded()
    )
    assert result.statistic == pytest.approx(0.28101008856766124, rel=1e-12)


# ------------------------------------------------------------------ random numbers


def test_a_generator_is_all_it_draws_from():
    x, y = samples(20, 15, shift=0.5)
    state = torch.get_rng_state()
    first, again, other = (mmd_agg(x, y, generator=seeded(seed)) for seed in (0, 0, 1))
    assert torch.equal(torch.get_rng_state(), state)
    assert first.p_value == again.p_value
    assert [t.threshold for t in first.tests] == [t.threshold for t in again.tests]
    assert [t.threshold for t in first.tests] != [t.threshold for t in other.tests]


def test_without_one_it_draws_from_the_default():
    x, y = samples(20, 20, shift=0.5)
    results = []
    for seed in (0, 0, 1):
        torch.manual_seed(seed)
        results.append([test.threshold for test in mmd_agg(x, y).tests])
    assert results[0] == results[1] != results[2]


# ------------------------------------------------------------------ degenerate samples


@pytest.mark.parametrize(
    ("x", "y"),
    [
        (torch.zeros(5, 3), torch.zeros(5, 3)),
        (torch.zeros(5, 3), torch.zeros(4, 3)),
        (torch.full((6, 2), 1e6), torch.full((6, 2), 1e6)),
        (torch.full((3, 2), 0.1), torch.full((8, 2), 0.1)),
        (torch.arange(12.0).view(6, 2), torch.arange(12.0).view(6, 2)),
        (torch.eye(2), torch.eye(2)),
    ],
    ids=["zeros", "zeros, unequal", "constants", "constants, unequal", "equal", "two"],
)
@pytest.mark.parametrize("kernels", [("laplace", "gaussian"), KERNELS[:5]])
def test_what_no_draw_can_tell_apart_has_a_p_value_of_one(x, y, kernels):
    """All draws are equal, though not to the last bit: so is the data."""
    result = mmd_agg(x, y, kernels=kernels, generator=seeded())
    assert result.p_value == 1
    assert not result.rejected
    assert np.isfinite([test.statistic for test in result.tests]).all()


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize(
    ("n", "options", "distinct"),
    [
        (2, {}, 2),
        (4, {}, 8),
        (6, {}, 32),
        (2, {"resampling": "permutation"}, 3),
        (3, {"resampling": "permutation"}, 10),
    ],
)
def test_of_few_rows_the_p_value_counts_ties(n, options, distinct, dtype):
    """Far apart, only draws that are the data again reach its statistic."""
    x, y = samples(n, n, columns=5, dtype=dtype)
    count = 4000
    result = mmd_agg(
        x,
        y + 100,
        kernels=xl.GaussianKernel(3.0),
        quantile_draws=count,
        level_draws=count,
        generator=seeded(),
        **options,
    )
    share = 1 / distinct
    error = 5 * (share * (1 - share) / count) ** 0.5
    assert result.tests[0].p_value == pytest.approx(share, abs=error)
    assert result.p_value == pytest.approx(share, abs=error)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("m", [40, 25])
def test_rows_that_repeat_make_ties(m, dtype):
    """Two values only: few draws differ, and half or so reach the median one."""
    x, y = torch.zeros(40, 4, dtype=dtype), torch.zeros(m, 4, dtype=dtype)
    x[::2] = y[::2] = 0.3
    result = mmd_agg(x, y, generator=seeded())
    assert result.p_value > 0.9
    y[:] = 0.3
    assert mmd_agg(x, y, generator=seeded()).rejected


def test_one_scene_alone_tells_nothing():
    x, y = samples(20, 20, shift=5.0)
    result = mmd_agg(x, y, paired=True, ids=torch.zeros(20, dtype=torch.int64))
    assert result.p_value == 1


@pytest.mark.parametrize("alpha", [1e-12, 1 - 1e-12])
def test_levels_near_the_ends(alpha):
    x, y = samples(20, 20, shift=5.0)
    if alpha < 0.5:
        with pytest.raises(ValueError, match="level_draws must be"):
            mmd_agg(x, y, alpha=alpha)
        return
    assert mmd_agg(x, x, alpha=alpha).p_value == 1
    assert not mmd_agg(x, x, alpha=alpha).rejected
    assert mmd_agg(x, y, alpha=alpha).rejected


@pytest.mark.parametrize(("count", "verdict"), [(19, True), (18, None)])
def test_the_smallest_number_of_draws(count, verdict):
    x, y = samples(30, 30, shift=5.0)
    options = {"kernels": xl.GaussianKernel(2.0), "generator": seeded()}
    if verdict is None:
        with pytest.raises(ValueError, match="level_draws must be"):
            mmd_agg(x, y, level_draws=count, **options)
    else:
        result = mmd_agg(x, y, level_draws=count, **options)
        assert result.p_value == 0.05
        assert result.rejected


# ------------------------------------------------------------------ precision


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float32])
@pytest.mark.parametrize("m", [30, 20])
def test_narrow_inputs_are_as_good_as_wide_ones(dtype, m):
    x, y = samples(30, m, shift=0.4, dtype=dtype)
    narrow, wide = (
        mmd_agg(x.to(d), y.to(d), generator=seeded()) for d in (dtype, torch.float64)
    )
    assert narrow.p_value == pytest.approx(wide.p_value, abs=2e-3)
    for one, other in zip(narrow.tests, wide.tests, strict=True):
        assert one.statistic == pytest.approx(other.statistic, rel=1e-4, abs=1e-6)
        assert one.p_value == pytest.approx(other.p_value, abs=2e-3)


@pytest.mark.parametrize("m", [30, 20])
def test_far_from_the_origin(m):
    x, y = samples(30, m, shift=0.4)
    near, far = (
        mmd_agg((x + c).float(), (y + c).float(), generator=seeded()) for c in (0, 1e3)
    )
    for one, other in zip(near.tests, far.tests, strict=True):
        assert one.statistic == pytest.approx(other.statistic, rel=1e-2, abs=1e-4)


def test_autocast_changes_nothing():
    x, y = samples(30, 20, shift=0.4, dtype=torch.float32)
    plain = mmd_agg(x, y, generator=seeded())
    with torch.autocast("cpu", torch.bfloat16):
        assert mmd_agg(x, y, generator=seeded()).statistic == plain.statistic


def test_inputs_with_a_gradient_are_as_good():
    x, y = samples(12, 10)
    plain = mmd_agg(x, y, generator=seeded())
    kernel = xl.GaussianKernel(torch.nn.Parameter(torch.tensor(1.0)))
    mmd_agg(x.requires_grad_(), y, kernels=kernel)
    assert mmd_agg(x, y, generator=seeded()).statistic == plain.statistic
    assert x.grad is None


# ------------------------------------------------------------------ cost


@pytest.mark.parametrize(
    ("m", "options"), [(300, {}), (200, {}), (300, {"num_diagonals": 20})]
)
def test_no_matrix_is_held(m, options):
    x, y = samples(300, m, dtype=torch.float32, columns=2)
    kernels = [xl.GaussianKernel(1.0 + i) for i in range(3)]
    work = Work()
    count = {"quantile_draws": 50, "level_draws": 49}
    with work:
        mmd_agg(x, y, kernels=kernels, chunk_size=32, **count, **options)
    rows = 300 + (m if m != 300 else 0)
    # All signs, and the distances that the median... of nothing: numbers are given.
    assert work.largest == rows * 100
    # Half of the pairs, and what tiles on the diagonal have too much.
    columns = rows if not options else 2 * (20 + 32)
    assert work.multiply_adds < 3 * 100 * rows * (columns + 64) / 2 + 50 * rows**2


@pytest.mark.parametrize("part", [False, True])
def test_no_tensor_has_an_entry_for_every_column_of_every_pair(part):
    """The L1 distance of a loss goes through one, for its gradient."""
    x, y = samples(64, 64, columns=500, dtype=torch.float32)
    kernel = xl.LaplacianKernel(20.0, norm=1)
    if part:
        kernel = xl.JointKernel([kernel, xl.GaussianKernel(1.0)], [499, 1])
    work = Work()
    with work:
        mmd_agg(x, y, kernels=kernel, quantile_draws=20, level_draws=19)
    assert work.largest == 128 * 500


@pytest.mark.cuda
@pytest.mark.parametrize("m", [300, 200])
def test_on_cuda_the_draws_of_a_cpu_generator_are_the_same(m):
    x, y = samples(300, m, shift=0.15, dtype=torch.float32)
    here = mmd_agg(x, y, generator=seeded())
    there = mmd_agg(x.cuda(), y.cuda(), generator=seeded())
    assert there.p_value == pytest.approx(here.p_value, abs=2e-3)
    for one, other in zip(here.tests, there.tests, strict=True):
        assert one.statistic == pytest.approx(other.statistic, rel=1e-3, abs=1e-6)
        assert one.threshold == pytest.approx(other.threshold, rel=1e-2, abs=1e-5)
    generator = torch.Generator("cuda").manual_seed(0)
    assert mmd_agg(x.cuda(), y.cuda() + 1, generator=generator).rejected


# ------------------------------------------------------------------ the result


def test_it_says_so_in_words():
    x, y = samples(40, 40)
    result = mmd_agg(x, y, paired=True, generator=seeded())
    first, second, third = str(result).splitlines()
    assert first == (
        f"MMDAgg: no difference found (p = {result.p_value:.4g} > 0.05), which does "
        "not prove that there is none."
    )
    assert second == (
        "40 pairs; wild bootstrap, 2000 + 2000 draws; 0 of 20 kernels reject."
    )
    assert re.fullmatch(
        r"Clearest: \w+Kernel\(bandwidth=[\d.]{1,6}(, norm=1)?\), squared MMD "
        r"-?[\d.e-]+ <= [\d.e-]+\.",
        third,
    )

    result = mmd_agg(
        x, y[:30] + 2, alpha=0.1, kernels=xl.GaussianKernel("median", factor=2.0)
    )
    first, second, third = str(result).splitlines()
    assert re.fullmatch(r"MMDAgg: the samples differ \(p = [\d.e-]+ <= 0.1\)\.", first)
    assert second == (
        "40 and 30 rows; permutation, 2000 + 2000 draws; 1 of 1 kernel rejects."
    )
    assert "GaussianKernel(bandwidth='median', factor=2)" in third
    assert " > " in third

    ids = torch.arange(40) // 4
    result = mmd_agg(x, y, paired=True, ids=ids, num_diagonals=8)
    assert (
        str(result)
        .splitlines()[1]
        .startswith("40 pairs of 10 ids; incomplete (8 diagonals), wild bootstrap, ")
    )


def test_results_are_plain_values():
    x, y = samples(10, 8)
    result = mmd_agg(x, y, kernels="gaussian", num_bandwidths=2)
    for copied in (copy.deepcopy(result), pickle.loads(pickle.dumps(result))):
        assert isinstance(copied, MMDAggResult)
        assert copied.p_value == result.p_value
        assert len(copied.tests) == 2
    assert type(result.rejected) is bool
    assert {type(getattr(result, name)) for name in ("p_value", "statistic")} == {float}
    assert (result.n, result.m, result.paired) == (10, 8, False)
    assert (result.resampling, result.num_diagonals) == ("permutation", None)
    assert "tests" not in repr(result)
    with pytest.raises(AttributeError):
        result.p_value = 0.0
