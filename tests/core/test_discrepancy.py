"""The engine of kernel losses: tiles, families of Gaussians, subsamples."""

import functools
import math

import pytest
import torch
from numpy.testing import assert_allclose
from torch.autograd import gradgradcheck

import xmodal_losses as xl
import xmodal_losses.functional as F
from counting import Work
from harness import two_samples, with_grad
from tolerances import SAME
from xmodal_losses._core.pairs.pool import MOST, Pool, spread
from xmodal_losses.distribution.gaussian_family import gaussian_family


class _Opaque(xl.Kernel):
    """Hides what a kernel is, so that it goes the way of kernels in general."""

    def __init__(self, kernel):
        super().__init__()
        self.kernel = kernel
        self.shift = kernel.shift

    def bind(self, pool):
        return self.kernel.bind(pool)


def _gaussians(*sizes, weights=None):
    return xl.MultiKernel([xl.GaussianKernel(s) for s in sizes], weights=weights)


FAMILIES = {
    "one": xl.GaussianKernel(1.3),
    "one by rule": xl.GaussianKernel("mean", factor=0.7),
    "doubling": _gaussians(2.0, 2 * math.sqrt(0.5), 1.0),
    "in any order": _gaussians(1.0, 0.7, 3.0, 3.0, weights=[0.2, 0.0, 1.0, 0.5]),
    "nested": xl.MultiKernel(
        [_gaussians(1.0, 0.4), xl.GaussianKernel(2.0)], weights=[0.7, 0.6]
    ),
    "a tensor": xl.GaussianKernel(torch.tensor(0.8)),
}
NO_FAMILIES = {
    "two rules": xl.MultiKernel([xl.GaussianKernel("mean"), xl.GaussianKernel(1.0)]),
    "learned": xl.GaussianKernel(torch.nn.Parameter(torch.tensor(1.0))),
    "another kernel": xl.MultiKernel([xl.GaussianKernel(1.0), xl.EnergyKernel()]),
    "an opaque one": _Opaque(xl.GaussianKernel(1.0)),
    "two tensors": xl.MultiKernel([xl.GaussianKernel(torch.tensor(1.0))] * 2),
}


@pytest.mark.parametrize("name", NO_FAMILIES)
def test_other_kernels_are_no_family(name):
    assert gaussian_family(NO_FAMILIES[name]) is None


@pytest.mark.parametrize("estimator", ["biased", "unbiased", "paired"])
@pytest.mark.parametrize("chunk_size", [None, 1, 3, 4, 16])
@pytest.mark.parametrize("name", FAMILIES)
def test_a_family_is_the_sum_of_its_kernels(name, chunk_size, estimator):
    """In one fused pass, or by autograd on the matrix of each kernel."""
    kernel = FAMILIES[name]
    assert gaussian_family(kernel) is not None
    rows = (7, 7) if estimator == "paired" else (7, 5)
    samples = two_samples(rows, lead=(3,))
    weights = {
        f"weight_{side}": torch.rand(3, n, dtype=torch.float64)
        for side, n in zip("ab", rows, strict=True)
    }
    upstream = torch.tensor([1.0, -2.0, 0.5], dtype=torch.float64)
    for weight in ({}, weights):
        results = []
        for spelling in (kernel, _Opaque(kernel)):
            loss = functools.partial(
                F.mmd,
                kernel=spelling,
                chunk_size=chunk_size,
                estimator=estimator,
                reduction="none",
                **weight,
            )
            views = [z.clone().requires_grad_() for z in samples]
            value = loss(*views)
            results.append(
                (value.detach(), *torch.autograd.grad(value, views, upstream))
            )
        for fused, opaque in zip(*results, strict=True):
            assert_allclose(fused, opaque, **SAME)


KERNELS = {
    "energy": xl.EnergyKernel(),
    "laplacian": xl.LaplacianKernel("mean"),
    "polynomial": xl.PolynomialKernel(),
    "learned": xl.GaussianKernel(torch.nn.Parameter(torch.tensor(1.1).double())),
}


