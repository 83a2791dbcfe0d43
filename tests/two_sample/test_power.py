"""The power criterion, weights that maximise it, and learning by it."""

import copy

import numpy as np
import pytest
import torch
from numpy.testing import assert_allclose
from scipy.optimize import nnls

import xmodal_losses as xl
import xmodal_losses.functional as F
from harness import _kernel, two_samples, with_grad
from reference import kernels
from reference import mmd_variance as reference_variance
from reference.gradient import complex_step
from tolerances import GRADIENT, SAME, VALUE
from xmodal_losses import two_sample
from xmodal_losses.two_sample import power

each_estimator = pytest.mark.parametrize(
    ("estimator", "rows"),
    [("unbiased", (6, 4)), ("unbiased", (5, 5)), ("paired", (5, 5))],
)


def gaussians(*sizes, **options):
    return xl.MultiKernel([xl.GaussianKernel(s) for s in sizes], **options)


@each_estimator
@pytest.mark.parametrize("ridge", [0.0, 1e-8, 0.1])
def test_value_and_gradient(estimator, rows, ridge):
    x, y = two_samples(rows)
    kernel = kernels.GaussianKernel(1.1)
    options = {"estimator": estimator, "ridge": ridge}
    value, *grads = with_grad(
        lambda a, b: two_sample.power_criterion(a, b, _kernel(kernel), **options), x, y
    )

    def reference(a, b):
        return reference_variance.power(kernel, a, b, **options)

    arrays = [x.numpy(), y.numpy()]
    assert_allclose(value, reference(*arrays), **VALUE)
    for grad, expected in zip(grads, complex_step(reference, arrays), strict=True):
        assert_allclose(grad, expected, **GRADIENT)


@pytest.mark.parametrize("estimator", ["unbiased", "paired"])
def test_what_it_is_made_of(estimator):
    x, y = two_samples((6, 6), lead=(2,))
    options = {"kernel": xl.GaussianKernel(1.1), "estimator": estimator}
    mmd = F.mmd(x, y, reduction="none", **options)
    variance = F.mmd_variance(x, y, form="first_order", **options)
    expected = mmd / (6 * variance + 1e-8).sqrt()
    ours = two_sample.power_criterion(x, y, options["kernel"], estimator=estimator)
    assert_allclose(ours, expected, **SAME)


def test_scaling_the_kernel_changes_nothing():
    x, y = two_samples()
    one, ten = (
        two_sample.power_criterion(
            x, y, gaussians(0.5, 2.0, weights=[0.3 * c, 0.7 * c]), ridge=0.0
        )
        for c in (1, 10)
    )
    assert_allclose(ten, one, rtol=1e-10)


def test_batches_that_do_not_differ_have_no_power_and_no_slope():
    z = torch.full((5, 3), 0.7)
    kernel = xl.DeepKernel(torch.nn.Linear(3, 2))
    value, *grads = with_grad(
        lambda a, b: two_sample.power_criterion(a, b, kernel), z, z
    )
    assert abs(value) < 1e-6
    for grad in (*grads, *(p.grad for p in kernel.parameters())):
        assert grad.isfinite().all()


# Weights --------------------------------------------------------------------------


def programme(x, y, members, estimator, ridge):
    """Return d and Q + ridge·I, from matrices."""
    d, of_rows = [], []
    n, m = len(x), len(y)
    for kernel in members:
        xx, yy, xy = kernel(x, x), kernel(y, y), kernel(x, y)
        d.append(F.mmd(x, y, kernel=kernel, estimator=estimator))
        if estimator == "paired":
            of_rows.append([(xx + yy - xy - xy.T).mean(1).numpy()])
        else:
            of_rows.append(
                [
                    (xx.mean(1) - xy.mean(1)).numpy(),
                    (yy.mean(1) - xy.mean(0)).numpy(),
                ]
            )
    q = ridge * np.eye(len(d))
    for sample in zip(*of_rows, strict=True):
        size = len(sample[0])
        cov = np.cov(np.stack(sample), bias=True)
        q += 2 * n * m / (n + m) * 4 / size * cov
    return np.array(d), q


