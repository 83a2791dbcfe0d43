"""What users rely on besides the numbers: public names and signatures."""

import inspect
from pathlib import Path

import pytest

import xmodal_losses as xl
import xmodal_losses.functional as F
from xmodal_losses import dense, diagnostics, kernels, two_sample

ROOT = Path(__file__).resolve().parent.parent
PACKAGE = ROOT / "xmodal_losses"

# Function → module and the file that holds both.
LOSSES = {
    "info_nce": ("InfoNCELoss", "contrastive/info_nce.py"),
    "nt_xent": ("NTXentLoss", "contrastive/nt_xent.py"),
    "sigmoid_contrastive": ("SigmoidContrastiveLoss", "contrastive/sigmoid.py"),
    "decoupled": ("DecoupledContrastiveLoss", "contrastive/decoupled.py"),
    "debiased": ("DebiasedContrastiveLoss", "contrastive/debiased.py"),
    "mil_nce": ("MILNCELoss", "contrastive/mil_nce.py"),
    "soft_info_nce": ("SoftInfoNCELoss", "contrastive/soft_info_nce.py"),
    "contrastive_center": (
        "ContrastiveCenterLoss",
        "contrastive/contrastive_center.py",
    ),
    "sup_con": ("SupConLoss", "contrastive/sup_con.py"),
    "sincere": ("SINCERELoss", "contrastive/sincere.py"),
    "hetero_center": ("HeteroCenterLoss", "contrastive/hetero_center.py"),
    "hetero_center_triplet": (
        "HeteroCenterTripletLoss",
        "contrastive/hetero_center_triplet.py",
    ),
    "cross_modality_contrastive_center": (
        "CrossModalityContrastiveCenterLoss",
        "contrastive/cross_modality_contrastive_center.py",
    ),
    "similarity_preservation": (
        "SimilarityPreservationLoss",
        "contrastive/similarity_preservation.py",
    ),
    "coral": ("CORALLoss", "distribution/coral.py"),
    "mmd": ("MMDLoss", "distribution/mmd.py"),
    "barlow_twins": ("BarlowTwinsLoss", "redundancy/barlow_twins.py"),
    "vicreg": ("VICRegLoss", "redundancy/vicreg.py"),
    "vicreg_local": ("VICRegLocalLoss", "redundancy/vicreg_local.py"),
    "soft_decorrelation": (
        "SoftDecorrelationLoss",
        "redundancy/soft_decorrelation.py",
    ),
    "dcca": ("DCCALoss", "correlation/dcca.py"),
    "dgcca": ("DGCCALoss", "correlation/dgcca.py"),
    "mcca": ("MCCALoss", "correlation/mcca.py"),
    "noise_regularization": ("NoiseRegularizationLoss", "correlation/noise.py"),
    "eckart_young": ("EckartYoungLoss", "correlation/eckart_young.py"),
}
# What has tests of its own: of one batch, of several views, or of places.
OF_THEIR_OWN = {
    "contrastive_center",
    "dgcca",
    "eckart_young",
    "mcca",
    "noise_regularization",
    "vicreg_local",
}

# The inventory: a public name that comes or goes is edited here, on purpose.
KERNELS = {
    "DeepKernel",
    "EnergyKernel",
    "GaussianKernel",
    "InverseMultiquadricKernel",
    "JointKernel",
    "Kernel",
    "LaplacianKernel",
    "LinearKernel",
    "MaternKernel",
    "MultiKernel",
    "PolynomialKernel",
    "RandomFeatures",
    "RationalQuadraticKernel",
}
PUBLIC = {
    xl: {module for module, _ in LOSSES.values()}
    | KERNELS
    | {"ChunkedMoments", "EmbeddingQueue", "ExtraNegatives", "cached_backward"}
    | {"CCAProjector", "RunningMoments", "pairwise"}
    | {"dense", "diagnostics", "functional", "kernels", "two_sample"}
    | {"CrossModalObjective", "ObjectiveValue", "Term"}
    | {"CosineSchedule", "LinearSchedule"},
    F: {
        *LOSSES,
        "BarlowTwinsTerms",
        "CORALTerms",
        "InfoNCETerms",
        "VICRegTerms",
        "barlow_twins_terms",
        "coral_terms",
        "info_nce_terms",
        "mmd_variance",
        "vicreg_terms",
    },
    kernels: KERNELS | {"Pairs", "Pool"},
    two_sample: {
        "KernelTestResult",
        "KernelVerdict",
        "MMDAggResult",
        "Split",
        "deep_kernel_test",
        "fit_kernel",
        "fit_weights",
        "kernel_test",
        "mmd_agg",
        "power_criterion",
        "split",
    },
    dense: {
        "PairedRows",
        "Places",
        "gather_rows",
        "paired_rows",
        "sample_positions",
    },
    diagnostics: {
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
    },
}

