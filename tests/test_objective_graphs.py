"""An objective term by term: shares of the gradient, and one graph at a time."""

import gc
import weakref

import pytest
import torch
from numpy.testing import assert_allclose
from torch import nn

import xmodal_losses as xl
import xmodal_losses.functional as F
from test_objective import N, Power, by_hand, close, gradients, recipe, views
from xmodal_losses import CrossModalObjective, Term

# ------------------------------------------------------------------ gradient shares


@pytest.mark.parametrize("lean", [False, True])
@pytest.mark.parametrize("weighted", [False, True])
def test_norms_are_those_of_the_gradients_by_hand(lean, weighted):
    z_a, z_b = views(10)
    weight = torch.rand(N, dtype=torch.float64) if weighted else None
    objective = CrossModalObjective(
        recipe() | {"off": Term(Power(), weight=0.0)}, lean=lean
    )
    without_off = CrossModalObjective(
        {n: t for n, t in objective.terms.items() if n != "off"}
    )
    _, parts = by_hand(without_off, z_a, z_b, weight)
    value = objective(z_a, z_b, weight=weight, gradient_norms=True)
    norms = {
        name: torch.cat(gradients(part, (z_a, z_b))).norm()
        for name, part in parts.items()
    } | {"off": torch.zeros(())}
    assert list(value.gradient_norms) == list(norms)
    for name, norm in norms.items():
        assert_allclose(value.gradient_norms[name], norm, rtol=1e-11, err_msg=name)
        share = norm / sum(norms.values())
        assert_allclose(value.gradient_shares[name], share, rtol=1e-11, err_msg=name)
    # The rest of the answer is the same.
    total, _ = by_hand(without_off, z_a, z_b, weight)
    tensors = (z_a, z_b, *without_off.parameters())
    assert_allclose(value.total.detach(), total.detach(), rtol=1e-13)
    close(gradients(value.total, tensors), gradients(total, tensors), rtol=1e-11)


def test_norms_without_a_graph():
    """Of stored projections, or where gradients are off."""
    z_a, z_b = views(11)
    objective = CrossModalObjective()
    expected = objective(z_a, z_b, gradient_norms=True)
    stored = objective(z_a.detach(), z_b.detach(), gradient_norms=True)
    with torch.no_grad():
        off = objective(z_a, z_b, gradient_norms=True)
    for value in (stored, off):
        assert not value.total.requires_grad
        assert value.gradient_norms == expected.gradient_norms
    with torch.no_grad():
        lean = CrossModalObjective(lean=True)(z_a, z_b)
    assert torch.equal(lean.total, expected.total)


# ------------------------------------------------------------------ one graph at a time


@pytest.mark.parametrize("upstream", [1.0, -3.0, 1024.0])
def test_lean_gradients_are_scaled_and_accumulate(upstream):
    """Those of the learned temperature and bandwidth, too; backward adds to .grad."""
    found = {}
    for lean in (False, True):
        z_a, z_b = views(12)
        objective = CrossModalObjective(recipe(), lean=lean)
        for _ in range(2):
            (upstream * objective(z_a, z_b).total + z_a.sum()).backward()
        found[lean] = [z.grad for z in (z_a, z_b, *objective.parameters())]
    assert all(grad.abs().max() > 0 for grad in found[False])
    close(found[True], found[False], rtol=1e-10)


def test_a_parameter_of_two_terms_gets_both_gradients():
    shared = nn.Parameter(torch.tensor(1.3, dtype=torch.float64))
    terms = {
        name: Term(xl.MMDLoss(kernel=xl.GaussianKernel(shared)), weight=weight)
        for name, weight in (("one", 0.3), ("two", 0.5))
    }
    terms["two"] = Term(terms["two"].loss, weight=0.5, input="embedding")
    z_a, z_b = views(13)
    found = [
        gradients(CrossModalObjective(terms, lean=lean)(z_a, z_b).total, [shared])
        for lean in (False, True)
    ]
    close(found[1], found[0], rtol=1e-12)


class _Alive:
    """Counts the bytes that graphs keep for their backward pass."""

    def __init__(self):
        self.now = self.peak = 0

    def __enter__(self):
        self._hooks = torch.autograd.graph.saved_tensors_hooks(self._pack, self._unpack)
        self._hooks.__enter__()
        return self

    def __exit__(self, *args):
        self._hooks.__exit__(*args)

    def _pack(self, tensor):
        kept = _Kept(tensor.detach())
        self.now += tensor.nbytes
        self.peak = max(self.peak, self.now)
        weakref.finalize(kept, self._freed, tensor.nbytes)
        return kept

    def _freed(self, size):
        self.now -= size

    @staticmethod
    def _unpack(kept):
        return kept.tensor


