"""The losses as functions of tensors. Every one is a quantity to minimise."""

from xmodal_losses.contrastive.contrastive_center import contrastive_center
from xmodal_losses.contrastive.cross_modality_contrastive_center import (
    cross_modality_contrastive_center,
)
from xmodal_losses.contrastive.debiased import debiased
from xmodal_losses.contrastive.decoupled import decoupled
from xmodal_losses.contrastive.hetero_center import hetero_center
from xmodal_losses.contrastive.hetero_center_triplet import hetero_center_triplet
from xmodal_losses.contrastive.info_nce import info_nce
from xmodal_losses.contrastive.info_nce_terms import InfoNCETerms, info_nce_terms
from xmodal_losses.contrastive.mil_nce import mil_nce
from xmodal_losses.contrastive.nt_xent import nt_xent
from xmodal_losses.contrastive.sigmoid import sigmoid_contrastive
from xmodal_losses.contrastive.similarity_preservation import similarity_preservation
from xmodal_losses.contrastive.sincere import sincere
from xmodal_losses.contrastive.soft_info_nce import soft_info_nce
from xmodal_losses.contrastive.sup_con import sup_con
from xmodal_losses.correlation.dcca import dcca
from xmodal_losses.correlation.dgcca import dgcca
from xmodal_losses.correlation.eckart_young import eckart_young
from xmodal_losses.correlation.mcca import mcca
from xmodal_losses.correlation.noise import noise_regularization
from xmodal_losses.distribution.coral import CORALTerms, coral, coral_terms
from xmodal_losses.distribution.mmd import mmd
from xmodal_losses.distribution.mmd_variance import mmd_variance
from xmodal_losses.redundancy.barlow_twins import (
    BarlowTwinsTerms,
    barlow_twins,
    barlow_twins_terms,
)
from xmodal_losses.redundancy.soft_decorrelation import soft_decorrelation
from xmodal_losses.redundancy.vicreg import VICRegTerms, vicreg, vicreg_terms
from xmodal_losses.redundancy.vicreg_local import vicreg_local

__all__ = [
    "BarlowTwinsTerms",
    "CORALTerms",
    "InfoNCETerms",
    "VICRegTerms",
    "barlow_twins",
    "barlow_twins_terms",
    "contrastive_center",
    "coral",
    "coral_terms",
    "cross_modality_contrastive_center",
    "dcca",
    "debiased",
    "decoupled",
    "dgcca",
    "eckart_young",
    "hetero_center",
    "hetero_center_triplet",
    "info_nce",
    "info_nce_terms",
    "mcca",
    "mil_nce",
    "mmd",
    "mmd_variance",
    "noise_regularization",
    "nt_xent",
    "sigmoid_contrastive",
    "similarity_preservation",
    "sincere",
    "soft_decorrelation",
    "soft_info_nce",
    "sup_con",
    "vicreg",
    "vicreg_local",
    "vicreg_terms",
]
