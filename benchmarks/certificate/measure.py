"""Errors of value and gradient of every entrant, draw by draw."""

import math
import warnings
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field
from functools import cache
from typing import Any

import numpy
import torch
from torch import Tensor

from benchmarks.certificate.extended import EXTENDED, Evaluated, evaluate
from benchmarks.certificate.regimes import DTYPES, Batch, batches
from benchmarks.certificate.subjects import SUBJECTS, Entrant, Truth

__all__ = ["Errors", "measured", "truth_of"]

# A truth that is smaller than this, relative to ordinary inputs, is 0 at a singular
# point; elsewhere there are small ones.
NOTHING = 2.0**-56
SHRINK = float(numpy.finfo(EXTENDED).eps) * 2.0**52  # from an error in float64


@dataclass
class Errors:
    """What is known of an entrant: one entry for each draw that raised nothing.

    Attributes:
        numbers: The draws in which nothing was raised.
        value: Relative errors of the value, NaN where it is not finite.
        gradient: The same of the gradient.
        values: What was returned, and what should have been.
        raised: What the others raised.
    """

    numbers: list[int] = field(default_factory=list)
    value: list[float] = field(default_factory=list)
    gradient: list[float] = field(default_factory=list)
    values: list[tuple[float, float]] = field(default_factory=list)
    raised: list[str] = field(default_factory=list)


def truth_of(truth: Truth, batch: Batch, dtype: Any = EXTENDED) -> Evaluated:
    """Return the truth of a batch in a precision."""
    return evaluate(truth, batch.leaves, batch.fixed | batch.labels, dtype)


def measured(
    loss: str,
    regime: str,
    dtype: str,
    numbers: Iterable[int],
    entrants: Sequence[Entrant],
    tick: Callable[[int], Any] = lambda draws: None,
) -> tuple[dict[str, Errors], dict[str, Errors]]:
    """Return errors of the entrants, and of the truth.

    The last are what is left of the truth's own rounding ("truth"), and what moving the
    inputs by half an ulp does to it ("inputs").
    """
    found = {entrant.name: Errors() for entrant in entrants}
    own = {"truth": Errors(), "inputs": Errors()}
    subject = SUBJECTS[loss]
    for batch in batches(loss, subject.layout, regime, dtype, numbers):
        truths: dict[int, tuple[Evaluated, numpy.ndarray, numpy.ndarray]] = {}
        for entrant in entrants:
            key = id(entrant.truth)
            if key not in truths:
                truth = truth_of(entrant.truth, batch)
                truths[key] = (truth, *_sizes(loss, regime, entrant.truth, truth))
                if entrant.truth is subject.truth:
                    _look_at(batch, dtype, regime, entrant.truth, truths[key], own)
            for k in range(len(batch.numbers)):
                _add(found[entrant.name], entrant, batch, k, dtype, truths[key])
            tick(len(batch.numbers))
    return found, own


def _sizes(
    loss: str, regime: str, truth: Truth, found: Evaluated
) -> tuple[numpy.ndarray, numpy.ndarray]:
    """Return what errors of values and of gradients are divided by."""
    value = numpy.maximum(numpy.abs(found.value), found.least)
    gradient = numpy.sqrt((found.gradient**2).sum(1))
    of_value, of_gradient = _ordinary(loss, truth)
    least = NOTHING if regime == "degenerate" else 0.0
    value = numpy.where(value <= least * of_value, of_value, value)
    return value, numpy.where(gradient <= least * of_gradient, of_gradient, gradient)


@cache
def _ordinary(loss: str, truth: Truth) -> tuple[float, float]:
    """Return the median size of value and gradient for ordinary inputs."""
    layout = SUBJECTS[loss].layout
    (batch,) = batches(loss, layout, "ordinary", "float64", range(32))
    found = truth_of(truth, batch)
    norms = numpy.sqrt((found.gradient**2).sum(1))
    return float(numpy.median(numpy.abs(found.value))), float(numpy.median(norms))


