"""Losses of several views on W processes are those on one: values and gradients."""

from dataclasses import replace
from itertools import product

import numpy as np
import pytest
from numpy.testing import assert_allclose

from distributed import jobs
from distributed.test_across_ranks import CLOSE, splits
from view_specs import (
    VIEW_SPECS,
    ViewCase,
    each_covering_view_case,
    each_view_loss,
    value_and_grad,
)

pytestmark = pytest.mark.xdist_group("ranks")


def _assert_exact(answers, expected, factor, about=""):
    values = [float(value) for value, *_ in answers]
    assert_allclose(np.mean(values), expected[0], **CLOSE, err_msg=about)
    for of in range(1, len(expected)):
        ours = np.concatenate([answer[of] for answer in answers])
        scale = factor * max(1.0, float(expected[of].abs().max()))
        assert_allclose(
            ours / scale, factor * expected[of] / scale, **CLOSE, err_msg=about
        )


@pytest.mark.parametrize("size", [2, 3])
@each_covering_view_case
def test_value_and_gradients(pools, spec, case, size):
    inputs = spec.draw(replace(case, lead=()), 71)
    options = spec.always | case.options
    expected = value_and_grad(spec, inputs, **case.options)
    for counts in splits(case.rows, size):
        answers = pools(size)(jobs.views_loss, spec.name, inputs, counts, options)
        _assert_exact(answers, expected, size, str(counts))
        values = [float(value) for value, *_ in answers]
        assert_allclose(values, values[0], rtol=1e-12)  # all know it


@each_view_loss
def test_a_view_that_a_rank_lacks(pools, spec):
    """The rows of one rank are missing in one view, those of another in all."""
    inputs = spec.draw(ViewCase(rows=12, dims=spec.widths, masked=True), 72)
    inputs["mask"][0, :4] = False
    inputs["mask"][:, 4:8] = False
    expected = value_and_grad(spec, inputs)
    answers = pools(3)(jobs.views_loss, spec.name, inputs, (4, 4, 4), spec.always)
    _assert_exact(answers, expected, 3)


@pytest.mark.parametrize("lead", [(), (4,)], ids=["one", "four"])
@each_view_loss
def test_sums_and_frameworks_that_add_up(pools, spec, lead):
    case = ViewCase(rows=9, dims=spec.widths, lead=lead, weighted=True)
    inputs = spec.draw(case, 73)
    if lead:
        inputs["weight"][1] = 0.0  # a problem without weight
    for reduction, grad_reduce in product(("mean", "sum"), ("mean", "sum")):
        options = {"reduction": reduction}
        expected = value_and_grad(spec, inputs, **options)
        options = spec.always | options | {"grad_reduce": grad_reduce}
        counts = (3, 1) if lead else (6, 3)
        answers = pools(2)(jobs.views_loss, spec.name, inputs, counts, options)
        _assert_exact(answers, expected, 2 if grad_reduce == "mean" else 1)


@pytest.mark.parametrize("spec", VIEW_SPECS, ids=repr)
def test_one_step_under_ddp_is_the_step_of_one_process(pools, spec):
    inputs = spec.draw(ViewCase(rows=11, dims=spec.widths, masked=True), 74)
    expected = jobs.views_step(0, 1, spec.module, spec.always, inputs, None)
    for counts in splits(11, 2)[:2]:
        for parameters in pools(2)(
            jobs.views_step, spec.module, spec.always, inputs, counts
        ):
            for name, value in parameters.items():
                assert_allclose(value, expected[name], **CLOSE, err_msg=name)


@pytest.mark.parametrize("mutation", ["scaled", "a rank is left out"])
@each_view_loss
def test_a_wrong_scale_or_a_lost_rank_is_seen(pools, spec, mutation):
    inputs = spec.draw(ViewCase(dims=spec.widths), 75)
    expected = value_and_grad(spec, inputs)
    answers = pools(2)(
        jobs.views_loss, spec.name, inputs, (6, 6), spec.always, mutation
    )
    with pytest.raises(AssertionError):
        _assert_exact(answers, expected, 2)
