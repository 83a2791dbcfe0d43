"""torch.compile and torch.func: the same values and gradients in one graph."""

import shutil

import pytest
import torch
from numpy.testing import assert_allclose

import xmodal_losses as xl
from harness import Case, drawn, to_torch, value_and_grad
from specs import BY_NAME, each_covering_case, each_loss
from tolerances import SAME


def _compiled_matches(spec, case, backend, dtype=torch.float64, **compile_options):
    torch._dynamo.reset()
    inputs = spec.draw(case, 64)
    expected, *references = value_and_grad(spec, inputs, dtype, **case.options)
    tensors = to_torch(inputs, dtype)
    module = spec.build(case.options)
    compiled = torch.compile(module, fullgraph=True, backend=backend, **compile_options)
    value = compiled(**tensors)
    value.backward()
    tolerance = {"rtol": 1e-10, "atol": 1e-11}
    if dtype == torch.float32:
        tolerance = {"rtol": 1e-4, "atol": 1e-5}
    assert_allclose(value.detach(), expected, **tolerance)
    for view, reference in zip(("z_a", "z_b"), references, strict=True):
        assert_allclose(tensors[view].grad, reference, **tolerance)


@each_covering_case()
def test_compiles_to_one_graph(spec, case):
    _compiled_matches(spec, case, "aot_eager")


@each_loss
def test_compiles_with_weights(spec):
    _compiled_matches(spec, Case(weighted=True, lead=(2,)), "aot_eager")


def test_compiles_with_exclusions():
    case = Case({"negatives": "all"}, lead=(2,), weighted=True, exclude=True)
    _compiled_matches(BY_NAME["info_nce"], case, "aot_eager")


@each_loss
def test_compiles_with_dynamic_shapes(spec):
    """One graph serves all numbers of rows that fit into one tile."""
    torch._dynamo.reset()
    compiled = torch.compile(
        spec.build({}), fullgraph=True, backend="aot_eager", dynamic=True
    )
    for rows in (6, 9, 13):
        tensors = drawn(spec, Case(rows=(rows, rows)))
        with torch._dynamo.config.patch(error_on_recompile=rows > 6):
            value = compiled(**tensors)
            value.backward()
        assert_allclose(value.detach(), spec(tensors).detach(), rtol=1e-10)


@each_loss
def test_compiles_where_no_input_needs_a_gradient(spec):
    """As in a validation loop, in which somebody forgot ``no_grad``."""
    torch._dynamo.reset()
    tensors = drawn(spec, grad=False)
    module = spec.build({})
    compiled = torch.compile(module, fullgraph=True, backend="aot_eager")
    value = compiled(**tensors)
    assert not value.requires_grad
    assert_allclose(value, module(**tensors), rtol=1e-10, atol=1e-12)


def test_compiles_with_a_learned_temperature():
    torch._dynamo.reset()
    module = xl.InfoNCELoss(learn_temperature=True)
    tensors = drawn(BY_NAME["info_nce"])
    compiled = torch.compile(module, fullgraph=True, backend="aot_eager")
    compiled(**tensors).backward()
    grad, module.log_temperature.grad = module.log_temperature.grad, None
    module(**tensors).backward()
    assert_allclose(grad, module.log_temperature.grad, rtol=1e-10)


@pytest.mark.slow
@pytest.mark.skipif(
    shutil.which("g++") is None and shutil.which("clang++") is None,
    reason="inductor needs a C++ compiler",
)
@pytest.mark.filterwarnings("ignore")  # whatever the toolchain has to say
@each_loss
def test_compiles_with_inductor(spec):
    _compiled_matches(spec, Case(rows=(16, 16), dims=(8, 8)), "inductor", torch.float32)


@each_covering_case()
def test_func_grad(spec, case):
    tensors = drawn(spec, case)
    expected = torch.autograd.grad(
        spec(tensors, **case.options), (tensors["z_a"], tensors["z_b"])
    )

    def f(z_a, z_b):
        return spec(tensors | {"z_a": z_a, "z_b": z_b}, **case.options)

    views = (tensors["z_a"].detach(), tensors["z_b"].detach())
    for grad, reference in zip(
        torch.func.grad(f, argnums=(0, 1))(*views), expected, strict=True
    ):
        assert_allclose(grad, reference, **SAME)


@each_covering_case()
def test_func_vmap(spec, case):
    """Mapping over a dimension is a leading dimension; so it is for gradients."""
    tensors = to_torch(
        spec.draw(Case(case.options, dims=case.dims, lead=(3,)), 65), grad=False
    )
    loop = [
        value_and_grad(
            spec, {k: v[i].numpy() for k, v in tensors.items()}, **case.options
        )
        for i in range(3)
    ]

    def f(*inputs):
        return spec(dict(zip(tensors, inputs, strict=True)), **case.options)

    values = torch.func.vmap(f)(*tensors.values())
    assert_allclose(values, torch.stack([item[0] for item in loop]), **SAME)
    grads = torch.func.vmap(torch.func.grad(f, argnums=(0, 1)))(*tensors.values())
    for k, grad in enumerate(grads):
        assert_allclose(grad, torch.stack([item[k + 1] for item in loop]), **SAME)


def test_learned_temperature_maps():
    """An ensemble of temperatures in one vmapped call, inside and outside the range."""
    module = xl.InfoNCELoss(
        learn_temperature=True, temperature_range=(0.05, 0.5)
    ).double()
    tensors = drawn(BY_NAME["info_nce"], grad=False)
    logs = torch.tensor([0.01, 0.1, 0.3, 2.0], dtype=torch.float64).log()

    def loss(log_temperature):
        state = {"log_temperature": log_temperature}
        return torch.func.functional_call(module, state, (), tensors)

    grads, values = torch.func.vmap(torch.func.grad_and_value(loss))(logs)
    for log, grad, value in zip(logs, grads, values, strict=True):
        one = torch.func.grad_and_value(loss)(log)
        assert_allclose((grad, value), one, **SAME)
