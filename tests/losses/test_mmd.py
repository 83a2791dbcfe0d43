"""MMD: published values, closed forms, estimators."""

import math

import numpy as np
import pytest
import torch
from numpy.testing import assert_allclose
from scipy.spatial.distance import cdist

import xmodal_losses as xl
import xmodal_losses.functional as F
from harness import Case, to_torch, two_samples, value_and_grad, with_grad
from reference import kernels as reference_kernels
from specs import BY_NAME
from tolerances import SAME, VALUE

SPEC = BY_NAME["mmd"]


# Published values ----------------------------------------------------------------

#: The 11 × 3 samples of FL4Health's tests; kernel exp(-d²/γ).
FL4HEALTH_X = [
    [1, 1, 1], [3, 4, 4], [4, 2, 1], [2, 1, 4], [1, 2, 1], [3, 4, 4],
    [4, 3, 3], [3, 3, 2], [4, 4, 4], [4, 2, 1], [1, 1, 1],
]  # fmt: skip
FL4HEALTH_Y = [
    [4, 3, 4], [1, 2, 2], [3, 4, 1], [1, 4, 2], [4, 2, 4], [4, 1, 2],
    [2, 2, 1], [2, 3, 4], [3, 2, 1], [4, 1, 4], [2, 2, 2],
]  # fmt: skip


@pytest.mark.parametrize(
    ("gamma", "biased", "unbiased", "linear"),
    [
        (2.0, 0.18981420, 0.03005897, -0.23987013),
        (1.0, 0.22556361, 0.05580140, -0.11061533),
        (0.5, 0.23485628, 0.06015535, -0.03122594),
    ],
)
def test_fl4health(gamma, biased, unbiased, linear):
    x, y = (torch.tensor(z, dtype=torch.float64) for z in (FL4HEALTH_X, FL4HEALTH_Y))
    kernel = xl.GaussianKernel(math.sqrt(gamma / 2))
    for estimator, expected in (
        ("biased", biased),
        ("unbiased", unbiased),
        ("linear", linear),
    ):
        value = F.mmd(x, y, kernel=kernel, estimator=estimator)
        assert_allclose(value, expected, atol=6e-9)


@pytest.mark.parametrize(
    ("p", "q", "expected"),
    [
        ((0, 1, 100), (0, 1, 100), 0.00052755),
        ((0, 1, 100), (0, 1, 10), -0.03200193),
        ((0, 1, 10), (0, 1, 100), 0.07154671),
        ((2, 1, 100), (0, 1, 100), 0.43377622),
        ((2, 1, 100), (0, 1, 10), 0.23051378),
        ((2, 1, 10), (0, 1, 100), 0.62530767),
    ],
)
def test_frouros(p, q, expected):
    """frouros' tests: (mean, std, size) under numpy's legacy seed 31, σ = ½."""
    rng = np.random.RandomState(31)
    x, y = (torch.tensor(rng.normal(*d))[:, None] for d in (p, q))
    value = F.mmd(x, y, kernel=xl.GaussianKernel(0.5), estimator="unbiased")
    assert_allclose(value, expected, atol=6e-9)


def test_frouros_two_dimensional():
    rng = np.random.RandomState(31)
    x = rng.multivariate_normal([1, 1], [[2, 0], [0, 2]], size=100)
    y = rng.multivariate_normal([0, 0], [[2, 1], [1, 2]], size=100)
    value = F.mmd(
        torch.tensor(x),
        torch.tensor(y),
        kernel=xl.GaussianKernel(0.5),
        estimator="unbiased",
    )
    assert_allclose(value, 0.02146955300299802, rtol=1e-12)


