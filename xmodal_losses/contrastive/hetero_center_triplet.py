r"""Hetero-center triplet loss: a class's two centres are nearer than any other class's.

With :math:`c^a_k`, :math:`c^b_k` the means of the rows of class :math:`k` in either
modality, :math:`K` the classes that both of them have, and a margin :math:`m`,

.. math::
    L = \frac1{2|K|} \sum_{k \in K} \sum_{u \in \{a, b\}}
        \max \bigl( 0,\; m + \lVert c^a_k - c^b_k \rVert
        - \min_{l \ne k,\; v \in \{a, b\}} \lVert c^u_k - c^v_l \rVert \bigr) .

Each centre is an anchor: its positive is the centre of its class in the other modality,
its negative the nearest centre of any other class in either. Rows need no partners, and
modalities may have different numbers of rows of a class; how rows lie around their
centre is not looked at.

Numerics: distances are made of differences, and only which negative is nearest of inner
products. Cost: O((N + M) D + K² D) time and O((N + M) D) memory; on a GPU, and where it
is compiled, as if there were as many classes as rows.

References: :cite:t:`liu2020parameter`, who add the anchors up; their code takes the
mean.
"""

import torch
from torch import Tensor, nn

from xmodal_losses._core import checks, ranks, reduce
from xmodal_losses._core.centers import distance, nearest_other, shared_centers
from xmodal_losses._core.modules import describe

__all__ = ["HeteroCenterTripletLoss", "hetero_center_triplet"]


def hetero_center_triplet(
    z_a: Tensor,
    z_b: Tensor,
    labels_a: Tensor,
    labels_b: Tensor,
    *,
    margin: float = 0.3,
    weight_a: Tensor | None = None,
    weight_b: Tensor | None = None,
    reduction: reduce.Reduction = "mean",
    group: ranks.Group | None = None,
    grad_reduce: ranks.GradReduce = "mean",
) -> Tensor:
    """Return the hardest-negative triplet loss of the modalities' class centres.

    Args:
        z_a: Embeddings of modality *a*, shape ``(…, N, D)``; leading dimensions are
            independent problems.
        z_b: Embeddings of modality *b*, ``(…, M, D)``; N and M may differ.
        labels_a: Classes, any integers, ``(…, N)``.
        labels_b: Classes, ``(…, M)``. A class that only one modality has counts for
            nothing, not as a negative either; a class of one row has its centre there.
        margin: m ≥ 0, a distance: by so much nearer than the negative the positive is
            to be.
        weight_a: Weights ≥ 0 of the rows in their centres, ``(…, N)``. A row of weight
            0 is as if it were not there.
        weight_b: The same for modality *b*, ``(…, M)``.
        reduction: Over leading dimensions: ``"mean"``, ``"sum"`` or ``"none"``.
            Problems without a shared class are 0, and the mean passes over them; one
            shared class has no negative, and its loss is 0.
        group: A process group whose ranks each have a part of the batch; the loss is
            that of the parts joined along the first dimension, where the rows of a
            class may lie anywhere. None: the batch is here.
        grad_reduce: ``"mean"`` if gradients are averaged over ranks, as by DDP;
            ``"sum"`` if they are added up.

    Returns:
        Scalar, or ``(…)`` for ``reduction="none"``; ≥ 0. In the dtype of the inputs,
        float32 at least.

    Raises:
        TypeError: If an input is of another type.
        ValueError: If shapes do not fit together or an option is out of range.

    Examples:
        >>> import torch, xmodal_losses.functional as F
        >>> z, labels = torch.eye(4), torch.arange(4)
        >>> F.hetero_center_triplet(z, z, labels, labels)
        tensor(0.)
        >>> F.hetero_center_triplet(z, z + 1, labels, labels)  # 0.3 + 2 - 1.4142
        tensor(0.8858)
    """
    caller = "hetero_center_triplet"
    checks.number(caller, "margin", margin, at_least=0.0)
    centers = shared_centers(
        caller,
        z_a,
        z_b,
        labels_a,
        labels_b,
        weight_a=weight_a,
        weight_b=weight_b,
        reduction=reduction,
        group=group,
        grad_reduce=grad_reduce,
    )
    anchors = torch.cat((centers.a, centers.b), -2)
    number = torch.arange(centers.shared.shape[-1], device=anchors.device)
    negative = nearest_other(
        anchors,
        torch.cat((number, number)),
        torch.cat((centers.shared, centers.shared), -1),
    )
    positive = distance(centers.a, centers.b)
    gap = torch.cat((positive, positive), -1) - distance(anchors, negative)
    # relu has the gradient 0 at 0, where clamp_min has 1.
    both = *positive.shape[:-1], 2, positive.shape[-1]
    loss = (margin + gap).relu().reshape(both).mean(-2)
    alone = centers.shared.sum(-1, keepdim=True) < 2
    return centers.reduced(centers.mean(loss.masked_fill(alone, 0.0)), reduction)


class HeteroCenterTripletLoss(nn.Module):
    """Module form of :func:`~xmodal_losses.functional.hetero_center_triplet`.

    Args:
        margin: As in the function.
        reduction: As in the function.
        gather: True: the default process group; or a process group, the ``group`` of
            the function. False: the batch is here.
        grad_reduce: As in the function.

    State: none.

    Shape:
        - ``z_a``: ``(…, N, D)``; ``z_b``: ``(…, M, D)``; ``labels_a`` and ``weight_a``:
          ``(…, N)``; ``labels_b`` and ``weight_b``: ``(…, M)``.
        - Output: scalar, or ``(…)`` for ``reduction="none"``.

    Examples:
        >>> import torch, xmodal_losses as xl
        >>> rgb, ir = torch.randn(2, 32, 128, requires_grad=True)
        >>> label_rgb, label_ir = torch.randint(4, (2, 32))
        >>> xl.HeteroCenterTripletLoss()(rgb, ir, label_rgb, label_ir).backward()
    """

    def __init__(
        self,
        *,
        margin: float = 0.3,
        reduction: reduce.Reduction = "mean",
        gather: bool | ranks.Group = False,
        grad_reduce: ranks.GradReduce = "mean",
    ) -> None:
        super().__init__()
        caller = "HeteroCenterTripletLoss"
        checks.number(caller, "margin", margin, at_least=0.0)
        checks.option(caller, "reduction", reduction, reduce.REDUCTIONS)
        ranks.check_module(caller, gather, grad_reduce)
        self.margin = float(margin)
        self.reduction: reduce.Reduction = reduction
        self.gather = gather
        self.grad_reduce: ranks.GradReduce = grad_reduce

    def forward(
        self,
        z_a: Tensor,
        z_b: Tensor,
        labels_a: Tensor,
        labels_b: Tensor,
        *,
        weight_a: Tensor | None = None,
        weight_b: Tensor | None = None,
    ) -> Tensor:
        """Return the loss of the labelled batches."""
        return hetero_center_triplet(
            z_a,
            z_b,
            labels_a,
            labels_b,
            margin=self.margin,
            weight_a=weight_a,
            weight_b=weight_b,
            reduction=self.reduction,
            group=ranks.of_module("HeteroCenterTripletLoss", self.gather),
            grad_reduce=self.grad_reduce,
        )

    def extra_repr(self) -> str:
        """Return the options."""
        return describe(self, "margin", "reduction", "gather", "grad_reduce")
