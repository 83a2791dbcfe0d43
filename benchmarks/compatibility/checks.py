"""What is done to a loss, each compared with the plain call in float64.

A check returns nothing, or what has to be said beside its tick. What cannot be done
here raises :class:`NotRunError`, and what is wrong raises anything else.
"""

import copy
import shutil
from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from benchmarks.compatibility.subjects import ROWS, Called, Subject

__all__ = ["MismatchError", "NotRunError", "Setting", "compare", "evaluate"]

OTHERS = (ROWS + 5, 2 * ROWS)  # sizes at which what was made for ROWS is used again
LEAST, MOST = 4, 256  # rows of a program that is exported for any number of them

#: Relative errors, of values and of gradients as wholes. Another order of sums; a
#: difference of second derivatives; float32, of values and gradients of all that is not
#: float64; one rounding, of gradients that are stored in 16 bits.
EXACT, DIFFERENCES, SINGLE = 1e-8, 1e-6, 1e-4
STORED = {torch.float16: 2.0**-10, torch.bfloat16: 2.0**-7}


class MismatchError(AssertionError):
    """Numbers are not those of the plain call."""


class NotRunError(Exception):
    """Something is missing here without which a check says nothing."""


@dataclass(frozen=True)
class Setting:
    """Where the checks run, and what compiles."""

    device: str = "cpu"
    backend: str = "inductor"


def evaluate(module: Called, tensors: list[Tensor], leaves: int) -> list[Tensor]:
    """Return value and gradients, of the inputs and of all that is learned."""
    inputs = [
        t.detach().clone().requires_grad_(k < leaves) for k, t in enumerate(tensors)
    ]
    value = module(*inputs)
    of = [*inputs[:leaves], *module.parameters()]
    return [value.detach(), *torch.autograd.grad(value, of)]


def compare(
    found: list[Tensor], expected: list[Tensor], rtol: float, of_grads: float = 0.0
) -> None:
    """Raise where a value, or the gradients as a whole, differ by more than that."""
    error = relative(found[:1], expected[:1])
    if not error <= rtol:  # nor NaN
        raise MismatchError(f"value {found[0].item():.6g} differs by {error:.1e}")
    error = relative(found[1:], expected[1:]) if expected[1:] else 0.0
    if not error <= (of_grads or rtol):
        raise MismatchError(f"gradient differs by {error:.1e}")


def relative(found: list[Tensor], expected: list[Tensor]) -> float:
    """Return the error over the size, of all tensors together."""
    if [x.shape for x in found] != [x.shape for x in expected]:
        raise MismatchError("shapes differ")
    a, b = (
        torch.cat([x.detach().double().flatten() for x in some])
        for some in (found, expected)
    )
    return ((a - b).norm() / b.norm()).item()


def batch(
    subject: Subject,
    setting: Setting,
    dtype: torch.dtype = torch.float64,
    rows: int = ROWS,
    seed: int = 0,
) -> list[Tensor]:
    """Return inputs on the device; what is real has this dtype."""
    inputs = subject.inputs(rows, seed).values()
    return [
        t.to(setting.device, dtype if t.is_floating_point() else None) for t in inputs
    ]


def made(subject: Subject, setting: Setting, **options: object) -> Called:
    """Return the loss on the device, in float64."""
    return subject.build(**options).to(setting.device).double()


def leaves_of(subject: Subject) -> int:
    """Return how many of the inputs get a gradient."""
    return subject.leaves(subject.inputs())


def as_plain(subject: Subject, module: Called, tensors: list[Tensor]) -> None:
    """Compare a module with the plain call of the loss, in float64."""
    leaves = leaves_of(subject)
    expected = evaluate(made(subject, Setting(tensors[0].device.type)), tensors, leaves)
    compare(evaluate(module, tensors, leaves), expected, EXACT)


# ------------------------------------------------------------------ dtypes


def float64(subject: Subject, setting: Setting) -> None:
    """Compare with the plain formula."""
    module, tensors = made(subject, setting), batch(subject, setting)
    leaves = leaves_of(subject)
    found = evaluate(module, tensors, leaves)
    names = subject.inputs()
    inputs = [t.requires_grad_(k < leaves) for k, t in enumerate(tensors)]
    truth = subject.truth(module, dict(zip(names, inputs, strict=True)))
    of = [*inputs[:leaves], *module.parameters()]
    expected = [truth, *torch.autograd.grad(truth, of)]
    compare(found, expected, EXACT)
    of_dtype(found, torch.float64, torch.float64)


def of_dtype(found: list[Tensor], value: torch.dtype, grads: torch.dtype) -> None:
    """Raise if the value or the gradient of the first input has another dtype."""
    if (found[0].dtype, found[1].dtype) != (value, grads):
        raise MismatchError(f"dtypes are {found[0].dtype} and {found[1].dtype}")


def narrow(dtype: torch.dtype) -> Callable[[Subject, Setting], None]:
    """Return a check of inputs in a dtype: the numbers of their float64 copies."""

    def check(subject: Subject, setting: Setting) -> None:
        module, leaves = subject.build().to(setting.device), leaves_of(subject)
        tensors = batch(subject, setting, dtype)
        found = evaluate(module, tensors, leaves)
        of_dtype(found, torch.float32, dtype)
        wide = [t.double() if t.is_floating_point() else t for t in tensors]
        expected = evaluate(copy.deepcopy(module).double(), wide, leaves)
        compare(found, expected, SINGLE, STORED.get(dtype, SINGLE))

    return check


