"""The queue is a deque of numpy rows; it resumes, is safe in a graph, and compiles."""

import copy
import io
import pickle
import shutil

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

import xmodal_losses as xl
import xmodal_losses.functional as F
from reference import embedding_queue
from waiting import without_waiting

DIM = 3


def batch(rows, seed=0, weighted=False, ids=False, lead=()):
    """Return the arguments of a call as arrays."""
    rng = np.random.default_rng(seed)
    shape = (*lead, rows)
    arrays = {name: rng.normal(size=(*shape, DIM)) for name in ("z_a", "z_b")}
    arrays = {name: array.astype(np.float32) for name, array in arrays.items()}
    if ids:
        arrays["ids"] = rng.integers(-(2**62), 2**62, size=shape)
    if weighted:
        arrays["weight"] = rng.choice([0.0, 0.0, 0.3, 2.0], size=shape)
        for name in ("z_a", "z_b"):
            arrays[name][arrays["weight"] == 0] = np.nan
    return arrays


def tensors(arrays):
    return {name: torch.tensor(array) for name, array in arrays.items()}


def content(queue):
    """Return the pairs that are negatives, whatever their order."""
    a, b, ids, valid = queue.negatives()
    numbers = [None] * queue.size if ids is None else ids.tolist()
    pairs = zip(map(tuple, a.tolist()), map(tuple, b.tolist()), numbers, strict=True)
    return [pair for pair, there in zip(pairs, valid.tolist(), strict=True) if there]


def by_age(queue):
    """Return the pairs from the oldest to the newest, by what the state says."""
    a, b, ids, _ = queue.negatives()
    total = int(queue.enqueued)
    slots = np.arange(max(0, total - queue.size), total) % queue.size
    numbers = [None] * queue.size if ids is None else ids.tolist()
    return [(tuple(a[s].tolist()), tuple(b[s].tolist()), numbers[s]) for s in slots]


def assert_is(queue, reference):
    assert int(queue.enqueued) == reference.entered
    pairs = list(reference.pairs)
    assert by_age(queue) == pairs  # no value is changed on its way
    assert sorted(content(queue), key=str) == sorted(pairs, key=str)


def fed(*batches, size=5, with_ids=False):
    """Return a queue that these batches have entered."""
    queue = xl.EmbeddingQueue(size, DIM, with_ids=with_ids)
    for arrays in batches:
        queue.enqueue(**tensors(arrays))
    return queue


# ------------------------------------------------------------------ what is in it


def test_it_starts_empty():
    queue = xl.EmbeddingQueue(4, DIM)
    a, b, ids, valid = queue.negatives()
    assert a.shape == b.shape == (4, DIM)
    assert ids is None
    assert valid.dtype == torch.bool
    assert not valid.any()
    # What is not there is finite, so that a mask is enough to leave it out.
    assert a.isfinite().all()
    assert b.isfinite().all()
    assert xl.EmbeddingQueue(4, DIM, with_ids=True).negatives().ids.shape == (4,)


@given(
    size=st.integers(1, 9),
    with_ids=st.booleans(),
    calls=st.lists(
        st.tuples(
            st.integers(0, 21), st.booleans(), st.sampled_from([(), (2,), (2, 0), (3,)])
        ),
        max_size=6,
    ),
)
def test_any_sequence_of_batches(size, with_ids, calls):
    queue = xl.EmbeddingQueue(size, DIM, with_ids=with_ids)
    reference = embedding_queue.EmbeddingQueue(size)
    for seed, (rows, weighted, lead) in enumerate(calls):
        arrays = batch(rows, seed, weighted, with_ids, lead)
        queue.enqueue(**tensors(arrays))
        reference.enqueue(**arrays)
        assert_is(queue, reference)


@pytest.mark.parametrize("rows", range(1, 14))
def test_every_boundary(rows):
    """A batch that ends before, at and after the end of the queue, from every slot."""
    for start in range(6):
        queue = xl.EmbeddingQueue(5, DIM)
        reference = embedding_queue.EmbeddingQueue(5)
        for arrays in (batch(start, 1), batch(rows, 2), batch(2, 3)):
            queue.enqueue(**tensors(arrays))
            reference.enqueue(**arrays)
            assert_is(queue, reference)


