"""The deep kernel: its formula with all gradients, and where networks are called."""

import copy
import io
import math

import numpy as np
import pytest
import torch
from numpy.testing import assert_allclose
from torch import nn

import xmodal_losses as xl
import xmodal_losses.functional as F
from harness import two_samples, with_grad
from reference import kernels as reference_kernels
from reference.gradient import complex_step
from reference.mmd import mmd
from tolerances import GRADIENT, SAME, VALUE

ESTIMATORS = ("biased", "unbiased", "paired", "block", "linear")


class Counting(nn.Module):
    """Counts calls, and sees what comes."""

    def __init__(self, network):
        super().__init__()
        self.network = network
        self.seen = []

    def forward(self, rows):
        self.seen.append((tuple(rows.shape), rows.dtype))
        return self.network(rows)


def network(dim=3, width=2):
    generator = torch.Generator().manual_seed(5)
    out = nn.Sequential(nn.Linear(dim, 4), nn.Tanh(), nn.Linear(4, width)).double()
    with torch.no_grad():
        for parameter in out.parameters():
            parameter.copy_(torch.randn(parameter.shape, generator=generator))
    return out


def deep(**options):
    kernel = xl.DeepKernel(network(), epsilon=0.3, **options).double()
    with torch.no_grad():
        for name, parameter in kernel.named_parameters():
            if name.endswith("log_factor"):
                parameter.fill_(0.2)
    return kernel


def reference(feature, inputs, states, epsilon):
    """Return the kernel of numpy with the parameters of a network."""
    (w1, b1, w2, b2), (f, q) = states[:4], (feature, inputs)

    def phi(row):
        return w2 @ np.tanh(w1 @ row + b1) + b2

    return reference_kernels.DeepKernel(phi, f, q, epsilon)


@pytest.mark.parametrize("estimator", ESTIMATORS)
def test_value_and_every_gradient(estimator):
    """Rows, network, both bandwidths and ε, against complex steps of the formula."""
    x, y = two_samples((6, 6))
    kernel = deep(input_kernel=xl.GaussianKernel(1.4, learn=True))
    parameters = dict(kernel.named_parameters())
    names = list(parameters)

    def formula(a, b, *states):
        state = dict(zip(names, states, strict=True))
        weights = [v for k, v in state.items() if k.startswith("network")]
        sigma = np.exp(state["feature_kernel.log_factor"])
        sigma_q = 1.4 * np.exp(state["input_kernel.log_factor"])
        epsilon = 1 / (1 + np.exp(-state["logit_epsilon"]))
        return mmd(
            a,
            b,
            kernel=reference(
                reference_kernels.GaussianKernel(sigma),
                reference_kernels.GaussianKernel(sigma_q),
                weights,
                epsilon,
            ),
            estimator=estimator,
            block_size=3 if estimator == "block" else None,
        )

    views = [z.clone().requires_grad_() for z in (x, y)]
    block = {"block_size": 3} if estimator == "block" else {}
    value = F.mmd(*views, kernel=kernel, estimator=estimator, **block)
    grads = torch.autograd.grad(value, [*views, *parameters.values()])
    arrays = [x.numpy(), y.numpy(), *(p.detach().numpy() for p in parameters.values())]
    assert_allclose(value.detach(), formula(*arrays), **VALUE)
    slopes = complex_step(formula, arrays)
    for name, grad, expected in zip(["x", "y", *names], grads, slopes, strict=True):
        assert_allclose(grad, expected, **GRADIENT)
        # A kernel of distances does not see what shifts all features.
        assert np.abs(expected).max() > 1e-7 or name == "network.2.bias"


def test_fewer_rows_than_columns():
    x, y = two_samples((9, 9), dim=7)
    kernel = xl.DeepKernel(network(dim=7), input_kernel=xl.GaussianKernel(1.4)).double()
    few = kernel(x[:2], y[:2])
    assert_allclose(few.detach(), kernel(x, y)[:2, :2].detach(), **SAME)


