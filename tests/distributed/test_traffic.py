"""The bytes on the page are the bytes that go between ranks."""

import numpy as np
import pytest
from numpy.testing import assert_allclose

from benchmarks import common, distributed_page, traffic
from distributed import jobs

pytestmark = pytest.mark.xdist_group("ranks")


@pytest.mark.parametrize("size", [2, 3])
@pytest.mark.parametrize(("loss", "exchange"), [*traffic.ROWS, ("mmd", "ring")])
def test_formulas_are_what_is_sent(pools, loss, exchange, size):
    n, d = 6, 5
    rng = np.random.default_rng(0)
    inputs = {name: rng.normal(size=(n * size, d)) for name in ("z_a", "z_b")}
    inputs = {name: array.astype(np.float32) for name, array in inputs.items()}
    counts = dict.fromkeys(inputs, (n,) * size)
    expected = traffic.traffic(loss, exchange, n, d, size)
    for sent in pools(size)(jobs.sent, loss, inputs, counts, {"exchange": exchange}):
        assert sent == pytest.approx(tuple(expected))


@pytest.mark.parametrize(("loss", "exchange"), traffic.ROWS)
def test_autocast_changes_neither_what_is_sent_nor_the_loss(pools, loss, exchange):
    n, d, options = 6, 5, {"exchange": exchange}
    rng = np.random.default_rng(0)
    inputs = {name: rng.normal(size=(2 * n, d)) for name in ("z_a", "z_b")}
    inputs = {name: array.astype(np.float32) for name, array in inputs.items()}
    counts = dict.fromkeys(inputs, (n, n))
    expected = tuple(traffic.traffic(loss, exchange, n, d, 2))
    for sent in pools(2)(jobs.under_autocast, "sent", loss, inputs, counts, options):
        assert sent == pytest.approx(expected)
    plain = pools(2)(jobs.loss, loss, inputs, counts, options)
    cast = pools(2)(jobs.under_autocast, "loss", loss, inputs, counts, options)
    for ours, theirs in zip(cast, plain, strict=True):
        for a, b in zip(ours, theirs, strict=True):
            assert a.dtype == np.float32
            assert_allclose(a, b, rtol=1e-6, atol=1e-9)


def test_the_page_is_the_formulas_and_the_run():
    """`python -m benchmarks.distributed_page` has been run after the last change."""
    text = distributed_page.PAGE.read_text(encoding="utf-8")
    assert distributed_page.rewritten(text, common.RESULTS) == text