@pytest.mark.parametrize(
    ("scales", "unbiased", "linear"),
    [
        ((1.0,), -0.27689975, -0.28255676),
        ((0.25, 0.5, 1.0, 2.0, 4.0), -0.25693520, -0.34162847),
    ],
)
def test_pytorch_adapt(scales, unbiased, linear):
    """Kernels exp(-s d²/median), their median distances being 1 and 1."""
    kernel = xl.MultiKernel([xl.GaussianKernel(math.sqrt(1 / (2 * s))) for s in scales])
    x = torch.arange(1.0, 5.0, dtype=torch.float64)[:, None]
    value = F.mmd(x[:3], x[:3] + 1, kernel=kernel, estimator="unbiased")
    assert_allclose(value, unbiased, atol=6e-9)
    value = F.mmd(x, x + 1, kernel=kernel, estimator="linear")
    assert_allclose(value, linear, atol=6e-9)


def test_numpy_and_sklearn_snippet():
    """The widely copied numpy MMD: linear 6.0, rbf (γ = 1) 0.5822, poly 2436.5."""
    a = torch.arange(1.0, 10.0, dtype=torch.float64).reshape(3, 3)
    b = torch.tensor([[7, 6, 5], [4, 3, 2], [1, 1, 8], [0, 2, 5]], dtype=torch.float64)
    assert_allclose(F.mmd(a, b, kernel=xl.LinearKernel()), 6.0, rtol=1e-13)
    value = F.mmd(a, b, kernel=xl.GaussianKernel(math.sqrt(0.5)))
    assert_allclose(value, 0.58220686, atol=6e-9)
    kernel = xl.PolynomialKernel(degree=2, gamma=1.0, coef0=0.0)
    assert_allclose(F.mmd(a, b, kernel=kernel), 2436.5, rtol=1e-13)


# Closed forms --------------------------------------------------------------------


def test_two_points():
    """One point each: 2(1 - k(x, y))."""
    x, y = torch.zeros(1, 3).double(), torch.tensor([[3.0, 0.0, 4.0]]).double()
    value = F.mmd(x, y, kernel=xl.GaussianKernel(5.0))
    assert_allclose(value, 2 * (1 - math.exp(-0.5)), rtol=1e-14)


def test_linear_kernel_is_the_distance_of_the_means():
    x, y = two_samples()
    expected = ((x.mean(0) - y.mean(0)) ** 2).sum()
    value, grad_x, grad_y = with_grad(
        lambda a, b: F.mmd(a, b, kernel=xl.LinearKernel()), x, y
    )
    assert_allclose(value, expected, **VALUE)
    mean = 2 * (x.mean(0) - y.mean(0))
    assert_allclose(grad_x, (mean / 7).expand(7, -1), **VALUE)
    assert_allclose(grad_y, (-mean / 5).expand(5, -1), **VALUE)


def test_quadratic_kernel_is_the_distance_of_two_moments():
    """(x·y + 1)²: 2‖Δμ‖² + ‖Δ E[zzᵀ]‖²_F."""
    x, y = two_samples()
    kernel = xl.PolynomialKernel(degree=2, gamma=1.0, coef0=1.0)
    means = ((x.mean(0) - y.mean(0)) ** 2).sum()
    moments = ((x.T @ x / 7 - y.T @ y / 5) ** 2).sum()
    assert_allclose(F.mmd(x, y, kernel=kernel), 2 * means + moments, **VALUE)


def test_energy_kernel_is_half_the_energy_distance():
    """2E|x-y| - E|x-x'| - E|y-y'| = MMD² of -‖x-y‖ = 2∫(F-G)² in one dimension."""
    stats = pytest.importorskip("scipy.stats")
    x, y = two_samples(dim=1)
    value = F.mmd(x, y, kernel=xl.EnergyKernel())
    expected = stats.energy_distance(x[:, 0], y[:, 0]) ** 2
    assert_allclose(value, expected, rtol=1e-10)


