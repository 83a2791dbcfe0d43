"""What holds for every diagnostic: references, weights, batches, dtypes."""

import shutil
from collections.abc import Callable
from dataclasses import dataclass, field

import numpy as np
import pytest
import torch
from numpy.testing import assert_allclose

from reference import diagnostics as reference
from reference.dcca import canonical_correlations
from tolerances import ROUNDING, SAME, VALUE
from xmodal_losses import diagnostics


@dataclass(frozen=True)
class Diagnostic:
    """A diagnostic of one or two batches, and what it should return.

    Attributes:
        name: Function in ``xmodal_losses.diagnostics``.
        expected: Its reference, for one problem: batches, weights, options.
        options: Options to try.
        widths: Columns of each batch.
        spread: The least and the largest scale of their columns.
        result: The part of what is returned that the reference is of.
        weighted: It takes a weight with these options.
        differentiable: Its gradient is the derivative of its value.
    """

    name: str
    expected: Callable
    options: dict = field(default_factory=dict)
    widths: tuple[int, ...] = (4,)
    spread: tuple[float, float] = (0.05, 2.0)
    result: Callable = lambda found: found
    weighted: bool = True
    differentiable: bool = False

    def __str__(self):
        return ",".join([self.name, *(f"{k}={v}" for k, v in self.options.items())])

    def __call__(self, *views, **options):
        options = self.options | options
        return self.result(getattr(diagnostics, self.name)(*views, **options))

    def draw(self, rows=7, lead=(), seed=0):
        """Return views that have something in common."""
        rng = np.random.default_rng(seed)
        common = rng.normal(size=(*lead, rows, 3))
        views = []
        for width in self.widths:
            mix = rng.normal(size=(3, width))
            view = common @ mix + rng.normal(size=(*lead, rows, width))
            views.append(view * np.geomspace(*self.spread, width) + 0.5)
        return views


def _gap(a, b, w, **options):
    return reference.gap(a[w > 0], b[w > 0], w[w > 0], **options)


DRAWS = {"num_permutations": 1}
PAIR = (4, 4)
EVERY = [
    Diagnostic("rank_me", reference.rank_me),
    Diagnostic("rank_me", reference.rank_me, {"eps": 0.0}),
    Diagnostic("rank_me", reference.rank_me, {"eps": 0.1}, (9,)),
    Diagnostic("effective_rank", reference.effective_rank),
    Diagnostic("effective_rank", reference.effective_rank, widths=(9,)),
    Diagnostic("effective_rank", reference.effective_rank, {"of": "rows"}),
    Diagnostic("alignment", reference.alignment, widths=PAIR, differentiable=True),
    *(
        Diagnostic("alignment", reference.alignment, options, PAIR, differentiable=True)
        for options in (
            {"power": 1.0},
            {"power": 3.5, "normalize": False},
            {"normalize": False},
        )
    ),
    *(
        Diagnostic("uniformity", reference.uniformity, options, differentiable=True)
        for options in ({}, {"t": 11.0}, {"t": 0.3, "normalize": False})
    ),
    Diagnostic("modality_gap", _gap, DRAWS, PAIR, result=lambda found: found.gap),
    Diagnostic(
        "modality_gap",
        _gap,
        DRAWS | {"normalize": False},
        PAIR,
        result=lambda found: found.gap,
    ),
    Diagnostic(
        "modality_gap",
        _gap,
        DRAWS | {"paired": False},
        PAIR,
        result=lambda found: found.gap,
        weighted=False,
    ),
    *(
        Diagnostic(
            name, expected, options, (6,), (0.003, 3.0), lambda found: found.which
        )
        for name, expected, options in (
            ("dead_dimensions", reference.dead_dimensions, {}),
            ("dead_dimensions", reference.dead_dimensions, {"threshold": 0.6}),
            ("hinge_counts", reference.hinge_counts, {}),
            ("hinge_counts", reference.hinge_counts, {"target_std": 0.5, "eps": 0.2}),
        )
    ),
    *(
        Diagnostic(
            "canonical_spectrum",
            canonical_correlations,
            {"ridge": ridge},
            widths,
            result=lambda found: found.correlations,
        )
        for ridge, widths in ((0.0, (2, 3)), (1e-4, (4, 2)), (0.3, (4, 9)))
    ),
    Diagnostic("linear_cka", reference.linear_cka, {}, (3, 5), differentiable=True),
    Diagnostic("linear_cka", reference.linear_cka, {}, (9, 2), differentiable=True),
    *(
        Diagnostic(
            "linear_cka",
            lambda a, b, w, unbiased: reference.unbiased_linear_cka(a, b),
            {"unbiased": True},
            widths,
            weighted=False,
            differentiable=True,
        )
        for widths in ((3, 5), (9, 2))
    ),
]
WEIGHTED = [diagnostic for diagnostic in EVERY if diagnostic.weighted]
ONE_EACH = list({diagnostic.name: diagnostic for diagnostic in EVERY}.values())
every = pytest.mark.parametrize("diagnostic", EVERY, ids=str)
every_weighted = pytest.mark.parametrize("diagnostic", WEIGHTED, ids=str)