@pytest.mark.parametrize("seed", range(4))
@pytest.mark.parametrize(
    ("estimator", "rows"), [("unbiased", (40, 25)), ("paired", (30, 30))]
)
def test_weights_are_the_solution(estimator, rows, seed):
    """Against non-negative least squares of the same programme."""
    x, y = two_samples(rows, dim=2, seed=seed)
    sizes = [0.1, 0.3, 0.5, 1.0, 2.0, 4.0, 8.0]
    kernel = gaussians(*sizes)
    options = {"estimator": estimator, "ridge": 1e-4}
    fitted = two_sample.fit_weights(x, y, kernel, **options)
    d, q = programme(x, y, kernel.kernels, **options)
    assert (d > 0).any()
    # ½β'Qβ − d'β is ½‖Lᵀβ − L⁻¹d‖² but for a constant, Q = LLᵀ.
    lower = np.linalg.cholesky(q)
    expected, _ = nnls(lower.T, np.linalg.solve(lower, d))
    assert_allclose(fitted.weights, expected / expected.sum(), atol=1e-8)
    assert_allclose(sum(fitted.weights), 1.0)

    def ratio(weights):
        return weights @ d / np.sqrt(weights @ q @ weights)

    best, rng = ratio(np.array(fitted.weights)), np.random.default_rng(seed)
    for weights in (*np.eye(len(d)), *rng.dirichlet(np.full(len(d), 0.3), 300)):
        assert ratio(weights) <= best * (1 + 1e-9)
    assert all(
        ours is theirs
        for ours, theirs in zip(fitted.kernels, kernel.kernels, strict=True)
    )


@pytest.mark.parametrize("seed", range(30))
def test_programmes_in_which_kernels_come_and_go(seed):
    """Kernels that are nearly one another; also with one that is taken out again."""
    rng = np.random.default_rng(seed)
    size = int(rng.integers(2, 12))
    factor = rng.normal(size=(size, 3)) @ rng.normal(size=(3, size + 2))
    q = factor @ factor.T + 1e-3 * np.eye(size)
    d = q @ rng.normal(size=size)
    d[0] = abs(d[0]) + 1
    lower = np.linalg.cholesky(q)
    expected, _ = nnls(lower.T, np.linalg.solve(lower, d))
    found = power._non_negative(torch.tensor(q), torch.tensor(d))
    assert_allclose(found, expected, rtol=1e-6, atol=1e-8 * expected.max())


@pytest.mark.parametrize("seed", [*range(20), 636, 2345])
def test_programmes_of_many_kernels(seed):
    """The conditions of a solution; two of these take more steps than kernels."""
    rng = np.random.default_rng(seed)
    size = int(rng.integers(2, 34))
    factor = rng.normal(size=(size, int(rng.integers(1, 4))))
    q = factor @ factor.T + 10.0 ** -rng.integers(1, 8) * np.eye(size)
    d = rng.normal(size=size)
    d[0] = abs(d[0]) + 1e-3
    beta = power._non_negative(torch.tensor(q), torch.tensor(d)).numpy()
    slope = (d - q @ beta) / np.abs(d).max()
    assert (beta >= 0).all()
    assert (slope < 1e-8).all()
    assert (np.abs(slope[beta > 0]) < 1e-8).all()


@pytest.mark.parametrize("scale", [0.01, 1.0, 100.0])
def test_without_a_positive_estimate_the_scale_of_kernels_does_not_matter(scale):
    x, y = torch.randn(2, 12, 3, generator=torch.Generator().manual_seed(7)).double()
    members = [xl.GaussianKernel(s) for s in (0.5, 1.0, 2.0)]
    members[0] = xl.MultiKernel([members[0]], [scale])
    j = [two_sample.power_criterion(x, y, k, ridge=0.0) for k in members]
    assert 0 > j[0] > max(j[1:])
    fitted = two_sample.fit_weights(x, y, xl.MultiKernel(members), ridge=1e-12)
    assert fitted.weights == (1.0, 0.0, 0.0)