class _Kept:
    def __init__(self, tensor):
        self.tensor = tensor


class Many(nn.Module):
    """A loss whose graph keeps so many copies of the rows."""

    def __init__(self, copies):
        super().__init__()
        self.copies = copies

    def forward(self, z_a, z_b):
        for _ in range(self.copies):
            z_a = (z_a * z_b).tanh()
        return z_a.mean()


@pytest.mark.parametrize("gradient_norms", [False, True])
def test_lean_keeps_the_largest_graph_not_the_sum(gradient_norms):
    gc.collect()
    terms = {f"term_{k}": Term(Many(k), weight=0.5) for k in (4, 8, 6, 2)}
    z_a, z_b = views(14, rows=64, dim=32)
    alone = []
    for term in terms.values():
        with _Alive() as alive:
            value = term.loss(z_a, z_b)
        alone.append(alive.peak)
        del value
    peaks = {}
    for lean in (False, True):
        objective = CrossModalObjective(terms, lean=lean)
        with _Alive() as alive:
            value = objective(z_a, z_b, gradient_norms=lean and gradient_norms)
            held = alive.now
        peaks[lean] = alive.peak
        kept = sum(z.nbytes for z in (z_a, z_b))
        assert held == (kept if lean else alive.peak)
        value.total.backward()
        del value
    small = 64  # scalars
    assert peaks[False] >= sum(alone)
    # The largest graph, and the gradients of both inputs, which wait for `backward`.
    assert peaks[True] <= max(alone) + small
    assert peaks[True] < 0.5 * peaks[False]


def test_lean_graph_is_gone_before_the_next_one_begins():
    z_a, z_b = views(15)
    alive = _Alive()
    seen = []

    class Watching(nn.Module):
        def forward(self, z_a, z_b):
            seen.append(alive.now)
            return (z_a * z_b).exp().mean()

    terms = {name: Term(Watching(), input="embedding") for name in ("a", "b", "c")}
    for lean in (False, True):
        with alive:
            value = CrossModalObjective(terms, lean=lean)(z_a, z_b)
        del value
    first, second, third, *lean = seen
    assert first < second < third
    assert lean == [first] * 3  # the unit rows, which all see


def test_lean_has_no_second_derivative():
    z_a, z_b = views(16)
    for value in (
        CrossModalObjective(lean=True)(z_a, z_b),
        CrossModalObjective()(z_a, z_b, gradient_norms=True),
    ):
        with pytest.raises(
            RuntimeError, match=r"^backward: create_graph must be False"
        ):
            torch.autograd.grad(value.total, z_a, create_graph=True)
    plain = CrossModalObjective({"near": Term(Power(3.0))})(z_a, z_b)
    (first,) = torch.autograd.grad(plain.total, z_a, create_graph=True)
    assert torch.autograd.grad(first.sum(), z_b)[0].abs().max() > 0


@pytest.mark.parametrize("lean", [False, True])
def test_small_gradients_survive_float16(lean):
    """What a gradient scaler multiplies has not been rounded to 0 before."""
    z_a, z_b = (z.half().detach().requires_grad_() for z in views(17, rows=64, dim=32))
    objective = CrossModalObjective({"align": Term(xl.CORALLoss(), weight=1e-6)})
    objective.lean = lean
    (2.0**20 * objective(z_a, z_b).total).backward()
    assert z_a.grad.dtype == torch.float16
    wide = [z.detach().double().requires_grad_() for z in (z_a, z_b)]
    (expected,) = gradients(2.0**20 * 1e-6 * F.coral(*wide), wide[:1])
    error = (z_a.grad.double() - expected).norm() / expected.norm()
    assert error < 1e-3


@pytest.mark.parametrize("lean", [False, True])
@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16, torch.float32])
def test_dtypes_and_autocast(lean, dtype):
    z_a, z_b = (z.detach().to(dtype).requires_grad_() for z in views(18))
    objective = CrossModalObjective(
        {n: t for n, t in recipe().items() if n not in ("near", "apart")}, lean=lean
    )
    value = objective(z_a, z_b)
    wide = [z.detach().double().requires_grad_() for z in (z_a, z_b)]
    assert_allclose(value.total.detach(), objective(*wide).total.detach(), rtol=1e-5)
    grads = gradients(value.total, (z_a, z_b))
    with torch.autocast("cpu", torch.bfloat16):
        cast = objective(z_a, z_b)
        assert torch.equal(cast.total, value.total)
    close(gradients(cast.total, (z_a, z_b)), grads)
    assert all(grad.dtype == dtype for grad in grads)
