"""Cross entropy of a distribution over keys, with label smoothing (1512.00567, §7)."""

import numpy as np

from reference.anchors import log_sum_exp
from reference.positives import near, of_rows


def soft_info_nce(
    z_a,
    z_b,
    *,
    targets=None,
    jitter=None,
    spread=None,
    label_smoothing=0.0,
    chunk_size=None,
    **options,
):
    """Return LSE of all that count - Σ Q s, with Q the smoothed shares of targets."""
    del chunk_size  # a way of computing, not a quantity
    rows = z_a.shape[-2]
    tell = None if jitter is None else near(options["positions"], z_a, jitter)
    if targets is not None:
        targets = targets.reshape(-1, rows, rows)

    def positive(g, i, h, j):
        if targets is not None:
            return targets[g, i, j] if g == h else 0.0
        if tell is None:
            return float((g, i) == (h, j))
        close, distance = tell(g, i, h, j)
        return close * (np.exp(-((distance / spread) ** 2) / 2) if spread else 1.0)

    def row(logits, t, negative, partner):
        if t.sum() == 0:
            return 0.0
        counts = negative | (t > 0)
        counts[partner] = True
        q = (1 - label_smoothing) * t / t.sum()
        q = q + label_smoothing * counts / counts.sum()
        return log_sum_exp(logits[counts]) - (q * logits).sum()

    return of_rows(row, z_a, z_b, positive=positive, **options)
