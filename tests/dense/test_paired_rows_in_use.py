"""Rows of two maps in use: losses that take them, dtypes, seeds, graphs, refusals."""

import inspect

import pytest
import torch
import torch.nn.functional as nnf
from hypothesis import given
from hypothesis import strategies as st
from numpy.testing import assert_allclose

import xmodal_losses.functional as F
from dense_maps import METHODS, maps, sample, seeded
from xmodal_losses import dense

# ------------------------------------------------------------------ with the losses


def by_hand(map_a, map_b, positions, weight, radius, temperature):
    """Symmetric InfoNCE within each image, by plain indexing, place by place."""
    losses = []
    for b in range(len(map_a)):
        at = [
            tuple(map(int, p))
            for p, w in zip(positions[b], weight[b], strict=True)
            if w
        ]
        unit_a = [nnf.normalize(map_a[b, :, y, x], dim=0) for x, y in at]
        unit_b = [nnf.normalize(map_b[b, :, y, x], dim=0) for x, y in at]
        for i, (x, y) in enumerate(at):
            far = [
                j
                for j, (u, v) in enumerate(at)
                if j == i or max(abs(x - u), abs(y - v)) > radius
            ]
            a_to_b = torch.stack([unit_a[i] @ unit_b[j] for j in far]) / temperature
            b_to_a = torch.stack([unit_b[i] @ unit_a[j] for j in far]) / temperature
            own = far.index(i)
            loss = a_to_b.logsumexp(0) + b_to_a.logsumexp(0) - a_to_b[own] - b_to_a[own]
            losses.append(loss / 2)
    return torch.stack(losses).mean()


@pytest.mark.parametrize("method", METHODS)
def test_the_loss_of_maps_is_the_loop_over_their_pixels(method):
    inputs = maps(grad=True)
    valid_a = torch.rand(2, 6, 8, generator=seeded(4)) < 0.8
    valid_b = torch.rand(2, 6, 8, generator=seeded(5)) < 0.8
    rows = sample(*inputs, 12, method, valid_a=valid_a, valid_b=valid_b)
    loss = F.info_nce(
        rows.z_a,
        rows.z_b,
        positions=rows.positions,
        exclude_radius=1,
        ids=rows.ids,
        weight=rows.weight,
        temperature=0.2,
    )
    expected = by_hand(*inputs, rows.positions, rows.weight, 1, 0.2)
    assert_allclose(loss.detach(), expected.detach(), rtol=1e-12)
    assert loss > 0.1
    for grad, reference in zip(
        torch.autograd.grad(loss, inputs),
        torch.autograd.grad(expected, inputs),
        strict=True,
    ):
        assert reference.abs().sum() > 0.1
        assert_allclose(grad, reference, rtol=1e-10, atol=1e-14)


@pytest.mark.parametrize("negatives", ["group", "all", "cross"])
def test_every_kind_of_negatives_takes_them(negatives):
    inputs = maps(grad=True)
    rows = sample(*inputs, 12, "stratified", shared=True, jitter=1.0, min_distance=2)
    loss = F.info_nce(
        rows.z_a,
        rows.z_b,
        positions=rows.positions,
        exclude_radius=2,
        ids=rows.ids,
        weight=rows.weight,
        negatives=negatives,
    )
    loss.backward()
    assert all(m.grad.isfinite().all() and m.grad.abs().sum() > 0 for m in inputs)
    assert torch.equal(rows.positions[0], rows.positions[1])


def test_ids_are_labels_where_a_map_tells_classes():
    map_a, map_b = maps()
    classes = torch.randint(3, (2, 6, 8), generator=seeded(1), dtype=torch.uint8)
    rows = sample(map_a, map_b, 10, ids=classes)
    x, y = rows.positions.long().unbind(-1)
    assert torch.equal(rows.ids, classes[torch.arange(2)[:, None], y, x])
    loss = F.sup_con(
        rows.z_a,
        rows.z_b,
        rows.ids,
        rows.ids,
        weight_a=rows.weight,
        weight_b=rows.weight,
    )
    assert loss.isfinite()


