"""Every option of every loss refuses what it cannot be, by name and in one grammar."""

import inspect

import pytest
import torch

import xmodal_losses as xl
import xmodal_losses.functional as F
from specs import SPECS, each_loss
from test_errors import grammar

NAN, INF = float("nan"), float("inf")
# Options that mean the same in every loss that has them.
SHARED = {
    "reduction": [(["avg", None, "", "batchmean"], ValueError)],
    "temperature": [
        ([0.0, -0.1, NAN, INF], ValueError),
        (["0.1", None, True], TypeError),
    ],
    "negatives": [(["batch", None], ValueError)],
    "symmetric": [([1, None, "yes"], TypeError)],
    "intra_modal": [([1, None], TypeError)],
    "normalize": [([0, None], TypeError)],
    "chunk_size": [([0, -3], ValueError), ([2.0, "4", True], TypeError)],
    "exclude_radius": [([-0.1, NAN], ValueError), (["1", True], TypeError)],
    "jitter": [([-0.1, NAN], ValueError), (["1", True], TypeError)],
}
# What comes with a batch, or from another package, is checked by tests of its own.
GIVEN = {"weight", "weight_a", "weight_b", "ids", "positions", "exclude", "targets"}
GIVEN |= {"generator", "guide", "extra", "negative_weight"}
GIVEN |= {"group", "grad_reduce", "exchange"}


def _options(spec):
    """Return the names of the options that a loss has."""
    parameters = inspect.signature(getattr(F, spec.name)).parameters.values()
    return [p.name for p in parameters if p.kind is p.KEYWORD_ONLY]


#: (loss, option, refused values, exception)
OPTIONS = [
    *[
        (spec.name, option, values, exception)
        for spec in SPECS
        for option in _options(spec)
        for values, exception in SHARED.get(option, ())
    ],
    ("info_nce", "direction_weight", [-0.1, 1.1, NAN], ValueError),
    ("info_nce", "direction_weight", ["0.5", True], TypeError),
    ("info_nce", "margin", [NAN, INF], ValueError),
    ("info_nce", "guide_margin", [NAN, INF], ValueError),
    ("info_nce", "hardest", [0, -1], ValueError),
    ("info_nce", "hardest", [2.0, True], TypeError),
    ("sigmoid_contrastive", "scale", [0.0, -0.1, NAN, INF], ValueError),
    ("sigmoid_contrastive", "bias", [NAN, INF], ValueError),
    ("decoupled", "sigma", [0.0, -0.1, NAN, INF], ValueError),
    ("debiased", "false_negatives", [-0.1, 1.0, NAN], ValueError),
    ("debiased", "hardness", [-0.1, -1.0, NAN, INF], ValueError),
    ("debiased", "hardness", ["1", None], TypeError),
    ("soft_info_nce", "label_smoothing", [-0.1, 1.0, NAN], ValueError),
    ("soft_info_nce", "spread", [0.0, -0.1, NAN], ValueError),
    ("sup_con", "variant", ["both", None], ValueError),
    ("sincere", "margin", [NAN, INF], ValueError),
    ("coral", "scale", ["mean", None], ValueError),
    ("barlow_twins", "scale", ["mean", None], ValueError),
    ("mmd", "block_size", [4], ValueError),  # of another estimator
    ("hetero_center", "margin", [-1.0, NAN, INF], ValueError),
    ("hetero_center", "margin", ["1", None], TypeError),
    ("hetero_center_triplet", "margin", [-1.0, NAN, INF], ValueError),
    ("hetero_center_triplet", "margin", ["1", None], TypeError),
    ("similarity_preservation", "gamma", [-1.0, NAN, INF], ValueError),
    ("similarity_preservation", "gamma", ["1", None], TypeError),
    ("similarity_preservation", "detach_target", [1, None], TypeError),
    ("coral", "mean_weight", [-1.0, NAN, INF], ValueError),
    ("coral", "mean_weight", ["1", None], TypeError),
    ("coral", "metric", ["log", None], ValueError),
    ("coral", "ridge", [0.1, "0.1"], ValueError),
    ("mmd", "estimator", ["quadratic", None], ValueError),
    ("mmd", "kernel", ["gaussian", 1.0, lambda x, y: x], TypeError),
    ("barlow_twins", "redundancy_weight", [-5e-3, NAN], ValueError),
    ("barlow_twins", "redundancy_weight", ["5e-3", True], TypeError),
    ("barlow_twins", "eps", [-1e-5, INF], ValueError),
    ("barlow_twins", "eps", ["0", True], TypeError),
    ("barlow_twins", "convention", ["batch_norm", None], ValueError),
    ("vicreg", "invariance_weight", [-1.0, NAN], ValueError),
    ("vicreg", "variance_weight", [-1.0], ValueError),
    ("vicreg", "covariance_weight", [-1.0], ValueError),
    ("vicreg", "target_std", [-1.0, NAN, 2**64], ValueError),
    ("vicreg", "eps", [-1e-4], ValueError),
    ("vicreg", "convention", ["hsic", None], ValueError),
    ("vicreg", "invariance_weight", ["25", None], TypeError),
    ("dcca", "num_components", [0, -1], ValueError),
    ("dcca", "num_components", [1.0, "1"], TypeError),
    ("dcca", "ridge", [-1e-4, NAN], ValueError),
    ("dcca", "ridge", ["0", None], TypeError),
    ("dcca", "ridge_scale", ["trace", None], ValueError),
    ("dcca", "objective", ["nuclear", None], ValueError),
    ("dcca", "compute_dtype", [torch.float16, torch.int64, "float64"], None),
]


