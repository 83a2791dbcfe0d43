"""The three matrices that an MMD of two batches is made of, whole."""

from typing import NamedTuple

import torch
from torch import Tensor

from xmodal_losses._core import precision
from xmodal_losses._core.pairs import Pairs, Pool
from xmodal_losses.distribution.base_kernel import Kernel


class Gram(NamedTuple):
    """One kernel, its bandwidth from the pooled sample, at all pairs of rows."""

    xx: Tensor  # (…, N, N)
    yy: Tensor  # (…, M, M)
    xy: Tensor  # (…, N, M)

    def pooled(self) -> Tensor:
        """Return the matrix of the pooled sample, ``(…, N + M, N + M)``."""
        rows = torch.cat((self.xx, self.xy), -1), torch.cat((self.xy.mT, self.yy), -1)
        return torch.cat(rows, -2)


def gram(kernel: Kernel, z_a: Tensor, z_b: Tensor) -> Gram:
    """Return the matrices of a kernel, in float32 or wider."""
    dtype = precision.compute_dtype(z_a, z_b)
    with precision.no_autocast(z_a):
        x, y, bind = kernel.lift(z_a.to(dtype), z_b.to(dtype))
        pool = Pool(torch.cat((x, y), -2))
        if kernel.shift != "sensitive":
            # Far from the origin, inner products would be all of that.
            x, y = x - pool.mean(), y - pool.mean()
        k = bind(pool)
        return Gram(k(Pairs(x, x)), k(Pairs(y, y)), k(Pairs(x, y)))
