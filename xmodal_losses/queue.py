"""The rows of past batches: negatives beyond those of the batch."""

import torch
from torch import Tensor, nn

from xmodal_losses._core import checks, ranks
from xmodal_losses._core.modules import describe
from xmodal_losses._core.pairs import ExtraNegatives

__all__ = ["EmbeddingQueue"]

CALLER = "EmbeddingQueue"


class EmbeddingQueue(nn.Module):
    """The last rows of past batches, in both modalities, to contrast others with.

    It starts empty. Rows enter in their order, and once it is full each takes the place
    of the oldest one. They are kept as they are given, in the dtype of the queue, and
    without a graph: whether and how they are scaled is the business of the loss.

    Args:
        size: The most pairs of rows it holds, K.
        dim: Columns of the rows of either modality, D.
        with_ids: Whether rows come with ids, so that a row that comes again is no
            negative of what it was before.
        gather: True: the rows of all ranks of the default process group enter the queue
            of each, in the order of ranks; or a process group, the same for its ranks.
            The queues are then alike, and that of one process fed with the batches
            joined along their first dimension. False: the rows that are here.

    State: buffers, all of them in the ``state_dict``, so that a run goes on where it
    was. ``keys_a`` and ``keys_b`` ``(K, D)``; ``ids`` ``(K,)``, if rows come with ids;
    ``enqueued``, a scalar: how many rows have entered so far. The next one goes to
    ``enqueued % size``, and ``min(enqueued, size)`` are there.

    Raises:
        TypeError: If an option is of another type.
        ValueError: If an option is out of range.

    Note:
        Nothing waits for the device, and both methods work under
        ``torch.compile(fullgraph=True)``; with ``gather``, ranks wait for one another,
        and :meth:`enqueue` is not traced.

    Examples:
        >>> import torch, xmodal_losses as xl
        >>> queue = xl.EmbeddingQueue(4, 2)
        >>> queue.enqueue(torch.eye(2), torch.eye(2).flip(0))
        >>> queue.negatives().valid
        tensor([ True,  True, False, False])
    """

    keys_a: Tensor
    keys_b: Tensor
    ids: Tensor | None
    enqueued: Tensor

    def __init__(
        self,
        size: int,
        dim: int,
        *,
        with_ids: bool = False,
        gather: bool | ranks.Group = False,
    ) -> None:
        super().__init__()
        checks.count(CALLER, "size", size)
        checks.count(CALLER, "dim", dim)
        checks.flag(CALLER, "with_ids", with_ids)
        ranks.check_module(CALLER, gather, "mean")
        self.size, self.dim, self.with_ids = size, dim, with_ids
        self.gather = gather
        ids = torch.zeros(size, dtype=torch.int64) if with_ids else None
        self.register_buffer("keys_a", torch.zeros(size, dim))
        self.register_buffer("keys_b", torch.zeros(size, dim))
        self.register_buffer("ids", ids)
        self.register_buffer("enqueued", torch.zeros((), dtype=torch.int64))

    @torch.no_grad()
    def enqueue(
        self,
        z_a: Tensor,
        z_b: Tensor,
        *,
        ids: Tensor | None = None,
        weight: Tensor | None = None,
    ) -> None:
        """Let the rows of a batch in, after the loss that has them as its own.

        Args:
            z_a: Rows of modality *a*, ``(…, N, D)``; of leading dimensions, one after
                the other. N may be 0, or larger than the queue, which then holds the
                last ones.
            z_b: Their partners, ``(…, N, D)``.
            ids: ``(…, N)``, any integers: given to a queue with ids and only there.
            weight: ``(…, N)``. Rows of weight 0 do not enter, whatever is in them;
                other weights are all the same.

        Raises:
            TypeError: If an input is of another type.
            ValueError: If shapes do not fit together or to the queue, or if ids are
                missing or unexpected; on all ranks, if their queues differ.
        """
        self._check(z_a, z_b, ids, weight)
        stores = [self.keys_a, self.keys_b]
        rows = [z.flatten(0, -2).to(self.keys_a.dtype) for z in (z_a, z_b)]
        if weight is None:
            enters = torch.ones_like(rows[0][:, 0], dtype=torch.bool)
        else:
            enters = weight.flatten() != 0
        if self.ids is not None and ids is not None:
            stores.append(self.ids)
            rows.append(ids.flatten().long())
        enters, *rows = self._of_all_ranks([enters, *rows])

        # How many are new is not known to the host, only how many may be. From the
        # newest on, each has a slot of its own; where there are no more new ones, the
        # slot keeps what it has.
        count = enters.sum()
        age = torch.arange(min(self.size, enters.shape[0]), device=enters.device)
        slot = (self.enqueued + count - 1 - age) % self.size
        source = torch.searchsorted(enters.cumsum(0), count - age)
        for store, new in zip(stores, rows, strict=True):
            is_new = (age < count).view(-1, *[1] * (store.ndim - 1))
            entry = torch.where(is_new, new[source], store[slot])
            store.index_copy_(0, slot, entry)
        self.enqueued.add_(count)

    def negatives(self) -> ExtraNegatives:
        """Return what is in the queue, in no particular order.

        It is a copy: what enters later changes neither it nor the gradient of a loss
        that was made with it.

        Returns:
            The rows ``a`` and ``b``, ``(K, D)``; their ``ids``, ``(K,)``, or None; and
            ``valid``, ``(K,)``, False where no row has been yet.
        """
        return ExtraNegatives(
            a=self.keys_a.clone(),
            b=self.keys_b.clone(),
            ids=None if self.ids is None else self.ids.clone(),
            valid=torch.arange(self.size, device=self.enqueued.device) < self.enqueued,
        )

    def extra_repr(self) -> str:
        """Return the options."""
        return describe(self, "size", "dim", "with_ids", "gather")

    def _of_all_ranks(self, parts: list[Tensor]) -> list[Tensor]:
        """Return what belongs to the rows, joined with that of the other ranks."""
        known = ranks.joined(CALLER, ranks.of_module(CALLER, self.gather))
        if known is None:
            return parts
        alike = {
            "size must be the same": self.size,
            "dim must be the same": self.dim,
            "with_ids must be the same": self.with_ids,
            "the dtype of the queue must be the same": checks.FLOATS.index(
                self.keys_a.dtype
            ),
        }
        device = self.keys_a.device
        (counts,) = known.agree(CALLER, (parts[0].shape[0],), alike, device)
        return [torch.cat(known.gather(part, counts, 0)) for part in parts]

    def _check(
        self, z_a: Tensor, z_b: Tensor, ids: Tensor | None, weight: Tensor | None
    ) -> None:
        checks.embeddings(CALLER, z_a, z_b, paired=True, min_rows=0)
        checks.row_ids(CALLER, "ids", ids, z_a)
        checks.row_weight(CALLER, "weight", weight, z_a)
        if z_a.shape[-1] != self.dim:
            raise ValueError(
                f"{CALLER}: z_a must have dim = {self.dim} columns, got shape "
                f"{tuple(z_a.shape)}."
            )
        if z_a.device != self.keys_a.device:
            raise ValueError(
                f"{CALLER}: z_a must be on the device of the queue, "
                f"{self.keys_a.device}, got {z_a.device}. Move the queue by its to()."
            )
        if (ids is None) == self.with_ids:
            raise ValueError(
                f"{CALLER}: ids must be given if with_ids=True and only then, got "
                f"{'None' if ids is None else 'a tensor'} for with_ids={self.with_ids}."
                " All rows of a queue have ids, or none."
            )