def test_gaussian_populations():
    """N(0, I) against N(m, I): E k in closed form, within Monte-Carlo error."""
    rng = np.random.default_rng(1)
    rows, dim, shift, sigma = 2000, 2, 1.0, 1.0
    x = rng.normal(size=(rows, dim))
    y = rng.normal(size=(rows, dim)) + np.array([shift, 0.0])
    # x - x' ~ N(0, 2I): E exp(-d²/2σ²) = (σ²/(σ²+2))^(D/2) exp(-m²/(2(σ²+2))).
    same = (sigma**2 / (sigma**2 + 2)) ** (dim / 2)
    cross = same * math.exp(-(shift**2) / (2 * (sigma**2 + 2)))
    expected = 2 * same - 2 * cross
    value = F.mmd(
        torch.tensor(x),
        torch.tensor(y),
        kernel=xl.GaussianKernel(sigma),
        estimator="unbiased",
    )
    assert_allclose(value, expected, rtol=0.1)


# Estimators ----------------------------------------------------------------------


@pytest.mark.parametrize("estimator", ["biased", "unbiased", "paired", "linear"])
def test_against_loops_over_distances(estimator):
    x, y = two_samples((6, 6))
    k_xx, k_yy, k_xy = (
        np.exp(-(cdist(u, v) ** 2) / (2 * 1.1**2)) for u, v in ((x, x), (y, y), (x, y))
    )
    if estimator == "biased":
        expected = k_xx.mean() + k_yy.mean() - 2 * k_xy.mean()
    elif estimator == "unbiased":
        off = ~np.eye(6, dtype=bool)
        expected = k_xx[off].mean() + k_yy[off].mean() - 2 * k_xy.mean()
    elif estimator == "paired":
        h = [
            k_xx[i, j] + k_yy[i, j] - k_xy[i, j] - k_xy[j, i]
            for i in range(6)
            for j in range(6)
            if i != j
        ]
        expected = np.mean(h)
    else:
        h = [
            k_xx[i, i + 1] + k_yy[i, i + 1] - k_xy[i, i + 1] - k_xy[i + 1, i]
            for i in (0, 2, 4)
        ]
        expected = np.mean(h)
    value = F.mmd(x, y, kernel=xl.GaussianKernel(1.1), estimator=estimator)
    assert_allclose(value, expected, **VALUE)


def test_biased_and_unbiased():
    """With k(x, x) = 1 the two differ by their diagonals alone."""
    x, y = two_samples()
    kernel = xl.GaussianKernel(1.1)
    gram_x, gram_y, cross = kernel(x, x), kernel(y, y), kernel(x, y)
    xx = (gram_x.sum() - 7) / 42
    yy = (gram_y.sum() - 5) / 20
    biased = 6 / 7 * xx + 4 / 5 * yy + 1 / 7 + 1 / 5 - 2 * cross.mean()
    assert_allclose(F.mmd(x, y, kernel=kernel), biased, **VALUE)
    unbiased = F.mmd(x, y, kernel=kernel, estimator="unbiased")
    assert_allclose(unbiased, xx + yy - 2 * cross.mean(), **VALUE)


@pytest.mark.parametrize("estimator", ["biased", "paired", "block", "linear"])
def test_equal_views_give_zero(estimator):
    """The H statistic is exactly 0 at z_a = z_b; the U statistic is not."""
    x, _ = two_samples((6, 6))
    value, *grads = with_grad(lambda a, b: F.mmd(a, b, estimator=estimator), x, x)
    assert abs(value) < 1e-15
    assert all(grad.abs().max() < 1e-15 for grad in grads)
    assert F.mmd(x, x, estimator="unbiased") < -1e-3


def test_the_paired_estimator_needs_the_pairs():
    x, y = two_samples((6, 6))
    order = torch.tensor([1, 2, 3, 4, 5, 0])
    paired = {"estimator": "paired"}
    both = F.mmd(x[order], y[order], **paired)
    assert_allclose(both, F.mmd(x, y, **paired), **SAME)
    assert abs(F.mmd(x, y[order], **paired) - F.mmd(x, y, **paired)) > 1e-4


