"""Eckart-Young: its minimum, its relation to CCA, and the unbiased estimator."""

from itertools import product

import numpy as np
import pytest
import scipy.linalg
import torch
from numpy.testing import assert_allclose
from torch.autograd import gradcheck

import xmodal_losses as xl
import xmodal_losses.functional as F
from counting import Work
from published import digits
from reference.dcca import canonical_correlations
from reference.eckart_young import eckart_young
from reference.gradient import complex_step
from tolerances import GRADIENT, SAME, VALUE
from view_specs import VIEWS_BY_NAME, ViewCase, to_torch, value_and_grad

SPEC = VIEWS_BY_NAME["eckart_young"]
UNBIASED = {"estimator": "unbiased"}


def _minimiser(views, k):
    """Return the top generalised eigenvalues, and the components that attain them."""
    joint = np.cov(np.hstack(views).T)
    widths = np.cumsum([z.shape[1] for z in views])[:-1]
    within = scipy.linalg.block_diag(*[np.cov(z.T) for z in views])
    values, vectors = scipy.linalg.eigh(joint - within, within)
    values, vectors = (
        values[::-1][:k],
        vectors[:, ::-1][:, :k] * values[::-1][:k] ** 0.5,
    )
    parts = np.split(vectors, widths)
    return values, [z @ u for z, u in zip(views, parts, strict=True)]


@pytest.mark.parametrize("dims", [(3, 4), (3, 2, 4)], ids=str)
@pytest.mark.parametrize("k", [1, 2])
def test_its_minimum_over_linear_maps_is_minus_squared_eigenvalues(dims, k):
    views = SPEC.draw(ViewCase(rows=15, dims=dims), 1)["views"]
    values, outputs = _minimiser(views, k)
    value, *grads = value_and_grad(SPEC, {"views": outputs})
    assert_allclose(value, -(values**2).sum(), rtol=1e-10)
    for z, grad in zip(views, grads, strict=True):  # in the maps
        assert_allclose((z - z.mean(0)).T @ grad.numpy(), 0, atol=1e-9)
    if len(dims) == 2:
        rho = canonical_correlations(*views, np.ones(15))[:k]
        assert_allclose(value, -(rho**2).sum(), rtol=1e-10)
    rng = np.random.default_rng(2)
    turn = np.linalg.qr(rng.normal(size=(k, k)))[0]
    turned = to_torch({"views": [z @ turn for z in outputs]}, grad=False)
    assert_allclose(SPEC(turned), value, rtol=1e-10)
    for _ in range(5):  # whatever else is larger
        other = [z + 0.1 * rng.normal(size=z.shape) for z in outputs]
        linear = [
            x @ np.linalg.lstsq(x, z - z.mean(0), rcond=None)[0]
            for x, z in zip([x - x.mean(0) for x in views], other, strict=True)
        ]
        assert SPEC(to_torch({"views": linear}, grad=False)) > value


def test_digits():
    """Left and right halves: the minimum is minus the squares of linear CCA.

    Its components have variance 1, and are given ρ in both views together.
    """
    z_a, z_b = digits()
    projector = xl.CCAProjector(32, 32, num_components=30, ridge=0.0)
    projector.update(z_a, z_b)
    components = projector.fit()(z_a, z_b)
    views = [(projector.correlations / 2).sqrt() * z for z in components]
    assert_allclose(F.eckart_young(views), -4.890725, atol=1e-6)


@pytest.mark.parametrize("views", [2, 5])
def test_no_covariance_of_two_views_is_made(views):
    """The sum of all traces is ‖ΣX‖², so that work grows with V and not V²."""
    rows, columns = 40, 6
    z = [torch.randn(rows, columns, requires_grad=True) for _ in range(views)]
    with Work() as work:
        F.eckart_young(z).backward()
    # XᵀX of all rows, and back; the rest are sums.
    assert work.multiply_adds < 2.5 * views * rows * columns**2
    assert work.largest == views * rows * columns


def test_gradient_descent_finds_it():
    views = SPEC.draw(ViewCase(rows=40, dims=(3, 4)), 3)["views"]
    values, _ = _minimiser(views, 2)
    torch.manual_seed(0)
    maps = [torch.randn(d, 2, dtype=torch.float64, requires_grad=True) for d in (3, 4)]
    optimizer = torch.optim.LBFGS(maps, max_iter=200, line_search_fn="strong_wolfe")

    def closure():
        optimizer.zero_grad()
        loss = F.eckart_young(
            [torch.tensor(z) @ u for z, u in zip(views, maps, strict=True)]
        )
        loss.backward()
        return loss

    optimizer.step(closure)
    assert_allclose(closure().detach(), -(values**2).sum(), rtol=1e-5)