def test_the_oldest_is_overwritten_first():
    rows = torch.arange(7.0).unsqueeze(-1)
    queue = xl.EmbeddingQueue(3, 1)
    for row in rows.split(1):
        queue.enqueue(row, -row)
    assert sorted(queue.negatives().a.flatten().tolist()) == [4, 5, 6]
    assert sorted(queue.negatives().b.flatten().tolist()) == [-6, -5, -4]
    queue.enqueue(rows, -rows)  # more than there is room for
    assert sorted(queue.negatives().a.flatten().tolist()) == [4, 5, 6]


@pytest.mark.parametrize("dtype", [torch.bool, torch.int64, torch.float32])
def test_rows_of_weight_zero_do_not_enter(dtype):
    z = torch.full((4, DIM), torch.nan)
    z[1] = 1.0
    z[3] = 3.0
    weight = torch.tensor([0, 1, 0, 2]).to(dtype)
    queue = xl.EmbeddingQueue(3, DIM)
    queue.enqueue(z, z, weight=weight)
    a, b, _, valid = queue.negatives()
    assert valid.tolist() == [True, True, False]
    assert a[:, 0].tolist() == b[:, 0].tolist() == [1, 3, 0]
    queue.enqueue(z, z, weight=torch.zeros(4))
    for ours, theirs in zip(queue.negatives(), (a, b, None, valid), strict=True):
        assert ours is theirs or torch.equal(ours, theirs)
    # Of more than fit, only rows of weight count.
    queue.enqueue(z.repeat(3, 1), z.repeat(3, 1), weight=weight.repeat(3))
    assert sorted(queue.negatives().a[:, 0].tolist()) == [1, 3, 3]


def test_rows_are_kept_as_given():
    """Not normalised; in the dtype of the queue, and without a graph."""
    z = torch.tensor([[3.0, 4.0, 0.1]], dtype=torch.float64, requires_grad=True)
    queue = xl.EmbeddingQueue(2, DIM)
    queue.enqueue(z, z)
    assert queue.negatives().a.dtype == torch.float32
    assert torch.equal(queue.negatives().a[0], z[0].detach().float())
    wide = xl.EmbeddingQueue(2, DIM).double()
    wide.enqueue(z, z)
    assert torch.equal(wide.negatives().b[0], z[0].detach())
    assert not wide.negatives().a.requires_grad
    assert wide.enqueued.dtype == torch.int64
    narrow = xl.EmbeddingQueue(2, DIM).to(torch.bfloat16)
    with torch.autocast("cpu", torch.bfloat16):
        narrow.enqueue(z.detach(), z.detach().half())
    assert torch.equal(narrow.negatives().a[0], z[0].detach().bfloat16())


def test_ids_of_any_integer_type():
    z = torch.zeros(2, DIM)
    queue = xl.EmbeddingQueue(3, DIM, with_ids=True)
    for dtype in (torch.int32, torch.uint8, torch.bool):
        queue.enqueue(z, z, ids=torch.tensor([1, 0]).to(dtype))
    assert queue.negatives().ids.dtype == torch.int64
    assert sorted(queue.negatives().ids.tolist()) == [0, 0, 1]


def test_what_is_in_it_may_enter_again():
    queue = fed(batch(5, 1))
    reference = embedding_queue.EmbeddingQueue(5)
    reference.enqueue(**batch(5, 1))
    a, b = queue.keys_a[1:4], queue.keys_b[1:4]  # views of what is written to
    reference.enqueue(a.numpy().copy(), b.numpy().copy())
    queue.enqueue(a, b)
    assert_is(queue, reference)


# ------------------------------------------------------------------ in a graph


def test_enqueue_between_forward_and_backward():
    """What is in the queue is a constant to the loss made with it."""
    queue = fed(batch(5, 1))
    expected = torch.einsum("kd->d", queue.keys_b.clone() ** 2)
    extra = queue.negatives()
    w = torch.ones(DIM, requires_grad=True)
    loss = ((extra.b * w) ** 2).sum() / 2  # its gradient takes what b was
    queue.enqueue(**tensors(batch(4, 2)))
    loss.backward()
    torch.testing.assert_close(w.grad, expected)


