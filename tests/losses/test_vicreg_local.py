"""VICReg of places: the reference, the released code, what a place may be."""

import pickle
import re

import numpy as np
import pytest
import torch
from numpy.testing import assert_allclose

import xmodal_losses as xl
import xmodal_losses.functional as F
from reference.gradient import complex_step
from reference.vicreg_local import vicreg_local
from tolerances import GRADIENT, SAME, VALUE
from xmodal_losses import dense

CASES = [
    {},
    {"pooled": True},
    {"weighted": True},
    {"weighted": True, "pooled": True, "lead": (2,)},
    {"lead": (2,), "target_std": 3.0, "covariance_weight": 0.3},
    {"positions": True, "places": (5, 4)},
    {"positions": True, "places": (5, 4), "num_matches": 3},
    {"positions": True, "places": (4, 6), "num_matches": 2, "weighted": True},
    {"positions": True, "lead": (3,), "num_matches": 4, "pooled": True},
    {"matching": "features", "places": (5, 6)},
    {"matching": "features", "num_matches": 2, "eps": 0.01},
    {"matching": "features", "num_matches": 3, "weighted": True, "lead": (2,)},
    {"matching": "features", "pooled": True, "variance_weight": 3.0},
    {"images": 1, "pooled": True},
    {"images": 2, "dim": 7, "invariance_weight": 0.0},
]
each_case = pytest.mark.parametrize("case", CASES, ids=str)


def _draw(
    lead=(),
    images=3,
    places=(5, 5),
    dim=3,
    positions=False,
    weighted=False,
    seed=0,
    **options,
):
    rng = np.random.default_rng(seed)
    p, q = places
    inputs = {
        "z_a": rng.normal(size=(*lead, images, p, dim)),
        "z_b": rng.normal(size=(*lead, images, q, dim)),
    }
    if positions:
        inputs["positions_a"] = rng.uniform(size=(*lead, images, p, 2))
        inputs["positions_b"] = rng.uniform(size=(*lead, images, q, 2))
    if weighted:
        for name, count in (("weight_a", p), ("weight_b", q)):
            weight = rng.uniform(0.2, 2.0, size=(*lead, images, count))
            inputs[name] = weight * (rng.random(weight.shape) < 0.7)
    return inputs, options


def _tensors(inputs, dtype=torch.float64):
    tensors = {name: torch.tensor(array) for name, array in inputs.items()}
    for name in ("z_a", "z_b"):
        tensors[name] = tensors[name].to(dtype).requires_grad_()
    return tensors


@pytest.mark.parametrize("reduction", ["mean", "sum", "none"])
@each_case
def test_value(case, reduction):
    inputs, options = _draw(**case)
    options["reduction"] = reduction
    value = F.vicreg_local(**_tensors(inputs), **options)
    assert_allclose(value.detach(), vicreg_local(**inputs, **options), **VALUE)


@each_case
def test_gradients(case):
    inputs, options = _draw(**case)
    options["reduction"] = "none"
    tensors = _tensors(inputs)
    value = F.vicreg_local(**tensors, **options)
    cotangent = np.random.default_rng(1).normal(size=value.shape)
    (value * torch.tensor(cotangent)).sum().backward()
    rest = {k: v for k, v in inputs.items() if not k.startswith("z_")}

    def f(z_a, z_b):
        return (vicreg_local(z_a, z_b, **rest, **options) * cotangent).sum()

    expected = complex_step(f, [inputs["z_a"], inputs["z_b"]])
    for name, gradient in zip(("z_a", "z_b"), expected, strict=True):
        assert_allclose(tensors[name].grad, gradient, **GRADIENT)


@pytest.mark.parametrize("case", CASES[2::3], ids=str)
def test_first_and_second_derivatives(case):
    inputs, options = _draw(**case)
    tensors = _tensors(inputs)
    rest = {k: v for k, v in tensors.items() if not k.startswith("z_")}

    def f(z_a, z_b):
        return F.vicreg_local(z_a, z_b, **rest, **options)

    views = tensors["z_a"], tensors["z_b"]
    assert torch.autograd.gradcheck(f, views)
    assert torch.autograd.gradgradcheck(f, views)


