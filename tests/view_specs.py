"""Losses of any number of views: what their families of tests need to know of them."""

from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from itertools import product
from typing import Any

import numpy as np
import pytest
import torch

import xmodal_losses as xl
import xmodal_losses.functional as F
from reference import dgcca, eckart_young, mcca
from reference.gradient import five_point
from tolerances import GRADIENT_DIFFERENCES

Arrays = dict[str, Any]


@dataclass(frozen=True)
class ViewCase:
    """Options of a loss and the shape of the views that exercise them."""

    options: dict[str, Any] = field(default_factory=dict)
    rows: int = 12
    dims: tuple[int, ...] = (3, 2, 4)
    lead: tuple[int, ...] = ()
    masked: bool = False
    weighted: bool = False

    def __str__(self) -> str:
        parts = [f"{k}={v}" for k, v in self.options.items()]
        parts += [f"N={self.rows}", "D=" + "x".join(map(str, self.dims))]
        parts += ["lead=" + "x".join(map(str, self.lead))] * bool(self.lead)
        parts += [name for name in ("masked", "weighted") if getattr(self, name)]
        return ",".join(parts)


@dataclass(frozen=True, repr=False)
class ViewSpec:
    """What the tests know about one loss of several views."""

    name: str
    module: str
    reference: Callable
    cases: tuple[ViewCase, ...]
    always: dict[str, Any] = field(default_factory=dict)  # options it cannot do without
    widths: tuple[int, ...] = (3, 2, 4)
    bounds: Callable = lambda views, options: (-np.inf, np.inf)

    def __repr__(self) -> str:
        return self.name

    def draw(self, case: ViewCase, seed: int = 0) -> Arrays:
        """Return related views, and a mask and weights where the case asks."""
        rng = np.random.default_rng(seed)
        n, v = case.rows, len(case.dims)
        shared = rng.normal(size=(*case.lead, n, max(case.dims)))
        views = [
            shared[..., :d] + 0.7 * rng.normal(size=(*case.lead, n, d)) + 0.3 * j
            for j, d in enumerate(case.dims)
        ]
        inputs: Arrays = {"views": views}
        if case.masked:
            mask = rng.random((v, *case.lead, n)) < 0.75
            mask[..., :4] = True
            mask[0, ..., -1] = False
            inputs["mask"] = mask
        if case.weighted:
            inputs["weight"] = rng.uniform(0.2, 2.0, size=(*case.lead, n))
            inputs["weight"][..., 1] = 0.0
        return inputs

    def expected(self, inputs: Arrays, **options: Any) -> np.ndarray:
        """Return the reference value."""
        return self.reference(**inputs, **(self.always | options))

    def __call__(self, inputs: Arrays, **options: Any) -> torch.Tensor:
        """Return the value of the package on torch inputs."""
        return getattr(F, self.name)(**inputs, **(self.always | options))

    def build(self, **options: Any) -> torch.nn.Module:
        """Return the module with these options."""
        return getattr(xl, self.module)(**(self.always | options))

    def gradient(self, inputs: Arrays, f: Callable) -> list[np.ndarray]:
        """Return numerical derivatives of a function of the views."""
        return five_point(lambda *views: f(list(views)), inputs["views"])


def to_torch(
    inputs: Arrays, dtype: torch.dtype = torch.float64, grad: bool = True
) -> Arrays:
    """Return tensors; the views are leaves that require gradients."""
    out: Arrays = {
        "views": [
            torch.tensor(z, dtype=dtype, requires_grad=grad) for z in inputs["views"]
        ]
    }
    if "mask" in inputs:
        out["mask"] = torch.tensor(inputs["mask"])
    if "weight" in inputs:
        out["weight"] = torch.tensor(inputs["weight"], dtype=dtype)
    return out


