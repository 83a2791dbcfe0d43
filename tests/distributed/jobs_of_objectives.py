"""What ranks are sent to do with objectives."""

from typing import Any

import numpy as np
import torch
from torch import nn
from torch.nn.parallel import DistributedDataParallel

import xmodal_losses as xl
from distributed.jobs import Arrays, Counted, Model, arrays, tensors


def recipe(name: str, lean: bool = False, **options: Any) -> xl.CrossModalObjective:
    """Return an objective whose losses have these options, some of a group."""
    if name == "seed":
        return xl.CrossModalObjective(lean=lean, **options)
    exchange = options.pop("exchange", None)
    if "+" in name:
        options = {"exchange": exchange, **options}
        modules = [getattr(xl, module)(**options) for module in name.split("+")]
        return xl.CrossModalObjective(
            {f"term_{i}": xl.Term(module) for i, module in enumerate(modules)}
        )
    told = {"exchange": exchange, **options}
    bandwidth = nn.Parameter(torch.tensor(1.3, dtype=torch.float64))
    kernel = xl.GaussianKernel(bandwidth)
    contrast = xl.InfoNCELoss(learn_temperature=True, **options)
    terms = {
        "align": xl.Term(xl.CORALLoss(mean_weight=1.0, **told), weight=0.3),
        "relative": xl.Term(xl.CORALLoss(scale="relative", **told), weight=0.4),
        "decorrelate": xl.Term(xl.BarlowTwinsLoss(**told), weight=0.2),
        "off": xl.Term(xl.BarlowTwinsLoss(eps=1.0, **told), weight=0.0),
        "contrast": xl.Term(contrast, input="embedding"),
        "spread": xl.Term(xl.VICRegLoss(**told), weight=0.01),
        "sphere": xl.Term(
            xl.CORALLoss(mean_weight=1.0, **told), weight=2.0, input="embedding"
        ),
        "shell": xl.Term(xl.VICRegLoss(**told), weight=0.1, input="embedding"),
        "correlate": xl.Term(xl.DCCALoss(ridge=0.1, **told), weight=0.1),
        "match": xl.Term(xl.MMDLoss(kernel=kernel, **options), input="embedding"),
    }
    if name == "moments":
        terms = {n: t for n, t in terms.items() if n not in ("contrast", "match")}
    return xl.CrossModalObjective(terms, lean=lean).double()


def objective(
    rank: int,
    size: int,
    name: str,
    inputs: Arrays,
    counts: dict[str, tuple[int, ...]] | None,
    options: dict[str, Any],
    norms: bool = False,
) -> dict[str, Any]:
    """Return an objective of the batch, its gradients, and what it cost."""
    own = {name: (len(array),) for name, array in inputs.items()}
    some = tensors(inputs, counts or own, rank if counts else 0)
    made = recipe(name, gather=counts is not None, **options)
    z_a, z_b = some.pop("z_a"), some.pop("z_b")
    parameters = list(made.parameters())
    with Counted(size) as counted:
        value = made(z_a, z_b, **some, gradient_norms=norms)
        value.total.backward()
    return {
        "loss": arrays(value.total, z_a.grad, z_b.grad),
        "terms": {name: float(term) for name, term in value.terms.items()},
        "norms": {k: float(norm) for k, norm in (value.gradient_norms or {}).items()},
        # Of a rank without rows, a bandwidth may not be looked at.
        "parameters": arrays(
            *(torch.zeros_like(p) if p.grad is None else p.grad for p in parameters)
        ),
        "sent": (counted.bytes, counted.calls),
    }


class Total(nn.Module):
    """The total of an objective, with all there is to learn of it."""

    def __init__(self, objective: xl.CrossModalObjective) -> None:
        super().__init__()
        self.objective = objective

    def forward(self, z_a: torch.Tensor, z_b: torch.Tensor) -> torch.Tensor:
        return self.objective(z_a, z_b).total


def objective_step(
    rank: int,
    size: int,
    lean: bool,
    inputs: Arrays,
    counts: dict[str, tuple[int, ...]] | None,
) -> dict[str, np.ndarray]:
    """Return the parameters after one step of SGD; without counts, on one process."""
    own = {name: (len(array),) for name, array in inputs.items()}
    some = tensors(inputs, counts or own, rank if counts else 0)
    gather = counts is not None
    made = Total(recipe("all", lean, gather=gather))
    model = Model(made, some["z_a"].shape[-1]).double()
    trained = DistributedDataParallel(model) if gather else model
    optimiser = torch.optim.SGD(model.parameters(), lr=0.01)
    trained(some["z_a"], some["z_b"]).backward()
    optimiser.step()
    return {name: arrays(p)[0] for name, p in model.named_parameters()}
