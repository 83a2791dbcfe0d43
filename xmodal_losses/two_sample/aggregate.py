r"""Many tests as one, at a level that is corrected by draws of all of them at once.

With :math:`p_\lambda(v) = \#\{b \le B_1 : M_\lambda^b \ge v\} / (B_1 + 1)`, where b = 0
is the data, Algorithm 1 of :cite:t:`schrab2023mmd` rejects if :math:`p_\lambda(M^0) \le
u\, w_\lambda` for one kernel, with the largest u at which not more than a share α of
:math:`B_2` further draws would. It finds u by bisection. But a draw is rejected as soon
as u reaches

.. math:: T_b = \min_\lambda\; p_\lambda(M_\lambda^b) / w_\lambda ,

so that u is an order statistic of these, and the share of draws with :math:`T_b \le
T_0`, the data counted with them, is a p-value of the whole.
"""

from typing import NamedTuple

import torch
from torch import Tensor


class Aggregate(NamedTuple):
    """The outcome, and for each of the U kernels its own."""

    p_value: float
    clearest: int  # the kernel that speaks most clearly against the null
    p_values: list[float]
    levels: list[float]  # below which p-values reject
    thresholds: list[float]  # above which statistics reject
    rejected: list[bool]


def aggregate(
    values: Tensor, noise: Tensor, weights: list[float], first: int, alpha: float
) -> Aggregate:
    """Return the outcome of the test.

    Args:
        values: Statistics of the data, of the ``first`` draws that quantiles are taken
            from, and of the others, float64 ``(U, 1 + B1 + B2)``.
        noise: ``(U,)``; values nearer to each other than this are equal.
        weights: One per kernel.
        first: B1.
        alpha: At least 1/(B2 + 1).
    """
    w = values.new_tensor(weights)[:, None]
    data, rest = values[:, :1].contiguous(), values[:, 1 + first :].contiguous()
    # Equal ones count as larger, which is on the safe side, for the data and the draws.
    ordered = (values[:, : 1 + first] + noise[:, None]).sort(-1).values
    scale = (1 + first) * w

    def ranks(v: Tensor) -> Tensor:
        return 1 + first - torch.searchsorted(ordered, v)

    of_data = ranks(data) / scale
    smallest = (ranks(rest) / scale).amin(0)  # T_b
    count = len(smallest)
    shares = torch.arange(1, count + 1, dtype=values.dtype) / (count + 1)
    p_value = (1 + int((smallest <= of_data.amin()).sum())) / (count + 1)
    # If no more than so many draws are as extreme, p ≤ α.
    allowed = int((shares <= alpha).sum()) - 1
    u = smallest.sort().values[allowed]
    # The largest rank that rejects, and the value that has the rank after it.
    largest = (torch.arange(1, 2 + first) / scale < u).sum(-1, keepdim=True)
    never = values.new_full((len(w), 1), -torch.inf)
    thresholds = torch.cat((never, ordered), -1).gather(-1, 1 + first - largest)
    # Many kernels may be as clear as B1 draws can tell: then, by the distance of the
    # data from the threshold, in standard deviations of the null.
    spread = values[:, 1:].std(-1, keepdim=True).clamp_min(torch.finfo(w.dtype).tiny)
    excess = (data - thresholds) / spread
    excess[of_data > of_data.amin()] = -torch.inf
    return Aggregate(
        p_value=p_value,
        clearest=int(excess.argmax()),
        p_values=(of_data * w).flatten().tolist(),
        levels=(u * w).flatten().tolist(),
        thresholds=thresholds.flatten().tolist(),
        rejected=(of_data < u).flatten().tolist(),
    )
