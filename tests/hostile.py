"""What users hand over by mistake, and whatever is public to hand it to."""

import inspect
import math
import re
import warnings
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from decimal import Decimal
from fractions import Fraction

import numpy as np
import torch
from torch import Tensor, nn

import xmodal_losses as xl
import xmodal_losses.functional as F
from test_api import LOSSES, SIGNATURES, public

FLOATS = (torch.float16, torch.bfloat16, torch.float32, torch.float64)
GRAMMAR = re.compile(r"(\w+)(\.\w+)?: .+ must (be|have|return) .+, got .+", re.DOTALL)


class Thing:
    """Nothing that a loss knows of."""

    def __repr__(self) -> str:
        return "Thing()"


class Subclass(Tensor):
    """A tensor all the same."""


_draw = torch.Generator().manual_seed(0)


def rows(*shape: int) -> Tensor:
    return torch.randn(shape, generator=_draw)


Z, NAN, INF = rows(6, 4), float("nan"), float("inf")


def _sparse() -> list[Tensor]:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # torch, of itself: it is in beta state
        return [Z.to_sparse(), Z.to_sparse_csr(), torch.ones(6).to_sparse()]


NUMBERS = [0, 1, -1, 3, 7, 10**400, -(10**400), 0.0, 0.5, -1.0, 2.5]
NUMBERS += [5e-324, 1e300, NAN, INF, -INF, 1j, True, False]
NUMBERS += [np.float32(0.5), np.float64(0.5), np.int64(2), np.bool_(True)]
NUMBERS += [Fraction(1, 2), Decimal("0.5")]
TEXTS = ["", "mean", "Mean", "sum", "none", "nan", "\ud800", b"mean"]
OBJECTS = [None, [], [0.5], (1, 2), (1.0, 2.0), (None, None), {}, {"a": 1}, set()]
OBJECTS += [Thing(), int, NotImplemented, slice(1), range(3), ["mean"]]
OBJECTS += [np.array(0.5), np.array([1, 2]), np.array(["mean", "sum"]), Z.numpy()]
OBJECTS += [torch.float32, torch.float64, torch.int64, torch.device("cpu")]
OBJECTS += [torch.Generator(), nn.Identity(), xl.InfoNCELoss(), xl.GaussianKernel()]
OBJECTS += [(one for one in ()), lambda *args: args]
TENSORS = [
    *(torch.tensor(one) for one in (0.5, 2, True, NAN)),
    *(rows(*shape) for shape in ((0,), (6,), (6, 4), (6, 5), (5, 4), (2, 6, 4))),
    *(rows(*shape) for shape in ((6, 6), (0, 4), (6, 0), (1, 4), (0, 6, 4), (6, 2))),
    *(Z.to(dtype) for dtype in (*FLOATS, torch.int64, torch.bool, torch.complex64)),
    *(Z.to(dtype) for dtype in (torch.float8_e4m3fn, torch.complex128)),
    *_sparse(),
    *(torch.full((6, 4), one) for one in (NAN, INF)),
    *(rows(4, 6).T, rows(1, 4).expand(6, 4), rows(12, 4)[::2]),
    *(nn.Parameter(Z.clone()), Z.as_subclass(Subclass), Z.to("meta")),
    *(torch.ones(6), torch.zeros(6), -torch.ones(6), torch.ones(6, device="meta")),
    *(torch.ones(6, dtype=dtype) for dtype in (torch.int64, torch.bool, torch.cfloat)),
    *(torch.ones(6, dtype=dtype) for dtype in (torch.float16, torch.uint16)),
    *(torch.arange(6), torch.full((6,), -(2**63)), torch.full((6,), 2**63 - 1)),
    *(torch.arange(6).to("meta"), torch.arange(6, dtype=torch.uint8)),
    *(torch.eye(6).bool(), torch.eye(6, device="meta").bool(), torch.ones(3, 6).bool()),
    *(torch.ones(2, 5, 6), torch.ones(2, 5, 6).bool(), torch.ones(2, 3, 5, 6).long()),
]
GROUPS = [
    *([rows(6, 4)] * count for count in (1, 3)),
    *((rows(6, 4), rows(6, 4)), [rows(6, 4), None], [rows(6, 4), rows(5, 4)]),
    *(xl.ExtraNegatives(), xl.ExtraNegatives(rows(3, 4), rows(3, 4))),
    *(xl.ExtraNegatives(Z.cfloat()), xl.ExtraNegatives(1, 2)),
    xl.ExtraNegatives(rows(3, 4), valid=torch.ones(3)),
]
VALUES = [*NUMBERS, *TEXTS, *OBJECTS, *TENSORS, *GROUPS]

