"""MMD: published values, scikit-learn's kernels, closed forms, estimators, rules."""

import math

import numpy as np
import pytest
import torch
from numpy.testing import assert_allclose
from scipy.spatial.distance import cdist, pdist
from sklearn.metrics import pairwise

import xmodal_losses as xl
import xmodal_losses.functional as F
from reference import kernels as reference_kernels
from specs import BY_NAME, Case, to_torch, value_and_grad
from tolerances import SAME, VALUE

SPEC = BY_NAME["mmd"]


def _views(rows=(7, 5), dim=3, lead=(), seed=0):
    rng = np.random.default_rng(seed)
    z_a = rng.normal(size=(*lead, rows[0], dim))
    return torch.tensor(z_a), torch.tensor(
        rng.normal(size=(*lead, rows[1], dim)) * 1.5 + 0.4
    )


def _with_grad(f, *views):
    views = [z.detach().clone().requires_grad_() for z in views]
    value = f(*views)
    value.backward()
    return value.detach(), *(z.grad for z in views)


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


# Kernels -------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("kernel", "expected"),
    [
        (
            lambda: xl.GaussianKernel(0.8),
            lambda x, y: pairwise.rbf_kernel(x, y, 1 / (2 * 0.64)),
        ),
        (
            lambda: xl.LaplacianKernel(0.8, norm=1),
            lambda x, y: pairwise.laplacian_kernel(x, y, 1 / 0.8),
        ),
        (
            lambda: xl.PolynomialKernel(),
            lambda x, y: pairwise.polynomial_kernel(x, y),
        ),
        (
            lambda: xl.PolynomialKernel(2, gamma=0.3, coef0=0.1),
            lambda x, y: pairwise.polynomial_kernel(x, y, 2, 0.3, 0.1),
        ),
        (lambda: xl.LinearKernel(), pairwise.linear_kernel),
        (lambda: xl.LaplacianKernel(0.8), lambda x, y: np.exp(-cdist(x, y) / 0.8)),
        (lambda: xl.EnergyKernel(), lambda x, y: -cdist(x, y)),
        (
            lambda: xl.InverseMultiquadricKernel(0.8),
            lambda x, y: (1 + cdist(x, y) ** 2 / 0.64) ** -0.5,
        ),
        (
            lambda: xl.RationalQuadraticKernel(0.8, alpha=0.5),
            lambda x, y: (1 + cdist(x, y) ** 2 / 0.64) ** -0.5,
        ),
    ],
)
def test_gram_matrices(kernel, expected):
    """kernel(x, y) is the Gram matrix, over leading dimensions too."""
    x, y = _views(lead=(2,))
    gram = kernel()(x, y)
    assert gram.shape == (2, 7, 5)
    for g, u, v in zip(gram, x.numpy(), y.numpy(), strict=True):
        assert_allclose(g, expected(u, v), rtol=1e-10, atol=1e-12)


@pytest.mark.parametrize("nu", [0.5, 1.5, 2.5])
def test_matern(nu):
    """Against scikit-learn's Matérn, which is written with Bessel functions."""
    gaussian_process = pytest.importorskip("sklearn.gaussian_process.kernels")
    x, y = _views()
    expected = gaussian_process.Matern(length_scale=0.8, nu=nu)(x.numpy(), y.numpy())
    assert_allclose(xl.MaternKernel(0.8, nu=nu)(x, y), expected, rtol=1e-10)


def test_half_integer_identities():
    """Matérn ½ is Laplacian; α → ∞ turns the rational quadratic into a Gaussian."""
    x, y = _views()
    matern, laplacian = xl.MaternKernel(0.8, nu=0.5), xl.LaplacianKernel(0.8)
    assert_allclose(matern(x, y), laplacian(x, y), **SAME)
    rational = xl.RationalQuadraticKernel(0.8, alpha=1e9)(x, y)
    assert_allclose(rational, xl.GaussianKernel(0.8)(x, y), rtol=1e-6)


def test_gram_of_a_sample_with_itself():
    """Distances are exactly 0 on the diagonal, even far from the origin."""
    x = _views()[0] + 1e4
    for kernel in (xl.GaussianKernel(0.1), xl.LaplacianKernel(0.1)):
        gram = kernel(x.float(), x.float())
        assert_allclose(gram.diagonal(), np.ones(7), rtol=1e-5)


