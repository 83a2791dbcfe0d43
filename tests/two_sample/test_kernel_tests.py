"""Tests with a kernel: what is relabelled, the p-value, the level, the power."""

import copy
import json
import pickle
from itertools import combinations, product

import numpy as np
import pytest
import torch
from numpy.testing import assert_allclose
from scipy.stats import binom

import xmodal_losses as xl
import xmodal_losses.functional as F
from benchmarks import blob, common
from harness import two_samples
from test_documents import text
from tolerances import SAME
from xmodal_losses import two_sample
from xmodal_losses.distribution.gram import gram
from xmodal_losses.two_sample import relabelling


def seeded(seed=0):
    return torch.Generator().manual_seed(seed)


# What is relabelled ---------------------------------------------------------------


@pytest.mark.parametrize("rows", [(4, 3), (4, 4), (2, 5)])
def test_relabelled_pools_are_estimates_of_relabelled_rows(rows):
    """All values that occur are those of the partitions of the pool, and all occur."""
    x, y = two_samples(rows)
    kernel = xl.GaussianKernel("mean")
    pool, (n, m) = torch.cat((x, y)), rows
    expected = set()
    for chosen in combinations(range(n + m), n):
        rest = [i for i in range(n + m) if i not in chosen]
        value = F.mmd(
            pool[list(chosen)], pool[rest], kernel=kernel, estimator="unbiased"
        )
        expected.add(round(value.item(), 10))
    found = relabelling._relabelled(gram(kernel, x, y), 2000, seeded())
    assert_allclose(found[0], F.mmd(x, y, kernel=kernel, estimator="unbiased"), **SAME)
    assert {round(value, 10) for value in found[1:].tolist()} == expected


def test_exchanged_pairs_are_estimates_of_exchanged_pairs():
    x, y = two_samples((5, 5))
    kernel = xl.GaussianKernel(1.1)
    expected = set()
    for flips in product((False, True), repeat=5):
        flip = torch.tensor(flips)[:, None]
        a, b = torch.where(flip, y, x), torch.where(flip, x, y)
        value = F.mmd(a, b, kernel=kernel, estimator="paired")
        expected.add(round(value.item(), 10))
    found = relabelling._exchanged(gram(kernel, x, y), 2000, seeded())
    assert_allclose(found[0], F.mmd(x, y, kernel=kernel, estimator="paired"), **SAME)
    assert {round(value, 10) for value in found[1:].tolist()} == expected


@pytest.mark.parametrize("rows", [(3, 2), (3, 3)])
def test_partitions_are_drawn_alike(rows):
    x, y = two_samples(rows)
    found = relabelling._relabelled(gram(xl.GaussianKernel(1.0), x, y), 20000, seeded())
    _, counts = np.unique(found[1:].numpy().round(10), return_counts=True)
    share = counts / counts.sum()
    assert_allclose(share, 1 / len(share), atol=0.015)
    assert len(share) == 10  # 5 over 3; of 6 over 3 the half that no swap relates


def test_pairs_are_exchanged_half_of_the_time():
    x, y = two_samples((3, 3))
    found = relabelling._exchanged(gram(xl.GaussianKernel(1.0), x, y), 20000, seeded())
    _, counts = np.unique(found[1:].numpy().round(10), return_counts=True)
    assert_allclose(counts / counts.sum(), 1 / 4, atol=0.015)


# The result -----------------------------------------------------------------------


@pytest.mark.parametrize("paired", [False, True])
def test_the_p_value_counts_what_was_found(paired):
    x, y = two_samples((12, 12))
    y = (y - 0.4) / 1.5  # of one law with x
    result = two_sample.kernel_test(
        x, y, xl.GaussianKernel(1.0), permutations=79, paired=paired, generator=seeded()
    )
    estimator = "paired" if paired else "unbiased"
    value = F.mmd(x, y, kernel=xl.GaussianKernel(1.0), estimator=estimator)
    assert_allclose(result.statistic, value, rtol=1e-10)
    assert result.null.shape == (79,)
    reached = int((result.null >= result.statistic).sum())
    assert result.p_value == (1 + reached) / 80
    assert 0 < reached < 79
    assert (result.n, result.m, result.paired) == (12, 12, paired)
    for alpha in (result.p_value, result.p_value - 1e-9):
        again = two_sample.kernel_test(
            x,
            y,
            xl.GaussianKernel(1.0),
            permutations=79,
            paired=paired,
            alpha=alpha,
            generator=seeded(),
        )
        assert again.p_value == result.p_value
        assert again.rejected is (alpha == result.p_value)
        assert again.rejected is (again.statistic > again.threshold)


