"""Kernels: scikit-learn's, identities, exact diagonals, bandwidth rules."""

import math

import numpy as np
import pytest
import torch
from numpy.testing import assert_allclose
from scipy.spatial.distance import cdist, pdist
from sklearn.metrics import pairwise

import xmodal_losses as xl
import xmodal_losses.functional as F
from harness import two_samples, with_grad
from tolerances import SAME
from xmodal_losses import kernels


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
    x, y = two_samples(lead=(2,))
    gram = kernel()(x, y)
    assert gram.shape == (2, 7, 5)
    for g, u, v in zip(gram, x.numpy(), y.numpy(), strict=True):
        assert_allclose(g, expected(u, v), rtol=1e-10, atol=1e-12)


@pytest.mark.parametrize("nu", [0.5, 1.5, 2.5])
def test_matern(nu):
    """Against scikit-learn's Matérn, which is written with Bessel functions."""
    gaussian_process = pytest.importorskip("sklearn.gaussian_process.kernels")
    x, y = two_samples()
    expected = gaussian_process.Matern(length_scale=0.8, nu=nu)(x.numpy(), y.numpy())
    assert_allclose(xl.MaternKernel(0.8, nu=nu)(x, y), expected, rtol=1e-10)


def test_half_integer_identities():
    """Matérn ½ is Laplacian; α → ∞ turns the rational quadratic into a Gaussian."""
    x, y = two_samples()
    matern, laplacian = xl.MaternKernel(0.8, nu=0.5), xl.LaplacianKernel(0.8)
    assert_allclose(matern(x, y), laplacian(x, y), **SAME)
    rational = xl.RationalQuadraticKernel(0.8, alpha=1e9)(x, y)
    assert_allclose(rational, xl.GaussianKernel(0.8)(x, y), rtol=1e-6)


def test_gram_of_a_sample_with_itself():
    """Distances are exactly 0 on the diagonal, even far from the origin."""
    x = two_samples()[0] + 1e4
    for kernel in (xl.GaussianKernel(0.1), xl.LaplacianKernel(0.1)):
        gram = kernel(x.float(), x.float())
        assert_allclose(gram.diagonal(), np.ones(7), rtol=1e-5)


@pytest.mark.parametrize("offset", [0.0, 1e3])
def test_diagonal_is_exact(offset):
    """A point is at distance 0 from itself, however narrow the kernel; none is less."""
    x = two_samples((40, 5), dim=16)[0].float() + offset
    for kernel in (xl.GaussianKernel(1e-3), xl.InverseMultiquadricKernel(1e-3)):
        gram = kernel(x, x)
        assert (gram.diagonal() == 1).all()
        assert gram.max() <= 1
        assert kernel(x, x.clone()).max() <= 1


@pytest.mark.parametrize("scale", [1e-6, 1.0, 1e6])
def test_rows_that_coincide_do_so_at_every_scale(scale):
    """And only they: of others neither value nor gradient is lost."""
    x, y = (scale * z for z in two_samples((6, 5)))
    y[2] = x[3]
    kernel = xl.LaplacianKernel(scale)
    x.requires_grad_()
    gram = kernel(x, y)
    assert_allclose(gram.detach(), np.exp(-cdist(x.detach(), y) / scale), rtol=1e-12)
    assert gram[3, 2] == 1
    gram[3, 2].backward()
    assert not x.grad.any()
    kernel(x, y)[0, 0].backward()
    assert x.grad[0].all()


@pytest.mark.parametrize("bandwidth", [0.1, 0.3, 1.0])
def test_narrow_kernels_in_float32(bandwidth):
    """The diagonal outweighs all else there: its rounding must not show."""
    x, y = (z.float() for z in two_samples((64, 64), dim=16))
    kernel = xl.GaussianKernel(4 * bandwidth)

    def loss(a, b):
        return F.mmd(a, b, kernel=kernel)

    truth, *true_grads = with_grad(loss, x.double(), y.double())
    value, *grads = with_grad(loss, x, y)
    assert_allclose(value, truth, rtol=1e-5)
    if bandwidth > 0.1:  # exp(-100): no float32 gradient is left to compare
        for grad, true_grad in zip(grads, true_grads, strict=True):
            assert (grad - true_grad).norm() < 5e-6 * true_grad.norm()


