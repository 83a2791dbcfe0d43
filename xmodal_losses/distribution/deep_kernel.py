r"""A kernel with a network inside (:cite:t:`liu2020learning`).

.. math::
    k(x, y) = \bigl[(1 - \varepsilon)\, \kappa(\varphi(x), \varphi(y)) + \varepsilon
              \bigr] \, q(x, y), \qquad 0 < \varepsilon < 1,

with a network :math:`\varphi`, a kernel :math:`\kappa` of its features and a kernel
:math:`q` of the rows themselves. For ε > 0 and characteristic :math:`q` (a Gaussian),
:math:`k` is characteristic whatever the network forgets: an MMD of 0 means equal laws.
"""

import math

import torch
from torch import Tensor, nn

from xmodal_losses._core import checks, pairs, precision
from xmodal_losses._core.pairs import Pairs, Pool
from xmodal_losses.distribution.base_kernel import Bind, Kernel, Shift
from xmodal_losses.distribution.joint_kernel import check_factor, shift_of_product
from xmodal_losses.distribution.kernels import (
    GaussianKernel,
)

__all__ = ["DeepKernel"]


class DeepKernel(Kernel):
    """The kernel [(1 − ε)·κ(φ(x), φ(y)) + ε]·q(x, y) around a network φ.

    The network is called once for both batches, with the rows of all problems as one
    matrix ``(R, D)``, in the dtype of its parameters and not under autocast; what it
    returns is flattened to ``(R, E)``. It should map each row by itself (as in eval
    mode): only then is this a kernel.

    Args:
        network: φ, any module.
        feature_kernel: κ. None is a Gaussian of bandwidth 1, learned.
        input_kernel: q. None is a Gaussian of the rule ``"mean"`` times a factor that
            is learned.
        epsilon: ε in (0, 1), where it starts. It is the sigmoid of the parameter
            ``logit_epsilon``.

    State: ``logit_epsilon``, a parameter of shape ``()``, and that of the network and
    of both kernels.

    Examples:
        >>> import torch, xmodal_losses as xl
        >>> kernel = xl.DeepKernel(torch.nn.Linear(8, 4))
        >>> loss = xl.MMDLoss(kernel=kernel)(torch.randn(6, 8), torch.randn(5, 8))
        >>> loss.backward()
    """

    maps_rows = True

    def __init__(
        self,
        network: nn.Module,
        *,
        feature_kernel: Kernel | None = None,
        input_kernel: Kernel | None = None,
        epsilon: float = 0.5,
    ) -> None:
        super().__init__()
        if not isinstance(network, nn.Module):
            raise TypeError(
                f"DeepKernel: network must be a module, got {type(network).__name__}."
            )
        checks.number("DeepKernel", "epsilon", epsilon, above=0.0, below=1.0)
        if feature_kernel is None:
            feature_kernel = GaussianKernel(1.0, learn=True)
        if input_kernel is None:
            input_kernel = GaussianKernel("mean", learn=True)
        named = {"feature_kernel": feature_kernel, "input_kernel": input_kernel}
        for name, kernel in named.items():
            check_factor("DeepKernel", name, kernel)
        self.network = network
        self.feature_kernel = feature_kernel
        self.input_kernel = input_kernel
        start = math.log(epsilon) - math.log1p(-epsilon)
        self.logit_epsilon = nn.Parameter(torch.tensor(start))
        self.shift: Shift = shift_of_product(*named.values())

    @property
    def epsilon(self) -> Tensor:
        """ε, a tensor of shape ``()``."""
        return self.logit_epsilon.sigmoid()

    def lift(self, x: Tensor, y: Tensor) -> tuple[Tensor, Tensor, Bind]:
        """Return the features beside the rows, and what binds a pool of these."""
        rows = x if y is x else torch.cat((x, y), -2)
        features = self._features(rows)
        width, columns = features.shape[-1], features.shape[-1] + rows.shape[-1]
        rows = torch.cat((features, rows), -1)
        if y is x:
            x = y = rows
        else:
            x, y = rows[..., : x.shape[-2], :], rows[..., x.shape[-2] :, :]

        def bind(pool: Pool) -> pairs.Kernel:
            kappa = self.feature_kernel.bind(pool.columns(0, width))
            q = self.input_kernel.bind(pool.columns(width, columns))
            epsilon = self.logit_epsilon.to(rows.dtype).sigmoid()

            def kernel(p: Pairs) -> Tensor:
                deep = kappa(p.columns(0, width))
                deep = deep + epsilon * (1 - deep)
                return deep * q(p.columns(width, columns))

            return kernel

        return x, y, bind

    def _features(self, rows: Tensor) -> Tensor:
        parameters = list(self.network.parameters())
        dtype = parameters[0].dtype if parameters else rows.dtype
        flat = rows.reshape(-1, rows.shape[-1]).to(dtype)
        with precision.no_autocast(rows):
            features = self.network(flat)
        if (
            not isinstance(features, Tensor)
            or features.dtype not in checks.FLOATS
            or features.ndim < 2
            or features.shape[0] != flat.shape[0]
        ):
            got = getattr(features, "shape", type(features).__name__)
            got = tuple(got) if isinstance(got, torch.Size) else got
            raise ValueError(
                f"DeepKernel: network must return real features ({flat.shape[0]}, …) "
                f"of rows {tuple(flat.shape)}, got {got}."
            )
        return features.to(rows.dtype).reshape(*rows.shape[:-1], -1)

    def extra_repr(self) -> str:
        """Return the options."""
        return f"epsilon={self.epsilon.item():.4g}"
