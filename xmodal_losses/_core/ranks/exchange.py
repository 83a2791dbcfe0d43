"""Exchanges between the processes of a group, and what a rank returns."""

from collections.abc import Callable, Iterator, Sequence
from typing import TYPE_CHECKING, Any, TypeAlias

import torch
import torch.distributed as dist
from torch import Tensor

from xmodal_losses._core import checks
from xmodal_losses._core.function import Function

if TYPE_CHECKING or dist.is_available():
    Group: TypeAlias = dist.ProcessGroup
else:  # torch can be built without
    Group = object


class Ranks:
    """The processes of a group, as seen from one of them.

    Nothing but :meth:`rows` is differentiated: who uses it has the gradient in closed
    form.
    """

    def __init__(self, group: Group, averaged: bool = True) -> None:
        self.group = group
        self.size = dist.get_world_size(group)
        self.rank = dist.get_rank(group)
        self.averaged = averaged  # gradients, over ranks; else added up

    # What a rank returns.

    def own_part(self, part: Tensor) -> Tensor:
        """Return what a rank returns that knows a part of the loss."""
        return self.returned(self.size * part)

    def returned(self, value: Tensor) -> Tensor:
        """Return a value whose derivative is that of a sum over ranks."""
        if self.averaged:
            return value
        part = value / self.size
        return part + (value - part).detach()

    # Sums over ranks.

    def sum(self, part: Tensor) -> Tensor:
        """Return the sum of the parts of all ranks."""
        return self._all_reduce(part, dist.ReduceOp.SUM)

    def max(self, part: Tensor) -> Tensor:
        """Return the maximum of the parts of all ranks, entry by entry."""
        return self._all_reduce(part, dist.ReduceOp.MAX)

    def sums(self, parts: Sequence[Tensor]) -> list[Tensor]:
        """Return the sums of several parts of one dtype, in one exchange."""
        return self._together(self.sum, parts)

    def maxima(self, parts: Sequence[Tensor]) -> list[Tensor]:
        """Return the maxima of several parts of one dtype, in one exchange."""
        return self._together(self.max, parts)

    @staticmethod
    def _together(
        operation: Callable[[Tensor], Tensor], parts: Sequence[Tensor]
    ) -> list[Tensor]:
        flat = operation(torch.cat([part.reshape(-1) for part in parts]))
        pieces = torch.split(flat, [part.numel() for part in parts])
        return [
            piece.reshape(part.shape) for piece, part in zip(pieces, parts, strict=True)
        ]

    def log_sum_exp(self, part: Tensor, bounded: bool) -> Tensor:
        """Return log Σ exp over ranks; ``bounded`` says that no shift is needed."""
        if bounded:
            return self.sum(part.exp()).log()
        top = self.max(part).clamp_min(torch.finfo(part.dtype).min)
        return self.sum((part - top).exp()).log() + top

    def _all_reduce(self, part: Tensor, op: Any) -> Tensor:
        out = part.detach().clone(memory_format=torch.contiguous_format)
        dist.all_reduce(out, op, group=self.group)
        return out

    # Rows.

    def _all_gather(self, out: Tensor, own: Tensor) -> None:
        gather = _named("all_gather_single", "all_gather_into_tensor")
        gather(out, own, group=self.group)

    def agree(
        self,
        caller: str,
        counts: Sequence[int],
        alike: dict[str, int],
        device: torch.device,
    ) -> list[tuple[int, ...]]:
        """Return each of the counts as it is on all ranks.

        Ranks that do not fit together would hang, or worse: numbers that have to be
        ``alike`` come with what is to be said of them where they are not.

        The answer is waited for: on the CPU, if the group can talk there, so that a
        device goes on working.
        """
        numbers = (*counts, *alike.values())
        if "cpu" in dist.get_backend_config(self.group):
            device = torch.device("cpu")
        own = torch.tensor(numbers, dtype=torch.int64, device=device)
        out = own.new_empty(self.size * len(numbers))
        self._all_gather(out, own)
        told = list(zip(*out.view(self.size, -1).tolist(), strict=True))
        for text, values in zip(alike, told[len(counts) :], strict=True):
            if len(set(values)) > 1:
                got = ", ".join(map(str, values))
                raise ValueError(f"{caller}: {text} on every rank, got {got}.")
        return told[: len(counts)]

    def agree_on_batches(
        self,
        caller: str,
        z_a: Tensor,
        z_b: Tensor,
        weight_a: Tensor | None,
        weight_b: Tensor | None,
        alike: dict[str, int],
    ) -> list[tuple[int, ...]]:
        """Return how many rows ``(n, D)`` of either batch are on each rank."""
        alike = {
            "z_a must have the same number of columns": z_a.shape[-1],
            "z_b must have the same number of columns": z_b.shape[-1],
            "z_a must have the same dtype": checks.FLOATS.index(z_a.dtype),
            "z_b must have the same dtype": checks.FLOATS.index(z_b.dtype),
            "weights of z_a must be given, or not,": weight_a is not None,
            "weights of z_b must be given, or not,": weight_b is not None,
            **alike,
        }
        return self.agree(caller, (z_a.shape[0], z_b.shape[0]), alike, z_a.device)

    def rows(self, z: Tensor, counts: Sequence[int]) -> Tensor:
        """Return the rows of all ranks, ``(N, D)``, with a gradient to the own ones.

        It is for what all ranks do alike with them: nothing has to be sent back.
        """
        out: Tensor = _Rows.call(z, self, counts)
        return out

    def gather(self, z: Tensor, counts: Sequence[int], dim: int) -> list[Tensor]:
        """Return the rows of all ranks, which lie along ``dim``."""
        own = _padded(z, max(counts), dim)
        if own.dtype == torch.bool:
            own = own.to(torch.uint8)  # not every backend moves booleans
        out = own.new_empty((self.size * own.shape[0], *own.shape[1:]))
        if own.numel():
            self._all_gather(out, own)
        parts = out.view(self.size, *own.shape).unbind(0)
        return [
            part.narrow(dim, 0, count).to(z.dtype)
            for part, count in zip(parts, counts, strict=True)
        ]

    def scatter_sum(self, parts: Sequence[Tensor], dim: int) -> Tensor:
        """Return the sum, over ranks, of the part that belongs to this one."""
        counts = [part.shape[dim] for part in parts]
        count = counts[self.rank]
        stack = torch.stack([_padded(part, max(counts), dim) for part in parts])
        if not stack.numel():
            return stack[self.rank].narrow(dim, 0, count)
        if stack.is_cuda:
            total = torch.empty_like(stack[0])
            scatter = _named("reduce_scatter_single", "reduce_scatter_tensor")
            scatter(total, stack, group=self.group)
        else:  # gloo does not scatter sums in every version
            out = torch.empty_like(stack)
            dist.all_to_all_single(out, stack, group=self.group)
            total = out.sum(0)
        return total.narrow(dim, 0, count)

    def around(
        self, z: Tensor, counts: Sequence[int], dim: int
    ) -> Iterator[tuple[int, Tensor]]:
        """Yield the rows of every rank and whose they are, handed on in a ring.

        The own ones come first. The next ones are on their way while the present ones
        are worked on.
        """
        for step in range(self.size):
            whose = (self.rank - step) % self.size
            pending = None
            if step + 1 < self.size:
                shape = list(z.shape)
                shape[dim] = counts[(whose - 1) % self.size]
                pending = self._pass_on(z, z.new_empty(shape))
            yield whose, z
            if pending is not None:
                z = pending.wait()

    def pass_on(self, z: Tensor, shape: Sequence[int]) -> Tensor:
        """Hand a tensor to the next rank, and return that of the previous one."""
        return self._pass_on(z, z.new_empty(shape)).wait()

    def _pass_on(self, z: Tensor, into: Tensor) -> "_Pending":
        z, operations = z.contiguous(), []
        for operation, tensor, step in ((dist.isend, z, 1), (dist.irecv, into, -1)):
            if tensor.numel():
                peer = (self.rank + step) % self.size
                peer = dist.get_global_rank(self.group, peer)
                operations.append(dist.P2POp(operation, tensor, peer, self.group))
        works = dist.batch_isend_irecv(operations) if operations else []
        return _Pending(works, z, into)


