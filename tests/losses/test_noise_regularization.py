"""Noise regularisation: the theorem of the paper, chance, and every family."""

import copy
import pickle
from itertools import product

import numpy as np
import pytest
import torch
from numpy.testing import assert_allclose
from torch.autograd import gradcheck

import xmodal_losses as xl
import xmodal_losses.functional as F
from reference.gradient import five_point
from reference.noise_regularization import noise_regularization
from tolerances import GRADIENT_DIFFERENCES, SAME, VALUE

CASES = [
    {"chance_corrected": corrected, "ridge": ridge, "ridge_scale": scale}
    for corrected, (ridge, scale) in product(
        (False, True), ((0.0, "absolute"), (0.3, "absolute"), (0.2, "relative"))
    )
]
each_case = pytest.mark.parametrize("options", CASES, ids=str)


def _draw(n=12, dims=(3, 4), lead=(), weighted=False, seed=0):
    rng = np.random.default_rng(seed)
    x, noise = rng.normal(size=(2, *lead, n, dims[1]))
    f = rng.normal(size=(dims[1], dims[0]))
    out = {"z": np.tanh(x @ f), "z_noise": np.tanh(noise @ f), "x": x, "noise": noise}
    if weighted:
        out["weight"] = rng.uniform(0.2, 2.0, size=(*lead, n))
        out["weight"][..., 1] = 0.0
    return out


def _tensors(inputs, dtype=torch.float64):
    return {
        name: torch.tensor(array, dtype=dtype).requires_grad_(name.startswith("z"))
        for name, array in inputs.items()
    }


def _grads(inputs, dtype=torch.float64, **options):
    tensors = _tensors(inputs, dtype)
    value = F.noise_regularization(**tensors, **options)
    value.backward()
    return value.detach(), tensors["z"].grad, tensors["z_noise"].grad


@pytest.mark.parametrize("lead", [(), (2,)], ids=str)
@pytest.mark.parametrize("weighted", [False, True])
@each_case
def test_value_and_gradient(options, weighted, lead):
    inputs = _draw(lead=lead, weighted=weighted)
    for reduction in ("none", "mean", "sum"):
        some = options | {"reduction": reduction}
        value = F.noise_regularization(**_tensors(inputs), **some).detach()
        assert_allclose(value, noise_regularization(**inputs, **some), **VALUE)
    _, *grads = _grads(inputs, **options)
    rest = {k: v for k, v in inputs.items() if not k.startswith("z")}
    expected = five_point(
        lambda z, a: noise_regularization(z, a, **rest, **options),
        [inputs["z"], inputs["z_noise"]],
    )
    for grad, reference in zip(grads, expected, strict=True):
        assert_allclose(grad, reference, **GRADIENT_DIFFERENCES)
    tensors = _tensors(inputs)
    rest = {k: v for k, v in tensors.items() if not k.startswith("z")}

    def f(z, a):
        return F.noise_regularization(z, a, **rest, **options)

    assert gradcheck(f, (tensors["z"], tensors["z_noise"]), fast_mode=True)


@pytest.mark.parametrize("corrected", [False, True])
def test_invertible_linear_encoders_change_nothing(corrected):
    """Theorem 1 of the paper; one that loses a direction does."""
    inputs = _tensors(_draw(30, (4, 4)))
    x, noise = inputs["x"], inputs["noise"]
    f = torch.randn(4, 4, dtype=torch.float64) + 2 * torch.eye(4)
    options = {"chance_corrected": corrected, "ridge": 0.0}
    value = F.noise_regularization(x @ f + 1, noise @ f + 1, x, noise, **options)
    assert_allclose(value, 0, atol=1e-10)
    f[:, 3] = f[:, 2]
    value = F.noise_regularization(x @ f, noise @ f, x, noise, **options)
    assert value > 0.05