def tensors(views, dtype=torch.float64):
    return [torch.tensor(view, dtype=dtype) for view in views]


def weights(lead=(), rows=7, seed=1):
    weight = np.random.default_rng(seed).uniform(0.2, 2.0, size=(*lead, rows))
    weight[..., 2] = 0.0
    return weight


def seeded(seed=0):
    return torch.Generator().manual_seed(seed)


# ------------------------------------------------------------------ values


@every
@pytest.mark.parametrize("rows", [5, 7, 12])
def test_value(diagnostic, rows):
    views = diagnostic.draw(rows, seed=rows)
    expected = diagnostic.expected(*views, np.ones(rows), **_known(diagnostic))
    assert_allclose(diagnostic(*tensors(views)), expected, **VALUE)


@every_weighted
@pytest.mark.parametrize("lead", [(), (3,), (2, 2)])
def test_value_with_weights(diagnostic, lead):
    views, weight = diagnostic.draw(lead=lead), weights(lead)
    found = diagnostic(*tensors(views), weight=torch.tensor(weight))
    for index in np.ndindex(lead):
        one, w = [view[index] for view in views], weight[index]
        some = w > 0
        some_views = [view[some] for view in one]
        expected = diagnostic.expected(*some_views, w[some], **_known(diagnostic))
        assert_allclose(found[index], expected, **VALUE)


def _known(diagnostic):
    """Return the options that the reference has, too."""
    return {
        name: option
        for name, option in diagnostic.options.items()
        if name not in ("num_permutations", "paired")
    }


@every
def test_leading_dimensions_are_independent_problems(diagnostic):
    views = tensors(diagnostic.draw(lead=(2, 3)))
    found = diagnostic(*views)
    assert found.shape[:2] == (2, 3)
    for index in np.ndindex(2, 3):
        one = diagnostic(*(view[index] for view in views))
        assert_allclose(found[index], one, **SAME)


# ------------------------------------------------------------------ weights


@every_weighted
def test_a_row_of_weight_zero_is_not_there(diagnostic):
    views, weight = tensors(diagnostic.draw()), torch.tensor(weights())
    some = weight > 0
    expected = diagnostic(*(view[some] for view in views), weight=weight[some])
    for rubbish in (torch.nan, torch.inf, 1e30):
        for view in views:
            view[~some] = rubbish
        assert_allclose(diagnostic(*views, weight=weight), expected, **SAME)


@every_weighted
@pytest.mark.parametrize("scale", [1e-12, 1e12])
def test_weights_have_no_scale(diagnostic, scale):
    views, weight = tensors(diagnostic.draw()), torch.tensor(weights())
    found = diagnostic(*views, weight=scale * weight)
    assert_allclose(found, diagnostic(*views, weight=weight), **VALUE)


