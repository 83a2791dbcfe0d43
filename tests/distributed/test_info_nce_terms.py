"""The terms of InfoNCE on W processes, and their summary, are those on one."""

from itertools import product

import numpy as np
import pytest
from numpy.testing import assert_allclose

import xmodal_losses.functional as F
from distributed import jobs
from distributed.test_across_ranks import CLOSE, PAIRS, counts_of, each_size
from harness import Case, to_torch
from specs import BY_NAME

pytestmark = pytest.mark.xdist_group("ranks")

SPEC = BY_NAME["info_nce"]


def _inputs(lead, flags):
    """Return a batch with duplicates, which lie on different ranks."""
    inputs = SPEC.draw(Case(rows=(6, 6), lead=lead, **flags), 79)
    for name in ("z_a", "z_b"):
        for row in (2, -1):
            inputs[name][row] = inputs[name][0]
    return inputs


@each_size
@pytest.mark.parametrize("told", [(), ("weighted", "exclude", "ids", "positions")])
@pytest.mark.parametrize("temperature", [0.02, 0.3])
@pytest.mark.parametrize(
    ("lead", "negatives"),
    [((), "group"), ((4,), "group"), ((4,), "all"), ((4,), "cross")],
    ids=str,
)
def test_terms(pools, lead, negatives, temperature, told, size):
    inputs = _inputs(lead, dict.fromkeys(told, True))
    options = {"temperature": temperature, "negatives": negatives}
    if told:
        options["exclude_radius"] = 0.2
    tensors = to_torch(inputs)
    terms = F.info_nce_terms(**tensors, **options)
    assert told or terms.rank_a_to_b.max() > 0
    expected = terms.summary(
        temperature=temperature, weight=tensors.get("weight"), top=(1, 2, 4)
    )
    for how, exchange, chunk_size in product(range(3), PAIRS, (None, 2)):
        counts = counts_of(inputs, size, how)
        about = f"{counts['z_a']}, {exchange}, {chunk_size}"
        some = {**options, "exchange": exchange, "chunk_size": chunk_size}
        answers = pools(size)(jobs.terms, inputs, counts, some)
        for name, value in terms._asdict().items():
            parts = [found[name] for found, _ in answers]
            ours = np.mean(parts) if value.ndim == 0 else np.concatenate(parts)
            assert_allclose(ours, value.detach(), **CLOSE, err_msg=f"{name}, {about}")
        for _, summary in answers:  # all know it
            assert summary.keys() == expected.keys()
            for name, value in expected.items():
                assert_allclose(
                    summary[name], value, **CLOSE, err_msg=f"{name}, {about}"
                )


@pytest.mark.parametrize("exchange", PAIRS)
def test_collapsed_embeddings_find_nothing(pools, exchange):
    rng = np.random.default_rng(0)
    row = rng.normal(size=(1, 200)).astype(np.float32)
    z = np.repeat(row, 40, 0)
    counts = dict.fromkeys(("z_a", "z_b"), (23, 17))
    options = {"temperature": 0.07, "exchange": exchange}
    for found, summary in pools(2)(jobs.terms, {"z_a": z, "z_b": z}, counts, options):
        assert (found["rank_a_to_b"] == 39).all()
        assert (found["rank_b_to_a"] == 39).all()
        assert summary["top_4_a_to_b"] == 0
        assert_allclose(summary["effective_negatives_b_to_a"], 39, rtol=1e-5)


@pytest.mark.parametrize("exchange", PAIRS)
def test_squares_beyond_the_range_of_float32(pools, exchange):
    inputs = {k: z.astype(np.float32) for k, z in _inputs((), {}).items()}
    expected = F.info_nce_terms(**to_torch(inputs, grad=False), temperature=0.01)
    counts = counts_of(inputs, 2, 1)
    options = {"temperature": 0.01, "exchange": exchange}
    answers = pools(2)(jobs.terms, inputs, counts, options)
    for name in ("effective_negatives_a", "effective_negatives_b"):
        ours = np.concatenate([found[name] for found, _ in answers])
        assert_allclose(ours, getattr(expected, name), rtol=1e-4)


def test_no_rows_on_any_rank(pools):
    inputs = {name: array[:0] for name, array in _inputs((), {}).items()}
    for found, summary in pools(2)(
        jobs.terms, inputs, dict.fromkeys(inputs, (0, 0)), {"temperature": 0.1}
    ):
        assert found["rank_a_to_b"].shape == (0,)
        assert all(value == 0 for value in summary.values())
