"""Bad input is refused at once, in one grammar, by functions and constructors.

``<callable>: <argument> must be|have <constraint>, got <value>. <remedy>``
"""

import re

import numpy as np
import pytest
import torch

import xmodal_losses as xl
import xmodal_losses.functional as F
from harness import Case, to_torch
from specs import SPECS, each_loss


def grammar(caller, argument, got=".+"):
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
    with pytest.raises(TypeError, match=grammar(spec.name, view)):
        spec(views)
    with pytest.raises(TypeError, match=grammar(spec.name, view)):
        spec.build({})(**views, **spec.labels_of(**views))


@pytest.mark.parametrize("shape", [(), (4,)])
@pytest.mark.parametrize("view", ["z_a", "z_b"])
@each_loss
def test_embeddings_must_be_rows(spec, view, shape):
    views = {"z_a": torch.zeros(4, 3), "z_b": torch.zeros(4, 3)}
    views[view] = torch.zeros(shape)
    message = grammar(spec.name, view, re.escape(f"shape {shape}"))
    with pytest.raises(ValueError, match=message):
        spec(views)


@pytest.mark.parametrize(
    ("shape_a", "shape_b"),
    [((2, 4, 3), (3, 4, 3)), ((4, 3), (1, 4, 3)), ((2, 1, 4, 3), (2, 4, 3))],
)
@each_loss
def test_leading_dimensions_must_agree(spec, shape_a, shape_b):
    got = re.escape(f"z_a {shape_a} and z_b {shape_b}")
    with pytest.raises(ValueError, match=grammar(spec.name, "z_a and z_b", got)):
        spec({"z_a": torch.zeros(shape_a), "z_b": torch.zeros(shape_b)})


@each_loss
def test_rows_must_agree_where_they_are_pairs(spec):
    views = _views(spec, rows=(6, 5))
    if spec.unequal_rows:
        assert spec(views).isfinite()
        return
    got = re.escape("z_a (6, 4) and z_b (5, 4)")
    with pytest.raises(ValueError, match=grammar(spec.name, "z_a and z_b", got)):
        spec(views)


@pytest.mark.parametrize("estimator", ["paired", "block", "linear"])
def test_rows_must_agree_for_paired_estimators(estimator):
    z = torch.zeros(6, 3)
    with pytest.raises(ValueError, match=grammar("mmd", "z_a and z_b")):
        F.mmd(z, z[:4], estimator=estimator)


@each_loss
def test_widths_must_agree(spec):
    views = _views(spec, dims=(4, 3))
    if spec.unequal_dims:
        assert spec(views).isfinite()
        return
    got = re.escape("z_a (6, 4) and z_b (6, 3)")
    with pytest.raises(ValueError, match=grammar(spec.name, "z_a and z_b", got)):
        spec(views)


@each_loss
def test_empty_batches_are_refused(spec):
    with pytest.raises(ValueError, match=grammar(spec.name, "z_a")):
        spec({"z_a": torch.zeros(0, 3), "z_b": torch.zeros(0, 3)})
    with pytest.raises(ValueError, match=grammar(spec.name, "z_a")):
        spec({"z_a": torch.zeros(4, 0), "z_b": torch.zeros(4, 0)})


@pytest.mark.parametrize("spec", [s for s in SPECS if s.shift == "separate"])
def test_second_moments_need_two_rows(spec):
    with pytest.raises(ValueError, match=grammar(spec.name, "z_a")):
        spec({"z_a": torch.zeros(1, 3), "z_b": torch.zeros(1, 3)})


@pytest.mark.parametrize("estimator", ["unbiased", "paired", "block", "linear"])
def test_u_statistics_need_two_rows(estimator):
    with pytest.raises(ValueError, match=grammar("mmd", "z_a")):
        F.mmd(torch.zeros(1, 3), torch.zeros(1, 3), estimator=estimator)


@pytest.mark.parametrize(("loss", "rows"), [(F.mmd, "1 row"), (F.coral, "2 rows")])
def test_how_many_rows_it_takes_is_said_in_words(loss, rows):
    with pytest.raises(ValueError, match=f"z_a must have at least {rows}, got shape"):
        loss(torch.zeros(0, 3), torch.zeros(4, 3))


# Tensors beside the views --------------------------------------------------------


@pytest.mark.parametrize("shape", [(5,), (6, 1), (1,), (), (2, 6)])
@each_loss
def test_weights_must_match_the_rows(spec, shape):
    for name in spec.weights:
        views = _views(spec) | {name: torch.ones(shape)}
        with pytest.raises(ValueError, match=grammar(spec.name, name)):
            spec(views)


@pytest.mark.parametrize("bad", [[1.0] * 6, np.ones(6), torch.ones(6).to(torch.cfloat)])
@each_loss
def test_weights_must_be_real_tensors(spec, bad):
    for name in spec.weights:
        with pytest.raises(TypeError, match=grammar(spec.name, name)):
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
    with pytest.raises(ValueError, match=grammar("info_nce", "exclude")):
        F.info_nce(z, z, exclude=torch.zeros(shape, dtype=torch.bool))


@pytest.mark.parametrize("shape", [(4,), (2, 3), (2, 4, 1)])
def test_ids_must_be_one_per_row(shape):
    z = torch.zeros(2, 4, 3)
    with pytest.raises(ValueError, match=grammar("info_nce", "ids")):
        F.info_nce(z, z, ids=torch.zeros(shape, dtype=torch.int64))


@pytest.mark.parametrize("bad", [torch.zeros(4), [0, 1, 2, 3]])
def test_ids_must_be_integers(bad):
    z = torch.zeros(4, 3)
    with pytest.raises(TypeError, match=grammar("info_nce", "ids")):
        F.info_nce(z, z, ids=bad)


@pytest.mark.parametrize("shape", [(4,), (3, 2), (4, 0)])
def test_positions_must_be_those_of_every_row(shape):
    z = torch.zeros(4, 3)
    with pytest.raises(ValueError, match=grammar("info_nce", "positions")):
        F.info_nce(z, z, positions=torch.zeros(shape), exclude_radius=1.0)


def test_positions_must_be_a_real_tensor():
    z = torch.zeros(4, 3)
    for bad in ([[0.0, 1.0]] * 4, torch.zeros(4, 2, dtype=torch.complex64)):
        with pytest.raises(TypeError, match=grammar("info_nce", "positions")):
            F.info_nce(z, z, positions=bad, exclude_radius=1.0)


def test_positions_and_radius_go_together():
    z = torch.zeros(4, 3)
    match = grammar("info_nce", "exclude_radius")
    with pytest.raises(ValueError, match=match):
        F.info_nce(z, z, positions=torch.zeros(4, 2))
    with pytest.raises(ValueError, match=match):
        F.info_nce(z, z, exclude_radius=1.0)
    with pytest.raises(ValueError, match=match):
        xl.InfoNCELoss(exclude_radius=1.0)(z, z)


def test_exclude_must_be_boolean():
    z = torch.zeros(6, 3)
    for bad in (torch.zeros(6, 6), np.zeros((6, 6), dtype=bool)):
        with pytest.raises(TypeError, match=grammar("info_nce", "exclude")):
            F.info_nce(z, z, exclude=bad)


@pytest.mark.parametrize("name", ["weight_a", "weight_b"])
def test_the_linear_estimator_takes_no_weights(name):
    z = torch.zeros(4, 3)
    with pytest.raises(ValueError, match=rf"^mmd: .*{name}.* must be .+, got .+"):
        F.mmd(z, z, estimator="linear", **{name: torch.ones(4)})