@pytest.mark.parametrize("offset", [0.0, 1e3])
def test_diagonal_is_exact(offset):
    """A point is at distance 0 from itself, however narrow the kernel; none is less."""
    x = _views((40, 5), dim=16)[0].float() + offset
    for kernel in (xl.GaussianKernel(1e-3), xl.InverseMultiquadricKernel(1e-3)):
        gram = kernel(x, x)
        assert (gram.diagonal() == 1).all()
        assert gram.max() <= 1
        assert kernel(x, x.clone()).max() <= 1


@pytest.mark.parametrize("bandwidth", [0.1, 0.3, 1.0])
def test_narrow_kernels_in_float32(bandwidth):
    """The diagonal outweighs all else there: its rounding must not show."""
    x, y = (z.float() for z in _views((64, 64), dim=16))
    kernel = xl.GaussianKernel(4 * bandwidth)

    def loss(a, b):
        return F.mmd(a, b, kernel=kernel)

    truth, *true_grads = _with_grad(loss, x.double(), y.double())
    value, *grads = _with_grad(loss, x, y)
    assert_allclose(value, truth, rtol=1e-5)
    if bandwidth > 0.1:  # exp(-100): no float32 gradient is left to compare
        for grad, true_grad in zip(grads, true_grads, strict=True):
            assert (grad - true_grad).norm() < 5e-6 * true_grad.norm()


def test_multi_kernel_weights():
    x, y = _views()
    first, second = xl.GaussianKernel(0.7), xl.EnergyKernel()
    mean = xl.MultiKernel([first, second])
    assert_allclose(mean(x, y), (first(x, y) + second(x, y)) / 2, **SAME)
    weighted = xl.MultiKernel([first, second], weights=[3.0, 0.5])
    assert_allclose(weighted(x, y), 3 * first(x, y) + second(x, y) / 2, **SAME)
    value = F.mmd(x, y, kernel=weighted)
    parts = 3 * F.mmd(x, y, kernel=first) + F.mmd(x, y, kernel=second) / 2
    assert_allclose(value, parts, rtol=1e-11)
    assert_allclose(
        F.mmd(x, y, kernel=xl.MultiKernel([first])), F.mmd(x, y, kernel=first), **SAME
    )


def test_default_kernel():
    """Five Gaussians, σ² = σ₀²·{¼, ½, 1, 2, 4}, σ₀² half the pooled mean d²."""
    x, y = _views()
    pool = np.concatenate([x, y])
    base = np.sqrt(np.mean(pdist(pool) ** 2) / 2)
    explicit = xl.MultiKernel(
        [xl.GaussianKernel(base * 2.0 ** (k / 2)) for k in range(-2, 3)]
    )
    rules = xl.MultiKernel(
        [xl.GaussianKernel("mean", factor=2.0 ** (k / 2)) for k in range(-2, 3)]
    )
    expected = _with_grad(lambda a, b: F.mmd(a, b, kernel=explicit), x, y)
    for kernel in (None, rules):
        actual = _with_grad(lambda a, b, k=kernel: F.mmd(a, b, kernel=k), x, y)
        for value, reference in zip(actual, expected, strict=True):
            assert_allclose(value, reference, rtol=1e-10, atol=1e-12)


# Bandwidths ----------------------------------------------------------------------


@pytest.mark.parametrize("rows", [(7, 5), (6, 5), (2, 2), (3, 2)])
@pytest.mark.parametrize("rule", ["mean", "median"])
def test_bandwidth_rules(rule, rows):
    """Even and odd numbers of pairs; the gradient is that of a constant."""
    x, y = _views(rows)
    squares = pdist(np.concatenate([x, y])) ** 2
    sigma = 0.5 * math.sqrt(getattr(np, rule)(squares) / 2)
    ruled = xl.GaussianKernel(rule, factor=0.5)
    fixed = xl.GaussianKernel(sigma)
    actual = _with_grad(lambda a, b: F.mmd(a, b, kernel=ruled), x, y)
    expected = _with_grad(lambda a, b: F.mmd(a, b, kernel=fixed), x, y)
    for value, reference in zip(actual, expected, strict=True):
        assert_allclose(value, reference, rtol=1e-10, atol=1e-12)


