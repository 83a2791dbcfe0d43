"""What the generic families run on: cases, specs of losses, tensors of inputs."""

import functools
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import torch

import xmodal_losses as xl
import xmodal_losses.functional as F
from reference import kernels
from reference.gradient import complex_step
from tolerances import GRADIENT

Arrays = dict[str, np.ndarray]

#: What tells pairs of rows that are no negatives, besides the weights.
MASKS = ("exclude", "targets", "ids", "positions")


@dataclass(frozen=True)
class Case:
    """Options of a loss and the shape of the inputs that exercise them."""

    options: dict[str, Any] = field(default_factory=dict)
    rows: tuple[int, int] = (6, 6)
    dims: tuple[int, int] = (4, 4)
    lead: tuple[int, ...] = ()
    weighted: bool = False
    exclude: bool = False
    targets: bool = False
    ids: bool = False
    positions: bool = False

    def __str__(self) -> str:
        """Return a test id."""
        parts = [f"{k}={label(v)}" for k, v in self.options.items()]
        if self.rows != (6, 6):
            parts.append(f"rows={self.rows[0]}x{self.rows[1]}")
        if self.dims != (4, 4):
            parts.append(f"dims={self.dims[0]}x{self.dims[1]}")
        if self.lead:
            parts.append("lead=" + "x".join(map(str, self.lead)))
        flags = ("weighted", *MASKS)
        parts += [name for name in flags if getattr(self, name)]
        return ",".join(parts) or "default"