# The same at the end of every function, and of every module.
GROUP = "group=None, grad_reduce='mean', exchange=None)"
GATHER = "gather=False, grad_reduce='mean', exchange=None)"

# Order and defaults of every argument; annotations are mypy's business.
SIGNATURES = {
    "info_nce": "(z_a, z_b, *, temperature=0.07, symmetric=True, "
    "direction_weight=0.5, margin=0.0, normalize=True, negatives='group', "
    "exclude=None, ids=None, positions=None, exclude_radius=None, guide=None, "
    "guide_margin=0.0, hardest=None, extra=None, weight=None, reduction='mean', "
    "chunk_size=None, " + GROUP,
    "info_nce_terms": "(z_a, z_b, *, temperature=0.07, normalize=True, "
    "negatives='group', exclude=None, ids=None, positions=None, "
    "exclude_radius=None, weight=None, reduction='mean', chunk_size=None, " + GROUP,
    "nt_xent": "(z_a, z_b, *, temperature=0.07, normalize=True, ids=None, "
    "positions=None, exclude_radius=None, weight=None, reduction='mean', "
    "chunk_size=None, " + GROUP,
    "sigmoid_contrastive": "(z_a, z_b, *, scale=10.0, bias=-10.0, normalize=True, "
    "negatives='group', exclude=None, ids=None, positions=None, "
    "exclude_radius=None, weight=None, reduction='mean', chunk_size=None, " + GROUP,
    "decoupled": "(z_a, z_b, *, temperature=0.07, sigma=None, intra_modal=True, "
    "normalize=True, ids=None, positions=None, exclude_radius=None, weight=None, "
    "reduction='mean', chunk_size=None, " + GROUP,
    "debiased": "(z_a, z_b, *, temperature=0.07, false_negatives=0.1, hardness=0.0, "
    "intra_modal=True, normalize=True, ids=None, positions=None, "
    "exclude_radius=None, weight=None, reduction='mean', chunk_size=None, " + GROUP,
    "mil_nce": "(z_a, z_b, *, temperature=0.07, symmetric=True, normalize=True, "
    "negatives='group', exclude=None, ids=None, positions=None, "
    "exclude_radius=None, jitter=None, weight=None, reduction='mean', "
    "chunk_size=None, " + GROUP,
    "soft_info_nce": "(z_a, z_b, *, temperature=0.07, targets=None, "
    "label_smoothing=0.0, symmetric=True, normalize=True, negatives='group', "
    "exclude=None, ids=None, "
    "positions=None, exclude_radius=None, jitter=None, spread=None, weight=None, "
    "reduction='mean', chunk_size=None, " + GROUP,
    "contrastive_center": "(z, labels, centers, *, delta=1.0, weight=None, "
    "reduction='mean', group=None, grad_reduce='mean')",
    "sup_con": "(z_a, z_b, labels_a, labels_b, *, temperature=0.07, variant='out', "
    "intra_modal=True, normalize=True, weight_a=None, weight_b=None, reduction='mean', "
    "chunk_size=None, " + GROUP,
    "sincere": "(z_a, z_b, labels_a, labels_b, *, temperature=0.07, margin=0.0, "
    "intra_modal=True, normalize=True, weight_a=None, weight_b=None, reduction='mean', "
    "chunk_size=None, " + GROUP,
    "hetero_center": "(z_a, z_b, labels_a, labels_b, *, margin=0.0, weight_a=None, "
    "weight_b=None, reduction='mean', group=None, grad_reduce='mean')",
    "hetero_center_triplet": "(z_a, z_b, labels_a, labels_b, *, margin=0.3, "
    "weight_a=None, weight_b=None, reduction='mean', group=None, grad_reduce='mean')",
    "cross_modality_contrastive_center": "(z_a, z_b, labels_a, labels_b, *, "
    "weight_a=None, weight_b=None, reduction='mean', group=None, grad_reduce='mean')",
    "similarity_preservation": "(z_a, z_b, *, gamma=0.0, detach_target=True, "
    "weight=None, reduction='mean', chunk_size=None, " + GROUP,
    "coral": "(z_a, z_b, *, mean_weight=0.0, scale='published', metric='frobenius', "
    "ridge=None, weight_a=None, weight_b=None, reduction='mean', " + GROUP,
    "coral_terms": "(z_a, z_b, *, scale='published', metric='frobenius', ridge=None, "
    "weight_a=None, weight_b=None, reduction='mean', " + GROUP,
    "mmd": "(z_a, z_b, *, kernel=None, estimator='biased', block_size=None, "
    "weight_a=None, weight_b=None, reduction='mean', chunk_size=None, " + GROUP,
    "mmd_variance": "(z_a, z_b, *, kernel=None, estimator='unbiased', form='exact')",
    "power_criterion": "(z_a, z_b, kernel, *, estimator='unbiased', ridge=1e-08)",
    "fit_weights": "(z_a, z_b, kernel, *, estimator='unbiased', ridge=0.0001)",
    "fit_kernel": "(z_a, z_b, kernel, *, optimizer=None, steps=1000, batch_size=None, "
    "estimator='unbiased', ridge=1e-08, generator=None)",
    "kernel_test": "(z_a, z_b, kernel, *, alpha=0.05, permutations=499, paired=False, "
    "generator=None)",
    "deep_kernel_test": "(z_a, z_b, kernel, *, train_fraction=0.5, optimizer=None, "
    "steps=1000, batch_size=None, ridge=1e-08, alpha=0.05, permutations=499, "
    "paired=False, generator=None)",
    "split": "(z_a, z_b, *, fraction=0.5, paired=False, generator=None)",
    "barlow_twins": "(z_a, z_b, *, redundancy_weight=None, eps=None, "
    "convention='paper', scale='published', weight=None, reduction='mean', " + GROUP,
    "barlow_twins_terms": "(z_a, z_b, *, eps=None, convention='paper', "
    "scale='published', weight=None, reduction='mean', " + GROUP,
    "vicreg": "(z_a, z_b, *, invariance_weight=25.0, variance_weight=25.0, "
    "covariance_weight=1.0, target_std=1.0, eps=0.0001, convention='official', "
    "weight=None, reduction='mean', " + GROUP,
    "vicreg_terms": "(z_a, z_b, *, target_std=1.0, eps=0.0001, "
    "convention='official', weight=None, reduction='mean', " + GROUP,
    "vicreg_local": "(z_a, z_b, *, positions_a=None, positions_b=None, "
    "matching='positions', num_matches=None, pooled=False, invariance_weight=25.0, "
    "variance_weight=25.0, covariance_weight=1.0, target_std=1.0, eps=0.0001, "
    "weight_a=None, weight_b=None, reduction='mean', group=None, grad_reduce='mean')",
    "soft_decorrelation": "(z_a, z_b, *, weight_a=None, weight_b=None, "
    "reduction='mean', " + GROUP,
    "dcca": "(z_a, z_b, *, num_components=None, ridge=0.0001, "
    "ridge_scale='absolute', objective='trace', compute_dtype=torch.float64, "
    "weight=None, reduction='mean', " + GROUP,
    "dgcca": "(views, *, num_components, ridge=0.0001, ridge_scale='absolute', "
    "mask=None, compute_dtype=torch.float64, weight=None, reduction='mean', "
    "group=None, grad_reduce='mean')",
    "mcca": "(views, *, num_components=None, ridge=0.0001, "
    "ridge_scale='absolute', objective='trace', mask=None, "
    "compute_dtype=torch.float64, weight=None, reduction='mean', " + GROUP,
    "noise_regularization": "(z, z_noise, x=None, noise=None, *, "
    "chance_corrected=False, ridge=0.0001, ridge_scale='absolute', "
    "compute_dtype=torch.float64, weight=None, reduction='mean', " + GROUP,
    "eckart_young": "(views, *, estimator='biased', mask=None, "
    "compute_dtype=torch.float64, weight=None, reduction='mean', group=None, "
    "grad_reduce='mean')",
    "InfoNCELoss": "(*, temperature=0.07, learn_temperature=False, "
    "temperature_range=(0.01, 1.0), symmetric=True, direction_weight=0.5, "
    "margin=0.0, normalize=True, negatives='group', exclude_radius=None, "
    "guide_margin=0.0, hardest=None, reduction='mean', chunk_size=None, " + GATHER,
    "NTXentLoss": "(*, temperature=0.07, normalize=True, exclude_radius=None, "
    "reduction='mean', chunk_size=None, " + GATHER,
    "SigmoidContrastiveLoss": "(*, scale=10.0, bias=-10.0, learn=False, "
    "normalize=True, negatives='group', exclude_radius=None, reduction='mean', "
    "chunk_size=None, " + GATHER,
    "DecoupledContrastiveLoss": "(*, temperature=0.07, sigma=None, intra_modal=True, "
    "normalize=True, exclude_radius=None, reduction='mean', chunk_size=None, " + GATHER,
    "DebiasedContrastiveLoss": "(*, temperature=0.07, false_negatives=0.1, "
    "hardness=0.0, intra_modal=True, normalize=True, exclude_radius=None, "
    "reduction='mean', chunk_size=None, " + GATHER,
    "MILNCELoss": "(*, temperature=0.07, symmetric=True, normalize=True, "
    "negatives='group', exclude_radius=None, jitter=None, reduction='mean', "
    "chunk_size=None, " + GATHER,
    "SoftInfoNCELoss": "(*, temperature=0.07, label_smoothing=0.0, symmetric=True, "
    "normalize=True, negatives='group', exclude_radius=None, jitter=None, "
    "spread=None, reduction='mean', chunk_size=None, " + GATHER,
    "ContrastiveCenterLoss": "(num_classes, num_features, *, delta=1.0, "
    "reduction='mean', gather=False, grad_reduce='mean')",
    "SupConLoss": "(*, temperature=0.07, variant='out', intra_modal=True, "
    "normalize=True, reduction='mean', chunk_size=None, " + GATHER,
    "SINCERELoss": "(*, temperature=0.07, margin=0.0, intra_modal=True, "
    "normalize=True, reduction='mean', chunk_size=None, " + GATHER,
    "HeteroCenterLoss": "(*, margin=0.0, reduction='mean', gather=False, "
    "grad_reduce='mean')",
    "HeteroCenterTripletLoss": "(*, margin=0.3, reduction='mean', gather=False, "
    "grad_reduce='mean')",
    "CrossModalityContrastiveCenterLoss": "(*, reduction='mean', gather=False, "
    "grad_reduce='mean')",
    "SimilarityPreservationLoss": "(*, gamma=0.0, detach_target=True, "
    "reduction='mean', chunk_size=None, " + GATHER,
    "CORALLoss": "(*, mean_weight=0.0, scale='published', metric='frobenius', "
    "ridge=None, reduction='mean', " + GATHER,
    "MMDLoss": "(*, kernel=None, estimator='biased', block_size=None, "
    "reduction='mean', chunk_size=None, " + GATHER,
    "BarlowTwinsLoss": "(*, redundancy_weight=None, eps=None, convention='paper', "
    "scale='published', reduction='mean', " + GATHER,
    "VICRegLoss": "(*, invariance_weight=25.0, variance_weight=25.0, "
    "covariance_weight=1.0, target_std=1.0, eps=0.0001, convention='official', "
    "reduction='mean', " + GATHER,
    "VICRegLocalLoss": "(*, matching='positions', num_matches=None, pooled=False, "
    "invariance_weight=25.0, variance_weight=25.0, covariance_weight=1.0, "
    "target_std=1.0, eps=0.0001, reduction='mean', gather=False, grad_reduce='mean')",
    "SoftDecorrelationLoss": "(*, reduction='mean', " + GATHER,
    "RunningMoments": "(criterion, dim_a, dim_b, *, momentum=0.9)",
    "DCCALoss": "(*, num_components=None, ridge=0.0001, ridge_scale='absolute', "
    "objective='trace', compute_dtype=torch.float64, reduction='mean', " + GATHER,
    "DGCCALoss": "(*, num_components, ridge=0.0001, ridge_scale='absolute', "
    "compute_dtype=torch.float64, reduction='mean', gather=False, "
    "grad_reduce='mean')",
    "MCCALoss": "(*, num_components=None, ridge=0.0001, ridge_scale='absolute', "
    "objective='trace', compute_dtype=torch.float64, reduction='mean', " + GATHER,
    "NoiseRegularizationLoss": "(*, chance_corrected=False, ridge=0.0001, "
    "ridge_scale='absolute', compute_dtype=torch.float64, reduction='mean', " + GATHER,
    "EckartYoungLoss": "(*, estimator='biased', compute_dtype=torch.float64, "
    "reduction='mean', gather=False, grad_reduce='mean')",
    "CCAProjector": "(dim_a, dim_b, *, num_components, ridge=0.0001, "
    "ridge_scale='absolute', gather=False)",
    "ChunkedMoments": "(criterion)",
    "EmbeddingQueue": "(size, dim, *, with_ids=False, gather=False)",
    "ExtraNegatives": "(a=None, b=None, ids=None, valid=None)",
    "cached_backward": "(criterion, encode, chunks, *, scale=1.0, **options)",
    "pairwise": "(loss, views, **options)",
    "gather_rows": "(features, positions)",
    "sample_positions": "(like, num, *, method='random', scores=None, valid=None, "
    "min_distance=0.0, shared=False, generator=None)",
    "paired_rows": "(map_a, map_b, num, *, method='random', scores=None, "
    "valid_a=None, valid_b=None, min_distance=0.0, shared=False, warp=None, "
    "offset=None, jitter=0.0, ids=None, generator=None)",
    "rank_me": "(z, *, eps=1e-07, weight=None)",
    "effective_rank": "(z, *, of='covariance', weight=None)",
    "alignment": "(z_a, z_b, *, power=2.0, normalize=True, weight=None)",
    "uniformity": "(z, *, t=2.0, normalize=True, weight=None, chunk_size=None)",
    "modality_gap": "(z_a, z_b, *, paired=True, normalize=True, num_permutations=999, "
    "generator=None, weight=None)",
    "dead_dimensions": "(z, *, threshold=0.01, weight=None)",
    "hinge_counts": "(z, *, target_std=1.0, eps=0.0001, weight=None)",
    "canonical_spectrum": "(z_a, z_b, *, ridge=0.0001, weight=None)",
    "linear_cka": "(z_a, z_b, *, unbiased=False, weight=None)",
    "welch_floor": "(num_rows, num_columns)",
    "barlow_twins_floor": "(num_rows, num_columns, *, redundancy_weight=0.005, "
    "scale='published')",
    "vicreg_floor": "(num_rows, num_columns, *, variance_weight=25.0, "
    "covariance_weight=1.0, target_std=1.0, eps=0.0001, convention='official')",
    "mmd_agg": "(x, y, *, alpha=0.05, kernels=('laplace', 'gaussian'), "
    "num_bandwidths=10, weights='uniform', paired=False, ids=None, "
    "resampling='auto', num_diagonals=None, quantile_draws=2000, level_draws=2000, "
    "chunk_size=None, generator=None)",
    "CrossModalObjective": "(terms=None, *, gather=False, grad_reduce='mean', "
    "lean=False)",
    "Term": "(loss, *, weight=1.0, input='projection')",
    "ObjectiveValue": "(total, terms, weights, gradient_norms=None, "
    "gradient_shares=None)",
    "LinearSchedule": "(start, end, *, length, begin=0.0)",
    "CosineSchedule": "(start, end, *, length, begin=0.0)",
    "GaussianKernel": "(bandwidth='mean', *, factor=1.0, learn=False)",
    "LaplacianKernel": "(bandwidth='mean', *, factor=1.0, learn=False, norm=2)",
    "InverseMultiquadricKernel": "(bandwidth='mean', *, factor=1.0, learn=False)",
    "RationalQuadraticKernel": "(bandwidth='mean', *, factor=1.0, learn=False, "
    "alpha=1.0)",
    "MaternKernel": "(bandwidth='mean', *, factor=1.0, learn=False, nu=1.5)",
    "PolynomialKernel": "(degree=3, gamma=None, coef0=1.0)",
    "LinearKernel": "()",
    "EnergyKernel": "()",
    "MultiKernel": "(kernels, weights=None, *, learn=False)",
    "JointKernel": "(kernels, widths)",
    "DeepKernel": "(network, *, feature_kernel=None, input_kernel=None, epsilon=0.5)",
    "RandomFeatures": "(kernel, dim, *, num_features=256, generator=None)",
}


