"""CORAL: closed forms, numpy's covariance, the gradient of the paper."""

import numpy as np
import pytest
import scipy.linalg
import torch
from numpy.testing import assert_allclose
from torch.autograd import gradcheck

import xmodal_losses as xl
import xmodal_losses.functional as F
from harness import Case, map_views, to_torch, value_and_grad
from specs import BY_NAME
from tolerances import SAME, VALUE
from xmodal_losses._core import spectral

SPEC = BY_NAME["coral"]


def _orthonormal_rows(rows, dim):
    """Return centred columns with unit ddof-1 covariance."""
    rng = np.random.default_rng(0)
    z = rng.normal(size=(rows, dim))
    q, _ = np.linalg.qr(z - z.mean(0))
    return q * np.sqrt(rows - 1)


@pytest.mark.parametrize(("s", "t"), [(1.0, 2.0), (0.5, 3.0), (1.0, 1.0)])
@pytest.mark.parametrize("dim", [1, 3, 8])
def test_scaled_identities(s, t, dim):
    """C_a = s²I, C_b = t²I: (s² - t²)²/(4D), whatever the numbers of rows."""
    z_a, z_b = s * _orthonormal_rows(12, dim) + 5.0, t * _orthonormal_rows(20, dim)
    value = F.coral(torch.tensor(z_a), torch.tensor(z_b))
    assert_allclose(value, (s**2 - t**2) ** 2 / (4 * dim), rtol=1e-12, atol=1e-15)


def test_equals_numpy():
    inputs = SPEC.draw(Case(rows=(9, 6), dims=(4, 4)))
    difference = np.cov(inputs["z_a"].T) - np.cov(inputs["z_b"].T)
    expected = (difference**2).sum() / (4 * 4**2)
    assert_allclose(SPEC(to_torch(inputs, grad=False)), expected, **VALUE)


def test_equals_numpy_with_weights():
    inputs = SPEC.draw(Case(rows=(9, 6), dims=(4, 4), weighted=True))
    difference = np.cov(inputs["z_a"].T, aweights=inputs["weight_a"]) - np.cov(
        inputs["z_b"].T, aweights=inputs["weight_b"]
    )
    expected = (difference**2).sum() / (4 * 4**2)
    assert_allclose(SPEC(to_torch(inputs, grad=False)), expected, **VALUE)
    mean = np.average(inputs["z_a"], 0, inputs["weight_a"]) - np.average(
        inputs["z_b"], 0, inputs["weight_b"]
    )
    terms = F.coral_terms(**to_torch(inputs, grad=False))
    assert_allclose(terms.covariance, expected, **VALUE)
    assert_allclose(terms.mean, (mean**2).sum() / 4, **VALUE)


def test_gradient_of_the_paper():
    """Eq. 4 and 5: (Z_a - μ_a)(C_a - C_b)/(D²(N - 1)), and minus it for b."""
    inputs = SPEC.draw(Case(rows=(9, 6), dims=(4, 4)))
    _, *grads = value_and_grad(SPEC, inputs)
    z_a, z_b = (inputs[name] - inputs[name].mean(0) for name in ("z_a", "z_b"))
    difference = z_a.T @ z_a / 8 - z_b.T @ z_b / 5
    assert_allclose(grads[0], z_a @ difference / (16 * 8), **VALUE)
    assert_allclose(grads[1], -z_b @ difference / (16 * 5), **VALUE)


def test_means_are_ignored_unless_weighted():
    z = torch.randn(8, 3, dtype=torch.float64)
    shift = torch.tensor([1.0, -2.0, 2.0], dtype=torch.float64)
    assert_allclose(F.coral(z, z + shift), 0, atol=1e-28)
    assert_allclose(F.coral(z, z + shift, mean_weight=0.5), 0.5 * 9 / 3, rtol=1e-13)
    terms = F.coral_terms(z, z + shift)
    assert_allclose(terms.mean, 3.0, rtol=1e-13)
    assert type(terms).__name__ == "CORALTerms"
    assert terms._fields == ("covariance", "mean")


def test_small_differences_are_seen():
    """Two nearly equal covariances: the value is a difference, not a rounding."""
    z = torch.randn(64, 8)
    near = z * (1 + 1e-3)
    exact = F.coral(z.double(), near.double())
    assert_allclose(F.coral(z, near), exact, rtol=1e-3)


