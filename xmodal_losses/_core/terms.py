"""Terms of a weighted sum, evaluated together or one by one."""

from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn

from xmodal_losses._core import checks, linalg, moments, precision, ranks, routing
from xmodal_losses._core.at_once import AtOnce

__all__ = ["Call", "Known", "Rows", "Values", "one_by_one", "together"]


class Known(NamedTuple):
    """What is known of a loss before it is called."""

    takes: dict[str, bool]  # its parameters after two batches: whether they are needed
    makes_unit_rows: bool  # if it is to normalise
    shares: bool  # its exchange with others

    @classmethod
    def of(cls, caller: str, loss: nn.Module) -> "Known":
        """Look at a loss, and at how it came to be what it is."""
        # What others call `normalize` may be another thing.
        own = type(loss).__module__.startswith("xmodal_losses.")
        # A class that overrides one of the two may compute another thing.
        shares = {"forward", "_of_moments"} <= vars(type(loss)).keys()
        return cls(
            routing.taken(caller, loss), own and hasattr(loss, "normalize"), shares
        )


class Call(NamedTuple):
    """How a loss is called."""

    loss: nn.Module
    known: Known
    weight: float
    unit_rows: bool
    arguments: dict[str, str]  # its parameters, and by what name they were given

    def weights_of_rows(self) -> tuple[str | None, str | None]:
        """Return by what names the weights of both sides were given."""
        both = self.arguments.get("weight")
        a, b = (self.arguments.get(name, both) for name in ("weight_a", "weight_b"))
        return a, b


class Rows:
    """The rows of a call, and what is told of them; unit rows are made once.

    Args:
        caller: Who is called.
        z_a: Projections.
        z_b: Projections.
        told: Weights, labels, masks by name.
    """

    def __init__(
        self, caller: str, z_a: Tensor, z_b: Tensor, told: Mapping[str, Tensor]
    ) -> None:
        self.caller, self.z, self.told = caller, (z_a, z_b), told
        self._unit: dict[tuple[str | None, str | None], tuple[Tensor, Tensor]] = {}

    def seen_by(self, call: Call) -> tuple[Tensor, Tensor]:
        """Return the rows that a loss is called with."""
        # Those that make unit rows themselves make the same ones, with a copy less; of
        # a projection in bfloat16, they know that it was.
        loss: Any = call.loss
        if not call.unit_rows or (call.known.makes_unit_rows and loss.normalize):
            return self.z
        names = call.weights_of_rows()
        if names not in self._unit:
            a, b = (
                self._scaled(z, side, name)
                for z, side, name in zip(self.z, ("z_a", "z_b"), names, strict=True)
            )
            self._unit[names] = a, b
        return self._unit[names]

    def _scaled(self, z: Tensor, side: str, weight: str | None) -> Tensor:
        checks.rows(self.caller, side, z, 0)
        if weight is not None:
            # The NaN of a row of weight 0 would come back in the gradient.
            checks.row_weight(self.caller, weight, self.told[weight], z)
            z = moments.drop(z, self.told[weight])
        return linalg.unit(z.to(precision.compute_dtype(z)), -1)


class Values(NamedTuple):
    """What terms come to."""

    terms: dict[str, Tensor]  # before their weights, without graphs
    total: Tensor | None  # None: there is no term
    gradient_norms: dict[str, Tensor] | None = None


def together(calls: Mapping[str, Call], rows: Rows) -> Values:
    """Evaluate all terms; autograd keeps the graph of each."""
    graphs: dict[str, Tensor] = {}
    for unit in _units(calls, rows):
        graphs.update(_values(unit, rows))
    values = {name: graphs[name].detach() for name in calls}
    return Values(values, _weighted(calls, graphs) if calls else None)


