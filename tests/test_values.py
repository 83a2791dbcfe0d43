"""Values and gradients equal the independent references, over every option."""

from dataclasses import replace

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from numpy.testing import assert_allclose

import xmodal_losses.functional as F
from harness import to_torch, value_and_grad
from reference import kernels
from specs import SPECS, each_case, each_loss
from tolerances import VALUE


@pytest.mark.parametrize("reduction", ["none", "mean", "sum"])
@each_case()
def test_value(spec, case, reduction):
    inputs = spec.draw(case)
    value = spec(to_torch(inputs), reduction=reduction, **case.options)
    expected = spec.expected(inputs, reduction=reduction, **case.options)
    assert value.dtype == torch.float64
    assert_allclose(value.detach(), expected, **VALUE, strict=True)


@each_case()
def test_gradient_of_the_mean(spec, case):
    inputs = spec.draw(case, seed=1)
    _, *grads = value_and_grad(spec, inputs, **case.options)
    rest = {k: v for k, v in inputs.items() if k not in ("z_a", "z_b")}

    def f(z_a, z_b):
        return spec.reference(z_a, z_b, **rest, **case.options)

    expected = spec.gradient(f, [inputs["z_a"], inputs["z_b"]])
    for grad, reference in zip(grads, expected, strict=True):
        assert_allclose(grad, reference, **spec.gradient_tolerance)


@each_case(lambda spec, case: bool(case.lead) or spec.per_row)
def test_gradient_of_unequal_cotangents(spec, case):
    """Each entry of "none" carries its own upstream gradient."""
    inputs = spec.draw(case, seed=2)
    tensors = to_torch(inputs)
    values = spec(tensors, reduction="none", **case.options)
    upstream = np.random.default_rng(3).normal(size=values.shape)
    (values * torch.tensor(upstream)).sum().backward()
    rest = {k: v for k, v in inputs.items() if k not in ("z_a", "z_b")}

    def f(z_a, z_b):
        values = spec.reference(z_a, z_b, **rest, reduction="none", **case.options)
        return (upstream * values).sum()

    expected = spec.gradient(f, [inputs["z_a"], inputs["z_b"]])
    for name, reference in zip(("z_a", "z_b"), expected, strict=True):
        assert_allclose(tensors[name].grad, reference, **spec.gradient_tolerance)


@each_case(lambda spec, case: spec.terms is not None)
def test_terms(spec, case):
    """The terms equal theirs, and the loss is their weighted sum."""
    reference, accepted = spec.terms
    inputs = spec.draw(case)
    options = {k: v for k, v in case.options.items() if k in accepted}
    expected = reference(**inputs, **options)
    terms = getattr(F, f"{spec.name}_terms")(**to_torch(inputs, grad=False), **options)
    assert isinstance(terms, tuple)
    assert list(terms._asdict()) == list(type(terms)._fields)
    assert len(terms) == len(expected)
    for term, value in zip(terms, expected, strict=True):
        assert_allclose(term, value, **VALUE)


@each_loss
@given(data=st.data())
def test_value_drawn(spec, data):
    """Sizes, scales, offsets and options drawn together."""
    integers = st.integers
    seed = data.draw(integers(0, 2**32 - 1), "seed")
    case = data.draw(st.sampled_from(spec.cases), "case")
    rows = data.draw(integers(2, 9), "N")
    estimator = case.options.get("estimator", "biased")
    free = spec.unequal_rows and estimator in ("biased", "unbiased")
    columns = data.draw(integers(2, 9), "M") if free else rows
    dim = data.draw(integers(1, 6), "D")
    if spec.name == "dcca":  # without a ridge both covariances must be regular
        dim = min(dim, 3)
        rows = columns = rows + 6
        dim = max(dim, case.options.get("num_components") or 1)
    lead = data.draw(st.sampled_from([(), (1,), (3,), (2, 1)]), "lead")
    scale = data.draw(st.sampled_from([0.1, 1.0, 3.0]), "scale")
    offset = data.draw(st.sampled_from([0.0, 1.0, -20.0]), "offset")
    if spec.per_row and not case.options.get("normalize", True):
        offset = 0.0  # logits of 1e3 leave nothing to compare

    case = replace(case, rows=(rows, columns), dims=(dim, dim), lead=lead)
    inputs = spec.draw(case, seed=seed)
    for view in ("z_a", "z_b"):
        inputs[view] = scale * inputs[view] + offset
    value = spec(to_torch(inputs, grad=False), **case.options)
    expected = spec.expected(inputs, **case.options)
    # Rounding shows at the size of what is subtracted: fourth powers of the spread,
    # and of the offset where a kernel is one of inner products.
    about_origin = isinstance(
        case.options.get("kernel"), (kernels.LinearKernel, kernels.PolynomialKernel)
    )
    size = max(1.0, scale**4, (abs(offset) + scale) ** 6 if about_origin else 0.0)
    assert_allclose(value, expected, rtol=1e-8, atol=1e-11 * size)


def test_every_spec_names_a_public_function():
    assert {spec.name for spec in SPECS} <= set(F.__all__)