def test_gram_of_wide_features():
    """D ≫ N: the same value and gradient as the D × D definition."""
    inputs = SPEC.draw(Case(rows=(5, 7), dims=(200, 200)))
    value, *grads = value_and_grad(SPEC, inputs)
    difference = np.cov(inputs["z_a"].T) - np.cov(inputs["z_b"].T)
    assert_allclose(value, (difference**2).sum() / (4 * 200**2), rtol=1e-11)
    centred = inputs["z_a"] - inputs["z_a"].mean(0)
    expected = centred @ difference / (200**2 * 4)
    assert_allclose(grads[0], expected, rtol=1e-9, atol=1e-13)


# --------------------------------------------------------------------------------------
# scale="relative"
# --------------------------------------------------------------------------------------

RELATIVE = {"scale": "relative"}


@pytest.mark.parametrize(("s", "t"), [(1.0, 2.0), (0.5, 3.0), (1.0, 1.0)])
@pytest.mark.parametrize("dim", [1, 3, 8])
def test_relative_of_scaled_identities(s, t, dim):
    """(s² - t²)²/(s⁴ + t⁴), whatever D; of means 3 apart 9D/(9D + 2D(s² + t²))."""
    z_a, z_b = s * _orthonormal_rows(12, dim) + 5.0, t * _orthonormal_rows(20, dim)
    terms = F.coral_terms(torch.tensor(z_a), torch.tensor(z_b + 2.0), **RELATIVE)
    expected = (s**2 - t**2) ** 2 / (s**4 + t**4)
    assert_allclose(terms.covariance, expected, rtol=1e-12, atol=1e-15)
    assert_allclose(terms.mean, 9 / (9 + 2 * (s**2 + t**2)), rtol=1e-12)


def test_relative_mean_is_the_variance_between():
    """Of both batches in one, in equal parts: between their means, and in all."""
    inputs = SPEC.draw(Case(rows=(9, 9)))
    terms = F.coral_terms(**to_torch(inputs, grad=False), **RELATIVE)
    means = [z.mean(0) for z in inputs.values()]
    between = np.var(means, axis=0).sum()
    within = np.mean([z.var(0, ddof=1).sum() for z in inputs.values()])
    assert_allclose(terms.mean, between / (between + within), **VALUE)


@pytest.mark.parametrize("shape", [(9, 4), (4, 30)], ids=["tall", "wide"])
@pytest.mark.parametrize("scale", [1e-30, 1e-15, 1e-3, 1e4, 1e15])
def test_relative_has_no_scale(scale, shape):
    """In float32 the value is the same at 1e-30, where the published one is 0."""
    rows, dim = shape
    inputs = SPEC.draw(Case(rows=(rows, rows + 2), dims=(dim, dim)))
    options = {"mean_weight": 0.7, **RELATIVE}
    value, *grads = value_and_grad(SPEC, inputs, torch.float32, **options)
    scaled = {name: scale * z for name, z in inputs.items()}
    same, *scaled_grads = value_and_grad(SPEC, scaled, torch.float32, **options)
    assert_allclose(same, value, rtol=3e-6)
    for grad, other in zip(grads, scaled_grads, strict=True):
        assert (scale * other - grad).norm() < 3e-6 * grad.norm()


def test_relative_gradient_is_orthogonal_to_the_scale():
    """Unlike the published one, which falls where both batches shrink."""
    inputs = SPEC.draw(Case(rows=(9, 6)))
    along = {}
    for scale in ("published", "relative"):
        _, *grads = value_and_grad(SPEC, inputs, scale=scale)
        along[scale] = sum(
            ((z - z.mean(0)) * grad.numpy()).sum()
            for z, grad in zip(inputs.values(), grads, strict=True)
        )
    assert along["published"] > 1e-3
    assert abs(along["relative"]) < 1e-13


def test_relative_range():
    """0 of equal covariances, 1 of those that share no direction, and in between."""
    z = torch.randn(12, 4, dtype=torch.float64)
    assert_allclose(F.coral(z, z.flip(0) + 3, **RELATIVE), 0, atol=1e-15)
    flat = z * torch.tensor([1.0, 1.0, 0.0, 0.0], dtype=torch.float64)
    assert_allclose(F.coral(flat, z - flat, **RELATIVE), 1, rtol=1e-13)
    for seed in range(20):
        inputs = to_torch(SPEC.draw(Case(rows=(9, 6)), seed), grad=False)
        terms = F.coral_terms(**inputs, **RELATIVE)
        assert all(0 < term < 1 for term in terms)


