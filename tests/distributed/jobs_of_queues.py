"""What ranks are sent to do with queues."""

import torch
from torch import nn
from torch.nn.parallel import DistributedDataParallel

import xmodal_losses as xl
from distributed.jobs import Arrays, arrays, message, tensors


def queue(
    rank: int,
    size: int,
    batches: list[Arrays],
    counts: list[tuple[int, ...]],
    gather: bool = True,
) -> Arrays:
    """Return the state of a queue that batches have entered, a part of them here."""
    options = {"with_ids": "ids" in batches[0], "gather": gather}
    fed = xl.EmbeddingQueue(5, batches[0]["z_a"].shape[-1], **options).double()
    for inputs, some in zip(batches, counts, strict=True):
        own = tensors(inputs, dict.fromkeys(inputs, some), rank)
        if "weight" in own and (own["weight"] != 0).all():
            del own["weight"]  # of rows that all enter it need not be given
        fed.enqueue(**own)
    return {name: arrays(buffer)[0] for name, buffer in fed.state_dict().items()}


class Remembering(nn.Module):
    """An encoder with a queue of what it has made, inside of what DDP wraps."""

    def __init__(self, columns: int, gather: bool) -> None:
        super().__init__()
        generator = torch.Generator().manual_seed(3)
        self.encode = nn.Linear(columns, columns, dtype=torch.float64)
        self.queue = xl.EmbeddingQueue(5, columns, gather=gather).double()
        with torch.no_grad():
            for parameter in self.encode.parameters():
                parameter.copy_(torch.randn(parameter.shape, generator=generator))

    def forward(self, z_a: torch.Tensor, z_b: torch.Tensor) -> torch.Tensor:
        z_a, z_b, extra = self.encode(z_a), self.encode(z_b), self.queue.negatives()
        self.queue.enqueue(z_a, z_b)
        logits = (z_a @ extra.b.mT).masked_fill(~extra.valid, 0.0)
        return logits.square().sum() + z_b.square().sum()


def remembering(
    rank: int,
    size: int,
    batches: list[Arrays],
    counts: list[tuple[int, ...]] | None,
    gather: bool,
) -> Arrays:
    """Return parameters and buffers after a step for each batch; or on one process."""
    model = Remembering(batches[0]["z_a"].shape[-1], gather)
    trained = model if counts is None else DistributedDataParallel(model)
    for i, inputs in enumerate(batches):
        some = (len(inputs["z_a"]),) if counts is None else counts[i]
        own = tensors(inputs, dict.fromkeys(inputs, some), rank)
        loss = trained(own["z_a"], own["z_b"])
        model.zero_grad()
        (loss * (1 if counts is None else size)).backward()  # a sum over all rows
        with torch.no_grad():
            for parameter in model.parameters():
                parameter -= 1e-3 * parameter.grad
    return {name: arrays(buffer)[0] for name, buffer in model.state_dict().items()}


def mismatched_queues(rank: int, size: int, what: str) -> str:
    """Return what is said where the queue of this rank is not like the others."""
    options = {"size": 4, "dim": 3, "with_ids": False, "gather": True}
    if rank and what != "dtype":
        options[what] = True if what == "with_ids" else options[what] + 1
    fed = xl.EmbeddingQueue(options.pop("size"), options.pop("dim"), **options)
    if rank and what == "dtype":
        fed = fed.double()
    z = torch.zeros(2, fed.dim)
    return message(fed.enqueue, z, z, ids=torch.arange(2) if fed.with_ids else None)
