"""DGCCA: two views, closed forms, Benton's gradient and problem, published data."""

import numpy as np
import pytest
import torch
from numpy.testing import assert_allclose
from sklearn.datasets import load_digits
from sklearn.linear_model import LogisticRegression
from torch import nn

import xmodal_losses as xl
import xmodal_losses.functional as F
from counting import Work
from published import digits
from reference.dcca import canonical_correlations
from view_specs import VIEWS_BY_NAME, ViewCase, to_torch, value_and_grad

SPEC = VIEWS_BY_NAME["dgcca"]


@pytest.mark.parametrize("k", range(1, 8))
def test_two_views_have_one_plus_and_minus_their_correlations(k):
    views = SPEC.draw(ViewCase(rows=15, dims=(3, 4)), 1)["views"]
    rho = canonical_correlations(*views, np.ones(15))
    expected = np.sort(np.concatenate([1 + rho, 1 - rho, [1.0]]))[::-1]
    tensors = to_torch({"views": views}, grad=False)["views"]
    value = F.dgcca(tensors, num_components=k, ridge=0.0)
    assert_allclose(value, -expected[:k].sum(), rtol=1e-11)
    if k <= 3:
        dcca = F.dcca(*tensors, num_components=k, ridge=0.0)
        assert_allclose(value, dcca - k, rtol=1e-11)


def test_two_views_have_the_gradient_of_dcca():
    inputs = SPEC.draw(ViewCase(rows=15, dims=(3, 3)), 2)
    _, *grads = value_and_grad(SPEC, inputs, num_components=2, ridge=0.0)
    views = to_torch(inputs)["views"]
    F.dcca(*views, num_components=2, ridge=0.0).backward()
    for grad, z in zip(grads, views, strict=True):
        assert_allclose(grad, z.grad, rtol=1e-9, atol=1e-12)


@pytest.mark.parametrize("k", [10, 30])
def test_digits_in_two_halves(k):
    """The correlations of linear CCA, and 1 for each."""
    rho = canonical_correlations(*(z.numpy() for z in digits()), np.ones(1797))
    assert_allclose(rho.sum(), 9.384309, atol=1e-6)
    value = F.dgcca(digits(), num_components=k, ridge=0.0)
    assert_allclose(value, -k - rho[:k].sum(), rtol=1e-9)


@pytest.mark.parametrize("masked", [False, True])
@pytest.mark.parametrize("ridge", [0.0, 0.1])
def test_digits_in_three_strips(ridge, masked):
    """Beside the N x N sum of projections, from singular vectors of the strips."""
    images = load_digits().images[:500]
    strips = (images[:, :3], images[:, 3:5], images[:, 5:])
    inputs = {"views": [strip.reshape(500, -1) for strip in strips]}
    if masked:
        inputs["mask"] = np.random.default_rng(0).random((3, 500)) < 0.8
    options = {"num_components": 10, "ridge": ridge}
    value = SPEC(to_torch(inputs, grad=False), **options)
    assert_allclose(value, SPEC.expected(inputs, **options), rtol=1e-9)


@pytest.mark.parametrize("count", [2, 3, 5])
def test_linear_copies_agree_in_everything(count):
    rng = np.random.default_rng(3)
    z = rng.normal(size=(20, 3))
    views = [
        torch.tensor(z @ (rng.normal(size=(3, 3)) + 3 * np.eye(3)) - j)
        for j in range(count)
    ]
    for k in (1, 3):
        value = F.dgcca(views, num_components=k, ridge=0.0)
        assert_allclose(value, -count * k, rtol=1e-10)
    assert_allclose(F.dgcca(views, num_components=6, ridge=0.0), -3 * count, rtol=1e-8)


def test_rotated_copies_with_a_ridge():
    """Eigenvalues V c/(c + r) of the covariance's c; relative: r times their mean."""
    rng = np.random.default_rng(4)
    z = rng.normal(size=(20, 3)) * [1.0, 2.0, 0.5]
    views = [
        torch.tensor(z @ np.linalg.qr(rng.normal(size=(3, 3)))[0]) for _ in range(3)
    ]
    c = np.linalg.eigvalsh(np.cov(z.T))[::-1]
    for scale, r in (("absolute", 0.7), ("relative", 0.7 * c.mean())):
        options = {"ridge": 0.7, "ridge_scale": scale, "num_components": 2}
        expected = -3 * (c / (c + r))[:2].sum()
        assert_allclose(F.dgcca(views, **options), expected, rtol=1e-11)


