"""Random features: they estimate their kernel, in linear time."""

import numpy as np
import pytest
import torch
from numpy.testing import assert_allclose

import xmodal_losses as xl
import xmodal_losses.functional as F
from counting import Work
from harness import two_samples, with_grad
from tolerances import SAME

KERNELS = {
    "gaussian": lambda: xl.GaussianKernel(0.8),
    "gaussian by rule": lambda: xl.GaussianKernel("median", factor=0.7),
    "laplacian": lambda: xl.LaplacianKernel(1.5),
    "laplacian of the 1-norm": lambda: xl.LaplacianKernel(2.0, norm=1),
    "matern 1/2": lambda: xl.MaternKernel(1.5, nu=0.5),
    "matern 3/2": lambda: xl.MaternKernel("mean", nu=1.5),
    "matern 5/2": lambda: xl.MaternKernel(1.1, nu=2.5),
    "multiquadric": lambda: xl.InverseMultiquadricKernel(0.8),
    "a sum": lambda: xl.MultiKernel(
        [xl.GaussianKernel(0.5), xl.MaternKernel(2.0)], [0.3, 1.1]
    ),
    "a learned sum": lambda: xl.MultiKernel(
        [xl.GaussianKernel(0.5), xl.GaussianKernel(2.0, learn=True)],
        [0.3, 1.1],
        learn=True,
    ),
}


def features(kernel, num, seed=0, dim=3):
    generator = torch.Generator().manual_seed(seed)
    return xl.RandomFeatures(kernel, dim, num_features=num, generator=generator)


@pytest.mark.parametrize("name", KERNELS)
def test_they_estimate_the_kernel(name):
    """Within five standard errors, √(½/F) or less, at each of 35 pairs."""
    x, y = two_samples()
    kernel = KERNELS[name]().double()
    num = 20000
    with torch.no_grad():
        error = (features(kernel, num).double()(x, y) - kernel(x, y)).abs().max()
        total = float(sum(getattr(kernel, "weights", (1.0,))))
    assert error < 5 * total * (0.5 / num) ** 0.5


@pytest.mark.parametrize("estimator", ["biased", "unbiased", "paired", "block"])
def test_sums_over_rows_are_sums_over_pairs(estimator):
    """Against the matrix of the same features, weights and all gradients included."""
    rows = (7, 5) if estimator in ("biased", "unbiased") else (7, 7)
    x, y = two_samples(rows, lead=(2,))
    kernel = features(KERNELS["a learned sum"](), 4).double()

    class Matrix(xl.Kernel):
        def __init__(self):
            super().__init__()
            self.kernel = kernel

        def bind(self, pool):
            bound = self.kernel.bind(pool)
            return lambda pairs: bound(pairs)

    for weighted in (False, True) if estimator != "block" else (False,):
        weights = {}
        if weighted:
            for side, n in zip("ab", rows, strict=True):
                weights[f"weight_{side}"] = torch.rand(2, n).double()
            weights["weight_a"][:, 2] = 0
            x[:, 2] = torch.nan
        results = []
        for one in (kernel, Matrix()):
            kernel.zero_grad()
            value, *grads = with_grad(
                lambda a, b, k=one, w=weights: F.mmd(
                    a, b, kernel=k, estimator=estimator, **w
                ),
                x,
                y,
            )
            results.append((value, *grads, *(p.grad for p in kernel.parameters())))
        for sums, pairs in zip(*results, strict=True):
            assert_allclose(sums, pairs, rtol=1e-11, atol=1e-13)


@pytest.mark.parametrize("estimator", ["biased", "unbiased", "paired"])
@pytest.mark.parametrize("which", ["features", "linear"])
def test_linear_time(which, estimator):
    """Nothing of N × N is made."""
    n, dim, num = 300, 4, 5
    kernel = features(xl.GaussianKernel(), num, dim=dim)
    kernel = xl.LinearKernel() if which == "linear" else kernel
    x, y = torch.randn(2, n, dim)
    with Work() as work:
        F.mmd(
            x.requires_grad_(), y.requires_grad_(), kernel=kernel, estimator=estimator
        ).backward()
    # Phases and their gradient, 2 (N + M) D F; the linear kernel has no products.
    assert work.multiply_adds == (0 if which == "linear" else 4 * n * dim * num)
    assert work.largest <= 2 * n * max(dim, 2 * num)