@given(method=st.sampled_from(METHODS), shared=st.booleans(), seed=st.integers(0, 1000))
def test_no_two_rows_have_the_same_id_unless_told(method, shared, seed):
    rows = sample(*maps(batch=3), 12, method, shared=shared, generator=seeded(seed))
    assert rows.ids.unique().numel() == 36


# ------------------------------------------------------------------ dtypes, seeds


@pytest.mark.parametrize(
    ("dtype_a", "dtype_b"),
    [
        (torch.float16, torch.float16),
        (torch.bfloat16, torch.float32),
        (torch.float32, torch.float64),
    ],
)
def test_dtypes(dtype_a, dtype_b):
    map_a, map_b = maps()
    map_a, map_b = map_a.to(dtype_a), map_b.to(dtype_b)
    rows = sample(map_a, map_b, 9, jitter=0.5)
    wide = [torch.promote_types(d, torch.float32) for d in (dtype_a, dtype_b)]
    both = torch.promote_types(*wide)
    assert [field.dtype for field in rows] == [*wide, both, torch.int64, both, both]
    exact = dense.gather_rows(map_b.double(), rows.positions_b.double())
    assert_allclose(rows.z_b, exact, rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("method", METHODS)
def test_a_seed_tells_everything(method):
    inputs = maps()
    before = torch.get_rng_state()
    first = sample(*inputs, 9, method, jitter=1.0, generator=seeded(1))
    again = sample(*inputs, 9, method, jitter=1.0, generator=seeded(1))
    other = sample(*inputs, 9, method, jitter=1.0, generator=seeded(2))
    assert torch.equal(torch.get_rng_state(), before)
    assert all(map(torch.equal, first, again))
    assert not torch.equal(first.positions_b, other.positions_b)
    torch.manual_seed(1)
    default = sample(*inputs, 9, method, jitter=1.0, generator=None)
    assert all(map(torch.equal, first, default))


@pytest.mark.cuda
def test_devices():
    inputs = maps(size_b=(12, 16))
    expected = sample(*inputs, 9, jitter=1.0)
    rows = sample(*(m.cuda() for m in inputs), 9, jitter=1.0)
    assert all(field.is_cuda for field in rows)
    for field, reference in zip(rows, expected, strict=True):
        assert_allclose(field.cpu(), reference, rtol=1e-10, atol=1e-12)


@pytest.mark.parametrize("shared", [False, True])
@pytest.mark.parametrize("min_distance", [0.0, 2.0])
@pytest.mark.parametrize("method", METHODS)
def test_no_value_is_looked_at(method, min_distance, shared):
    """Tensors without values are enough, so a device is never waited for."""
    with torch.device("meta"):
        rows = dense.paired_rows(
            torch.zeros(2, 3, 6, 8),
            torch.zeros(2, 5, 12, 16),
            9,
            method=method,
            scores=torch.ones(2, 6, 8) if method == "weighted" else None,
            valid_a=torch.ones(2, 6, 8, dtype=torch.bool),
            valid_b=torch.ones(2, 12, 16, dtype=torch.bool),
            min_distance=min_distance,
            shared=shared,
            offset=torch.zeros(2, 2),
            jitter=1.0,
        )
    assert all(field.is_meta for field in rows)
    shapes = [tuple(field.shape) for field in rows]
    assert shapes == [(2, 9, 3), (2, 9, 5), (2, 9, 2), (2, 9), (2, 9), (2, 9, 2)]


@pytest.mark.slow
@pytest.mark.parametrize("method", METHODS)
def test_it_compiles_without_a_generator(method):
    inputs = maps(size_b=(12, 16), grad=True)
    scores = torch.rand(2, 6, 8) if method == "weighted" else None

    def loss(map_a, map_b):
        rows = dense.paired_rows(
            map_a, map_b, 9, method=method, scores=scores, min_distance=2.0
        )
        loss = F.info_nce(rows.z_a, rows.z_b, weight=rows.weight)
        return loss, rows

    torch._dynamo.reset()
    value, rows = torch.compile(loss, fullgraph=True, backend="aot_eager")(*inputs)
    assert rows.weight.sum() > 4
    grads = torch.autograd.grad(value, inputs)
    at = rows.positions.long(), rows.positions_b
    again = [dense.gather_rows(m, p) for m, p in zip(inputs, at, strict=True)]
    expected = F.info_nce(*again, weight=rows.weight)
    assert_allclose(value.detach(), expected.detach(), rtol=1e-10)
    for grad, reference in zip(
        grads, torch.autograd.grad(expected, inputs), strict=True
    ):
        assert_allclose(grad, reference, rtol=1e-8, atol=1e-12)


# ------------------------------------------------------------------ errors


def test_it_hands_on_what_sampling_takes():
    ours = inspect.signature(dense.paired_rows).parameters
    theirs = inspect.signature(dense.sample_positions).parameters
    for name in set(theirs) - {"like", "valid"}:
        assert ours[name] == theirs[name]


@pytest.mark.parametrize(
    ("argument", "options", "exception"),
    [
        ("map_a", {"map_a": torch.zeros(2, 3, 4, dtype=torch.float64)}, ValueError),
        ("map_a", {"map_a": torch.zeros(2, 3, 4, 5, dtype=torch.int64)}, TypeError),
        ("map_b", {"map_b": torch.zeros(2, 0, 4, 5)}, ValueError),
        ("map_a and map_b", {"map_b": torch.zeros(1, 3, 4, 5)}, ValueError),
        ("map_a and map_b", {"map_b": torch.zeros(2, 3, 4, 5).to("meta")}, ValueError),
        ("num", {"num": 0}, ValueError),
        ("method", {"method": "all"}, ValueError),
        ("scores", {"method": "weighted"}, ValueError),
        ("scores", {"scores": torch.ones(2, 4, 5)}, ValueError),
        ("scores", {"method": "weighted", "scores": torch.ones(2, 6, 7)}, ValueError),
        ("valid_a", {"valid_a": torch.ones(2, 6, 7).bool()}, ValueError),
        ("valid_a", {"valid_a": torch.ones(2, 4, 5)}, TypeError),
        ("valid_b", {"valid_b": torch.ones(2, 4, 5).bool()}, ValueError),
        ("min_distance", {"min_distance": -1}, ValueError),
        ("shared", {"shared": None}, TypeError),
        ("warp", {"warp": torch.zeros(2, 2)}, TypeError),
        ("warp", {"warp": lambda p: p.long()}, TypeError),
        ("warp", {"warp": lambda p: p.tolist()}, TypeError),
        ("warp", {"warp": lambda p: p[:, :3]}, ValueError),
        ("offset", {"offset": (1, 2)}, TypeError),
        ("offset", {"offset": torch.zeros(2)}, ValueError),
        ("jitter", {"jitter": -0.5}, ValueError),
        ("jitter", {"jitter": float("nan")}, ValueError),
        ("jitter", {"jitter": None}, TypeError),
        ("ids", {"ids": torch.zeros(2, 4, 5)}, TypeError),
        ("ids", {"ids": torch.zeros(2, 6, 7).long()}, ValueError),
        ("generator", {"generator": 3}, TypeError),
    ],
)
def test_bad_input_is_refused(argument, options, exception):
    given = {
        "map_a": torch.zeros(2, 3, 4, 5),
        "map_b": torch.zeros(2, 3, 6, 7),
        "num": 4,
    } | options
    tensors = [given.pop(name) for name in ("map_a", "map_b", "num")]
    message = rf"^paired_rows: {argument} must (be|have) .+, got .+"
    with pytest.raises(exception, match=message):
        dense.paired_rows(*tensors, **given)