def test_a_relative_ridge_does_not_see_the_scale_of_a_view():
    views = to_torch(SPEC.draw(ViewCase(), 5), grad=False)["views"]
    scaled = [s * z for s, z in zip((1e-3, 1.0, 40.0), views, strict=True)]
    for scale, same in (("relative", True), ("absolute", False)):
        options = {"ridge": 0.1, "ridge_scale": scale, "num_components": 2}
        values = [float(F.dgcca(z, **options)) for z in (views, scaled)]
        assert np.isclose(*values, rtol=1e-10) == same


@pytest.mark.parametrize("scale", ["absolute", "relative"])
def test_views_without_full_rank_and_without_a_ridge(scale):
    """Directions in which no view varies count for nothing, and are not pushed."""
    rng = np.random.default_rng(13)
    shared = rng.normal(size=(40, 3))
    views = [
        (shared + rng.normal(size=(40, 3))) @ rng.normal(size=(3, 6)) for _ in range(3)
    ]
    for k in (1, 3, 9, 12, 18):  # from 9 on these are the ranks of the views
        options = {"num_components": k, "ridge": 0.0, "ridge_scale": scale}
        value, *grads = value_and_grad(SPEC, {"views": views}, **options)
        assert_allclose(value, SPEC.expected({"views": views}, **options), rtol=1e-6)
        if k >= 9:
            assert all(grad.abs().max() < 1e-5 for grad in grads)


@pytest.mark.parametrize("scale", ["absolute", "relative"])
@pytest.mark.parametrize("k", [1, 2, 4])
def test_gradient_where_eigenvalues_repeat(k, scale):
    """Four equal ones: of all four exact; of fewer one of the subgradients.

    Along any direction it is then between the slopes on either side.
    """
    q = torch.linalg.qr(torch.randn(16, 4, dtype=torch.float64)).Q
    q = torch.linalg.qr(q - q.mean(0)).Q * 15**0.5
    inputs = {"views": [q.numpy()] * 3}
    options = {"num_components": k, "ridge": 0.1, "ridge_scale": scale}
    _, *grads = value_and_grad(SPEC, inputs, **options)
    rng = np.random.default_rng(14)
    for _ in range(10):
        along = [rng.normal(size=(16, 4)) for _ in range(3)]
        slope = sum((g.numpy() * a).sum() for g, a in zip(grads, along, strict=True))
        before, here, after = (
            SPEC.expected({"views": [q.numpy() + step * a for a in along]}, **options)
            for step in (-1e-6, 0.0, 1e-6)
        )
        left, right = (here - before) / 1e-6, (after - here) / 1e-6
        assert right - 1e-4 < slope < left + 1e-4
        assert (left - right < 1e-4) == (k == 4)


def test_gradient_and_problem_of_the_paper():
    """∂Σλ/∂Z_j = 2GU_jᵀ − 2Z_jU_jU_jᵀ, and Σ‖G − Z_jU_j‖² = VK − Σλ."""
    inputs = SPEC.draw(ViewCase(rows=14), 6)
    _, *grads = value_and_grad(SPEC, inputs, num_components=2, ridge=0.0)
    views = [z - z.mean(0) for z in inputs["views"]]
    whole = sum(z @ np.linalg.pinv(z) for z in views)
    values, vectors = np.linalg.eigh(whole)
    g = vectors[:, -2:]
    residual = 0.0
    for z, grad in zip(views, grads, strict=True):
        u = np.linalg.pinv(z) @ g
        assert_allclose(grad, -2 * g @ u.T + 2 * z @ u @ u.T, atol=1e-11)
        residual += ((g - z @ u) ** 2).sum()
    assert_allclose(residual, 3 * 2 - values[-2:].sum(), rtol=1e-11)


def test_more_components_and_smaller_ridges_lower_it():
    views = to_torch(SPEC.draw(ViewCase(), 7), grad=False)["views"]
    by_k = [float(F.dgcca(views, num_components=k)) for k in range(1, 10)]
    assert by_k == sorted(by_k, reverse=True)
    ridges = [0.0, 1e-3, 0.1, 1.0]
    by_r = [float(F.dgcca(views, num_components=2, ridge=r)) for r in ridges]
    assert by_r == sorted(by_r)


def test_rows_of_one_view_alone_say_nothing_in_common():
    """Views that never have the same row: every eigenvalue is 1, and no gradient."""
    inputs = SPEC.draw(ViewCase(rows=16, dims=(2, 2)), 8)
    there = np.arange(16) < 8
    inputs["mask"] = np.stack([there, ~there])
    value, *grads = value_and_grad(SPEC, inputs, num_components=2, ridge=0.0)
    assert_allclose(value, -2, rtol=1e-12)
    assert all(grad.abs().max() < 1e-12 for grad in grads)


