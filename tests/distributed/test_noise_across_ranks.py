"""Noise regularisation on W processes is that of one."""

from itertools import product

import numpy as np
import pytest
from numpy.testing import assert_allclose

from distributed import jobs
from distributed.test_across_ranks import CLOSE, splits

pytestmark = pytest.mark.xdist_group("ranks")


@pytest.mark.parametrize("weighted", [False, True])
@pytest.mark.parametrize("corrected", [False, True])
@pytest.mark.parametrize("size", [2, 3])
def test_value_and_gradients(pools, size, corrected, weighted):
    rng = np.random.default_rng(81)
    x, noise = rng.normal(size=(2, 13, 4))
    f = rng.normal(size=(4, 3))
    inputs = {"z": np.tanh(x @ f), "z_noise": np.tanh(noise @ f)}
    inputs |= {"x": x, "noise": noise}
    if weighted:
        inputs["weight"] = rng.uniform(size=13)
    options = {"chance_corrected": corrected}
    expected = jobs.noise(0, 1, inputs, None, options)
    assert expected[0] > 1e-3
    for counts, exchange in product(splits(13, size), ("statistics", "gather")):
        told = options | {"exchange": exchange}
        answers = pools(size)(jobs.noise, inputs, counts, told)
        for value, *_ in answers:
            assert_allclose(value, expected[0], **CLOSE)
        for of in (1, 2):
            ours = np.concatenate([answer[of] for answer in answers])
            assert_allclose(ours / size, expected[of], **CLOSE)