@pytest.mark.parametrize("rows", [6, 2])
def test_relative_of_points(rows):
    """Batches without variance: 0/0 is 0, and the means are all there is."""
    point = torch.full((rows, 4), 0.3, requires_grad=True)
    other = torch.full((rows, 4), -1.3, requires_grad=True)
    terms = F.coral_terms(point, other, **RELATIVE)
    assert terms.covariance == 0
    assert terms.mean == 1
    assert F.coral_terms(point, point, **RELATIVE).mean == 0
    spread = torch.randn(rows, 4, requires_grad=True)
    assert F.coral(point, spread, **RELATIVE) == 1  # the one has all there is
    for a, b in ((point, other), (point, point), (point, spread)):
        value = F.coral(a, b, mean_weight=1.0, **RELATIVE)
        grads = torch.autograd.grad(value, {a, b})
        assert all(grad.isfinite().all() for grad in grads)


def test_views_are_not_pairs():
    inputs = SPEC.draw(Case(rows=(6, 6), dims=(3, 3)))
    shuffled = inputs | {"z_b": inputs["z_b"][::-1].copy()}
    value = SPEC(to_torch(inputs, grad=False))
    assert_allclose(SPEC(to_torch(shuffled, grad=False)), value, **SAME)


# --------------------------------------------------------------------------------------
# metric
# --------------------------------------------------------------------------------------

METRICS = {
    "root": {"metric": "root"},
    "relative root": {"metric": "root", "scale": "relative"},
    "log_euclidean": {"metric": "log_euclidean", "ridge": 0.1},
    "bures": {"metric": "bures"},
    "relative bures": {"metric": "bures", "scale": "relative"},
}
each_metric = pytest.mark.parametrize("options", METRICS.values(), ids=METRICS)


@pytest.mark.parametrize(("s", "t"), [(1.0, 2.0), (0.5, 3.0), (1.0, 1.0)])
@pytest.mark.parametrize("dim", [1, 3, 8])
def test_metrics_of_scaled_identities(s, t, dim):
    """Every eigenvalue is repeated; the closed forms are those of numbers."""
    z_a, z_b = s * _orthonormal_rows(12, dim) + 5.0, t * _orthonormal_rows(20, dim)
    expected = {
        "root": abs(s**2 - t**2) / (2 * np.sqrt(dim)),
        "relative root": abs(s**2 - t**2) / np.sqrt(s**4 + t**4),
        "log_euclidean": np.log((s**2 + 0.1) / (t**2 + 0.1)) ** 2 / (4 * dim),
        "bures": (s - t) ** 2,
        "relative bures": (s - t) ** 2 / (s**2 + t**2),
    }
    for name, value in expected.items():
        got = F.coral(torch.tensor(z_a), torch.tensor(z_b), **METRICS[name])
        assert_allclose(got, value, rtol=1e-11, atol=1e-13, err_msg=name)


def test_metrics_equal_scipy():
    inputs = SPEC.draw(Case(rows=(12, 9)))
    c_a, c_b = np.cov(inputs["z_a"].T), np.cov(inputs["z_b"].T)
    gap = scipy.linalg.logm(c_a + 0.1 * np.eye(4)) - scipy.linalg.logm(
        c_b + 0.1 * np.eye(4)
    )
    tensors = to_torch(inputs, grad=False)
    got = F.coral(**tensors, metric="log_euclidean", ridge=0.1)
    assert_allclose(got, (gap**2).sum() / 64, **VALUE)

    # The squared 2-Wasserstein distance of two Gaussians, which FID is.
    root = scipy.linalg.sqrtm(c_a)
    middle = scipy.linalg.sqrtm(root @ c_b @ root)
    mean = inputs["z_a"].mean(0) - inputs["z_b"].mean(0)
    wasserstein = mean @ mean + np.trace(c_a + c_b - 2 * middle)
    got = F.coral(**tensors, metric="bures", mean_weight=1.0)
    assert_allclose(got, wasserstein / 4, **VALUE)