@pytest.mark.parametrize("paired", [False, True])
@pytest.mark.parametrize("kernel", [xl.GaussianKernel(1.0), xl.LinearKernel()])
def test_all_ways_to_tell_the_verdict_agree(kernel, paired):
    """At every level, with ties among few rows as well."""
    generator = seeded(6)
    for rows, shift in ((3, 9.0), (8, 1.0), (8, 0.0)):
        x, y = torch.randn(2, rows, 2, generator=generator)
        for alpha in (0.05, 0.1, 0.29, 0.5, 0.7, 0.99):
            result = two_sample.kernel_test(
                x, y + shift, kernel, alpha=alpha, permutations=99, paired=paired
            )
            assert result.rejected is (result.p_value <= alpha)
            assert result.rejected is (result.statistic > result.threshold)
            above = int((result.null >= result.threshold).sum())
            assert above <= alpha * 100


def test_it_says_so_in_words():
    z = torch.zeros(9, 2)
    options = {"permutations": 19, "generator": seeded()}
    found = two_sample.kernel_test(z, z + 1, xl.GaussianKernel(1.0), **options)
    assert str(found) == (
        "Kernel test: the samples differ (p = 0.05 <= 0.05).\n"
        f"9 and 9 rows; 19 permutations; squared MMD {found.statistic:.4g} > "
        f"{found.threshold:.4g}."
    )
    found = two_sample.kernel_test(z, z, xl.LinearKernel(), paired=True, **options)
    assert str(found) == (
        "Kernel test: no difference found (p = 1 > 0.05), which does not prove that "
        "there is none.\n9 pairs; 19 swaps of pairs; squared MMD 0 <= 0."
    )


def test_results_are_plain_values():
    x, y = two_samples((9, 7))
    result = two_sample.kernel_test(x.requires_grad_(), y, xl.GaussianKernel(1.0))
    for copied in (copy.deepcopy(result), pickle.loads(pickle.dumps(result))):
        assert isinstance(copied, two_sample.KernelTestResult)
        assert copied.p_value == result.p_value
        assert torch.equal(copied.null, result.null)
    assert type(result.rejected) is bool
    for name in ("p_value", "statistic", "threshold"):
        assert type(getattr(result, name)) is float
    assert not result.null.requires_grad
    assert "null" not in repr(result)
    with pytest.raises(AttributeError):
        result.p_value = 0.0


@pytest.mark.parametrize("paired", [False, True])
def test_equal_rows_reject_nothing(paired):
    """All relabelled estimates are one number; rounding does not tell them apart."""
    for value in (0.0, 0.7, 1e3):
        z = torch.full((7, 3), value)
        for kernel in (
            xl.GaussianKernel(1.0),
            xl.PolynomialKernel(),
            xl.EnergyKernel(),
        ):
            result = two_sample.kernel_test(z, z, kernel, paired=paired)
            assert result.p_value == 1.0
            assert not result.rejected


@pytest.mark.parametrize("paired", [False, True])
@pytest.mark.parametrize(("rows", "columns"), [(7, 64), (7, 257), (37, 3)])
def test_rows_in_another_order_reject_nothing(rows, columns, paired):
    """In float32, where sums depend on where in a matrix a row stands."""
    generator = seeded(7)
    z, two = torch.randn(rows, columns, generator=generator), torch.arange(rows) % 2
    samples = [(z, z.flip(0)), (z[two], z[1 - two])]
    if not paired:
        samples.append((z[0].repeat(rows, 1), z[0].repeat(rows + 5, 1)))
    for kernel in (
        xl.GaussianKernel("mean"),
        xl.GaussianKernel(1.0),
        xl.PolynomialKernel(),
        xl.LinearKernel(),
        xl.EnergyKernel(),
    ):
        for x, y in samples:
            result = two_sample.kernel_test(
                x, y, kernel, paired=paired, generator=seeded()
            )
            assert result.p_value == 1.0


