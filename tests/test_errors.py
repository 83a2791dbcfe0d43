"""Bad input is refused at once, in one grammar, by functions and constructors.

``<callable>: <argument> must be|have <constraint>, got <value>. <remedy>``
"""

import inspect
import re

import numpy as np
import pytest
import torch

import xmodal_losses as xl
import xmodal_losses.functional as F
from harness import Case, to_torch
from specs import SPECS, each_loss


def _grammar(caller, argument, got=".+"):
    return rf"^{re.escape(caller)}: {argument} must (be|have) .+, got {got}"


def _views(spec, **shape):
    return to_torch(spec.draw(Case(**shape)), torch.float32, grad=False)


BAD_DTYPES = [
    torch.zeros(4, 3, dtype=torch.int64),
    torch.zeros(4, 3, dtype=torch.bool),
    torch.zeros(4, 3, dtype=torch.complex64),
    np.zeros((4, 3)),
    [[1.0, 2.0]],
    None,
]


@pytest.mark.parametrize("bad", BAD_DTYPES, ids=lambda b: str(getattr(b, "dtype", b)))
@pytest.mark.parametrize("view", ["z_a", "z_b"])
@each_loss
def test_embeddings_must_be_floating_point(spec, view, bad):
    views = {"z_a": torch.zeros(4, 3), "z_b": torch.zeros(4, 3)} | {view: bad}
    with pytest.raises(TypeError, match=_grammar(spec.name, view)):
        spec(views)
    with pytest.raises(TypeError, match=_grammar(spec.name, view)):
        spec.build({})(**views, **spec.labels_of(**views))


@pytest.mark.parametrize("shape", [(), (4,)])
@pytest.mark.parametrize("view", ["z_a", "z_b"])
@each_loss
def test_embeddings_must_be_rows(spec, view, shape):
    views = {"z_a": torch.zeros(4, 3), "z_b": torch.zeros(4, 3)}
    views[view] = torch.zeros(shape)
    message = _grammar(spec.name, view, re.escape(f"shape {shape}"))
    with pytest.raises(ValueError, match=message):
        spec(views)


@pytest.mark.parametrize(
    ("shape_a", "shape_b"),
    [((2, 4, 3), (3, 4, 3)), ((4, 3), (1, 4, 3)), ((2, 1, 4, 3), (2, 4, 3))],
)
@each_loss
def test_leading_dimensions_must_agree(spec, shape_a, shape_b):
    got = re.escape(f"z_a {shape_a} and z_b {shape_b}")
    with pytest.raises(ValueError, match=_grammar(spec.name, "z_a and z_b", got)):
        spec({"z_a": torch.zeros(shape_a), "z_b": torch.zeros(shape_b)})


@each_loss
def test_rows_must_agree_where_they_are_pairs(spec):
    views = _views(spec, rows=(6, 5))
    if spec.unequal_rows:
        assert spec(views).isfinite()
        return
    got = re.escape("z_a (6, 4) and z_b (5, 4)")
    with pytest.raises(ValueError, match=_grammar(spec.name, "z_a and z_b", got)):
        spec(views)


@pytest.mark.parametrize("estimator", ["paired", "block", "linear"])
def test_rows_must_agree_for_paired_estimators(estimator):
    z = torch.zeros(6, 3)
    with pytest.raises(ValueError, match=_grammar("mmd", "z_a and z_b")):
        F.mmd(z, z[:4], estimator=estimator)


@each_loss
def test_widths_must_agree(spec):
    views = _views(spec, dims=(4, 3))
    if spec.unequal_dims:
        assert spec(views).isfinite()
        return
    got = re.escape("z_a (6, 4) and z_b (6, 3)")
    with pytest.raises(ValueError, match=_grammar(spec.name, "z_a and z_b", got)):
        spec(views)


@each_loss
def test_empty_batches_are_refused(spec):
    with pytest.raises(ValueError, match=_grammar(spec.name, "z_a")):
        spec({"z_a": torch.zeros(0, 3), "z_b": torch.zeros(0, 3)})
    with pytest.raises(ValueError, match=_grammar(spec.name, "z_a")):
        spec({"z_a": torch.zeros(4, 0), "z_b": torch.zeros(4, 0)})


@pytest.mark.parametrize("spec", [s for s in SPECS if s.shift == "separate"])
def test_second_moments_need_two_rows(spec):
    with pytest.raises(ValueError, match=_grammar(spec.name, "z_a")):
        spec({"z_a": torch.zeros(1, 3), "z_b": torch.zeros(1, 3)})


@pytest.mark.parametrize("estimator", ["unbiased", "paired", "block", "linear"])
def test_u_statistics_need_two_rows(estimator):
    with pytest.raises(ValueError, match=_grammar("mmd", "z_a")):
        F.mmd(torch.zeros(1, 3), torch.zeros(1, 3), estimator=estimator)


# Tensors beside the views --------------------------------------------------------


@pytest.mark.parametrize("shape", [(5,), (6, 1), (1,), (), (2, 6)])
@each_loss
def test_weights_must_match_the_rows(spec, shape):
    for name in spec.weights:
        views = _views(spec) | {name: torch.ones(shape)}
        with pytest.raises(ValueError, match=_grammar(spec.name, name)):
            spec(views)