@pytest.mark.parametrize("inner", ["mean", "median"])
def test_rules_are_of_the_features_and_of_the_rows(inner):
    x, y = two_samples()
    kernel = deep(
        feature_kernel=xl.LaplacianKernel(inner, factor=0.5),
        input_kernel=xl.GaussianKernel(inner),
    )
    states = [p.detach().numpy() for p in kernel.network.parameters()]
    expected = mmd(
        x.numpy(),
        y.numpy(),
        kernel=reference(
            reference_kernels.LaplacianKernel(inner, factor=0.5),
            reference_kernels.GaussianKernel(inner),
            states,
            0.3,
        ),
    )
    assert_allclose(F.mmd(x, y, kernel=kernel).detach(), expected, rtol=1e-7)


def test_the_matrix():
    x, y = two_samples(lead=(2,))
    kernel = deep()
    gram = kernel(x, y)
    phi_x, phi_y = kernel.network(x), kernel.network(y)
    sigma, pool = math.exp(0.2), torch.cat((x, y), -2)
    for k in range(2):
        kappa = xl.GaussianKernel(sigma)(phi_x[k], phi_y[k])
        d2 = torch.pdist(pool[k]).square().mean() / 2
        q = xl.GaussianKernel(math.exp(0.2) * d2.sqrt().item())(x[k], y[k])
        expected = (0.7 * kappa + 0.3) * q
        assert_allclose(gram[k].detach(), expected.detach(), rtol=1e-6)
    # Of rows with themselves it is 1, and positive definite.
    own = kernel(x, x).detach()
    assert (own.diagonal(0, -2, -1) == 1).all()
    assert torch.linalg.eigvalsh(own).min() > 0


def test_the_network_is_called_once_on_all_rows():
    x, y = two_samples((7, 5), lead=(2,))
    kernel = deep()
    kernel.network = Counting(kernel.network)
    for options in ({}, {"chunk_size": 2}, {"estimator": "unbiased"}):
        F.mmd(x, y, kernel=kernel, **options).backward()
    assert kernel.network.seen == [((24, 3), torch.float64)] * 3
    kernel(x, x)
    assert kernel.network.seen[-1] == ((14, 3), torch.float64)


@pytest.mark.parametrize("estimator", ["biased", "unbiased", "paired"])
def test_tiles_and_leading_dimensions(estimator):
    rows = (7, 7) if estimator == "paired" else (7, 5)
    x, y = two_samples(rows, lead=(3,))
    kernel = deep()
    results = []
    for chunk in (None, 3):
        kernel.zero_grad()
        value, *grads = with_grad(
            lambda a, b, c=chunk: F.mmd(
                a, b, kernel=kernel, estimator=estimator, chunk_size=c
            ),
            x,
            y,
        )
        results.append((value, *grads, *(p.grad for p in kernel.parameters())))
    for tiled, whole in zip(*results, strict=True):
        assert_allclose(tiled, whole, **SAME)
    values = F.mmd(x, y, kernel=kernel, estimator=estimator, reduction="none")
    one = F.mmd(x[1], y[1], kernel=kernel, estimator=estimator)
    assert_allclose(values[1].detach(), one.detach(), **SAME)


@pytest.mark.parametrize("estimator", ["biased", "unbiased", "paired"])
def test_rows_without_weight_are_not_there(estimator):
    """They may hold NaN, and the network gets no gradient from them."""
    x, y = two_samples((6, 6))
    weight = torch.tensor([1.0, 0.5, 0.0, 2.0, 1.0, 0.0]).double()
    keep = weight > 0
    x[~keep] = torch.nan
    kernel = deep()
    results = []
    for rows, some in ((slice(None), weight), (keep, weight[keep])):
        kernel.zero_grad()
        b = y if estimator != "paired" else y[rows]
        value, *grads = with_grad(
            lambda u, v, w=some: F.mmd(
                u, v, kernel=kernel, estimator=estimator, weight_a=w
            ),
            x[rows],
            b,
        )
        grads[0] = grads[0][keep] if len(grads[0]) == 6 else grads[0]
        grads[1] = grads[1][keep] if estimator == "paired" and len(b) == 6 else grads[1]
        results.append((value, *grads, *(p.grad for p in kernel.parameters())))
    for first, second in zip(*results, strict=True):
        assert_allclose(first, second, **SAME)
        assert first.isfinite().all()


