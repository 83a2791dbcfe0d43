"""Weights: 0 removes a row altogether, scale means nothing, all 0 gives 0."""

from dataclasses import replace

import numpy as np
import pytest
import torch
from numpy.testing import assert_allclose

from harness import to_torch
from specs import each_case
from tolerances import SAME


def _takes_weights(spec, case):
    return (
        case.options.get("estimator") not in ("block", "linear") and min(case.rows) > 2
    )


def _draw(spec, case, seed):
    return spec.draw(replace(case, weighted=True, lead=()), seed)


def _grad(spec, tensors, options):
    value = spec(tensors, **options)
    value.backward()
    return value.detach(), tensors["z_a"].grad, tensors["z_b"].grad


@pytest.mark.parametrize("content", [1e3, np.nan, np.inf])
@each_case(_takes_weights, bare=True)
def test_weight_zero_removes_the_row(spec, case, content):
    inputs = _draw(spec, case, seed=7)
    shared = len(spec.weights) == 1 or case.options.get("estimator") == "paired"
    holes = {"z_a": 1, "z_b": 1 if shared else 2}
    for name in spec.weights:
        inputs[name][1] = 1.0
    inputs[spec.weights[0]][holes["z_a"]] = 0.0
    inputs[spec.weights[-1]][holes["z_b"]] = 0.0
    for view, row in holes.items():
        inputs[view][row] = content

    shortened = {
        name: np.delete(array, holes[name if name in holes else f"z_{name[-1]}"], 0)
        if name in holes or len(spec.weights) == 2
        else np.delete(array, 1, 0)
        for name, array in inputs.items()
    }
    value, *grads = _grad(spec, to_torch(inputs), case.options)
    expected, *references = _grad(spec, to_torch(shortened), case.options)
    assert_allclose(value, expected, **SAME)
    for (view, row), grad, reference in zip(
        holes.items(), grads, references, strict=True
    ):
        assert (grad[row] == 0).all(), view
        kept = np.delete(grad.numpy(), row, 0)
        assert_allclose(kept, reference, rtol=1e-10, atol=1e-11)


@pytest.mark.parametrize("content", [1.0, np.nan])
@each_case(_takes_weights, bare=True)
def test_all_weights_zero(spec, case, content):
    inputs = _draw(spec, case, seed=8)
    for name in spec.weights:
        inputs[name][:] = 0.0
    inputs["z_a"][:] *= content
    for reduction in ("none", "mean", "sum"):
        tensors = to_torch(inputs)
        values = spec(tensors, reduction=reduction, **case.options)
        assert (values == 0).all()
        values.sum().backward()
        assert (tensors["z_a"].grad == 0).all()
        assert (tensors["z_b"].grad == 0).all()


@each_case(_takes_weights, bare=True)
def test_scale_of_the_weights_is_irrelevant(spec, case):
    inputs = _draw(spec, case, seed=9)
    value, *grads = _grad(spec, to_torch(inputs), case.options)
    # Of losses with a value per row the weights of both views have one scale.
    factors = (1e-3, 1e-3 if spec.per_row else 1e3)
    for factor, name in zip(factors, spec.weights, strict=False):
        inputs[name] = factor * inputs[name]
    scaled, *scaled_grads = _grad(spec, to_torch(inputs), case.options)
    assert_allclose(scaled, value, rtol=1e-10, atol=1e-12)
    for grad, reference in zip(scaled_grads, grads, strict=True):
        assert_allclose(grad, reference, rtol=1e-9, atol=1e-11)


@each_case(_takes_weights, bare=True)
def test_equal_weights_are_no_weights(spec, case):
    inputs = _draw(spec, case, seed=10)
    weights = {name: np.full_like(inputs.pop(name), 0.37) for name in spec.weights}
    value, *grads = _grad(spec, to_torch(inputs), case.options)
    same, *same_grads = _grad(spec, to_torch(inputs | weights), case.options)
    assert_allclose(same, value, rtol=1e-10, atol=1e-12)
    for grad, reference in zip(same_grads, grads, strict=True):
        assert_allclose(grad, reference, rtol=1e-9, atol=1e-11)


@each_case(lambda spec, case: _takes_weights(spec, case) and bool(case.lead))
def test_mean_skips_problems_without_weight(spec, case):
    inputs = spec.draw(replace(case, weighted=True, lead=(3,)), seed=11)
    for name in spec.weights:
        inputs[name][1] = 0.0
    kept = {name: array[[0, 2]] for name, array in inputs.items()}
    tensors = to_torch(inputs)
    value = spec(tensors, **case.options)
    expected = spec(to_torch(kept), **case.options)
    assert_allclose(value.detach(), expected.detach(), **SAME)
    value.backward()
    assert (tensors["z_a"].grad[1] == 0).all()
    assert (tensors["z_b"].grad[1] == 0).all()


@each_case(_takes_weights, bare=True)
def test_a_single_row_of_weight_is_finite(spec, case):
    """Second moments of one row are 0; so is the loss of one row without negatives."""
    inputs = _draw(spec, case, seed=12)
    for name in spec.weights:
        inputs[name][:] = 0.0
        inputs[name][2] = 0.8
    value, *grads = _grad(spec, to_torch(inputs), case.options)
    assert torch.isfinite(value)
    assert all(torch.isfinite(grad).all() for grad in grads)
    if spec.name != "mmd":
        assert_allclose(value, spec.expected(inputs, **case.options), atol=1e-12)


@pytest.mark.parametrize("side", ["a", "b"])
@each_case(lambda spec, case: len(spec.weights) == 2 and _takes_weights(spec, case))
def test_weights_of_one_view_alone(spec, case, side):
    """Leaving out the other view's weights is giving it ones."""
    inputs = spec.draw(replace(case, weighted=True), seed=13)
    other = "weight_b" if side == "a" else "weight_a"
    ones = inputs | {other: np.ones_like(inputs[other])}
    inputs.pop(other)
    value, *grads = _grad(spec, to_torch(inputs), case.options)
    same, *same_grads = _grad(spec, to_torch(ones), case.options)
    expected = spec.expected(inputs, **case.options)
    assert_allclose(value, expected, rtol=1e-10, atol=1e-12)
    assert_allclose(value, same, **SAME)
    for grad, reference in zip(grads, same_grads, strict=True):
        assert_allclose(grad, reference, rtol=1e-10, atol=1e-11)
