"""DCCA: published correlations, closed forms, the gradient of the paper, ridges."""

import numpy as np
import pytest
import scipy.linalg
import torch
from numpy.testing import assert_allclose

import xmodal_losses.functional as F
from counting import Work
from harness import Case, to_torch, value_and_grad
from published import CORRELATIONS, digits
from reference.dcca import canonical_correlations
from specs import BY_NAME
from tolerances import SAME
from xmodal_losses._core.moments import products

SPEC = BY_NAME["dcca"]


@pytest.mark.parametrize("data", CORRELATIONS)
def test_published_correlations(data):
    z_a, z_b = data()
    rho = np.array(CORRELATIONS[data])
    options = {"ridge": 0.0}
    for k in range(1, len(rho) + 1):
        value = F.dcca(z_a, z_b, num_components=k, **options)
        assert_allclose(value, -rho[:k].sum(), atol=1e-6)
        value = F.dcca(z_a, z_b, num_components=k, objective="frobenius", **options)
        assert_allclose(value, -(rho[:k] ** 2).sum(), atol=2e-6)
    assert_allclose(F.dcca(z_a, z_b, **options), -rho.sum(), atol=2e-6)
    value = F.dcca(z_a, z_b, objective="frobenius", **options)
    assert_allclose(value, -(rho**2).sum(), atol=2e-6)


@pytest.mark.parametrize("lead", [(), (3,)])
@pytest.mark.parametrize("dim", [1, 2, 5])
def test_linear_copies_are_perfectly_correlated(dim, lead):
    """z_b = z_a M + shift with M invertible: every correlation is 1 at ridge 0."""
    generator = torch.Generator().manual_seed(0)
    z = torch.randn(*lead, 20, dim, dtype=torch.float64, generator=generator)
    mixing = torch.randn(dim, dim, dtype=torch.float64, generator=generator)
    mixing += 3 * torch.eye(dim)
    for objective in ("trace", "frobenius"):
        value = F.dcca(z, z @ mixing - 4, ridge=0.0, objective=objective)
        assert_allclose(value, -dim, rtol=1e-10)


def test_rotated_copies_with_a_ridge():
    """C_a = C_b = C up to a rotation: ρ_i = λ_i/(λ_i + r)."""
    rng = np.random.default_rng(1)
    z = rng.normal(size=(20, 4)) * [1.0, 2.0, 3.0, 0.5]
    rotation = np.linalg.qr(rng.normal(size=(4, 4)))[0]
    eigenvalues = np.linalg.eigvalsh(np.cov(z.T))[::-1]
    rho = eigenvalues / (eigenvalues + 0.7)
    views = torch.tensor(z), torch.tensor(z @ rotation + 1)
    assert_allclose(F.dcca(*views, ridge=0.7), -rho.sum(), rtol=1e-11)
    for k in (1, 2, 3, 4):
        value = F.dcca(*views, ridge=0.7, num_components=k)
        assert_allclose(value, -rho[:k].sum(), rtol=1e-11)
        value = F.dcca(*views, ridge=0.7, num_components=k, objective="frobenius")
        assert_allclose(value, -(rho[:k] ** 2).sum(), rtol=1e-11)


def test_one_dimension_is_the_correlation_coefficient():
    inputs = SPEC.draw(Case(rows=(12, 12), dims=(1, 1)))
    r = np.corrcoef(inputs["z_a"][:, 0], inputs["z_b"][:, 0])[0, 1]
    tensors = to_torch(inputs, grad=False)
    assert_allclose(SPEC(tensors, ridge=0.0), -abs(r), rtol=1e-12)
    value = SPEC(tensors, ridge=0.0, objective="frobenius")
    assert_allclose(value, -(r**2), rtol=1e-12)


def test_uncorrelated_views():
    q = torch.linalg.qr(torch.randn(12, 5, dtype=torch.float64) + 1)[0]
    q = torch.linalg.qr(q - q.mean(0))[0]
    value = F.dcca(q[:, :2], q[:, 2:], ridge=0.0)
    assert_allclose(value, 0, atol=1e-12)


def test_too_few_rows_are_always_correlated():
    """D_a + D_b > N - 1: D_a + D_b - (N - 1) correlations are 1 whatever the data."""
    inputs = SPEC.draw(Case(rows=(8, 8), dims=(5, 5)), noise=50.0)
    value = SPEC(to_torch(inputs, grad=False), ridge=0.0, num_components=3)
    assert_allclose(value, -3, rtol=1e-9)