@pytest.mark.parametrize("bad", [[1.0] * 6, np.ones(6), torch.ones(6).to(torch.cfloat)])
@each_loss
def test_weights_must_be_real_tensors(spec, bad):
    for name in spec.weights:
        with pytest.raises(TypeError, match=_grammar(spec.name, name)):
            spec(_views(spec) | {name: bad})


def test_integer_and_boolean_weights_are_welcome():
    for spec in SPECS:
        views = _views(spec)
        keep = torch.tensor([1, 1, 0, 1, 1, 1])
        values = [
            spec(views | dict.fromkeys(spec.weights, keep.to(dtype)))
            for dtype in (torch.float32, torch.int64, torch.bool)
        ]
        assert values[0] == values[1] == values[2]


@pytest.mark.parametrize("shape", [(6,), (6, 5), (1, 6, 6), (1, 1)])
def test_exclude_must_cover_every_pair(shape):
    z = torch.zeros(6, 3)
    with pytest.raises(ValueError, match=_grammar("info_nce", "exclude")):
        F.info_nce(z, z, exclude=torch.zeros(shape, dtype=torch.bool))


@pytest.mark.parametrize("shape", [(4,), (2, 3), (2, 4, 1)])
def test_ids_must_be_one_per_row(shape):
    z = torch.zeros(2, 4, 3)
    with pytest.raises(ValueError, match=_grammar("info_nce", "ids")):
        F.info_nce(z, z, ids=torch.zeros(shape, dtype=torch.int64))


@pytest.mark.parametrize("bad", [torch.zeros(4), [0, 1, 2, 3]])
def test_ids_must_be_integers(bad):
    z = torch.zeros(4, 3)
    with pytest.raises(TypeError, match=_grammar("info_nce", "ids")):
        F.info_nce(z, z, ids=bad)


@pytest.mark.parametrize("shape", [(4,), (3, 2), (4, 0)])
def test_positions_must_be_those_of_every_row(shape):
    z = torch.zeros(4, 3)
    with pytest.raises(ValueError, match=_grammar("info_nce", "positions")):
        F.info_nce(z, z, positions=torch.zeros(shape), exclude_radius=1.0)


def test_positions_must_be_a_real_tensor():
    z = torch.zeros(4, 3)
    for bad in ([[0.0, 1.0]] * 4, torch.zeros(4, 2, dtype=torch.complex64)):
        with pytest.raises(TypeError, match=_grammar("info_nce", "positions")):
            F.info_nce(z, z, positions=bad, exclude_radius=1.0)


def test_positions_and_radius_go_together():
    z = torch.zeros(4, 3)
    match = _grammar("info_nce", "exclude_radius")
    with pytest.raises(ValueError, match=match):
        F.info_nce(z, z, positions=torch.zeros(4, 2))
    with pytest.raises(ValueError, match=match):
        F.info_nce(z, z, exclude_radius=1.0)
    with pytest.raises(ValueError, match=match):
        xl.InfoNCELoss(exclude_radius=1.0)(z, z)


def test_exclude_must_be_boolean():
    z = torch.zeros(6, 3)
    for bad in (torch.zeros(6, 6), np.zeros((6, 6), dtype=bool)):
        with pytest.raises(TypeError, match=_grammar("info_nce", "exclude")):
            F.info_nce(z, z, exclude=bad)


@pytest.mark.parametrize("name", ["weight_a", "weight_b"])
def test_the_linear_estimator_takes_no_weights(name):
    z = torch.zeros(4, 3)
    with pytest.raises(ValueError, match=rf"^mmd: .*{name}.* must be .+, got .+"):
        F.mmd(z, z, estimator="linear", **{name: torch.ones(4)})


# Options, from the function and from the constructor -----------------------------

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
    with pytest.raises(exception, match=_grammar(name, option)):
        getattr(F, name)(z, z, **spec.labels_of(z, z), **{option: value})
    with pytest.raises(exception, match=_grammar(spec.module, option)):
        getattr(xl, spec.module)(**{option: value})


@pytest.mark.parametrize(("loss", "rows"), [(F.mmd, "1 row"), (F.coral, "2 rows")])
def test_how_many_rows_it_takes_is_said_in_words(loss, rows):
    with pytest.raises(ValueError, match=f"z_a must have at least {rows}, got shape"):
        loss(torch.zeros(0, 3), torch.zeros(4, 3))


@each_loss
def test_no_option_is_left_out(spec):
    refused = {option for name, option, *_ in OPTIONS if name == spec.name}
    assert set(_options(spec)) - refused <= GIVEN


@pytest.mark.parametrize("spec", [s for s in SPECS if s.terms], ids=repr)
def test_terms_check_what_they_take(spec):
    terms = getattr(F, f"{spec.name}_terms")
    with pytest.raises(TypeError, match=_grammar(f"{spec.name}_terms", "z_a")):
        terms(torch.zeros(4, 3, dtype=torch.int64), torch.zeros(4, 3))


def test_temperature_tensors_must_be_scalars():
    z = torch.randn(6, 4)
    for bad in (torch.ones(1), torch.ones(6), torch.tensor(1)):
        with pytest.raises(
            (ValueError, TypeError), match=_grammar("info_nce", "temperature")
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