@pytest.mark.parametrize("rule", ["mean", "median"])
def test_rules_apply_per_problem(rule):
    x, y = _views(lead=(2,))
    scale = torch.tensor([1.0, 100.0], dtype=torch.float64)[:, None, None]
    kernel = xl.GaussianKernel(rule)
    values = F.mmd(x, y, kernel=kernel, reduction="none")
    scaled = F.mmd(scale * x, scale * y, kernel=kernel, reduction="none")
    assert_allclose(scaled, values, rtol=1e-10)


@pytest.mark.parametrize("rule", ["mean", "median"])
@pytest.mark.parametrize("estimator", ["biased", "unbiased", "paired", "linear"])
def test_identical_points(rule, estimator):
    """A pool of one point has no scale: σ = 1, value and gradient 0."""
    z = torch.full((4, 3), 0.7)
    value, *grads = _with_grad(
        lambda a, b: F.mmd(a, b, kernel=xl.GaussianKernel(rule), estimator=estimator),
        z,
        z,
    )
    assert abs(value) < 1e-6
    assert all((grad == 0).all() for grad in grads)
    assert_allclose(xl.GaussianKernel(rule)(z, z), np.ones((4, 4)))


@pytest.mark.parametrize("kernel", ["Gaussian", "Laplacian", "Matern"])
def test_learnable_bandwidth(kernel):
    x, y = _views()
    build = getattr(xl, f"{kernel}Kernel")
    sigma = torch.nn.Parameter(torch.tensor(0.9, dtype=torch.float64))
    learned = build(sigma)
    assert [p is sigma for p in learned.parameters()] == [True]
    F.mmd(x, y, kernel=learned).backward()
    h = 1e-5
    ahead, behind = (F.mmd(x, y, kernel=build(0.9 + step)) for step in (h, -h))
    assert_allclose(sigma.grad, (ahead - behind) / (2 * h), rtol=1e-7)


def test_bandwidth_may_be_a_tensor():
    x, y = _views()
    sigma = torch.tensor(0.9, dtype=torch.float64)
    value = F.mmd(x, y, kernel=xl.GaussianKernel(sigma))
    assert_allclose(value, F.mmd(x, y, kernel=xl.GaussianKernel(0.9)), **SAME)


# Closed forms --------------------------------------------------------------------


def test_two_points():
    """One point each: 2(1 - k(x, y))."""
    x, y = torch.zeros(1, 3).double(), torch.tensor([[3.0, 0.0, 4.0]]).double()
    value = F.mmd(x, y, kernel=xl.GaussianKernel(5.0))
    assert_allclose(value, 2 * (1 - math.exp(-0.5)), rtol=1e-14)


def test_linear_kernel_is_the_distance_of_the_means():
    x, y = _views()
    expected = ((x.mean(0) - y.mean(0)) ** 2).sum()
    value, grad_x, grad_y = _with_grad(
        lambda a, b: F.mmd(a, b, kernel=xl.LinearKernel()), x, y
    )
    assert_allclose(value, expected, **VALUE)
    mean = 2 * (x.mean(0) - y.mean(0))
    assert_allclose(grad_x, (mean / 7).expand(7, -1), **VALUE)
    assert_allclose(grad_y, (-mean / 5).expand(5, -1), **VALUE)


def test_quadratic_kernel_is_the_distance_of_two_moments():
    """(x·y + 1)²: 2‖Δμ‖² + ‖Δ E[zzᵀ]‖²_F."""
    x, y = _views()
    kernel = xl.PolynomialKernel(degree=2, gamma=1.0, coef0=1.0)
    means = ((x.mean(0) - y.mean(0)) ** 2).sum()
    moments = ((x.T @ x / 7 - y.T @ y / 5) ** 2).sum()
    assert_allclose(F.mmd(x, y, kernel=kernel), 2 * means + moments, **VALUE)


def test_energy_kernel_is_half_the_energy_distance():
    """2E|x-y| - E|x-x'| - E|y-y'| = MMD² of -‖x-y‖ = 2∫(F-G)² in one dimension."""
    stats = pytest.importorskip("scipy.stats")
    x, y = _views(dim=1)
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
    x, y = _views((6, 6))
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
    x, y = _views()
    kernel = xl.GaussianKernel(1.1)
    gram_x, gram_y, cross = kernel(x, x), kernel(y, y), kernel(x, y)
    xx = (gram_x.sum() - 7) / 42
    yy = (gram_y.sum() - 5) / 20
    biased = 6 / 7 * xx + 4 / 5 * yy + 1 / 7 + 1 / 5 - 2 * cross.mean()
    assert_allclose(F.mmd(x, y, kernel=kernel), biased, **VALUE)
    unbiased = F.mmd(x, y, kernel=kernel, estimator="unbiased")
    assert_allclose(unbiased, xx + yy - 2 * cross.mean(), **VALUE)


