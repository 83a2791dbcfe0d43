"""What a computation does: multiply-adds of its products, and its largest tensor."""

import torch
from torch.utils._python_dispatch import TorchDispatchMode


class Work(TorchDispatchMode):
    """Counts while it is entered.

    Attributes:
        multiply_adds: Of all matrix products.
        largest: Entries of the largest tensor that was made.
        names: What was called.
    """

    def __init__(self):
        super().__init__()
        self.multiply_adds = self.largest = 0
        self.names = []

    def of(self, *parts):
        """Return the calls whose names have one of these parts."""
        return [name for name in self.names if any(part in name for part in parts)]

    def __torch_dispatch__(self, function, types, args=(), kwargs=None):
        out = function(*args, **(kwargs or {}))
        name = function.overloadpacket
        self.names.append(str(function))
        if name in (torch.ops.aten.mm, torch.ops.aten.bmm):
            self.multiply_adds += args[0].numel() * args[1].shape[-1]
        if name is torch.ops.aten.baddbmm:
            self.multiply_adds += args[1].numel() * args[2].shape[-1]
        if isinstance(out, torch.Tensor):
            self.largest = max(self.largest, out.numel())
        return out