@every_weighted
@pytest.mark.parametrize("dtype", [torch.bool, torch.int64, torch.float16])
def test_weights_of_any_real_dtype(diagnostic, dtype):
    views, weight = tensors(diagnostic.draw()), torch.tensor(weights()) > 0
    expected = diagnostic(*(view[weight] for view in views))
    assert_allclose(diagnostic(*views, weight=weight.to(dtype)), expected, **SAME)


@every_weighted
@pytest.mark.parametrize("present", [0, 1])
def test_without_two_rows_that_count(diagnostic, present):
    """Finite, and 0 but for what one row tells; one problem beside another."""
    views = tensors(diagnostic.draw(lead=(2,)))
    weight = torch.ones(2, 7)
    weight[0, present:] = 0.0
    views = [view.requires_grad_() for view in views]
    found = diagnostic(*views, weight=weight)
    assert found.isfinite().all()
    if present == 0 and found.is_floating_point():
        assert (found[0] == 0).all()
    alone = diagnostic(*(view[1] for view in views))
    assert_allclose(found[1].detach(), alone.detach(), **SAME)
    if diagnostic.differentiable:
        for grad in torch.autograd.grad(found.sum(), views):
            assert grad.isfinite().all()
            assert (grad[0, present:] == 0).all()


# ------------------------------------------------------------------ hard inputs

HARD = {
    "zeros": lambda z: 0 * z,
    "one row repeated": lambda z: z[:1].expand_as(z),
    "constant column": lambda z: torch.cat((z[:, :-1], 0 * z[:, -1:] + 5), 1),
    "zero row": lambda z: torch.cat((0 * z[:1], z[1:])),
    "duplicated rows": lambda z: z[[0, 1, 2, 3, 0, 1, 2]],
    "rank one": lambda z: z[:, :1] * z[:1],
    "mean of 1000": lambda z: z + 1000,
    "tiny": lambda z: 1e-6 * z,
    "huge": lambda z: 1e6 * z,
}


@every
@pytest.mark.parametrize("dtype", [torch.float64, torch.float32])
@pytest.mark.parametrize("kind", HARD)
def test_hard_inputs_are_finite(diagnostic, kind, dtype):
    """And so are gradients."""
    views = [HARD[kind](z) for z in tensors(diagnostic.draw(), dtype)]
    views = [z.requires_grad_() for z in views]
    found = diagnostic(*views)
    assert found.isfinite().all()
    if diagnostic.differentiable:
        for grad in torch.autograd.grad(found.sum(), views):
            assert grad.isfinite().all()


# ------------------------------------------------------------------ invariances


@every
def test_the_order_of_the_rows_does_not_matter(diagnostic):
    views, order = tensors(diagnostic.draw()), torch.randperm(7)
    permuted = [view[order] for view in views]
    assert_allclose(diagnostic(*permuted), diagnostic(*views), **VALUE)


# Under z → s·R(z) + shift: of all views together, or of each on its own; None if not.
INVARIANT = {
    "rank_me": {"rotation": "each", "scale": "each", "shift": None},
    "effective_rank": {"rotation": "each", "scale": "each", "shift": "each"},
    "alignment": {"rotation": "joint", "scale": "each", "shift": None},
    "uniformity": {"rotation": "joint", "scale": "each", "shift": None},
    "modality_gap": {"rotation": "joint", "scale": "each", "shift": None},
    "dead_dimensions": {"rotation": None, "scale": "each", "shift": "each"},
    "hinge_counts": {"rotation": None, "scale": None, "shift": "each"},
    "canonical_spectrum": {"rotation": "each", "scale": None, "shift": "each"},
    "linear_cka": {"rotation": "each", "scale": "each", "shift": "each"},
}


