"""CCAProjector: published and scipy's linear CCA, streams, state, ranks."""

import copy
import io
import pickle

import numpy as np
import pytest
import torch
from numpy.testing import assert_allclose
from sklearn.cross_decomposition import CCA

import xmodal_losses as xl
import xmodal_losses.functional as F
from published import CORRELATIONS, digits, linnerud
from reference.dcca import canonical_correlations
from reference.projector import components

FITTED = ("mean_a", "mean_b", "projection_a", "projection_b", "correlations")


def _rows(n=40, dims=(4, 3), seed=0):
    rng = np.random.default_rng(seed)
    shared = rng.normal(size=(n, max(dims)))
    return tuple(
        torch.tensor(shared[:, :d] * 2 + rng.normal(size=(n, d)) + 5) for d in dims
    )


def _fitted(z_a, z_b, k=None, chunk=None, weight=None, **options):
    dims = z_a.shape[-1], z_b.shape[-1]
    projector = xl.CCAProjector(*dims, num_components=k or min(dims), **options)
    chunk = chunk or len(z_a)
    weights = [None] * len(z_a) if weight is None else weight.split(chunk)
    for a, b, w in zip(z_a.split(chunk), z_b.split(chunk), weights, strict=False):
        projector.update(a, b, weight=w)
    return projector.fit()


@pytest.mark.parametrize(("data", "rho"), CORRELATIONS.items())
def test_published_correlations(data, rho):
    projector = _fitted(*data(), ridge=0.0, chunk=7)
    assert_allclose(projector.correlations, rho, atol=1e-6)
    u, v = projector.transform(*data())
    for k, one in enumerate(rho):
        assert_allclose(np.corrcoef(u[:, k], v[:, k])[0, 1], one, atol=1e-6)


@pytest.mark.parametrize(
    ("how", "scale", "ridge", "total"),
    [
        ("halves", 1, 0.0, 9.384309),
        ("halves", 1, 1e-4, 9.352807),
        ("halves", 1, 1e-3, 9.195671),
        ("halves", 1, 1e-1, 8.476402),
        ("halves", 16, 1e-4, 8.713040),
        ("halves", 16, 1e-3, 8.239557),
        ("top and bottom", 1, 0.0, 10.756532),
    ],
)
def test_digits(how, scale, ridge, total):
    """Left and right, or top and bottom, of digits. Some pixels are constant."""
    z_a, z_b = (z / scale for z in digits(how))
    projector = _fitted(z_a, z_b, ridge=ridge, chunk=500)
    rho = canonical_correlations(z_a.numpy(), z_b.numpy(), np.ones(len(z_a)), ridge)
    rho = np.pad(rho, (0, 32 - len(rho)))  # pixels that do not vary have none
    assert_allclose(projector.correlations, rho, rtol=1e-6, atol=1e-9)
    assert_allclose(projector.correlations.sum(), total, atol=2e-6)
    assert_allclose(F.dcca(z_a, z_b, ridge=ridge), -total, atol=2e-6)
    if (how, scale, ridge) == ("halves", 1, 0.0):
        rho = projector.correlations
        assert_allclose((rho**2).sum(), 4.890725, atol=1e-6)
        top = [0.81607, 0.80205, 0.69533, 0.67661, 0.63278]
        assert_allclose(rho[:5], top, atol=6e-6)
    if (how, scale, ridge) == ("halves", 1, 1e-4):
        assert_allclose(projector.correlations[:10].sum(), 6.272931, atol=1e-6)


def test_digits_held_out():
    """The projector of 1200 digits, on the other 597."""
    z_a, z_b = (z / 16 for z in digits())
    projector = _fitted(z_a[:1200], z_b[:1200], k=10, ridge=1e-3)
    assert_allclose(projector.correlations.sum(), 6.0644, atol=6e-5)
    u, v = projector(z_a[1200:], z_b[1200:])
    rho = [np.corrcoef(u[:, k], v[:, k])[0, 1] for k in range(10)]
    assert_allclose(sum(rho), 5.6180, atol=6e-5)


@pytest.mark.parametrize("data", [digits, linnerud])
def test_sklearn(data):
    """Its components, of columns that vary; it finds them one by one."""
    z_a, z_b = data()
    varying = [z[:, z.std(0) > 0] for z in (z_a, z_b)]
    cca = CCA(3, scale=False, max_iter=100_000, tol=1e-14).fit(*varying)
    theirs = cca.transform(*varying)
    ours = _fitted(z_a, z_b, k=3, ridge=0.0).transform(z_a, z_b)
    for x, y in zip(ours, theirs, strict=True):
        for k in range(3):
            assert_allclose(abs(np.corrcoef(x[:, k], y[:, k])[0, 1]), 1, atol=1e-6)