def test_no_weight_at_all_is_zero():
    x, y = two_samples((6, 6))
    value, *grads = with_grad(
        lambda a, b: F.mmd(a, b, kernel=deep(), weight_a=torch.zeros(6)), x, y
    )
    assert value == 0
    assert all((grad == 0).all() for grad in grads)


def test_identical_batches_and_points():
    x, _ = two_samples((5, 5))
    for z in (x, torch.full_like(x, 0.7)):
        kernel = deep()
        value, *grads = with_grad(lambda a, b, k=kernel: F.mmd(a, b, kernel=k), z, z)
        assert abs(value) < 1e-15
        for grad in (*grads, *(p.grad for p in kernel.parameters())):
            assert grad.abs().max() < 1e-14


def test_dtypes_are_those_of_the_network_inside():
    """Rows come to it in its dtype; the rest is as of any kernel."""
    x, y = two_samples((6, 6))
    kernel = deep()
    exact = F.mmd(x, y, kernel=kernel)
    narrow = copy.deepcopy(kernel).float()
    assert_allclose(F.mmd(x, y, kernel=narrow).detach(), exact.detach(), rtol=1e-4)
    assert F.mmd(x, y, kernel=narrow).dtype == torch.float64
    half = F.mmd(x.half(), y.half(), kernel=narrow)
    assert half.dtype == torch.float32
    assert_allclose(half.detach(), exact.detach(), rtol=1e-2)
    coarse = F.mmd(x.float(), y.float(), kernel=copy.deepcopy(kernel).bfloat16())
    assert_allclose(coarse.detach(), exact.detach(), rtol=0.1)
    outside = F.mmd(x.float(), y.float(), kernel=narrow)
    with torch.autocast("cpu", torch.bfloat16):
        assert torch.equal(F.mmd(x.float(), y.float(), kernel=narrow), outside)


@pytest.mark.parametrize("estimator", ESTIMATORS)
def test_compiles_to_one_graph(estimator):
    torch._dynamo.reset()
    x, y = two_samples((6, 6))
    criterion = xl.MMDLoss(kernel=deep(), estimator=estimator)
    compiled = torch.compile(criterion, fullgraph=True, backend="aot_eager")
    results = []
    for module in (criterion, compiled):
        criterion.zero_grad()
        value, *grads = with_grad(module, x, y)
        results.append((value, *grads, *(p.grad for p in criterion.parameters())))
    for first, second in zip(*results, strict=True):
        assert_allclose(second, first, rtol=1e-10, atol=1e-11)


def test_functional_transforms():
    x, y = two_samples((6, 6), lead=(3,))
    kernel = deep()
    state = dict(kernel.named_parameters())
    criterion = xl.MMDLoss(kernel=kernel)

    def loss(parameters, a, b):
        named = {f"kernel.{k}": v for k, v in parameters.items()}
        return torch.func.functional_call(criterion, named, (a, b))

    per_problem = torch.func.vmap(torch.func.grad(loss), (None, 0, 0))(state, x, y)
    for k in range(3):
        kernel.zero_grad()
        criterion(x[k], y[k]).backward()
        for name, parameter in kernel.named_parameters():
            assert_allclose(per_problem[name][k].detach(), parameter.grad, **SAME)


def test_second_derivatives():
    x, y = two_samples((3, 3), dim=3)
    kernel = deep(input_kernel=xl.GaussianKernel(1.4))
    views = [z.requires_grad_() for z in (x, y)]
    assert torch.autograd.gradgradcheck(lambda a, b: F.mmd(a, b, kernel=kernel), views)


