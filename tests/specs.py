"""One row per loss: what the generic families of tests need to know about it.

Adding a loss costs a :class:`LossSpec` here, a reference under ``reference/``, and the
plain formula in ``benchmarks/plain.py`` that the precision tests measure against.
"""

from collections.abc import Callable, Iterator
from dataclasses import replace
from itertools import product

import numpy as np
import pytest

from benchmarks import plain
from harness import Case, LossSpec, label
from reference import (
    barlow_twins,
    coral,
    cross_modality_contrastive_center,
    dcca,
    debiased,
    decoupled,
    hetero_center,
    hetero_center_triplet,
    info_nce,
    info_nce_terms,
    kernels,
    mil_nce,
    mmd,
    nt_xent,
    sigmoid_contrastive,
    similarity_preservation,
    sincere,
    soft_info_nce,
    sup_con,
    vicreg,
)
from reference.gradient import five_point
from tolerances import GRADIENT_DIFFERENCES


def _grid(**axes: tuple) -> Iterator[dict]:
    for values in product(*axes.values()):
        yield dict(zip(axes, values, strict=True))


# --------------------------------------------------------------------------------------
# The grids
# --------------------------------------------------------------------------------------


def _info_nce_cases() -> Iterator[Case]:
    chunks = [None, 1, 3, 100]
    grid = _grid(
        negatives=("group", "all", "cross"),
        symmetric=(True, False),
        normalize=(True, False),
        exclude=(False, True),
        weighted=(False, True),
    )
    for count, axes in enumerate(grid):
        extra = {name: axes.pop(name) for name in ("exclude", "weighted")}
        temperature = 0.2 if axes["normalize"] else 0.8
        axes |= {"temperature": temperature, "chunk_size": chunks[count % 4]}
        yield Case(axes, (4, 4), (3, 3), (3,), **extra)
    told = _grid(
        negatives=("group", "all", "cross"),
        symmetric=(True, False),
        masks=(("ids",), ("positions",), ("weighted", "exclude", "ids", "positions")),
    )
    for count, axes in enumerate(told):
        flags = dict.fromkeys(axes.pop("masks"), True)
        radius = {"exclude_radius": 0.3} if "positions" in flags else {}
        axes |= {"temperature": 0.3, "chunk_size": chunks[count % 4], **radius}
        yield Case(axes, (4, 4), (3, 3), (3,), **flags)
    yield Case()
    yield Case({"temperature": 0.07}, (5, 5), (3, 3), (2, 2), True)
    yield Case({"negatives": "all", "chunk_size": 4}, (3, 3), (2, 2), (2, 2), True)
    yield Case({"negatives": "cross", "chunk_size": 2}, (3, 3), (2, 2), (2, 2))
    yield Case({"negatives": "all", "chunk_size": 2}, (6, 6))
    yield Case({"negatives": "cross"}, (1, 1), (3, 3), (4,))
    yield Case({}, (1, 1), (3, 3))


def _nt_xent_cases() -> Iterator[Case]:
    chunks = [None, 1, 3, 100]
    grid = _grid(
        normalize=(True, False),
        masks=((), ("ids",), ("positions",), ("weighted", "ids", "positions")),
        temperature=(0.2, 0.8),
    )
    for count, axes in enumerate(grid):
        flags = dict.fromkeys(axes.pop("masks"), True)
        radius = {"exclude_radius": 0.3} if "positions" in flags else {}
        axes |= {"chunk_size": chunks[count % 4], **radius}
        yield Case(axes, (4, 4), (3, 3), (2,), **flags)
    yield Case({"temperature": 0.07}, (5, 5), (3, 3), (2, 2), True)
    yield Case({"chunk_size": 2}, (6, 6))
    yield Case({}, (1, 1), (3, 3))


def _joint_cases(**options: tuple) -> Iterator[Case]:
    chunks = [None, 1, 3, 100]
    masks = ((), ("ids",), ("positions",), ("weighted", "ids", "positions"))
    for count, axes in enumerate(_grid(masks=masks, **options)):
        flags = dict.fromkeys(axes.pop("masks"), True)
        radius = {"exclude_radius": 0.3} if "positions" in flags else {}
        size = {"temperature": 0.2} if count % 3 else {"normalize": False}
        axes |= {"chunk_size": chunks[count % 4], "temperature": 0.8, **size, **radius}
        yield Case(axes, (4, 4), (3, 3), (2,) * (count % 2), **flags)
    for axes in _grid(**options):
        yield Case(axes)
        yield Case(axes, (5, 5), (3, 3), (2, 2), True)
        yield Case(axes, (1, 1), (3, 3))


