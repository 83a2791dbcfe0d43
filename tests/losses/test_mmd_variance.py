"""Variances of MMD estimates: brute force, enumeration of small laws, hard inputs."""

from itertools import product

import numpy as np
import pytest
import torch
from numpy.testing import assert_allclose

import xmodal_losses as xl
import xmodal_losses.functional as F
from harness import _kernel, two_samples, with_grad
from reference import kernels
from reference.gradient import complex_step
from reference.mmd_variance import mmd_variance
from tolerances import GRADIENT, SAME, VALUE

KERNELS = (
    kernels.GaussianKernel(1.1),
    kernels.LaplacianKernel("mean"),
    kernels.PolynomialKernel(2, 0.5, 0.3),
    kernels.LinearKernel(),
    kernels.MultiKernel((kernels.GaussianKernel("median"), kernels.EnergyKernel())),
)
each_kernel = pytest.mark.parametrize(
    "kernel", KERNELS, ids=lambda kernel: type(kernel).__name__
)
each_form = pytest.mark.parametrize(
    ("estimator", "form", "rows"),
    [
        ("unbiased", "exact", (5, 4)),
        ("unbiased", "exact", (4, 4)),
        ("unbiased", "first_order", (5, 3)),
        ("unbiased", "first_order", (2, 4)),
        ("paired", "exact", (5, 5)),
        ("paired", "exact", (4, 4)),
        ("paired", "first_order", (5, 5)),
    ],
)


@each_form
@each_kernel
def test_value_and_gradient(kernel, estimator, form, rows):
    x, y = two_samples(rows)
    options = {"estimator": estimator, "form": form}

    def reference(a, b):
        return mmd_variance(a, b, kernel=kernel, **options)

    value, *grads = with_grad(
        lambda a, b: F.mmd_variance(a, b, kernel=_kernel(kernel), **options), x, y
    )
    arrays = [x.numpy(), y.numpy()]
    expected = reference(*arrays)
    assert abs(expected) > 1e-6
    assert_allclose(value, expected, **VALUE)
    for grad, of in zip(grads, complex_step(reference, arrays), strict=True):
        assert_allclose(grad, of, **GRADIENT)


@pytest.mark.parametrize("form", ["exact", "first_order"])
@pytest.mark.parametrize("estimator", ["unbiased", "paired"])
def test_leading_dimensions(estimator, form):
    x, y = two_samples((6, 6), lead=(2, 3))
    options = {"estimator": estimator, "form": form}
    values = F.mmd_variance(x, y, **options)
    assert values.shape == (2, 3)
    assert_allclose(values[1, 2], F.mmd_variance(x[1, 2], y[1, 2], **options), **SAME)


@pytest.mark.parametrize("rows", [(4, 4), (4, 5)])
def test_exact_is_unbiased(rows):
    """Over all samples of two laws of three points, in the shares they come in."""
    points = torch.tensor([[0.0], [1.0], [2.5]], dtype=torch.float64)
    p, q = np.array([0.5, 0.5, 0.0]), np.array([0.2, 0.5, 0.3])
    of_a = list(product((0, 1), repeat=rows[0]))
    of_b = list(product(range(3), repeat=rows[1]))
    pairs = [(a, b) for a in of_a for b in of_b]
    share = np.array([p[list(a)].prod() * q[list(b)].prod() for a, b in pairs])
    assert_allclose(share.sum(), 1)
    x, y = (points[torch.tensor([pair[k] for pair in pairs])] for k in (0, 1))
    kernel = xl.GaussianKernel(1.0)
    estimates = F.mmd(x, y, kernel=kernel, estimator="unbiased", reduction="none")
    variances = F.mmd_variance(x, y, kernel=kernel)
    mean = share @ estimates.numpy()
    truth = share @ (estimates.numpy() - mean) ** 2
    assert_allclose(share @ variances.numpy(), truth, rtol=1e-10)


def test_exact_of_pairs_is_unbiased():
    """Over all samples of a law of pairs."""
    pairs = torch.tensor([[0.0, 0.2], [1.0, 0.0], [2.5, 3.0]], dtype=torch.float64)
    p = np.array([0.3, 0.5, 0.2])
    drawn = torch.tensor(list(product(range(3), repeat=5)))
    share = p[drawn.numpy()].prod(1)
    x, y = (pairs[drawn][..., [k]] for k in (0, 1))
    options = {"kernel": xl.GaussianKernel(1.0), "estimator": "paired"}
    estimates = F.mmd(x, y, reduction="none", **options).numpy()
    variances = F.mmd_variance(x, y, **options).numpy()
    truth = share @ (estimates - share @ estimates) ** 2
    assert_allclose(share @ variances, truth, rtol=1e-10)