def test_without_a_positive_estimate_one_kernel_is_left():
    x, _ = two_samples((12, 12))
    kernel = gaussians(0.5, 1.0, 2.0, weights=[1.0, 1.0, 2.0])
    d, q = programme(x, x, kernel.kernels, "unbiased", 1e-4)
    assert (d < 0).all()
    fitted = two_sample.fit_weights(x, x, kernel)
    expected = 4.0 * np.eye(3)[(d / np.sqrt(np.diag(q))).argmax()]
    assert_allclose(fitted.weights, expected)


def test_identical_points_have_some_weights():
    z = torch.full((5, 3), 0.7)
    fitted = two_sample.fit_weights(z, z, gaussians(0.5, 1.0))
    assert_allclose(sum(fitted.weights), 1.0)


def test_learned_weights_come_to_the_solution():
    """The softmax and an optimiser, against the programme."""
    x, y = two_samples((60, 60), dim=2)
    members = [xl.GaussianKernel(s) for s in (0.2, 0.7, 3.0)]
    ridge = 1e-8
    best = two_sample.fit_weights(x, y, xl.MultiKernel(members), ridge=ridge)
    learned = xl.MultiKernel(members, learn=True).double()
    adam = torch.optim.Adam(learned.parameters(), lr=0.1)
    history = two_sample.fit_kernel(x, y, learned, optimizer=adam, steps=300)
    goal = two_sample.power_criterion(x, y, best)
    assert history[0] < 0.999 * goal
    assert_allclose(history[-1], goal, rtol=1e-3)
    assert (history <= goal * (1 + 1e-6)).all()


# Learning -------------------------------------------------------------------------


def network():
    torch.manual_seed(0)
    return torch.nn.Sequential(
        torch.nn.Linear(2, 8), torch.nn.Softplus(), torch.nn.Linear(8, 4)
    )


def test_steps_are_those_of_the_optimiser():
    x, y = (z.float() for z in two_samples((12, 9), dim=2))
    kernel = xl.DeepKernel(network())
    twin = copy.deepcopy(kernel)
    history = two_sample.fit_kernel(x, y, kernel, steps=3)
    adam = torch.optim.Adam(twin.parameters(), lr=5e-4)
    for value in history:
        loss = -two_sample.power_criterion(x, y, twin)
        assert_allclose(value, -loss.detach(), rtol=1e-6)
        adam.zero_grad()
        loss.backward()
        adam.step()
    for ours, theirs in zip(kernel.parameters(), twin.parameters(), strict=True):
        assert_allclose(ours.detach(), theirs.detach(), rtol=1e-6)


@pytest.mark.parametrize("estimator", ["unbiased", "paired"])
def test_any_optimiser_raises_the_criterion(estimator):
    x, y = (z.float() for z in two_samples((30, 30), dim=2))
    for build in (
        lambda p: torch.optim.SGD(p, lr=0.1),
        # It runs to the ends of the ranges, where all is still finite.
        lambda p: torch.optim.LBFGS(p, line_search_fn="strong_wolfe"),
        lambda p: torch.optim.AdamW(p, lr=1e-2),
    ):
        kernel = xl.DeepKernel(network())
        history = two_sample.fit_kernel(
            x,
            y,
            kernel,
            optimizer=build(list(kernel.parameters())),
            steps=8,
            estimator=estimator,
        )
        assert history.shape == (8,)
        assert history.isfinite().all()
        after = two_sample.power_criterion(x, y, kernel, estimator=estimator)
        assert after > history[0]


