"""Maps of two modalities, and their rows as the tests draw them."""

import numpy as np
import torch

from reference.dense import bilinear
from xmodal_losses import dense

__all__ = ["METHODS", "maps", "read", "sample", "seeded"]

METHODS = ["grid", "random", "stratified", "weighted"]


def seeded(seed=0):
    return torch.Generator().manual_seed(seed)


def maps(size_a=(6, 8), size_b=(6, 8), batch=2, channels=(3, 3), grad=False):
    """Return maps of both modalities, in float64."""
    generator = seeded(17)
    return [
        torch.randn(
            batch, c, *size, generator=generator, dtype=torch.float64
        ).requires_grad_(grad)
        for c, size in zip(channels, (size_a, size_b), strict=True)
    ]


def sample(map_a, map_b, num=9, method="random", **options):
    size = (map_a.shape[0], *map_a.shape[-2:])
    if method == "weighted":
        options.setdefault("scores", torch.rand(size, generator=seeded(3)) + 0.01)
    options.setdefault("generator", seeded())
    return dense.paired_rows(map_a, map_b, num, method=method, **options)


def read(features, positions):
    """Read the maps of a batch with the reference."""
    pairs = zip(features.detach().numpy(), positions.detach().numpy(), strict=True)
    return np.array([bilinear(m, p) for m, p in pairs])
