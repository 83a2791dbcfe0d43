"""Bytes that ranks exchange for a loss, from formulas, and what they would take.

The formulas are those of the exchanges the losses make; a test counts the bytes of real
ones and compares. The times are arithmetic, not measured: bytes over a bandwidth,
operations over a rate.
"""

from collections.abc import Sequence
from typing import NamedTuple

from benchmarks.page import NBSP, TITLES, number, table

__all__ = ["ROWS", "Traffic", "shown", "traffic", "traffic_of_moments"]

FLOAT, DOUBLE, INTEGER = 4, 8, 8
# What the ranks tell each other before rows are exchanged: counts, widths, dtypes, …
AGREED_ON_PAIRS, AGREED_ON_BATCHES = 13, 9
PAIRS = ("info_nce", "nt_xent", "sigmoid_contrastive")
MOMENTS = {
    "coral": ("aa", "bb"),
    "barlow_twins": ("ab",),
    "vicreg": ("aa", "bb"),
    "dcca": ("aa", "bb", "ab"),
}


class Traffic(NamedTuple):
    """Bytes that one rank sends."""

    forward: float
    backward: float


def _gathered(size: float, w: int) -> float:
    return (w - 1) * size


def _added(size: float, w: int) -> float:
    return 2 * size * (w - 1) / w


def traffic(loss: str, exchange: str, n: int, d: int, w: int) -> Traffic:
    """Return what one rank of W sends for n rows of its own, float32, no masks.

    Counted as the usual algorithms send: to gather b bytes of each rank, (W − 1)·b; to
    add b bytes up over ranks, 2·b·(W − 1)/W; to hand sums of b bytes to each rank their
    own, (W − 1)·b.
    """
    rows = n * d * FLOAT
    if loss in PAIRS:
        forward = _gathered(AGREED_ON_PAIRS * INTEGER, w)
        forward += _added(FLOAT, w)  # Σ weights
        backward = 0.0
        if loss == "nt_xent":  # rows of both modalities, and whose they are
            rows *= 2
            forward += _gathered(2 * n * INTEGER, w)
        else:  # sums along the columns, and the slopes in these
            forward += _added(n * w * FLOAT, w)
            backward += _gathered(n * FLOAT, w)
        forward += _gathered(rows, w)
        backward += _gathered(rows, w)
        if exchange == "ring":  # as they come again; their gradient goes all the way
            backward += w * rows
        return Traffic(forward, backward)
    if loss == "mmd":
        forward = _gathered(AGREED_ON_BATCHES * INTEGER, w) + 2 * _gathered(rows, w)
        forward += _added((1 + d) * DOUBLE, w) + _added(DOUBLE, w)  # the pool
        forward += _added(5 * DOUBLE, w) + _added(DOUBLE, w)  # and the sums
        return Traffic(forward, 0)
    return traffic_of_moments([loss], exchange, n, d, w)


def traffic_of_moments(
    losses: Sequence[str], exchange: str, n: int, d: int, w: int
) -> Traffic:
    """Return the same for losses of moments in one objective, exchanged once for all.

    It takes three exchanges, however many losses there are.
    """
    if exchange == "gather":
        forward = _gathered(AGREED_ON_BATCHES * INTEGER, w)
        return Traffic(forward + 2 * _gathered(n * d * FLOAT, w), 0)
    products = {"aa": d * (d + 1) / 2, "bb": d * (d + 1) / 2, "ab": d * d}
    asked = {name for loss in losses for name in MOMENTS[loss]}
    forward = _added(2 * d * DOUBLE, w) + _added(2 * (2 + d) * DOUBLE, w)
    sums = 2 * d + 1 + sum(products[name] for name in asked)
    return Traffic(forward + _added(sums * DOUBLE, w), 0)


# Nominal: links between the GPUs of one machine, and from one machine to the next, in
# bytes per second and GPU; float32 products in operations per second.
INSIDE, BETWEEN, PRODUCTS = 200e9, 25e9, 50e12
ROWS = [(loss, exchange) for loss in PAIRS for exchange in ("gather", "ring")]
ROWS += [("mmd", "gather")]
ROWS += [(loss, exchange) for loss in MOMENTS for exchange in ("statistics", "gather")]
# Products of own rows with all: 2·n·N·D operations each, n and N twice as many where
# both modalities are one.
WORK = {"info_nce": 8, "nt_xent": 32, "sigmoid_contrastive": 8, "mmd": 16}


def shown() -> str:
    """Return the table of the page."""
    body = []
    for n, d in ((256, 128), (256, 1024), (2048, 512)):
        for loss, exchange in ROWS:
            line = [TITLES[loss], exchange, f"{n}{NBSP}×{NBSP}{d}"]
            for w, bandwidth in ((8, INSIDE), (1024, BETWEEN)):
                size = sum(traffic(loss, exchange, n, d, w))
                line += [number(size / 1e6), number(1e3 * size / bandwidth)]
                work = WORK.get(loss)
                operations = None if work is None else work * n * n * w * d
                line.append(number(operations and 1e3 * operations / PRODUCTS))
            body.append(line)
    head = ["loss", "exchange", "n × D"]
    for w in (8, 1024):
        head += [f"W = {w}: MB", "ms on the way", "ms of products"]
    return table(head, body)
