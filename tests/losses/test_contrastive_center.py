"""Contrastive-center: values and gradients of the reference, and what a row may be."""

import pickle

import numpy as np
import pytest
import torch
from numpy.testing import assert_allclose

import xmodal_losses as xl
import xmodal_losses.functional as F
from reference.contrastive_center import contrastive_center
from reference.gradient import complex_step
from tolerances import GRADIENT

CASES = [
    {},
    {"delta": 0.1},
    {"weighted": True},
    {"lead": (2, 3)},
    {"lead": (3,), "weighted": True, "classes": 2, "delta": 3.0},
    {"classes": 1},
    {"rows": 1, "dim": 1},
]


def _draw(lead=(), rows=5, dim=3, classes=4, weighted=False, seed=0, **options):
    rng = np.random.default_rng(seed)
    inputs = {
        "z": rng.normal(size=(*lead, rows, dim)),
        "labels": rng.integers(0, classes, size=(*lead, rows)),
        "centers": rng.normal(size=(classes, dim)),
    }
    if weighted:
        inputs["weight"] = rng.uniform(0.2, 2.0, size=(*lead, rows))
        inputs["weight"][..., 1] = 0.0
    return inputs, options


def _tensors(inputs, dtype=torch.float64):
    tensors = {name: torch.tensor(array) for name, array in inputs.items()}
    for name in ("z", "centers"):
        tensors[name] = tensors[name].to(dtype).requires_grad_()
    return tensors


@pytest.mark.parametrize("reduction", ["mean", "sum", "none"])
@pytest.mark.parametrize("case", CASES, ids=str)
def test_value_and_gradients(case, reduction):
    inputs, options = _draw(**case)
    options["reduction"] = reduction
    tensors = _tensors(inputs)
    value = F.contrastive_center(**tensors, **options)
    assert_allclose(value.detach(), contrastive_center(**inputs, **options), rtol=1e-12)

    cotangent = np.random.default_rng(1).normal(size=value.shape)
    (value * torch.tensor(cotangent)).sum().backward()
    rest = {k: v for k, v in inputs.items() if k in ("labels", "weight")}

    def f(z, centers):
        values = contrastive_center(z=z, centers=centers, **rest, **options)
        return (values * cotangent).sum()

    expected = complex_step(f, [inputs["z"], inputs["centers"]])
    for name, gradient in zip(("z", "centers"), expected, strict=True):
        assert_allclose(tensors[name].grad, gradient, **GRADIENT)


@pytest.mark.parametrize("classes", [1, 2, 4])
def test_first_and_second_derivatives(classes):
    inputs, _ = _draw(classes=classes)
    tensors = _tensors(inputs)

    def f(z, centers):
        return F.contrastive_center(z, tensors["labels"], centers)

    arguments = tensors["z"], tensors["centers"]
    assert torch.autograd.gradcheck(f, arguments)
    assert torch.autograd.gradgradcheck(f, arguments)


def test_each_row_has_its_own_ratio():
    """Not the ratio of two sums, as in much public code."""
    centers = torch.tensor([[0.0], [3.0], [5.0]])
    z, labels = torch.tensor([[1.0], [2.0]]), torch.tensor([0, 1])
    rows = F.contrastive_center(z, labels, centers, reduction="none")
    assert_allclose(rows, [1 / (4 + 16 + 1) / 2, 1 / (4 + 9 + 1) / 2], rtol=1e-6)
    assert_allclose(F.contrastive_center(z, labels, centers), rows.mean())


def test_rows_at_their_centre_cost_nothing():
    inputs, _ = _draw()
    tensors = _tensors(inputs)
    z = tensors["centers"].detach()[tensors["labels"]].requires_grad_()
    value = F.contrastive_center(z, tensors["labels"], tensors["centers"])
    value.backward()
    assert value == 0
    assert (z.grad == 0).all()


def test_a_row_without_weight_is_not_there():
    inputs, _ = _draw(weighted=True)
    inputs["z"][1] = np.nan
    tensors = _tensors(inputs)
    value = F.contrastive_center(**tensors)
    value.backward()
    kept = {
        name: array if name == "centers" else np.delete(array, 1, 0)
        for name, array in inputs.items()
    }
    assert_allclose(value.detach(), contrastive_center(**kept), rtol=1e-12)
    assert (tensors["z"].grad[1] == 0).all()
    assert tensors["centers"].grad.isfinite().all()


