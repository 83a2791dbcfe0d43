r"""Similarity preservation: across modalities, rows are as alike as within either.

Of rows of unit length, with :math:`s^{ab}_{ij} = \langle \hat a_i, \hat b_j \rangle`,

.. math::
    L = \frac1{N^2} \sum_{ij} \lvert \Delta_{ij} \rvert^{\gamma} \, \Delta_{ij}^2 ,
    \qquad
    \Delta_{ij} = s^{ab}_{ij} - \operatorname{sg} \Bigl[
        \frac{s^{aa}_{ij} + s^{bb}_{ij}}2 \Bigr] .

The similarities within a modality are the target, and constants to the gradient (sg):
they tell :math:`s^{ab}` what to be, and are not pulled towards it. Of a row and its
partner the target is 1. With :math:`\gamma > 0` pairs that are far off count for more.

It is inspired by the similarity-preserving loss of :cite:t:`wu2020rgb`, in which
similarities of one modality guide those across two. Their formula was not at hand: this
is not a reproduction of it.

Numerics: Δ is made of the differences of partners, so that nothing cancels where the
modalities agree. Value and gradient come in one pass over tiles of Δ. Cost: O(N² D)
time, O(N D) memory and a tile.
"""

from torch import Tensor, nn

from xmodal_losses._core import checks, moments, pairs, precision, ranks, reduce
from xmodal_losses._core.linalg import unit
from xmodal_losses._core.modules import describe

__all__ = ["SimilarityPreservationLoss", "similarity_preservation"]


def similarity_preservation(
    z_a: Tensor,
    z_b: Tensor,
    *,
    gamma: float = 0.0,
    detach_target: bool = True,
    weight: Tensor | None = None,
    reduction: reduce.Reduction = "mean",
    chunk_size: int | None = None,
    group: ranks.Group | None = None,
    grad_reduce: ranks.GradReduce = "mean",
    exchange: pairs.Exchange | None = None,
) -> Tensor:
    """Return the mean power of how far similarities across are from those within.

    Args:
        z_a: Embeddings of modality *a*, shape ``(…, N, D)``; leading dimensions are
            independent problems.
        z_b: Embeddings of modality *b*, same shape; row *i* belongs to row *i* of
            ``z_a``. A zero row is like no row, and gets no gradient.
        gamma: γ ≥ 0, the power by which a pair's distance from its target weighs the
            pair. 0: the mean square.
        detach_target: The similarities within a modality are constants to the
            gradient. False: they get theirs, too.
        weight: Weights ≥ 0 of the pairs (a_i, b_i), ``(…, N)``: Δ_ij counts by
            w_i w_j. A pair of weight 0 is as if it were not there. Weights get no
            gradient.
        reduction: Over leading dimensions: ``"mean"``, ``"sum"`` or ``"none"``.
        chunk_size: Edge of the largest tile of the N×N matrix Δ to hold at a time; the
            result is the same. None chooses by size and device.
        group: A process group whose ranks each have a part of the batch; the loss is
            that of the parts joined along the first dimension. None: the batch is here.
        grad_reduce: ``"mean"`` if gradients are averaged over ranks, as by DDP;
            ``"sum"`` if they are added up.
        exchange: How rows come from other ranks: ``"gather"``, all at once, or
            ``"ring"``, one rank's after the other's. None chooses by size.

    Returns:
        Scalar, or ``(…)`` for ``reduction="none"``; ≥ 0. In the dtype of the inputs,
        float32 at least.

    Raises:
        TypeError: If an input is not a floating-point tensor, or an option of another
            type.
        ValueError: If shapes do not fit together or an option is out of range.

    Examples:
        >>> import torch, xmodal_losses.functional as F
        >>> F.similarity_preservation(torch.eye(4), 3 * torch.eye(4))
        tensor(0.)
        >>> F.similarity_preservation(torch.eye(4), torch.eye(4).flip(0))
        tensor(0.5000)
    """
    caller = "similarity_preservation"
    _check_options(caller, gamma, detach_target, reduction, chunk_size)
    known = ranks.joined(caller, group, grad_reduce, exchange, pairs.EXCHANGES)
    least = 1 if known is None else 0
    checks.embeddings(caller, z_a, z_b, paired=True, min_rows=least)
    checks.row_weight(caller, "weight", weight, z_a)
    walk = None
    if known is not None and z_a.ndim == 2:
        told = {"weight": weight}
        walk = pairs.meet(caller, known, exchange, z_a, z_b, "group", told)

    dtype = precision.compute_dtype(z_a, z_b)
    with precision.no_autocast(z_a):
        u = unit(moments.drop(z_a.to(dtype), weight), -1)
        v = unit(moments.drop(z_b.to(dtype), weight), -1)
        value = pairs.similarity_gap(
            u,
            v,
            None if weight is None else weight.to(dtype),
            gamma=float(gamma),
            detached=detach_target,
            chunk_size=chunk_size,
            walk=walk,
        )
    # Without weight anywhere, the mean over pairs on all ranks is 0 already.
    present = reduce.present(weight) if walk is None else None
    return reduce.problems(value, present, reduction, known)