# What is asked for has no default, or a small one is enough.
GIVEN = {name: rows(6, 4) for name in ("z_a", "z_b", "z", "z_noise", "x", "y", "noise")}
GIVEN |= dict.fromkeys(("labels", "labels_a", "labels_b"), torch.arange(6) % 3)
GIVEN |= {"views": [rows(6, 4) for _ in range(3)], "centers": rows(3, 4)}
GIVEN |= {name: rows(2, 3, 5, 6) for name in ("features", "like", "map_a", "map_b")}
GIVEN |= {"positions": rows(2, 4, 2).abs(), "num": 4, "network": nn.Linear(4, 4)}
GIVEN |= {"kernel": xl.GaussianKernel(1.0), "loss": xl.InfoNCELoss()}
GIVEN |= {"kernels": [xl.GaussianKernel(), xl.LaplacianKernel()], "widths": [2, 2]}
GIVEN |= {"criterion": xl.CORALLoss(), "num_components": 2, "num_rows": 6}
GIVEN |= {"num_columns": 4, "num_classes": 3, "num_features": 4, "size": 8}
GIVEN |= dict.fromkeys(("dim", "dim_a", "dim_b"), 4)
GIVEN |= {"start": 1.0, "end": 0.5, "length": 10}
_LEARNED = {"kernel": xl.GaussianKernel(learn=True), "steps": 2}
SMALL = {
    "mmd_agg": {"x": rows(30, 4), "y": rows(30, 4), "kernels": "gaussian"}
    | {"quantile_draws": 30, "level_draws": 30, "num_bandwidths": 2},
    "kernel_test": {"permutations": 20},
    "fit_kernel": _LEARNED,
    "deep_kernel_test": _LEARNED | {"permutations": 20},
    "fit_weights": {"kernel": xl.MultiKernel([xl.EnergyKernel()] * 2, learn=True)},
    "modality_gap": {"num_permutations": 5},
    "RandomFeatures": {"num_features": 8},
    "pairwise": {"loss": F.coral},
    "noise_regularization": {"x": rows(6, 5), "noise": rows(6, 5)},
    "vicreg_local": {name: rows(2, 6, 4) for name in ("z_a", "z_b")}
    | {name: rows(2, 6, 2) for name in ("positions_a", "positions_b")},
}
for _loss in ("noise_regularization", "vicreg_local"):
    SMALL[f"{LOSSES[_loss][0]}()"] = SMALL[_loss]

#: What users write themselves: what it raises, or returns, is theirs.
OWN = {("pairwise", "loss"), ("paired_rows", "warp")}
#: A class that there is not: torch looks, and says so.
VALUES_OF_INDICES = {("contrastive_center", name) for name in ("labels", "centers")}
VALUES_OF_INDICES |= {("ContrastiveCenterLoss()", "labels")}
# Bare tuples, and what is given three functions to call.
LEFT_OUT = {"ObjectiveValue", "ExtraNegatives", "cached_backward"}


@dataclass(frozen=True)
class Target:
    """Something to call, the arguments that it has, and those that it is given."""

    name: str
    make: Callable[[], Callable]
    signature: inspect.Signature
    given: dict

    def __str__(self) -> str:
        return self.name

    def __call__(self, **changed: object) -> object:
        return self.make()(**(self.given | changed))

    @property
    def arguments(self) -> list[str]:
        known = self.signature.parameters.values()
        names = [one.name for one in known if one.kind is not one.VAR_KEYWORD]
        own = [name for name in names if (self.name, name) in OWN]
        return [name for name in names if name not in ("self", *own)]

    def kind(self, argument: str) -> Callable[[object], bool] | None:
        """Return what an argument is to be; None if it may be of several types."""
        if argument in KINDS:
            return KINDS[argument]
        default = self.signature.parameters[argument].default
        return next((of for kind, of in OF_DEFAULT if type(default) is kind), None)


def _target(name: str, make: Callable[[], Callable], of: Callable) -> Target:
    signature = inspect.signature(of)
    given = {
        one.name: GIVEN[one.name]
        for one in signature.parameters.values()
        if one.default is one.empty and one.name in GIVEN
    }
    return Target(name, make, signature, given | SMALL.get(name, {}))


