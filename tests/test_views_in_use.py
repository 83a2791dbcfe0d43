"""Losses of several views in use: compiled, transformed, as modules, refusing."""

import copy
import inspect
import pickle
from dataclasses import replace

import pytest
import torch
from numpy.testing import assert_allclose

import xmodal_losses as xl
import xmodal_losses.functional as F
from tolerances import SAME
from view_specs import (
    VIEWS_BY_NAME,
    ViewCase,
    each_covering_view_case,
    each_view_case,
    each_view_loss,
    to_torch,
    value_and_grad,
)

# ------------------------------------------------------------------ transforms


@pytest.mark.parametrize("told", [False, True], ids=["views", "views, mask, weight"])
@each_view_loss
def test_compiles_to_one_graph(spec, told):
    case = [c for c in spec.cases if c.masked == c.weighted == told][-1]
    torch._dynamo.reset()
    inputs = spec.draw(case, 17)
    expected, *references = value_and_grad(spec, inputs, **case.options)
    module = torch.compile(
        spec.build(**case.options), fullgraph=True, backend="aot_eager"
    )
    tensors = to_torch(inputs)
    value = module(**tensors)
    value.backward()
    assert_allclose(value.detach(), expected, rtol=1e-10)
    for z, reference in zip(tensors["views"], references, strict=True):
        assert_allclose(z.grad, reference, rtol=1e-9, atol=1e-11)
    value = module(**to_torch(inputs, grad=False))
    assert_allclose(value, expected, rtol=1e-10)


@each_view_loss
def test_compiles_with_dynamic_shapes(spec):
    torch._dynamo.reset()
    compiled = torch.compile(
        spec.build(), fullgraph=True, backend="aot_eager", dynamic=True
    )
    for rows in (8, 11, 15):
        tensors = to_torch(spec.draw(ViewCase(rows=rows, dims=spec.widths)))
        with torch._dynamo.config.patch(error_on_recompile=rows > 8):
            value = compiled(**tensors)
            value.backward()
        assert_allclose(value.detach(), spec(tensors).detach(), rtol=1e-10)


@each_covering_view_case
def test_func_grad_and_vmap(spec, case):
    inputs = spec.draw(replace(case, lead=(3,)), 18)
    tensors = to_torch(inputs, grad=False)
    names = [name for name in ("mask", "weight") if name in tensors]
    dims = [{"mask": 1, "weight": 0}[name] for name in names]
    count = len(tensors["views"])

    def f(*args):
        rest = dict(zip(names, args[count:], strict=True))
        return spec({"views": args[:count], **rest}, **case.options)

    args = (*tensors["views"], *(tensors[name] for name in names))
    in_dims = (*(0,) * count, *dims)
    asked = to_torch(inputs)
    expected = spec(asked, reduction="none", **case.options)
    expected.sum().backward()
    values = torch.func.vmap(f, in_dims)(*args)
    assert_allclose(values, expected.detach(), **SAME)
    of_views = torch.func.grad(f, argnums=tuple(range(count)))
    grads = torch.func.vmap(of_views, in_dims)(*args)
    for grad, z in zip(grads, asked["views"], strict=True):
        assert_allclose(grad, z.grad, rtol=1e-10, atol=1e-11)


# ------------------------------------------------------------------ modules, errors


@each_view_case
def test_module_is_the_function(spec, case):
    tensors = to_torch(spec.draw(case, 19))
    module = spec.build(**case.options)
    expected = spec(tensors, **case.options)
    for twin in (module, copy.deepcopy(module), pickle.loads(pickle.dumps(module))):
        assert torch.equal(twin(**tensors), expected)
        assert repr(twin) == repr(module)
    for name, value in case.options.items():
        assert f"{name}={value!r}" in repr(module)
    assert module.state_dict() == {}


@each_view_loss
def test_signatures_agree(spec):
    function = inspect.signature(getattr(F, spec.name)).parameters
    module = getattr(xl, spec.module)
    init = inspect.signature(module).parameters
    forward = inspect.signature(module.forward).parameters
    assert next(iter(function)) == "views"
    assert list(forward)[:2] == ["self", "views"]
    for name, parameter in function.items():
        if name in ("views", "group"):
            continue
        assert parameter.kind is parameter.KEYWORD_ONLY
        place = forward if name in ("mask", "weight") else init
        assert place[name].default == parameter.default
        assert place[name].kind is parameter.KEYWORD_ONLY