def _check_options(
    caller: str,
    gamma: object,
    detach_target: object,
    reduction: object,
    chunk_size: object,
) -> None:
    checks.number(caller, "gamma", gamma, at_least=0.0)
    checks.flag(caller, "detach_target", detach_target)
    checks.option(caller, "reduction", reduction, reduce.REDUCTIONS)
    if chunk_size is not None:
        checks.count(caller, "chunk_size", chunk_size)


class SimilarityPreservationLoss(nn.Module):
    """Module form of :func:`~xmodal_losses.functional.similarity_preservation`.

    Args:
        gamma: As in the function.
        detach_target: As in the function.
        reduction: As in the function.
        chunk_size: As in the function.
        gather: True: the default process group; or a process group, the ``group`` of
            the function. False: the batch is here.
        grad_reduce: As in the function.
        exchange: As in the function.

    State: none.

    Shape:
        - ``z_a``, ``z_b``: ``(…, N, D)``; ``weight``: ``(…, N)``.
        - Output: scalar, or ``(…)`` for ``reduction="none"``.

    Examples:
        >>> import torch, xmodal_losses as xl
        >>> rgb, ir = torch.randn(2, 32, 128, requires_grad=True)
        >>> xl.SimilarityPreservationLoss(gamma=1.0)(rgb, ir).backward()
    """

    def __init__(
        self,
        *,
        gamma: float = 0.0,
        detach_target: bool = True,
        reduction: reduce.Reduction = "mean",
        chunk_size: int | None = None,
        gather: bool | ranks.Group = False,
        grad_reduce: ranks.GradReduce = "mean",
        exchange: pairs.Exchange | None = None,
    ) -> None:
        super().__init__()
        caller = "SimilarityPreservationLoss"
        _check_options(caller, gamma, detach_target, reduction, chunk_size)
        ranks.check_module(caller, gather, grad_reduce, exchange, pairs.EXCHANGES)
        self.gamma = float(gamma)
        self.detach_target = detach_target
        self.reduction: reduce.Reduction = reduction
        self.chunk_size = chunk_size
        self.gather = gather
        self.grad_reduce: ranks.GradReduce = grad_reduce
        self.exchange: pairs.Exchange | None = exchange

    def forward(
        self, z_a: Tensor, z_b: Tensor, *, weight: Tensor | None = None
    ) -> Tensor:
        """Return the loss of the paired batches."""
        return similarity_preservation(
            z_a,
            z_b,
            gamma=self.gamma,
            detach_target=self.detach_target,
            weight=weight,
            reduction=self.reduction,
            chunk_size=self.chunk_size,
            group=ranks.of_module("SimilarityPreservationLoss", self.gather),
            grad_reduce=self.grad_reduce,
            exchange=self.exchange,
        )

    def extra_repr(self) -> str:
        """Return the options."""
        return describe(
            self,
            "gamma",
            "detach_target",
            "reduction",
            "chunk_size",
            "gather",
            "grad_reduce",
            "exchange",
        )