def value_and_grad(
    spec: ViewSpec,
    inputs: Arrays,
    dtype: torch.dtype = torch.float64,
    **options: Any,
) -> tuple[torch.Tensor, ...]:
    """Return the loss and the gradients of all views."""
    tensors = to_torch(inputs, dtype)
    value = spec(tensors, **options)
    value.backward()
    return value.detach(), *(z.grad for z in tensors["views"])


def _dgcca() -> Iterator[ViewCase]:
    grid = product((0.0, 0.3), ("absolute", "relative"), (1, 2, 4))
    for count, (ridge, scale, k) in enumerate(grid):
        options = {"num_components": k, "ridge": ridge, "ridge_scale": scale}
        flags = {"masked": count % 2 == 1, "weighted": count % 4 > 1}
        yield ViewCase(options, lead=(2,) * (count % 5 > 2), **flags)
    yield ViewCase({"num_components": 2}, dims=(3, 3))
    yield ViewCase({"num_components": 3}, 14, (3, 2, 4, 3), (), True, True)
    yield ViewCase({"num_components": 2, "ridge": 0.1}, 5, (6, 7, 6))
    yield ViewCase({"num_components": 2}, 14, (3, 3, 2), (2, 2), True)


def _mcca() -> Iterator[ViewCase]:
    grid = product(("trace", "frobenius"), (None, 2), ("absolute", "relative"))
    for count, (objective, k, scale) in enumerate(grid):
        options = {"num_components": k, "objective": objective, "ridge_scale": scale}
        options["ridge"] = (0.0, 0.3)[count % 2]
        flags = {"masked": count % 3 > 0, "weighted": count % 3 > 1}
        yield ViewCase(options, lead=(2,) * (count % 2), **flags)
    yield ViewCase({"ridge": 0.1}, 14, (3, 2, 4, 3), (), True, True)
    yield ViewCase({}, dims=(3, 3))


def _eckart_young() -> Iterator[ViewCase]:
    for masked, weighted in product((False, True), (False, True)):
        lead = (2,) * masked
        yield ViewCase({}, 12, (3, 3, 3), lead, masked, weighted)
    yield ViewCase({"estimator": "biased"}, 13, (2, 2), (2, 2), True)
    yield ViewCase({}, 5, (7, 7, 7))


VIEW_SPECS = (
    ViewSpec(
        name="dgcca",
        module="DGCCALoss",
        reference=dgcca.dgcca,
        cases=tuple(_dgcca()),
        always={"num_components": 2},
        bounds=lambda views, options: (-len(views) * options["num_components"], 0.0),
    ),
    ViewSpec(
        name="mcca",
        module="MCCALoss",
        reference=mcca.mcca,
        cases=tuple(_mcca()),
        bounds=lambda views, options: (-7.0, 0.0),
    ),
    ViewSpec(
        name="eckart_young",
        module="EckartYoungLoss",
        reference=eckart_young.eckart_young,
        cases=tuple(_eckart_young()),
        widths=(3, 3, 3),
        bounds=lambda views, options: (-12.0, np.inf),
    ),
)

VIEWS_BY_NAME = {spec.name: spec for spec in VIEW_SPECS}
TOLERANCE = GRADIENT_DIFFERENCES


def _covering(cases: tuple[ViewCase, ...]) -> Iterator[ViewCase]:
    """Yield few cases in which every option, mask and weight occurs."""
    seen: set[tuple[str, str]] = set()
    for case in cases:
        what = {(name, str(value)) for name, value in case.options.items()}
        what |= {("masked", str(case.masked)), ("weighted", str(case.weighted))}
        if what - seen:
            seen |= what
            yield case


each_view_loss = pytest.mark.parametrize("spec", VIEW_SPECS, ids=repr)


def _each(choose: Callable) -> pytest.MarkDecorator:
    return pytest.mark.parametrize(
        ("spec", "case"),
        [
            pytest.param(spec, case, id=f"{spec}-{case}")
            for spec in VIEW_SPECS
            for case in choose(spec.cases)
        ],
    )


each_view_case = _each(lambda cases: cases)
each_covering_view_case = _each(_covering)
