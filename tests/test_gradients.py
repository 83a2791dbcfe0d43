"""First and second derivatives, and finite ones wherever the loss is singular."""

from dataclasses import replace

import numpy as np
import pytest
import torch
from torch.autograd import gradcheck, gradgradcheck

from harness import Case, to_torch, value_and_grad
from specs import each_case, each_loss


def _closure(spec, inputs, options):
    """Return the loss as a function of its two views."""
    tensors = to_torch(inputs)
    rest = {k: v for k, v in tensors.items() if not k.startswith("z_")}

    def f(z_a, z_b):
        return spec({"z_a": z_a, "z_b": z_b, **rest}, reduction="none", **options)

    return f, (tensors["z_a"], tensors["z_b"])


def _small(spec, case):
    rows = (5, 5) if spec.name == "dcca" else (4, 4)
    dims = (3, 3) if max(case.dims) > 2 else (2, 2)
    return replace(case, rows=rows, dims=dims, lead=(2,), weighted=False)


@each_case(lambda spec, case: spec.smooth(case.options), bare=True)
def test_gradcheck(spec, case):
    f, views = _closure(spec, spec.draw(_small(spec, case), seed=20), case.options)
    assert gradcheck(f, views)


@each_case(
    lambda spec, case: spec.smooth(case.options) and spec.twice(case.options), bare=True
)
def test_gradgradcheck(spec, case):
    f, views = _closure(spec, spec.draw(_small(spec, case), seed=21), case.options)
    assert gradgradcheck(f, views)


@each_case(lambda spec, case: not spec.twice(case.options), bare=True)
def test_second_derivative_refused(spec, case):
    f, views = _closure(spec, spec.draw(_small(spec, case), seed=22), case.options)
    first = torch.autograd.grad(f(*views).sum(), views, create_graph=True)
    with pytest.raises(RuntimeError, match=rf"^{spec.name}: \w+ must be .+, got"):
        torch.autograd.grad(sum((g**2).sum() for g in first), views)


@each_loss
@pytest.mark.parametrize("view", ["z_a", "z_b"])
def test_one_view_may_be_constant(spec, view):
    """Only the view that asks for a gradient gets one, and it is the same."""
    inputs = spec.draw(Case(), seed=23)
    _, *grads = value_and_grad(spec, inputs)
    tensors = to_torch(inputs, grad=False)
    tensors[view].requires_grad_()
    spec(tensors).backward()
    expected = grads[0] if view == "z_a" else grads[1]
    torch.testing.assert_close(tensors[view].grad, expected, rtol=1e-12, atol=1e-13)


def _degenerate():
    """Yield (name, (z_a, z_b)): where square roots, norms, logs and SVDs are singular.

    Every square root, norm, division, logarithm and decomposition of the package has
    its singular point in this list.
    """
    rng = np.random.default_rng(30)
    z = rng.normal(size=(6, 4))
    other = rng.normal(size=(6, 4))

    def changed(**rows):
        out = z.copy()
        for key, value in rows.items():
            index = int(key[1:])
            if key[0] == "c":
                out[:, index] = value
            else:
                out[index] = value
        return out

    eye = np.vstack([np.eye(4), -np.eye(4)[:2]])
    orthonormal = np.linalg.qr(np.vstack([np.eye(4), -np.eye(4)]))[0]
    yield "identical views", (z, z)
    yield "opposite views", (z, -z)
    yield "shifted views", (z, z + 1.0)
    yield "a constant column", (changed(c1=0.7), other)
    yield "two constant columns", (changed(c1=0.7, c2=0.0), changed(c0=0.3, c2=1.0))
    yield "a constant view", (np.full_like(z, 0.4), other)
    yield "two constant views", (np.full_like(z, 0.4), np.full_like(z, -0.4))
    yield "equal constant views", (np.full_like(z, 0.4), np.full_like(z, 0.4))
    yield "a zero row", (changed(r2=0.0), other)
    yield "zero rows in both", (changed(r2=0.0), changed(r2=0.0, r4=0.0))
    yield "a zero view", (np.zeros_like(z), other)
    yield "two zero views", (np.zeros_like(z), np.zeros_like(z))
    yield "a duplicated row", (changed(r1=z[0]), other)
    yield "a duplicated pair", (changed(r1=z[0]), changed(r1=z[0]))
    yield "rows shared by the views", (z, z[::-1].copy())
    yield "a duplicated column", (changed(c1=z[:, 0]), other)
    yield "a rank-one view", (np.outer(z[:, 0], other[0]), other)
    yield "one-hot rows", (eye, eye)
    yield "repeated singular values", (orthonormal, orthonormal)
    yield "uncorrelated views", (orthonormal[:, :2], orthonormal[:, 2:])
    yield "N < D", (z[:3], other[:3])
    yield "N = 2", (z[:2], other[:2])
    yield "N = 2, identical rows", (z[[0, 0]], other[[1, 1]])
    yield "D = 1", (z[:, :1], other[:, :1])
    yield "tiny", (1e-20 * z, 1e-20 * other)
    yield "large", (1e4 * z, 1e4 * other)


DEGENERATE = dict(_degenerate())


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64], ids=str)
@pytest.mark.parametrize("inputs", DEGENERATE)
@each_loss
def test_finite_where_singular(spec, inputs, dtype):
    z_a, z_b = DEGENERATE[inputs]
    value, *grads = value_and_grad(spec, {"z_a": z_a, "z_b": z_b}, dtype)
    assert value.isfinite()
    for grad in grads:
        assert grad.isfinite().all()


@each_case(bare=True)
def test_finite_where_singular_for_every_option(spec, case):
    """All of the list in one test per set of options; failures are named."""
    components = case.options.get("num_components") or 1
    rows = case.options.get("block_size") or 1
    failures = []
    for name, (z_a, z_b) in DEGENERATE.items():
        if z_a.shape[-1] < components or z_a.shape[-2] < rows:
            continue
        results = value_and_grad(spec, {"z_a": z_a, "z_b": z_b}, **case.options)
        failures += [name] * (not all(result.isfinite().all() for result in results))
    assert not failures


@pytest.mark.parametrize("exponent", [-12, -6, -3])
@each_loss
def test_gradient_is_bounded_near_identical_views(spec, exponent):
    """Approaching a singular point, the gradient does not blow up."""
    rng = np.random.default_rng(31)
    z = rng.normal(size=(8, 3))
    near = z + 10.0**exponent * rng.normal(size=z.shape)
    for dtype in (torch.float32, torch.float64):
        value, *grads = value_and_grad(spec, {"z_a": z, "z_b": near}, dtype)
        assert value.isfinite()
        assert all(grad.abs().max() < 100 for grad in grads)
