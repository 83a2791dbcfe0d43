"""Bytes that ranks exchange for a loss, from formulas, and what they would take.

The formulas are those of the exchanges the losses make; a test counts the bytes of real
ones and compares. The times are arithmetic, not measured: bytes over a bandwidth,
operations over a rate.
"""

from typing import NamedTuple

from benchmarks.page import NBSP, TITLES, number, table

__all__ = ["ROWS", "Traffic", "shown", "traffic"]

FLOAT, DOUBLE, INTEGER = 4, 8, 8
# What the ranks tell each other before rows are exchanged: counts, widths, dtypes, …
AGREED_ON_PAIRS, AGREED_ON_BATCHES = 13, 9
PAIRS = ("info_nce", "nt_xent", "sigmoid_contrastive")


class Traffic(NamedTuple):
    """Bytes that one rank sends."""

    forward: float
    backward: float


def traffic(loss: str, exchange: str, n: int, d: int, w: int) -> Traffic:
    """Return what one rank of W sends for n rows of its own, float32, no masks.

    Counted as the usual algorithms send: to gather b bytes of each rank, (W − 1)·b; to
    add b bytes up over ranks, 2·b·(W − 1)/W; to hand sums of b bytes to each rank their
    own, (W − 1)·b.
    """

    def gathered(size: float) -> float:
        return (w - 1) * size

    def added(size: float) -> float:
        return 2 * size * (w - 1) / w

    rows = n * d * FLOAT
    if loss in PAIRS:
        forward = gathered(AGREED_ON_PAIRS * INTEGER) + added(FLOAT)  # and Σ weights
        backward = 0.0
        if loss == "nt_xent":  # rows of both modalities, and whose they are
            rows *= 2
            forward += gathered(2 * n * INTEGER)
        else:  # sums along the columns, and the slopes in these
            forward += added(n * w * FLOAT)
            backward += gathered(n * FLOAT)
        forward += gathered(rows)
        backward += gathered(rows)
        if exchange == "ring":  # as they come again; their gradient goes all the way
            backward += w * rows
        return Traffic(forward, backward)
    if loss == "mmd":
        pool = added((1 + d) * DOUBLE) + added(DOUBLE)
        sums = added(5 * DOUBLE) + added(DOUBLE)
        both = 2 * gathered(rows)
        return Traffic(gathered(AGREED_ON_BATCHES * INTEGER) + pool + sums + both, 0)
    if exchange == "gather":
        return Traffic(gathered(AGREED_ON_BATCHES * INTEGER) + 2 * gathered(rows), 0)
    triangle, square = d * (d + 1) / 2, d * d
    products = {
        "coral": 2 * triangle,
        "barlow_twins": square,
        "vicreg": 2 * triangle,
        "dcca": 2 * triangle + square,
    }
    first = added(2 * d * DOUBLE) + added(2 * (2 + d) * DOUBLE)
    return Traffic(first + added((2 * d + 1 + products[loss]) * DOUBLE), 0)


# Nominal: links between the GPUs of one machine, and from one machine to the next, in
# bytes per second and GPU; float32 products in operations per second.
INSIDE, BETWEEN, PRODUCTS = 200e9, 25e9, 50e12
ROWS = [(loss, exchange) for loss in PAIRS for exchange in ("gather", "ring")]
ROWS += [("mmd", "gather")]
ROWS += [
    (loss, exchange)
    for loss in ("coral", "barlow_twins", "vicreg", "dcca")
    for exchange in ("statistics", "gather")
]
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
