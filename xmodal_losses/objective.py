r"""Several losses as one: named terms, each with a weight and its view of the rows.

.. math::
    \mathcal{L}(A, B) = \sum_k \lambda_k \, \mathcal{L}_k(A_k, B_k) , \qquad
    (A_k, B_k) \in \{ (A, B), (\hat A, \hat B) \} ,

of the projections :math:`A, B` as they leave the network, or the embeddings
:math:`\hat A, \hat B`, which are these with rows of unit length.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Literal, NamedTuple, TypeAlias

import torch
from torch import Tensor, nn

from xmodal_losses._core import checks, precision, ranks, routing
from xmodal_losses._core.reduce import inverse
from xmodal_losses._core.terms import Call, Known, Rows, one_by_one, together
from xmodal_losses.contrastive.info_nce import InfoNCELoss
from xmodal_losses.distribution.coral import CORALLoss
from xmodal_losses.redundancy.barlow_twins import BarlowTwinsLoss
from xmodal_losses.schedules import Schedule

__all__ = ["CrossModalObjective", "ObjectiveValue", "Term"]

_NAME = "CrossModalObjective"
Input: TypeAlias = Literal["projection", "embedding"]
INPUTS = ("projection", "embedding")


@dataclass(frozen=True)
class Term:
    """A loss in an objective.

    Args:
        loss: A module of two batches that returns a scalar: one of this package, or any
            other whose ``forward`` begins with these two.
        weight: λ ≥ 0, or a function of the step that returns it, such as
            :class:`~xmodal_losses.LinearSchedule`.
        input: ``"projection"``: rows as they are given. ``"embedding"``: rows of unit
            length; a zero row stays zero, and gets no gradient.

    Raises:
        TypeError: If the loss is no module of two batches, or the weight neither number
            nor function.
        ValueError: If the weight or the input is out of range, or the loss has
            ``reduction="none"``.
    """

    loss: nn.Module
    weight: float | Schedule = field(default=1.0, kw_only=True)
    input: Input = field(default="projection", kw_only=True)

    def __post_init__(self) -> None:
        if not isinstance(self.loss, nn.Module):
            raise TypeError(
                f"Term: loss must be a torch.nn.Module, got {type(self.loss).__name__}."
            )
        routing.taken("Term", self.loss)
        if getattr(self.loss, "reduction", None) == "none":
            raise ValueError(
                "Term: loss must return a scalar, got "
                f"{type(self.loss).__name__}(reduction='none'). Choose 'mean' or 'sum'."
            )
        if not callable(self.weight):
            checks.number("Term", "weight", self.weight, at_least=0.0)
        checks.option("Term", "input", self.input, INPUTS)


class ObjectiveValue(NamedTuple):
    """What :class:`~xmodal_losses.CrossModalObjective` returns.

    Attributes:
        total: Σ λ_k L_k, to call ``backward`` on.
        terms: L_k by name, without a graph. A term of weight 0 is not computed, and not
            in here.
        weights: λ_k by name, 0 included.
        gradient_norms: By name, if asked for: the norm of the gradient of λ_k L_k in
            both projections together; 0 for a term of weight 0.
        gradient_shares: By name, if asked for: the norms over their sum.
    """

    total: Tensor
    terms: dict[str, Tensor]
    weights: dict[str, float]
    gradient_norms: dict[str, Tensor] | None = None
    gradient_shares: dict[str, Tensor] | None = None


class CrossModalObjective(nn.Module):
    """A weighted sum of losses of two batches of projections.

    Without arguments it is InfoNCE + 0.02 · CORAL + 0.01 · Barlow Twins, the terms
    ``"contrast"``, ``"align"`` and ``"decorrelate"``.

    Args:
        terms: The terms by name, each a :class:`~xmodal_losses.Term`.
        gather: As in the losses, for those that are made where ``terms`` is None;
            losses that are given have their own.
        grad_reduce: The same.
        lean: Hold the graph of one term at a time. Each term's gradient is taken as
            soon as its value is known, and ``backward`` hands on their sum: the same
            gradients, those of parameters of the losses included, in the memory of the
            largest term. There is no second derivative, and nothing to compile.

    State: that of the losses, under ``losses.<name>``. Neither weights nor the step are
    state: the ones belong to the constructor, the other to the training loop.

    Shape:
        - ``z_a``, ``z_b``: as every term takes them, ``(…, N, D)`` in general.
        - ``total``: scalar.

    Raises:
        TypeError: If ``terms`` is no mapping of names to terms.
        ValueError: If there is no term, or a name that a module cannot have, or
            ``gather`` or ``grad_reduce`` beside ``terms``.

    Examples:
        >>> import torch, xmodal_losses as xl
        >>> objective = xl.CrossModalObjective()
        >>> rgb, ir = torch.randn(2, 256, 128, requires_grad=True)
        >>> value = objective(rgb, ir)
        >>> value.total.backward()
        >>> list(value.terms)
        ['contrast', 'align', 'decorrelate']
    """

    def __init__(
        self,
        terms: Mapping[str, Term] | None = None,
        *,
        gather: bool | ranks.Group = False,
        grad_reduce: ranks.GradReduce = "mean",
        lean: bool = False,
    ) -> None:
        super().__init__()
        ranks.check_module(_NAME, gather, grad_reduce)
        checks.flag(_NAME, "lean", lean)
        if terms is None:
            terms = _seed({"gather": gather, "grad_reduce": grad_reduce})
        elif gather is not False or grad_reduce != "mean":
            raise ValueError(
                f"{_NAME}: gather and grad_reduce must be left out beside terms, got "
                f"gather={gather!r} and grad_reduce={grad_reduce!r}. Give them to the "
                "losses."
            )
        _check_terms(terms)
        self.lean = lean
        self.losses = nn.ModuleDict({name: term.loss for name, term in terms.items()})
        self._weights = {name: term.weight for name, term in terms.items()}
        self._inputs = {name: term.input for name, term in terms.items()}
        self._known = {name: Known.of(_NAME, term.loss) for name, term in terms.items()}

    def forward(
        self,
        z_a: Tensor,
        z_b: Tensor,
        *,
        step: float | None = None,
        gradient_norms: bool = False,
        **tensors: Tensor | None,
    ) -> ObjectiveValue:
        """Return the sum, and every term of it.

        Args:
            z_a: Projections of modality *a*, before any normalisation of rows.
            z_b: Projections of modality *b*.
            step: Where training is, a number ≥ 0 in the unit of the schedules. Needed
                if there are any; on several ranks, the same on all.
            gradient_norms: Tell each term's share of the gradient. Graphs are then held
                as with ``lean``.
            tensors: What the losses take besides, by the names they have there. Where a
                loss has ``<name>_a`` and ``<name>_b``, ``<name>`` stands for both: so
                the ``weight`` of pairs reaches CORAL and MMD.

        Raises:
            TypeError: If an argument is taken by no term, a ``weight`` not by all, or a
                term lacks one that it needs.
            ValueError: If there are schedules and no step, a schedule leaves its range,
                or a term returns no scalar.
        """
        checks.flag(_NAME, "gradient_norms", gradient_norms)
        weights = {name: self._weight_at(name, step) for name in self._weights}
        told = {name: tensor for name, tensor in tensors.items() if tensor is not None}
        routed = {
            name: routing.routes(_NAME, name, known.takes, told)
            for name, known in self._known.items()
        }
        routing.refuse_unrouted(_NAME, told, routed)
        calls = {
            name: Call(
                loss=self.losses[name],
                known=self._known[name],
                weight=weight,
                unit_rows=self._inputs[name] == "embedding",
                arguments=routed[name],
            )
            for name, weight in weights.items()
            if weight > 0
        }
        rows = Rows(_NAME, z_a, z_b, told)
        if gradient_norms or (self.lean and torch.is_grad_enabled()):
            values = one_by_one(calls, rows, with_norms=gradient_norms)
        else:
            values = together(calls, rows)
        total = values.total
        skipped = [self.losses[name] for name in weights if name not in calls]
        if skipped or total is None:
            nothing = _nothing(z_a, z_b, skipped)
            total = nothing if total is None else total + nothing
        if values.gradient_norms is None:
            return ObjectiveValue(total, values.terms, weights)
        zero = torch.zeros_like(total, requires_grad=False)
        norms = {
            name: values.gradient_norms.get(name, zero).to(zero) for name in weights
        }
        over = inverse(sum(norms.values(), start=zero))
        shares = {name: norm * over for name, norm in norms.items()}
        return ObjectiveValue(total, values.terms, weights, norms, shares)

    @property
    def terms(self) -> dict[str, Term]:
        """The terms as they were given."""
        return {
            name: Term(loss, weight=self._weights[name], input=self._inputs[name])
            for name, loss in self.losses.items()
        }

    def _weight_at(self, name: str, step: float | None) -> float:
        weight = self._weights[name]
        if not callable(weight):
            return weight
        if step is None:
            raise ValueError(
                f"{_NAME}: step must be given where a weight is a function of it, got "
                f"None. The weight of {name!r} is {weight!r}."
            )
        checks.number(_NAME, "step", step, at_least=0.0)
        value = weight(step)
        checks.number(
            _NAME, f"the weight of {name!r} at step {step:g}", value, at_least=0.0
        )
        return value

    def extra_repr(self) -> str:
        """Return the options, and what is summed."""
        lines = [f"lean={self.lean}"]
        lines += [
            f"{name}: weight={term.weight!r}, input={term.input!r}"
            for name, term in self.terms.items()
        ]
        return "\n".join(lines)


def _seed(options: dict[str, Any]) -> dict[str, Term]:
    return {
        "contrast": Term(InfoNCELoss(**options), input="embedding"),
        "align": Term(CORALLoss(**options), weight=0.02),
        "decorrelate": Term(BarlowTwinsLoss(**options), weight=0.01),
    }


def _check_terms(terms: object) -> None:
    if not isinstance(terms, Mapping):
        raise TypeError(
            f"{_NAME}: terms must be a mapping of names to terms, got "
            f"{type(terms).__name__}."
        )
    if not terms:
        raise ValueError(f"{_NAME}: terms must be one or more, got none.")
    for name, term in terms.items():
        if not isinstance(name, str) or not name.isidentifier():
            raise ValueError(
                f"{_NAME}: names of terms must be identifiers, got {name!r}."
            )
        if hasattr(nn.ModuleDict(), name):
            raise ValueError(
                f"{_NAME}: names of terms must be free in torch.nn.ModuleDict, got "
                f"{name!r}. Take another one."
            )
        if not isinstance(term, Term):
            raise TypeError(
                f"{_NAME}: terms[{name!r}] must be a Term, got {type(term).__name__}. "
                "Write Term(loss, weight=…)."
            )


def _nothing(z_a: Tensor, z_b: Tensor, skipped: Sequence[nn.Module]) -> Tensor:
    """Return 0, with the gradient 0 that 0·loss would have.

    Without it nobody could call ``backward`` where all weights are 0, and DDP would
    wait for the parameters of a skipped loss. It looks at no value.
    """
    parameters = [p for loss in skipped for p in loss.parameters() if p.requires_grad]
    zero = z_a.new_zeros((), dtype=precision.compute_dtype(z_a, z_b))
    for tensor in (z_a, z_b, *parameters):
        zero = zero + tensor.unsqueeze(0).narrow(0, 0, 0).sum().to(zero)
    return zero
