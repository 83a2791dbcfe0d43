"""The objective is the sum one would write, its shares those one would measure."""

import copy
import io
import pickle

import numpy as np
import pytest
import torch
from numpy.testing import assert_allclose
from torch import nn
from torch.nn.functional import normalize

import xmodal_losses as xl
import xmodal_losses.functional as F
from reference import barlow_twins, coral, info_nce
from reference.gradient import complex_step
from tolerances import GRADIENT, SAME, VALUE
from xmodal_losses import CrossModalObjective, Term

N, D = 12, 5


def views(seed=0, rows=N, dim=D, lead=(), dtype=torch.float64, noise=0.6):
    """Return two related batches, far from unit length."""
    rng = np.random.default_rng(seed)
    z_a = 2 * rng.normal(size=(*lead, rows, dim)) + 0.3
    z_b = z_a + noise * rng.normal(size=z_a.shape) * rng.uniform(0.2, 3, size=dim)
    return tuple(torch.tensor(z).to(dtype).requires_grad_() for z in (z_a, z_b))


def gradients(total, tensors):
    return torch.autograd.grad(total, tensors, allow_unused=True)


def close(actual, expected, **tolerance):
    for one, other in zip(actual, expected, strict=True):
        assert (one is None) == (other is None)
        if one is not None:
            one, other = one.detach().double(), other.detach().double()
            assert_allclose(one, other, **(tolerance or SAME))


class Power(nn.Module):
    """A loss of somebody else's: with a parameter, and of no class of this package."""

    def __init__(self, power=2.0):
        super().__init__()
        self.power = nn.Parameter(torch.tensor(power, dtype=torch.float64))

    def forward(self, x, y, *, weight=None):
        gap = (x - y).abs().pow(self.power).sum(-1)
        return gap.mean() if weight is None else (weight * gap).sum() / weight.sum()


def recipe():
    """Return terms of all kinds: both inputs, learned parameters, other weights."""
    bandwidth = nn.Parameter(torch.tensor(1.3, dtype=torch.float64))
    return {
        "contrast": Term(xl.InfoNCELoss(learn_temperature=True), input="embedding"),
        "sphere": Term(
            xl.InfoNCELoss(normalize=False, temperature=0.2),
            weight=0.7,
            input="embedding",
        ),
        "align": Term(xl.CORALLoss(mean_weight=1.0, scale="relative"), weight=0.4),
        "match": Term(
            xl.MMDLoss(kernel=xl.GaussianKernel(bandwidth)),
            weight=0.3,
            input="embedding",
        ),
        "decorrelate": Term(xl.BarlowTwinsLoss(scale="per_column"), weight=0.2),
        "spread": Term(xl.VICRegLoss(), weight=0.01),
        "near": Term(Power(1.7), weight=0.05, input="embedding"),
        "apart": Term(Power(2.0), weight=0.02),
    }


def by_hand(objective, z_a, z_b, weight=None):
    """Return the sum as one writes it, and each weighted term."""
    parts = {}
    for name, term in objective.terms.items():
        rows = [z_a, z_b]
        if term.input == "embedding":
            rows = [normalize(z, dim=-1) for z in rows]
        told = {}
        if weight is not None:
            names = (
                ("weight_a", "weight_b")
                if isinstance(term.loss, (xl.CORALLoss, xl.MMDLoss))
                else ("weight",)
            )
            told = dict.fromkeys(names, weight)
        parts[name] = term.weight * term.loss(*rows, **told)
    return sum(parts.values()), parts


# ------------------------------------------------------------------ the sum


def test_the_seed_recipe_against_the_references():
    """InfoNCE + 0.02 CORAL + 0.01 Barlow Twins, from numpy, value and gradient."""
    z_a, z_b = views()

    def reference(a, b):
        return (
            info_nce.info_nce(a, b)
            + 0.02 * coral.coral(a, b)
            + 0.01 * barlow_twins.barlow_twins(a, b)
        )

    arrays = [z.detach().numpy() for z in (z_a, z_b)]
    for lean in (False, True):
        value = CrossModalObjective(lean=lean)(z_a, z_b)
        assert_allclose(value.total.detach(), reference(*arrays), **VALUE)
        grads = gradients(value.total, (z_a, z_b))
        expected = complex_step(reference, arrays)
        for grad, other in zip(grads, expected, strict=True):
            assert_allclose(grad, other, **GRADIENT)
    assert value.weights == {"contrast": 1.0, "align": 0.02, "decorrelate": 0.01}


