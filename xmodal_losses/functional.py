"""The losses as functions of tensors. Every one is a quantity to minimise."""

from xmodal_losses.contrastive.info_nce import (
    InfoNCETerms,
    info_nce,
    info_nce_terms,
)
from xmodal_losses.contrastive.nt_xent import nt_xent
from xmodal_losses.contrastive.sigmoid import sigmoid_contrastive
from xmodal_losses.correlation.dcca import dcca
from xmodal_losses.distribution.coral import CORALTerms, coral, coral_terms
from xmodal_losses.distribution.mmd import mmd
from xmodal_losses.redundancy.barlow_twins import (
    BarlowTwinsTerms,
    barlow_twins,
    barlow_twins_terms,
)
from xmodal_losses.redundancy.vicreg import VICRegTerms, vicreg, vicreg_terms

__all__ = [
    "BarlowTwinsTerms",
    "CORALTerms",
    "InfoNCETerms",
    "VICRegTerms",
    "barlow_twins",
    "barlow_twins_terms",
    "coral",
    "coral_terms",
    "dcca",
    "info_nce",
    "info_nce_terms",
    "mmd",
    "nt_xent",
    "sigmoid_contrastive",
    "vicreg",
    "vicreg_terms",
]