@pytest.mark.parametrize("scale", [1e-30, 1e30])
def test_the_scale_of_the_features_does_not_matter(scale):
    x, y = (z.float() for z in two_samples((12, 9)))
    kernel = xl.GaussianKernel("mean")
    one, other = (
        two_sample.kernel_test(c * x, c * y, kernel, generator=seeded())
        for c in (1, scale)
    )
    assert one.p_value == other.p_value
    assert_allclose(other.statistic, one.statistic, rtol=1e-5)


def test_narrow_inputs_are_as_good_as_wide_ones():
    x, y = (z.half() for z in two_samples((12, 9)))
    kernel = xl.GaussianKernel("mean")
    narrow, wide, mixed = (
        two_sample.kernel_test(x.to(a), y.to(b), kernel, generator=seeded())
        for a, b in (
            (torch.half, torch.half),
            (torch.double, torch.double),
            (torch.half, torch.double),
        )
    )
    assert narrow.statistic == wide.statistic == mixed.statistic
    assert narrow.p_value == wide.p_value == mixed.p_value


def test_ties_count_as_reached():
    """Of three and three rows one in ten partitions is the one that was found."""
    x, y = (z.float() for z in two_samples((3, 3)))
    result = two_sample.kernel_test(
        x - 9, y, xl.GaussianKernel("mean"), permutations=20000, generator=seeded()
    )
    assert_allclose(result.p_value, 0.1, atol=0.01)


def test_the_kernel_is_left_as_it_was():
    x, y = (z.float() for z in two_samples((9, 9)))
    network = torch.nn.Sequential(torch.nn.Linear(3, 4), torch.nn.Dropout(0.9))
    kernel = xl.DeepKernel(network)
    first, second = (
        two_sample.kernel_test(x, y, kernel, generator=seeded()) for _ in range(2)
    )
    assert first.statistic == second.statistic
    assert kernel.training
    assert network[1].training
    assert all(p.grad is None for p in kernel.parameters())
    kernel.eval()
    two_sample.kernel_test(x, y, kernel)
    assert not network.training


# Level and power ------------------------------------------------------------------


def within(count, trials, probability, tail=1e-4):
    low, high = binom.ppf((tail, 1 - tail), trials, probability)
    return low <= count <= high


@pytest.mark.parametrize("rows", [(10, 10), (12, 6)])
def test_level_of_independent_batches(rows):
    generator, kernel = seeded(1), xl.GaussianKernel("median")
    count = 0
    for _ in range(500):
        x, y = torch.randn(sum(rows), 2, generator=generator).split(rows)
        count += two_sample.kernel_test(
            x, y, kernel, permutations=39, generator=generator
        ).rejected
    assert within(count, 500, 0.05)


def test_level_of_pairs():
    """Strongly correlated: a relabelled pool hardly ever rejects, exchanges do."""
    generator, kernel = seeded(2), xl.GaussianKernel("median")
    counts = {True: 0, False: 0}
    for _ in range(400):
        scene = torch.randn(12, 2, generator=generator)
        x, y = (scene + 0.3 * torch.randn(12, 2, generator=generator) for _ in range(2))
        for paired in counts:
            counts[paired] += two_sample.kernel_test(
                x, y, kernel, permutations=39, paired=paired, generator=generator
            ).rejected
    assert within(counts[True], 400, 0.05)
    assert counts[False] <= 2


def test_power_of_pairs():
    """A small shift of one modality, seen by exchanges alone."""
    generator, kernel = seeded(3), xl.GaussianKernel("median")
    counts = {True: 0, False: 0}
    for _ in range(40):
        scene = torch.randn(20, 2, generator=generator)
        x, y = (scene + 0.3 * torch.randn(20, 2, generator=generator) for _ in range(2))
        for paired in counts:
            counts[paired] += two_sample.kernel_test(
                x, y + 0.35, kernel, permutations=99, paired=paired, generator=generator
            ).rejected
    assert counts[True] >= 25
    assert counts[False] <= 5


@pytest.mark.parametrize("paired", [False, True])
def test_level_of_a_kernel_that_is_learned(paired):
    """The rows it is learned on are not those it tests."""
    generator = seeded(4)
    count = 0
    for _ in range(120):
        x, y = torch.randn(2, 24, 2, generator=generator)
        kernel = xl.DeepKernel(torch.nn.Linear(2, 3))
        adam = torch.optim.Adam(kernel.parameters(), lr=0.1)
        count += two_sample.deep_kernel_test(
            x,
            y,
            kernel,
            optimizer=adam,
            steps=5,
            permutations=19,
            paired=paired,
            generator=generator,
        ).rejected
    assert within(count, 120, 0.05)