def test_the_linear_estimator_ignores_an_odd_last_row():
    x, y = two_samples((7, 7))
    for kernel in (xl.GaussianKernel(1.0), None):
        options = {"estimator": "linear", "kernel": kernel}
        value, grad, _ = with_grad(lambda a, b, o=options: F.mmd(a, b, **o), x, y)
        assert_allclose(value, F.mmd(x[:6], y[:6], **options), **SAME)
        assert (grad[6] == 0).all()


@pytest.mark.parametrize("kernel", [None, xl.LaplacianKernel("median")])
def test_blocks_go_from_linear_to_paired(kernel):
    """B = 2 are pairs of rows, B = N is one block, ⌊√N⌋ what is chosen."""
    x, y = two_samples((9, 9), lead=(2,))

    def of(**options):
        return with_grad(lambda a, b: F.mmd(a, b, kernel=kernel, **options), x, y)

    for size, same in (
        (2, of(estimator="linear")),
        (9, of(estimator="paired")),
        (None, of(estimator="block", block_size=3)),
    ):
        for ours, theirs in zip(
            of(estimator="block", block_size=size), same, strict=True
        ):
            assert_allclose(ours, theirs, **SAME)


def test_a_block_that_is_not_full_does_not_count():
    x, y = two_samples((8, 8))
    options = {"estimator": "block", "block_size": 3, "kernel": xl.GaussianKernel(1.0)}
    value, *grads = with_grad(lambda a, b: F.mmd(a, b, **options), x, y)
    parts = [
        F.mmd(x[i : i + 3], y[i : i + 3], kernel=options["kernel"], estimator="paired")
        for i in (0, 3)
    ]
    assert_allclose(value, sum(parts) / 2, **SAME)
    assert all((grad[6:] == 0).all() for grad in grads)
    assert F.mmd(x[:3], y[:3], estimator="block").isfinite()  # ⌊√3⌋ is not enough


@pytest.mark.parametrize("size", [2, 4, 8])
def test_what_blocks_cost(size):
    """docs/deep_kernel.md: at equality, (N − 1)/(B − 1) times the variance."""
    generator = torch.Generator().manual_seed(0)
    x, y = torch.randn(2, 4000, 32, 2, generator=generator)
    options = {"kernel": xl.GaussianKernel(1.0), "reduction": "none"}
    blocks = F.mmd(x, y, estimator="block", block_size=size, **options)
    paired = F.mmd(x, y, estimator="paired", **options)
    assert_allclose(blocks.var() / paired.var(), 31 / (size - 1), rtol=0.15)


def test_blocks_refuse_what_they_do_not_look_at():
    x, y = two_samples((6, 6))
    for options, message in (
        ({"block_size": 3}, "block_size must be None for estimator='biased', got 3"),
        ({"estimator": "linear", "block_size": 2}, "block_size must be None for estim"),
        ({"estimator": "block", "block_size": 1}, "block_size must be >= 2, got 1"),
        ({"estimator": "block", "block_size": 0}, "block_size must be >= 1, got 0"),
    ):
        with pytest.raises(ValueError, match=f"^mmd: {message}"):
            F.mmd(x, y, **options)
        with pytest.raises(ValueError, match=f"^MMDLoss: {message}"):
            xl.MMDLoss(**options)
    with pytest.raises(
        ValueError, match=r"^mmd: block_size must be at most the number"
    ):
        F.mmd(x, y, estimator="block", block_size=7)
    with pytest.raises(TypeError, match=r"^mmd: block_size must be an integer"):
        F.mmd(x, y, estimator="block", block_size=2.0)
    for name in ("weight_a", "weight_b"):
        with pytest.raises(ValueError, match=r"must be None for estimator='block'"):
            F.mmd(x, y, estimator="block", **{name: torch.ones(6)})
    with pytest.raises(
        ValueError, match=r"^mmd: z_a and z_b must have the same number"
    ):
        F.mmd(x, y[:4], estimator="block")