def test_multi_kernel_weights():
    x, y = two_samples()
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
    x, y = two_samples()
    pool = np.concatenate([x, y])
    base = np.sqrt(np.mean(pdist(pool) ** 2) / 2)
    explicit = xl.MultiKernel(
        [xl.GaussianKernel(base * 2.0 ** (k / 2)) for k in range(-2, 3)]
    )
    rules = xl.MultiKernel(
        [xl.GaussianKernel("mean", factor=2.0 ** (k / 2)) for k in range(-2, 3)]
    )
    expected = with_grad(lambda a, b: F.mmd(a, b, kernel=explicit), x, y)
    for kernel in (None, rules):
        actual = with_grad(lambda a, b, k=kernel: F.mmd(a, b, kernel=k), x, y)
        for value, reference in zip(actual, expected, strict=True):
            assert_allclose(value, reference, rtol=1e-10, atol=1e-12)


@pytest.mark.parametrize("rows", [(7, 5), (6, 5), (2, 2), (3, 2)])
@pytest.mark.parametrize("rule", ["mean", "median"])
def test_bandwidth_rules(rule, rows):
    """Even and odd numbers of pairs; the gradient is that of a constant."""
    x, y = two_samples(rows)
    squares = pdist(np.concatenate([x, y])) ** 2
    sigma = 0.5 * math.sqrt(getattr(np, rule)(squares) / 2)
    ruled = xl.GaussianKernel(rule, factor=0.5)
    fixed = xl.GaussianKernel(sigma)
    actual = with_grad(lambda a, b: F.mmd(a, b, kernel=ruled), x, y)
    expected = with_grad(lambda a, b: F.mmd(a, b, kernel=fixed), x, y)
    for value, reference in zip(actual, expected, strict=True):
        assert_allclose(value, reference, rtol=1e-10, atol=1e-12)


@pytest.mark.parametrize("rule", ["mean", "median"])
def test_rules_apply_per_problem(rule):
    x, y = two_samples(lead=(2,))
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
    value, *grads = with_grad(
        lambda a, b: F.mmd(a, b, kernel=xl.GaussianKernel(rule), estimator=estimator),
        z,
        z,
    )
    assert abs(value) < 1e-6
    assert all((grad == 0).all() for grad in grads)
    assert_allclose(xl.GaussianKernel(rule)(z, z), np.ones((4, 4)))


@pytest.mark.parametrize("kernel", ["Gaussian", "Laplacian", "Matern"])
def test_learnable_bandwidth(kernel):
    x, y = two_samples()
    build = getattr(xl, f"{kernel}Kernel")
    sigma = torch.nn.Parameter(torch.tensor(0.9, dtype=torch.float64))
    learned = build(sigma)
    assert [p is sigma for p in learned.parameters()] == [True]
    F.mmd(x, y, kernel=learned).backward()
    h = 1e-5
    ahead, behind = (F.mmd(x, y, kernel=build(0.9 + step)) for step in (h, -h))
    assert_allclose(sigma.grad, (ahead - behind) / (2 * h), rtol=1e-7)


def test_bandwidth_may_be_a_tensor():
    x, y = two_samples()
    sigma = torch.tensor(0.9, dtype=torch.float64)
    value = F.mmd(x, y, kernel=xl.GaussianKernel(sigma))
    assert_allclose(value, F.mmd(x, y, kernel=xl.GaussianKernel(0.9)), **SAME)


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
    x, _ = two_samples((5, 5))
    value, *grads = with_grad(lambda a, b: F.mmd(a, b, kernel=kernel()), x, x)
    assert abs(value) < 1e-14
    assert all(grad.abs().max() < 1e-14 for grad in grads)


# What is learned ------------------------------------------------------------------

SCALED = ("Gaussian", "Laplacian", "InverseMultiquadric", "RationalQuadratic", "Matern")