@pytest.mark.parametrize("weighted", [False, True])
@pytest.mark.parametrize("scale", ["absolute", "relative"])
@pytest.mark.parametrize("ridge", [0.0, 0.3])
@pytest.mark.parametrize("k", [1, 3])
def test_components_are_those_of_the_reference(k, ridge, scale, weighted):
    z_a, z_b = _rows()
    weight = torch.rand(40, dtype=torch.float64) if weighted else None
    options = {"ridge": ridge, "ridge_scale": scale}
    projector = _fitted(z_a, z_b, k, 9, weight, **options)
    w = np.ones(40) if weight is None else weight.numpy()
    rho, *references = components(z_a.numpy(), z_b.numpy(), w, k, ridge, scale)
    assert_allclose(projector.correlations, rho, rtol=1e-10)
    for x, reference in zip(projector.transform(z_a, z_b), references, strict=True):
        assert_allclose(x, reference, rtol=1e-8, atol=1e-10)
    dcca = F.dcca(z_a, z_b, num_components=k, weight=weight, **options)
    assert_allclose(projector.correlations.sum(), -dcca, rtol=1e-12)


def test_components_are_white_and_paired():
    z_a, z_b = _rows()
    projector = _fitted(z_a, z_b, ridge=0.0)
    u, v = projector.transform(z_a, z_b)
    joint = np.cov(u.T, v.T)
    rho = projector.correlations
    assert_allclose(joint[:3, :3], np.eye(3), atol=1e-10)
    assert_allclose(joint[3:, 3:], np.eye(3), atol=1e-10)
    assert_allclose(joint[:3, 3:], np.diag(rho), atol=1e-10)
    reference = canonical_correlations(z_a.numpy(), z_b.numpy(), np.ones(40))
    assert_allclose(rho, reference, rtol=1e-10)
    largest = projector.projection_a.abs().argmax(0)
    assert (projector.projection_a[largest, range(3)] > 0).all()


@pytest.mark.parametrize("chunk", [1, 3, 39])
def test_chunks_are_the_whole(chunk):
    z_a, z_b = _rows()
    whole, parts = _fitted(z_a, z_b), _fitted(z_a, z_b, chunk=chunk)
    for name in FITTED:
        assert_allclose(getattr(parts, name), getattr(whole, name), rtol=1e-9)


def test_order_and_leading_dimensions_do_not_matter():
    z_a, z_b = _rows()
    whole = _fitted(z_a, z_b)
    other = xl.CCAProjector(4, 3, num_components=3)
    order = torch.randperm(40)
    other.update(z_a[order].view(2, 4, 5, 4), z_b[order].view(2, 4, 5, 3))
    other.update(z_a[:0], z_b[:0])
    other.fit()
    for name in FITTED:
        assert_allclose(getattr(other, name), getattr(whole, name), rtol=1e-9)


def test_rows_of_weight_zero_are_not_there():
    z_a, z_b = _rows()
    weight = torch.ones(40, dtype=torch.float64)
    weight[::3] = 0
    kept = weight > 0
    expected = _fitted(z_a[kept], z_b[kept])
    z_a[::3] = torch.nan
    got = _fitted(z_a, z_b, chunk=6, weight=7 * weight)
    for name in FITTED:
        assert_allclose(getattr(got, name), getattr(expected, name), rtol=1e-9)


def test_a_large_mean_costs_no_digits_and_a_constant_column_is_zero():
    z_a, z_b = _rows()
    expected = _fitted(z_a, z_b, ridge=0.0).correlations
    z_a = torch.cat([z_a + 1e5, torch.full((40, 1), 0.1, dtype=torch.float64)], 1)
    got = _fitted(z_a, z_b, ridge=0.0, chunk=7)
    assert_allclose(got.correlations, expected, rtol=1e-8)
    assert got.scatter[4].abs().max() == 0