def test_what_was_taken_out_does_not_change():
    first, second = (batch(5, seed, ids=True) for seed in (1, 2))
    queue = fed(first, with_ids=True)
    extra = queue.negatives()
    queue.enqueue(**tensors(second))
    for name, taken in (("z_a", extra.a), ("z_b", extra.b), ("ids", extra.ids)):
        assert torch.equal(taken, torch.tensor(first[name]))


def test_nothing_of_a_graph_enters():
    z = torch.randn(2, DIM, requires_grad=True)
    queue = xl.EmbeddingQueue(2, DIM)
    queue.enqueue(z * 2, z * 3)
    assert all(not buffer.requires_grad for buffer in queue.buffers())
    with torch.inference_mode():
        queue.enqueue(z * 2, z * 3)
    queue.enqueue(z * 2, z * 3)
    assert int(queue.enqueued) == 6


# ------------------------------------------------------------------ in a loss


def plain_contrast(z_a, z_b, ids, pairs, temperature=0.07):
    """InfoNCE, row by row, with the rows of the pairs as more negatives."""
    z_a, z_b = (torch.nn.functional.normalize(z, dim=-1) for z in (z_a, z_b))
    total = 0.0
    for of, (rows, columns) in enumerate(((z_a, z_b), (z_b, z_a))):
        for i, row in enumerate(rows):
            logits = [row @ columns[i]]
            for column, number in zip(columns, ids, strict=True):
                if number != ids[i]:
                    logits.append(row @ column)
            for pair in pairs:
                if pair[2] != ids[i]:
                    key = torch.tensor(pair[1 - of], dtype=row.dtype)
                    logits.append(row @ key / key.norm())
            logits = torch.stack(logits) / temperature
            total = total + logits.logsumexp(0) - logits[0]
    return total / (2 * len(z_a))


def test_info_nce_with_past_rows_as_negatives():
    """Rows of one id, of whichever batch, are left out; enqueueing changes nothing."""
    queue = xl.EmbeddingQueue(7, DIM, with_ids=True).double()
    reference = embedding_queue.EmbeddingQueue(7)
    for seed, rows in enumerate((3, 4, 5, 2)):  # empty, filling, wrapping, full
        arrays = batch(rows, seed)
        arrays["ids"] = np.random.default_rng(seed).integers(0, 6, rows)
        some = {name: torch.tensor(array) for name, array in arrays.items()}
        views = {name: some.pop(name).double() for name in ("z_a", "z_b")}
        ids, results = some["ids"], []
        for past in (None, reference.pairs):
            z_a, z_b = (view.clone().requires_grad_() for view in views.values())
            if past is None:
                value = F.info_nce(z_a, z_b, extra=queue.negatives(), ids=ids)
                queue.enqueue(z_a, z_b, ids=ids)
            else:
                value = plain_contrast(z_a, z_b, ids.tolist(), past)
            value.backward()
            results.append((value.detach(), z_a.grad, z_b.grad))
        for ours, theirs in zip(*results, strict=True):
            torch.testing.assert_close(ours, theirs, rtol=1e-10, atol=1e-12)
        reference.enqueue(**arrays)
        assert_is(queue, reference)


def test_an_empty_queue_changes_no_loss():
    z_a, z_b = torch.randn(2, 6, DIM, dtype=torch.float64)
    extra = xl.EmbeddingQueue(4, DIM).negatives()
    value = F.info_nce(z_a, z_b, extra=extra)
    torch.testing.assert_close(value, F.info_nce(z_a, z_b), rtol=1e-12, atol=0.0)


# ------------------------------------------------------------------ state


