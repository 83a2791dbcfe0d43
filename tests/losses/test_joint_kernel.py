"""Products of kernels of parts of the rows: the joint MMD."""

import copy
import math

import pytest
import torch
from numpy.testing import assert_allclose

import xmodal_losses as xl
import xmodal_losses.functional as F
from harness import two_samples, with_grad
from tolerances import SAME
from xmodal_losses import two_sample

ESTIMATORS = ("biased", "unbiased", "paired", "block", "linear")


def joint(**options):
    kernels = xl.GaussianKernel(0.9, **options), xl.MaternKernel(1.4, **options)
    return xl.JointKernel(kernels, [1, 2])


@pytest.mark.parametrize(
    ("rows", "layers", "estimator", "expected"),
    [(3, 4, "unbiased", -0.43501627), (4, 3, "linear", -0.89019970)],
)
def test_pytorch_adapt(rows, layers, estimator, expected):
    """`test_joint_mkmmd_loss.py`: equal layers, means of exp(−s d²), s = ¼ … 4."""
    x = torch.arange(1.0, 1.0 + rows, dtype=torch.float64)[:, None]
    of_layer = xl.MultiKernel(
        [xl.GaussianKernel(math.sqrt(1 / (2 * s))) for s in (0.25, 0.5, 1, 2, 4)]
    )
    kernel = xl.JointKernel([of_layer] * layers, [1] * layers)
    a, b = x.expand(-1, layers), x.expand(-1, layers) + 1
    value = F.mmd(a, b, kernel=kernel, estimator=estimator)
    assert_allclose(value, expected, atol=6e-9)


@pytest.mark.parametrize("estimator", ESTIMATORS)
def test_gaussians_of_parts_are_one_of_the_row(estimator):
    """Of one bandwidth; of two, one of columns in units of them. By another route."""
    x, y = two_samples((6, 6), lead=(2,))
    sigma = torch.tensor([0.7, 1.3, 1.3])
    parts = xl.JointKernel([xl.GaussianKernel(0.7), xl.GaussianKernel(1.3)], [1, 2])
    for chunk in (None, 2):
        options = {"estimator": estimator, "chunk_size": chunk}
        ours = with_grad(lambda a, b, o=options: F.mmd(a, b, kernel=parts, **o), x, y)
        whole = with_grad(
            lambda a, b, o=options: F.mmd(
                a / sigma, b / sigma, kernel=xl.GaussianKernel(1.0), **o
            ),
            x,
            y,
        )
        for one, other in zip(ours, whole, strict=True):
            assert_allclose(one, other, rtol=1e-6, atol=1e-9)


@pytest.mark.parametrize("rule", ["mean", "median"])
def test_rules_are_those_of_the_parts(rule):
    x, y = two_samples(lead=(2,))
    kernel = xl.JointKernel([xl.GaussianKernel(rule), xl.LaplacianKernel(rule)], [2, 1])
    gram = kernel(x, y)
    expected = xl.GaussianKernel(rule)(x[..., :2], y[..., :2])
    expected = expected * xl.LaplacianKernel(rule)(x[..., 2:], y[..., 2:])
    assert_allclose(gram, expected, rtol=1e-10)


def test_it_sees_what_goes_with_what():
    """Equal parts in another company: no part by itself differs."""
    x, _ = two_samples((40, 40), dim=2)
    x = torch.cat((x, x + 0.1 * two_samples((40, 40), dim=2, seed=9)[0]), -1)
    y = torch.cat((x[:, :2], x[:, 2:].roll(1, 0)), -1)
    kernels = [xl.GaussianKernel("mean"), xl.GaussianKernel("mean")]
    for part, kernel in zip((slice(2), slice(2, 4)), kernels, strict=True):
        assert abs(F.mmd(x[:, part], y[:, part], kernel=kernel)) < 1e-14
    assert F.mmd(x, y, kernel=xl.JointKernel(kernels, [2, 2])) > 0.01
    test = two_sample.mmd_agg(x, y, kernels=xl.JointKernel(kernels, [2, 2]))
    assert test.rejected


@pytest.mark.parametrize("estimator", ESTIMATORS)
def test_gradients_to_any_order(estimator):
    x, y = two_samples((4, 4))
    views = [z.requires_grad_() for z in (x, y)]
    kernel = joint()

    def loss(a, b):
        return F.mmd(a, b, kernel=kernel, estimator=estimator)

    assert torch.autograd.gradcheck(loss, views)
    assert torch.autograd.gradgradcheck(loss, views)


