"""Losses of several views: the families that every loss is tested by.

Values and gradients, weights, missing rows, leading dimensions, dtypes; transforms,
modules and errors are in ``test_views_in_use.py``, what is particular to one in
``losses/``.
"""

from dataclasses import replace

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from numpy.testing import assert_allclose
from torch.autograd import gradcheck

from tolerances import SAME, STRESS, VALUE
from view_specs import (
    TOLERANCE,
    ViewCase,
    each_covering_view_case,
    each_view_case,
    each_view_loss,
    to_torch,
    value_and_grad,
)

# ------------------------------------------------------------------ values, gradients


@pytest.mark.parametrize("reduction", ["none", "mean", "sum"])
@each_view_case
def test_value(spec, case, reduction):
    inputs = spec.draw(case)
    options = case.options | {"reduction": reduction}
    expected = spec.expected(inputs, **options)
    for grad in (True, False):
        value = spec(to_torch(inputs, grad=grad), **options)
        assert value.dtype == torch.float64
        assert_allclose(value.detach(), expected, **VALUE, strict=True)


@each_view_case
def test_gradient_of_unequal_cotangents(spec, case):
    inputs = spec.draw(case, 1)
    tensors = to_torch(inputs)
    values = spec(tensors, reduction="none", **case.options)
    upstream = np.random.default_rng(3).normal(size=values.shape)
    (values * torch.tensor(upstream)).sum().backward()

    def f(views):
        some = inputs | {"views": views}
        return (upstream * spec.expected(some, reduction="none", **case.options)).sum()

    for z, reference in zip(tensors["views"], spec.gradient(inputs, f), strict=True):
        assert_allclose(z.grad, reference, **TOLERANCE)


@each_view_case
def test_gradcheck(spec, case):
    tensors = to_torch(spec.draw(replace(case, lead=(2,)), 2))
    rest = {k: v for k, v in tensors.items() if k != "views"}

    def f(*views):
        return spec({"views": views, **rest}, reduction="none", **case.options)

    assert gradcheck(f, tensors["views"], fast_mode=True)


@each_view_loss
def test_second_derivatives(spec):
    """Are refused: no wrong number."""
    views = to_torch(spec.draw(ViewCase(dims=spec.widths)))["views"]
    first = torch.autograd.grad(spec({"views": views}), views, create_graph=True)
    total = sum((g**2).sum() for g in first)
    match = r"^\w+: (create_graph|objective) must be .+, got"
    with pytest.raises(RuntimeError, match=match):
        torch.autograd.grad(total, views)


@each_view_loss
def test_a_view_may_be_constant(spec):
    inputs = spec.draw(ViewCase(dims=spec.widths, masked=True), 4)
    _, *grads = value_and_grad(spec, inputs)
    for j, expected in enumerate(grads):
        tensors = to_torch(inputs, grad=False)
        tensors["views"][j].requires_grad_()
        spec(tensors).backward()
        assert_allclose(tensors["views"][j].grad, expected, **SAME)


def _degenerate(widths):
    rng = np.random.default_rng(30)
    d = max(widths)
    z = rng.normal(size=(6, d))

    def cut(*views):
        return [view[:, :w] for view, w in zip(views, widths, strict=True)]

    one, other = rng.normal(size=(6, d)), rng.normal(size=(6, d))
    constant = np.full_like(z, 0.4)
    column, row = z.copy(), z.copy()
    column[:, 1], row[2] = 0.7, 0.0
    eye = np.vstack([np.eye(d)] * 6)[:6]
    q = np.linalg.qr(np.vstack([np.eye(d), -np.eye(d)])[:6])[0]
    yield "identical views", cut(z, z, z)
    yield "a constant column", cut(column, one, other)
    yield "a constant view", cut(constant, one, other)
    yield "constant views", cut(constant, constant, -constant)
    yield "zero views", cut(0 * z, 0 * z, 0 * z)
    yield "a zero row", cut(row, row, other)
    yield "a duplicated row", cut(z[[0, 0, 2, 3, 4, 5]], one, other)
    yield "a rank-one view", cut(np.outer(z[:, 0], one[0]), one, other)
    yield "one-hot rows", cut(eye, eye, eye)
    yield "repeated eigenvalues", cut(q, q, -q)
    yield "N = 2", [view[:2] for view in cut(z, one, other)]
    yield "N = 2, identical rows", [view[[0, 0]] for view in cut(z, one, other)]
    yield "tiny", [1e-20 * view for view in cut(z, one, other)]
    yield "large", [1e4 * view for view in cut(z, one, other)]


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64], ids=str)
@each_covering_view_case
def test_finite_where_singular(spec, case, dtype):
    failures = []
    for name, views in _degenerate(spec.widths):
        results = value_and_grad(spec, {"views": views}, dtype, **case.options)
        failures += [name] * (not all(r.isfinite().all() for r in results))
    assert not failures


# ------------------------------------------------------------------ rows