@dataclass(frozen=True, repr=False)
class LossSpec:
    """What the generic tests know about one loss.

    Attributes:
        name: Function in ``xmodal_losses.functional``.
        module: Class in ``xmodal_losses``.
        reference: Independent numpy function of the same options.
        cases: The grid of options and shapes.
        naive: The torch expression that people paste, for the precision tests.
        terms: Reference of ``<name>_terms`` and the options it takes, if there is one.
        weights: Names of the per-row weights.
        gradient: Numerical gradient of the reference, and its tolerance.
        labels: Rows of both views have classes, ``labels_a`` and ``labels_b``.
        paired: Rows of the two views belong together.
        unequal_rows: N and M may differ.
        unequal_dims: D_a and D_b may differ.
        joint: The problem may span the leading dimensions (some options of it).
        per_row: The loss has a value per row, not per problem.
        symmetric: Swapping the views changes nothing.
        bounds: Range of the value as a function of (rows, dim).
        zero_when_equal: The loss of identical views is 0.
        shift: "separate" | "joint" | None, the shifts that change nothing.
        rotation: "separate" | "joint" | None, the rotations that change nothing.
        scale: Power of c in L(c z_a, c z_b)/L(z_a, z_b); None if there is none.
        generic: Options under which the flags above hold.
        twice: Whether second derivatives are offered with these options.
        smooth: Whether the gradient of the package is that of the value with these
            options: a bandwidth by rule is a constant to it.
    """

    name: str
    module: str
    reference: Callable
    cases: tuple[Case, ...]
    naive: Callable
    terms: tuple[Callable, tuple[str, ...]] | None = None
    weights: tuple[str, ...] = ("weight",)
    gradient: Callable = complex_step
    gradient_tolerance: dict = field(default_factory=lambda: GRADIENT)
    labels: bool = False
    paired: bool = True
    unequal_rows: bool = False
    unequal_dims: bool = False
    joint: Callable[[dict], bool] = lambda options: False
    per_row: bool = False
    symmetric: bool = True
    bounds: Callable = lambda rows, dim: (0.0, np.inf)
    zero_when_equal: bool = False
    shift: str | None = None
    rotation: str | None = None
    scale: float | None = None
    generic: dict = field(default_factory=dict)
    twice: Callable[[dict], bool] = lambda options: True
    smooth: Callable[[dict], bool] = lambda options: True

    def __repr__(self) -> str:
        """Return the name: the rest is in the table."""
        return self.name

    @property
    def function(self) -> Callable:
        """The function under test, looked up late so that it can be replaced."""
        return getattr(F, self.name)

    def draw(self, case: Case, seed: int = 0, noise: float = 0.7) -> Arrays:
        """Return related views, and weights and masks where the case asks."""
        rng = np.random.default_rng(seed)
        (n, m), (d_a, d_b) = case.rows, case.dims
        z_a = rng.normal(size=(*case.lead, n, d_a))
        z_b = rng.normal(size=(*case.lead, m, d_b))
        rows, dim = min(n, m), min(d_a, d_b)
        z_b[..., :rows, :dim] *= noise
        z_b[..., :rows, :dim] += z_a[..., :rows, :dim]
        inputs = {"z_a": z_a, "z_b": z_b + 0.3}
        if self.labels:  # any integers; some classes are of one view only
            for name, first, count in (("labels_a", -1, n), ("labels_b", 0, m)):
                labels = rng.integers(first, 3, size=(*case.lead, count))
                labels[..., 0] = 0  # this one is of both
                inputs[name] = labels
        if case.weighted:
            for name, count in zip(self.weights, (n, m), strict=False):
                weight = rng.uniform(0.2, 2.0, size=(*case.lead, count))
                weight[..., 1] = 0.0
                inputs[name] = weight
        if case.exclude:
            exclude = rng.random(size=(*case.lead, n, n)) < 0.3
            exclude[..., 0, :] = True  # a row without negatives in its group
            inputs["exclude"] = exclude
        if case.targets:
            targets = rng.uniform(size=(*case.lead, n, n)) + np.eye(n)
            targets *= rng.random(size=targets.shape) < 0.6  # some are none
            targets[..., -1, :] = 0.0  # a row that is drawn to nobody
            inputs["targets"] = targets
        if case.ids:
            inputs["ids"] = rng.integers(0, 3, size=(*case.lead, n))
        if case.positions:
            inputs["positions"] = rng.uniform(size=(*case.lead, n, 2))
        return inputs

    def expected(self, inputs: Arrays, **options: Any) -> np.ndarray:
        """Return the reference value."""
        return self.reference(**inputs, **options)

    def __call__(self, inputs: dict, **options: Any) -> torch.Tensor:
        """Return the value of the package on torch inputs."""
        inputs = dict(inputs)
        z_a, z_b = inputs.pop("z_a"), inputs.pop("z_b")
        inputs = self.labels_of(z_a, z_b) | inputs
        width = getattr(z_a, "shape", (0,))[-1:]
        options = to_package(options, *(width if width != (0,) else ()))
        return self.function(z_a, z_b, **inputs, **options)

    def labels_of(self, z_a: Any, z_b: Any) -> dict:
        """Return classes of rows for which the test has none, if the loss asks."""
        if not self.labels:
            return {}
        labels = {}
        for name, z in (("labels_a", z_a), ("labels_b", z_b)):
            shape = getattr(z, "shape", ())[:-1] or (4,)  # z may be no batch at all
            labels[name] = (torch.arange(shape[-1]) % 3).expand(shape)
        return labels

    def build(self, options: dict) -> torch.nn.Module:
        """Return the module with these options."""
        return getattr(xl, self.module)(**to_package(options))


def label(value: Any) -> str:
    if isinstance(value, kernels.MultiKernel):
        return f"Multi{len(value.kernels)}"
    if isinstance(value, kernels.JointKernel):
        return "Joint(" + ",".join(map(label, value.kernels)) + ")"
    if isinstance(value, kernels.RandomFeatures):
        return f"RandomFeatures({label(value.kernel)})"
    if hasattr(value, "fixed"):
        fields = ",".join(
            str(v) for k, v in vars(value).items() if (k, v) != ("factor", 1.0)
        )
        return f"{type(value).__name__.removesuffix('Kernel')}({fields})"
    return str(value)


