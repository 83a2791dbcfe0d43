r"""Contrastive-center loss: near the centre of the own class, far from all others.

Classes have learned centres :math:`c_1, …, c_K`. A row of class :math:`y_i` has the
loss

.. math::
    \ell_i = \frac12 \,
    \frac{\lVert z_i - c_{y_i} \rVert^2}
         {\sum_{k \ne y_i} \lVert z_i - c_k \rVert^2 + \delta} .

The rows may be of any modality: what is near one centre is near each other. The
denominator has K − 1 terms, and the loss shrinks with them.

Numerics: with the mean :math:`m_i` of the other centres, the sum is
:math:`(K - 1) \lVert z_i - m_i \rVert^2 + \sum_{k \ne y_i} \lVert c_k - m_i \rVert^2`;
neither term cancels against :math:`z_i`, and no N×K matrix is made. Cost: O((N + K) D)
time and memory.

References: :cite:t:`qi2017contrastive`, where δ = 1.
"""

import torch
from torch import Tensor, nn

from xmodal_losses._core import checks, moments, precision, ranks, reduce
from xmodal_losses._core.modules import describe

__all__ = ["ContrastiveCenterLoss", "contrastive_center"]


def contrastive_center(
    z: Tensor,
    labels: Tensor,
    centers: Tensor,
    *,
    delta: float = 1.0,
    weight: Tensor | None = None,
    reduction: reduce.Reduction = "mean",
    group: ranks.Group | None = None,
    grad_reduce: ranks.GradReduce = "mean",
) -> Tensor:
    """Return the contrastive-center loss of labelled rows.

    Args:
        z: Embeddings, shape ``(…, N, D)``; of two modalities, joined along the rows.
        labels: Classes, integers in [0, K), shape ``(…, N)``.
        centers: Centres of the classes, shape ``(K, D)``, which get their gradient.
            Those of classes without a row are no different: others keep away from them.
        delta: δ > 0, in the units of a squared distance: where the other centres are
            no longer felt to be near.
        weight: Weights ≥ 0 of the rows, ``(…, N)``. A row of weight 0 is as if it were
            not there; its label still has to be one of the K.
        reduction: ``"mean"`` (Σwℓ/Σw), ``"sum"`` (Σwℓ) or ``"none"`` (wℓ, shape
            ``(…, N)``).
        group: A process group whose ranks each have a part of the batch; the loss is
            that of the parts joined along the first dimension. None: the batch is here.
        grad_reduce: ``"mean"`` if gradients are averaged over ranks, as by DDP;
            ``"sum"`` if they are added up.

    Returns:
        Scalar, or ``(…, N)`` for ``reduction="none"``; ≥ 0. In the dtype of the inputs,
        float32 at least.

    Raises:
        TypeError: If an input is of another type.
        ValueError: If shapes do not fit together or an option is out of range.

    Examples:
        >>> import torch, xmodal_losses.functional as F
        >>> centers = torch.eye(3)
        >>> F.contrastive_center(torch.eye(3) + 0.1, torch.arange(3), centers)
        tensor(0.0030)
    """
    caller = "contrastive_center"
    checks.number(caller, "delta", delta, above=0.0)
    checks.option(caller, "reduction", reduction, reduce.REDUCTIONS)
    known = ranks.joined(caller, group, grad_reduce)
    checks.rows(caller, "z", z, 1 if known is None else 0)
    checks.row_ids(caller, "labels", labels, z, required=True)
    checks.row_weight(caller, "weight", weight, z)
    checks.rows(caller, "centers", centers, like=z)
    if centers.ndim != 2 or centers.shape[1] != z.shape[-1]:
        raise ValueError(
            f"{caller}: centers must be of shape (K, {z.shape[-1]}), as wide as z, got "
            f"{tuple(centers.shape)}."
        )
    dtype = precision.compute_dtype(z, centers)
    z, centers, labels = (
        moments.drop(z.to(dtype), weight),
        centers.to(dtype),
        labels.long(),
    )
    with precision.no_autocast(z):
        # Far from 0 the mean of centres would be rounded to their last digit.
        origin = centers.detach()[0]
        z, centers = z - origin, centers - origin
        own = (z - centers[labels]).square().sum(-1)
        mean, spread, others = _others(centers)
        rest = others * (z - mean[labels]).square().sum(-1) + spread[labels]
        return reduce.rows(own / (rest + delta) / 2, weight, reduction, known)


def _others(centers: Tensor) -> tuple[Tensor, Tensor, int]:
    """Return each centre's others: their mean, squared distances from it, number."""
    others = centers.shape[0] - 1
    middle = centers.mean(0)
    centred = centers - middle
    # The others' sum is minus the own one.
    shift = -centred / max(others, 1)
    square = centred.square().sum(-1)
    spread = square.sum() - square - others * shift.square().sum(-1)
    return middle + shift, spread.clamp_min(0.0), others


class ContrastiveCenterLoss(nn.Module):
    """Module form of :func:`~xmodal_losses.functional.contrastive_center`.

    Args:
        num_classes: K, the number of centres.
        num_features: D, the width of the rows.
        delta: As in the function.
        reduction: As in the function.
        gather: True: the default process group; or a process group, the ``group`` of
            the function. False: the batch is here.
        grad_reduce: As in the function.

    State: ``centers``, a parameter ``(K, D)``, drawn from a standard normal
    distribution. Hand the parameters of the loss to the optimiser, too.

    Shape:
        - ``z``: ``(…, N, D)``; ``labels`` and ``weight``: ``(…, N)``.
        - Output: scalar, or ``(…, N)`` for ``reduction="none"``.

    Examples:
        >>> import torch, xmodal_losses as xl
        >>> criterion = xl.ContrastiveCenterLoss(num_classes=10, num_features=128)
        >>> rgb, ir = torch.randn(2, 32, 128, requires_grad=True)
        >>> label = torch.randint(10, (32,))
        >>> criterion(torch.cat((rgb, ir)), torch.cat((label, label))).backward()
    """

    def __init__(
        self,
        num_classes: int,
        num_features: int,
        *,
        delta: float = 1.0,
        reduction: reduce.Reduction = "mean",
        gather: bool | ranks.Group = False,
        grad_reduce: ranks.GradReduce = "mean",
    ) -> None:
        super().__init__()
        caller = "ContrastiveCenterLoss"
        checks.count(caller, "num_classes", num_classes)
        checks.count(caller, "num_features", num_features)
        checks.number(caller, "delta", delta, above=0.0)
        checks.option(caller, "reduction", reduction, reduce.REDUCTIONS)
        ranks.check_module(caller, gather, grad_reduce)
        self.centers = nn.Parameter(torch.randn(num_classes, num_features))
        self.delta = float(delta)
        self.reduction: reduce.Reduction = reduction
        self.gather = gather
        self.grad_reduce: ranks.GradReduce = grad_reduce

    def forward(
        self, z: Tensor, labels: Tensor, *, weight: Tensor | None = None
    ) -> Tensor:
        """Return the loss of the labelled batch."""
        return contrastive_center(
            z,
            labels,
            self.centers,
            delta=self.delta,
            weight=weight,
            reduction=self.reduction,
            group=ranks.of_module("ContrastiveCenterLoss", self.gather),
            grad_reduce=self.grad_reduce,
        )

    def extra_repr(self) -> str:
        """Return the options."""
        num_classes, num_features = self.centers.shape
        options = describe(self, "delta", "reduction", "gather", "grad_reduce")
        return f"num_classes={num_classes}, num_features={num_features}, {options}"
