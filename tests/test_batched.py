"""Leading dimensions are independent problems: one call equals the loop."""

from dataclasses import replace

import numpy as np
import pytest
import torch
from numpy.testing import assert_allclose

from harness import Case, to_torch
from specs import each_case, each_loss
from tolerances import SAME


def _separate(spec, case):
    return not spec.joint(case.options) and not case.lead


def _with_lead(case, lead):
    return replace(case, lead=lead)


@pytest.mark.parametrize("lead", [(3,), (2, 2)], ids=str)
@each_case(_separate)
def test_batched_equals_loop(spec, case, lead):
    inputs = spec.draw(_with_lead(case, lead), seed=4)
    tensors = to_torch(inputs)
    values = spec(tensors, reduction="none", **case.options)
    upstream = torch.randn(values.shape, dtype=values.dtype)
    (values * upstream).sum().backward()

    for index in np.ndindex(lead):
        single = to_torch({name: array[index] for name, array in inputs.items()})
        value = spec(single, reduction="none", **case.options)
        (value * upstream[index]).sum().backward()
        assert value.shape == values[index].shape
        assert_allclose(values[index].detach(), value.detach(), **SAME)
        for view in ("z_a", "z_b"):
            assert_allclose(tensors[view].grad[index], single[view].grad, **SAME)


@each_loss
def test_broadcast_and_strided_inputs(spec):
    """Expanded, transposed and sliced tensors mean what their values say."""
    inputs = spec.draw(Case(lead=(2,)), seed=5)
    z_a, z_b, *rest = to_torch(inputs, grad=False).values()
    rest = dict(zip(list(inputs)[2:], rest, strict=True))
    expected = spec({"z_a": z_a, "z_b": z_b, **rest})

    strided = z_a.mT.contiguous().mT
    sliced = torch.stack([z_b, torch.full_like(z_b, torch.nan)], -1)[..., 0]
    assert not strided.is_contiguous()
    assert not sliced.is_contiguous()
    assert_allclose(spec({"z_a": strided, "z_b": sliced, **rest}), expected, **SAME)

    shared = z_a[:1].expand(2, -1, -1)
    value = spec({"z_a": shared, "z_b": z_b})
    assert_allclose(value, spec({"z_a": shared.clone(), "z_b": z_b}), **SAME)


@each_loss
def test_inputs_are_left_alone(spec):
    inputs = spec.draw(Case(weighted=True, lead=(2,)), seed=6)
    tensors = to_torch(inputs)
    copies = {name: tensor.detach().clone() for name, tensor in tensors.items()}
    spec(tensors).backward()
    for name, tensor in tensors.items():
        assert torch.equal(tensor, copies[name])