def targets() -> Iterator[Target]:
    """Yield the public functions and constructors, and what modules do."""
    for name in SIGNATURES:
        if name not in LEFT_OUT:
            thing = public(name)
            yield _target(name, lambda thing=thing: thing, thing)
    for module, _ in LOSSES.values():
        made = getattr(xl, module)
        given = {p: GIVEN[p] for p in inspect.signature(made).parameters if p in GIVEN}
        given.pop("kernel", None)
        yield _target(f"{module}()", lambda m=made, g=given: m(**g), made.forward)
    queue, projector = xl.EmbeddingQueue, xl.CCAProjector
    yield _target("EmbeddingQueue()", lambda: queue(8, 4).enqueue, queue.enqueue)

    def fresh() -> xl.CCAProjector:
        return projector(4, 4, num_components=2)

    def fitted() -> xl.CCAProjector:
        made = fresh()
        made.update(rows(20, 4), rows(20, 4))
        return made.fit()

    yield _target("CCAProjector().update", lambda: fresh().update, projector.update)
    yield _target("CCAProjector()", fitted, projector.forward)
    running = xl.RunningMoments
    yield _target(
        "RunningMoments()", lambda: running(xl.CORALLoss(), 4, 4), running.forward
    )
    chunked = xl.ChunkedMoments
    yield _target(
        "ChunkedMoments()", lambda: chunked(xl.CORALLoss()).update, chunked.update
    )
    whole = xl.CrossModalObjective
    yield _target("CrossModalObjective()", whole, whole.forward)
    yield _target("Kernel()", lambda: xl.GaussianKernel(1.0), xl.Kernel.forward)


def _number(value: object) -> bool:
    real = isinstance(value, (int, float)) and not isinstance(value, bool)
    if isinstance(value, int):  # which torch takes for 64 bits
        return real and abs(value) < 2**63
    return real and math.isfinite(value)


def _count(value: object) -> bool:
    return isinstance(value, int) and not isinstance(value, bool) and value > 0


def _number_or_scalar(value: object) -> bool:
    scalar = isinstance(value, Tensor) and value.ndim == 0 and value.dtype in FLOATS
    return scalar or _number(value)


def _rows(value: object) -> bool:
    return (
        isinstance(value, Tensor)
        and value.dtype in FLOATS
        and value.layout is torch.strided
        and value.ndim >= 2
    )


def _maybe(kind: Callable[[object], bool]) -> Callable[[object], bool]:
    return lambda value: value is None or kind(value)


def _tensor(*dtypes: torch.dtype) -> Callable[[object], bool]:
    return _maybe(lambda value: isinstance(value, Tensor) and value.dtype in dtypes)


_INTEGERS = (torch.bool, torch.uint8, torch.int8, torch.int16, torch.int32, torch.int64)
OF_DEFAULT = (
    (bool, lambda value: isinstance(value, bool)),
    (float, _number),
    (int, _count),
    (str, lambda value: isinstance(value, str)),
    (torch.dtype, lambda value: value in FLOATS),
)
KINDS = dict.fromkeys(("z_a", "z_b", "z", "z_noise", "x", "y", "centers"), _rows)
KINDS |= dict.fromkeys(("features", "map_a", "map_b"), _rows)
KINDS |= dict.fromkeys(("labels", "labels_a", "labels_b"), _tensor(*_INTEGERS))
KINDS |= {"ids": _tensor(*_INTEGERS), "exclude": _tensor(torch.bool)}
KINDS |= {name: _tensor(torch.bool) for name in ("mask", "valid", "valid_a", "valid_b")}
KINDS |= {name: _tensor(*FLOATS, *_INTEGERS) for name in ("weight_a", "weight_b")}
KINDS |= {name: _tensor(*FLOATS, *_INTEGERS) for name in ("targets", "scores")}
KINDS |= dict.fromkeys(("temperature", "scale", "bias"), None)
KINDS |= dict.fromkeys(("weight", "weights", "bandwidth", "kernels", "terms"), None)
KINDS |= dict.fromkeys(("gather", "num", "scale"), None)
for _name in ("hardest", "chunk_size", "block_size", "num_matches", "num_diagonals"):
    KINDS[_name] = _maybe(_count)
for _name in ("exclude_radius", "jitter", "spread", "sigma", "redundancy_weight"):
    KINDS[_name] = _maybe(_number)


def refused(error: Exception, changed: dict) -> str | None:
    """Return what is wrong with an exception, or None."""
    if isinstance(error, torch.linalg.LinAlgError):
        finite = not any(map(not_finite, changed.values()))
        return "a decomposition of finite rows" if finite else None
    if type(error) not in (TypeError, ValueError):
        return "no TypeError or ValueError"
    match = GRAMMAR.fullmatch(str(error))
    if match is None:
        return "not in the grammar"
    return None if match[1] in SIGNATURES or match[1] == "InfoNCETerms" else "no caller"


def not_finite(value: object) -> bool:
    if isinstance(value, Tensor):
        dense = value.layout is torch.strided and value.device.type == "cpu"
        return dense and not bool(value.to(torch.complex128).isfinite().all())
    if isinstance(value, (tuple, list)):
        return any(map(not_finite, value))
    return isinstance(value, float) and not math.isfinite(value)


def tensors(value: object) -> Iterator[Tensor]:
    """Yield the tensors of what was handed over, or came back."""
    if isinstance(value, Tensor):
        yield value
    elif isinstance(value, (tuple, list)):
        for one in value:
            yield from tensors(one)
    elif isinstance(value, dict):
        yield from tensors(list(value.values()))