@pytest.mark.parametrize("offset", [0.0, 1000.0])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16])
def test_precision_is_that_of_the_direct_sum(dtype, offset):
    """Against float64 of the rounded rows; also far from the origin."""
    inputs, _ = _draw(rows=64, dim=16, classes=8)
    tensors = _tensors(inputs)
    low = {k: v.detach() for k, v in tensors.items()}
    for name in ("z", "centers"):
        low[name] = (low[name] + offset).to(dtype)
    high = {k: v.double() if k != "labels" else v for k, v in low.items()}
    value = F.contrastive_center(**low)
    assert value.dtype == torch.float32
    assert_allclose(value, F.contrastive_center(**high), rtol=1e-5)


def test_what_cancels_is_nearly_nothing_beside_delta():
    """A row at the one other centre: the sum over others is 0, whatever is large."""
    centers = torch.tensor([[1e3, -1e3], [-1e3, 1e3]])
    value = F.contrastive_center(centers.flip(0), torch.tensor([0, 1]), centers)
    assert_allclose(value, 8e6 / 2, rtol=0.1)


def test_the_module_learns_its_centres():
    criterion = xl.ContrastiveCenterLoss(num_classes=4, num_features=3, delta=0.5)
    inputs, _ = _draw()
    z, labels = torch.tensor(inputs["z"]).float(), torch.tensor(inputs["labels"])
    value = criterion(z, labels)
    value.backward()
    assert_allclose(
        value.detach(),
        F.contrastive_center(z, labels, criterion.centers.detach(), delta=0.5),
    )
    assert criterion.centers.grad.norm() > 0
    assert list(criterion.state_dict()) == ["centers"]
    again = pickle.loads(pickle.dumps(criterion))
    assert again(z, labels) == value
    torch._dynamo.reset()
    compiled = torch.compile(criterion, fullgraph=True, backend="aot_eager")
    assert_allclose(compiled(z, labels).detach(), value.detach(), rtol=1e-6)


@pytest.mark.parametrize(
    ("change", "error", "text"),
    [
        ({"delta": 0.0}, ValueError, "delta must be a finite number > 0"),
        ({"labels": None}, TypeError, "labels must be a tensor of integers"),
        ({"labels": torch.zeros(5)}, TypeError, "labels must be a tensor of integers"),
        ({"labels": torch.arange(4)}, ValueError, r"labels must be of shape \(5,\)"),
        (
            {"centers": torch.zeros(4, 2)},
            ValueError,
            r"of shape \(K, 3\), as wide as z",
        ),
        ({"centers": torch.zeros(1, 4, 3)}, ValueError, r"of shape \(K, 3\)"),
        ({"z": torch.zeros(3)}, ValueError, "z must be a batch of rows"),
        ({"reduction": "max"}, ValueError, "reduction must be one of"),
        ({"grad_reduce": "max"}, ValueError, "grad_reduce must be one of"),
    ],
)
def test_errors(change, error, text):
    inputs, _ = _draw()
    with pytest.raises(error, match=f"contrastive_center: .*{text}"):
        F.contrastive_center(**{**_tensors(inputs), **change})


@pytest.mark.parametrize(
    ("arguments", "options", "text"),
    [
        ((0, 3), {}, "num_classes must be >= 1"),
        ((3, 0), {}, "num_features must be >= 1"),
        ((3, 3), {"delta": -1.0}, "delta must be a finite number > 0"),
        ((3, 3), {"reduction": "max"}, "reduction must be one of"),
    ],
)
def test_errors_of_the_module(arguments, options, text):
    with pytest.raises(ValueError, match=f"ContrastiveCenterLoss: {text}"):
        xl.ContrastiveCenterLoss(*arguments, **options)


@pytest.mark.parametrize(
    ("dtype", "mean", "digits"),
    [(torch.float32, 2.0**12, 11), (torch.float64, 2.0**26, 20)],
)
def test_far_from_the_origin(dtype, mean, digits):
    """Rows and centres that are shifted without rounding lose no digit."""
    inputs, _ = _draw(rows=12)
    for name in ("z", "centers"):
        inputs[name] = np.round(inputs[name] * 2.0**digits) / 2.0**digits

    def evaluate(shift):
        moved = {k: inputs[k] + shift for k in ("z", "centers")}
        tensors = _tensors(inputs | moved, dtype)
        value = F.contrastive_center(**tensors)
        leaves = [tensors["z"], tensors["centers"]]
        return value.detach(), *torch.autograd.grad(value, leaves)

    for found, wanted in zip(evaluate(mean), evaluate(0.0), strict=True):
        assert (found - wanted).norm() < 8 * torch.finfo(dtype).eps * wanted.norm()
