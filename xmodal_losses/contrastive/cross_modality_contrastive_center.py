r"""Cross-modality contrastive-center: modalities are nearer to each other than classes.

With :math:`c^a_k`, :math:`c^b_k` the means of the rows of class :math:`k` in either
modality, :math:`c_k` the mean of these two, and :math:`K` the classes that both of them
have,

.. math::
    L = \frac1{|K|} \sum_{k \in K} \log \Bigl( 1 + \exp \bigl(
        \lVert c^a_k - c^b_k \rVert - \min_{l \ne k} \lVert c_k - c_l \rVert
        \bigr) \Bigr) .

What the modalities lie apart is compared with what the nearest two classes lie apart;
there is no margin to choose, and no triplet ever stops. Rows need no partners, and
modalities may have different numbers of rows of a class; how rows lie around their
centre is not looked at.

Numerics: distances are made of differences, and only which class is nearest of inner
products. Cost: O((N + M) D + K² D) time and O((N + M) D) memory; on a GPU, and where it
is compiled, as if there were as many classes as rows.

References: the CMCC loss of :cite:t:`gao2021mso`, by the formula of a public
reimplementation, which was not compared with the text of the paper.
"""

import torch
from torch import Tensor, nn

from xmodal_losses._core import checks, precision, ranks, reduce
from xmodal_losses._core.centers import distance, nearest_other, shared_centers
from xmodal_losses._core.modules import describe

__all__ = ["CrossModalityContrastiveCenterLoss", "cross_modality_contrastive_center"]


def cross_modality_contrastive_center(
    z_a: Tensor,
    z_b: Tensor,
    labels_a: Tensor,
    labels_b: Tensor,
    *,
    weight_a: Tensor | None = None,
    weight_b: Tensor | None = None,
    reduction: reduce.Reduction = "mean",
    group: ranks.Group | None = None,
    grad_reduce: ranks.GradReduce = "mean",
) -> Tensor:
    """Return the logistic loss of what modalities, and what classes, lie apart.

    Args:
        z_a: Embeddings of modality *a*, shape ``(…, N, D)``; leading dimensions are
            independent problems.
        z_b: Embeddings of modality *b*, ``(…, M, D)``; N and M may differ.
        labels_a: Classes, any integers, ``(…, N)``.
        labels_b: Classes, ``(…, M)``. A class that only one modality has counts for
            nothing, and a class of one row has its centre there.
        weight_a: Weights ≥ 0 of the rows in their centres, ``(…, N)``. A row of weight
            0 is as if it were not there.
        weight_b: The same for modality *b*, ``(…, M)``.
        reduction: Over leading dimensions: ``"mean"``, ``"sum"`` or ``"none"``.
            Problems without a shared class are 0, and the mean passes over them; one
            shared class is infinitely far from any other, and its loss is 0.
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
        >>> F.cross_modality_contrastive_center(z, z, labels, labels)
        tensor(0.2176)
        >>> F.cross_modality_contrastive_center(9 * z, 9 * z, labels, labels)
        tensor(2.9671e-06)
    """
    centers = shared_centers(
        "cross_modality_contrastive_center",
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
    middle = (centers.a + centers.b) / 2
    number = torch.arange(middle.shape[-2], device=middle.device)
    nearest = nearest_other(middle, number, centers.shared)
    gap = distance(centers.a, centers.b) - distance(middle, nearest)
    loss = precision.softplus(gap)
    alone = centers.shared.sum(-1, keepdim=True) < 2
    return centers.reduced(centers.mean(loss.masked_fill(alone, 0.0)), reduction)


class CrossModalityContrastiveCenterLoss(nn.Module):
    """Module form of the function.

    See :func:`~xmodal_losses.functional.cross_modality_contrastive_center`.

    Args:
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
        >>> criterion = xl.CrossModalityContrastiveCenterLoss()
        >>> criterion(rgb, ir, label_rgb, label_ir).backward()
    """

    def __init__(
        self,
        *,
        reduction: reduce.Reduction = "mean",
        gather: bool | ranks.Group = False,
        grad_reduce: ranks.GradReduce = "mean",
    ) -> None:
        super().__init__()
        caller = "CrossModalityContrastiveCenterLoss"
        checks.option(caller, "reduction", reduction, reduce.REDUCTIONS)
        ranks.check_module(caller, gather, grad_reduce)
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
        return cross_modality_contrastive_center(
            z_a,
            z_b,
            labels_a,
            labels_b,
            weight_a=weight_a,
            weight_b=weight_b,
            reduction=self.reduction,
            group=ranks.of_module("CrossModalityContrastiveCenterLoss", self.gather),
            grad_reduce=self.grad_reduce,
        )

    def extra_repr(self) -> str:
        """Return the options."""
        return describe(self, "reduction", "gather", "grad_reduce")