@pytest.mark.parametrize("with_ids", [False, True])
def test_state_resumes_in_the_middle(with_ids):
    first = [batch(n, n, True, with_ids) for n in (3, 4, 9)]
    rest = [batch(n, n, True, with_ids) for n in (1, 6, 2)]
    queue = fed(*first, with_ids=with_ids)
    names = ["enqueued", "keys_a", "keys_b"] + ["ids"] * with_ids
    assert sorted(queue.state_dict()) == sorted(names)

    saved, whole = io.BytesIO(), io.BytesIO()
    torch.save(queue.state_dict(), saved)
    torch.save(queue, whole)
    saved.seek(0)
    whole.seek(0)
    loaded = xl.EmbeddingQueue(5, DIM, with_ids=with_ids)
    loaded.load_state_dict(torch.load(saved, weights_only=True))
    twins = (
        loaded,
        copy.deepcopy(queue),
        pickle.loads(pickle.dumps(queue)),
        torch.load(whole, weights_only=False),
    )
    for twin in twins:
        reference = embedding_queue.EmbeddingQueue(5)
        for arrays in first:
            reference.enqueue(**arrays)
        assert_is(twin, reference)
        assert repr(twin) == repr(queue)
        for arrays in rest:
            twin.enqueue(**tensors(arrays))
            reference.enqueue(**arrays)
            assert_is(twin, reference)
    assert int(queue.enqueued) < int(loaded.enqueued)  # copies share no memory


def test_another_size_is_another_state():
    state = fed(batch(3)).state_dict()
    with pytest.raises(RuntimeError, match="size mismatch for keys_a"):
        xl.EmbeddingQueue(6, DIM).load_state_dict(state)
    with pytest.raises(RuntimeError, match=r'Missing key\(s\) in state_dict: "ids"'):
        xl.EmbeddingQueue(5, DIM, with_ids=True).load_state_dict(state)


def test_it_has_nothing_to_learn():
    assert list(xl.EmbeddingQueue(5, DIM).parameters()) == []


def test_repr_shows_the_options():
    assert repr(xl.EmbeddingQueue(5, 3, with_ids=True)) == (
        "EmbeddingQueue(size=5, dim=3, with_ids=True, gather=False)"
    )


# ------------------------------------------------------------------ devices


def test_nothing_is_asked_of_the_device():
    """Tensors without values have no answer to give."""
    queue = xl.EmbeddingQueue(5, DIM, with_ids=True).to("meta")
    queue.enqueue(**{k: v.to("meta") for k, v in tensors(batch(7, 0, 1, 1)).items()})
    assert queue.negatives().valid.shape == (5,)


@pytest.mark.cuda
def test_cuda_waits_for_nothing():
    queue = xl.EmbeddingQueue(5, DIM, with_ids=True).cuda()
    reference = embedding_queue.EmbeddingQueue(5)
    for n in (3, 4, 9):
        arrays = batch(n, n, True, True)
        some = {name: tensor.cuda() for name, tensor in tensors(arrays).items()}
        with without_waiting():
            queue.enqueue(**some)
            queue.negatives()
        reference.enqueue(**arrays)
        assert_is(queue, reference)


@pytest.mark.filterwarnings("ignore")  # whatever the toolchain has to say
@pytest.mark.parametrize("with_ids", [False, True])
@pytest.mark.parametrize(
    "backend",
    [
        "aot_eager",
        pytest.param(
            "inductor",
            marks=[
                pytest.mark.slow,
                pytest.mark.skipif(
                    shutil.which("g++") is None and shutil.which("clang++") is None,
                    reason="inductor needs a C++ compiler",
                ),
            ],
        ),
    ],
)
def test_compiled_in_one_graph(backend, with_ids):
    torch._dynamo.reset()
    queue = xl.EmbeddingQueue(5, DIM, with_ids=with_ids)
    reference = embedding_queue.EmbeddingQueue(5)

    @torch.compile(fullgraph=True, backend=backend)
    def step(**some):
        extra = queue.negatives()
        value = (some["z_a"] @ extra.b.mT).masked_fill(~extra.valid, 0.0).sum()
        queue.enqueue(**some)
        return value, extra

    for seed, (rows, weighted) in enumerate([(3, True), (4, False), (9, True)]):
        arrays = batch(rows, seed, weighted, with_ids)
        # A NaN would get into the value.
        arrays["z_a"] = np.nan_to_num(arrays["z_a"])
        some = tensors(arrays)
        extra = queue.negatives()
        expected = some["z_a"] @ extra.b[extra.valid].mT
        value, seen = step(**some)
        torch.testing.assert_close(value, expected.sum())
        assert type(seen) is xl.ExtraNegatives
        for ours, theirs in zip(seen, extra, strict=True):
            assert ours is theirs or torch.equal(ours, theirs)
        reference.enqueue(**arrays)
        assert_is(queue, reference)


