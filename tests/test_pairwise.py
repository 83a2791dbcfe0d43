"""Several views: the mean over pairs, of any loss of two batches."""

import numpy as np
import pytest
import torch
from numpy.testing import assert_allclose

import xmodal_losses as xl
import xmodal_losses.functional as F
from harness import Case, to_torch
from reference.gradient import complex_step
from specs import BY_NAME
from tolerances import GRADIENT, SAME, VALUE

LOSSES = ("barlow_twins", "vicreg", "coral", "info_nce")


def _views(count, seed=0, rows=6, dim=3):
    rng = np.random.default_rng(seed)
    common = rng.normal(size=(rows, dim))
    return [common + 0.7 * rng.normal(size=(rows, dim)) for _ in range(count)]


@pytest.mark.parametrize("count", [2, 3, 4])
@pytest.mark.parametrize("loss", LOSSES)
def test_value_and_gradients(loss, count):
    views = _views(count)
    reference = BY_NAME[loss].reference
    tensors = [torch.tensor(z, requires_grad=True) for z in views]
    value = xl.pairwise(getattr(F, loss), tensors)
    value.backward()

    def f(*views):
        pairs = [(i, j) for i in range(count) for j in range(i + 1, count)]
        return sum(reference(views[i], views[j]) for i, j in pairs) / len(pairs)

    assert_allclose(value.detach(), f(*views), **VALUE)
    for z, gradient in zip(tensors, complex_step(f, views), strict=True):
        assert_allclose(z.grad, gradient, **GRADIENT)


@pytest.mark.parametrize("loss", LOSSES)
def test_two_views_are_the_loss(loss):
    spec = BY_NAME[loss]
    tensors = to_torch(spec.draw(Case(lead=(2,))), grad=False)
    options = {"reduction": "none"}
    value = xl.pairwise(getattr(F, loss), list(tensors.values()), **options)
    assert torch.equal(value, spec(tensors, **options))


def test_vicreg_weighs_each_view_as_in_a_pair():
    """Of invariances the mean over pairs, of variances and covariances over views."""
    views = [0.3 * torch.tensor(z) for z in _views(4, dim=2)]
    no = {"invariance_weight": 0.0}
    value = xl.pairwise(F.vicreg, views, **no)
    expected = [F.vicreg(z, z, **no) for z in views]
    assert_allclose(value, torch.stack(expected).mean(), **SAME)


def test_options_go_to_every_pair():
    views = [torch.tensor(z) for z in _views(3)]
    weight = torch.tensor([1.0, 2.0, 0.0, 1.0, 1.0, 0.5])
    kept = [z[weight > 0] for z in views]
    value = xl.pairwise(xl.VICRegLoss(convention="paper"), views, weight=weight)
    same = xl.pairwise(F.vicreg, kept, weight=weight[weight > 0], convention="paper")
    assert_allclose(value, same, **SAME)


def test_the_earlier_view_is_the_first():
    views = [torch.full((1, 1), float(i)) for i in range(3)]
    seen = []

    def loss(z_a, z_b):
        seen.append((int(z_a), int(z_b)))
        return z_a.sum()

    xl.pairwise(loss, views)
    assert sorted(seen) == [(0, 1), (0, 2), (1, 2)]


def test_compiles():
    views = [torch.tensor(z) for z in _views(3)]
    torch._dynamo.reset()
    compiled = torch.compile(
        lambda *z: xl.pairwise(F.vicreg, z), fullgraph=True, backend="aot_eager"
    )
    assert_allclose(compiled(*views), xl.pairwise(F.vicreg, views), **SAME)


@pytest.mark.parametrize(
    ("loss", "views", "error", "message"),
    [
        ("vicreg", [torch.zeros(2, 1)] * 2, TypeError, "loss must be a function or"),
        (F.vicreg, torch.zeros(2, 2, 1), TypeError, "views must be a sequence of"),
        (F.vicreg, [None, None], TypeError, "views must be a sequence of"),
        (F.vicreg, [torch.zeros(2, 1)], ValueError, "views must be two or more, got 1"),
    ],
    ids=["name", "tensor", "nothing", "one"],
)
def test_bad_input_is_refused(loss, views, error, message):
    with pytest.raises(error, match=f"^pairwise: {message}"):
        xl.pairwise(loss, views)