@pytest.mark.parametrize("lean", [False, True])
@pytest.mark.parametrize("lead", [(), (3,)], ids=["one", "three"])
@pytest.mark.parametrize("weighted", [False, True])
def test_total_is_the_sum_by_hand(weighted, lead, lean):
    z_a, z_b = views(1, lead=lead)
    weight = torch.rand((*lead, N), dtype=torch.float64) if weighted else None
    objective = CrossModalObjective(recipe(), lean=lean)
    tensors = (z_a, z_b, *objective.parameters())
    assert len(tensors) == 2 + 4
    expected, parts = by_hand(objective, z_a, z_b, weight)
    value = objective(z_a, z_b, weight=weight)
    assert_allclose(value.total.detach(), expected.detach(), rtol=1e-13)
    close(gradients(value.total, tensors), gradients(expected, tensors), rtol=1e-11)
    assert list(value.terms) == list(objective.terms) == list(value.weights)
    for name, term in value.terms.items():
        assert not term.requires_grad
        assert_allclose(
            value.weights[name] * term, parts[name].detach(), rtol=1e-13, err_msg=name
        )
    assert value.gradient_norms is value.gradient_shares is None


@pytest.mark.parametrize("lean", [False, True])
def test_one_view_may_be_constant(lean):
    z_a, z_b = views(2)
    objective = CrossModalObjective(recipe(), lean=lean)
    (expected,) = gradients(objective(z_a, z_b).total, [z_b])
    (grad,) = gradients(objective(z_a.detach(), z_b).total, [z_b])
    close([grad], [expected])


def test_embeddings_are_made_once_and_only_for_those_who_do_not():
    """Losses that normalise get the projection itself, to the same end."""
    seen = {}

    def spy(name):
        def hook(module, args, kwargs):
            seen[name] = args

        return hook

    objective = CrossModalObjective(recipe())
    for name, loss in objective.losses.items():
        loss.register_forward_pre_hook(spy(name), with_kwargs=True)
    z_a, z_b = views(3)
    objective(z_a, z_b)
    for name in ("contrast", "align", "decorrelate", "spread", "apart"):
        assert seen[name][0] is z_a, name
        assert seen[name][1] is z_b, name
    unit = seen["sphere"]
    assert_allclose(unit[0].detach().norm(dim=-1), np.ones(N), rtol=1e-14)
    for name in ("match", "near"):
        assert seen[name][0] is unit[0], name
        assert seen[name][1] is unit[1], name


# ------------------------------------------------------------------ what reaches whom


def labelled():
    return {
        "classes": Term(xl.SINCERELoss(), weight=0.5, input="embedding"),
        "centres": Term(xl.HeteroCenterLoss(), weight=0.1),
        "contrast": Term(xl.InfoNCELoss(exclude_radius=1.0)),
        "align": Term(xl.CORALLoss()),
    }


def test_arguments_go_where_they_are_known():
    z_a, z_b = views(4)
    labels = torch.arange(N) % 3
    other = labels.roll(1)
    ids, positions = torch.arange(N) // 2, torch.randn(N, 2, dtype=torch.float64)
    weight = torch.rand(N, dtype=torch.float64)
    heavy = torch.rand(N, dtype=torch.float64)
    value = CrossModalObjective(labelled())(
        z_a,
        z_b,
        labels=labels,
        labels_b=other,
        ids=ids,
        positions=positions,
        exclude=None,
        weight=weight,
        weight_b=heavy,
    )
    sides = {"weight_a": weight, "weight_b": heavy}
    classes = {"labels_a": labels, "labels_b": other}
    expected = {
        "classes": F.sincere(z_a, z_b, **classes, **sides),
        "centres": F.hetero_center(z_a, z_b, **classes, **sides),
        "contrast": F.info_nce(
            z_a, z_b, ids=ids, positions=positions, exclude_radius=1.0, weight=weight
        ),
        "align": F.coral(z_a, z_b, **sides),
    }
    for name, term in expected.items():
        assert_allclose(value.terms[name], term.detach(), rtol=1e-13, err_msg=name)


@pytest.mark.parametrize("lean", [False, True])
def test_a_row_of_weight_0_is_not_there(lean):
    """With NaN in it, seen by every term of the package through either input."""
    z_a, z_b = views(5)
    weight = torch.ones(N, dtype=torch.float64)
    weight[3] = weight[7] = 0
    kept = weight > 0
    terms = {n: t for n, t in recipe().items() if n not in ("near", "apart")}
    objective = CrossModalObjective(terms, lean=lean)
    expected = objective(z_a[kept], z_b[kept]).total
    bad = [
        z.detach().masked_fill(~kept[:, None], np.nan).requires_grad_()
        for z in (z_a, z_b)
    ]
    total = objective(*bad, weight=weight).total
    assert_allclose(total.detach(), expected.detach(), rtol=1e-12)
    wanted = gradients(expected, (z_a, z_b))  # 0 in the rows that were left out
    close(gradients(total, bad), wanted, rtol=1e-10, atol=1e-12)