@pytest.mark.parametrize("shape", [(9, 4), (5, 12), (3, 30)], ids=str)
def test_bures_is_the_nuclear_norm_of_rows(shape):
    """‖X‖² + ‖Y‖² - 2‖XYᵀ‖_*, whichever is singular."""
    rows, dim = shape
    inputs = SPEC.draw(Case(rows=(rows, rows + 2), dims=(dim, dim)))
    x, y = (
        (z - z.mean(0)) / np.sqrt(len(z) - 1) for z in (inputs["z_a"], inputs["z_b"])
    )
    u, sigma, vh = np.linalg.svd(x @ y.T, full_matrices=False)
    expected = (x**2).sum() + (y**2).sum() - 2 * sigma.sum()
    value, *grads = value_and_grad(SPEC, inputs, metric="bures")
    assert_allclose(value, expected / dim, **VALUE)
    kept = sigma > 1e-10
    turn = u[:, kept] @ vh[kept]
    of_a = 2 * (x - turn @ y) / np.sqrt(rows - 1) / dim
    of_b = 2 * (y - turn.T @ x) / np.sqrt(rows + 1) / dim
    assert_allclose(grads[0], of_a, rtol=1e-8, atol=1e-10)
    assert_allclose(grads[1], of_b, rtol=1e-8, atol=1e-10)


def _function(metric):
    if metric == "bures":
        return spectral.bures
    return lambda a, b: spectral.log_euclidean(a, b, 0.1)


def _symmetric(matrix):
    return (matrix + matrix.mT) / 2


@pytest.mark.parametrize("metric", ["log_euclidean", "bures"])
@pytest.mark.parametrize("gap", [0.0, 1e-13, 1e-8, 1e-5, 0.3])
def test_derivatives_at_repeated_eigenvalues(metric, gap):
    """As eigenvalues meet: against differences, where nothing is decomposed by us."""
    rng = np.random.default_rng(3)
    turn = torch.tensor(np.linalg.qr(rng.normal(size=(2, 4, 4)))[0])
    values = torch.tensor([[1.0, 1.0 + gap, 1.0, 2.5], [0.4, 0.4, 1.7, 1.7 - gap]])
    c = turn @ values.double().diag_embed() @ turn.mT
    a, b = (_symmetric(one).requires_grad_() for one in c)

    def f(a, b):
        return _function(metric)(_symmetric(a), _symmetric(b))

    assert gradcheck(f, (a, b), atol=1e-7)


def test_autograd_through_eigenvectors_is_no_number_there():
    """What the closed form is for."""

    def log(c):
        values, vectors = torch.linalg.eigh(c)
        return (vectors * values.log()) @ vectors.mT

    a = torch.eye(3, dtype=torch.float64, requires_grad=True)
    b = 2 * torch.eye(3, dtype=torch.float64)
    (plain,) = torch.autograd.grad((log(a) - log(b)).square().sum(), a)
    assert not plain.isfinite().all()
    (ours,) = torch.autograd.grad(spectral.log_euclidean(a, b, 1e-12), a)
    assert_allclose(ours, -2 * np.log(2) * np.eye(3), rtol=1e-9, atol=1e-12)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@each_metric
def test_metrics_of_equal_batches(options, dtype):
    inputs = SPEC.draw(Case(rows=(9, 9)))
    inputs["z_b"] = inputs["z_a"][::-1].copy()
    value, *grads = value_and_grad(SPEC, inputs, dtype, mean_weight=1.0, **options)
    slack = 1e-6 if dtype == torch.float32 and options["metric"] == "root" else 1e-12
    assert abs(value) < slack
    inputs["z_b"] = inputs["z_a"]
    value, *grads = value_and_grad(SPEC, inputs, dtype, mean_weight=1.0, **options)
    assert abs(value) < 1e-25
    assert all(grad.abs().max() < 1e-12 for grad in grads)


@pytest.mark.parametrize("delta", [1e-3, 1e-6, 1e-9])
def test_bures_keeps_its_digits_near_0(delta):
    """Of Z and (1 + δ)Z it is δ²·tr C/D: in differences of traces it would be noise."""
    z = torch.tensor(SPEC.draw(Case(rows=(30, 30)))["z_a"])
    expected = delta**2 * np.trace(np.cov(z.numpy().T)) / 4
    value = F.coral(z, (1 + delta) * z, metric="bures")
    assert_allclose(value, expected, rtol=1e-6 + 1e-14 / delta)