def one_by_one(calls: Mapping[str, Call], rows: Rows, *, with_norms: bool) -> Values:
    """Evaluate terms with their gradients; there is the graph of one at a time."""
    parameters = [p for call in calls.values() for p in call.loss.parameters()]
    at_once = AtOnce(
        (*rows.z, *rows.told.values()),
        [p for p in dict.fromkeys(parameters) if p.requires_grad],
        always=2 if with_norms else 0,
    )
    z_a, z_b, *told = at_once.leaves
    leaves = Rows(rows.caller, z_a, z_b, dict(zip(rows.told, told, strict=True)))
    found: dict[str, Tensor] = {}
    squares: dict[str, Tensor] = {}
    for unit in _units(calls, leaves):
        with torch.enable_grad():
            graphs = _values(unit, leaves)
            for part in [{n: unit[n]} for n in unit] if with_norms else [unit]:
                grads = at_once.take(_weighted(part, graphs))
                squares[next(iter(part))] = _sum_of_squares(grads[:2], z_a)
        found |= {name: value.detach() for name, value in graphs.items()}
        del graphs
    values = {name: found[name] for name in calls}
    total = at_once.handed_on(_weighted(calls, values)) if calls else None
    return Values(values, total, _norms(calls, squares) if with_norms else None)


def _weighted(calls: Mapping[str, Call], values: Mapping[str, Tensor]) -> Tensor:
    parts = [call.weight * values[name] for name, call in calls.items()]
    total = parts[0]
    for part in parts[1:]:
        total = total + part
    return total


def _units(calls: Mapping[str, Call], rows: Rows) -> list[dict[str, Call]]:
    """Put those together that see the same rows of the same ranks by moments."""
    units: dict[object, dict[str, Call]] = {}
    for name, call in calls.items():
        loss: Any = call.loss
        key: object = name
        across = call.known.shares and loss.gather is not False
        # Deep CCA may look at rows in a dtype of its own.
        narrow = across and getattr(loss, "compute_dtype", None) == torch.float32
        if across and not narrow and rows.z[0].ndim == 2:
            key = (
                *(call.unit_rows, call.weights_of_rows()),
                *(loss.gather, loss.grad_reduce, loss.exchange),
            )
        if key not in units:
            units[key] = {}
        units[key][name] = call
    return list(units.values())


def _values(unit: Mapping[str, Call], rows: Rows) -> dict[str, Tensor]:
    """Return the values of terms, from one exchange if they are several."""
    if len(unit) > 1:
        return _values_of_moments(unit, rows)
    name, call = next(iter(unit.items()))
    told = {to: rows.told[by] for to, by in call.arguments.items()}
    value = call.loss(*rows.seen_by(call), **told)
    if not isinstance(value, Tensor) or value.ndim:
        shape = tuple(value.shape) if isinstance(value, Tensor) else type(value)
        raise ValueError(
            f"{rows.caller}: the loss of {name!r} must return a scalar tensor, got "
            f"{shape}."
        )
    return {name: value}


def _values_of_moments(unit: Mapping[str, Call], rows: Rows) -> dict[str, Tensor]:
    losses: dict[str, Any] = {name: call.loss for name, call in unit.items()}
    loss, call = next(zip(losses.values(), unit.values(), strict=True))
    z_a, z_b = rows.seen_by(call)
    pair = moments.shared_pair(
        rows.caller,
        frozenset().union(*(loss._moments for loss in losses.values())),
        z_a,
        z_b,
        *(None if by is None else rows.told[by] for by in call.weights_of_rows()),
        ranks=_ranks(rows.caller, loss),
        exchange=loss.exchange,
    )
    dtype = precision.compute_dtype(z_a, z_b)
    with precision.no_autocast(z_a):
        return {name: loss._of_moments(pair).to(dtype) for name, loss in losses.items()}


def _ranks(caller: str, loss: Any) -> ranks.Ranks | None:
    """Return the ranks that a loss is told of, if it is one that can be told."""
    if not (hasattr(loss, "gather") and hasattr(loss, "grad_reduce")):
        return None
    group = ranks.of_module(caller, loss.gather)
    return ranks.joined(caller, group, loss.grad_reduce)


def _sum_of_squares(grads: Sequence[Tensor | None], z: Tensor) -> Tensor:
    wide = precision.sum_dtype(z)
    total = z.new_zeros((), dtype=wide)
    for grad in grads:
        if grad is not None:
            total = total + torch.linalg.vector_norm(grad, dtype=wide).square()
    return total


def _norms(calls: Mapping[str, Call], squares: dict[str, Tensor]) -> dict[str, Tensor]:
    """Return the norms of gradients of the whole batch, wherever its rows are."""
    norms = {}
    for name, call in calls.items():
        square, everyone = squares[name], _ranks("gradient_norms", call.loss)
        if everyone is not None:
            square = everyone.sum(square)
            if everyone.averaged:  # of W times the loss
                square = square / everyone.size**2
        norms[name] = square.sqrt()
    return norms
