"""RunningMoments: averages without bias, gradients of the batch, state, ranks."""

import copy
import pickle

import numpy as np
import pytest
import torch
from numpy.testing import assert_allclose

import xmodal_losses as xl
from harness import Case, to_torch
from specs import BY_NAME

LOSSES = {
    "dcca": {"ridge": 0.1},
    "coral": {"mean_weight": 0.5},
    "barlow_twins": {"eps": 0.1},
    "vicreg": {},
    "soft_decorrelation": {},
}
each_loss = pytest.mark.parametrize("name", LOSSES)


def _made(name, momentum=0.8, dims=(4, 4)):
    criterion = BY_NAME[name].build(LOSSES[name])
    return xl.RunningMoments(criterion, *dims, momentum=momentum)


def _batches(name, count=4, rows=9, weighted=False):
    case = Case(rows=(rows, rows), weighted=weighted)
    return [to_torch(BY_NAME[name].draw(case, 90 + i)) for i in range(count)]


def _moments(batch):
    """Return what any of the losses looks at, from numpy."""
    a, b = (batch[name].detach().numpy() for name in ("z_a", "z_b"))
    joint = np.cov(a.T, b.T)
    d = a.shape[1]
    return {
        "aa": joint[:d, :d],
        "bb": joint[d:, d:],
        "ab": joint[:d, d:],
        "variance_a": np.diag(joint)[:d],
        "variance_b": np.diag(joint)[d:],
        "mean_gap": a.mean(0) - b.mean(0),
        "square_gap": ((a - b) ** 2).sum(1).mean(),
    }


@each_loss
def test_moments_are_weighted_by_age(name):
    running, m = _made(name), 0.8
    batches = _batches(name)
    for t, batch in enumerate(batches, 1):
        running(**batch)
        weights = np.array([m ** (t - s) for s in range(1, t + 1)]) * (1 - m)
        assert_allclose(running.norm, weights.sum(), rtol=1e-14)
        assert_allclose(running.norm, 1 - m**t, rtol=1e-14)
        for key in running._names:
            expected = sum(
                w * _moments(b)[key] for w, b in zip(weights, batches, strict=False)
            )
            got = getattr(running, f"running_{key}")
            assert_allclose(got, expected, rtol=1e-10, atol=1e-12)


@each_loss
def test_the_first_batch_and_batches_alike_have_their_own_loss(name):
    running = _made(name)
    (batch,) = _batches(name, 1)
    expected = running.criterion(**batch)
    expected.backward()
    grads = [batch[view].grad.clone() for view in ("z_a", "z_b")]
    for t in range(1, 4):
        batch["z_a"].grad = batch["z_b"].grad = None
        value = running(**batch)
        assert_allclose(value.detach(), expected.detach(), rtol=1e-10)
        value.backward()
        share = 0.2 / (1 - 0.8**t)  # of the moments that is its own
        for view, grad in zip(("z_a", "z_b"), grads, strict=True):
            assert_allclose(batch[view].grad, share * grad, rtol=1e-8, atol=1e-11)


@each_loss
def test_gradient_is_that_of_the_value(name):
    """By differences, from the same state."""
    running = _made(name)
    *before, batch = _batches(name)
    for one in before:
        running(**one)
    state = copy.deepcopy(running.state_dict())
    running(**batch).backward()
    direction = torch.randn_like(batch["z_a"])
    values = []
    for step in (1e-5, -1e-5):
        running.load_state_dict(state)
        moved = batch | {"z_a": batch["z_a"].detach() + step * direction}
        values.append(running(**moved).detach())
    difference = (values[0] - values[1]) / 2e-5
    assert_allclose((batch["z_a"].grad * direction).sum(), difference, rtol=1e-6)


@each_loss
def test_momentum_zero_is_the_criterion(name):
    running = _made(name, momentum=0.0)
    for batch in _batches(name, weighted=True):
        value = running(**batch)
        assert_allclose(value.detach(), running.criterion(**batch).detach(), rtol=1e-9)


@each_loss
def test_evaluation_looks_at_the_batch_alone(name):
    running = _made(name)
    first, second = _batches(name, 2)
    running(**first)
    state = copy.deepcopy(running.state_dict())
    running.eval()
    assert torch.equal(running(**second), running.criterion(**second))
    for key, buffer in running.state_dict().items():
        assert torch.equal(buffer, state[key])