def test_batches_are_drawn_anew_from_the_generator():
    x, y = (z.float() for z in two_samples((30, 20), dim=2))
    runs = []
    for seed in (0, 0, 1):
        kernel = xl.GaussianKernel(1.0, learn=True)
        generator = torch.Generator().manual_seed(seed)
        sgd = torch.optim.SGD(kernel.parameters(), lr=0.0)
        runs.append(
            two_sample.fit_kernel(
                x, y, kernel, optimizer=sgd, steps=4, batch_size=5, generator=generator
            )
        )
    assert torch.equal(runs[0], runs[1])
    assert not torch.equal(runs[0], runs[2])
    assert len(runs[0].unique()) == 4


def test_rows_with_a_graph_are_constants():
    """Features of an encoder: its graph is neither freed nor given gradients."""
    x, y = (z.float() for z in two_samples((12, 12), dim=2))
    leaf = x.clone().requires_grad_()
    features = 2 * leaf
    plain, graph = (xl.GaussianKernel(1.0, learn=True) for _ in range(2))
    expected = two_sample.fit_kernel(2 * x, y, plain, steps=3)
    assert torch.equal(two_sample.fit_kernel(features, y, graph, steps=3), expected)
    assert leaf.grad is None
    features.sum().backward()
    result = two_sample.deep_kernel_test(leaf, y, graph, steps=3)
    assert not result.null.requires_grad
    assert (leaf.grad == 2).all()


def test_pairs_stay_together_in_batches():
    """Of equal batches every H is 0, whatever rows are drawn."""
    x, _ = two_samples((20, 20), dim=2)
    kernel = xl.GaussianKernel(1.0, learn=True).double()
    history = two_sample.fit_kernel(
        x, x, kernel, steps=3, batch_size=6, estimator="paired"
    )
    assert (history == 0).all()


def test_bad_options_are_refused():
    x, y = two_samples((8, 8))
    kernel = xl.GaussianKernel(1.0, learn=True)
    for options, message in (
        ({"estimator": "biased"}, "estimator must be one of 'unbiased', 'paired', got"),
        ({"steps": 0}, "steps must be >= 1, got 0"),
        ({"batch_size": 9}, r"batch_size must be in \[1, rows of a batch\] = \[1, 8\]"),
        ({"batch_size": 1}, "batch_size must be >= 2, got 1"),
    ):
        with pytest.raises(ValueError, match=f"^fit_kernel: {message}"):
            two_sample.fit_kernel(x, y, kernel, **options)
    with pytest.raises(
        ValueError, match=r"^fit_kernel: kernel must have parameters to"
    ):
        two_sample.fit_kernel(x, y, xl.GaussianKernel(1.0))
    with pytest.raises(
        ValueError, match=r"^fit_kernel: z_a must be one batch \(N, D\)"
    ):
        two_sample.fit_kernel(x[None], y[None], kernel)
    for function in (
        two_sample.fit_kernel,
        two_sample.power_criterion,
        two_sample.kernel_test,
    ):
        with pytest.raises(TypeError, match=r": kernel must be a Kernel, got NoneType"):
            function(x, y, None)
    with pytest.raises(ValueError, match=r"^power_criterion: ridge must be a finite"):
        two_sample.power_criterion(x, y, kernel, ridge=-1.0)
    with pytest.raises(ValueError, match=r"^power_criterion: z_b must have at least 2"):
        two_sample.power_criterion(x, y[:1], kernel)
    with pytest.raises(
        ValueError, match=r"^power_criterion: z_a and z_b must have the"
    ):
        two_sample.power_criterion(x, y[:4], kernel, estimator="paired")
    with pytest.raises(
        ValueError, match=r"^fit_weights: ridge must be a finite .+ > 0"
    ):
        two_sample.fit_weights(x, y, gaussians(1.0), ridge=0.0)
    with pytest.raises(TypeError, match=r"^fit_weights: kernel must be a MultiKernel"):
        two_sample.fit_weights(x, y, kernel)
    with pytest.raises(ValueError, match=r"^fit_weights: z_a must be one batch"):
        two_sample.fit_weights(x[None], y[None], gaussians(1.0))