# --------------------------------------------------------------------------------------
# Other spellings
# --------------------------------------------------------------------------------------


def _as_published(x, y):
    """The authors' criterion of matched maps (N, K, D), of which K are slots."""
    invariance = torch.nn.functional.mse_loss(x, y)
    hinge = covariance = 0.0
    for z in (x, y):
        hinge = hinge + (1 - (z.var(0) + 1e-4).sqrt()).relu().mean() / 2
        z = (z - z.mean(0)).transpose(0, 1)
        c = torch.einsum("knc,knd->kcd", z, z) / (z.shape[1] - 1)
        off = c[:, ~torch.eye(c.shape[-1], dtype=torch.bool)].square().sum(-1)
        covariance = covariance + (off / c.shape[-1]).mean() / 2
    return 25 * invariance + 25 * hinge + covariance


def _kept(distance, count):
    """Their choice of pairs: by rank of the distance, in the order of places."""
    nearest, partner = distance.min(-1)
    ranks = nearest.argsort(1).argsort(1)
    kept = [row.nonzero()[:, 0] for row in ranks < count]
    return torch.stack(kept), torch.stack(
        [row[places] for row, places in zip(partner, kept, strict=True)]
    )


@pytest.mark.parametrize("by", ["positions", "features"])
@pytest.mark.parametrize("count", [20, 7])
def test_the_released_code(by, count):
    inputs, _ = _draw(images=6, places=(20, 24), positions=True)
    tensors = _tensors(inputs)
    z = tensors["z_a"], tensors["z_b"]
    if by == "features":
        told, where = {"matching": "features"}, z
    else:
        where = tensors["positions_a"], tensors["positions_b"]
        told = {"positions_a": where[0], "positions_b": where[1]}
    value = F.vicreg_local(*z, num_matches=count, **told)
    expected = 0.0
    for (x, here), (y, there) in (
        ((z[0], where[0]), (z[1], where[1])),
        ((z[1], where[1]), (z[0], where[0])),
    ):
        with torch.no_grad():
            mine, theirs = _kept(torch.cdist(here, there), count)
        image = torch.arange(6)[:, None]
        expected = expected + _as_published(x[image, mine], y[image, theirs]) / 2
    assert_allclose(value.detach(), expected.detach(), rtol=1e-12)
    for ours, theirs in zip(
        torch.autograd.grad(value, z), torch.autograd.grad(expected, z), strict=True
    ):
        assert_allclose(ours, theirs, rtol=1e-9, atol=1e-12)


def test_registered_places_are_vicreg_of_each():
    inputs, _ = _draw()
    z_a, z_b = (torch.tensor(inputs[name]) for name in ("z_a", "z_b"))
    value = F.vicreg_local(z_a, z_b)
    each = [F.vicreg(z_a[:, p], z_b[:, p], convention="vicregl") for p in range(5)]
    assert_allclose(value, torch.stack(each).mean(), **SAME)
    pooled = F.vicreg_local(z_a, z_b, pooled=True)
    rows = z_a.flatten(0, 1), z_b.flatten(0, 1)
    assert_allclose(pooled, F.vicreg(*rows, convention="vicregl"), **SAME)


def test_positions_that_tell_what_is_known():
    """A permuted copy of the places: each finds itself again."""
    inputs, _ = _draw(positions=True)
    z_a, z_b = (torch.tensor(inputs[name]) for name in ("z_a", "z_b"))
    places = torch.tensor(inputs["positions_a"])
    order = torch.tensor([3, 0, 4, 1, 2])
    moved = {"positions_a": places, "positions_b": places[:, order] + 1e-6}
    for pooled in (False, True):
        value = F.vicreg_local(z_a, z_b[:, order], pooled=pooled, **moved)
        known = F.vicreg_local(z_a, z_b, pooled=pooled)
        assert_allclose(value, known, **SAME)