def test_learning_on_what_is_tested_is_no_test():
    """That the test above could fail."""
    generator = seeded(5)
    count = 0
    for _ in range(20):
        x, y = torch.randn(2, 12, 2, generator=generator)
        network = torch.nn.Sequential(
            torch.nn.Linear(2, 16), torch.nn.Tanh(), torch.nn.Linear(16, 4)
        )
        kernel = xl.DeepKernel(network)
        adam = torch.optim.Adam(kernel.parameters(), lr=0.05)
        two_sample.fit_kernel(x, y, kernel, optimizer=adam, steps=30)
        count += two_sample.kernel_test(
            x, y, kernel, permutations=19, generator=generator
        ).rejected
    assert not within(count, 20, 0.05)


@pytest.mark.slow
def test_blobs_small():
    """Of the paper's data: learning gives a kernel power that it did not have."""
    kernel = blob.start_of("drawn", 3, 200)

    def rejected():
        return sum(
            two_sample.kernel_test(
                *blob.blobs(200, seed), kernel, permutations=99, generator=seeded()
            ).rejected
            for seed in range(10)
        )

    before = rejected()
    adam = torch.optim.Adam(kernel.parameters(), lr=2e-3)
    history = two_sample.fit_kernel(
        *blob.blobs(200, 77), kernel, optimizer=adam, steps=400
    )
    assert history[-1] > history[0]
    assert rejected() >= before + 4