def test_bures_of_directions_that_one_batch_lacks():
    """Where one is flat the distance adds up the variance of the other there."""
    z = torch.tensor(_orthonormal_rows(20, 4))
    flat = z * torch.tensor([1.0, 2.0, 0.0, 0.0], dtype=torch.float64)
    rest = z * torch.tensor([0.0, 0.0, 3.0, 1.0], dtype=torch.float64)
    assert_allclose(F.coral(flat, rest, metric="bures"), (5 + 10) / 4, rtol=1e-12)
    relative = F.coral(flat, rest, metric="bures", scale="relative")
    assert_allclose(relative, 1, rtol=1e-12)
    # Of the roots 1, 2, 0, 0 and 1, 1, 1, 1 all but the last two differ.
    assert_allclose(F.coral(flat, z, metric="bures"), (0 + 1 + 1 + 1) / 4, rtol=1e-12)
    views = [view.clone().requires_grad_() for view in (flat, z)]
    F.coral(*views, metric="bures").backward()
    # A flat direction has no slope; one of the other has that of its own length.
    assert_allclose(views[0].grad[:, 2:], np.zeros((20, 2)), atol=1e-12)
    assert_allclose(views[1].grad[:, 2:], 2 * z[:, 2:] / 19 / 4, rtol=1e-9)
    # Nor does any direction of one prefer one of the other, if they share none.
    turn = torch.linalg.qr(z[:4])[0]
    views = [(view @ turn).requires_grad_() for view in (flat, rest)]
    F.coral(*views, metric="bures").backward()
    for view in views:
        assert_allclose(view.grad, 2 * view.detach() / 19 / 4, rtol=1e-9, atol=1e-12)


@pytest.mark.parametrize("ridge", [1e-30, 1e-12])
def test_log_euclidean_where_the_ridge_is_below_rounding(ridge):
    """Eigenvalues that are 0 come out a little below it, and are 0 to the logarithm."""
    inputs = map_views(SPEC.draw(Case(rows=(4, 5), dims=(20, 20))), lambda z: 1e3 * z)
    options = {"metric": "log_euclidean", "ridge": ridge}
    value, *grads = value_and_grad(SPEC, inputs, **options)
    assert value.isfinite()
    assert all(grad.isfinite().all() for grad in grads)


@each_metric
def test_metrics_fall_under_their_gradient(options):
    """Steps of descent make the covariances those of the other batch."""
    inputs = to_torch(SPEC.draw(Case(rows=(30, 20))))
    z = inputs["z_a"]
    first = SPEC(inputs, **options)
    optimizer = torch.optim.Adam([z], lr=0.02)
    for _ in range(300):
        optimizer.zero_grad()
        SPEC(inputs, **options).backward()
        optimizer.step()
    assert SPEC(inputs, **options) < 0.02 * first


@pytest.mark.parametrize("dtype", [torch.float16, torch.float32])
@each_metric
def test_metrics_of_float32(options, dtype):
    """Value and gradient are those of float64, rounded."""
    inputs = SPEC.draw(Case(rows=(16, 12), dims=(24, 24)))
    inputs = {k: v.astype(np.float16).astype(np.float64) for k, v in inputs.items()}
    value, *grads = value_and_grad(SPEC, inputs, dtype, **options)
    exact, *exact_grads = value_and_grad(SPEC, inputs, **options)
    assert value.dtype == torch.float32
    assert_allclose(value, exact, rtol=1e-6)
    for grad, expected in zip(grads, exact_grads, strict=True):
        rounding = 2e-3 if dtype == torch.float16 else 1e-5
        assert (grad - expected).norm() < rounding * expected.norm()


def test_log_euclidean_compares_by_ratios():
    """Small variances count like large ones, down to the ridge."""
    z = torch.tensor(_orthonormal_rows(20, 2))
    small = torch.tensor([1.0, 1e-3], dtype=torch.float64)
    doubled = torch.tensor([1.0, 2e-3], dtype=torch.float64)
    values = [
        float(F.coral(z * small, z * doubled, metric="log_euclidean", ridge=ridge))
        for ridge in (1e-12, 1e-3)
    ]
    assert_allclose(values[0], np.log(4) ** 2 / 16, rtol=1e-5)
    assert values[1] < 1e-3 * values[0]


@pytest.mark.parametrize("make", [F.coral, xl.CORALLoss], ids=["function", "module"])
@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"ridge": 0.1}, "ridge must be None with metric='frobenius', got 0.1"),
        ({"ridge": 0.1, "metric": "bures"}, "ridge must be None with metric='bures'"),
        (
            {"metric": "log_euclidean", "scale": "relative"},
            "scale must be 'published' with metric='log_euclidean', got 'relative'",
        ),
        (
            {"metric": "log_euclidean", "ridge": 0.0},
            "ridge must be a finite number > 0",
        ),
    ],
)
def test_options_that_do_not_go_together(make, options, message):
    views = torch.zeros(2, 4, 3) if make is F.coral else ()
    with pytest.raises(ValueError, match=message):
        make(*views, **options)
