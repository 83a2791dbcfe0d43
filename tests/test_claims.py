"""What docs/numerics.md and docs/objective.md say goes wrong does go wrong."""

import numpy as np
import pytest
import torch
import torch.nn.functional as nnf

import xmodal_losses as xl
import xmodal_losses.functional as F
from benchmarks import traffic
from test_documents import text


@pytest.mark.parametrize("gap", [17.0, 20.0, 40.0])
def test_cross_entropy_forgets_a_pair_that_is_right(gap):
    """In float32 its value and the positive's gradient are 0, not the negative's."""
    logits = torch.tensor([[gap, 0.0]], requires_grad=True)
    plain = nnf.cross_entropy(logits, torch.tensor([0]))
    (grad,) = torch.autograd.grad(plain, logits)
    assert plain == 0
    assert grad[0, 0] == 0
    assert grad[0, 1] > 0

    # The same logits, as inner products of the row (1, 0) with (gap, 0) and (0, 0).
    z_a = torch.tensor([[1.0, 0.0], [0.0, 0.0]])
    z_b = torch.tensor([[gap, 0.0], [0.0, 0.0]], requires_grad=True)
    options = {"temperature": 1.0, "normalize": False, "symmetric": False}
    ours = F.info_nce(z_a, z_b, reduction="none", **options)[0]
    (grad,) = torch.autograd.grad(ours, z_b)
    assert ours > 0
    assert grad[0, 0] < 0
    assert grad[1, 0] > 0


@pytest.mark.parametrize("seed", range(3))
def test_moments_about_the_origin_lose_every_digit(seed):
    """At a mean of a thousand standard deviations, in float32."""
    generator = torch.Generator().manual_seed(seed)
    z = torch.randn(256, 8, generator=generator) + 1000
    total = z.sum(0)
    one_pass = (z.T @ z - torch.outer(total, total) / 256) / 255
    truth = torch.cov(z.double().T)
    assert (one_pass - truth).norm() > 0.1 * truth.norm()


def test_the_usual_normalisation_hands_a_zero_row_a_huge_gradient():
    z = torch.zeros(2, 3, requires_grad=True)
    (grad,) = torch.autograd.grad(nnf.normalize(z, dim=1).sum(), z)
    assert (grad > 1e11).all()
    (grad,) = torch.autograd.grad(F.info_nce(z, torch.eye(2, 3)), z)
    assert (grad == 0).all()


@pytest.mark.parametrize("seed", range(3))
def test_dcca_in_float32_has_a_value_but_no_gradient(seed):
    """With N < D and a small ridge the error exceeds the gradient itself."""
    generator = torch.Generator().manual_seed(seed)
    z_a, z_b = torch.randn(2, 12, 32, generator=generator)
    z_a.requires_grad_()
    results = []
    for dtype in (torch.float64, torch.float32):
        value = F.dcca(z_a, z_b, ridge=1e-4, compute_dtype=dtype)
        results.append((value.detach(), *torch.autograd.grad(value, z_a)))
    (truth, true_grad), (value, grad) = results
    assert abs(value / truth - 1) < 0.01
    assert (grad - true_grad).norm() > true_grad.norm()


# --------------------------------------------------------------------------------------
# docs/objective.md
# --------------------------------------------------------------------------------------


def _batches():
    """Return pairs of 768 rows of 128 Gaussian features, by name."""
    rng = np.random.default_rng(0)
    content, noise = rng.normal(size=(768, 128)), rng.normal(size=(2, 768, 128))
    a, b = content + noise
    stretched = b * np.linspace(0.25, 1.75, 128)
    batches = {
        "alike": (content + 0.1 * noise[0], content + 0.1 * noise[1]),
        "noisy": (a, b),
        "of other covariances": (a, stretched),
    }
    return {name: [torch.tensor(z) for z in pair] for name, pair in batches.items()}


@pytest.mark.parametrize("name", _batches())
def test_embeddings_leave_nothing_of_a_variance(name):
    """The table: losses of projections, and of unit rows."""
    projections = _batches()[name]
    embeddings = [nnf.normalize(z) for z in projections]
    losses = (F.coral, lambda *z: F.coral(*z, scale="relative"), _hinges)
    values = [loss(*z) for loss in losses for z in (projections, embeddings)]
    row = " | ".join(f"{value:.2g}" for value in values)
    assert f"| {name} | {row} |" in text("docs", "objective.md")
    assert values[1] < 1 / (2 * 128**2)
    assert values[2] / values[3] == pytest.approx(1, abs=0.2)


def _hinges(z_a, z_b):
    return F.vicreg_terms(z_a, z_b).variance


def test_unit_columns_have_no_variance_to_standardise_by():
    """Of identical embeddings, Barlow Twins without it begins at 126 of 128."""
    (z, _), *_ = _batches().values()
    z = nnf.normalize(z)
    assert ((1 - (z * z).mean(0)) ** 2).sum() == pytest.approx(126, abs=0.1)
    assert z.std(0).mean() == pytest.approx(0.09, abs=0.005)


def _share(value):
    return f"{100 * value:.2g} %"


def test_shares_of_the_gradient_depend_on_the_scale():
    """The table: of the published forms they do, of those without a scale not."""
    page, (z_a, z_b) = text("docs", "objective.md"), _batches()["of other covariances"]
    relative = {
        "contrast": xl.Term(xl.InfoNCELoss(), input="embedding"),
        "align": xl.Term(xl.CORALLoss(scale="relative")),
        "decorrelate": xl.Term(xl.BarlowTwinsLoss(scale="per_column")),
    }
    recipes = {
        "InfoNCE + 0.02 CORAL + 0.01 Barlow Twins": None,
        "InfoNCE + 1 relative CORAL + 1 Barlow Twins per column": relative,
    }
    for name, terms in recipes.items():
        objective = xl.CrossModalObjective(terms)
        rows = [
            objective(scale * z_a, scale * z_b, gradient_norms=True).gradient_shares
            for scale in (1, 10)
        ]
        first, second = (" | ".join(map(_share, row.values())) for row in rows)
        written = f"| {name} | {first} |\n| the same, features × 10 | {second} |"
        assert written in page
        assert (first == second) == (terms is not None)


@pytest.mark.parametrize(
    ("names", "exchange"),
    [
        ("CORAL, Barlow Twins", "statistics"),
        ("CORAL, VICReg", "statistics"),
        ("CORAL, Barlow Twins, VICReg", "statistics"),
        ("CORAL, Barlow Twins, VICReg, gathered", "gather"),
    ],
)
def test_bytes_of_terms_together(names, exchange):
    """The table: from the formulas, which are tested against real exchanges."""
    known = {"CORAL": "coral", "Barlow Twins": "barlow_twins", "VICReg": "vicreg"}
    losses = [known[name] for name in names.split(", ") if name in known]
    apart = sum(sum(traffic.traffic(loss, exchange, 256, 128, 8)) for loss in losses)
    together = sum(traffic.traffic_of_moments(losses, exchange, 256, 128, 8))
    row = f"| {names} | {apart / 1e3:.0f} kB in {3 * len(losses)} "
    row += f"| {together / 1e3:.0f} kB in 3 |"
    assert row in text("docs", "objective.md")
