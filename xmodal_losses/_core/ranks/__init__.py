"""One batch that lies on several processes: who has what, and how it is exchanged.

Every process (rank) holds some of the rows, and the loss is that of the batch joined
along its first dimension. Values and gradients follow one convention:

- What a rank returns is W times its part of the loss, or the whole loss where all know
  it: the mean over the W ranks is the loss.
- What ``backward`` leaves in the tensors of a rank is the derivative of the sum of what
  all ranks return, W times that of the loss. Averaged over ranks, as DDP and FSDP do,
  the gradient of every parameter is that of the loss. For those who add up,
  ``grad_reduce="sum"`` divides by W.
"""

from xmodal_losses._core.ranks.exchange import Group, Ranks, once, refuse_twice
from xmodal_losses._core.ranks.options import (
    GradReduce,
    check_module,
    joined,
    of_module,
)

__all__ = [
    "GradReduce",
    "Group",
    "Ranks",
    "check_module",
    "joined",
    "of_module",
    "once",
    "refuse_twice",
]