def test_the_difference_of_means_is_not_negative():
    x = torch.randn(50, 3) + 100
    kernel = features(xl.GaussianKernel(), 8)
    for seed in range(20):
        generator = torch.Generator().manual_seed(seed)
        y = x + 1e-4 * torch.randn(50, 3, generator=generator)
        assert F.mmd(x, y, kernel=kernel) >= 0


def test_equal_batches_give_zero():
    x, _ = two_samples((6, 6))
    kernel = features(xl.GaussianKernel("mean"), 8).double()
    for estimator in ("biased", "paired", "linear", "block"):
        value, *grads = with_grad(
            lambda a, b, e=estimator: F.mmd(a, b, kernel=kernel, estimator=e), x, x
        )
        assert abs(value) < 1e-15
        assert all(grad.abs().max() < 1e-15 for grad in grads)


def test_learned_bandwidths_and_weights():
    x, y = two_samples()
    kernel = features(KERNELS["a learned sum"](), 6).double()
    parameters = dict(kernel.named_parameters())
    assert set(parameters) == {"kernel.logits", "kernel.kernels.1.log_factor"}
    F.mmd(x, y, kernel=kernel).backward()
    h = 1e-5
    for parameter in parameters.values():
        for i in range(parameter.numel()):
            values = []
            for step in (h, -h):
                with torch.no_grad():
                    parameter.view(-1)[i] += step
                    values.append(F.mmd(x, y, kernel=kernel))
                    parameter.view(-1)[i] -= step
            slope = (values[0] - values[1]) / (2 * h)
            assert_allclose(parameter.grad.view(-1)[i], slope, rtol=1e-6, atol=1e-10)


def test_the_same_generator_gives_the_same_frequencies():
    kernel = KERNELS["a sum"]()
    first, second = features(kernel, 5), features(kernel, 5)
    assert torch.equal(first.frequencies, second.frequencies)
    assert not torch.equal(first.frequencies, features(kernel, 5, seed=1).frequencies)
    assert first.frequencies.shape == (2, 5, 3)
    assert "frequencies" in first.state_dict()
    torch.manual_seed(3)
    plain = xl.RandomFeatures(kernel, 3, num_features=5)
    torch.manual_seed(3)
    assert torch.equal(
        plain.frequencies, xl.RandomFeatures(kernel, 3, num_features=5).frequencies
    )
    assert "dim=3, num_features=5" in repr(plain)


def test_inside_of_other_kernels():
    """Of a deep kernel's features; beside a kernel of pairs."""
    x, y = two_samples()
    few = features(xl.GaussianKernel(1.0), 4).double()
    both = xl.MultiKernel([few, xl.EnergyKernel()])
    expected = (few(x, y) + xl.EnergyKernel()(x, y)) / 2
    assert_allclose(both(x, y), expected, **SAME)
    wide = xl.GaussianKernel(1e9)
    deep = xl.DeepKernel(torch.nn.Identity(), feature_kernel=few, input_kernel=wide)
    expected = (F.mmd(x, y, kernel=few) / 2).item()
    assert_allclose(F.mmd(x, y, kernel=deep).item(), expected, rtol=1e-6)


def test_bad_options_are_refused():
    with pytest.raises(
        TypeError, match=r"^RandomFeatures: kernel must be one of Gauss"
    ):
        xl.RandomFeatures(xl.EnergyKernel(), 3)
    with pytest.raises(TypeError, match=r"of these, got PolynomialKernel\.$"):
        xl.RandomFeatures(xl.MultiKernel([xl.PolynomialKernel()]), 3)
    for options in ({"dim": 0}, {"dim": 3, "num_features": 0}):
        with pytest.raises(
            ValueError, match=r"^RandomFeatures: (dim|num_features) must"
        ):
            xl.RandomFeatures(xl.GaussianKernel(), **options)
    kernel = xl.RandomFeatures(xl.GaussianKernel(), 3)
    with pytest.raises(ValueError, match=r"^RandomFeatures: dim must be the width of"):
        F.mmd(torch.zeros(2, 4), torch.zeros(2, 4), kernel=kernel)
    with pytest.raises(TypeError, match=r"^RandomFeatures: generator must be"):
        xl.RandomFeatures(xl.GaussianKernel(), 3, generator=np.random.default_rng())