class NoWeight(nn.Module):
    def forward(self, z_a, z_b):
        return (z_a - z_b).square().mean()


def test_learned_weights_get_their_gradient():
    z_a, z_b = views(6)
    weight = torch.rand(N, dtype=torch.float64, requires_grad=True)
    found = [
        gradients(
            CrossModalObjective(lean=lean)(z_a, z_b, weight=weight).total, [weight]
        )[0]
        for lean in (False, True)
    ]
    assert found[0].abs().max() > 0
    close(found[1:], found[:1], rtol=1e-11)


# ------------------------------------------------------------------ weights and steps


def test_schedules():
    linear = xl.LinearSchedule(0.2, 0.6, length=100, begin=50)
    steps = (0, 50, 75, 100, 150, 1e6)
    assert [linear(s) for s in steps] == pytest.approx([0.2, 0.2, 0.3, 0.4, 0.6, 0.6])
    cosine = xl.CosineSchedule(0.2, 0.6, length=100, begin=50)
    quarter = 0.2 + 0.4 * (1 - np.sqrt(0.5)) / 2
    expected = [0.2, 0.2, quarter, 0.4, 0.6, 0.6]
    assert [cosine(s) for s in steps] == pytest.approx(expected)
    for schedule in (xl.LinearSchedule, xl.CosineSchedule):
        assert schedule(0.0, 1.0, length=3)(0) == 0  # exactly: the term is skipped
        assert schedule(0.7, 0.0, length=3)(3) == 0
        assert schedule(0.1, 0.7, length=3)(9) == 0.7


def test_weights_follow_the_step_and_nothing_else():
    """Not calls: of several micro-batches and an evaluation, all have one step."""
    z_a, z_b = views(7)
    objective = CrossModalObjective(
        {
            "contrast": Term(xl.InfoNCELoss()),
            "align": Term(
                xl.CORALLoss(), weight=xl.LinearSchedule(0.0, 0.5, length=10)
            ),
            "odd": Term(xl.VICRegLoss(), weight=lambda step: 0.25 if step % 2 else 0),
        }
    )
    for step, align, half in [
        (0, 0.0, 0),
        (5, 0.25, 0.25),
        (5, 0.25, 0.25),
        (10, 0.5, 0),
    ]:
        value = objective(z_a, z_b, step=step)
        assert value.weights == pytest.approx(
            {"contrast": 1.0, "align": align, "odd": half}
        )
        expected = F.info_nce(z_a, z_b) + align * F.coral(z_a, z_b)
        expected = expected + half * F.vicreg(z_a, z_b)
        assert_allclose(value.total.detach(), expected.detach(), rtol=1e-13)


class _MustNotRun(Power):
    def forward(self, x, y, *, weight=None):
        raise AssertionError("computed")


@pytest.mark.parametrize("lean", [False, True])
def test_weight_0_is_not_computed(lean):
    z_a, z_b = views(8)
    off = _MustNotRun()
    terms = {"contrast": Term(xl.InfoNCELoss()), "off": Term(off, weight=0.0)}
    value = CrossModalObjective(terms, lean=lean)(z_a, z_b)
    assert list(value.terms) == ["contrast"]
    assert value.weights == {"contrast": 1.0, "off": 0.0}
    expected = F.info_nce(z_a, z_b)
    assert torch.equal(value.total, expected)
    # As of 0·loss: DDP waits for every parameter.
    *grads, power = gradients(value.total, (z_a, z_b, off.power))
    close(grads, gradients(expected, (z_a, z_b)))
    assert power == 0


@pytest.mark.parametrize("lean", [False, True])
@pytest.mark.parametrize("dtype", [torch.float64, torch.float16])
def test_all_weights_0(lean, dtype):
    z_a, z_b = (z.detach().to(dtype).requires_grad_() for z in views(9))
    with torch.no_grad():
        z_a[0] = np.nan  # it is not looked at
    objective = CrossModalObjective({"off": Term(_MustNotRun(), weight=0)}, lean=lean)
    value = objective(z_a, z_b)
    assert value.total == 0
    assert value.total.dtype == torch.promote_types(dtype, torch.float32)
    value.total.backward()
    assert (z_a.grad == 0).all()
    assert objective.losses["off"].power.grad == 0
    shares = objective(z_a, z_b, gradient_norms=True)
    assert shares.gradient_norms == {"off": 0.0}
    assert shares.gradient_shares == {"off": 0.0}