@each_view_loss
@given(seed=st.integers(0, 2**32 - 1), rows=st.integers(2, 12))
def test_what_every_input_obeys(spec, seed, rows):
    """Range; the order of rows and of views; shifts of any view."""
    inputs = spec.draw(ViewCase({}, rows, spec.widths), seed)
    rng = np.random.default_rng(seed)
    value = spec(to_torch(inputs, grad=False))
    low, high = spec.bounds(inputs["views"], spec.always)
    assert low - 1e-9 <= value <= high + 1e-9
    order = rng.permutation(rows)
    for views in (
        [z[order] for z in inputs["views"]],
        inputs["views"][::-1],
        [z + 3 * rng.normal(size=z.shape[1]) for z in inputs["views"]],
    ):
        other = spec(to_torch({"views": views}, grad=False))
        assert_allclose(other, value, rtol=1e-8, atol=1e-9)


@pytest.mark.parametrize("content", [1e3, np.nan, np.inf])
@each_view_case
def test_weight_zero_removes_the_row(spec, case, content):
    inputs = spec.draw(replace(case, lead=(), weighted=True), 7)
    kept = np.delete(np.arange(case.rows), 1)
    for z in inputs["views"]:
        z[1] = content
    shortened = {"views": [z[kept] for z in inputs["views"]]}
    shortened["weight"] = inputs["weight"][kept]
    if case.masked:
        shortened["mask"] = inputs["mask"][:, kept]
    value, *grads = value_and_grad(spec, inputs, **case.options)
    expected, *references = value_and_grad(spec, shortened, **case.options)
    assert_allclose(value, expected, **SAME)
    for grad, reference in zip(grads, references, strict=True):
        assert (grad[1] == 0).all()
        assert_allclose(grad[kept], reference, rtol=1e-10, atol=1e-11)


@pytest.mark.parametrize("content", [1e3, np.nan])
@each_view_case
def test_what_stands_in_missing_rows_is_nothing(spec, case, content):
    inputs = spec.draw(replace(case, masked=True), 8)
    value, *grads = value_and_grad(spec, inputs, **case.options)
    for z, there in zip(inputs["views"], inputs["mask"], strict=True):
        z[~there] = content
    same, *same_grads = value_and_grad(spec, inputs, **case.options)
    assert_allclose(same, value, **SAME)
    for grad, other, there in zip(grads, same_grads, inputs["mask"], strict=True):
        assert_allclose(other, grad, **SAME)
        assert (other[~torch.tensor(there)] == 0).all()


@each_view_case
def test_missing_in_all_views_is_weight_zero(spec, case):
    inputs = spec.draw(replace(case, masked=False, weighted=False), 9)
    absent = np.zeros(inputs["views"][0].shape[:-1], dtype=bool)
    absent[..., [1, 4]] = True
    masked = inputs | {"mask": np.stack([~absent] * len(inputs["views"]))}
    weighted = inputs | {"weight": 1.0 - absent}
    for one, other in zip(
        value_and_grad(spec, masked, **case.options),
        value_and_grad(spec, weighted, **case.options),
        strict=True,
    ):
        assert_allclose(one, other, rtol=1e-11, atol=1e-12)


@each_view_case
def test_scale_of_the_weights_is_irrelevant(spec, case):
    inputs = spec.draw(replace(case, weighted=True), 10)
    results = value_and_grad(spec, inputs, **case.options)
    inputs["weight"] *= 1e3
    for one, other in zip(
        value_and_grad(spec, inputs, **case.options), results, strict=True
    ):
        assert_allclose(one, other, rtol=1e-9, atol=1e-11)


@each_view_case
def test_nothing_there_is_nothing(spec, case):
    """All weights 0, or all rows missing; one problem of several; one row; one view."""
    inputs = spec.draw(replace(case, lead=(3,), masked=True, weighted=True), 11)
    inputs["weight"][1] = 0.0
    inputs["mask"][:, 2] = False
    alone = {"views": [z[:1] for z in inputs["views"]]}
    alone |= {"weight": inputs["weight"][:1], "mask": inputs["mask"][:, :1]}
    value, *grads = value_and_grad(spec, inputs, **case.options)
    expected, *references = value_and_grad(spec, alone, **case.options)
    assert_allclose(value, expected, **SAME)
    for grad, reference in zip(grads, references, strict=True):
        assert_allclose(grad[:1], reference, **SAME)
        assert (grad[1:] == 0).all()

    alone["weight"][:] = 0.0
    assert spec(to_torch(alone), **case.options) == 0
    alone["weight"][0, 3] = 0.8
    results = value_and_grad(spec, alone, **case.options)
    assert_allclose(results[0], 0, atol=1e-12)
    assert all(result.isfinite().all() for result in results)
    del alone["weight"]
    alone["mask"][1] = False
    results = value_and_grad(spec, alone, **case.options)
    assert all(result.isfinite().all() for result in results)
    assert (results[2] == 0).all()