@pytest.mark.parametrize("bandwidth", [0.9, "mean"])
@pytest.mark.parametrize("kernel", SCALED)
def test_learned_factor(kernel, bandwidth):
    """It starts as the factor it is given, and stays positive."""
    x, y = two_samples()
    build = getattr(xl, f"{kernel}Kernel")
    factor = 1.0 if bandwidth == 0.9 else 0.7
    learned = build(bandwidth, factor=factor, learn=True).double()
    assert list(learned.state_dict()) == ["log_factor"]
    fixed = build(bandwidth, factor=factor)
    assert list(fixed.state_dict()) == []
    assert_allclose(learned(x, y).detach(), fixed(x, y), rtol=1e-6)
    value, *grads = with_grad(lambda a, b: F.mmd(a, b, kernel=learned), x, y)
    expected, *references = with_grad(lambda a, b: F.mmd(a, b, kernel=fixed), x, y)
    assert_allclose(value, expected, rtol=1e-5)
    for grad, reference in zip(grads, references, strict=True):
        assert_allclose(grad, reference, rtol=1e-4, atol=1e-7)
    values, h = [], 1e-5
    for step in (h, -h):
        with torch.no_grad():
            learned.log_factor += step
            values.append(F.mmd(x, y, kernel=learned))
            learned.log_factor -= step
    slope = (values[0] - values[1]) / (2 * h)
    assert_allclose(learned.log_factor.grad, slope, rtol=1e-7)
    assert "learn=True" in repr(learned)
    assert f"factor={factor:.4g}" in repr(learned)


@pytest.mark.parametrize("log_factor", [-200.0, 200.0])
@pytest.mark.parametrize("kernel", SCALED)
def test_no_factor_overflows(kernel, log_factor):
    x, y = (z.float() for z in two_samples())
    learned = getattr(xl, f"{kernel}Kernel")(learn=True)
    with torch.no_grad():
        learned.log_factor.fill_(log_factor)
    value, *grads = with_grad(lambda a, b: F.mmd(a, b, kernel=learned), x, y)
    # Every point alone, or no difference at all.
    expected = 1 / 7 + 1 / 5 if log_factor < 0 else 0.0
    assert_allclose(value, expected, atol=1e-6)
    assert all(grad.isfinite().all() for grad in (*grads, learned.log_factor.grad))


def test_a_tensor_is_learned_as_it_is():
    with pytest.raises(ValueError, match=r"^GaussianKernel: learn must be False for"):
        xl.GaussianKernel(torch.tensor(1.0), learn=True)
    with pytest.raises(TypeError, match=r"^MaternKernel: learn must be True or False"):
        xl.MaternKernel(learn=1)


@pytest.mark.parametrize("bandwidth", [0.9, "mean"])
def test_learned_factors_of_a_sum(bandwidth):
    """Each its own, wherever it has come to: they are in no fixed ratio."""
    x, y = two_samples()
    members = [xl.GaussianKernel(bandwidth, learn=True).double() for _ in range(3)]
    steps = (0.3, -0.8, 0.0)
    with torch.no_grad():
        for kernel, step in zip(members, steps, strict=True):
            kernel.log_factor.fill_(step)
    F.mmd(x, y, kernel=xl.MultiKernel(members)).backward()
    found = [kernel.log_factor.grad.clone() for kernel in members]
    for kernel, grad in zip(members, found, strict=True):
        kernel.zero_grad()
        (F.mmd(x, y, kernel=kernel) / 3).backward()
        assert_allclose(grad, kernel.log_factor.grad, rtol=1e-10)
    each = [F.mmd(x, y, kernel=kernel).detach() for kernel in members]
    value = F.mmd(x, y, kernel=xl.MultiKernel(members)).detach()
    assert_allclose(value, sum(each) / 3, rtol=1e-10)


def test_learned_weights():
    """Positive, of one sum, and with the gradient of the sum of kernels."""
    x, y = two_samples()
    members = [xl.GaussianKernel(0.7), xl.EnergyKernel(), xl.GaussianKernel(2.0)]
    start = [0.5, 2.0, 0.7]
    learned = xl.MultiKernel(members, start, learn=True).double()
    assert list(learned.state_dict()) == ["logits"]
    assert_allclose(learned.weights.detach(), start, rtol=1e-6)
    fixed = xl.MultiKernel(members, start)
    assert fixed.weights == (0.5, 2.0, 0.7)
    assert_allclose(learned(x, y).detach(), fixed(x, y), rtol=1e-6)
    F.mmd(x, y, kernel=learned).backward()
    # d/dl_u of Σ w_v L_v with w = S softmax(l): w_u (L_u − Σ w_v L_v / S).
    each = torch.stack([F.mmd(x, y, kernel=kernel) for kernel in members])
    weights = learned.weights.detach()
    expected = weights * (each - weights @ each / weights.sum())
    assert_allclose(learned.logits.grad, expected, rtol=1e-6)
    with torch.no_grad():
        learned.logits += torch.tensor([3.0, -50.0, 10.0])
    assert (learned.weights > 0).all()
    assert_allclose(learned.weights.sum().detach(), 3.2, rtol=1e-6)
    assert "learn=True" in repr(learned)
    assert "learn" not in repr(fixed)