def _sigmoid_contrastive_cases() -> Iterator[Case]:
    chunks = [None, 1, 3, 100]
    grid = _grid(
        negatives=("group", "all", "cross"),
        normalize=(True, False),
        masks=((), ("exclude",), ("ids",), ("weighted", "exclude", "ids", "positions")),
    )
    for count, axes in enumerate(grid):
        flags = dict.fromkeys(axes.pop("masks"), True)
        radius = {"exclude_radius": 0.3} if "positions" in flags else {}
        size = {"scale": 4.0, "bias": -3.0} if axes["normalize"] else {"scale": 1.5}
        axes |= {"chunk_size": chunks[count % 4], **size, **radius}
        yield Case(axes, (4, 4), (3, 3), (3,), **flags)
    yield Case()
    yield Case({"bias": 0.0}, (5, 5), (3, 3), (2, 2), True)
    yield Case({"negatives": "cross", "chunk_size": 2}, (3, 3), (2, 2), (2, 2))
    yield Case({}, (1, 1), (3, 3))


def _positives_cases() -> Iterator[Case]:
    chunks = [None, 1, 3, 100]
    grid = _grid(
        negatives=("group", "all", "cross"),
        symmetric=(True, False),
        masks=(
            ("ids",),
            ("positions",),
            ("exclude", "ids"),
            ("weighted", "exclude", "ids", "positions"),
        ),
    )
    for count, axes in enumerate(grid):
        flags = dict.fromkeys(axes.pop("masks"), True)
        radii: tuple[dict, ...] = ({},)
        if "positions" in flags:
            radii = ({"jitter": 0.3}, {"jitter": 0.2, "exclude_radius": 0.5})
        size = {"temperature": 0.3} if count % 3 else {"normalize": False}
        axes |= {"chunk_size": chunks[count % 4], "temperature": 0.8, **size}
        for radius in radii:
            yield Case(axes | radius, (4, 4), (3, 3), (3,), **flags)
    yield Case()
    yield Case({"temperature": 0.2}, (7, 7), (3, 3), ids=True)
    radius = {"jitter": 0.3, "chunk_size": 3}
    yield Case(radius, (7, 7), (3, 3), positions=True)
    yield Case({}, (4, 4), (3, 3), (2, 2), True, ids=True)
    yield Case({}, (1, 1), (3, 3))


def _targets_cases() -> Iterator[Case]:
    for count, case in enumerate(_positives_cases()):
        options = dict(case.options)
        if "jitter" in options and case.weighted:
            options["spread"] = 0.2
        smoothing = {"label_smoothing": 0.1}
        yield replace(case, options=options | (smoothing if count % 2 else {}))
        if not case.positions:
            some = options | ({} if count % 2 else smoothing)
            yield replace(case, options=some, targets=True)


def _labelled_cases(**options: tuple) -> Iterator[Case]:
    chunks = [None, 1, 3, 100]
    grid = _grid(normalize=(True, False), temperature=(0.2, 0.8), **options)
    for count, axes in enumerate(grid):
        axes |= {"chunk_size": chunks[count % 4]}
        yield Case(axes, (5, 4), (3, 3), (2,) * (count % 2), bool(count % 3))
    for axes in _grid(**options):
        yield Case(axes)
        yield Case(axes, (4, 4), (3, 3), (2, 2), True)
        yield Case(axes, (1, 1), (3, 3), (3,))


def _hetero_center_cases() -> Iterator[Case]:
    for count, margin in enumerate((0.0, 0.3)):
        yield Case({"margin": margin})
        yield Case({"margin": margin}, (7, 5), (3, 3), weighted=True)
        yield Case({"margin": margin}, (6, 6), (3, 3), (2, 2), bool(count))
    yield Case({}, (1, 1), (2, 2), (3,))
    yield Case({}, (4, 4), (2, 2), (5,), True)