def test_any_network():
    """Convolutions of rows that are images, features of any shape, no parameters."""
    x, y = two_samples((6, 5), dim=16)
    images = nn.Sequential(nn.Unflatten(1, (1, 4, 4)), nn.Conv2d(1, 2, 3), nn.ReLU())
    assert F.mmd(x, y, kernel=xl.DeepKernel(images.double())).isfinite()
    identity = xl.DeepKernel(nn.Identity(), input_kernel=xl.GaussianKernel(1e9))
    plain = xl.GaussianKernel(1.0)
    assert_allclose(
        F.mmd(x, y, kernel=identity).detach(),
        F.mmd(x, y, kernel=plain) / 2,  # ε = ½
        rtol=1e-6,
    )


def test_kernels_that_look_where_rows_are():
    x, y = two_samples((6, 6))
    kernel = deep(input_kernel=xl.PolynomialKernel(2, 1.0, 1.0))
    assert kernel.shift == "sensitive"
    assert deep().shift == "invariant"
    phi = kernel.network(torch.cat((x, y)))
    kappa = xl.GaussianKernel(math.exp(0.2))(phi, phi)
    gram = (0.7 * kappa + 0.3) * (torch.cat((x, y)) @ torch.cat((x, y)).T + 1) ** 2
    expected = gram[:6, :6].mean() + gram[6:, 6:].mean() - 2 * gram[:6, 6:].mean()
    assert_allclose(F.mmd(x, y, kernel=kernel).detach(), expected.detach(), rtol=1e-6)


def test_state_and_shown_options():
    kernel = xl.DeepKernel(nn.Linear(3, 2), epsilon=0.2)
    assert set(kernel.state_dict()) == {
        "logit_epsilon",
        "network.weight",
        "network.bias",
        "feature_kernel.log_factor",
        "input_kernel.log_factor",
    }
    assert_allclose(kernel.epsilon.item(), 0.2, rtol=1e-6)
    assert "epsilon=0.2" in repr(kernel)
    x, y = (z.float() for z in two_samples())
    saved = io.BytesIO()
    torch.save(kernel, saved)
    saved.seek(0)
    for twin in (copy.deepcopy(kernel), torch.load(saved, weights_only=False)):
        assert torch.equal(twin(x, y), kernel(x, y))
    with torch.no_grad():
        kernel.logit_epsilon.fill_(-30.0)
        assert 0 < kernel.epsilon < 1e-12


def test_bad_options_are_refused():
    layer = nn.Linear(3, 2)
    kernel = xl.DeepKernel(layer)
    with pytest.raises(TypeError, match=r"^DeepKernel: network must be a module, got"):
        xl.DeepKernel(torch.tanh)
    for epsilon in (0.0, 1.0, math.nan):
        with pytest.raises(ValueError, match=r"^DeepKernel: epsilon must be a finite"):
            xl.DeepKernel(layer, epsilon=epsilon)
    for name in ("feature_kernel", "input_kernel"):
        with pytest.raises(TypeError, match=rf"^DeepKernel: {name} must be a Kernel, "):
            xl.DeepKernel(layer, **{name: "gaussian"})
        with pytest.raises(
            TypeError, match=rf"^DeepKernel: {name} must be a kernel of"
        ):
            xl.DeepKernel(layer, **{name: kernel})
    with pytest.raises(
        TypeError, match=r"^MultiKernel: kernels\[1\] must be a kernel "
    ):
        xl.MultiKernel([xl.GaussianKernel(), kernel])
    z = torch.zeros(4, 3)
    for bad in (nn.Flatten(0), nn.Unflatten(0, (2, 2))):
        with pytest.raises(ValueError, match=r"^DeepKernel: network must return real"):
            F.mmd(z, z, kernel=xl.DeepKernel(bad))