@pytest.mark.parametrize(
    ("name", "option", "value", "exception"),
    [
        pytest.param(
            name,
            option,
            value,
            exception,
            id=f"{name}-{option}-{type(value).__name__}{number}",
        )
        for name, option, values, exception in OPTIONS
        for number, value in enumerate(values)
    ],
)
def test_options_are_checked(name, option, value, exception):
    spec = next(spec for spec in SPECS if spec.name == name)
    exception = exception or (TypeError, ValueError)
    z = torch.randn(6, 4)
    with pytest.raises(exception, match=grammar(name, option)):
        getattr(F, name)(z, z, **spec.labels_of(z, z), **{option: value})
    with pytest.raises(exception, match=grammar(spec.module, option)):
        getattr(xl, spec.module)(**{option: value})


@each_loss
def test_no_option_is_left_out(spec):
    refused = {option for name, option, *_ in OPTIONS if name == spec.name}
    assert set(_options(spec)) - refused <= GIVEN


@pytest.mark.parametrize("spec", [s for s in SPECS if s.terms], ids=repr)
def test_terms_check_what_they_take(spec):
    terms = getattr(F, f"{spec.name}_terms")
    with pytest.raises(TypeError, match=grammar(f"{spec.name}_terms", "z_a")):
        terms(torch.zeros(4, 3, dtype=torch.int64), torch.zeros(4, 3))


def test_temperature_tensors_must_be_scalars():
    z = torch.randn(6, 4)
    for bad in (torch.ones(1), torch.ones(6), torch.tensor(1)):
        with pytest.raises(
            (ValueError, TypeError), match=grammar("info_nce", "temperature")
        ):
            F.info_nce(z, z, temperature=bad)


@pytest.mark.parametrize(
    ("options", "argument"),
    [
        ({"temperature_range": (0.0, 1.0)}, "temperature_range"),
        ({"temperature_range": (0.5, 0.1)}, "temperature_range"),
        ({"temperature_range": (0.1, INF)}, "temperature_range"),
        ({"temperature": 2.0, "learn_temperature": True}, "temperature"),
        ({"learn_temperature": "yes"}, "learn_temperature"),
        ({"temperature_range": 0.5}, "temperature_range"),
        ({"temperature_range": (0.1,)}, "temperature_range"),
    ],
)
def test_learned_temperature_options(options, argument):
    with pytest.raises(
        (ValueError, TypeError), match=f"^InfoNCELoss: {argument}.* must"
    ):
        xl.InfoNCELoss(**options)


