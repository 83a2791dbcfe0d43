r"""Products of kernels, each of some of the columns.

.. math:: k(x, y) = \prod_l k_l(x^l, y^l) ,

where :math:`x^l` is one part of a row: the features of one layer, or the probabilities
of classes, beside those of others. The MMD with it is the joint one, JMMD
(:cite:t:`long2017deep`): it compares what the parts are together, where a sum of MMDs
would compare each by itself.
"""

from collections.abc import Sequence
from itertools import accumulate, pairwise

from torch import Tensor, nn

from xmodal_losses._core import checks, pairs
from xmodal_losses._core.pairs import Pairs, Pool
from xmodal_losses.distribution.base_kernel import Kernel, Shift, check_kernel
from xmodal_losses.distribution.kernels import EnergyKernel
from xmodal_losses.distribution.multi_kernel import leaves, refuse_maps

__all__ = ["JointKernel"]


class JointKernel(Kernel):
    """The product of kernels, each of its own columns.

    Args:
        kernels: One per part, which may be sums; a bandwidth by rule is that of the
            part. All positive definite (not :class:`~xmodal_losses.EnergyKernel`), and
            none that maps rows first (:class:`~xmodal_losses.DeepKernel`).
        widths: Columns of each part, in the order in which they lie beside each other.

    Examples:
        >>> import torch, xmodal_losses as xl
        >>> kernels = xl.GaussianKernel("mean"), xl.GaussianKernel(1.0)
        >>> criterion = xl.MMDLoss(kernel=xl.JointKernel(kernels, [8, 3]))
        >>> a = torch.cat((torch.randn(6, 8), torch.rand(6, 3)), -1)
        >>> b = torch.cat((torch.randn(5, 8), torch.rand(5, 3)), -1)
        >>> loss = criterion(a, b)
    """

    def __init__(self, kernels: Sequence[Kernel], widths: Sequence[int]) -> None:
        super().__init__()
        checks.several("JointKernel", "kernels", kernels, "kernels")
        checks.several("JointKernel", "widths", widths, "integers")
        kernels, widths = list(kernels), tuple(widths)
        if not kernels or len(kernels) != len(widths):
            raise ValueError(
                "JointKernel: widths must be one per kernel, one at least, got "
                f"{len(widths)} for {len(kernels)}."
            )
        for i, (kernel, width) in enumerate(zip(kernels, widths, strict=True)):
            check_factor("JointKernel", f"kernels[{i}]", kernel)
            checks.count("JointKernel", f"widths[{i}]", width)
        self.kernels = nn.ModuleList(kernels)
        self.widths = widths
        self._parts = tuple(pairwise(accumulate(widths, initial=0)))
        self.shift: Shift = shift_of_product(*kernels)

    def bind(self, pool: Pool) -> pairs.Kernel:
        """See :meth:`Kernel.bind`."""
        columns = pool.like.shape[-1]
        if columns != sum(self.widths):
            raise ValueError(
                "JointKernel: widths must add up to the number of columns, "
                f"{columns}, got {self.widths}."
            )
        parts = self._parts
        bound: list[pairs.Kernel] = [
            kernel.bind(pool.columns(*part))  # type: ignore[operator]  # as in a sum
            for kernel, part in zip(self.kernels, parts, strict=True)
        ]

        def kernel(p: Pairs) -> Tensor:
            product = bound[0](p.columns(*parts[0]))
            for u in range(1, len(bound)):
                product = product * bound[u](p.columns(*parts[u]))
            return product

        return kernel

    def extra_repr(self) -> str:
        """Return the options."""
        return f"widths={self.widths}"


def check_factor(caller: str, name: str, kernel: object) -> None:
    """Require a kernel whose product with another one is a kernel."""
    check_kernel(caller, kernel, name=name)
    assert isinstance(kernel, Kernel)
    refuse_maps(caller, name, kernel)
    if any(isinstance(leaf, EnergyKernel) for _, leaf in leaves(kernel)):
        raise TypeError(
            f"{caller}: {name} must be positive definite, got EnergyKernel. Take a "
            "LaplacianKernel."
        )


def shift_of_product(*kernels: Kernel) -> Shift:
    """Return what shifting all rows does: it matters if it does to one factor."""
    sensitive = any(kernel.shift != "invariant" for kernel in kernels)
    return "sensitive" if sensitive else "invariant"