def test_blobs_are_of_their_laws():
    x, y = blob.blobs(100_000, 0)
    for z in (x, y):
        assert_allclose(z.mean(0), [1, 1], atol=0.02)
    for mode, sign in ((0, -1), (8, 1)):
        centre = torch.tensor([mode // 3, mode % 3])
        own = [(z - centre)[((z - centre).abs() < 0.5).all(1)] for z in (x, y)]
        assert sign * np.corrcoef(own[1].T)[0, 1] > 0.4
        assert abs(np.corrcoef(own[0].T)[0, 1]) < 0.02
    same = blob.blobs(100_000, 0, equal=True)[1]
    assert_allclose(torch.cov(same.T), torch.cov(x.T), atol=0.02)


# Parts ----------------------------------------------------------------------------


@pytest.mark.parametrize("fraction", [0.5, 0.3, 0.01, 0.99])
def test_parts_are_the_whole(fraction):
    x, y = torch.arange(9.0)[:, None], torch.arange(6.0)[:, None]
    train_a, train_b, test_a, test_b = two_sample.split(
        x, y, fraction=fraction, generator=seeded()
    )
    for z, train, test in ((x, train_a, test_a), (y, train_b, test_b)):
        assert min(len(train), len(test)) >= 2
        expected = min(max(round(fraction * len(z)), 2), len(z) - 2)
        assert len(train) == expected
        assert torch.equal(torch.cat((train, test)).sort(0).values, z)
    again = two_sample.split(x, y, fraction=fraction, generator=seeded())
    assert torch.equal(again.test_a, test_a)


def test_parts_of_pairs_are_pairs():
    x = torch.arange(9.0)[:, None]
    parts = two_sample.split(x, x + 100, paired=True, generator=seeded())
    assert torch.equal(parts.train_a + 100, parts.train_b)
    assert torch.equal(parts.test_a + 100, parts.test_b)
    parts = two_sample.split(x, x + 100, generator=seeded())
    assert not torch.equal(parts.train_a + 100, parts.train_b)


def test_all_in_one_is_its_parts():
    x, y = (z.float() for z in two_samples((20, 16), dim=2))
    results = []
    for whole in (True, False):
        torch.manual_seed(0)
        kernel, generator = xl.DeepKernel(torch.nn.Linear(2, 3)), seeded()
        if whole:
            results.append(
                two_sample.deep_kernel_test(
                    x, y, kernel, steps=3, batch_size=6, generator=generator
                )
            )
            continue
        parts = two_sample.split(x, y, generator=generator)
        two_sample.fit_kernel(
            *parts[:2], kernel, steps=3, batch_size=6, generator=generator
        )
        results.append(two_sample.kernel_test(*parts[2:], kernel, generator=generator))
    assert str(results[0]) == str(results[1])
    assert torch.equal(results[0].null, results[1].null)
    assert (results[0].n, results[0].m) == (10, 8)


def test_bad_options_are_refused():
    x, y = two_samples((8, 8))
    kernel = xl.GaussianKernel(1.0, learn=True)
    tests = (two_sample.kernel_test, two_sample.deep_kernel_test)
    for test, options in product(
        tests,
        (
            {"alpha": 0.0},
            {"alpha": 1.0},
            {"permutations": 0},
            {"permutations": 18},  # p ≤ 0.05 could not be reached
        ),
    ):
        (name,) = options
        with pytest.raises(ValueError, match=rf"^{test.__name__}: {name} must be"):
            test(x, y, kernel, **options)
    for test in tests:
        with pytest.raises(
            TypeError, match=rf"^{test.__name__}: paired must be True or"
        ):
            test(x, y, kernel, paired="yes")
        with pytest.raises(
            ValueError, match=rf"^{test.__name__}: z_a and z_b must have"
        ):
            test(x, y[:5], kernel, paired=True)
        with pytest.raises(
            ValueError, match=rf"^{test.__name__}: z_a must be one batch"
        ):
            test(x[None], y[None], kernel)
        with pytest.raises(TypeError, match=rf"^{test.__name__}: generator must be a"):
            test(x, y, kernel, generator=0)
    with pytest.raises(
        ValueError, match=r"^deep_kernel_test: z_b must have at least 4"
    ):
        two_sample.deep_kernel_test(x, y[:3], kernel)
    with pytest.raises(
        ValueError, match=r"^split: fraction must be a finite number > 0"
    ):
        two_sample.split(x, y, fraction=1.0)
    with pytest.raises(ValueError, match=r"^split: z_a must be one batch"):
        two_sample.split(x[None], y[None])


@pytest.mark.parametrize("bad", [torch.nan, torch.inf])
def test_what_is_not_finite_has_no_verdict(bad):
    """With NaN for an estimate, no relabelled one would reach it."""
    x, y = two_samples((8, 8))
    y[3, 1] = bad
    learned = xl.GaussianKernel(1.0, learn=True)
    for function, kernel in (
        (two_sample.kernel_test, xl.GaussianKernel(1.0)),
        (two_sample.deep_kernel_test, learned),
        (two_sample.fit_kernel, learned),
        (two_sample.fit_weights, xl.MultiKernel([xl.GaussianKernel(1.0)])),
        (two_sample.split, None),
    ):
        given = (x, y) if kernel is None else (x, y, kernel)
        with pytest.raises(
            ValueError, match=rf"^{function.__name__}: z_a and z_b must be finite, got"
        ):
            function(*given)


def test_kernels_that_are_not_finite_have_no_verdict():
    x, y = two_samples((8, 8))
    message = "kernel must be finite on the samples, got NaN or infinity. Scale the "
    with pytest.raises(ValueError, match=f"^kernel_test: {message}"):
        two_sample.kernel_test(1e200 * x, y, xl.PolynomialKernel())
    network = torch.nn.Linear(3, 2)
    torch.nn.init.constant_(network.weight, torch.nan)
    with pytest.raises(ValueError, match=f"^kernel_test: {message}"):
        two_sample.kernel_test(x, y, xl.DeepKernel(network), paired=True)
    sums = xl.MultiKernel([xl.GaussianKernel(1.0), xl.PolynomialKernel()])
    with pytest.raises(ValueError, match=f"^fit_weights: {message}"):
        two_sample.fit_weights(1e200 * x, y, sums)


def test_the_page_has_the_blobs_that_were_measured():
    """Both rows of the table, and the power and level within their bands."""
    path = common.RESULTS / "blob--x86_64--cpu.json"
    results = json.loads(path.read_text(encoding="utf-8"))["results"]
    page = text("docs", "deep_kernel.md")
    for start in blob.STARTS:
        runs = [row for row in results if row["start"] == start and "index" in row]
        assert len(runs) == 10
        found = blob.summary(start, runs)
        assert found == next(row for row in results if row["start"] == start)
        assert abs(found["errors_from_published"]) < 2
        assert abs(found["errors_from_level"]) < 2
        shown = (
            f"| {found['power']:.3f} ± {found['standard_error']:.3f} | "
            f"−{-found['errors_from_published']:.1f} | {found['level']:.3f} |"
        )
        assert shown in page
