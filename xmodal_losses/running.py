"""Losses of moments for small batches: moments averaged over the last ones."""

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn

from xmodal_losses._core import checks, precision, ranks
from xmodal_losses._core.modules import describe
from xmodal_losses._core.moments import (
    PAIRED,
    SAME_WIDTH,
    Pair,
    Summary,
    drop,
    summary_of,
)
from xmodal_losses._core.reduce import inverse

__all__ = ["RunningMoments"]

CALLER = "RunningMoments"


class RunningMoments(nn.Module):
    r"""A loss of means and covariances, of moments averaged over the last batches.

    With M the moments of a batch (its covariances, each about its own mean), the loss
    is that of

    .. math::
        \hat M_t = \frac{(1 - m) \sum_{s \le t} m^{t - s} M_s}{1 - m^t} ,

    so that covariances have the noise of (1 + m)/(1 − m) batches, 19 of them at m =
    0.9. The quotient removes the bias of the beginning; the first batch's loss is that
    of the batch. The gradient is that in the rows of this batch: past ones are
    constants, and it is (1 − m)/(1 − mᵗ) of what it would be if all of :math:`\hat M`
    were its own.

    In ``eval`` mode the loss is that of the batch alone, and nothing is remembered.

    Args:
        criterion: CORALLoss, BarlowTwinsLoss, VICRegLoss, SoftDecorrelationLoss or
            DCCALoss.
        dim_a: Columns of modality *a*, D_a.
        dim_b: Columns of modality *b*, D_b.
        momentum: m in [0, 1).

    State: buffers, in float64 and in the ``state_dict``: ``running_<moment>`` for each
    moment the loss looks at (and N/(N − 1)), the sums above; and ``norm``, what they
    are divided by. With a criterion with ``gather`` they are those of all ranks, and
    the same on each.

    Shape:
        - ``z_a``: ``(N, D_a)``; ``z_b``: ``(N, D_b)``, or ``(M, D_b)`` for losses of
          unpaired rows; weights as the criterion takes them.
        - Output: scalar.

    Raises:
        TypeError: If the criterion is not one of these, or an option of another type.
        ValueError: If an option is out of range.
        RuntimeError: On a second derivative.

    Note:
        Moments are of embeddings of encoders of some steps ago: take a lower momentum
        where these change fast. The batch's own loss is noisy, this one is late.

        A batch whose weights are all 0 is passed over. The module is not traced by
        ``torch.compile(fullgraph=True)``.

    Examples:
        >>> import torch, xmodal_losses as xl
        >>> criterion = xl.RunningMoments(xl.DCCALoss(), 16, 12, momentum=0.9)
        >>> rgb, ir = torch.randn(8, 16, requires_grad=True), torch.randn(8, 12)
        >>> criterion(rgb, ir).backward()
    """

    norm: Tensor

    def __init__(
        self,
        criterion: nn.Module,
        dim_a: int,
        dim_b: int,
        *,
        momentum: float = 0.9,
    ) -> None:
        super().__init__()
        names = getattr(criterion, "_moments", None)
        if names is None:
            raise TypeError(
                f"{CALLER}: criterion must be CORALLoss, BarlowTwinsLoss, VICRegLoss, "
                f"SoftDecorrelationLoss or DCCALoss, got {type(criterion).__name__}."
            )
        checks.count(CALLER, "dim_a", dim_a)
        checks.count(CALLER, "dim_b", dim_b)
        checks.number(CALLER, "momentum", momentum, at_least=0.0, below=1.0)
        self.criterion = criterion
        self.dim_a, self.dim_b, self.momentum = dim_a, dim_b, momentum
        self._names: frozenset[str] = names
        shapes = {
            "aa": [dim_a, dim_a],
            "bb": [dim_b, dim_b],
            "ab": [dim_a, dim_b],
            "variance_a": [dim_a],
            "variance_b": [dim_b],
            "mean_gap": [dim_a],
            "square_gap": [],
        }
        # The eps of batch normalisation is one of Σw, not of a divisor.
        shapes["total_over_dof"] = []
        for name in (*sorted(names), "total_over_dof"):
            zeros = torch.zeros(shapes[name], dtype=torch.float64)
            self.register_buffer(f"running_{name}", zeros)
        self.register_buffer("norm", torch.zeros((), dtype=torch.float64))

    def forward(
        self,
        z_a: Tensor,
        z_b: Tensor,
        *,
        weight: Tensor | None = None,
        weight_a: Tensor | None = None,
        weight_b: Tensor | None = None,
    ) -> Tensor:
        """Return the loss, of this batch and those before.

        Args:
            z_a: Embeddings of modality *a*, ``(N, D_a)``.
            z_b: Embeddings of modality *b*.
            weight: Weights of the pairs, ``(N,)``, for losses of paired rows.
            weight_a: Weights of the rows of ``z_a``, for others.
            weight_b: Weights of the rows of ``z_b``, for others.
        """
        told = {"weight": weight, "weight_a": weight_a, "weight_b": weight_b}
        given = {name: w for name, w in told.items() if w is not None}
        if not self.training:
            out: Tensor = self.criterion(z_a, z_b, **given)
            return out
        weight_a, weight_b = self._check(z_a, z_b, given)
        criterion: Any = self.criterion
        caller = type(criterion).__name__
        known = ranks.joined(
            caller, ranks.of_module(caller, criterion.gather), criterion.grad_reduce
        )
        dtype = precision.compute_dtype(z_a, z_b)
        with precision.no_autocast(z_a):
            summary = summary_of(
                self._names,
                drop(z_a, weight_a).to(dtype),
                drop(z_b, weight_b).to(dtype),
                weight_a,
                weight_b,
                known,
            )
            mixed = self._mix(summary)._replace(dtype=dtype, ranks=known)
            formula: Callable[[Pair], Tensor] = criterion._of_moments
            return formula(mixed).to(dtype)

    def _mix(self, summary: Summary) -> Summary:
        """Take the moments of a batch in; return the average."""
        # A batch without weight changes nothing.
        share = (1 - self.momentum) * summary.present.to(self.norm)
        kept = 1 - share
        norm = kept * self.norm + share
        moments = {}
        of_batch = {**summary.moments, "total_over_dof": summary.total_over_dof}
        for name, moment in of_batch.items():
            running: Tensor = getattr(self, f"running_{name}")
            total = kept * running + share * moment.to(running)
            moments[name] = total * inverse(norm)
            running.copy_(total.detach())
        self.norm.copy_(norm)
        total_over_dof = moments.pop("total_over_dof")
        return summary._replace(
            moments=moments, total_over_dof=total_over_dof, present=norm > 0
        )

    def reset(self) -> None:
        """Forget all batches."""
        for buffer in self.buffers(recurse=False):
            buffer.zero_()

    def extra_repr(self) -> str:
        """Return the options."""
        return describe(self, "dim_a", "dim_b", "momentum")

    def _check(
        self, z_a: Tensor, z_b: Tensor, given: dict[str, Tensor]
    ) -> tuple[Tensor | None, Tensor | None]:
        """Check a batch and return the weights of its sides."""
        paired = bool(self._names & PAIRED)
        gather: Any = self.criterion.gather
        checks.embeddings(
            CALLER,
            z_a,
            z_b,
            paired=paired,
            same_width=bool(self._names & SAME_WIDTH),
            min_rows=1 if gather is False else 0,
        )
        for name, z, dim in (("z_a", z_a, self.dim_a), ("z_b", z_b, self.dim_b)):
            if z.ndim != 2 or z.shape[-1] != dim:
                raise ValueError(
                    f"{CALLER}: {name} must be of shape (N, {dim}), got "
                    f"{tuple(z.shape)}."
                )
        taken = ("weight",) if paired else ("weight_a", "weight_b")
        for name in given:
            if name not in taken:
                raise ValueError(
                    f"{CALLER}: {name} must be None, got a tensor. "
                    f"{type(self.criterion).__name__} takes {' and '.join(taken)}."
                )
        weight_a, weight_b = given.get(taken[0]), given.get(taken[-1])
        checks.row_weight(CALLER, taken[0], weight_a, z_a)
        checks.row_weight(CALLER, taken[-1], weight_b, z_b)
        return weight_a, weight_b