@pytest.mark.parametrize("estimator", ["biased"])
def test_integer_weights_are_repetitions(estimator):
    x, y = two_samples()
    count = torch.tensor([1, 3, 0, 2, 1, 1, 2])
    kernel = xl.GaussianKernel(1.0)
    weighted = F.mmd(x, y, kernel=kernel, estimator=estimator, weight_a=count.double())
    repeated = F.mmd(x.repeat_interleave(count, 0), y, kernel=kernel)
    assert_allclose(weighted, repeated, **SAME)


def test_weights_of_pairs_multiply():
    case = Case(rows=(6, 6), weighted=True)
    inputs = SPEC.draw(case)
    options = {"estimator": "paired"}
    value, *grads = value_and_grad(SPEC, inputs, **options)
    product = inputs.pop("weight_a") * inputs.pop("weight_b")
    for name in ("weight_a", "weight_b"):
        same, *same_grads = value_and_grad(SPEC, inputs | {name: product}, **options)
        assert_allclose(same, value, **SAME)
        for grad, expected in zip(same_grads, grads, strict=True):
            assert_allclose(grad, expected, **SAME)


@pytest.mark.parametrize("side", ["weight_a", "weight_b"])
def test_half_a_pair_is_no_pair(side):
    """A weight of 0 on either side takes both rows out, whatever they hold."""
    x, y = two_samples((6, 6))
    weight = torch.ones(6, dtype=torch.float64)
    weight[2] = 0
    x[2], y[2] = torch.nan, torch.inf
    keep = weight > 0
    options = {"estimator": "paired"}
    value, *grads = with_grad(
        lambda a, b: F.mmd(a, b, **{side: weight}, **options), x, y
    )
    expected, *references = with_grad(
        lambda a, b: F.mmd(a, b, **options), x[keep], y[keep]
    )
    assert_allclose(value, expected, **SAME)
    for grad, reference in zip(grads, references, strict=True):
        assert (grad[2] == 0).all()
        assert_allclose(grad[keep], reference, **SAME)


def test_weighted_unbiased_is_unbiased():
    """Σ_{i≠j} α_i α_j k/(1 - Σα²): a constant kernel leaves exactly 0."""
    x, y = two_samples()
    weights = {
        "weight_a": torch.rand(7).double() + 0.1,
        "weight_b": torch.rand(5).double() + 0.1,
    }
    constant = xl.PolynomialKernel(degree=1, gamma=1e-30, coef0=2.0)
    value = F.mmd(x, y, kernel=constant, estimator="unbiased", **weights)
    assert abs(value) < 1e-14


@pytest.mark.parametrize("loss", [F.mmd, F.coral])
def test_classes_are_problems_of_one_call(loss):
    """As docs/losses/mmd.md has it: the mean over classes that both have."""
    x, y = two_samples((9, 8))
    of_x = torch.tensor([0, 0, 0, 1, 1, 1, 2, 2, 2])
    of_y = torch.tensor([0, 0, 0, 0, 1, 1, 1, 3])
    each = torch.arange(4)[:, None]

    def together(x, y):
        views = x.expand(4, -1, -1), y.expand(4, -1, -1)
        return loss(*views, weight_a=of_x == each, weight_b=of_y == each)

    def apart(x, y):
        return (loss(x[:3], y[:4]) + loss(x[3:6], y[4:7])) / 2

    for one, other in zip(
        with_grad(together, x, y), with_grad(apart, x, y), strict=True
    ):
        assert_allclose(one, other, rtol=1e-10, atol=1e-13)


def test_the_reference_default_is_the_contract():
    factors = [k.factor for k in reference_kernels.DEFAULT.kernels]
    assert_allclose(np.square(factors), [0.25, 0.5, 1, 2, 4])


def test_drawn_inputs_can_fail():
    """The views of the table differ: no test above compares zeros."""
    assert SPEC(to_torch(SPEC.draw(Case()), grad=False)) > 1e-2