@pytest.mark.parametrize("lead", [(), (2,)], ids=str)
@pytest.mark.parametrize("dims", [(3, 3), (2, 2, 2)], ids=str)
@pytest.mark.parametrize("rows", [4, 7])
def test_unbiased_is_the_mean_over_four_rows(rows, dims, lead):
    inputs = SPEC.draw(ViewCase(rows=rows, dims=dims, lead=lead), 4)
    for reduction in ("none", "mean", "sum"):
        options = UNBIASED | {"reduction": reduction}
        expected = eckart_young(**inputs, **options)
        value = SPEC(to_torch(inputs), **options)
        assert_allclose(value.detach(), expected, **VALUE)
    tensors = to_torch(inputs)
    SPEC(tensors, **UNBIASED).backward()
    if rows == 4 and not lead:
        expected = complex_step(
            lambda *views: eckart_young_complex(views), inputs["views"]
        )
        for z, grad in zip(tensors["views"], expected, strict=True):
            assert_allclose(z.grad, grad, **GRADIENT)
    assert gradcheck(lambda *z: SPEC({"views": z}, **UNBIASED), tensors["views"])


def eckart_young_complex(views):
    """Return the loss of 4 rows without conjugates: pairs of pairs, written out."""

    def apart(n, m):
        return sum(np.outer(z[n] - z[m], z[n] - z[m]) for z in views) / 2

    energy = (
        sum(
            (apart(*one) * apart(*other)).sum()
            for one, other in (((0, 1), (2, 3)), ((0, 2), (1, 3)), ((0, 3), (1, 2)))
        )
        / 3
    )
    centred = [z - z.sum(0) / 4 for z in views]
    shared = sum(
        (x * y).sum() / 3
        for i, x in enumerate(centred)
        for j, y in enumerate(centred)
        if i != j
    )
    return energy - 2 * shared


def test_its_mean_over_all_batches_is_the_loss_of_all_data():
    """Every batch of 4 rows of a law of 3 points, 81 of them: exactly."""
    points = SPEC.draw(ViewCase(rows=3, dims=(2, 2)), 5)["views"]
    batches = np.array(list(product(range(3), repeat=4)))
    views = [torch.tensor(z[batches]) for z in points]
    covariance = np.cov(np.hstack(points).T, ddof=0)
    within = covariance[:2, :2] + covariance[2:, 2:]
    truth = (within**2).sum() - 4 * np.trace(covariance[:2, 2:])
    assert_allclose(F.eckart_young(views, **UNBIASED), truth, rtol=1e-10)
    assert F.eckart_young(views) > truth + 0.1


def test_unbiased_in_blocks_and_transformed(monkeypatch):
    inputs = SPEC.draw(ViewCase(rows=9, dims=(3, 3), lead=(2,)), 6)
    expected = value_and_grad(SPEC, inputs, **UNBIASED)
    views = to_torch(inputs)["views"]
    values = torch.func.vmap(lambda *z: F.eckart_young(z, **UNBIASED))(*views)
    assert_allclose(values.mean().detach(), expected[0], **SAME)
    torch._dynamo.reset()
    module = torch.compile(
        xl.EckartYoungLoss(**UNBIASED), fullgraph=True, backend="aot_eager"
    )
    module(views).backward()
    for z, grad in zip(views, expected[1:], strict=True):
        assert_allclose(z.grad, grad, rtol=1e-10, atol=1e-12)
    monkeypatch.setattr("xmodal_losses._core.moments.view_products.ROWS", 4)
    for one, other in zip(
        value_and_grad(SPEC, inputs, **UNBIASED), expected, strict=True
    ):
        assert_allclose(one, other, rtol=1e-11, atol=1e-12)


def test_unbiased_refuses_what_it_cannot_weigh():
    z = torch.randn(2, 6, 3)
    match = r"^eckart_young: (mask|weight) must be None for estimator='unbiased', got"
    for told in ({"weight": torch.ones(6)}, {"mask": torch.ones(2, 6).bool()}):
        with pytest.raises(ValueError, match=match):
            F.eckart_young(list(z), **UNBIASED, **told)
    with pytest.raises(ValueError, match=r"must have at least 4 rows, got"):
        F.eckart_young(list(z[:, :3]), **UNBIASED)
    with pytest.raises(ValueError, match=r"must have the same number of columns, got"):
        F.eckart_young([z[0], z[1, :, :2]])
    views = list(z.requires_grad_())
    value = F.eckart_young(views, **UNBIASED)
    first = torch.autograd.grad(value, z, create_graph=True)[0]
    with pytest.raises(RuntimeError, match="create_graph must be False"):
        first.sum().backward()