@pytest.mark.parametrize("ridge", [1e-4, 0.5])
def test_generalised_eigenproblem(ridge):
    """A third route: eigenvalues of ([0 S_ab; S_ba 0], diag(S_aa + r, S_bb + r))."""
    inputs = SPEC.draw(Case(rows=(15, 15), dims=(4, 3)))
    joint = np.cov(inputs["z_a"].T, inputs["z_b"].T)
    cross = joint.copy()
    cross[:4, :4] = cross[4:, 4:] = 0
    within = joint - cross + ridge * np.eye(7)
    rho = scipy.linalg.eigh(cross, within, eigvals_only=True)[::-1][:3]
    value = SPEC(to_torch(inputs, grad=False), ridge=ridge)
    assert_allclose(value, -rho.sum(), rtol=1e-10)


@pytest.mark.parametrize("num_components", [None, 1, 2])
def test_gradient_of_the_paper(num_components):
    """Eq. 11-13 with symmetric inverse roots, truncated to the top components."""
    inputs = SPEC.draw(Case(rows=(12, 12), dims=(4, 3)))
    _, *grads = value_and_grad(SPEC, inputs, ridge=0.1, num_components=num_components)
    a, b = (inputs[n] - inputs[n].mean(0) for n in ("z_a", "z_b"))
    root_a, root_b = (
        scipy.linalg.fractional_matrix_power(
            z.T @ z / 11 + 0.1 * np.eye(z.shape[1]), -0.5
        )
        for z in (a, b)
    )
    u, d, vt = np.linalg.svd(root_a @ (a.T @ b / 11) @ root_b, full_matrices=False)
    k = num_components or 3
    u, d, vt = u[:, :k], d[:k], vt[:k]
    across = root_a @ u @ vt @ root_b
    within_a = -0.5 * root_a @ u @ np.diag(d) @ u.T @ root_a
    within_b = -0.5 * root_b @ vt.T @ np.diag(d) @ vt @ root_b
    assert_allclose(grads[0], -(2 * a @ within_a + b @ across.T) / 11, rtol=1e-8)
    assert_allclose(grads[1], -(2 * b @ within_b + a @ across) / 11, rtol=1e-8)


@pytest.mark.parametrize("seed", range(5))
def test_objectives_and_components_are_ordered(seed):
    """0 ≥ -Σρ² ≥ -Σρ; each further component and each smaller ridge lowers both."""
    tensors = to_torch(SPEC.draw(Case(rows=(12, 12)), seed), grad=False)
    trace = [float(SPEC(tensors, num_components=k)) for k in (1, 2, 3, 4)]
    squares = [
        float(SPEC(tensors, num_components=k, objective="frobenius"))
        for k in (1, 2, 3, 4)
    ]
    assert all(0 > f > t for f, t in zip(squares, trace, strict=True))
    assert trace == sorted(trace, reverse=True)
    assert squares == sorted(squares, reverse=True)
    assert_allclose(trace[-1], SPEC(tensors), rtol=1e-12)
    assert_allclose(squares[-1], SPEC(tensors, objective="frobenius"), rtol=1e-12)
    ridged = [float(SPEC(tensors, ridge=r)) for r in (0.0, 1e-3, 0.1, 1.0)]
    assert ridged == sorted(ridged)


def test_invertible_maps_change_nothing_without_a_ridge():
    inputs = SPEC.draw(Case(rows=(12, 12), dims=(3, 3)))
    rng = np.random.default_rng(2)
    mapped = {
        name: z @ (rng.normal(size=(3, 3)) + 2 * np.eye(3)) + rng.normal(size=3)
        for name, z in inputs.items()
    }
    value = SPEC(to_torch(inputs, grad=False), ridge=0.0)
    assert_allclose(SPEC(to_torch(mapped, grad=False), ridge=0.0), value, rtol=1e-9)


@pytest.mark.parametrize("objective", ["trace", "frobenius"])
def test_small_columns_count_like_others_without_a_ridge(objective):
    """What keeps Cholesky's factor definite would cost 1e-5 of this one's share."""
    inputs = SPEC.draw(Case(rows=(12, 12), dims=(3, 3)))
    options = {"ridge": 0.0, "objective": objective}
    value = SPEC(to_torch(inputs, grad=False), **options)
    inputs["z_a"] = inputs["z_a"] * [1.0, 1e-5, 1.0]
    other = SPEC(to_torch(inputs, grad=False), **options)
    assert_allclose(other, value, rtol=2e-7)