@each_covering_view_case
def test_a_problem_in_which_a_view_has_no_rows_counts(spec, case):
    """In the mean over problems, for what the other views have."""
    inputs = spec.draw(replace(case, lead=(2,), masked=True), 20)
    inputs["mask"][1, 1] = False
    options = {k: v for k, v in case.options.items() if k != "estimator"}
    value = spec(to_torch(inputs), **options)
    assert_allclose(value.detach(), spec.expected(inputs, **options), **VALUE)


@pytest.mark.parametrize("lead", [(3,), (2, 2)], ids=str)
@each_view_case
def test_batched_equals_loop(spec, case, lead):
    inputs = spec.draw(replace(case, lead=lead), 12)
    tensors = to_torch(inputs)
    values = spec(tensors, reduction="none", **case.options)
    upstream = torch.randn(values.shape, dtype=values.dtype)
    (values * upstream).sum().backward()
    for index in np.ndindex(lead):
        single = {"views": [z[index] for z in inputs["views"]]}
        if case.masked:
            single["mask"] = inputs["mask"][(slice(None), *index)]
        if case.weighted:
            single["weight"] = inputs["weight"][index]
        one = to_torch(single)
        value = spec(one, **case.options)
        (value * upstream[index]).backward()
        assert_allclose(values[index].detach(), value.detach(), **SAME)
        for z, own in zip(tensors["views"], one["views"], strict=True):
            assert_allclose(z.grad[index], own.grad, rtol=1e-10, atol=1e-11)


@each_covering_view_case
def test_more_rows_than_are_widened_at_a_time(spec, case, monkeypatch):
    inputs = spec.draw(case, 13)
    expected = value_and_grad(spec, inputs, **case.options)
    monkeypatch.setattr("xmodal_losses._core.moments.view_products.ROWS", 5)
    for one, other in zip(
        value_and_grad(spec, inputs, **case.options), expected, strict=True
    ):
        assert_allclose(one, other, rtol=1e-11, atol=1e-12)


# ------------------------------------------------------------------ dtypes


@pytest.mark.parametrize(
    "dtype", [torch.float16, torch.bfloat16, torch.float32, torch.float64], ids=str
)
@each_covering_view_case
def test_dtypes(spec, case, dtype):
    """The result is that of the rounded input in float64, and rounded once."""
    inputs = spec.draw(case, 14)
    views = [torch.tensor(z).to(dtype).double().numpy() for z in inputs["views"]]
    truth, *true_grads = value_and_grad(spec, inputs | {"views": views}, **case.options)
    value, *grads = value_and_grad(spec, inputs, dtype, **case.options)
    assert value.dtype == torch.promote_types(dtype, torch.float32)
    if case.weighted:  # weights are rounded, too
        return
    assert_allclose(value, truth, rtol=1e-6, atol=1e-6)
    for grad, true_grad in zip(grads, true_grads, strict=True):
        assert grad.dtype == dtype
        error = (grad.double() - true_grad).norm() / true_grad.norm()
        assert error < 4 * torch.finfo(dtype).eps


@each_view_loss
def test_mixed_dtypes_promote(spec):
    views = to_torch(spec.draw(ViewCase(dims=spec.widths)))["views"]
    views = [views[0].detach().bfloat16().requires_grad_(), *views[1:]]
    value = spec({"views": views})
    value.backward()
    assert value.dtype == torch.float64
    assert views[0].grad.dtype == torch.bfloat16
    assert views[1].grad.dtype == torch.float64


@pytest.mark.parametrize("mean", [1e2, 1e3])
@each_view_loss
def test_large_mean_in_float32(spec, mean):
    inputs = spec.draw(ViewCase(rows=32, dims=spec.widths), 15)
    views = [(z + mean).astype(np.float32).astype(float) for z in inputs["views"]]
    truth, *true_grads = value_and_grad(spec, {"views": views})
    value, *grads = value_and_grad(spec, {"views": views}, torch.float32)
    assert_allclose(value, truth, rtol=STRESS)
    for grad, true_grad in zip(grads, true_grads, strict=True):
        assert (grad - true_grad).norm() < STRESS * true_grad.norm()


@each_view_loss
def test_large_mean_in_float64(spec):
    """Rows that are shifted without rounding lose no digit of value or gradient."""
    inputs = spec.draw(ViewCase(rows=27, dims=spec.widths), 15)
    views = [np.round(z * 2.0**20) / 2.0**20 for z in inputs["views"]]
    expected = value_and_grad(spec, {"views": views})
    shifted = {"views": [z + 2.0**26 for z in views]}
    for found, wanted in zip(value_and_grad(spec, shifted), expected, strict=True):
        assert (found - wanted).norm() < 1e-11 * wanted.norm()


@each_covering_view_case
def test_autocast_changes_nothing(spec, case):
    inputs = spec.draw(case, 16)
    expected = value_and_grad(spec, inputs, torch.float32, **case.options)
    with torch.autocast("cpu", torch.bfloat16):
        inside = value_and_grad(spec, inputs, torch.float32, **case.options)
    for one, other in zip(inside, expected, strict=True):
        assert torch.equal(one, other)
