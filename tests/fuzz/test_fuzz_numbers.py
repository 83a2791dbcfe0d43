"""Raw arrays: finite in, finite out; NaN in, NaN out; no row where its weight is 0.

How large entries may be is on the page of numerics, and below. They are of any size
from there down to the smallest subnormal number, in any mixture, and any of them is 0.
"""

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from harness import Case
from hostile import FLOATS
from specs import SPECS, covering
from test_api import ROOT
from view_specs import VIEW_SPECS, ViewSpec

#: The largest entries for which every loss, and every gradient, is finite.
LARGEST = {
    torch.float16: 65504.0,
    torch.bfloat16: 1e6,
    torch.float32: 1e6,
    torch.float64: 1e50,
}
#: The losses that decompose a matrix, which may refuse what is not finite.
DECOMPOSE = ("coral", "dcca", "dgcca", "mcca")
NAMES = {torch.float16: "f2", torch.bfloat16: "f4", torch.float32: "f4"}


@st.composite
def arrays(draw, shape, dtype):
    """Draw an array of finite entries, some of them equal, some rows too."""
    width = {torch.float64: 64, torch.float16: 16}.get(dtype, 32)
    largest = float(np.dtype(f"f{width // 8}").type(LARGEST[dtype]))
    entries = st.one_of(
        st.floats(-largest, largest, width=width),
        st.floats(-2, 2, width=width),
        st.sampled_from([0.0, 1.0, -1.0, largest, -largest]),
    )
    kind = NAMES.get(dtype, "f8")
    z = draw(hnp.arrays(kind, shape, elements=entries, fill=st.just(0.0)))
    if shape[-2] > 1 and draw(st.booleans()):
        z[..., -1, :] = z[..., 0, :]
    return torch.tensor(z, dtype=torch.float64).to(dtype)


@st.composite
def problems(draw, spec):
    """Draw a loss's options and inputs of one dtype."""
    dtype = draw(st.sampled_from(FLOATS))
    lead = draw(st.sampled_from([(), (2,)]))
    if isinstance(spec, ViewSpec):
        options = draw(st.sampled_from([case.options for case in spec.cases]))
        n, dims = draw(st.integers(5, 7)), spec.widths
        views = [draw(arrays((*lead, n, dim), dtype)) for dim in dims]
        return options, {"views": views}, dtype
    options = draw(st.sampled_from([case.options for case in covering(spec)]))
    n, dim = draw(st.integers(3, 5)), 3  # some kernels are made for three columns
    # Labels, and the like, of few seeds; the rows are what is drawn.
    case = Case(options, (n, n), (dim, dim), lead)
    told = spec.draw(case, draw(st.integers(0, 9)))
    inputs = {
        name: torch.tensor(array)
        for name, array in told.items()
        if not name.startswith("z_")
    }
    for name in ("z_a", "z_b"):
        inputs[name] = draw(arrays((*lead, n, dim), dtype))
    return options, inputs, dtype


def rows_of(inputs):
    return inputs.get("views") or [inputs["z_a"], inputs["z_b"]]


def with_rows(inputs, views):
    if "views" in inputs:
        return inputs | {"views": views}
    return inputs | {"z_a": views[0], "z_b": views[1]}


def weights_of(spec, inputs, index):
    """Return weights of 1, and 0 of one row."""
    weight = torch.ones(rows_of(inputs)[0].shape[:-1])
    weight[..., index] = 0
    names = ("weight",) if isinstance(spec, ViewSpec) else spec.weights
    return dict.fromkeys(names, weight)


def run(spec, options, inputs):
    """Return value and gradients at copies; the inputs stay as they were."""
    views = [z.clone().requires_grad_() for z in rows_of(inputs)]
    versions = [z._version for z in views]
    value = spec(with_rows(inputs, views), **options)
    value.sum().backward()
    assert [z._version for z in views] == versions
    grads = [torch.zeros_like(z) if z.grad is None else z.grad for z in views]
    return value.detach(), grads


BY_NAME = {spec.name: spec for spec in (*SPECS, *VIEW_SPECS)}
every_loss = pytest.mark.parametrize("name", BY_NAME)  # short, where an example fails


@every_loss
@given(data=st.data())
def test_finite_rows_have_a_finite_loss_and_gradient(name, data):
    spec = BY_NAME[name]
    options, inputs, dtype = data.draw(problems(spec))
    value, grads = run(spec, options, inputs)
    assert value.dtype == torch.promote_types(dtype, torch.float32)
    assert value.shape == ()
    assert value.isfinite()
    views = rows_of(inputs)
    # By the direction of a row as short as 1/largest the derivative is as long.
    short = any(((z != 0) & (z.abs() < 1 / LARGEST[dtype])).any() for z in views)
    for grad, z in zip(grads, views, strict=True):
        assert grad.dtype == z.dtype
        assert not grad.isnan().any()
        assert short or dtype == torch.float16 or grad.isfinite().all()


@every_loss
@given(data=st.data(), bad=st.sampled_from([np.nan, np.inf, -np.inf]))
def test_what_is_not_finite_is_seen_unless_its_weight_is_0(name, data, bad):
    spec = BY_NAME[name]
    options, inputs, _ = data.draw(problems(spec))
    for one, labels in inputs.items():
        if one.startswith("labels"):  # each class in both modalities
            inputs[one] = (torch.arange(labels.shape[-1]) % 2).expand(labels.shape)
    views = [z.clone() for z in rows_of(inputs)]
    which = data.draw(st.integers(0, len(views) - 1))
    views[which][..., 0, -1] = bad
    poisoned = with_rows(inputs, views)
    try:
        value, _ = run(spec, options, poisoned)
    except torch.linalg.LinAlgError:
        assert spec.name in DECOMPOSE
    else:
        assert not value.isfinite()

    if options.get("estimator") in ("linear", "block"):
        return  # which take no weights
    weights = weights_of(spec, inputs, 0)
    value, grads = run(spec, options, poisoned | weights)
    expected, _ = run(spec, options, inputs | weights)
    assert value == expected
    assert all((grad[..., 0, :] == 0).all() for grad in grads)


def test_the_page_of_numerics_says_how_large_entries_may_be():
    page = " ".join((ROOT / "docs" / "numerics.md").read_text("utf-8").split())
    for dtype, largest in LARGEST.items():
        if dtype != torch.float16:
            assert f"{largest:.0e}".replace("e+0", "e").replace("e+", "e") in page
