"""One run on several processes: each has a part of every batch.

Started by `torchrun`, a run draws the same batches as on one process, since all
processes draw with one seed; each then works on its own pairs. Batch normalisation and
the losses see the whole batch, and gradients are averaged, so that the numbers are
those of one process.
"""

from typing import Any, NamedTuple

import torch
import torch.distributed as dist
from torch import Tensor, nn

from .patches import Batch

__all__ = ["Processes", "SharedBatchNorm", "share_batch_norm"]


class Processes(NamedTuple):
    """How many there are, and which one this is."""

    size: int = 1
    rank: int = 0

    @classmethod
    def start(cls, device: torch.device) -> "Processes":
        """Join the processes that `torchrun` has started, if it has."""
        if not dist.is_torchelastic_launched():
            return cls()
        dist.init_process_group("nccl" if device.type == "cuda" else "gloo")
        return cls(dist.get_world_size(), dist.get_rank())

    @property
    def several(self) -> bool:
        """Whether there are others."""
        return self.size > 1

    @property
    def first(self) -> bool:
        """Whether this one evaluates, writes and prints."""
        return self.rank == 0

    def share(self, batch: Batch) -> Batch:
        """Return the pairs of a batch that this process works on."""
        pairs = batch.rgb.shape[0]
        start, end = (pairs * r // self.size for r in (self.rank, self.rank + 1))
        return Batch(*(field[start:end] for field in batch))

    def mean(self, values: Tensor) -> Tensor:
        """Return the mean over processes."""
        if self.several:
            values = values.detach().clone()
            dist.all_reduce(values)
            values /= self.size
        return values

    def end(self) -> None:
        """Leave."""
        if dist.is_initialized():
            dist.destroy_process_group()


class Sum(torch.autograd.Function):
    """The sum over processes; its gradient is the sum of theirs."""

    @staticmethod
    def forward(ctx: Any, part: Tensor) -> Tensor:
        """Add up."""
        total = part.clone()
        dist.all_reduce(total)
        return total

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> Tensor:
        """Add up what every process makes of the sum."""
        return Sum.forward(ctx, grad)


class SharedBatchNorm(nn.BatchNorm2d):
    """Batch normalisation with the statistics of all processes, on any device.

    (torch's SyncBatchNorm does the same on GPUs.)
    """

    def forward(self, x: Tensor) -> Tensor:
        """Normalise maps ``(B, C, H, W)``."""
        if not self.training:
            return super().forward(x)
        # Under autocast, too, statistics are not those of half precision.
        given, x = x.dtype, x.to(self.running_mean)
        own = torch.cat([x.sum((0, 2, 3)), x.new_tensor([x.numel() / x.shape[1]])])
        *total, count = Sum.apply(own).split([x.shape[1], 1])
        mean = (total[0] / count)[:, None, None]
        variance = Sum.apply((x - mean).square().sum((0, 2, 3))) / count
        with torch.no_grad():
            self.num_batches_tracked += 1
            # As nn.BatchNorm2d: without a momentum, the mean over batches.
            new = self.momentum or 1 / self.num_batches_tracked
            self.running_mean.lerp_(mean.flatten(), new)
            self.running_var.lerp_(variance * count / (count - 1), new)
        x = (x - mean) * (variance + self.eps).rsqrt()[:, None, None]
        if self.affine:
            x = x * self.weight[:, None, None] + self.bias[:, None, None]
        return x.to(given)


def share_batch_norm(model: nn.Module) -> None:
    """Let every batch normalisation of a model see the batches of all processes."""
    for module in model.modules():
        if type(module) is nn.BatchNorm2d:
            module.__class__ = SharedBatchNorm
