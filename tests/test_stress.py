"""Float32 on inputs that break plain formulas, against the float64 reference."""

import numpy as np
import pytest
import torch
from numpy.testing import assert_allclose

from harness import Case, map_views, to_torch, value_and_grad
from specs import BY_NAME, SPECS, each_loss
from tolerances import STRESS, VALUE


def _float32(inputs):
    """Round once, so that reference and package see the same numbers."""
    return map_views(inputs, lambda z: z.astype(np.float32).astype(np.float64))


def _compare(spec, inputs, dtype, **options):
    inputs = _float32(inputs)
    value, *grads = value_and_grad(spec, inputs, dtype, **options)
    truth, *true_grads = value_and_grad(spec, inputs, torch.float64, **options)
    expected = spec.expected(inputs, **options)
    assert_allclose(truth, expected, rtol=1e-7, atol=1e-12)
    assert_allclose(value, expected, rtol=STRESS, atol=1e-30)
    for grad, true_grad in zip(grads, true_grads, strict=True):
        error = (grad.double() - true_grad).norm() / true_grad.norm()
        assert error < STRESS


@pytest.mark.parametrize("mean", [1e2, 1e3])
@pytest.mark.parametrize(
    "spec", [s for s in SPECS if s.shift], ids=lambda spec: spec.name
)
def test_large_mean(spec, mean):
    """Centring comes before any product: a mean of 1e3 σ costs no digit beyond
    those that rounding the inputs already took."""
    inputs = spec.draw(Case(rows=(32, 32), dims=(6, 6)), seed=50)
    inputs = map_views(inputs, lambda z: z + mean)
    _compare(spec, inputs, torch.float32)


@pytest.mark.parametrize(
    "spec", [s for s in SPECS if s.shift], ids=lambda spec: spec.name
)
def test_large_mean_in_float64(spec):
    """Rows that are shifted without rounding lose no digit of value or gradient."""
    inputs = spec.draw(Case(rows=(24, 24), dims=(5, 5)), seed=57)
    inputs = map_views(inputs, lambda z: np.round(z * 2.0**20) / 2.0**20)
    expected = value_and_grad(spec, inputs, torch.float64)
    shifted = map_views(inputs, lambda z: z + 2.0**26)
    for found, wanted in zip(
        value_and_grad(spec, shifted, torch.float64), expected, strict=True
    ):
        assert (found - wanted).norm() < 1e-11 * wanted.norm()


@pytest.mark.parametrize("scale", [1e-6, 1e-3, 1e3, 1e6])
@pytest.mark.parametrize(
    "spec", [s for s in SPECS if s.scale is not None], ids=lambda spec: spec.name
)
def test_extreme_scale(spec, scale):
    inputs = spec.draw(Case(rows=(16, 16), dims=(5, 5)), seed=51)
    inputs = map_views(inputs, lambda z: scale * z)
    _compare(spec, inputs, torch.float32)


@pytest.mark.parametrize("scale", [1e-6, 1e6])
@each_loss
def test_extreme_scale_is_finite(spec, scale):
    inputs = spec.draw(Case(rows=(16, 16), dims=(5, 5)), seed=52)
    inputs = map_views(inputs, lambda z: scale * z)
    value, *grads = value_and_grad(spec, inputs, torch.float32)
    assert value.isfinite()
    assert all(grad.isfinite().all() for grad in grads)


@each_loss
def test_many_more_features_than_rows(spec):
    inputs = spec.draw(Case(rows=(10, 10), dims=(96, 96)), seed=53)
    options = {"ridge": 0.1} if spec.name == "dcca" else {}
    _compare(spec, inputs, torch.float32, **options)


@each_loss
def test_very_different_scales_of_the_features(spec):
    inputs = spec.draw(Case(rows=(24, 24), dims=(6, 6)), seed=54)
    spread = np.logspace(-2, 2, 6)
    inputs = map_views(inputs, lambda z: spread * z)
    _compare(spec, inputs, torch.float32)


@pytest.mark.parametrize("negatives", ["group", "all", "cross"])
@pytest.mark.parametrize("temperature", [0.01, 0.02])
def test_info_nce_at_low_temperature(temperature, negatives):
    spec = BY_NAME["info_nce"]
    inputs = spec.draw(Case(rows=(16, 16), dims=(8, 8), lead=(3,)), seed=55)
    options = {"temperature": temperature, "negatives": negatives}
    value = spec(to_torch(inputs, torch.float64), **options)
    assert_allclose(value.detach(), spec.expected(inputs, **options), **VALUE)
    _compare(spec, inputs, torch.float32, **options)


def test_mmd_of_distant_clusters():
    """Every cross kernel underflows; the value is that of the clusters alone."""
    spec = BY_NAME["mmd"]
    inputs = spec.draw(Case(rows=(8, 8), dims=(3, 3)), seed=56)
    inputs["z_b"] = inputs["z_b"] + 1e3
    _compare(spec, inputs, torch.float32)