def _hetero_center_triplet_cases() -> Iterator[Case]:
    for count, margin in enumerate((0.3, 0.0, 2.0)):
        yield Case({"margin": margin}, (8, 8))
        yield Case({"margin": margin}, (9, 7), (3, 3), weighted=True)
        yield Case({"margin": margin}, (8, 6), (3, 3), (2, 2), bool(count))
    yield Case({}, (1, 1), (2, 2), (3,))
    yield Case({}, (4, 4), (2, 2), (5,), True)


def _cross_modality_contrastive_center_cases() -> Iterator[Case]:
    yield Case({}, (8, 8))
    yield Case({}, (9, 7), (3, 3), weighted=True)
    yield Case({}, (8, 6), (3, 3), (2, 2))
    yield Case({}, (1, 1), (2, 2), (3,))
    yield Case({}, (4, 4), (2, 2), (5,), True)


def _similarity_preservation_cases() -> Iterator[Case]:
    chunks = [None, 1, 3, 100]
    grid = _grid(gamma=(0.0, 0.7, 1.0, 2.0), detach_target=(True, False))
    for count, axes in enumerate(grid):
        for turn in range(2):
            axes = axes | {"chunk_size": chunks[(count + count // 4 + 2 * turn) % 4]}
            yield Case(axes, (5, 5), (3, 3), (2,) * (count % 2), bool(turn))
    yield Case()
    yield Case({"chunk_size": 2}, (4, 4), (6, 6), (2, 2), True)
    yield Case({}, (1, 1), (3, 3))


def _mmd_cases() -> Iterator[Case]:
    estimators = ("biased", "unbiased", "paired", "linear")
    single = [
        kernels.GaussianKernel(1.3),
        kernels.GaussianKernel("mean"),
        kernels.GaussianKernel("median", factor=0.5),
        kernels.LaplacianKernel(1.3),
        kernels.LaplacianKernel("mean", norm=1),
        kernels.InverseMultiquadricKernel("median"),
        kernels.RationalQuadraticKernel(0.9, alpha=0.7),
        kernels.RationalQuadraticKernel("mean"),
        kernels.MaternKernel(1.1, nu=0.5),
        kernels.MaternKernel("mean", factor=2.0),
        kernels.MaternKernel("median", nu=2.5),
        kernels.PolynomialKernel(),
        kernels.PolynomialKernel(2, 0.5, 0.3),
        kernels.LinearKernel(),
        kernels.EnergyKernel(),
    ]
    mixture = kernels.MultiKernel(
        (kernels.GaussianKernel("median"), kernels.EnergyKernel()), (0.7, 0.2)
    )
    mean = kernels.MultiKernel(
        (kernels.GaussianKernel(0.8), kernels.LaplacianKernel("mean"))
    )
    nested = kernels.MultiKernel((mean, kernels.MaternKernel(2.0)))
    for kernel, estimator in product(
        (*single, None, mixture, mean, nested), estimators
    ):
        options = {"kernel": kernel, "estimator": estimator}
        yield Case(options, (5, 5), (3, 3))
        if estimator != "linear":
            unequal = (5, 4) if estimator != "paired" else (5, 5)
            yield Case(options, unequal, (3, 3), (2,), True)
            yield Case(options | {"chunk_size": 2}, unequal, (3, 3), (2,), True)
            yield Case(options | {"chunk_size": 3}, unequal, (3, 3))
    yield Case({"estimator": "biased"}, (4, 3), (2, 2), (2, 2))
    yield Case({"estimator": "unbiased"}, (4, 3), (2, 2), (2, 2))
    yield Case({"estimator": "paired"}, (4, 4), (2, 2), (2, 2))
    yield Case({"estimator": "linear"}, (4, 4), (2, 2), (2, 2))
    yield Case({}, (1, 3), (2, 2))


def _coral_cases() -> Iterator[Case]:
    for mean_weight, weighted, lead in product((0.0, 0.7), (False, True), ((), (2,))):
        yield Case({"mean_weight": mean_weight}, (6, 4), (3, 3), lead, weighted)
    yield Case({"mean_weight": 1.0}, (3, 3), (5, 5), (2, 2), True)
    yield Case({}, (3, 2), (7, 7))


def _barlow_twins_cases() -> Iterator[Case]:
    for eps, redundancy, weighted, lead in product(
        (0.0, 0.1), (5e-3, 0.8), (False, True), ((), (2,))
    ):
        options = {"eps": eps, "redundancy_weight": redundancy}
        yield Case(options, lead=lead, weighted=weighted)
    yield Case({}, (4, 4), (6, 6))
    yield Case({"eps": 1e-5}, (4, 4), (6, 6), (2, 2), True)


def _vicreg_cases() -> Iterator[Case]:
    conventions = ("official", "algorithm1", "paper")
    for convention, weighted, lead in product(conventions, (False, True), ((), (2,))):
        yield Case({"convention": convention}, lead=lead, weighted=weighted)
        options = {
            "convention": convention,
            "invariance_weight": 3.0,
            "variance_weight": 2.0,
            "covariance_weight": 0.5,
            "target_std": 2.0,
            "eps": 0.01,
        }
        yield Case(options, lead=lead, weighted=weighted)
    yield Case({}, (4, 4), (6, 6), (2, 2), True)


def _dcca_cases() -> Iterator[Case]:
    for objective, components, ridge, weighted in product(
        ("trace", "frobenius"), (None, 1, 2), (0.0, 1e-4, 0.3), (False, True)
    ):
        options = {
            "objective": objective,
            "num_components": components,
            "ridge": ridge,
        }
        dims = (3, 2) if components == 1 else (3, 3)
        yield Case(options, (8, 8), dims, weighted=weighted)
    yield Case({}, (8, 8), (2, 3), (2,), True)
    yield Case({"objective": "frobenius"}, (8, 8), (3, 2), (2, 2), True)
    yield Case({"ridge": 0.1}, (4, 4), (6, 6))
    yield Case({"ridge": 0.1, "objective": "frobenius"}, (4, 4), (6, 5), (2,))


def _fixed(options: dict) -> bool:
    """Whether no bandwidth is found by rule, hence held constant."""
    kernel = options.get("kernel", kernels.DEFAULT) or kernels.DEFAULT
    members = getattr(kernel, "kernels", (kernel,))
    rules = (getattr(k, "bandwidth", 1.0) for k in members)
    return not any(isinstance(r, str) for r in rules) and not any(
        hasattr(k, "kernels") for k in members
    )


# --------------------------------------------------------------------------------------
# The table
# --------------------------------------------------------------------------------------

SPECS = (
    LossSpec(
        name="info_nce",
        module="InfoNCELoss",
        reference=info_nce.info_nce,
        cases=tuple(_info_nce_cases()),
        naive=plain.info_nce,
        terms=(
            info_nce_terms.info_nce_terms,
            ("temperature", "normalize", "negatives", "exclude_radius", "chunk_size"),
        ),
        joint=lambda options: options.get("negatives", "group") != "group",
        per_row=True,
        bounds=lambda rows, dim: (0.0, np.log(rows) + 2 / 0.07),
        rotation="joint",
        scale=0.0,
    ),
    LossSpec(
        name="nt_xent",
        module="NTXentLoss",
        reference=nt_xent.nt_xent,
        cases=tuple(_nt_xent_cases()),
        naive=plain.nt_xent,
        per_row=True,
        bounds=lambda rows, dim: (0.0, np.log(2 * rows) + 2 / 0.07),
        rotation="joint",
        scale=0.0,
    ),
    LossSpec(
        name="sigmoid_contrastive",
        module="SigmoidContrastiveLoss",
        reference=sigmoid_contrastive.sigmoid_contrastive,
        cases=tuple(_sigmoid_contrastive_cases()),
        naive=plain.sigmoid_contrastive,
        joint=lambda options: options.get("negatives", "group") != "group",
        per_row=True,
        bounds=lambda rows, dim: (0.0, 21.0 + rows),
        rotation="joint",
        scale=0.0,
    ),
    LossSpec(
        name="decoupled",
        module="DecoupledContrastiveLoss",
        reference=decoupled.decoupled,
        cases=tuple(_joint_cases(sigma=(None, 0.5), intra_modal=(True, False))),
        naive=plain.decoupled,
        per_row=True,
        bounds=lambda rows, dim: (-2 / 0.07, np.log(2 * rows) + 2 / 0.07),
        rotation="joint",
        scale=0.0,
        # The weights are constants to the gradient.
        smooth=lambda options: options.get("sigma") is None,
    ),
    LossSpec(
        name="debiased",
        module="DebiasedContrastiveLoss",
        reference=debiased.debiased,
        cases=tuple(
            _joint_cases(
                false_negatives=(0.0, 0.1),
                hardness=(0.0, 0.5),
                intra_modal=(True, False),
            )
        ),
        naive=plain.debiased,
        per_row=True,
        bounds=lambda rows, dim: (0.0, np.log(2 * rows / 0.9) + 2 / 0.07),
        rotation="joint",
        scale=0.0,
    ),
    LossSpec(
        name="mil_nce",
        module="MILNCELoss",
        reference=mil_nce.mil_nce,
        cases=tuple(_positives_cases()),
        naive=plain.mil_nce,
        joint=lambda options: options.get("negatives", "group") != "group",
        per_row=True,
        bounds=lambda rows, dim: (0.0, np.log(rows) + 2 / 0.07),
        rotation="joint",
        scale=0.0,
    ),
    LossSpec(
        name="soft_info_nce",
        module="SoftInfoNCELoss",
        reference=soft_info_nce.soft_info_nce,
        cases=tuple(_targets_cases()),
        naive=plain.soft_info_nce,
        joint=lambda options: options.get("negatives", "group") != "group",
        per_row=True,
        bounds=lambda rows, dim: (0.0, np.log(rows) + 2 / 0.07),
        rotation="joint",
        scale=0.0,
    ),
    LossSpec(
        name="sup_con",
        module="SupConLoss",
        reference=sup_con.sup_con,
        cases=tuple(_labelled_cases(variant=("out", "in"))),
        naive=plain.sup_con,
        weights=("weight_a", "weight_b"),
        labels=True,
        paired=False,
        unequal_rows=True,
        per_row=True,
        bounds=lambda rows, dim: (0.0, np.log(2 * rows) + 2 / 0.07),
        rotation="joint",
        scale=0.0,
    ),
    LossSpec(
        name="sincere",
        module="SINCERELoss",
        reference=sincere.sincere,
        cases=tuple(_labelled_cases(margin=(0.0, 0.3))),
        naive=plain.sincere,
        weights=("weight_a", "weight_b"),
        labels=True,
        paired=False,
        unequal_rows=True,
        per_row=True,
        bounds=lambda rows, dim: (0.0, np.log(2 * rows) + 2 / 0.07),
        rotation="joint",
        scale=0.0,
    ),
    LossSpec(
        name="hetero_center",
        module="HeteroCenterLoss",
        reference=hetero_center.hetero_center,
        cases=tuple(_hetero_center_cases()),
        naive=plain.hetero_center,
        weights=("weight_a", "weight_b"),
        labels=True,
        paired=False,
        unequal_rows=True,
        shift="joint",
        rotation="joint",
        scale=2.0,
    ),
    LossSpec(
        name="hetero_center_triplet",
        module="HeteroCenterTripletLoss",
        reference=hetero_center_triplet.hetero_center_triplet,
        cases=tuple(_hetero_center_triplet_cases()),
        naive=plain.hetero_center_triplet,
        weights=("weight_a", "weight_b"),
        labels=True,
        paired=False,
        unequal_rows=True,
        shift="joint",
        rotation="joint",
        scale=1.0,
        generic={"margin": 0.0},
    ),
    LossSpec(
        name="cross_modality_contrastive_center",
        module="CrossModalityContrastiveCenterLoss",
        reference=cross_modality_contrastive_center.cross_modality_contrastive_center,
        cases=tuple(_cross_modality_contrastive_center_cases()),
        naive=plain.cross_modality_contrastive_center,
        weights=("weight_a", "weight_b"),
        labels=True,
        paired=False,
        unequal_rows=True,
        shift="joint",
        rotation="joint",
    ),
    LossSpec(
        name="similarity_preservation",
        module="SimilarityPreservationLoss",
        reference=similarity_preservation.similarity_preservation,
        cases=tuple(_similarity_preservation_cases()),
        naive=plain.similarity_preservation,
        bounds=lambda rows, dim: (0.0, 4.0),
        zero_when_equal=True,
        rotation="joint",
        scale=0.0,
        smooth=lambda options: options.get("detach_target") is False,
    ),
    LossSpec(
        name="coral",
        module="CORALLoss",
        reference=coral.coral,
        cases=tuple(_coral_cases()),
        naive=plain.coral,
        terms=(coral.coral_terms, ()),
        weights=("weight_a", "weight_b"),
        paired=False,
        unequal_rows=True,
        zero_when_equal=True,
        shift="separate",
        rotation="joint",
        scale=4.0,
    ),
    LossSpec(
        name="mmd",
        module="MMDLoss",
        reference=mmd.mmd,
        cases=tuple(_mmd_cases()),
        naive=plain.mmd,
        weights=("weight_a", "weight_b"),
        paired=False,
        unequal_rows=True,
        bounds=lambda rows, dim: (0.0, 2.0),
        zero_when_equal=True,
        shift="joint",
        rotation="joint",
        scale=0.0,
        smooth=_fixed,
    ),
    LossSpec(
        name="barlow_twins",
        module="BarlowTwinsLoss",
        reference=barlow_twins.barlow_twins,
        cases=tuple(_barlow_twins_cases()),
        naive=plain.barlow_twins,
        terms=(barlow_twins.barlow_twins_terms, ("eps",)),
        bounds=lambda rows, dim: (0.0, 4 * dim + 5e-3 * dim * (dim - 1)),
        shift="separate",
        scale=0.0,
    ),
    LossSpec(
        name="vicreg",
        module="VICRegLoss",
        reference=vicreg.vicreg,
        cases=tuple(_vicreg_cases()),
        naive=plain.vicreg,
        terms=(vicreg.vicreg_terms, ("target_std", "eps", "convention")),
        shift="joint",
    ),
    LossSpec(
        name="dcca",
        module="DCCALoss",
        reference=dcca.dcca,
        cases=tuple(_dcca_cases()),
        naive=plain.dcca,
        gradient=five_point,
        gradient_tolerance=GRADIENT_DIFFERENCES,
        unequal_dims=True,
        bounds=lambda rows, dim: (-dim, 0.0),
        shift="separate",
        rotation="separate",
        twice=lambda options: (
            options.get("objective") == "frobenius"
            and options.get("num_components") is None
        ),
    ),
)

BY_NAME = {spec.name: spec for spec in SPECS}

#: Losses of centres: there is one way in which rows go to other ranks.
HAVE_NO_CHOICE = (
    "hetero_center",
    "hetero_center_triplet",
    "cross_modality_contrastive_center",
)

each_loss = pytest.mark.parametrize("spec", SPECS, ids=lambda spec: spec.name)


def each_case(
    keep: Callable[[LossSpec, Case], bool] = lambda spec, case: True,
    bare: bool = False,
) -> pytest.MarkDecorator:
    """Parametrize a test by (spec, case); ``bare`` keeps one case per set of options.

    A bare case has no leading dimensions, weights or masks.
    """
    rows, seen = [], set()
    for spec in SPECS:
        for case in spec.cases:
            if bare:
                case = _bare(case)
            key = f"{spec.name}-{case}"
            if key not in seen and keep(spec, case):
                seen.add(key)
                rows.append(pytest.param(spec, case, id=key))
    return pytest.mark.parametrize(("spec", "case"), rows)


def _bare(case: Case) -> Case:
    options = dict(case.options)
    for name in ("exclude_radius", "jitter", "spread"):  # which go with positions
        options.pop(name, None)
    return Case(options, case.rows, case.dims)


def covering(spec: LossSpec) -> list[Case]:
    """Return few bare cases in which every value of every option occurs."""
    seen: set[tuple[str, str]] = set()
    chosen = []
    for case in map(_bare, spec.cases):
        pairs = {(name, label(value)) for name, value in case.options.items()}
        if not pairs or pairs - seen:
            seen |= pairs
            chosen.append(Case(case.options, dims=case.dims))
    return chosen


def each_covering_case() -> pytest.MarkDecorator:
    """Parametrize a test by (spec, case), every option value at least once."""
    unique = {
        f"{spec.name}-{case}": (spec, case) for spec in SPECS for case in covering(spec)
    }
    rows = [pytest.param(*pair, id=key) for key, pair in unique.items()]
    return pytest.mark.parametrize(("spec", "case"), rows)
