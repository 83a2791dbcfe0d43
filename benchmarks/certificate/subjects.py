"""Who is looked at: every loss, its plain formula, and the peers that compute the same.

Each entrant has the truth it is compared with. A peer of another convention is beside
the library's spelling of that convention.
"""

import warnings
from collections.abc import Callable
from dataclasses import dataclass, replace
from functools import partial
from typing import Any

import torch
from torch import Tensor

import xmodal_losses.functional as F
from benchmarks import plain
from benchmarks.certificate import truths_of_centers as centers
from benchmarks.certificate import truths_of_moments as moments
from benchmarks.certificate import truths_of_pairs as pairs
from benchmarks.contestants import LIBRARY, PLAIN
from benchmarks.peers import PEERS, Contestant

__all__ = ["SUBJECTS", "Entrant", "Subject", "entrants"]

Truth = Callable[..., Any]
Called = Callable[..., Tensor]


@dataclass(frozen=True)
class Entrant:
    """A way to compute a loss.

    Attributes:
        name: Its name in tables.
        call: Takes the inputs by name.
        truth: What it should return, times `factor`.
        factor: Of the value.
        beside: The entrant of the library that computes the same.
        how: Where the code comes from.
        note: What differs from the defaults of the library.
        dtypes: In which it is tried, all if empty.
        absent: Why it is not.
    """

    name: str
    call: Called
    truth: Truth
    factor: float = 1.0
    beside: str = LIBRARY
    how: str = ""
    note: str = ""
    dtypes: tuple[str, ...] = ()
    absent: str = ""


@dataclass(frozen=True)
class Subject:
    """A loss.

    Attributes:
        name: The function.
        layout: Of its inputs.
        truth: Takes them by name.
        ours: The library's call.
        plain: The plain formula.
    """

    name: str
    layout: str
    truth: Truth
    ours: Called
    plain: Called


def _subject(
    name: str, layout: str, truth: Truth, /, views: bool = False, **options: Any
) -> Subject:
    ours = partial(getattr(F, name), **options)
    formula = getattr(plain, name)
    kept = {k: v for k, v in options.items() if k in ("label_smoothing", *_TWO)}
    theirs: Called = partial(formula, **kept)
    if views:
        return Subject(name, layout, truth, _of_list(ours), _of_list(theirs))
    return Subject(name, layout, truth, ours, theirs)


def _of_list(loss: Called) -> Called:
    return lambda **views: loss(list(views.values()))


_TWO = {"num_components": 2}

SUBJECTS = {
    subject.name: subject
    for subject in (
        _subject("info_nce", "pairs", pairs.info_nce),
        _subject("nt_xent", "pairs", pairs.nt_xent),
        _subject("sigmoid_contrastive", "pairs", pairs.sigmoid_contrastive),
        _subject("decoupled", "pairs", pairs.decoupled),
        _subject("debiased", "pairs", pairs.debiased),
        _subject("mil_nce", "bags", pairs.mil_nce),
        _subject("soft_info_nce", "pairs", pairs.soft_info_nce, label_smoothing=0.1),
        _subject("sup_con", "labelled", pairs.sup_con),
        _subject("sincere", "labelled", pairs.sincere),
        _subject("contrastive_center", "centers", centers.contrastive_center),
        _subject("hetero_center", "classes", centers.hetero_center),
        _subject("hetero_center_triplet", "classes", centers.hetero_center_triplet),
        _subject(
            "cross_modality_contrastive_center",
            "classes",
            centers.cross_modality_contrastive_center,
        ),
        _subject("similarity_preservation", "pairs", pairs.similarity_preservation),
        _subject("coral", "clouds", moments.coral),
        _subject("mmd", "clouds", moments.mmd),
        _subject("barlow_twins", "clouds", moments.barlow_twins),
        _subject("vicreg", "large clouds", moments.vicreg),
        _subject("vicreg_local", "places", moments.vicreg_local),
        _subject("soft_decorrelation", "clouds", moments.soft_decorrelation),
        _subject("dcca", "clouds", moments.dcca),
        _subject("mcca", "views", moments.mcca, views=True),
        _subject("dgcca", "views", moments.dgcca, views=True, **_TWO),
        _subject(
            "noise_regularization", "data and noise", moments.noise_regularization
        ),
        _subject(
            "eckart_young", "views at the least", moments.eckart_young, views=True
        ),
    )
}

