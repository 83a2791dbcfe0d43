r"""Dead dimensions, and dimensions on the variance hinge of VICReg.

With the standard deviations :math:`s_j` of the columns, of divisor N − 1, dimension j

- is dead where :math:`s_j \le \theta \, \sqrt{\operatorname{mean}_k s_k^2}`: it hardly
  varies beside the others, and no loss that looks at directions only sees it;
- is on the hinge where :math:`\sqrt{s_j^2 + \epsilon} < \gamma`: the variance term of
  VICReg still pushes it out.

Cost: O(N D).

References: for dead dimensions, :cite:t:`jing2022understanding`; the hinge is Eq. 1
and 2 of :cite:t:`bardes2022vicreg`.
"""

from typing import NamedTuple

import torch
from torch import Tensor

from xmodal_losses._core import checks, moments, precision

__all__ = ["DimensionCount", "dead_dimensions", "hinge_counts"]


class DimensionCount(NamedTuple):
    """How many dimensions, ``(…)``, and which, ``(…, D)``."""

    total: Tensor
    which: Tensor


def dead_dimensions(
    z: Tensor, *, threshold: float = 0.01, weight: Tensor | None = None
) -> DimensionCount:
    """Return how many columns hardly vary beside the others, and which.

    Args:
        z: Embeddings, ``(…, N, D)``; leading dimensions are independent problems.
        threshold: θ in [0, 1), a share of the root mean square of the standard
            deviations. With 0, constant columns are dead.
        weight: Weights ≥ 0 of the rows, ``(…, N)``; their scale does not matter. A row
            of weight 0 is as if it were not there.

    Returns:
        ``total``, integers ``(…)`` from 0 to D; ``which``, booleans ``(…, D)``. Of rows
        that are all the same, or of one row, all D are dead.

    Raises:
        TypeError: If an input is not a floating-point tensor.
        ValueError: If shapes do not fit together or an option is out of range.

    Examples:
        >>> import torch
        >>> from xmodal_losses import diagnostics
        >>> z = torch.tensor([[1., 5., 1e-3], [2., 5., 2e-3], [4., 5., 3e-3]])
        >>> diagnostics.dead_dimensions(z)
        DimensionCount(total=tensor(2), which=tensor([False,  True,  True]))
    """
    caller = "dead_dimensions"
    checks.rows(caller, "z", z)
    checks.number(caller, "threshold", threshold, at_least=0.0, below=1.0)
    checks.row_weight(caller, "weight", weight, z)
    with torch.no_grad():
        variance = _variance(z, weight)
        mean = variance.mean(-1, keepdim=True)
        return _counted(variance <= threshold**2 * mean)


def hinge_counts(
    z: Tensor,
    *,
    target_std: float = 1.0,
    eps: float = 1e-4,
    weight: Tensor | None = None,
) -> DimensionCount:
    """Return how many columns the variance term of VICReg pushes out, and which.

    Args:
        z: Embeddings, ``(…, N, D)``; leading dimensions are independent problems.
        target_std: γ ≥ 0, as in :func:`~xmodal_losses.functional.vicreg`.
        eps: ε ≥ 0, as in :func:`~xmodal_losses.functional.vicreg`.
        weight: Weights ≥ 0 of the rows, ``(…, N)``; their scale does not matter. A row
            of weight 0 is as if it were not there.

    Returns:
        ``total``, integers ``(…)`` from 0 to D; ``which``, booleans ``(…, D)``.

    Raises:
        TypeError: If an input is not a floating-point tensor.
        ValueError: If shapes do not fit together or an option is out of range.

    Examples:
        >>> import torch
        >>> from xmodal_losses import diagnostics
        >>> z = torch.tensor([[1., 0.1], [-1., 0.2], [1., 0.3], [-1., 0.4]])
        >>> diagnostics.hinge_counts(z)
        DimensionCount(total=tensor(1), which=tensor([False,  True]))
    """
    caller = "hinge_counts"
    checks.rows(caller, "z", z)
    checks.number(caller, "target_std", target_std, at_least=0.0)
    checks.number(caller, "eps", eps, at_least=0.0)
    checks.row_weight(caller, "weight", weight, z)
    with torch.no_grad():
        return _counted((_variance(z, weight) + eps).sqrt() < target_std)


def _variance(z: Tensor, weight: Tensor | None) -> Tensor:
    z = z.to(precision.compute_dtype(z))
    return moments.variance(moments.moments(z, weight))


def _counted(which: Tensor) -> DimensionCount:
    return DimensionCount(which.sum(-1), which)