def test_a_learned_temperature_may_start_at_its_bounds():
    for start in (0.05, 0.5):
        criterion = xl.InfoNCELoss(
            temperature=start, temperature_range=(0.05, 0.5), learn_temperature=True
        )
        assert criterion.temperature.item() == pytest.approx(start)


def test_components_are_bounded_by_the_widths():
    z = torch.randn(8, 4)
    message = (
        r"^dcca: num_components must be in \[1, min\(D_a, D_b\)\] = \[1, 3\], got 4"
    )
    with pytest.raises(ValueError, match=message):
        F.dcca(z, z[:, :3], num_components=4)


@pytest.mark.parametrize(
    ("build", "argument"),
    [
        (lambda: xl.GaussianKernel(0.0), "bandwidth"),
        (lambda: xl.GaussianKernel(-1.0), "bandwidth"),
        (lambda: xl.GaussianKernel(NAN), "bandwidth"),
        (lambda: xl.GaussianKernel("quantile"), "bandwidth"),
        (lambda: xl.GaussianKernel(None), "bandwidth"),
        (lambda: xl.GaussianKernel(torch.ones(2)), "bandwidth"),
        (lambda: xl.GaussianKernel(factor=0.0), "factor"),
        (lambda: xl.GaussianKernel(factor=-1.0), "factor"),
        (lambda: xl.GaussianKernel(1.0, factor=torch.ones(0)), "factor"),
        (lambda: xl.LaplacianKernel(norm=3), "norm"),
        (lambda: xl.LaplacianKernel(0.0), "bandwidth"),
        (lambda: xl.InverseMultiquadricKernel(0.0), "bandwidth"),
        (lambda: xl.RationalQuadraticKernel(alpha=0.0), "alpha"),
        (lambda: xl.RationalQuadraticKernel(alpha=-1.0), "alpha"),
        (lambda: xl.MaternKernel(nu=1.0), "nu"),
        (lambda: xl.MaternKernel(nu=3.5), "nu"),
        (lambda: xl.PolynomialKernel(degree=0), "degree"),
        (lambda: xl.PolynomialKernel(degree=1.5), "degree"),
        (lambda: xl.PolynomialKernel(gamma=0.0), "gamma"),
        (lambda: xl.PolynomialKernel(coef0=-1.0), "coef0"),
        (lambda: xl.MultiKernel([]), "kernels"),
        (lambda: xl.MultiKernel([xl.LinearKernel(), "gaussian"]), "kernels"),
        (lambda: xl.MultiKernel([xl.LinearKernel()], weights=[1.0, 2.0]), "weights"),
        (lambda: xl.MultiKernel([xl.LinearKernel()], weights=[-1.0]), "weights"),
        (lambda: xl.MultiKernel([xl.LinearKernel()], weights=[NAN]), "weights"),
    ],
)
def test_kernels_check_their_options(build, argument):
    message = rf"^\w+Kernel: {argument}.* must (be|have) .+, got .+"
    with pytest.raises((ValueError, TypeError), match=message):
        build()


def test_kernels_check_their_inputs():
    with pytest.raises(ValueError, match=r"^GaussianKernel: .+ must (be|have) .+, got"):
        xl.GaussianKernel(1.0)(torch.zeros(4, 3), torch.zeros(4, 2))


@each_loss
def test_everything_after_the_views_is_keyword_only(spec):
    z = torch.randn(6, 4)
    with pytest.raises(TypeError, match="positional argument"):
        spec.function(z, z, 0.1)
    with pytest.raises(TypeError, match="positional argument"):
        getattr(xl, spec.module)(0.1)
    with pytest.raises(TypeError, match="positional argument"):
        spec.build({})(z, z, torch.ones(6))
