r"""Hetero-center loss: each class has one centre, in both modalities.

With :math:`c^a_k`, :math:`c^b_k` the means of the rows of class :math:`k` in either
modality, and :math:`K` the classes that both of them have,

.. math::
    L = \frac1{|K|} \sum_{k \in K}
        \max \bigl( 0,\; \lVert c^a_k - c^b_k \rVert^2 - m \bigr) .

Rows need no partners, and modalities may have different numbers of rows of a class. How
rows lie around their centre is not looked at: put it beside a loss that tells classes
apart.

Numerics: classes are told by sorting the labels, whatever integers they are. Cost:
O((N + M) D) time and memory.

References: :cite:t:`zhu2020hetero`, who add the classes up; the margin is that of their
code.
"""

from torch import Tensor, nn

from xmodal_losses._core import checks, ranks, reduce
from xmodal_losses._core.centers import shared_centers
from xmodal_losses._core.modules import describe

__all__ = ["HeteroCenterLoss", "hetero_center"]


def hetero_center(
    z_a: Tensor,
    z_b: Tensor,
    labels_a: Tensor,
    labels_b: Tensor,
    *,
    margin: float = 0.0,
    weight_a: Tensor | None = None,
    weight_b: Tensor | None = None,
    reduction: reduce.Reduction = "mean",
    group: ranks.Group | None = None,
    grad_reduce: ranks.GradReduce = "mean",
) -> Tensor:
    """Return the mean squared distance of the two modalities' class centres.

    Args:
        z_a: Embeddings of modality *a*, shape ``(…, N, D)``; leading dimensions are
            independent problems.
        z_b: Embeddings of modality *b*, ``(…, M, D)``; N and M may differ.
        labels_a: Classes, any integers, ``(…, N)``.
        labels_b: Classes, ``(…, M)``. A class that only one modality has counts for
            nothing, and a class of one row has its centre there.
        margin: m ≥ 0, the squared distance from which on centres are pulled together.
        weight_a: Weights ≥ 0 of the rows in their centres, ``(…, N)``. A row of weight
            0 is as if it were not there.
        weight_b: The same for modality *b*, ``(…, M)``.
        reduction: Over leading dimensions: ``"mean"``, ``"sum"`` or ``"none"``.
            Problems without a shared class are 0, and the mean passes over them.
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
        >>> z = torch.eye(4)
        >>> F.hetero_center(z, z.flip(0), torch.arange(4), torch.arange(4).flip(0))
        tensor(0.)
        >>> F.hetero_center(z, z + 0.5, torch.arange(4), torch.arange(4))
        tensor(1.)
    """
    caller = "hetero_center"
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
    gap = (centers.a - centers.b).square().sum(-1) - margin
    return centers.reduced(centers.mean(gap.clamp_min(0.0)), reduction)


class HeteroCenterLoss(nn.Module):
    """Module form of :func:`~xmodal_losses.functional.hetero_center`.

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
        >>> xl.HeteroCenterLoss()(rgb, ir, label_rgb, label_ir).backward()
    """

    def __init__(
        self,
        *,
        margin: float = 0.0,
        reduction: reduce.Reduction = "mean",
        gather: bool | ranks.Group = False,
        grad_reduce: ranks.GradReduce = "mean",
    ) -> None:
        super().__init__()
        caller = "HeteroCenterLoss"
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
        return hetero_center(
            z_a,
            z_b,
            labels_a,
            labels_b,
            margin=self.margin,
            weight_a=weight_a,
            weight_b=weight_b,
            reduction=self.reduction,
            group=ranks.of_module("HeteroCenterLoss", self.gather),
            grad_reduce=self.grad_reduce,
        )

    def extra_repr(self) -> str:
        """Return the options."""
        return describe(self, "margin", "reduction", "gather", "grad_reduce")
