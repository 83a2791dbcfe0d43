"""What each loss promises for every input: invariances, symmetry, range, scale."""

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp
from numpy.testing import assert_allclose

from harness import Case, to_torch, value_and_grad
from specs import SPECS, each_loss


@st.composite
def regimes(draw):
    """Draw a case, a seed, a scale and a mean: seeds shrink where arrays do not."""
    rows = draw(st.integers(2, 12), label="N")
    dim = draw(st.integers(1, 8), label="D")
    case = Case(
        rows=(rows, rows),
        dims=(dim, dim),
        lead=draw(st.sampled_from([(), (2,)]), label="lead"),
        weighted=rows > 3 and draw(st.booleans(), label="weighted"),
    )
    return {
        "case": case,
        "seed": draw(st.integers(0, 2**32 - 1), label="seed"),
        "noise": draw(st.sampled_from([0.0, 0.1, 1.0, 10.0]), label="noise"),
        "scale": draw(st.sampled_from([0.1, 1.0, 5.0]), label="scale"),
    }


def _draw(spec, regime):
    inputs = spec.draw(regime["case"], regime["seed"], regime["noise"])
    for view in ("z_a", "z_b"):
        inputs[view] = regime["scale"] * inputs[view]
    rng = np.random.default_rng(regime["seed"] + 1)
    return inputs, rng


def _value(spec, inputs, **options):
    return spec(to_torch(inputs, grad=False), **(spec.generic | options)).numpy()


def _weight(spec, inputs):
    """Return the weight of every value: 1 of a problem, and 0 of no loss at all."""
    if not spec.per_row:
        return np.ones(inputs["z_a"].shape[:-2])
    if not spec.labels:
        return inputs.get("weight", np.ones(inputs["z_a"].shape[:-1]))
    labels = np.concatenate([inputs["labels_a"], inputs["labels_b"]], -1)
    weight = np.ones(labels.shape)
    if "weight_a" in inputs:
        weight = np.concatenate([inputs["weight_a"], inputs["weight_b"]], -1)
    same = labels[..., None, :] == labels[..., None]
    return weight * ((same & (weight[..., None, :] > 0)).sum(-1) > 1)


def _agree(actual, expected, scale=1.0):
    assert_allclose(actual, expected, rtol=1e-8, atol=1e-10 * max(1.0, scale**4))


def _flag(name, *values):
    specs = [spec for spec in SPECS if getattr(spec, name) in values]
    assert specs, f"no loss has {name} in {values}"
    return pytest.mark.parametrize("spec", specs, ids=lambda spec: spec.name)


def _rows(inputs, order_a, order_b):
    out = {}
    for name, array in inputs.items():
        order = order_b if name.endswith("_b") else order_a
        axis = -2 if name.startswith("z_") else -1
        out[name] = np.take(array, order, axis)
    return out


def _map_views(inputs, f_a, f_b):
    return inputs | {"z_a": f_a(inputs["z_a"]), "z_b": f_b(inputs["z_b"])}


def _rotation(rng, dim):
    return np.linalg.qr(rng.normal(size=(dim, dim)))[0]


@each_loss
@given(regime=regimes())
def test_order_of_rows(spec, regime):
    inputs, rng = _draw(spec, regime)
    rows = regime["case"].rows[0]
    order_a = rng.permutation(rows)
    order_b = order_a if spec.paired else rng.permutation(rows)
    permuted = _rows(inputs, order_a, order_b)
    _agree(_value(spec, permuted), _value(spec, inputs), regime["scale"])


@each_loss
@given(regime=regimes())
def test_order_of_features(spec, regime):
    inputs, rng = _draw(spec, regime)
    order = rng.permutation(regime["case"].dims[0])
    permuted = _map_views(inputs, *(lambda z: z[..., order],) * 2)
    _agree(_value(spec, permuted), _value(spec, inputs), regime["scale"])


@_flag("symmetric", True)
@given(regime=regimes())
def test_swapping_the_views(spec, regime):
    inputs, _ = _draw(spec, regime)
    swapped = {
        {"_a": name[:-1] + "b", "_b": name[:-1] + "a"}.get(name[-2:], name): array
        for name, array in inputs.items()
    }
    _agree(_value(spec, swapped), _value(spec, inputs), regime["scale"])