# ------------------------------------------------------------------ as a module


def test_repr_shows_terms_weights_and_losses():
    warm_up = xl.LinearSchedule(0.0, 0.02, length=1000)
    objective = CrossModalObjective(
        {
            "contrast": Term(xl.InfoNCELoss(temperature=0.1), input="embedding"),
            "align": Term(xl.CORALLoss(scale="relative"), weight=warm_up),
        },
        lean=True,
    )
    lines = repr(objective).splitlines()
    assert "  contrast: weight=1.0, input='embedding'" in lines
    assert f"  align: weight={warm_up!r}, input='projection'" in lines
    assert "  lean=True" in lines
    assert "temperature=0.1" in repr(objective)
    assert "scale='relative'" in repr(objective)


def test_copies_pickles_and_state():
    z_a, z_b = views(19)
    terms = recipe()
    terms["align"] = Term(
        terms["align"].loss, weight=xl.CosineSchedule(0.1, 0.4, length=50, begin=3)
    )
    objective = CrossModalObjective(terms)
    expected = objective(z_a, z_b, step=20).total
    saved = io.BytesIO()
    torch.save(objective, saved)
    saved.seek(0)
    for twin in (
        copy.deepcopy(objective),
        pickle.loads(pickle.dumps(objective)),
        torch.load(saved, weights_only=False),
    ):
        assert torch.equal(twin(z_a, z_b, step=20).total, expected)
        assert repr(twin) == repr(objective)
    with torch.no_grad():
        for parameter in objective.parameters():
            parameter += 0.1
    fresh = CrossModalObjective(recipe() | {"align": terms["align"]})
    assert "losses.contrast.log_temperature" in objective.state_dict()
    fresh.load_state_dict(objective.state_dict())
    values = [o(z_a, z_b, step=20).total for o in (objective, fresh)]
    assert torch.equal(*values)
    assert CrossModalObjective().state_dict() == {}
    narrow = objective.to(torch.float32)
    assert {p.dtype for p in narrow.parameters()} == {torch.float32}


@pytest.mark.slow
def test_compiles_into_one_graph():
    torch._dynamo.reset()
    objective = CrossModalObjective(recipe() | {"off": Term(_MustNotRun(), weight=0.0)})
    compiled = torch.compile(objective, fullgraph=True, backend="aot_eager")
    for weight in (None, torch.rand(N, dtype=torch.float64)):
        z_a, z_b = views(20)
        tensors = (z_a, z_b, *objective.parameters())
        value, expected = (
            compiled(z_a, z_b, weight=weight),
            objective(z_a, z_b, weight=weight),
        )
        assert_allclose(value.total.detach(), expected.total.detach(), rtol=1e-12)
        close(
            gradients(value.total, tensors),
            gradients(expected.total, tensors),
            rtol=1e-10,
            atol=1e-13,
        )
        assert list(value.terms) == list(expected.terms)


def test_under_torch_func():
    z_a, z_b = (z.detach() for z in views(21, lead=(3,)))
    objective = CrossModalObjective()

    def total(a, b):
        return objective(a, b).total

    mapped = torch.func.vmap(torch.func.grad(total))(z_a, z_b)
    for i in range(3):
        assert_allclose(mapped[i], torch.func.grad(total)(z_a[i], z_b[i]), **SAME)


def test_a_cached_backward_of_an_objective():
    """As the page says: the criterion of `cached_backward` is the total."""
    encoder = nn.Linear(D, 3, dtype=torch.float64)
    objective = CrossModalObjective(recipe())
    z_a, z_b = (z.detach() for z in views(22))
    weight = torch.rand(N, dtype=torch.float64)
    tensors = [*encoder.parameters(), *objective.parameters()]
    value = objective(encoder(z_a), encoder(z_b), weight=weight).total
    expected = gradients(value, tensors)
    loss = xl.cached_backward(
        lambda a, b, **told: objective(a, b, **told).total,
        lambda chunk: (encoder(chunk[0]), encoder(chunk[1])),
        list(zip(z_a.split(5), z_b.split(5), strict=True)),
        weight=weight,
    )
    assert_allclose(loss, value.detach(), rtol=1e-13)
    close([t.grad for t in tensors], expected, rtol=1e-10, atol=1e-13)