@pytest.mark.parametrize("widths", [(5, 5), (5, 20)], ids=str)
def test_chance_is_one_at_any_widths(widths):
    """Of independent rows, on average; the uncorrected form tells widths apart."""
    generator = torch.Generator().manual_seed(1)

    def draw(d):
        return torch.randn(400, 101, d, dtype=torch.float64, generator=generator)

    (z, a), (x, noise) = ((draw(d), draw(d)) for d in widths)
    options = {"chance_corrected": True, "ridge": 0.0, "reduction": "none"}
    small = 1e-9 * z  # a correlation of 0 is 1 away from chance
    empty = torch.zeros_like(z)
    assert_allclose(F.noise_regularization(empty, small, **options), 1.0, atol=1e-12)
    squares = [
        -F.dcca(*pair, objective="frobenius", ridge=0.0, reduction="none").mean()
        for pair in ((z, a), (x, noise))
    ]
    for d, total in zip(widths, squares, strict=True):
        assert_allclose(total * 100 / d**2, 1.0, atol=0.02)
    plain = F.noise_regularization(z, a, x, noise, ridge=0.0)
    assert (plain < 1) == (widths[0] == widths[1])
    # The mean of |r - r'| is of the noise of r, small against 1.
    corrected = F.noise_regularization(z, a, x, noise, **options).mean()
    assert corrected < 0.35


def test_of_two_thousand_rows_correlations_with_noise_are_large():
    """N = 2000, D = 100: Σρ = 18.9 by chance alone."""
    generator = torch.Generator().manual_seed(0)
    x, noise = torch.randn(2, 2000, 100, dtype=torch.float64, generator=generator)
    zero = torch.zeros(2000, 100, dtype=torch.float64)
    value = F.noise_regularization(zero, zero, x, noise, ridge=0.0)
    assert_allclose(value, 18.9, atol=0.2)


@each_case
def test_weights(options):
    inputs = _draw(weighted=True)
    value, *grads = _grads(inputs, **options)
    kept = np.delete(np.arange(12), 1)
    expected, *references = _grads({k: v[kept] for k, v in inputs.items()}, **options)
    assert_allclose(value, expected, **SAME)
    for name in ("z", "z_noise", "x", "noise"):
        inputs[name][1] = np.nan
    inputs["weight"] *= 1e3
    value, *grads = _grads(inputs, **options)
    assert_allclose(value, expected, rtol=1e-10)
    for grad, reference in zip(grads, references, strict=True):
        assert (grad[1] == 0).all()
        assert_allclose(grad[kept], reference, rtol=1e-8, atol=1e-11)
    inputs["weight"][:] = 0
    for result in _grads(inputs, **options):
        assert (result == 0).all()


@each_case
def test_leading_dimensions_and_transforms(options):
    inputs = _draw(lead=(3,), weighted=True)
    inputs["weight"][2] = 0
    tensors = _tensors(inputs)
    values = F.noise_regularization(**tensors, reduction="none", **options)
    mean = F.noise_regularization(**tensors, **options)
    assert_allclose(mean.detach(), values[:2].mean().detach(), **SAME)
    for i in range(3):
        one = {k: v[i] for k, v in tensors.items()}
        assert_allclose(
            F.noise_regularization(**one, **options).detach(),
            values[i].detach(),
            **SAME,
        )
    names = list(tensors)

    def f(*some):
        told = dict(zip(names, some, strict=True))
        return F.noise_regularization(**told, **options)

    some = [t.detach() for t in tensors.values()]
    assert_allclose(torch.func.vmap(f)(*some), values.detach(), **SAME)
    grads = torch.func.vmap(torch.func.grad(f, argnums=(0, 1)))(*some)
    values.sum().backward()
    for grad, z in zip(grads, (tensors["z"], tensors["z_noise"]), strict=True):
        assert_allclose(grad, z.grad, rtol=1e-10, atol=1e-11)