@pytest.mark.parametrize("estimator", ["biased", "unbiased", "paired", "linear"])
def test_learned_weights_in_tiles(estimator):
    x, y = two_samples((7, 7), lead=(2,))
    members = [xl.GaussianKernel(s) for s in (0.7, 1.3)]
    learned = xl.MultiKernel(members, learn=True).double()
    results = []
    for kernel, chunk in ((learned, None), (learned, 3), (xl.MultiKernel(members), 3)):
        learned.zero_grad()
        value, *grads = with_grad(
            lambda a, b, k=kernel, c=chunk: F.mmd(
                a, b, kernel=k, estimator=estimator, chunk_size=c
            ),
            x,
            y,
        )
        of_logits = learned.logits.grad
        results.append((value, *grads, of_logits))
    for whole, tiled, fixed in zip(*results, strict=True):
        assert_allclose(tiled, whole, **SAME)
        if fixed is not None:
            assert_allclose(fixed, whole, **SAME)


def test_weights_to_be_learned_are_positive():
    members = [xl.GaussianKernel(), xl.EnergyKernel()]
    with pytest.raises(
        ValueError, match=r"^MultiKernel: weights\[1\] must be a finite"
    ):
        xl.MultiKernel(members, [1.0, 0.0], learn=True)
    assert xl.MultiKernel(members, [1.0, 0.0]).weights == (1.0, 0.0)
    with pytest.raises(TypeError, match=r"^MultiKernel: learn must be True or False"):
        xl.MultiKernel(members, learn=None)


# One's own ------------------------------------------------------------------------


@pytest.mark.parametrize("estimator", ["biased", "unbiased", "paired", "linear"])
def test_a_kernel_of_ones_own(estimator):
    """From what `kernels` offers, as its page tells, and like one that is there."""

    class Cauchy(kernels.Kernel):
        def bind(self, pool: kernels.Pool):
            rate = 1 / pool.mean_squared_distance()[..., None, None]

            def kernel(pairs: kernels.Pairs):
                return 1 / (1 + rate * pairs.squared_distance())

            return kernel

    x, y = two_samples((6, 6), lead=(2,))
    # (1 + d²/2ασ²)^(−α) with α = 1 and σ² half the mean d².
    same = xl.RationalQuadraticKernel("mean")
    for chunk in (None, 2):
        first, second = (
            with_grad(
                lambda a, b, k=kernel, c=chunk: F.mmd(
                    a, b, kernel=k, estimator=estimator, chunk_size=c
                ),
                x,
                y,
            )
            for kernel in (Cauchy(), same)
        )
        for ours, theirs in zip(first, second, strict=True):
            assert_allclose(ours, theirs, **SAME)


def test_columns_of_pairs_and_pools():
    x, y = two_samples()
    pairs = kernels.Pairs(x, y).columns(1, 3)
    assert_allclose(pairs.squared_distance(), cdist(x[:, 1:], y[:, 1:]) ** 2, **SAME)
    itself = kernels.Pairs(x, x).columns(0, 2)
    assert itself.x is itself.y
    pool, valid = kernels.Pool(torch.cat((x, y))), torch.ones(12).double()
    valid[3] = 0
    for weight in (None, valid):
        pool = kernels.Pool(torch.cat((x, y)), weight).columns(1, 3)
        rows = torch.cat((x, y))[:, 1:] if weight is None else None
        rows = torch.cat((x, y))[valid > 0, 1:] if rows is None else rows
        assert_allclose(pool.mean_squared_distance(), (pdist(rows) ** 2).mean(), **SAME)
        assert_allclose(
            pool.median_squared_distance(), np.median(pdist(rows) ** 2), **SAME
        )
