"""Places that are chosen with a seed, and what is asked of them."""

import itertools

import numpy as np
import torch

from xmodal_losses import dense

__all__ = ["METHODS", "P_VALUE", "distances", "mask", "pixels", "sample", "seeded"]

METHODS = ["grid", "random", "stratified", "weighted"]
#: Below this a fixed seed is called a bias: one in 10⁴ seeds would fail.
P_VALUE = 1e-4


def seeded(seed=0):
    return torch.Generator().manual_seed(seed)


def sample(size, num, method="random", **options):
    """Sample with a seed of its own, with scores where they have to be given."""
    if method == "weighted":
        options.setdefault("scores", torch.rand(size, generator=seeded(99)) + 0.01)
    options.setdefault("generator", seeded())
    return dense.sample_positions(torch.zeros(size), num, method=method, **options)


def pixels(places, width):
    """Return y·W + x of all places, as integers."""
    x, y = places.positions.long().unbind(-1)
    assert torch.equal(places.positions, torch.stack((x, y), -1).float())
    return y * width + x


def distances(positions, valid):
    """Return the distances between the valid places of one map."""
    at = positions[valid].numpy()
    return [np.abs(p - q).max() for p, q in itertools.combinations(at, 2)]


def mask(size, share=0.5, seed=1):
    return torch.rand(size, generator=seeded(seed)) < share