def public(name):
    """Return the object users get under this name."""
    return next(
        getattr(m, name)
        for m in (F, xl, dense, diagnostics, two_sample)
        if hasattr(m, name)
    )


def bare(signature):
    """Return a signature without annotations."""
    parameters = [
        parameter.replace(annotation=inspect.Parameter.empty)
        for parameter in signature.parameters.values()
    ]
    return signature.replace(
        parameters=parameters, return_annotation=inspect.Signature.empty
    )


# ------------------------------------------------------------------ public names


@pytest.mark.parametrize("module", PUBLIC, ids=lambda module: module.__name__)
def test_public_names_are_the_inventory(module):
    assert set(module.__all__) == PUBLIC[module]
    assert all(hasattr(module, name) for name in module.__all__)
    assert len(module.__all__) == len(set(module.__all__))


def test_both_spellings_are_one_object():
    assert xl.functional is F
    assert xl.kernels is kernels
    assert xl.dense is dense
    assert xl.diagnostics is diagnostics
    assert xl.two_sample is two_sample
    for name in KERNELS:
        assert getattr(xl, name) is getattr(kernels, name)


@pytest.mark.parametrize("name", SIGNATURES)
def test_signature(name):
    assert str(bare(inspect.signature(public(name)))) == SIGNATURES[name]