@pytest.mark.parametrize("objective", ["trace", "frobenius"])
@pytest.mark.parametrize("components", [None, 2])
def test_a_relative_ridge_does_not_see_the_scale(objective, components):
    """Of rows scaled by c the gradient is 1/c of it, and along the rows it is 0."""
    inputs = SPEC.draw(Case(rows=(12, 12), dims=(4, 3)))
    options = {"objective": objective, "num_components": components, "ridge": 0.3}
    relative = options | {"ridge_scale": "relative"}
    value, *grads = value_and_grad(SPEC, inputs, **relative)
    for name, grad in zip(("z_a", "z_b"), grads, strict=True):
        assert abs((grad * torch.tensor(inputs[name])).sum()) < 1e-12
    scaled = {"z_a": 1e-3 * inputs["z_a"], "z_b": 40 * inputs["z_b"]}
    other, *others = value_and_grad(SPEC, scaled, **relative)
    assert_allclose(other, value, rtol=1e-10)
    assert_allclose(1e-3 * others[0], grads[0], rtol=1e-8, atol=1e-12)
    assert_allclose(40 * others[1], grads[1], rtol=1e-8, atol=1e-12)
    assert SPEC(to_torch(scaled), **options) > 0.9 * SPEC(to_torch(inputs), **options)

    # An absolute one of the same size is the same.
    variance = np.trace(np.cov(inputs["z_a"].T)) / 4
    inputs["z_b"] = inputs["z_b"] / np.sqrt(np.trace(np.cov(inputs["z_b"].T)) / 3)
    inputs["z_a"] = inputs["z_a"] / np.sqrt(variance)
    same = [SPEC(to_torch(inputs, grad=False), **o) for o in (options, relative)]
    assert_allclose(*same, rtol=1e-12)


def test_weights_are_analytic_weights():
    inputs = SPEC.draw(Case(rows=(12, 12), dims=(3, 3), weighted=True))
    joint = np.cov(inputs["z_a"].T, inputs["z_b"].T, aweights=inputs["weight"])
    s_aa, s_ab, s_bb = joint[:3, :3], joint[:3, 3:], joint[3:, 3:]
    squares = np.trace(
        np.linalg.solve(s_aa + 0.1 * np.eye(3), s_ab)
        @ np.linalg.solve(s_bb + 0.1 * np.eye(3), s_ab.T)
    )
    value = SPEC(to_torch(inputs, grad=False), ridge=0.1, objective="frobenius")
    assert_allclose(value, -squares, rtol=1e-11)


@pytest.mark.parametrize("objective", ["trace", "frobenius"])
def test_float32_inputs_are_decomposed_in_float64(objective):
    """fp32 covariances lose 2000 % of this gradient (N < D, small ridge)."""
    inputs = SPEC.draw(Case(rows=(12, 12), dims=(32, 32)))
    inputs = {n: z.astype(np.float32).astype(float) for n, z in inputs.items()}
    options = {"objective": objective}
    truth, *true_grads = value_and_grad(SPEC, inputs, **options)
    value, *grads = value_and_grad(SPEC, inputs, torch.float32, **options)
    assert value.dtype == torch.float32
    assert_allclose(value, truth, rtol=1e-6)
    for grad, true_grad in zip(grads, true_grads, strict=True):
        assert (grad - true_grad).norm() < 1e-5 * true_grad.norm()


@pytest.mark.parametrize("ridge", [1e-3, 1e-5])
@pytest.mark.parametrize("shape", [(256, 16), (12, 32)], ids=str)
def test_float32_inputs_that_are_ill_conditioned(shape, ridge):
    """Deviations from 1 to 1e-4 along some axes; N < D. Only the last product of the
    gradient is in float32, and costs no digit."""
    rows, dim = shape
    inputs = SPEC.draw(Case(rows=(rows, rows), dims=(dim, dim)))
    rng = np.random.default_rng(3)
    for name, z in inputs.items():
        rotation = np.linalg.qr(rng.normal(size=(dim, dim)))[0]
        inputs[name] = (z * np.logspace(0, -4, dim)) @ rotation + 1
    inputs = {n: z.astype(np.float32).astype(float) for n, z in inputs.items()}
    for options in ({}, {"num_components": 3}, {"objective": "frobenius"}):
        truth, *true_grads = value_and_grad(SPEC, inputs, ridge=ridge, **options)
        value, *grads = value_and_grad(
            SPEC, inputs, torch.float32, ridge=ridge, **options
        )
        assert_allclose(value, truth, rtol=1e-6)
        for grad, true_grad in zip(grads, true_grads, strict=True):
            assert (grad - true_grad).norm() < 1e-6 * true_grad.norm()