def test_state():
    """A stream goes on where it was saved, and what is fitted is what was saved."""
    z_a, z_b = _rows()
    expected = _fitted(z_a, z_b, k=2)
    first = xl.CCAProjector(4, 3, num_components=2)
    first.update(z_a[:25], z_b[:25])
    saved = io.BytesIO()
    torch.save(first.state_dict(), saved)
    saved.seek(0)
    second = xl.CCAProjector(4, 3, num_components=2)
    second.load_state_dict(torch.load(saved, weights_only=True))
    second.update(z_a[25:], z_b[25:])
    second.fit()
    third = xl.CCAProjector(4, 3, num_components=2)
    third.load_state_dict(second.state_dict())
    twins = [third, copy.deepcopy(second), pickle.loads(pickle.dumps(second))]
    for projector in (second, *twins):
        for name in FITTED:
            assert_allclose(
                getattr(projector, name), getattr(expected, name), rtol=1e-9
            )
        assert repr(projector) == repr(expected)
        assert not list(projector.parameters())


def test_what_is_fitted_stays_until_it_is_fitted_again():
    z_a, z_b = _rows()
    projector = _fitted(z_a[:20], z_b[:20])
    before = projector.transform_a(z_a)
    projector.update(z_a[20:], z_b[20:])
    assert torch.equal(projector.transform_a(z_a), before)
    projector.reset()
    assert torch.equal(projector.transform_a(z_a), before)
    projector.update(z_a[20:], z_b[20:])
    projector.fit()
    expected = _fitted(z_a[20:], z_b[20:])
    assert_allclose(projector.projection_a, expected.projection_a, rtol=1e-9)


def test_one_row_at_a_time_and_dtypes():
    z_a, z_b = _rows()
    projector = _fitted(z_a, z_b)
    u = projector.transform_a(z_a)
    assert_allclose(projector.transform_a(z_a[3]), u[3], rtol=1e-12)
    assert_allclose(projector.transform_a(z_a[None, None]), u[None, None], rtol=1e-12)
    for dtype in (torch.float32, torch.bfloat16):
        rows = z_a.to(dtype)
        with torch.autocast("cpu", torch.bfloat16):
            narrow = projector.transform_a(rows)
        assert narrow.dtype == torch.float32
        assert_allclose(narrow, projector.transform_a(rows.double()), rtol=1e-5)


def test_gradient_and_compile():
    z_a, z_b = _rows()
    projector = _fitted(z_a, z_b)
    z_a.requires_grad_()
    (grad,) = torch.autograd.grad(projector.transform_a(z_a).sum(), z_a)
    assert_allclose(grad, projector.projection_a.sum(1).expand(40, 4))
    compiled = torch.compile(projector, fullgraph=True, backend="aot_eager")
    assert_allclose(compiled(z_a.detach(), z_b)[1], projector.transform_b(z_b))


def test_before_it_is_fitted():
    projector = xl.CCAProjector(4, 3, num_components=2)
    z_a, z_b = _rows()
    assert projector.transform_a(z_a).isnan().all()
    for rows in (0, 1):
        projector.update(z_a[:rows], z_b[:rows])
        with pytest.raises(RuntimeError, match=r"^CCAProjector: the rows must be at"):
            projector.fit()


@pytest.mark.parametrize(
    ("options", "error", "text"),
    [
        ({"dim_a": 0}, ValueError, "dim_a must be >= 1, got 0"),
        ({"dim_b": 2.0}, TypeError, "dim_b must be an integer"),
        ({"num_components": 4}, ValueError, r"num_components must be in .*\[1, 3\]"),
        ({"ridge": -1.0}, ValueError, "ridge must be a finite number >= 0"),
        ({"ridge_scale": "trace"}, ValueError, "ridge_scale must be one of"),
        ({"gather": "all"}, TypeError, "gather must be True, False or a process"),
    ],
)
def test_options_are_checked(options, error, text):
    with pytest.raises(error, match=f"^CCAProjector: {text}"):
        xl.CCAProjector(**({"dim_a": 4, "dim_b": 3, "num_components": 2} | options))


def test_inputs_are_checked():
    projector = xl.CCAProjector(4, 3, num_components=2)
    z_a, z_b = _rows()
    for call, error, text in (
        (lambda: projector.update(z_b, z_b), ValueError, "z_a must have 4 columns"),
        (lambda: projector.update(z_a, z_a), ValueError, "z_b must have 3 columns"),
        (lambda: projector.update(z_a, z_b[1:]), ValueError, "z_a and z_b must have"),
        (lambda: projector.update(z_a, z_b, weight=z_a), ValueError, "weight must be"),
        (lambda: projector.transform_a(z_b), ValueError, "z_a must have 4 columns"),
        (lambda: projector.transform_b(z_a), ValueError, "z_b must have 3 columns"),
        (lambda: projector.transform_b(None), TypeError, "z_b must be a floating"),
    ):
        with pytest.raises(error, match=f"^CCAProjector: {text}"):
            call()
