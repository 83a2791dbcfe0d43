"""What embeddings look like: their rank, their spread, the gap between modalities."""

from xmodal_losses.diagnostics.canonical import CanonicalSpectrum, canonical_spectrum
from xmodal_losses.diagnostics.cka import linear_cka
from xmodal_losses.diagnostics.dimensions import (
    DimensionCount,
    dead_dimensions,
    hinge_counts,
)
from xmodal_losses.diagnostics.floor import (
    barlow_twins_floor,
    vicreg_floor,
    welch_floor,
)
from xmodal_losses.diagnostics.gap import ModalityGap, modality_gap
from xmodal_losses.diagnostics.hypersphere import alignment, uniformity
from xmodal_losses.diagnostics.rank import effective_rank, rank_me

__all__ = [
    "CanonicalSpectrum",
    "DimensionCount",
    "ModalityGap",
    "alignment",
    "barlow_twins_floor",
    "canonical_spectrum",
    "dead_dimensions",
    "effective_rank",
    "hinge_counts",
    "linear_cka",
    "modality_gap",
    "rank_me",
    "uniformity",
    "vicreg_floor",
    "welch_floor",
]