def to_package(options: dict, width: int = 3) -> dict:
    """Replace the reference kernel among the options by that of the package.

    Some kernels are made for rows of one width.
    """
    kernel = options.get("kernel")
    return options if kernel is None else {**options, "kernel": _kernel(kernel, width)}


def _kernel(kernel: Any, width: int = 3) -> torch.nn.Module:
    if isinstance(kernel, kernels.MultiKernel):
        members = [_kernel(k, width) for k in kernel.kernels]
        return xl.MultiKernel(members, weights=kernel.weights)
    if isinstance(kernel, kernels.JointKernel):
        # Parts of no columns are left out.
        cuts = [0, *(cut for cut in kernel.cuts if cut < width), width]
        widths = np.diff(cuts).tolist()
        members = [_kernel(*part) for part in zip(kernel.kernels, widths, strict=False)]
        return xl.JointKernel(members, widths)
    if isinstance(kernel, kernels.RandomFeatures):
        return _random_features(kernel, width)
    options = dict(vars(kernel))
    first = [options.pop("bandwidth")] if "bandwidth" in options else []
    return getattr(xl, type(kernel).__name__)(*first, **options)


@functools.cache  # made once: where the tests map it, nothing can be drawn
def _random_features(kernel: Any, width: int) -> torch.nn.Module:
    frequencies = torch.tensor(kernel.of_width(width))
    num = frequencies.shape[1]
    built = xl.RandomFeatures(_kernel(kernel.kernel), width, num_features=num)
    built.frequencies = frequencies.to(built.frequencies)
    return built


def to_torch(
    inputs: Arrays, dtype: torch.dtype = torch.float64, grad: bool = True
) -> dict[str, torch.Tensor]:
    """Return tensors; the views are leaves that require gradients."""
    tensors = {}
    for name, array in inputs.items():
        if name in ("z_a", "z_b"):
            tensors[name] = torch.tensor(array, dtype=dtype, requires_grad=grad)
        elif array.dtype.kind in "bi":
            tensors[name] = torch.tensor(array)
        else:
            tensors[name] = torch.tensor(array, dtype=dtype)
    return tensors


def value_and_grad(
    spec: LossSpec, inputs: Arrays, dtype: torch.dtype = torch.float64, **options: Any
) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """Return the scalar loss and the gradients of both views."""
    tensors = to_torch(inputs, dtype)
    value = spec(tensors, **options)
    value.backward()
    grads = (tensors["z_a"].grad, tensors["z_b"].grad)
    assert all(grad is not None for grad in grads)
    return value.detach(), *grads


def drawn(
    spec: LossSpec,
    case: Case | None = None,
    seed: int = 60,
    dtype: torch.dtype = torch.float64,
    grad: bool = True,
) -> dict[str, torch.Tensor]:
    """Return the inputs of a case as tensors."""
    return to_torch(spec.draw(case or Case(), seed), dtype, grad)


def map_views(inputs: Arrays, f: Callable) -> Arrays:
    """Return the inputs with f of both views."""
    return {k: f(v) if k.startswith("z_") else v for k, v in inputs.items()}


def two_samples(rows=(7, 5), dim=3, lead=(), seed=0):
    """Return two samples of different laws, neither paired nor of one size."""
    rng = np.random.default_rng(seed)
    z_a = rng.normal(size=(*lead, rows[0], dim))
    z_b = rng.normal(size=(*lead, rows[1], dim)) * 1.5 + 0.4
    return torch.tensor(z_a), torch.tensor(z_b)


def with_grad(f: Callable, *views: torch.Tensor) -> tuple[torch.Tensor, ...]:
    """Return the value of f at copies of the views, and its gradients there."""
    views = [z.detach().clone().requires_grad_() for z in views]
    value = f(*views)
    value.backward()
    return value.detach(), *(z.grad for z in views)