def test_rows_of_the_dense_bridge():
    """Registered maps, chosen places, their weights: one call each."""
    generator = torch.Generator().manual_seed(0)
    rgb, ir = torch.randn(2, 3, 8, 9, 11, generator=generator)
    valid = torch.ones(3, 9, 11, dtype=torch.bool)
    valid[1, :, 2:] = False
    rows = dense.paired_rows(rgb, ir, 30, valid_a=valid, generator=generator)
    value = F.vicreg_local(rows.z_a, rows.z_b, weight_a=rows.weight, pooled=True)
    some = rows.weight.bool()
    expected = F.vicreg(rows.z_a[some], rows.z_b[some], convention="vicregl")
    assert some.sum() < 90
    assert_allclose(value, expected, rtol=1e-5)


# --------------------------------------------------------------------------------------
# What a place may be
# --------------------------------------------------------------------------------------


@pytest.mark.parametrize("pooled", [False, True])
@pytest.mark.parametrize("by", ["known", "positions", "features"])
def test_places_without_weight_are_not_there(by, pooled):
    inputs, _ = _draw(images=5, places=(6, 6), positions=by == "positions")
    for name in ("a", "b"):
        inputs[f"weight_{name}"] = np.ones((5, 6))
        inputs[f"weight_{name}"][:, -2:] = 0.0
    options = {"pooled": pooled}
    if by == "features":
        options["matching"] = "features"
    there = {name: array[:, :4] for name, array in inputs.items()}
    expected = F.vicreg_local(**_tensors(there), **options)
    for name, array in inputs.items():
        if not name.startswith("weight"):
            array[:, -2:] = np.nan
    tensors = _tensors(inputs)
    value = F.vicreg_local(**tensors, **options)
    value.backward()
    assert_allclose(value.detach(), expected.detach(), **SAME)
    for name in ("z_a", "z_b"):
        assert (tensors[name].grad[:, -2:] == 0).all()
        assert tensors[name].grad.isfinite().all()


@pytest.mark.parametrize("case", CASES[:12:2], ids=str)
def test_no_weight_at_all(case):
    inputs, options = _draw(**case | {"lead": (2,)})
    for name in ("a", "b"):
        weight = np.ones(inputs[f"z_{name}"].shape[:-1])
        weight[1] = 0.0
        inputs[f"weight_{name}"] = weight
    tensors = _tensors(inputs)
    values = F.vicreg_local(**tensors, **options, reduction="none")
    assert values[1] == 0
    assert values[0] > 0
    mean = F.vicreg_local(**tensors, **options)
    assert_allclose(mean.detach(), values[0].detach())
    values.sum().backward()
    assert (tensors["z_a"].grad[1] == 0).all()
    assert tensors["z_a"].grad.isfinite().all()


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@each_case
def test_finite_where_singular(case, dtype):
    inputs, options = _draw(**case)
    for change in ("equal views", "constant", "zero", "equal places"):
        some = {name: array.copy() for name, array in inputs.items()}
        for name in ("z_a", "z_b"):
            if change == "constant":
                some[name][:] = 0.4
            elif change == "zero":
                some[name][:] = 0.0
            elif change == "equal places":
                some[name][:] = some[name][..., :1, :]
            elif some["z_b"].shape == some["z_a"].shape:
                some["z_b"] = some["z_a"]
        tensors = _tensors(some, dtype)
        value = F.vicreg_local(**tensors, **options)
        value.backward()
        assert value.isfinite()
        assert value.dtype == dtype
        for name in ("z_a", "z_b"):
            assert tensors[name].grad.isfinite().all()


def test_a_large_mean_does_not_mislead():
    """Partners by features are found about a common point."""
    inputs, options = _draw(images=3, places=(40, 40), dim=8, matching="features")
    exact = F.vicreg_local(**_tensors(inputs), **options)
    inputs = {name: array + 1e3 for name, array in inputs.items()}
    tensors = _tensors(inputs, torch.float32)
    assert_allclose(F.vicreg_local(**tensors, **options).detach(), exact.detach(), 1e-3)


def test_far_positions_in_float32_are_told_apart():
    """Pixels of a large map, a tenth of one apart."""
    inputs, _ = _draw(places=(40, 40))
    z_a, z_b = (torch.tensor(inputs[name]) for name in ("z_a", "z_b"))
    places = torch.arange(40.0)[:, None] * 0.1 + torch.tensor([9000.0, 7000.0])
    places = places.expand(3, 40, 2)
    value = F.vicreg_local(z_a, z_b, positions_a=places, positions_b=places)
    assert_allclose(value, F.vicreg_local(z_a, z_b), **SAME)