@pytest.mark.parametrize("corrected", [False, True])
def test_compiles_to_one_graph(corrected):
    torch._dynamo.reset()
    inputs = _draw(weighted=True)
    options = {"chance_corrected": corrected}
    expected, grad, _ = _grads(inputs, **options)
    module = xl.NoiseRegularizationLoss(**options)
    compiled = torch.compile(module, fullgraph=True, backend="aot_eager")
    tensors = _tensors(inputs)
    value = compiled(**tensors)
    value.backward()
    assert_allclose(value.detach(), expected, rtol=1e-10)
    assert_allclose(tensors["z"].grad, grad, rtol=1e-9, atol=1e-11)


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float32], ids=str)
@each_case
def test_dtypes(options, dtype):
    inputs = _draw(24)
    inputs = {k: torch.tensor(v).to(dtype).double().numpy() for k, v in inputs.items()}
    truth, *true_grads = _grads(inputs, **options)
    with torch.autocast("cpu", torch.bfloat16):
        value, *grads = _grads(inputs, dtype, **options)
    assert value.dtype == torch.float32
    assert_allclose(value, truth, rtol=1e-5)
    for grad, true_grad in zip(grads, true_grads, strict=True):
        assert grad.dtype == dtype
        error = (grad.double() - true_grad).norm() / true_grad.norm()
        assert error < 8 * torch.finfo(dtype).eps


@each_case
def test_finite_where_singular(options):
    rng = np.random.default_rng(3)
    z, a = rng.normal(size=(2, 6, 4))
    column = z.copy()
    column[:, 1] = 0.7
    for one, other in (
        (z, z),
        (0 * z, a),
        (0 * z, 0 * z),
        (column, column),
        (np.full_like(z, 0.4), a),
        (np.outer(z[:, 0], a[0]), a),
        (z[:2], a[:2]),
        (z[:3], a[:3]),
        (1e-20 * z, 1e4 * a),
    ):
        some = {"z": one, "z_noise": other, "x": z[: len(one)], "noise": a[: len(one)]}
        assert all(r.isfinite().all() for r in _grads(some, **options))


@each_case
def test_module_is_the_function(options):
    tensors = _tensors(_draw(weighted=True))
    module = xl.NoiseRegularizationLoss(**options)
    expected = F.noise_regularization(**tensors, **options)
    for twin in (module, copy.deepcopy(module), pickle.loads(pickle.dumps(module))):
        assert torch.equal(twin(**tensors), expected)
    for name, value in options.items():
        assert f"{name}={value!r}" in repr(module)
    assert module.state_dict() == {}


def test_data_and_noise_get_no_gradient():
    tensors = {k: v.detach().requires_grad_() for k, v in _tensors(_draw()).items()}
    F.noise_regularization(**tensors).backward()
    assert tensors["x"].grad is None
    assert tensors["noise"].grad is None


def test_errors():
    z, x = torch.randn(6, 3), torch.randn(6, 4)

    def refused(error, text, *args, **options):
        with pytest.raises(error, match=f"^noise_regularization: {text}"):
            F.noise_regularization(*args, **options)

    both = "x and noise must be given both, got"
    refused(ValueError, f"{both} None and None", z, z)
    refused(ValueError, f"{both} a tensor and None", z, z, x)
    refused(ValueError, both, z, z, x, chance_corrected=True)
    refused(ValueError, "z and z_noise must have one shape", z, z[:5], x, x)
    refused(ValueError, "z and z_noise must have one shape", z, x, x, x)
    refused(ValueError, "x and noise must have one shape, and the", z, z, x[:5], x[:5])
    refused(ValueError, "z and z_noise must be on the device", z, z.to("meta"), x, x)
    refused(ValueError, "z must have at least 2 rows", z[:1], z[:1], x[:1], x[:1])
    refused(TypeError, "noise must be a floating-point tensor", z, z, x, "white")
    refused(ValueError, "weight must be of shape", z, z, x, x, weight=torch.ones(5))
    refused(ValueError, "group must be a process group", z, z, x, x, group="gloo")
    for name, bad, error in (
        ("chance_corrected", 1, TypeError),
        ("ridge", -1.0, ValueError),
        ("ridge_scale", None, ValueError),
        ("compute_dtype", torch.float16, ValueError),
        ("reduction", "avg", ValueError),
        ("exchange", "carrier pigeon", ValueError),
    ):
        refused(error, f"{name} must be", z, z, x, x, **{name: bad})
        with pytest.raises(error, match=f"^NoiseRegularizationLoss: {name} must be"):
            xl.NoiseRegularizationLoss(**{name: bad})
