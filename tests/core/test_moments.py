"""The moments engine: D×D and N×N products give one loss, on both sides of the switch.

The families of tests run mostly on D×D products; here they are forced to either.
"""

import numpy as np
import pytest
import torch
from numpy.testing import assert_allclose
from torch._dynamo.testing import CompileCounterWithBackend
from torch.autograd import gradcheck, gradgradcheck

from harness import Case, to_torch, value_and_grad
from specs import BY_NAME
from tolerances import NAIVE_FACTOR, ROUNDING, SAME
from xmodal_losses._core.moments import energy

SPECS = [BY_NAME[name] for name in ("coral", "barlow_twins", "vicreg")]

# Options under which every term of the loss counts.
OPTIONS = {
    "coral": {"mean_weight": 0.7},
    "coral, relative": {"mean_weight": 0.7, "scale": "relative"},
    "barlow_twins": {"redundancy_weight": 0.8, "eps": 0.1},
    "barlow_twins, hsic": {"convention": "hsic", "redundancy_weight": 0.8, "eps": 0.1},
    "vicreg": {"target_std": 3.0},
}
each_loss = pytest.mark.parametrize(
    ("spec", "options"),
    [(BY_NAME[name.partition(",")[0]], options) for name, options in OPTIONS.items()],
    ids=OPTIONS,
)

CASES = [
    Case(rows=(4, 4), dims=(6, 6)),
    Case(rows=(4, 4), dims=(6, 6), weighted=True),
    Case(rows=(4, 4), dims=(6, 6), lead=(2,)),
    Case(rows=(5, 5), dims=(3, 3), lead=(2, 2), weighted=True),
]


@pytest.fixture
def force(monkeypatch):
    """Return a function that makes the engine take one route."""

    def choose(by_rows):
        monkeypatch.setattr(energy, "by_rows", lambda *args, **kwargs: by_rows)

    return choose


# ------------------------------------------------------------------ both routes


@pytest.mark.parametrize("case", CASES, ids=str)
@each_loss
def test_both_routes_give_the_reference(spec, options, case, force):
    inputs = spec.draw(case, seed=80)
    expected = spec.expected(inputs, **options)
    references = spec.gradient(
        lambda z_a, z_b: spec.reference(**inputs | {"z_a": z_a, "z_b": z_b}, **options),
        [inputs["z_a"], inputs["z_b"]],
    )
    for by_rows in (False, True):
        force(by_rows)
        value, *grads = value_and_grad(spec, inputs, **options)
        assert_allclose(value, expected, rtol=1e-10)
        for grad, reference in zip(grads, references, strict=True):
            assert_allclose(grad, reference, **spec.gradient_tolerance)


@each_loss
def test_columns_of_several_blocks(spec, options, force, monkeypatch):
    """A few columns are in float64 at a time, more often than the inputs here have."""
    inputs = spec.draw(Case(rows=(5, 5), dims=(7, 7), weighted=True), seed=84)
    force(True)
    expected = value_and_grad(spec, inputs, **options)
    monkeypatch.setattr(energy, "_COLUMNS", 3)
    for ours, whole in zip(
        value_and_grad(spec, inputs, **options), expected, strict=True
    ):
        assert_allclose(ours, whole, **SAME)


@pytest.mark.parametrize("by_rows", [False, True])
@pytest.mark.parametrize("weighted", [False, True])
@each_loss
def test_derivatives_of_both_routes(spec, options, weighted, by_rows, force):
    """First, second, and those of the weights."""
    force(by_rows)
    tensors = to_torch(spec.draw(Case((), (4, 4), (3, 3), (2,), weighted), seed=81))
    names = list(tensors)
    for name in spec.weights if weighted else ():
        tensors[name] = (tensors[name] + 0.5).requires_grad_()

    def f(*values):
        inputs = dict(zip(names, values, strict=True))
        return spec(inputs, reduction="none", **options)

    assert gradcheck(f, tuple(tensors.values()))
    assert gradgradcheck(f, tuple(tensors.values()))


@pytest.mark.parametrize("by_rows", [False, True])
@each_loss
def test_a_constant_view_costs_nothing_to_the_other(spec, options, by_rows, force):
    force(by_rows)
    inputs = spec.draw(Case(), seed=82)
    _, *grads = value_and_grad(spec, inputs, **options)
    for name, expected in zip(("z_a", "z_b"), grads, strict=True):
        tensors = to_torch(inputs, grad=False)
        tensors[name].requires_grad_()
        spec(tensors, **options).backward()
        assert_allclose(tensors[name].grad, expected, **SAME)


@pytest.mark.parametrize("by_rows", [False, True])
@each_loss
def test_both_routes_map_and_compile(spec, options, by_rows, force):
    force(by_rows)
    case = Case(rows=(4, 4), dims=(5, 5), lead=(3,))
    tensors = to_torch(spec.draw(case, seed=83), grad=False)

    def f(z_a, z_b):
        return spec({"z_a": z_a, "z_b": z_b}, **options)

    grad = torch.func.grad(f, argnums=(0, 1))
    mapped = torch.func.vmap(grad)(*tensors.values())
    for i in range(3):
        one = [z[i] for z in tensors.values()]
        for got, expected in zip(mapped, grad(*one), strict=True):
            assert_allclose(got[i], expected, **SAME)
    z_a, z_b = tensors.values()
    for k, one_sided in enumerate([(z_a[0], z_b), (z_a, z_b[0])]):
        in_dims = (None, 0) if k == 0 else (0, None)
        mapped = torch.func.vmap(grad, in_dims)(*one_sided)
        same = grad(z_a[2 * k], z_b[2 - 2 * k])
        for got, expected in zip(mapped, same, strict=True):
            assert_allclose(got[2], expected, **SAME)

    torch._dynamo.reset()
    compiled = torch.compile(f, fullgraph=True, backend="aot_eager")
    views = [z.clone().requires_grad_() for z in tensors.values()]
    compiled(*views).backward()
    for view, expected in zip(views, grad(*tensors.values()), strict=True):
        assert_allclose(view.grad, expected, **SAME)