@pytest.mark.parametrize("weighted", [False, True])
def test_more_rows_than_are_widened_at_a_time(weighted, monkeypatch):
    inputs = SPEC.draw(Case({}, (11, 11), (3, 2), (2,), weighted))
    for options in ({}, {"num_components": 1}, {"objective": "frobenius"}):
        expected = value_and_grad(SPEC, inputs, **options)
        with monkeypatch.context() as patch:
            patch.setattr(products, "_ROWS", 4)
            for got, one_block in zip(
                value_and_grad(SPEC, inputs, **options), expected, strict=True
            ):
                assert_allclose(got, one_block, **SAME)


@pytest.mark.parametrize(
    ("options", "decompositions"),
    [({}, 1), ({"num_components": 2}, 1), ({"objective": "frobenius"}, 0)],
)
def test_decompositions(options, decompositions):
    """Batched, at most one SVD forward, none backward."""
    tensors = to_torch(SPEC.draw(Case(rows=(9, 9), dims=(4, 3), lead=(5,))))
    with Work() as forward:
        value = SPEC(tensors, **options)
    with Work() as backward:
        value.backward()
    kinds = ("svd", "eig", "qr", "lu_")
    assert len(forward.of(*kinds)) == decompositions
    assert len(forward.of("cholesky")) == 2
    assert not backward.of(*kinds, "cholesky")


@pytest.mark.parametrize("kind", ["constant", "zero", "repeated", "dependent"])
@pytest.mark.parametrize("objective", ["trace", "frobenius"])
def test_dependent_columns_without_a_ridge(kind, objective):
    """They span what the others span: the correlations are those without them."""
    inputs = SPEC.draw(Case(rows=(20, 20), dims=(4, 3)))
    z = inputs["z_a"]
    z[:, 2] = {
        "constant": 0.7,
        "zero": 0.0,
        "repeated": z[:, 0],
        "dependent": z[:, 0] - 2 * z[:, 3] + 5,
    }[kind]
    options = {"ridge": 0.0, "objective": objective}
    value, *grads = value_and_grad(SPEC, inputs, **options)
    without = inputs | {"z_a": np.delete(z, 2, 1)}
    assert_allclose(value, SPEC.expected(without, **options), rtol=1e-6)
    assert all(grad.isfinite().all() for grad in grads)


@pytest.mark.parametrize("scale", ["absolute", "relative"])
@pytest.mark.parametrize(("n", "d", "rank"), [(40, 6, 3), (200, 64, 16), (60, 30, 20)])
def test_both_without_full_rank_and_without_a_ridge(n, d, rank, scale):
    """What is left of rounding in both counts for nothing: no correlation, no slope."""
    rng = np.random.default_rng(5)
    basis = rng.normal(size=(2, n, rank))
    basis[1] += basis[0]
    mixing = rng.normal(size=(2, rank, d))
    z_a, z_b = (z @ m + 1 for z, m in zip(basis, mixing, strict=True))
    for options in (
        {},
        {"num_components": 2},
        {"num_components": rank + 2},
        {"objective": "frobenius"},
        {"objective": "frobenius", "num_components": rank + 2},
    ):
        some = options | {"ridge": 0.0, "ridge_scale": scale}
        inputs = {"z_a": z_a, "z_b": z_b}
        value, *grads = value_and_grad(SPEC, inputs, **some)
        few = some | {"num_components": min(options.get("num_components", rank), rank)}
        expected, *own = value_and_grad(SPEC, {"z_a": basis[0], "z_b": basis[1]}, **few)
        assert_allclose(value, expected, rtol=1e-6)
        for grad, reference, m in zip(grads, own, mixing, strict=True):
            # Along the rows' own space; and across it, where nothing is.
            grad = grad.numpy()
            assert_allclose(grad @ m.T, reference, rtol=1e-6, atol=1e-7)
            across = grad - grad @ np.linalg.pinv(m) @ m
            assert np.linalg.norm(across) < 1e-3 * np.linalg.norm(grad) + 1e-6


def test_compute_dtype():
    inputs = SPEC.draw(Case(rows=(24, 24)))
    expected, *references = value_and_grad(SPEC, inputs, torch.float32)
    options = {"compute_dtype": torch.float32}
    value, *grads = value_and_grad(SPEC, inputs, torch.float32, **options)
    assert value.dtype == torch.float32
    assert float(value) != float(expected)
    assert_allclose(value, expected, rtol=1e-4)
    for grad, reference in zip(grads, references, strict=True):
        assert_allclose(grad, reference, rtol=1e-2, atol=1e-4)


