"""A projector of the rows of all ranks is that of one process."""

import numpy as np
import pytest
from numpy.testing import assert_allclose

from distributed import jobs
from distributed.test_across_ranks import splits
from reference.projector import components

pytestmark = pytest.mark.xdist_group("ranks")


@pytest.mark.parametrize("size", [2, 3])
def test_what_is_fitted_is_that_of_all_rows(pools, size):
    rng = np.random.default_rng(80)
    shared = rng.normal(size=(14, 3))
    inputs = {
        "z_a": shared + rng.normal(size=(14, 3)) + 4,
        "z_b": shared[:, :2] + rng.normal(size=(14, 2)),
    }
    rho, u, v = components(inputs["z_a"], inputs["z_b"], np.ones(14), 2, 1e-4)
    for counts in splits(14, size):
        for rank, state in enumerate(pools(size)(jobs.projector, inputs, counts)):
            assert_allclose(state["correlations"], rho, rtol=1e-9)
            for side, expected in (("a", u), ("b", v)):
                centred = inputs[f"z_{side}"] - state[f"mean_{side}"]
                got = centred @ state[f"projection_{side}"]
                assert_allclose(got, expected, rtol=1e-8, atol=1e-9)
            assert state["total"] == counts[rank]  # its own rows are its own
