"""One row per loss: what the generic families of tests need to know about it.

Adding a loss costs a :class:`LossSpec` here, a reference under ``reference/``, and the
plain formula in ``benchmarks/plain.py`` that the precision tests measure against.
"""

from collections.abc import Callable

import numpy as np
import pytest

import grids
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
    soft_decorrelation,
    soft_info_nce,
    sup_con,
    vicreg,
)
from reference.gradient import five_point
from tolerances import GRADIENT_DIFFERENCES


def _fixed(options: dict) -> bool:
    """Whether no bandwidth is found by rule, hence held constant."""
    kernel = options.get("kernel", kernels.DEFAULT) or kernels.DEFAULT
    kernel = getattr(kernel, "kernel", kernel)
    members = getattr(kernel, "kernels", (kernel,))
    rules = (getattr(k, "bandwidth", 1.0) for k in members)
    return not any(isinstance(r, str) for r in rules) and not any(
        hasattr(k, "kernels") for k in members
    )


SPECS = (
    LossSpec(
        name="info_nce",
        module="InfoNCELoss",
        reference=info_nce.info_nce,
        cases=tuple(grids.info_nce()),
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
        cases=tuple(grids.nt_xent()),
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
        cases=tuple(grids.sigmoid_contrastive()),
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
        cases=tuple(grids.joint(sigma=(None, 0.5), intra_modal=(True, False))),
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
            grids.joint(
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
        cases=tuple(grids.positives()),
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
        cases=tuple(grids.targets()),
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
        cases=tuple(grids.labelled(variant=("out", "in"), intra_modal=(True, False))),
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
        cases=tuple(grids.labelled(margin=(0.0, 0.3), intra_modal=(True, False))),
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
        cases=tuple(grids.hetero_center()),
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
        cases=tuple(grids.hetero_center_triplet()),
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
        cases=tuple(grids.cross_modality_contrastive_center()),
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
        cases=tuple(grids.similarity_preservation()),
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
        cases=tuple(grids.coral()),
        naive=plain.coral,
        terms=(coral.coral_terms, ("scale", "metric", "ridge")),
        weights=("weight_a", "weight_b"),
        paired=False,
        unequal_rows=True,
        zero_when_equal=True,
        shift="separate",
        rotation="joint",
        scale=4.0,
        twice=lambda options: options.get("metric") not in ("log_euclidean", "bures"),
    ),
    LossSpec(
        name="mmd",
        module="MMDLoss",
        reference=mmd.mmd,
        cases=tuple(grids.mmd()),
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
        cases=tuple(grids.barlow_twins()),
        naive=plain.barlow_twins,
        terms=(barlow_twins.barlow_twins_terms, ("eps", "convention", "scale")),
        bounds=lambda rows, dim: (0.0, 4 * dim + 5e-3 * dim * (dim - 1)),
        shift="separate",
        scale=0.0,
    ),
    LossSpec(
        name="vicreg",
        module="VICRegLoss",
        reference=vicreg.vicreg,
        cases=tuple(grids.vicreg()),
        naive=plain.vicreg,
        terms=(vicreg.vicreg_terms, ("target_std", "eps", "convention")),
        shift="joint",
    ),
    LossSpec(
        name="soft_decorrelation",
        module="SoftDecorrelationLoss",
        reference=soft_decorrelation.soft_decorrelation,
        cases=tuple(grids.soft_decorrelation()),
        naive=plain.soft_decorrelation,
        weights=("weight_a", "weight_b"),
        paired=False,
        unequal_rows=True,
        unequal_dims=True,
        bounds=lambda rows, dim: (0.0, 2.0 * dim * (dim - 1)),
        shift="separate",
        scale=0.0,
    ),
    LossSpec(
        name="dcca",
        module="DCCALoss",
        reference=dcca.dcca,
        cases=tuple(grids.dcca()),
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