@pytest.mark.parametrize("case", [CASES[3], CASES[6], CASES[11]], ids=str)
def test_compiles_and_ignores_autocast(case):
    inputs, options = _draw(**case)
    module = xl.VICRegLocalLoss(**options)
    tensors = _tensors(inputs, torch.float32)
    value = module(**tensors)
    grads = torch.autograd.grad(value, (tensors["z_a"], tensors["z_b"]))
    with torch.autocast("cpu", torch.bfloat16):
        assert torch.equal(module(**tensors), value)
    torch._dynamo.reset()
    compiled = torch.compile(module, fullgraph=True, backend="aot_eager")
    again = compiled(**tensors)
    assert_allclose(again.detach(), value.detach(), rtol=1e-5)
    same = torch.autograd.grad(again, (tensors["z_a"], tensors["z_b"]))
    for grad, expected in zip(same, grads, strict=True):
        assert_allclose(grad, expected, rtol=1e-4, atol=1e-6)


def test_the_module_is_the_function():
    inputs, _ = _draw(positions=True)
    options = {"num_matches": 3, "target_std": 2.0, "pooled": True}
    module = xl.VICRegLocalLoss(**options)
    tensors = _tensors(inputs)
    expected = F.vicreg_local(**tensors, **options)
    for twin in (module, pickle.loads(pickle.dumps(module))):
        assert torch.equal(twin(**tensors), expected)
    assert "num_matches=3" in repr(module)
    assert module.state_dict() == {}


# --------------------------------------------------------------------------------------
# Bad input
# --------------------------------------------------------------------------------------

Z = torch.zeros(4, 5, 3)
BAD = [
    ({"z_a": torch.zeros(5, 3)}, ValueError, "z_a and z_b must have the same leading"),
    ({"z_b": torch.zeros(3, 5, 3)}, ValueError, "z_a and z_b must have the same lead"),
    ({"z_b": torch.zeros(4, 5, 2)}, ValueError, "z_a and z_b must have the same numb"),
    ({"z_b": torch.zeros(4, 6, 3)}, ValueError, "z_a and z_b must have the same plac"),
    ({"z_a": Z[:1], "z_b": Z[:1]}, ValueError, "z_a must have at least 2 images"),
    ({"z_a": Z.long()}, TypeError, "z_a must be a floating-point tensor"),
    ({"positions_a": Z}, ValueError, "positions_a and positions_b must be given both"),
    ({"positions_a": Z, "positions_b": Z[:, :4]}, ValueError, "positions_b must be of"),
    ({"weight_a": Z}, ValueError, "weight_a must be of shape"),
    (
        {"positions_a": Z, "positions_b": Z, "matching": "features"},
        ValueError,
        "positions_a must be None with matching='features'",
    ),
    ({"num_matches": 3}, ValueError, "num_matches must be None where partners are"),
    ({"num_matches": 6, "matching": "features"}, ValueError, "num_matches must be in"),
    ({"num_matches": 0, "matching": "features"}, ValueError, "num_matches must be >= "),
    ({"matching": "nearest"}, ValueError, "matching must be one of"),
    ({"pooled": 1}, TypeError, "pooled must be True or False"),
    ({"eps": -1.0}, ValueError, "eps must be a finite number >= 0"),
    ({"covariance_weight": -1.0}, ValueError, "covariance_weight must be a finite"),
]


@pytest.mark.parametrize(("bad", "error", "message"), BAD, ids=lambda v: str(v)[:30])
def test_bad_input_is_refused(bad, error, message):
    arguments = {"z_a": Z, "z_b": Z, **bad}
    with pytest.raises(error, match="^vicreg_local: " + re.escape(message)):
        F.vicreg_local(**arguments)


@pytest.mark.parametrize(
    "options", [{"matching": "nearest"}, {"num_matches": 0}, {"variance_weight": -1.0}]
)
def test_bad_options_are_refused_by_the_constructor(options):
    with pytest.raises(ValueError, match=r"^VICRegLocalLoss: "):
        xl.VICRegLocalLoss(**options)
