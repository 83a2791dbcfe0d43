"""The queue of each rank is that of one process, fed with the joined batches."""

import numpy as np
import pytest
from numpy.testing import assert_allclose, assert_array_equal

from distributed import jobs_of_queues
from distributed.test_across_ranks import each_size, splits

pytestmark = pytest.mark.xdist_group("ranks")


def batches(names, lead=(), seed=80):
    """Return batches that wrap, that fill the queue of 5 at once, and an empty one."""
    rng = np.random.default_rng(seed)
    out = []
    for rows in (3, 4, 13, 0, 6, 1):
        shape = (rows, *lead)
        inputs = {name: rng.normal(size=(*shape, 2)) for name in ("z_a", "z_b")}
        if "ids" in names:
            inputs["ids"] = rng.integers(-(2**62), 2**62, size=shape)
        if "weight" in names:
            inputs["weight"] = rng.choice([0.0, 0.5, 2.0], size=shape)
            for name in ("z_a", "z_b"):
                inputs[name][inputs["weight"] == 0] = np.nan
        out.append(inputs)
    return out


@each_size
@pytest.mark.parametrize("lead", [(), (2,)], ids=["rows", "groups"])
@pytest.mark.parametrize("names", [(), ("ids", "weight")], ids=["bare", "with all"])
def test_all_queues_are_that_of_one_process(pools, names, lead, size):
    given = batches(names, lead)
    whole = [(len(inputs["z_a"]),) for inputs in given]
    expected = jobs_of_queues.queue(0, 1, given, whole, gather=False)
    assert expected["enqueued"] > 10
    for start in range(3):  # the ways to divide rows come in turns
        counts = [
            splits(rows, size)[(start + i) % 3] if rows else (0,) * size
            for i, (rows,) in enumerate(whole)
        ]
        for state in pools(size)(jobs_of_queues.queue, given, counts):
            assert state.keys() == expected.keys()
            for name, value in state.items():
                assert_array_equal(value, expected[name], err_msg=f"{name}, {counts}")


@pytest.mark.parametrize("size", [2, 3])
def test_inside_of_what_ddp_wraps(pools, size):
    """DDP sends the buffers of the first rank to all others before each pass."""
    given = [inputs for inputs in batches(()) if len(inputs["z_a"])]
    expected = jobs_of_queues.remembering(0, 1, given, None, False)
    counts = [splits(len(inputs["z_a"]), size)[1] for inputs in given]
    for state in pools(size)(jobs_of_queues.remembering, given, counts, True):
        for name, value in state.items():
            assert_allclose(value, expected[name], rtol=1e-10, err_msg=name)


def test_inside_of_ddp_a_queue_has_to_gather(pools):
    """What is of a rank alone is replaced by that of the first one."""
    given = batches(())[:2]  # of 3 and 4 rows
    counts = [(2, 1), (1, 3)]
    for gather, first in ((True, 3), (False, 2)):
        states = pools(2)(jobs_of_queues.remembering, given, counts, gather)
        assert_array_equal(*(state["queue.keys_a"][:first] for state in states))
        entered = [int(state["queue.enqueued"]) for state in states]
        assert entered == ([7, 7] if gather else [2 + 1, 2 + 3])