@pytest.mark.parametrize("estimator", ["biased", "paired", "linear"])
def test_equal_views_give_zero(estimator):
    """The H statistic is exactly 0 at z_a = z_b; the U statistic is not."""
    x, _ = _views((6, 6))
    value, *grads = _with_grad(lambda a, b: F.mmd(a, b, estimator=estimator), x, x)
    assert abs(value) < 1e-15
    assert all(grad.abs().max() < 1e-15 for grad in grads)
    assert F.mmd(x, x, estimator="unbiased") < -1e-3


def test_the_paired_estimator_needs_the_pairs():
    x, y = _views((6, 6))
    order = torch.tensor([1, 2, 3, 4, 5, 0])
    paired = {"estimator": "paired"}
    both = F.mmd(x[order], y[order], **paired)
    assert_allclose(both, F.mmd(x, y, **paired), **SAME)
    assert abs(F.mmd(x, y[order], **paired) - F.mmd(x, y, **paired)) > 1e-4


def test_the_linear_estimator_ignores_an_odd_last_row():
    x, y = _views((7, 7))
    for kernel in (xl.GaussianKernel(1.0), None):
        options = {"estimator": "linear", "kernel": kernel}
        value, grad, _ = _with_grad(lambda a, b, o=options: F.mmd(a, b, **o), x, y)
        assert_allclose(value, F.mmd(x[:6], y[:6], **options), **SAME)
        assert (grad[6] == 0).all()


@pytest.mark.parametrize("estimator", ["biased"])
def test_integer_weights_are_repetitions(estimator):
    x, y = _views()
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
    x, y = _views((6, 6))
    weight = torch.ones(6, dtype=torch.float64)
    weight[2] = 0
    x[2], y[2] = torch.nan, torch.inf
    keep = weight > 0
    options = {"estimator": "paired"}
    value, *grads = _with_grad(
        lambda a, b: F.mmd(a, b, **{side: weight}, **options), x, y
    )
    expected, *references = _with_grad(
        lambda a, b: F.mmd(a, b, **options), x[keep], y[keep]
    )
    assert_allclose(value, expected, **SAME)
    for grad, reference in zip(grads, references, strict=True):
        assert (grad[2] == 0).all()
        assert_allclose(grad[keep], reference, **SAME)


def test_weighted_unbiased_is_unbiased():
    """Σ_{i≠j} α_i α_j k/(1 - Σα²): a constant kernel leaves exactly 0."""
    x, y = _views()
    weights = {
        "weight_a": torch.rand(7).double() + 0.1,
        "weight_b": torch.rand(5).double() + 0.1,
    }
    constant = xl.PolynomialKernel(degree=1, gamma=1e-30, coef0=2.0)
    value = F.mmd(x, y, kernel=constant, estimator="unbiased", **weights)
    assert abs(value) < 1e-14


def test_the_reference_default_is_the_contract():
    factors = [k.factor for k in reference_kernels.DEFAULT.kernels]
    assert_allclose(np.square(factors), [0.25, 0.5, 1, 2, 4])


@pytest.mark.parametrize(
    "kernel",
    [
        lambda: xl.LaplacianKernel(1.0),
        lambda: xl.LaplacianKernel(1.0, norm=1),
        lambda: xl.MaternKernel(1.0, nu=0.5),
        lambda: xl.EnergyKernel(),
    ],
)
def test_kinks_have_gradient_zero(kernel):
    """At distance 0 the kernels with a kink contribute nothing."""
    x, _ = _views((5, 5))
    value, *grads = _with_grad(lambda a, b: F.mmd(a, b, kernel=kernel()), x, x)
    assert abs(value) < 1e-14
    assert all(grad.abs().max() < 1e-14 for grad in grads)


def test_drawn_inputs_can_fail():
    """The views of the table differ: no test above compares zeros."""
    assert SPEC(to_torch(SPEC.draw(Case()), grad=False)) > 1e-2