def _moved(kind, views, joint):
    if kind == "shift":
        return [view + 3.0 for view in views]
    if kind == "scale":
        return [(5 + k) * view for k, view in enumerate(views)]
    generator = seeded(5)
    turns = []
    for view in views:
        square = torch.randn(2 * view.shape[-1:], generator=generator).double()
        turns.append(torch.linalg.qr(square).Q)
    return [
        view @ (turns[0] if joint else turn)
        for view, turn in zip(views, turns, strict=True)
    ]


@every
@pytest.mark.parametrize("kind", ["rotation", "scale", "shift"])
def test_what_changes_nothing(diagnostic, kind):
    how = INVARIANT[diagnostic.name][kind]
    if diagnostic.options.get("normalize") is False:  # of rows of any length
        how = {"rotation": how, "scale": None, "shift": "joint"}[kind]
    if diagnostic.options.get("of") == "rows" and kind == "shift":
        how = None
    if diagnostic.options.get("ridge") == 0:
        how = "each"
    views = tensors(diagnostic.draw())
    moved = diagnostic(*_moved(kind, views, joint=how == "joint"))
    value = diagnostic(*views)
    if how is None:
        assert not np.allclose(moved, value)
    else:
        assert_allclose(moved, value, rtol=1e-8, atol=1e-10)


# ------------------------------------------------------------------ gradients


@every
def test_gradient_or_none(diagnostic):
    views = [z.requires_grad_() for z in tensors(diagnostic.draw(rows=5))]
    if diagnostic.differentiable:
        assert torch.autograd.gradcheck(diagnostic, views)
        assert torch.autograd.gradgradcheck(diagnostic, views)
    else:
        assert not diagnostic(*views).requires_grad


# ------------------------------------------------------------------ dtypes


@every
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16])
def test_dtype(diagnostic, dtype):
    """Computed in float32 at least, from what the 16 bits say."""
    views = tensors(diagnostic.draw(rows=12), dtype)
    found = diagnostic(*views)
    expected = diagnostic(*(view.double() for view in views))
    if not found.is_floating_point():
        assert torch.equal(found, expected)
        return
    assert found.dtype == torch.float32
    rounding = ROUNDING[torch.float32]
    assert_allclose(found, expected, rtol=rounding, atol=rounding)


@every
def test_float64_stays_float64(diagnostic):
    found = diagnostic(*tensors(diagnostic.draw()))
    assert found.dtype in (torch.float64, torch.bool)


@every
def test_autocast_changes_nothing(diagnostic):
    views = tensors(diagnostic.draw(), torch.float32)
    expected = diagnostic(*views)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        assert torch.equal(diagnostic(*views), expected)


# ------------------------------------------------------------------ torch.compile


@every
def test_compiles_into_one_graph(diagnostic):
    views = tensors(diagnostic.draw())
    torch._dynamo.reset()
    compiled = torch.compile(diagnostic, fullgraph=True, backend="aot_eager")
    assert_allclose(compiled(*views), diagnostic(*views), **SAME)


@pytest.mark.slow
@pytest.mark.skipif(
    shutil.which("g++") is None and shutil.which("clang++") is None,
    reason="inductor needs a C++ compiler",
)
@pytest.mark.filterwarnings("ignore")  # whatever the toolchain has to say
@pytest.mark.parametrize("diagnostic", ONE_EACH, ids=str)
def test_compiles_with_inductor(diagnostic):
    views = tensors(diagnostic.draw())
    torch._dynamo.reset()
    compiled = torch.compile(diagnostic, fullgraph=True)
    assert_allclose(compiled(*views), diagnostic(*views), **VALUE)


# ------------------------------------------------------------------ devices


@pytest.mark.cuda
@every
def test_cuda_equals_cpu(diagnostic):
    views = tensors(diagnostic.draw(12, lead=(2,)))
    found = diagnostic(*(view.cuda() for view in views))
    assert found.is_cuda
    expected = diagnostic(*views)
    assert_allclose(found.cpu(), expected, **VALUE)