@pytest.mark.parametrize(
    "options", [{}, {"num_components": 2}, {"ridge": 0.0}], ids=str
)
@pytest.mark.parametrize("to", [0.0, 0.3])
def test_a_modality_that_has_collapsed_gets_no_gradient(to, options):
    """Nor does the other one: the kink of the trace norm could push either."""
    inputs = SPEC.draw(Case(rows=(12, 12), dims=(4, 3)))
    inputs["z_a"][:] = to
    value, *grads = value_and_grad(SPEC, inputs, **options)
    assert value == 0
    assert all((grad == 0).all() for grad in grads)


def test_a_correlation_of_zero_gets_no_gradient():
    """One column of a belongs to nothing in b, exactly."""
    q = torch.linalg.qr(torch.eye(8, dtype=torch.float64)[:, :4] - 1 / 8).Q
    inputs = {"z_a": q[:, :2].numpy(), "z_b": q[:, [0, 2]].numpy()}
    value, grad, _ = value_and_grad(SPEC, inputs, ridge=0.1)
    _, expected, _ = value_and_grad(SPEC, inputs, ridge=0.1, num_components=1)
    assert value < 0
    assert_allclose(grad, expected, atol=1e-12)
    assert_allclose(grad[:, 1], 0, atol=1e-12)


@pytest.mark.parametrize("objective", ["trace", "frobenius"])
def test_tied_correlations(objective):
    """Equal singular values: the gradient is that of the sum, hence well defined."""
    z = torch.linalg.qr(torch.randn(16, 4, dtype=torch.float64))[0]
    z = torch.linalg.qr(z - z.mean(0))[0] * 15**0.5
    inputs = {"z_a": z.numpy(), "z_b": -z.numpy()}
    options = {"ridge": 0.5, "objective": objective}
    value, *grads = value_and_grad(SPEC, inputs, **options)
    assert_allclose(value, SPEC.expected(inputs, **options), rtol=1e-10)
    expected = SPEC.gradient(
        lambda a, b: SPEC.reference(a, b, **options), list(inputs.values())
    )
    for grad, reference in zip(grads, expected, strict=True):
        assert_allclose(grad, reference, **SPEC.gradient_tolerance)


@pytest.mark.parametrize("k", [None, 10])
def test_digits(k):
    """Left and right halves, beside the angles between the spaces of their pixels."""
    z_a, z_b = digits()
    rho = canonical_correlations(z_a.numpy(), z_b.numpy(), np.ones(len(z_a)))
    assert_allclose(rho.sum(), 9.384309, atol=1e-6)
    options = {"num_components": k, "ridge": 0.0}
    assert_allclose(F.dcca(z_a, z_b, **options), -rho[:k].sum(), rtol=1e-9)
    value = F.dcca(z_a, z_b, objective="frobenius", **options)
    assert_allclose(value, -(rho[:k] ** 2).sum(), rtol=1e-9)


def test_reference_agrees_with_the_published_correlations():
    for data, rho in CORRELATIONS.items():
        z_a, z_b = (z.numpy() for z in data())
        actual = canonical_correlations(z_a, z_b, np.ones(len(z_a)))
        assert_allclose(actual, rho, atol=5e-7)


def test_swapping_the_views():
    inputs = SPEC.draw(Case(rows=(12, 12), dims=(4, 2)))
    swapped = {"z_a": inputs["z_b"], "z_b": inputs["z_a"]}
    value, grad_a, grad_b = value_and_grad(SPEC, inputs)
    same, swapped_b, swapped_a = value_and_grad(SPEC, swapped)
    assert_allclose(same, value, **SAME)
    assert_allclose(swapped_a, grad_a, rtol=1e-9, atol=1e-12)
    assert_allclose(swapped_b, grad_b, rtol=1e-9, atol=1e-12)


def test_reference_agrees_with_scipy_subspace_angles():
    inputs = SPEC.draw(Case(rows=(12, 12), dims=(4, 3)))
    a, b = (inputs[n] - inputs[n].mean(0) for n in ("z_a", "z_b"))
    cosines = np.cos(scipy.linalg.subspace_angles(a, b))[::-1]
    actual = canonical_correlations(inputs["z_a"], inputs["z_b"], np.ones(12))
    assert_allclose(actual, np.sort(cosines)[::-1], rtol=1e-7)
