"""Numerically checked, batched PyTorch losses that make two modalities agree."""

from xmodal_losses import dense, diagnostics, functional, kernels, two_sample
from xmodal_losses._core.pairs import ExtraNegatives
from xmodal_losses.contrastive.contrastive_center import ContrastiveCenterLoss
from xmodal_losses.contrastive.cross_modality_contrastive_center import (
    CrossModalityContrastiveCenterLoss,
)
from xmodal_losses.contrastive.debiased import DebiasedContrastiveLoss
from xmodal_losses.contrastive.decoupled import DecoupledContrastiveLoss
from xmodal_losses.contrastive.hetero_center import HeteroCenterLoss
from xmodal_losses.contrastive.hetero_center_triplet import HeteroCenterTripletLoss
from xmodal_losses.contrastive.info_nce import InfoNCELoss
from xmodal_losses.contrastive.mil_nce import MILNCELoss
from xmodal_losses.contrastive.nt_xent import NTXentLoss
from xmodal_losses.contrastive.sigmoid import SigmoidContrastiveLoss
from xmodal_losses.contrastive.similarity_preservation import (
    SimilarityPreservationLoss,
)
from xmodal_losses.contrastive.sincere import SINCERELoss
from xmodal_losses.contrastive.soft_info_nce import SoftInfoNCELoss
from xmodal_losses.contrastive.sup_con import SupConLoss
from xmodal_losses.correlation.dcca import DCCALoss
from xmodal_losses.correlation.dgcca import DGCCALoss
from xmodal_losses.correlation.eckart_young import EckartYoungLoss
from xmodal_losses.correlation.mcca import MCCALoss
from xmodal_losses.correlation.noise import NoiseRegularizationLoss
from xmodal_losses.correlation.projector import CCAProjector
from xmodal_losses.distribution.coral import CORALLoss
from xmodal_losses.distribution.mmd import MMDLoss
from xmodal_losses.gradient_cache import cached_backward
from xmodal_losses.kernels import (
    DeepKernel,
    EnergyKernel,
    GaussianKernel,
    InverseMultiquadricKernel,
    JointKernel,
    Kernel,
    LaplacianKernel,
    LinearKernel,
    MaternKernel,
    MultiKernel,
    PolynomialKernel,
    RandomFeatures,
    RationalQuadraticKernel,
)
from xmodal_losses.large_batch import ChunkedMoments
from xmodal_losses.objective import CrossModalObjective, ObjectiveValue, Term
from xmodal_losses.queue import EmbeddingQueue
from xmodal_losses.redundancy.barlow_twins import BarlowTwinsLoss
from xmodal_losses.redundancy.soft_decorrelation import SoftDecorrelationLoss
from xmodal_losses.redundancy.vicreg import VICRegLoss
from xmodal_losses.redundancy.vicreg_local import VICRegLocalLoss
from xmodal_losses.running import RunningMoments
from xmodal_losses.schedules import CosineSchedule, LinearSchedule
from xmodal_losses.views import pairwise

__version__ = "0.1.0"

__all__ = [
    "BarlowTwinsLoss",
    "CCAProjector",
    "CORALLoss",
    "ChunkedMoments",
    "ContrastiveCenterLoss",
    "CosineSchedule",
    "CrossModalObjective",
    "CrossModalityContrastiveCenterLoss",
    "DCCALoss",
    "DGCCALoss",
    "DebiasedContrastiveLoss",
    "DecoupledContrastiveLoss",
    "DeepKernel",
    "EckartYoungLoss",
    "EmbeddingQueue",
    "EnergyKernel",
    "ExtraNegatives",
    "GaussianKernel",
    "HeteroCenterLoss",
    "HeteroCenterTripletLoss",
    "InfoNCELoss",
    "InverseMultiquadricKernel",
    "JointKernel",
    "Kernel",
    "LaplacianKernel",
    "LinearKernel",
    "LinearSchedule",
    "MCCALoss",
    "MILNCELoss",
    "MMDLoss",
    "MaternKernel",
    "MultiKernel",
    "NTXentLoss",
    "NoiseRegularizationLoss",
    "ObjectiveValue",
    "PolynomialKernel",
    "RandomFeatures",
    "RationalQuadraticKernel",
    "RunningMoments",
    "SINCERELoss",
    "SigmoidContrastiveLoss",
    "SimilarityPreservationLoss",
    "SoftDecorrelationLoss",
    "SoftInfoNCELoss",
    "SupConLoss",
    "Term",
    "VICRegLocalLoss",
    "VICRegLoss",
    "cached_backward",
    "dense",
    "diagnostics",
    "functional",
    "kernels",
    "pairwise",
    "two_sample",
]
