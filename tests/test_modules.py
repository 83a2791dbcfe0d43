"""Modules: the function with its options kept, and nothing else."""

import copy
import inspect
import io
import math
import pickle

import numpy as np
import pytest
import torch
from numpy.testing import assert_allclose

import xmodal_losses as xl
import xmodal_losses.functional as F
from harness import MASKS, Case, drawn, to_torch, value_and_grad
from specs import BY_NAME, each_case, each_covering_case, each_loss

#: What is given in the call because it belongs to the batch.
TOLD = (*MASKS, "guide", "extra")
VIEWS = ("z_a", "z_b", "labels_a", "labels_b")


@each_case()
def test_module_is_the_function(spec, case):
    tensors = to_torch(spec.draw(case, 60))
    module = spec.build(case.options)
    rest = {k: v for k, v in tensors.items() if not k.startswith("z_")}
    value = module(tensors["z_a"], tensors["z_b"], **rest)
    assert torch.equal(value, spec(tensors, **case.options))


@pytest.mark.parametrize("reduction", ["none", "mean", "sum"])
@each_loss
def test_module_reduces(spec, reduction):
    tensors = drawn(spec, Case(lead=(2,)))
    module = spec.build({"reduction": reduction})
    assert torch.equal(module(**tensors), spec(tensors, reduction=reduction))


@each_loss
def test_signatures_agree(spec):
    """Same options, same defaults, all of them keyword-only."""
    function = inspect.signature(spec.function).parameters
    init = inspect.signature(getattr(xl, spec.module)).parameters
    forward = inspect.signature(getattr(xl, spec.module).forward).parameters
    assert list(function)[:2] == ["z_a", "z_b"]
    keyword_only = inspect.Parameter.KEYWORD_ONLY
    for parameters in (function, forward):
        per_call = [p for n, p in parameters.items() if n not in ("self", *VIEWS)]
        assert all(p.kind is keyword_only for p in per_call)
    # The module keeps `gather`, which names the group when it is called.
    assert {"gather"} <= set(init)
    options = {n: p for n, p in function.items() if n not in (*VIEWS, "group")}
    for name, parameter in options.items():
        place = forward if name in (*spec.weights, *TOLD) else init
        assert name in place, name
        assert place[name].default == parameter.default, name
    tensors = {"self", *VIEWS, *spec.weights, *TOLD}
    assert set(forward) <= tensors


@each_covering_case()
def test_repr_shows_every_option(spec, case):
    module = spec.build(case.options)
    text = repr(module)
    assert text.startswith(spec.module)
    for name in inspect.signature(type(module)).parameters:
        if name == "temperature_range" and not case.options.get("learn_temperature"):
            continue
        assert name in text, name
    for name, value in case.options.items():
        if name == "kernel":
            if value is not None:
                assert type(value).__name__ in text
        else:
            shown = repr(value) if not isinstance(value, str) else value
            assert shown in text, name


@each_covering_case()
def test_copies_and_pickles(spec, case):
    tensors = to_torch(spec.draw(case, 61), grad=False)
    module = spec.build(case.options)
    expected = module(**tensors)
    saved = io.BytesIO()
    torch.save(module, saved)
    saved.seek(0)
    for twin in (
        copy.deepcopy(module),
        pickle.loads(pickle.dumps(module)),
        torch.load(saved, weights_only=False),
    ):
        assert torch.equal(twin(**tensors), expected)
        assert repr(twin) == repr(module)


@each_loss
def test_state_is_empty_unless_learned(spec):
    assert spec.build({}).state_dict() == {}
    assert list(spec.build({}).parameters()) == []


def test_state_dict_round_trip():
    module = xl.InfoNCELoss(learn_temperature=True)
    with torch.no_grad():
        module.log_temperature.fill_(math.log(0.2))
    assert list(module.state_dict()) == ["log_temperature"]
    other = xl.InfoNCELoss(learn_temperature=True)
    other.load_state_dict(module.state_dict())
    tensors = drawn(BY_NAME["info_nce"])
    assert torch.equal(other(**tensors), module(**tensors))

    bandwidth = torch.nn.Parameter(torch.tensor(1.5))
    learned = xl.MMDLoss(kernel=xl.GaussianKernel(bandwidth))
    assert list(learned.state_dict()) == ["kernel.bandwidth"]
    fresh = xl.MMDLoss(kernel=xl.GaussianKernel(torch.nn.Parameter(torch.tensor(9.0))))
    fresh.load_state_dict(learned.state_dict())
    tensors = drawn(BY_NAME["mmd"])
    assert torch.equal(fresh(**tensors), learned(**tensors))


@pytest.mark.parametrize("dtype", [torch.float64, torch.float32, torch.bfloat16])
@each_covering_case()
def test_moves_between_dtypes(spec, case, dtype):
    tensors = to_torch(spec.draw(case, 62), dtype, grad=False)
    module = spec.build(case.options).to(dtype)
    value = module(**tensors)
    assert value.dtype == torch.promote_types(dtype, torch.float32)
    assert_allclose(value, spec(tensors, **case.options), rtol=1e-5, atol=1e-6)