# What is not the default of the library: the truth, and what it is multiplied by.
_OFFICIAL = partial(moments.barlow_twins, eps=1e-5, redundancy_weight=0.0051)
_WITH_EPS = partial(moments.barlow_twins, eps=1e-5)
_FROBENIUS = partial(moments.dcca, objective="frobenius")
CONVENTIONS: dict[tuple[str, str], tuple[Truth, float]] = {
    ("coral", "TLL"): (partial(moments.coral, mean_weight=0.25), 4.0),
    ("mmd", "copied snippet"): (moments.mmd, 5.0),
    ("mmd", "geomloss"): (moments.mmd, 0.5),
    ("mmd", "TLL MK-MMD"): (moments.tll_mmd, 1.0),
    ("mmd", "pytorch-adapt"): (
        partial(moments.mmd, estimator="unbiased", rule="median of a"),
        1.0,
    ),
    ("barlow_twins", "official"): (_OFFICIAL, 1.0),
    ("barlow_twins", "lightly"): (_WITH_EPS, 1.0),
    ("barlow_twins", "solo-learn"): (_WITH_EPS, 0.025),
    ("vicreg", "solo-learn"): (partial(moments.vicreg, variance_weight=50.0), 1.0),
    ("dcca", "cca_zoo"): (_FROBENIUS, 1.0),
    ("dcca", "cca_zoo, float64"): (_FROBENIUS, 1.0),
}
#: Scaled by the adapter, in the dtype of the inputs, which is not for it to answer for.
_WIDE_ONLY = {"geomloss": ("float64", "float32")}


def entrants(subject: Subject) -> list[Entrant]:
    """Return the library, the plain formula, and the peers."""
    ours = Entrant(LIBRARY, subject.ours, subject.truth, how="this library")
    out = [
        ours,
        replace(ours, name=PLAIN, call=subject.plain, how="plain.py"),
    ]
    for peer in PEERS:
        if peer.loss == subject.name:
            out += _of_peer(peer, ours)
    return out


def _of_peer(peer: Contestant, ours: Entrant) -> list[Entrant]:
    """Return a peer, after the library's spelling of the same if there is need."""
    truth, factor = CONVENTIONS.get((peer.loss, peer.name), (ours.truth, 1.0))
    entrant = Entrant(
        peer.name,
        _missing,
        truth,
        factor,
        how=peer.how(),
        note=peer.note,
        dtypes=_WIDE_ONLY.get(peer.name, ()),
    )
    if peer.differs:
        return [replace(entrant, absent=f"another loss: {peer.differs}")]
    if peer.compiles:
        return [replace(entrant, absent="compiles for each size")]
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            loss = peer.build()
    except ImportError as error:
        return [replace(entrant, absent=str(error))]
    entrant = replace(entrant, call=_of_two(loss))
    if peer.ours is None or truth is ours.truth:
        return [entrant]
    name = f"{LIBRARY}, as {peer.name}"
    spelled = replace(entrant, name=name, call=_of_two(peer.ours), how="this library")
    return [spelled, replace(entrant, beside=name)]


def _missing(**inputs: Tensor) -> Tensor:
    raise NotImplementedError


def _of_two(loss: Callable[[Tensor, Tensor], Tensor]) -> Called:
    return lambda z_a, z_b: loss(z_a, z_b)


def agrees(error: float, dtype: torch.dtype) -> bool:
    """Return whether what an entrant computes is the truth, as errors of it go."""
    return error < (1e-6 if dtype == torch.float64 else 1e-4)
