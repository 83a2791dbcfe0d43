"""In every dtype at most twice the error of the expression people paste.

The truth is the package in float64 on the rounded inputs, which test_values.py ties
to the references. The tolerance is the rounding of the result (float32 or wider) for
values, and of the leaf's dtype for gradients.
"""

import numpy as np
import pytest
import torch

from harness import Case, to_torch, value_and_grad
from specs import each_loss
from tolerances import NAIVE_FACTOR, ROUNDING

DTYPES = [torch.float32, torch.bfloat16, torch.float16]

REGIMES = {
    "plain": {},
    "wide": {"rows": 12, "dim": 64},
    "tall": {"rows": 256, "dim": 8},
    "offset": {"offset": 10.0},
    "small": {"scale": 0.05},
    "large": {"scale": 8.0},
    "aligned": {"noise": 0.02},
}


def _inputs(spec, dtype, rows=48, dim=12, offset=0.0, scale=1.0, noise=0.7):
    case = Case(rows=(rows, rows), dims=(dim, dim))
    inputs = spec.draw(case, seed=40, noise=noise)
    return {
        name: torch.tensor(scale * z + offset).to(dtype)
        if name in ("z_a", "z_b")
        else torch.tensor(z)
        for name, z in inputs.items()
    }


def _run(function, inputs, dtype, upstream=1.0):
    inputs = dict(inputs)
    views = [inputs.pop(name).to(dtype, copy=True) for name in ("z_a", "z_b")]
    value = function(*(view.requires_grad_() for view in views), **inputs)
    value.backward(torch.full_like(value, upstream))
    grads = [view.grad.double() / upstream for view in views]
    return value.detach().double(), grads


def _loss_scale(grads, most):
    """Return the power of two that keeps small gradients in float16."""
    largest = max(float(grad.abs().max()) for grad in grads)
    return 2.0 ** int(np.clip(-np.log2(largest), 0, most))


def _error(actual, truth):
    error = (actual - truth).norm() / truth.norm().clamp(min=1e-30)
    return float(error) if error.isfinite() else np.inf


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.parametrize("regime", REGIMES)
@each_loss
def test_no_worse_than_twice_the_plain_expression(spec, regime, dtype):
    inputs = _inputs(spec, dtype, **REGIMES[regime])
    truth, true_grads = _run(spec.function, inputs, torch.float64)
    value, grads = _run(spec.function, inputs, dtype, _loss_scale(true_grads, 60))
    upstream = _loss_scale(true_grads, 14)  # that of a plain expression is 16 bits wide
    try:
        naive, naive_grads = _run(spec.naive, inputs, dtype, upstream)
    except (RuntimeError, ValueError):
        naive, naive_grads = torch.tensor(np.nan), [torch.tensor(np.nan)] * 2

    allowed = NAIVE_FACTOR * _error(naive, truth) + ROUNDING[torch.float32]
    assert _error(value, truth) <= min(allowed, 1e-2)
    for grad, true_grad, naive_grad in zip(grads, true_grads, naive_grads, strict=True):
        allowed = NAIVE_FACTOR * _error(naive_grad, true_grad) + ROUNDING[dtype]
        assert _error(grad, true_grad) <= min(allowed, 0.05)


@each_loss
def test_naive_expression_is_the_loss(spec):
    """In float64 the yardstick and the package agree."""
    inputs = _inputs(spec, torch.float64)
    truth, true_grads = _run(spec.function, inputs, torch.float64)
    naive, naive_grads = _run(spec.naive, inputs, torch.float64)
    assert _error(naive, truth) < 1e-9
    for grad, true_grad in zip(naive_grads, true_grads, strict=True):
        assert _error(grad, true_grad) < 1e-7


@pytest.mark.parametrize("dtype", [*DTYPES, torch.float64], ids=str)
@each_loss
def test_dtypes_of_result_and_gradient(spec, dtype):
    wide = torch.promote_types(dtype, torch.float32)
    inputs = spec.draw(Case(lead=(2,), weighted=True), seed=41)
    for reduction in ("none", "mean", "sum"):
        tensors = to_torch(inputs, dtype)
        value = spec(tensors, reduction=reduction)
        assert value.dtype == wide
        value.sum().backward()
        assert tensors["z_a"].grad.dtype == dtype


@each_loss
def test_mixed_dtypes_promote(spec):
    inputs = spec.draw(Case(), seed=42)
    z_a = torch.tensor(inputs["z_a"]).bfloat16().requires_grad_()
    z_b = torch.tensor(inputs["z_b"]).requires_grad_()
    value = spec({"z_a": z_a, "z_b": z_b})
    value.backward()
    assert value.dtype == torch.float64
    assert z_a.grad.dtype == torch.bfloat16
    assert z_b.grad.dtype == torch.float64
    rounded = {"z_a": z_a.detach().double().numpy(), "z_b": inputs["z_b"]}
    exact, *grads = value_and_grad(spec, rounded)
    assert _error(value.detach(), exact) < 1e-12
    assert _error(z_b.grad, grads[1]) < 1e-10