def _look_at(
    batch: Batch,
    dtype: str,
    regime: str,
    truth: Truth,
    of: tuple[Evaluated, numpy.ndarray, numpy.ndarray],
    own: dict[str, Errors],
) -> None:
    """Add how well the truth is known, and how it depends on the last bit."""
    exact, of_value, of_gradient = of
    others = {"truth": (truth_of(truth, batch, numpy.float64), SHRINK)}
    if regime != "degenerate":  # a singular point that is moved is none
        rng = numpy.random.default_rng(batch.numbers[0])
        step = EXTENDED(torch.finfo(DTYPES[dtype]).eps / 2)
        leaves = {
            name: z * (1 + step * rng.choice([-1, 1], z.shape))
            for name, z in batch.leaves.items()
        }
        others["inputs"] = evaluate(truth, leaves, batch.fixed | batch.labels), 1.0
    for name, (other, factor) in others.items():
        value = numpy.abs(other.value - exact.value) / of_value * factor
        gap = numpy.sqrt(((other.gradient - exact.gradient) ** 2).sum(1))
        own[name].value += map(float, value)
        own[name].gradient += map(float, gap / of_gradient * factor)


def _add(
    errors: Errors,
    entrant: Entrant,
    batch: Batch,
    k: int,
    dtype: str,
    of: tuple[Evaluated, numpy.ndarray, numpy.ndarray],
) -> None:
    """Add one draw to the errors of an entrant."""
    truth, of_value, of_gradient = of
    factor = EXTENDED(entrant.factor)
    if entrant.dtypes and dtype not in entrant.dtypes:
        errors.raised.append("not tried in this dtype")
        return
    if not numpy.isfinite(truth.value[k]):  # undefined
        return
    inputs = batch.draw(k, DTYPES[dtype])
    wanted = truth.gradient[k] * factor
    if numpy.sqrt((wanted**2).sum()) <= NOTHING * of_gradient[k]:
        wanted = 0 * wanted
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            value, grads = _run(entrant, inputs, list(batch.leaves), wanted)
    except Exception as error:  # whatever others have to say
        first = (str(error).splitlines() or [""])[0]
        errors.raised.append(f"{type(error).__name__}: {first}")
        return
    got = value.item()
    gradient = numpy.concatenate([g.double().numpy().ravel() for g in grads])
    off = numpy.abs(EXTENDED(got) / factor - truth.value[k]) / of_value[k]
    gap = gradient.astype(EXTENDED) / factor - truth.gradient[k]
    errors.numbers.append(batch.numbers[k])
    errors.value.append(_finite(off))
    errors.gradient.append(_finite(numpy.sqrt((gap**2).sum()) / of_gradient[k]))
    errors.values.append((got, float(truth.value[k] * factor)))


def _finite(error: Any) -> float:
    return float(error) if numpy.isfinite(error) else math.nan


def _run(
    entrant: Entrant,
    inputs: dict[str, Tensor],
    leaves: list[str],
    wanted: numpy.ndarray,
) -> tuple[Tensor, list[Tensor]]:
    """Return value and gradients.

    Those of float16 are asked for times a power of two and divided by it, as a scaler
    of losses does, so that the largest entry is near 1: as far as the dtype of the
    value can hold such a number.
    """
    value = entrant.call(**inputs)
    of = [inputs[name] for name in leaves]
    scale = 1.0
    if of[0].dtype == torch.float16:
        most = 14 if value.dtype == torch.float16 else 60
        largest = float(numpy.abs(wanted).max())
        power = -round(math.log2(largest)) if largest > 0 else 0
        scale = 2.0 ** min(max(power, -most), most)
    if not value.requires_grad:
        return value, [torch.zeros_like(z) for z in of]
    grads = torch.autograd.grad(
        value, of, torch.full_like(value, scale), allow_unused=True
    )
    grads = [
        torch.zeros_like(z) if g is None else g.double() / scale
        for g, z in zip(grads, of, strict=True)
    ]
    return value.detach(), grads