@pytest.mark.parametrize("estimator", ["unbiased", "paired"])
def test_both_forms_agree_for_many_rows(estimator):
    x, y = two_samples((400, 400))
    exact, first = (
        F.mmd_variance(x, y, estimator=estimator, form=form)
        for form in ("exact", "first_order")
    )
    assert_allclose(exact, first, rtol=0.05)


def test_first_order_stays_positive_where_differences_of_sums_do_not():
    """Batches far apart, in float32: Liu et al.'s Eq. 5 as written goes below 0."""
    generator = torch.Generator().manual_seed(0)
    kernel = xl.GaussianKernel(1.0)
    negative = 0
    for _ in range(50):
        x = 1e-3 * torch.randn(64, 2, generator=generator)
        y = 1e-3 * torch.randn(64, 2, generator=generator) + 50
        h = kernel(x, x) + kernel(y, y) - kernel(x, y) - kernel(y, x)
        n = len(h)
        written = 4 / n**3 * h.sum(1).square().sum() - 4 / n**4 * h.sum().square()
        negative += int(written < 0)
        options = {"kernel": kernel, "estimator": "paired", "form": "first_order"}
        ours, *grads = with_grad(
            lambda a, b, o=options: F.mmd_variance(a, b, **o), x, y
        )
        truth = F.mmd_variance(x.double(), y.double(), **options)
        assert ours >= 0
        assert all(grad.isfinite().all() for grad in grads)
        assert_allclose(ours, truth, rtol=0.2)
    assert negative > 0


@pytest.mark.parametrize("form", ["exact", "first_order"])
@pytest.mark.parametrize("estimator", ["unbiased", "paired"])
def test_identical_points_vary_by_nothing(estimator, form):
    z = torch.full((5, 3), 0.7)
    value, *grads = with_grad(
        lambda a, b: F.mmd_variance(a, b, estimator=estimator, form=form), z, z
    )
    assert abs(value) < 1e-12
    assert all((grad == 0).all() for grad in grads)


def test_far_from_the_origin_in_float32():
    x, y = (z.float() for z in two_samples((30, 30)))
    for kernel in (None, xl.LinearKernel()):
        near = F.mmd_variance(x, y, kernel=kernel)
        far = F.mmd_variance(x + 1000, y + 1000, kernel=kernel)
        assert_allclose(far, near, rtol=2e-3)


def test_dtypes():
    x, y = two_samples((6, 6))
    for dtype in (torch.float16, torch.bfloat16, torch.float32):
        assert F.mmd_variance(x.to(dtype), y.to(dtype)).dtype == torch.float32
    with torch.autocast("cpu", torch.bfloat16):
        assert torch.equal(F.mmd_variance(x, y), F.mmd_variance(x, y))
        inside = F.mmd_variance(x.float(), y.float())
    assert inside == F.mmd_variance(x.float(), y.float())


def test_bad_input_is_refused():
    x, y = two_samples((6, 5))
    for options, message in (
        ({"estimator": "biased"}, "mmd_variance: estimator must be one of 'unbiased'"),
        (
            {"form": "stable"},
            "mmd_variance: form must be one of 'exact', 'first_order'",
        ),
        (
            {"estimator": "paired"},
            "mmd_variance: z_a and z_b must have the same number",
        ),
    ):
        with pytest.raises(ValueError, match=f"^{message}"):
            F.mmd_variance(x, y, **options)
    with pytest.raises(
        ValueError, match=r"^mmd_variance: z_b must have at least 4 rows"
    ):
        F.mmd_variance(x, y[:3])
    with pytest.raises(
        ValueError, match=r"^mmd_variance: z_b must have at least 2 rows"
    ):
        F.mmd_variance(x, y[:1], form="first_order")
    with pytest.raises(
        TypeError, match=r"^mmd_variance: kernel must be a Kernel or None"
    ):
        F.mmd_variance(x, y, kernel="gaussian")