def test_every_public_callable_has_its_signature_pinned():
    unpinned = {name for name in PUBLIC[F] if name.endswith("Terms")}
    unpinned |= {"Kernel", "PairedRows", "Places"}
    unpinned |= {"CanonicalSpectrum", "DimensionCount", "ModalityGap"}
    unpinned |= {"KernelTestResult", "KernelVerdict", "MMDAggResult"}
    unpinned |= {"Pairs", "Pool", "Split"}
    names = {
        name
        for module in PUBLIC
        for name in module.__all__
        if callable(getattr(module, name))
    }
    assert names - unpinned == set(SIGNATURES)


@pytest.mark.parametrize("loss", LOSSES)
def test_module_and_function_share_their_options(loss):
    function = inspect.signature(getattr(F, loss)).parameters
    module = getattr(xl, LOSSES[loss][0])
    constructor = dict(inspect.signature(module).parameters)
    forward = dict(inspect.signature(module.forward).parameters)
    forward.pop("self")
    tensors = [name for name, p in function.items() if p.kind is not p.KEYWORD_ONLY]
    learned = {"contrastive_center": {"centers"}}.get(loss, set())
    assert list(forward)[: len(tensors) - len(learned)] == [
        name for name in tensors if name not in learned
    ]
    for name, parameter in forward.items():
        if name not in tensors:
            assert parameter.kind is parameter.KEYWORD_ONLY
            assert parameter.default is None
            assert name in function
    own = {
        "info_nce": {"learn_temperature", "temperature_range"},
        "sigmoid_contrastive": {"learn"},
        "contrastive_center": {"num_classes", "num_features"},
    }.get(loss, set())
    own = own | {"gather"}  # names a group when it is called
    assert set(constructor) | set(forward) == set(function) - {"group"} - learned | own
    assert not set(constructor) & set(forward)


def test_modules_show_every_option():
    for loss, (module, _) in LOSSES.items():
        sizes = {"contrastive_center": (3, 2)}.get(loss, ())
        needed = {"dgcca": {"num_components": 2}}.get(loss, {})
        shown = repr(getattr(xl, module)(*sizes, **needed))
        for option in inspect.signature(getattr(xl, module)).parameters:
            if option != "temperature_range":  # shown where it has a meaning
                assert option in shown, f"{loss}: {option} is missing in {shown}"