@each_loss
def test_rows_and_batches_without_weight_are_not_there(name):
    running, other = _made(name), _made(name)
    batches = _batches(name, weighted=True)
    for i, batch in enumerate(batches):
        weights = [k for k in batch if k.startswith("weight")]
        kept = {k: v[[0, *range(2, 9)]].detach() for k, v in batch.items()}
        with torch.no_grad():
            batch["z_a"][1] = batch["z_b"][1] = torch.nan
        value = running(**batch)
        assert_allclose(value.detach(), other(**kept), rtol=1e-9)
        nothing = batch | {w: torch.zeros(9, dtype=torch.float64) for w in weights}
        again = running(**nothing)
        again.backward()
        assert_allclose(again.detach(), value.detach(), rtol=1e-12)
        assert (batch["z_a"].grad == 0).all(), i
    fresh = _made(name)
    assert fresh(**nothing) == 0
    assert fresh.norm == 0


@each_loss
def test_state(name):
    batches = _batches(name)
    running = _made(name)
    for batch in batches[:2]:
        running(**batch)
    assert running.criterion.state_dict() == {}
    twin = _made(name)
    twin.load_state_dict(running.state_dict())
    copies = [twin, copy.deepcopy(running), pickle.loads(pickle.dumps(running))]
    expected = running(**batches[2])
    for other in copies:
        assert torch.equal(other(**batches[2]), expected)
        assert repr(other) == repr(running)
    running.reset()
    assert_allclose(
        running(**batches[0]).detach(),
        running.criterion(**batches[0]).detach(),
        rtol=1e-9,
    )


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16], ids=str)
@each_loss
def test_dtypes(name, dtype):
    running = _made(name)
    (batch,) = _batches(name, 1)
    batch = {k: v.detach().to(dtype).requires_grad_() for k, v in batch.items()}
    with torch.autocast("cpu", torch.bfloat16):
        value = running(**batch)
    value.backward()
    assert value.dtype == torch.float32
    assert batch["z_a"].grad.dtype == dtype
    assert_allclose(value.detach(), running.criterion(**batch).detach(), rtol=1e-5)


def test_small_batches_see_correlations_that_are_there():
    """Batches of 24 rows of 8 + 8 columns: the loss of all data is −1.2."""
    generator = torch.Generator().manual_seed(0)
    rho = torch.tensor([0.8, 0.4, 0, 0, 0, 0, 0, 0], dtype=torch.float64)

    def batch(n):
        a, own = torch.randn(2, n, 8, dtype=torch.float64, generator=generator)
        return a, rho * a + (1 - rho**2).sqrt() * own

    criterion = xl.DCCALoss(objective="frobenius", ridge=1e-4)
    truth = -float((rho**2).sum())
    running = xl.RunningMoments(criterion, 8, 8, momentum=0.98)
    alone = []
    for _ in range(300):
        a, b = batch(24)
        value = running(a, b)
        alone.append(criterion(a, b))
    assert torch.stack(alone).mean() < truth - 2  # chance alone: 64/23
    assert abs(value - truth) < 0.25


def test_errors():
    criterion = xl.DCCALoss()
    z = torch.randn(6, 4)
    running = xl.RunningMoments(criterion, 4, 4)

    def refused(error, text, call):
        with pytest.raises(error, match=f"^RunningMoments: {text}"):
            call()

    refused(
        TypeError,
        "criterion must be CORALLoss",
        lambda: xl.RunningMoments(xl.MMDLoss(), 4, 4),
    )
    refused(ValueError, "dim_a must be", lambda: xl.RunningMoments(criterion, 0, 4))
    refused(TypeError, "dim_b must be", lambda: xl.RunningMoments(criterion, 4, 4.0))
    for m in (-0.1, 1.0):
        refused(
            ValueError,
            "momentum must be a finite number >= 0 and < 1",
            lambda m=m: xl.RunningMoments(criterion, 4, 4, momentum=m),
        )
    refused(ValueError, r"z_b must be of shape \(N, 4\)", lambda: running(z, z[:, :3]))
    refused(
        ValueError, r"z_a must be of shape \(N, 4\)", lambda: running(z[None], z[None])
    )
    refused(ValueError, "z_a and z_b must have the same", lambda: running(z, z[:5]))
    refused(
        ValueError,
        "weight_a must be None",
        lambda: running(z, z, weight_a=torch.ones(6)),
    )
    refused(
        ValueError,
        "weight must be of shape",
        lambda: running(z, z, weight=torch.ones(5)),
    )
    sides = xl.RunningMoments(xl.CORALLoss(), 4, 4)
    for name in ("weight_a", "weight_b"):
        refused(
            ValueError,
            f"{name} must be of shape",
            lambda name=name: sides(z, z, **{name: torch.ones(5)}),
        )
    value = running(z.requires_grad_(), z.detach())
    with pytest.raises(RuntimeError, match="create_graph must be False"):
        torch.autograd.grad(value, z, create_graph=True)