@each_covering_case()
def test_autocast_changes_nothing(spec, case):
    tensors = drawn(spec, case, dtype=torch.float32)
    value = spec(tensors, **case.options)
    grads = torch.autograd.grad(value, (tensors["z_a"], tensors["z_b"]))
    with torch.autocast("cpu", torch.bfloat16):
        under = spec(tensors, **case.options)
    assert under.dtype == torch.float32
    assert torch.equal(under, value)
    inside = torch.autograd.grad(under, (tensors["z_a"], tensors["z_b"]))
    for grad, expected in zip(inside, grads, strict=True):
        assert torch.equal(grad, expected)


@each_case(bare=True)
def test_autocast_around_the_backward_pass(spec, case):
    """Products of the backward pass keep their dtype, too."""
    for rows, dim in ((6, 4), (4, 12)):  # by columns and by rows
        sizes = Case(case.options, rows=(rows, rows), dims=(dim, dim))
        outside = value_and_grad(
            spec, spec.draw(sizes, 63), torch.float32, **case.options
        )
        with torch.autocast("cpu", torch.bfloat16):
            inside = value_and_grad(
                spec, spec.draw(sizes, 63), torch.float32, **case.options
            )
        for first, second in zip(outside, inside, strict=True):
            assert_allclose(second, first, rtol=1e-6, atol=1e-7)


@each_loss
def test_autocast_around_a_network(spec):
    """The usual place: bfloat16 embeddings come out of an autocast layer."""
    torch.manual_seed(63)
    layer = torch.nn.Linear(6, 4)
    x_a, x_b = torch.randn(2, 12, 6)
    with torch.autocast("cpu", torch.bfloat16):
        z_a, z_b = layer(x_a), layer(x_b)
        assert z_a.dtype == torch.bfloat16
        value = spec({"z_a": z_a, "z_b": z_b})
    assert value.dtype == torch.float32
    value.backward()
    assert layer.weight.grad.isfinite().all()
    assert layer.weight.grad.abs().max() > 0


def test_learned_temperature_is_the_option():
    """Value as with temperature=τ; dL/dlog τ = τ dL/dτ by differences."""
    tensors = drawn(BY_NAME["info_nce"])
    module = xl.InfoNCELoss(temperature=0.2, learn_temperature=True).double()
    value = module(**tensors)
    assert_allclose(
        value.detach(), F.info_nce(**tensors, temperature=0.2).detach(), rtol=1e-6
    )
    value.backward()
    tau, h = float(module.log_temperature.detach().exp()), 1e-5
    ahead, behind = (
        F.info_nce(**tensors, temperature=tau * math.exp(step)).detach()
        for step in (h, -h)
    )
    assert_allclose(module.log_temperature.grad, (ahead - behind) / (2 * h), rtol=1e-7)


@pytest.mark.parametrize(("start", "bound"), [(1e-4, 0.05), (30.0, 0.5)])
def test_learned_temperature_is_clamped(start, bound):
    module = xl.InfoNCELoss(learn_temperature=True, temperature_range=(0.05, 0.5))
    with torch.no_grad():
        module.log_temperature.fill_(math.log(start))
    tensors = drawn(BY_NAME["info_nce"])
    expected = F.info_nce(**tensors, temperature=bound)
    assert_allclose(module(**tensors).detach(), expected.detach(), rtol=1e-5)


@pytest.mark.parametrize("aligned", [True, False])
def test_learned_temperature_moves_back_in(aligned):
    """Outside the range the gradient still points in when the loss wants it to."""
    module = xl.InfoNCELoss(learn_temperature=True, temperature_range=(0.05, 0.5))
    rng = np.random.default_rng(66)
    z = torch.tensor(rng.normal(size=(12, 8)))
    # Aligned pairs want a low temperature, opposed pairs a high one.
    z_b = z if aligned else -z
    start = 3.0 if aligned else 1e-3
    with torch.no_grad():
        module.log_temperature.fill_(math.log(start))
    optimizer = torch.optim.Adam(module.parameters(), lr=0.1)
    for _ in range(150):
        optimizer.zero_grad()
        module(z, z_b).backward()
        optimizer.step()
    tau = float(module.log_temperature.detach().exp())
    assert tau < 0.5 if aligned else tau > 0.05


def test_temperature_may_be_a_tensor():
    tensors = drawn(BY_NAME["info_nce"])
    tau = torch.tensor(0.1, dtype=torch.float64, requires_grad=True)
    value = F.info_nce(**tensors, temperature=tau)
    plain = F.info_nce(**tensors, temperature=0.1)
    torch.testing.assert_close(value, plain, rtol=1e-13, atol=0)
    value.backward()
    h = 1e-6
    ahead, behind = (
        F.info_nce(**tensors, temperature=0.1 + step).detach() for step in (h, -h)
    )
    assert_allclose(tau.grad, (ahead - behind) / (2 * h), rtol=1e-7)