def autocast(subject: Subject, setting: Setting) -> None:
    """Compare float32 rows, and the 16 bits of a layer, with their float64 copies."""
    module, leaves = subject.build().to(setting.device), leaves_of(subject)
    tensors = batch(subject, setting, torch.float32)
    wide = copy.deepcopy(module).double()
    layer = nn.Linear(tensors[0].shape[-1], tensors[0].shape[-1], bias=False)
    nn.init.eye_(layer.weight).to(setting.device)
    with torch.autocast(setting.device, torch.bfloat16):
        encoded = [t if k >= leaves else layer(t) for k, t in enumerate(tensors)]
        if encoded[0].dtype != torch.bfloat16:
            raise MismatchError("autocast is off")
        for some, of_grads in ((tensors, SINGLE), (encoded, STORED[torch.bfloat16])):
            found = evaluate(module, some, leaves)
            of_dtype(found, torch.float32, some[0].dtype)
            doubled = [t.double() if t.is_floating_point() else t for t in some]
            with torch.autocast(setting.device, enabled=False):
                expected = evaluate(wide, doubled, leaves)
            compare(found, expected, SINGLE, of_grads)


# ------------------------------------------------------------------ the compiler


def compiled(subject: Subject, setting: Setting) -> str | None:
    """Compile to one graph."""
    torch._dynamo.reset()
    backend, note = _backend(setting)
    module = made(subject, setting)
    as_plain(
        subject,
        torch.compile(module, fullgraph=True, backend=backend),
        batch(subject, setting),
    )
    return note


def dynamic(subject: Subject, setting: Setting) -> str | None:
    """Compile to one graph for any number of rows: other sizes do not compile again."""
    torch._dynamo.reset()
    backend, note = _backend(setting)
    module = torch.compile(
        made(subject, setting), fullgraph=True, backend=backend, dynamic=True
    )
    as_plain(subject, module, batch(subject, setting))
    with torch._dynamo.config.patch(error_on_recompile=True):
        for rows in OTHERS:
            as_plain(subject, module, batch(subject, setting, rows=rows, seed=rows))
    return note


def _backend(setting: Setting) -> tuple[str, str | None]:
    if setting.backend == "inductor" and any(map(shutil.which, ("g++", "clang++"))):
        return "inductor", None
    return (
        "aot_eager",
        "traced as one graph (aot_eager), no code is made of it",
    )


# ------------------------------------------------------------------ torch.func


def func_grad(subject: Subject, setting: Setting) -> None:
    """Compare `torch.func.grad_and_value` with autograd."""
    module, tensors = made(subject, setting), batch(subject, setting)
    leaves = leaves_of(subject)
    names = [name for name, _ in module.named_parameters()]
    *grads, value = _of_func(module, names, leaves, module.parameters(), tensors)
    compare([value, *grads], evaluate(module, tensors, leaves), EXACT)


def vmap(subject: Subject, setting: Setting) -> None:
    """Compare values and gradients of a stack of batches with those of a loop."""
    module, leaves = made(subject, setting), leaves_of(subject)
    batches = [batch(subject, setting, seed=seed) for seed in range(3)]
    stacked = [torch.stack(some) for some in zip(*batches, strict=True)]
    loop = [evaluate(module, tensors, leaves) for tensors in batches]
    values = torch.func.vmap(module)(*stacked)
    names = [name for name, _ in module.named_parameters()]

    def both(*tensors: Tensor) -> list[Tensor]:
        *grads, value = _of_func(module, names, leaves, module.parameters(), tensors)
        return [value, *grads]

    found = torch.func.vmap(both)(*stacked)
    for k, expected in enumerate(loop):
        compare([values[k]], expected[:1], EXACT)
        compare([some[k] for some in found], expected, EXACT)


def _of_func(module, names, leaves, learned, tensors):
    """Return the gradients, of inputs and of what is learned, and the value."""

    def loss(inputs, parameters):
        state = dict(zip(names, parameters, strict=True))
        some = (*inputs, *tensors[leaves:])
        return torch.func.functional_call(module, state, some)

    inputs = tuple(t.detach() for t in tensors[:leaves])
    learned = tuple(p.detach() for p in learned)
    (grads, more), value = torch.func.grad_and_value(loss, (0, 1))(inputs, learned)
    return *grads, *more, value


def twice(subject: Subject, setting: Setting) -> str | None:
    """Compare the derivative of the gradient in one direction with its difference."""
    module = made(subject, setting, **subject.smooth)
    tensors, leaves = batch(subject, setting), leaves_of(subject)
    inputs = [t.requires_grad_(k < leaves) for k, t in enumerate(tensors)]
    first = torch.autograd.grad(module(*inputs), inputs[:leaves], create_graph=True)
    generator = torch.Generator().manual_seed(7)
    way = [
        torch.randn(t.shape, generator=generator, dtype=t.dtype).to(t)
        for t in inputs[:leaves]
    ]
    along = torch.stack([(g * w).sum() for g, w in zip(first, way, strict=True)]).sum()
    found = torch.autograd.grad(along, inputs[:leaves])

    step = 1e-5
    ends = []
    for sign in (1, -1):
        moved = [t + sign * step * w for t, w in zip(inputs, way, strict=False)]
        ends.append(evaluate(module, [*moved, *inputs[leaves:]], leaves)[1:])
    count = len(found)
    expected = [(a - b) / (2 * step) for a, b in zip(*ends, strict=True)][:count]
    error = relative(list(found), expected)
    if not error <= DIFFERENCES:
        raise MismatchError(f"second derivative differs by {error:.1e}")
    said = ", ".join(f"{name}={value!r}" for name, value in subject.smooth.items())
    return f"with `{said}`: else a part is a constant to the gradient" if said else None
