"""A queue of pairs of rows: the standard library's, with a maximum length."""

from collections import deque

import numpy as np


class EmbeddingQueue:
    """Rows enter at the right; of a full queue the oldest leaves at the left."""

    def __init__(self, size):
        self.pairs = deque(maxlen=size)
        self.entered = 0

    def enqueue(self, z_a, z_b, *, ids=None, weight=None):
        for i in np.ndindex(z_a.shape[:-1]):
            if weight is None or weight[i] != 0:
                number = None if ids is None else int(ids[i])
                self.pairs.append((tuple(z_a[i]), tuple(z_b[i]), number))
                self.entered += 1