@each_loss
@given(regime=regimes())
def test_range(spec, regime):
    inputs, _ = _draw(spec, regime)
    value = _value(spec, inputs, reduction="none")
    low, high = spec.bounds(regime["case"].rows[0], regime["case"].dims[0])
    slack = 1e-9 * max(1.0, regime["scale"] ** 4)
    weight = _weight(spec, inputs)
    assert (value >= low * weight - slack).all()
    assert (value <= high * weight + slack).all()


@_flag("zero_when_equal", True)
@given(regime=regimes())
def test_zero_for_equal_views(spec, regime):
    inputs, _ = _draw(spec, regime)
    for name in ("z", "weight", "labels"):
        if f"{name}_a" in inputs:
            inputs[f"{name}_b"] = inputs[f"{name}_a"]
    value, *grads = value_and_grad(spec, inputs, **spec.generic)
    slack = 1e-12 * max(1.0, regime["scale"] ** 4)
    assert abs(value) < slack
    assert all(grad.abs().max() < slack for grad in grads)


@_flag("shift", "separate", "joint")
@given(regime=regimes())
def test_shift(spec, regime):
    inputs, rng = _draw(spec, regime)
    dim = regime["case"].dims[0]
    shift_a = 3 * rng.normal(size=dim)
    shift_b = shift_a if spec.shift == "joint" else 3 * rng.normal(size=dim)
    moved = _map_views(inputs, lambda z: z + shift_a, lambda z: z + shift_b)
    _agree(_value(spec, moved), _value(spec, inputs), regime["scale"])


@_flag("shift", "separate", "joint")
@given(regime=regimes())
def test_gradient_ignores_the_shift(spec, regime):
    """A value that a shift leaves alone has a gradient without a mean."""
    inputs, _ = _draw(spec, regime)
    _, grad_a, grad_b = value_and_grad(spec, inputs, **spec.generic)
    means = grad_a.sum(-2), grad_b.sum(-2)
    if spec.shift == "joint":
        means = (means[0] + means[1],)
    size = max(float(grad_a.abs().max()), float(grad_b.abs().max()), 1.0)
    assert all(mean.abs().max() < 1e-9 * size for mean in means)


@_flag("rotation", "separate", "joint")
@given(regime=regimes())
def test_rotation(spec, regime):
    inputs, rng = _draw(spec, regime)
    dim = regime["case"].dims[0]
    turn_a = _rotation(rng, dim)
    turn_b = turn_a if spec.rotation == "joint" else _rotation(rng, dim)
    turned = _map_views(inputs, lambda z: z @ turn_a, lambda z: z @ turn_b)
    _agree(_value(spec, turned), _value(spec, inputs), regime["scale"])


@_flag("scale", *{spec.scale for spec in SPECS if spec.scale is not None})
@given(regime=regimes(), factor=st.sampled_from([0.01, 0.5, 2.0, 30.0]))
def test_scale(spec, regime, factor):
    inputs, _ = _draw(spec, regime)
    scaled = _map_views(inputs, *(lambda z: factor * z,) * 2)
    power = factor**spec.scale
    expected = power * _value(spec, inputs)
    assert_allclose(
        _value(spec, scaled),
        expected,
        rtol=1e-8,
        atol=1e-10 * max(1.0, power) * max(1.0, regime["scale"] ** 4),
    )


@each_loss
@given(regime=regimes())
def test_reductions_agree(spec, regime):
    inputs, _ = _draw(spec, regime)
    none = _value(spec, inputs, reduction="none")
    total = _value(spec, inputs, reduction="sum")
    mean = _value(spec, inputs, reduction="mean")
    count = _weight(spec, inputs).sum()
    _agree(none.sum(), total, regime["scale"])
    _agree(total / max(count, 1e-30), mean, regime["scale"])


def _raw(rows, dim):
    return hnp.arrays(
        np.float32,
        (rows, dim),
        elements=st.floats(-1e3, 1e3, width=32, allow_subnormal=True),
    )


@each_loss
@given(data=st.data())
def test_raw_arrays_are_finite(spec, data):
    """Whatever the numbers, value and gradient are."""
    rows, dim = data.draw(st.integers(2, 6), "N"), data.draw(st.integers(1, 4), "D")
    views = {"z_a": data.draw(_raw(rows, dim), "z_a")}
    views["z_b"] = data.draw(st.just(views["z_a"]) | _raw(rows, dim), "z_b")
    value, *grads = value_and_grad(spec, views, torch.float32, **spec.generic)
    assert value.isfinite()
    assert all(grad.isfinite().all() for grad in grads)