# ------------------------------------------------------------------ the switch


@pytest.mark.parametrize("lead", [(), (3,)])
@pytest.mark.parametrize("weighted", [False, True])
@each_loss
def test_nothing_happens_at_the_switch(spec, options, weighted, lead, monkeypatch):
    """Float32 values and gradients are those of float64 on either side of it."""
    taken = []
    decide = energy.by_rows

    def spy(*args, **kwargs):
        taken.append(decide(*args, **kwargs))
        return taken[-1]

    for dim in range(12, 34, 3):
        case = Case({}, (8, 8), (dim, dim), lead, weighted)
        inputs = spec.draw(case, seed=84)
        inputs = {k: v.astype(np.float32).astype(float) for k, v in inputs.items()}
        truth, *true_grads = value_and_grad(spec, inputs, **options)
        with monkeypatch.context() as patch:
            patch.setattr(energy, "by_rows", spy)
            value, *grads = value_and_grad(spec, inputs, torch.float32, **options)
        assert_allclose(truth, spec.expected(inputs, **options), rtol=1e-10)
        assert_allclose(value, truth, rtol=2e-6)
        for grad, true_grad in zip(grads, true_grads, strict=True):
            assert (grad - true_grad).norm() < 2e-6 * true_grad.norm()
    assert taken == sorted(taken)
    assert not taken[0]
    assert taken[-1]


@pytest.mark.parametrize("spec", [*SPECS, BY_NAME["dcca"]], ids=lambda spec: spec.name)
def test_one_graph_for_all_numbers_of_rows(spec):
    torch._dynamo.reset()
    counter = CompileCounterWithBackend("aot_eager")
    compiled = torch.compile(
        spec.build({}), fullgraph=True, backend=counter, dynamic=True
    )
    for rows in (6, 7, 9, 13, 17, 21, 40, 80):
        views = torch.randn(2, rows, 4).unbind()
        compiled(*(view.requires_grad_() for view in views)).backward()
    assert counter.frame_count <= 2


# ------------------------------------------------------------------ precision

REGIMES = {
    "plain": lambda z_a, z_b: (z_a, z_b),
    "far from the origin": lambda z_a, z_b: (z_a + 1e3, z_b + 1e3),
    "nearly equal": lambda z_a, z_b: (z_a, z_a + 1e-4 * z_b),
    "equal": lambda z_a, z_b: (z_a, z_a.copy()),
    "columns of very different scale": lambda z_a, z_b: (
        np.logspace(-3, 3, z_a.shape[1]) * z_a,
        np.logspace(-3, 3, z_a.shape[1]) * z_b,
    ),
    "one large column": lambda z_a, z_b: (
        np.where(np.arange(z_a.shape[1]) == 0, 1e4, 1) * z_a,
        np.where(np.arange(z_a.shape[1]) == 0, 1e4, 1) * z_b,
    ),
    "few columns alive": lambda z_a, z_b: (
        np.where(np.arange(z_a.shape[1]) < 6, 1, 0) * z_a,
        np.where(np.arange(z_a.shape[1]) < 6, 1, 0) * z_b,
    ),
    "uncorrelated": lambda z_a, z_b: (_white(z_a), _white(z_b)),
    "decorrelated": lambda z_a, z_b: (_white(z_a), _white(z_a) + 1e-3 * z_b),
}


def _white(z):
    """Return rows whose N − 1 first columns are orthogonal, the others repeating."""
    q = np.linalg.qr(z[:, : z.shape[0] - 1] - z[:, : z.shape[0] - 1].mean(0))[0]
    return np.resize(q.T, z.T.shape).T


@pytest.mark.parametrize("regime", REGIMES)
@each_loss
def test_products_of_rows_are_as_precise(spec, options, regime, force):
    """Error at most twice that of D×D products, of the value and of the gradient."""
    inputs = spec.draw(Case(rows=(24, 24), dims=(96, 96)), seed=85)
    z_a, z_b = (np.float32(z) for z in REGIMES[regime](*inputs.values()))
    inputs = {"z_a": z_a.astype(float), "z_b": z_b.astype(float)}
    scale = {"scale": options["scale"]} if "scale" in options else {}
    truth = value_and_grad(spec, inputs, **scale)
    errors = {}
    for by_rows in (False, True):
        force(by_rows)
        errors[by_rows] = [
            float((got - true).norm() / true.norm().clamp_min(1e-12))
            for got, true in zip(
                value_and_grad(spec, inputs, torch.float32, **scale), truth, strict=True
            )
        ]
    for square, rows in zip(errors[False], errors[True], strict=True):
        assert rows <= NAIVE_FACTOR * square + ROUNDING[torch.float32]