# ------------------------------------------------------------------ errors


@pytest.mark.parametrize(
    ("arguments", "error", "message"),
    [
        ((0, 3), ValueError, "size must be >= 1, got 0"),
        ((2.0, 3), TypeError, "size must be an integer, got float"),
        ((2, True), TypeError, "dim must be an integer, got bool"),
        ((2, -1), ValueError, "dim must be >= 1, got -1"),
    ],
)
def test_errors_of_sizes(arguments, error, message):
    with pytest.raises(error, match=f"^EmbeddingQueue: {message}"):
        xl.EmbeddingQueue(*arguments)


def test_errors_of_options():
    with pytest.raises(TypeError, match=r"^EmbeddingQueue: with_ids must be True or F"):
        xl.EmbeddingQueue(2, 3, with_ids=1)
    with pytest.raises(TypeError, match=r"^EmbeddingQueue: gather must be True, False"):
        xl.EmbeddingQueue(2, 3, gather="all")
    queue = xl.EmbeddingQueue(2, 3, gather=True)
    with pytest.raises(ValueError, match=r"^EmbeddingQueue: gather must be False with"):
        queue.enqueue(torch.zeros(2, 3), torch.zeros(2, 3))


@pytest.mark.parametrize(
    ("change", "error", "message"),
    [
        (
            {"z_a": None},
            TypeError,
            "z_a must be a floating-point tensor",
        ),
        ({"z_a": torch.zeros(3)}, ValueError, "z_a must be a batch of rows"),
        ({"z_b": torch.zeros(3, 3)}, ValueError, ".+ the same number of rows, got z_a"),
        ({"z_b": torch.zeros(2, 4)}, ValueError, ".+ the same number of columns, got"),
        ({"z_b": torch.zeros(2, 3).long()}, TypeError, "z_b must be a floating-point"),
        (
            {"z_b": torch.zeros(2, 3, device="meta")},
            ValueError,
            "z_a and z_b must be on the same device, got cpu and meta",
        ),
        (
            {"z_a": torch.zeros(2, 4), "z_b": torch.zeros(2, 4)},
            ValueError,
            r"z_a must have dim = 3 columns, got shape \(2, 4\)",
        ),
        (
            dict.fromkeys(("z_a", "z_b"), torch.zeros(2, 3, device="meta")),
            ValueError,
            "z_a must be on the device of the queue, cpu, got meta. Move the queue",
        ),
        ({"weight": torch.ones(3)}, ValueError, r"weight must be of shape \(2,\)"),
        ({"weight": [1, 1]}, TypeError, "weight must be a real tensor, got list"),
        ({"ids": torch.ones(2)}, TypeError, "ids must be a tensor of integers, got"),
        ({"ids": torch.arange(3)}, ValueError, r"ids must be of shape \(2,\)"),
        (
            {"ids": torch.arange(2)},
            ValueError,
            "ids must be given if with_ids=True and only then, got a tensor for with_id"
            "s=False. All rows of a queue have ids, or none.",
        ),
    ],
)
def test_errors_of_batches(change, error, message):
    queue = fed(batch(1))
    before = copy.deepcopy(queue.state_dict())
    good = {"z_a": torch.zeros(2, 3), "z_b": torch.zeros(2, 3)}
    with pytest.raises(error, match=f"^EmbeddingQueue: {message}"):
        queue.enqueue(**(good | change))
    for name, buffer in queue.state_dict().items():  # nothing has entered by half
        assert torch.equal(buffer, before[name])


def test_ids_are_asked_for():
    queue = xl.EmbeddingQueue(2, 3, with_ids=True)
    with pytest.raises(
        ValueError, match=r"^EmbeddingQueue: ids must be .+, got None f"
    ):
        queue.enqueue(torch.zeros(2, 3), torch.zeros(2, 3))