def _named(new: str, old: str) -> Callable[..., Any]:
    """Return a collective by its name from torch 2.13 on, where the old one warns."""
    found: Callable[..., Any] = getattr(dist, new if hasattr(dist, new) else old)
    return found


class _Rows(Function):
    @staticmethod
    def forward(z: Tensor, ranks: Ranks, counts: Sequence[int]) -> Tensor:
        return torch.cat(ranks.gather(z, counts, 0))

    @staticmethod
    def setup_context(ctx: Any, inputs: Any, output: Any) -> None:
        _, ranks, counts = inputs
        start = sum(counts[: ranks.rank])
        ctx.own, ctx.size = slice(start, start + counts[ranks.rank]), ranks.size

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> Any:
        refuse_twice()
        return ctx.size * grad[ctx.own], None, None


class _Once(Function):
    @staticmethod
    def forward(value: Tensor) -> Tensor:
        return value.clone()

    @staticmethod
    def setup_context(ctx: Any, inputs: Any, output: Any) -> None:
        pass

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> Any:
        refuse_twice()
        return grad


def once(value: Tensor) -> Tensor:
    """Return a value that can be differentiated once."""
    out: Tensor = _Once.call(value)
    return out


def refuse_twice() -> None:
    """Raise where a gradient is about to be made that can be differentiated itself."""
    if torch.is_grad_enabled():
        raise RuntimeError(
            "backward: create_graph must be False for a loss of a process group, got "
            "True. What other ranks have sent is a constant to a second derivative."
        )


class _Pending:
    """A tensor under way; what is sent is kept until it has left."""

    def __init__(self, works: list[Any], sent: Tensor, into: Tensor) -> None:
        self._works, self._sent, self._into = works, sent, into

    def wait(self) -> Tensor:
        for work in self._works:
            work.wait()
        return self._into


def _padded(z: Tensor, count: int, dim: int) -> Tensor:
    shape = list(z.shape)
    shape[dim] = count - shape[dim]
    if shape[dim] == 0:
        return z.detach().contiguous()
    return torch.cat((z.detach(), z.new_zeros(shape)), dim)