def test_what_is_learned():
    x, y = two_samples()
    kernel = joint(learn=True).double()
    assert set(kernel.state_dict()) == {
        "kernels.0.log_factor",
        "kernels.1.log_factor",
    }
    F.mmd(x, y, kernel=kernel).backward()
    for parameter in kernel.parameters():
        values, h = [], 1e-5
        for step in (h, -h):
            with torch.no_grad():
                parameter += step
                values.append(F.mmd(x, y, kernel=kernel))
                parameter -= step
        slope = (values[0] - values[1]) / (2 * h)
        assert_allclose(parameter.grad, slope, rtol=1e-6)
    assert torch.equal(copy.deepcopy(kernel)(x, y), kernel(x, y))
    assert "widths=(1, 2)" in repr(kernel)


def test_kernels_that_look_where_rows_are():
    assert joint().shift == "invariant"
    x, y = two_samples()
    for one in (xl.LinearKernel(), xl.PolynomialKernel(2)):
        kernel = xl.JointKernel([xl.GaussianKernel(1.0), one], [2, 1])
        assert kernel.shift == "sensitive"
        gram = xl.GaussianKernel(1.0)(x[:, :2], y[:, :2]) * one(x[:, 2:], y[:, 2:])
        assert_allclose(kernel(x, y), gram, **SAME)


def test_parts_may_be_joint_or_random():
    x, y = two_samples(dim=4)
    few = xl.RandomFeatures(xl.GaussianKernel(1.0), 1, num_features=8)
    inner = xl.JointKernel([xl.GaussianKernel(0.8), few], [2, 1])
    nested = xl.JointKernel([inner, xl.LaplacianKernel(1.0)], [3, 1])
    flat = xl.JointKernel(
        [xl.GaussianKernel(0.8), few, xl.LaplacianKernel(1.0)], [2, 1, 1]
    )
    assert_allclose(F.mmd(x, y, kernel=nested), F.mmd(x, y, kernel=flat), **SAME)


@pytest.mark.slow
@pytest.mark.parametrize("estimator", ESTIMATORS)
def test_compiles_to_one_graph(estimator):
    torch._dynamo.reset()
    x, y = two_samples((6, 6))
    kernel = xl.JointKernel([xl.GaussianKernel("mean"), xl.LaplacianKernel()], [1, 2])
    criterion = xl.MMDLoss(kernel=kernel, estimator=estimator)
    compiled = torch.compile(criterion, fullgraph=True, backend="aot_eager")
    for one, other in zip(
        with_grad(criterion, x, y), with_grad(compiled, x, y), strict=True
    ):
        assert_allclose(other, one, rtol=1e-10, atol=1e-11)


def test_bad_options_are_refused():
    one, deep = xl.GaussianKernel(1.0), xl.DeepKernel(torch.nn.Linear(3, 2))
    for kernels, widths, got in (([], [], "0 for 0"), ([one], [1, 2], "2 for 1")):
        with pytest.raises(
            ValueError, match=rf"^JointKernel: widths must be one per .+, got {got}"
        ):
            xl.JointKernel(kernels, widths)
    with pytest.raises(TypeError, match=r"^JointKernel: kernels\[1\] must be a Kernel"):
        xl.JointKernel([one, "gaussian"], [1, 2])
    with pytest.raises(
        TypeError, match=r"^JointKernel: kernels\[0\] must be a kernel "
    ):
        xl.JointKernel([deep, one], [1, 2])
    for energy in (xl.EnergyKernel(), xl.MultiKernel([one, xl.EnergyKernel()])):
        with pytest.raises(
            TypeError, match=r"^JointKernel: kernels\[0\] must be positive definite"
        ):
            xl.JointKernel([energy, one], [1, 2])
        with pytest.raises(
            TypeError, match=r"^DeepKernel: input_kernel must be positive definite"
        ):
            xl.DeepKernel(torch.nn.Linear(3, 2), input_kernel=energy)
    with pytest.raises(ValueError, match=r"^JointKernel: widths\[1\] must be >= 1"):
        xl.JointKernel([one, one], [3, 0])
    with pytest.raises(
        TypeError, match=r"^JointKernel: widths\[0\] must be an integer"
    ):
        xl.JointKernel([one, one], [1.0, 2])
    x, y = two_samples()
    with pytest.raises(
        ValueError, match=r"^JointKernel: widths must add up to .+, 3, got \(1, 1\)"
    ):
        F.mmd(x, y, kernel=xl.JointKernel([one, one], [1, 1]))
    with pytest.raises(TypeError, match=r"^RandomFeatures: kernel must be one of"):
        xl.RandomFeatures(joint(), 3)
