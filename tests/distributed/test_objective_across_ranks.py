"""An objective on W processes is that on one, and exchanges moments once for all."""

import numpy as np
import pytest
from numpy.testing import assert_allclose

from benchmarks import traffic
from distributed import jobs_of_objectives as jobs
from distributed.test_across_ranks import (
    CLOSE,
    assert_exact,
    counts_of,
    each_size,
)
from harness import Case
from specs import BY_NAME

pytestmark = pytest.mark.xdist_group("ranks")


def batch(rows=9, dim=4, weighted=False, seed=90):
    case = Case(rows=(rows, rows), dims=(dim, dim), weighted=weighted)
    return BY_NAME["info_nce"].draw(case, seed)


@each_size
@pytest.mark.parametrize("lean", [False, True])
@pytest.mark.parametrize("weighted", [False, True])
@pytest.mark.parametrize(
    ("name", "exchange"),
    [("seed", None), ("all", None), ("moments", "statistics"), ("moments", "gather")],
)
def test_value_gradients_and_terms(pools, name, exchange, weighted, lean, size):
    inputs = batch(weighted=weighted)
    options = {"lean": lean}
    expected = jobs.objective(0, 1, name, inputs, None, options)
    if exchange is not None:
        options["exchange"] = exchange
    for how in range(3):
        counts = counts_of(inputs, size, how)
        answers = pools(size)(jobs.objective, name, inputs, counts, options)
        assert_exact([answer["loss"] for answer in answers], expected["loss"], size)
        for term, value in expected["terms"].items():
            values = [answer["terms"][term] for answer in answers]
            assert_allclose(np.mean(values), value, **CLOSE, err_msg=term)
        grads = [answer["parameters"] for answer in answers]
        for ours, theirs in zip(np.mean(grads, 0), expected["parameters"], strict=True):
            assert_allclose(ours, theirs, **CLOSE)


@each_size
@pytest.mark.parametrize("grad_reduce", ["mean", "sum"])
@pytest.mark.parametrize("name", ["seed", "all"])
def test_norms_are_those_of_the_whole_batch(pools, name, grad_reduce, size):
    inputs = batch(weighted=True, seed=91)
    expected = jobs.objective(0, 1, name, inputs, None, {}, True)
    for how in range(3):
        counts = counts_of(inputs, size, how)
        options = {"grad_reduce": grad_reduce}
        answers = pools(size)(jobs.objective, name, inputs, counts, options, True)
        factor = size if grad_reduce == "mean" else 1
        assert_exact([answer["loss"] for answer in answers], expected["loss"], factor)
        for answer in answers:  # all know them
            assert answer["norms"].keys() == expected["norms"].keys()
            for term, norm in expected["norms"].items():
                assert_allclose(answer["norms"][term], norm, **CLOSE, err_msg=term)


@pytest.mark.parametrize("lean", [False, True])
@pytest.mark.parametrize("size", [2, 3])
def test_one_step_under_ddp_is_the_step_of_one_process(pools, lean, size):
    """With a learned temperature and bandwidth."""
    inputs = batch(seed=92)
    expected = jobs.objective_step(0, 1, False, inputs, None)
    for how in (0, 1):
        counts = counts_of(inputs, size, how)
        for parameters in pools(size)(jobs.objective_step, lean, inputs, counts):
            assert parameters.keys() == expected.keys()
            for name, value in parameters.items():
                assert_allclose(value, expected[name], **CLOSE, err_msg=name)


@pytest.mark.parametrize("size", [2, 3])
@pytest.mark.parametrize("exchange", ["statistics", "gather"])
@pytest.mark.parametrize(
    "losses",
    [
        ("coral", "barlow_twins"),
        ("coral", "vicreg"),
        ("coral", "barlow_twins", "vicreg", "dcca"),
    ],
    ids="+".join,
)
def test_moments_are_exchanged_once(pools, losses, exchange, size):
    """Bytes are those of all moments, each of them once, in the calls of one loss."""
    n, d = 6, 5
    rng = np.random.default_rng(0)
    inputs = {key: rng.normal(size=(n * size, d)) for key in ("z_a", "z_b")}
    inputs = {key: array.astype(np.float32) for key, array in inputs.items()}
    counts = dict.fromkeys(inputs, (n,) * size)
    options = {"exchange": exchange}
    name = "+".join(BY_NAME[loss].module for loss in losses)
    expected = sum(traffic.traffic_of_moments(losses, exchange, n, d, size))
    for answer in pools(size)(jobs.objective, name, inputs, counts, options):
        assert answer["sent"] == (pytest.approx(expected), 3)
    each = sum(sum(traffic.traffic(loss, exchange, n, d, size)) for loss in losses)
    assert expected < 0.9 * each


def test_others_exchange_on_their_own(pools):
    """Terms with other rows, weights or options are not put together."""
    inputs = batch(seed=93)
    counts = counts_of(inputs, 2, 0)
    for answer in pools(2)(jobs.objective, "moments", inputs, counts, {}):
        assert answer["sent"][1] == 2 * 3  # projections, and embeddings