def test_a_row_that_one_view_lacks_moves_the_others_means():
    """The gradient of a view without rows missing is not about 0 there, and right."""
    inputs = SPEC.draw(ViewCase(rows=10, masked=True), 9)
    inputs["mask"][1:] = True
    _, *grads = value_and_grad(SPEC, inputs)
    for grad in grads:  # shifts of a view change nothing, whoever lacks a row
        assert_allclose(grad.sum(0), 0, atol=1e-12)


@pytest.mark.parametrize("n", [300, 3000])
def test_nothing_is_n_by_n(n):
    """The largest tensor is the views and their weights, side by side."""
    inputs = SPEC.draw(ViewCase(rows=n), 10)
    with Work() as count:
        value_and_grad(SPEC, inputs)
    assert count.largest <= 12 * n


@pytest.mark.parametrize("grad", [True, False])
def test_decompositions(grad):
    """Batched: a Cholesky factor for each view, one eigenproblem, none backward."""
    tensors = to_torch(SPEC.draw(ViewCase(lead=(5,)), 11), grad=grad)
    with Work() as forward:
        value = SPEC(tensors)
    assert len(forward.of("linalg_eig", "svd", "linalg_qr")) == 1
    assert len(forward.of("cholesky")) == 3
    if grad:
        with Work() as backward:
            value.backward()
        assert not backward.of("linalg_eig", "svd", "linalg_qr", "cholesky")


def test_compute_dtype():
    inputs = SPEC.draw(ViewCase(rows=24), 12)
    expected, *references = value_and_grad(SPEC, inputs, torch.float32)
    options = {"compute_dtype": torch.float32}
    value, *grads = value_and_grad(SPEC, inputs, torch.float32, **options)
    assert float(value) != float(expected)
    assert_allclose(value, expected, rtol=1e-5)
    for grad, reference in zip(grads, references, strict=True):
        assert_allclose(grad, reference, rtol=1e-3, atol=1e-5)


def test_components_are_bounded_by_all_widths():
    views = [torch.randn(8, d) for d in (2, 3)]
    message = r"^dgcca: num_components must be in \[1, ΣD_j\] = \[1, 5\], got 6"
    with pytest.raises(ValueError, match=message):
        F.dgcca(views, num_components=6)


def _circles_and_parabolas(seed):
    """Draw the three views of the paper's synthetic experiment: two classes of 200.

    1: on circles of radius 1 and 2. 2: on parabolas 2x² and 1 + x²/2. 3: on a circle
    of radius 2, and a Gaussian within it.
    """
    rng = np.random.default_rng(seed)
    label = np.repeat([0, 1], 200)

    def circle():
        angle = rng.uniform(0, 2 * np.pi, 400)
        return np.stack([np.cos(angle), np.sin(angle)], 1)

    def noise():
        return 0.1 * rng.normal(size=(400, 2))

    x = rng.uniform(-3, 3, 400)
    y = np.where(label == 0, 2 * x**2, 1 + 0.5 * x**2)
    third = np.where(
        label[:, None] == 0, 2 * circle() + noise(), rng.normal(size=(400, 2))
    )
    first = (1 + label)[:, None] * circle() + noise()
    return [first, np.stack([x, y], 1) + noise(), third], label


def _separable(views, label):
    """Return how many points a line tells apart by what the views have in common."""
    views = [z - z.mean(0) for z in views]
    whole = sum(z @ np.linalg.pinv(z) for z in views)
    g = np.linalg.eigh(whole)[1][:, -2:]
    return LogisticRegression(C=1e4).fit(g, label).score(g, label)


def test_published_views_are_separable_after_deep_but_not_linear_gcca():
    """Sec. 4.1 of the paper, with its network, ridge and batch (all 400 rows)."""
    data, label = _circles_and_parabolas(0)
    assert _separable(data, label) < 0.75

    torch.manual_seed(0)
    networks = nn.ModuleList(
        nn.Sequential(
            nn.Linear(2, 10),
            nn.ReLU(),
            nn.Linear(10, 10),
            nn.ReLU(),
            nn.Linear(10, 10),
            nn.ReLU(),
            nn.Linear(10, 2),
        )
        for _ in data
    )
    criterion = xl.DGCCALoss(num_components=2, ridge=0.01)
    optimizer = torch.optim.Adam(networks.parameters(), lr=0.01)
    inputs = [torch.tensor(z, dtype=torch.float32) for z in data]
    for _ in range(200):
        loss = criterion([f(x) for f, x in zip(networks, inputs, strict=True)])
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    with torch.no_grad():
        outputs = [f(x).numpy() for f, x in zip(networks, inputs, strict=True)]
    assert _separable(outputs, label) > 0.9
