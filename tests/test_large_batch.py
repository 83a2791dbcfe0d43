"""A batch in chunks is the batch: values, gradients, weights, any sizes."""

from dataclasses import replace

import numpy as np
import pytest
import torch
from numpy.testing import assert_allclose

import xmodal_losses as xl
from harness import Case, to_torch
from specs import BY_NAME, SPECS

MOMENTS = [
    BY_NAME[name]
    for name in ("coral", "barlow_twins", "vicreg", "soft_decorrelation", "dcca")
]


def _cases():
    rows = []
    for spec in MOMENTS:
        seen = set()
        for case in spec.cases:
            if str(case) not in seen:
                seen.add(str(case))
                rows.append(pytest.param(spec, case, id=f"{spec.name}-{case}"))
    return rows


def _chunks(inputs, sizes_a, sizes_b):
    """Return the inputs of every chunk."""
    out = [{} for _ in sizes_a]
    for name, tensor in inputs.items():
        dim = -2 if name.startswith("z_") else -1
        sizes = sizes_b if name.endswith("_b") else sizes_a
        for chunk, part in zip(out, tensor.split(sizes, dim), strict=True):
            chunk[name] = part
    return out


def _sizes(rows, chunks):
    """Split a number of rows into some uneven chunks."""
    sizes = [1] * chunks
    sizes[chunks // 2] += rows - chunks
    return sizes


def _run(criterion, chunks):
    """Return the loss, the sum of the shares, and the gradients of the embeddings."""
    chunked = xl.ChunkedMoments(criterion)
    for chunk in chunks:
        chunked.update(**chunk)
    total = 0.0
    grads = {"z_a": [], "z_b": []}
    for chunk in chunks:
        chunk = {k: v.detach().requires_grad_(k in grads) for k, v in chunk.items()}
        share = chunked.share(**chunk)
        share.backward()
        total = total + share.detach()
        for name, parts in grads.items():
            parts.append(chunk[name].grad)
    return chunked.compute(), total, *(torch.cat(g, -2) for g in grads.values())


def _whole(criterion, inputs):
    inputs = {
        k: v.detach().requires_grad_(k.startswith("z_")) for k, v in inputs.items()
    }
    value = criterion(**inputs)
    value.backward()
    return value.detach(), inputs["z_a"].grad, inputs["z_b"].grad


@pytest.mark.parametrize(("spec", "case"), _cases())
def test_chunks_are_the_batch(spec, case):
    inputs = to_torch(spec.draw(case, seed=90), grad=False)
    criterion = spec.build(case.options)
    value, *expected = _whole(criterion, inputs)
    n, m = case.rows
    for chunks in {1, 2, min(n, m)}:
        parts = _chunks(inputs, _sizes(n, chunks), _sizes(m, chunks))
        loss, total, *grads = _run(criterion, parts)
        assert loss.dtype == value.dtype
        assert not loss.requires_grad
        assert_allclose(loss, value, rtol=1e-10, atol=1e-12)
        assert_allclose(total, value, rtol=1e-10, atol=1e-12)
        for grad, reference in zip(grads, expected, strict=True):
            assert_allclose(grad, reference, rtol=1e-8, atol=1e-10)


@pytest.mark.parametrize("reduction", ["mean", "sum"])
@pytest.mark.parametrize("spec", MOMENTS, ids=lambda spec: spec.name)
def test_float32_and_a_large_mean(spec, reduction):
    case = Case({}, (64, 64), (5, 5), (2,))
    inputs = to_torch(spec.draw(case, seed=91), torch.float32, grad=False)
    inputs = {k: v + 100 if k.startswith("z_") else v for k, v in inputs.items()}
    criterion = spec.build({"reduction": reduction})
    value, *expected = _whole(criterion, {k: v.double() for k, v in inputs.items()})
    parts = _chunks(inputs, (1, 30, 33), (1, 30, 33))
    loss, total, *grads = _run(criterion, parts)
    assert loss.dtype == total.dtype == torch.float32
    assert_allclose(loss, value, rtol=1e-6)
    assert_allclose(total, value, rtol=1e-6)
    for grad, reference in zip(grads, expected, strict=True):
        assert grad.dtype == torch.float32
        assert (grad - reference).norm() < 1e-6 * reference.norm()


@pytest.mark.parametrize("spec", MOMENTS, ids=lambda spec: spec.name)
def test_weight_zero_removes_rows_and_chunks(spec):
    inputs = spec.draw(Case(rows=(9, 9), weighted=True), seed=92)
    for name in spec.weights:
        inputs[name][:4] = 0  # the first chunk, and a row of the second
    for name in ("z_a", "z_b"):
        inputs[name][:4] = np.nan
    inputs = to_torch(inputs, grad=False)
    kept = {k: v[4:] for k, v in inputs.items()}
    value, *expected = _whole(spec.build({}), kept)
    loss, _, *grads = _run(spec.build({}), _chunks(inputs, (3, 4, 2), (3, 4, 2)))
    assert_allclose(loss, value, rtol=1e-10)
    for grad, reference in zip(grads, expected, strict=True):
        assert (grad[:4] == 0).all()
        assert_allclose(grad[4:], reference, rtol=1e-8, atol=1e-10)


@pytest.mark.parametrize("spec", MOMENTS, ids=lambda spec: spec.name)
def test_no_weight_at_all(spec):
    inputs = spec.draw(Case(rows=(6, 6), weighted=True), seed=93)
    for name in spec.weights:
        inputs[name][:] = 0
    parts = _chunks(to_torch(inputs, grad=False), (3, 3), (3, 3))
    loss, total, *grads = _run(spec.build({}), parts)
    assert loss == total == 0
    assert all((grad == 0).all() for grad in grads)


@pytest.mark.parametrize("name", ["weight_a", "weight_b"])
def test_no_weight_on_one_side(name):
    inputs = BY_NAME["coral"].draw(Case(rows=(6, 6), weighted=True), seed=93)
    inputs[name][:] = 0
    inputs = to_torch(inputs, grad=False)
    value, *expected = _whole(xl.CORALLoss(), inputs)
    loss, _, *grads = _run(xl.CORALLoss(), _chunks(inputs, (3, 3), (3, 3)))
    assert loss == value == 0
    assert not any(grad.any() for grad in (*grads, *expected))


@pytest.mark.parametrize("constant", [0.0, 0.1, 1e3])
def test_a_constant_column_is_exactly_constant(constant):
    inputs = BY_NAME["barlow_twins"].draw(Case(rows=(9, 9)), seed=94)
    inputs["z_a"][:, 1] = constant
    inputs = to_torch(inputs, grad=False)
    criterion = xl.BarlowTwinsLoss()
    value, *expected = _whole(criterion, inputs)
    loss, _, *grads = _run(criterion, _chunks(inputs, (2, 4, 3), (2, 4, 3)))
    assert_allclose(loss, value, rtol=1e-10)
    assert (grads[0][:, 1] == 0).all()
    for grad, reference in zip(grads, expected, strict=True):
        assert_allclose(grad, reference, rtol=1e-8, atol=1e-10)


@pytest.mark.parametrize("spec", MOMENTS, ids=lambda spec: spec.name)
def test_through_encoders(spec):
    """Parameters accumulate the gradient of the whole batch; a frozen tower none."""
    torch.manual_seed(0)
    encode_a, encode_b = (torch.nn.Linear(7, 4).double() for _ in range(2))
    encode_b.weight.requires_grad_(False)
    rgb, ir = torch.randn(2, 40, 7, dtype=torch.float64)
    criterion = spec.build({})
    (expected,) = torch.autograd.grad(
        0.3 * criterion(encode_a(rgb), encode_b(ir).detach()), encode_a.weight
    )
    chunked = xl.ChunkedMoments(criterion)
    for _ in range(2):  # the second time after a reset
        chunks = list(zip(rgb.split(16), ir.split(16), strict=True))
        with torch.no_grad():
            for a, b in chunks:
                chunked.update(encode_a(a), encode_b(b))
        encode_a.zero_grad()
        for a, b in chunks:
            loss = 0.3 * chunked.share(encode_a(a), encode_b(b).detach())
            loss.backward()
        assert_allclose(encode_a.weight.grad, expected, rtol=1e-9, atol=1e-12)
        chunked.reset()


def test_float16_embeddings():
    """The gradient is scaled before it is rounded, as a GradScaler needs."""
    z_a, z_b = torch.randn(2, 64, 4).half()
    criterion = xl.CORALLoss()
    chunked = xl.ChunkedMoments(criterion)
    views = [(1e-2 * z).requires_grad_() for z in (z_a, z_b)]
    chunked.update(*views)
    (2.0**20 * chunked.share(*views)).backward()
    wide = [z.detach().double().requires_grad_() for z in views]
    (2.0**20 * criterion(*wide)).backward()
    for view, reference in zip(views, wide, strict=True):
        error = view.grad.double() - reference.grad
        assert error.norm() < 2e-3 * reference.grad.norm()


def test_the_loss_may_be_asked_for_on_the_way():
    z_a, z_b = torch.randn(2, 12, 3, dtype=torch.float64)
    chunked = xl.ChunkedMoments(xl.VICRegLoss())
    for stop in (4, 8, 12):
        chunked.update(z_a[stop - 4 : stop], z_b[stop - 4 : stop])
        expected = xl.VICRegLoss()(z_a[:stop], z_b[:stop])
        assert_allclose(chunked.compute(), expected, rtol=1e-12)


# ------------------------------------------------------------------ errors


@pytest.mark.parametrize(
    "spec", [s for s in SPECS if s not in MOMENTS], ids=lambda spec: spec.name
)
def test_other_losses_are_refused(spec):
    with pytest.raises(TypeError, match=f"^ChunkedMoments: criterion .+ {spec.module}"):
        xl.ChunkedMoments(spec.build({}))


def test_reduction_none_is_refused():
    with pytest.raises(ValueError, match=r"^ChunkedMoments: criterion must have redu"):
        xl.ChunkedMoments(xl.CORALLoss(reduction="none"))


def test_errors_of_chunks():
    z = torch.randn(4, 3)
    weight = torch.ones(4)
    chunked = xl.ChunkedMoments(xl.BarlowTwinsLoss())
    with pytest.raises(RuntimeError, match="Call update first"):
        chunked.compute()
    with pytest.raises(RuntimeError, match="Call update first"):
        chunked.share(z, z)
    with pytest.raises(ValueError, match=r"weight_a must be None, .+ takes weight"):
        chunked.update(z, z, weight_a=weight)
    with pytest.raises(ValueError, match=r"weight must be None, .+ takes weight_a"):
        xl.ChunkedMoments(xl.CORALLoss()).update(z, z, weight=weight)
    with pytest.raises(ValueError, match="same number of rows"):
        chunked.update(z, z[:3])
    with pytest.raises(ValueError, match="weight must be of shape"):
        chunked.update(z, z, weight=weight[:3])
    chunked.update(z, z)
    with pytest.raises(ValueError, match="of the chunks before"):
        chunked.update(z[:, :2], z[:, :2])
    with pytest.raises(ValueError, match="of the chunks before"):
        chunked.share(z[None], z[None])
    wide = xl.ChunkedMoments(xl.DCCALoss(num_components=4))
    wide.update(z, z)
    with pytest.raises(ValueError, match="num_components must be in"):
        wide.compute()


def test_second_derivatives_are_refused():
    z_a, z_b = torch.randn(2, 8, 3, requires_grad=True).unbind()
    chunked = xl.ChunkedMoments(xl.CORALLoss())
    chunked.update(z_a, z_b)
    share = chunked.share(z_a, z_b)
    with pytest.raises(RuntimeError, match=r"^ChunkedMoments: create_graph must be Fa"):
        torch.autograd.grad(share, z_a, create_graph=True)


@pytest.mark.parametrize("rows", [1, 2])
@pytest.mark.parametrize("spec", MOMENTS, ids=lambda spec: spec.name)
def test_very_few_rows_are_finite(spec, rows):
    inputs = spec.draw(replace(Case(), rows=(rows, rows)), seed=95)
    parts = _chunks(to_torch(inputs, grad=False), (1,) * rows, (1,) * rows)
    loss, _, *grads = _run(spec.build({}), parts)
    assert loss.isfinite()
    assert all(grad.isfinite().all() for grad in grads)