@pytest.mark.parametrize("estimator", ["biased", "unbiased", "paired"])
@pytest.mark.parametrize("name", KERNELS)
def test_tiles_of_any_kernel(name, estimator):
    kernel = KERNELS[name]
    rows = (7, 7) if estimator == "paired" else (7, 5)
    samples = two_samples(rows, lead=(2,))
    results = []
    for chunk_size in (None, 3):
        kernel.zero_grad()
        value, *grads = with_grad(
            lambda a, b, chunk=chunk_size: F.mmd(
                a, b, kernel=kernel, estimator=estimator, chunk_size=chunk
            ),
            *samples,
        )
        results.append((value, *grads, *(p.grad for p in kernel.parameters())))
    for tiled, whole in zip(*results, strict=True):
        assert_allclose(tiled, whole, **SAME)


@pytest.mark.parametrize("kernel", [xl.GaussianKernel(1.0), xl.EnergyKernel()])
def test_second_derivatives_in_tiles(kernel):
    samples = [z.requires_grad_() for z in two_samples((4, 3), dim=2)]
    assert gradgradcheck(lambda a, b: F.mmd(a, b, kernel=kernel, chunk_size=2), samples)


def _work(n, d, chunk, need):
    views = [torch.randn(n, d).requires_grad_(wanted) for wanted in need]
    with Work() as work:
        F.mmd(*views, chunk_size=chunk).backward()
    return work


def test_work_and_memory():
    """3(N+M)²D multiply-adds at most, tiles of memory, one side for much less."""
    n, d, chunk = 96, 5, 8
    both = _work(n, d, chunk, (True, True))
    unordered = n * n + 2 * (n * (n + chunk) // 2)  # pairs in tiles that are made
    assert both.multiply_adds == unordered * d + 2 * n * (2 * n) * d
    assert both.largest <= max(2 * n * d, chunk**2)
    one = _work(n, d, chunk, (True, False))
    assert one.multiply_adds == unordered * d + 2 * n * n * d
    none = _work_without_gradient(n, d, chunk)
    assert none.multiply_adds == unordered * d


def _work_without_gradient(n, d, chunk):
    with Work() as work:
        F.mmd(torch.randn(n, d), torch.randn(n, d), chunk_size=chunk)
    return work


def test_sums_that_cancel_are_wide():
    """Three means of nearly one, each right to less than its last digit, 6e-8."""
    generator = torch.Generator().manual_seed(0)
    x = torch.randn(400, 6, generator=generator)
    y = x + 0.05 * torch.randn(400, 6, generator=generator) + 0.03
    kernel = xl.GaussianKernel(20.0)
    exact = F.mmd(x.double(), y.double(), kernel=kernel)
    assert 1e-6 < exact < 1e-4
    assert_allclose(F.mmd(x, y, kernel=kernel), exact, rtol=0, atol=3e-8)


# The subsample of the median ----------------------------------------------------------


@pytest.mark.parametrize("n", [MOST + 1, 2500, 4096, 9999])
def test_the_subsample_is_spread(n):
    rows = spread(n, MOST, torch.device("cpu"))
    assert len(rows.unique()) == MOST
    assert rows.min() >= 0
    assert rows.max() < n
    # Of a third of the rows, and of every period, the share that is due.
    share = (rows < n // 3).double().mean()
    assert abs(share - 1 / 3) < 0.01
    for k in (2, 3, 5, 8, 16, 64):
        assert abs((rows % k == 0).double().mean() - 1 / k) < 0.02


def test_median_of_many_rows_is_that_of_a_subsample():
    z = torch.randn(MOST + 952, 3, dtype=torch.float64)
    rows = spread(len(z), MOST, z.device)
    distances = torch.pdist(z[rows]).square()
    assert_allclose(Pool(z).median_squared_distance(), distances.quantile(0.5))
    full = torch.pdist(z).square().median()
    assert_allclose(Pool(z).median_squared_distance(), full, rtol=0.05)