@each_view_loss
def test_shapes_are_checked(spec):
    z = [torch.randn(6, w) for w in spec.widths]
    one = torch.randn(1, 3)

    def refused(error, text, views, **rest):
        with pytest.raises(error, match=rf"^{spec.name}: {text}"):
            spec({"views": views, **rest})

    refused(TypeError, "views must be a list or tuple", torch.randn(3, 6, 2))
    refused(ValueError, "views must be at least 2", z[:1])
    refused(TypeError, r"views\[1\] must be a floating", [z[0], z[1].long()])
    refused(TypeError, r"views\[0\] must be a floating-point tensor", [None, *z])
    refused(ValueError, r"views\[0\] must be a batch", [z[0][0], *z])
    refused(ValueError, r"views\[0\] must have at least 2 rows", [one, one])
    refused(ValueError, "views must have the same leading", [z[0], z[1][:4]])
    refused(ValueError, "views must have the same leading", [z[0], z[1][None]])
    refused(ValueError, "views must be on one device", [z[0], z[1].to("meta")])
    refused(TypeError, "mask must be a boolean tensor", z, mask=torch.ones(3, 6))
    bad = torch.ones(6, 3, dtype=torch.bool)
    refused(ValueError, r"mask must be of shape \(3, 6\)", z, mask=bad)
    refused(ValueError, r"weight must be of shape \(6,\)", z, weight=torch.ones(5))
    refused(TypeError, "weight must be a real", z, weight=[1.0] * 6)
    with pytest.raises(TypeError, match="positional argument"):
        getattr(F, spec.name)(z, 2)
    with pytest.raises(TypeError, match="positional argument"):
        getattr(xl, spec.module)(2)


OPTIONS = [
    *[("dgcca", "num_components", bad, ValueError) for bad in (0, -1)],
    *[("dgcca", "num_components", bad, TypeError) for bad in (1.0, "1", None)],
    *[("dgcca", "ridge", bad, ValueError) for bad in (-1e-4, float("nan"))],
    ("dgcca", "ridge", "0", TypeError),
    ("dgcca", "ridge_scale", "mean", ValueError),
    ("mcca", "num_components", 0, ValueError),
    ("mcca", "ridge", -1.0, ValueError),
    ("mcca", "ridge_scale", None, ValueError),
    ("mcca", "objective", "nuclear", ValueError),
    ("mcca", "compute_dtype", torch.int64, ValueError),
    ("mcca", "reduction", None, ValueError),
    ("mcca", "exchange", "carrier pigeon", ValueError),
    ("eckart_young", "estimator", "paired", ValueError),
    ("eckart_young", "compute_dtype", torch.int64, ValueError),
    ("eckart_young", "reduction", None, ValueError),
    ("dgcca", "compute_dtype", torch.float16, ValueError),
    ("dgcca", "reduction", "avg", ValueError),
    ("dgcca", "grad_reduce", "max", ValueError),
]


@pytest.mark.parametrize(("name", "option", "value", "error"), OPTIONS)
def test_options_are_checked(name, option, value, error):
    spec = VIEWS_BY_NAME[name]
    views = [torch.randn(6, w) for w in spec.widths]
    with pytest.raises(error, match=rf"^{name}: {option} must be .+, got"):
        spec({"views": views}, **{option: value})
    with pytest.raises(error, match=rf"^{spec.module}: {option} must be .+, got"):
        spec.build(**{option: value})


@each_view_loss
def test_a_group_has_to_be_one(spec):
    views = [torch.randn(6, w) for w in spec.widths]
    with pytest.raises(ValueError, match=rf"^{spec.name}: group must be a process"):
        spec({"views": views}, group="gloo")
    with pytest.raises(ValueError, match=rf"^{spec.module}: gather must be False"):
        spec.build(gather=True)(views)
    with pytest.raises(TypeError, match=rf"^{spec.module}: gather must be True, F"):
        spec.build(gather="all")
