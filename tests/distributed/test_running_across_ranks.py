"""Running moments of the batches of all ranks are those of one process."""

import numpy as np
import pytest
from numpy.testing import assert_allclose

from distributed import jobs
from distributed.test_across_ranks import CLOSE, splits
from harness import Case
from specs import BY_NAME

pytestmark = pytest.mark.xdist_group("ranks")


@pytest.mark.parametrize("name", ["dcca", "vicreg", "coral"])
def test_running_moments(pools, name):
    batches = [BY_NAME[name].draw(Case(rows=(9, 9)), 95 + i) for i in range(3)]
    whole = [{"z_a": (9,), "z_b": (9,)}] * 3
    value, *grads, state = jobs.running(0, 1, name, batches, whole)
    counts = [dict.fromkeys(("z_a", "z_b"), some) for some in splits(9, 2)]
    answers = pools(2)(jobs.running, name, batches, counts)
    for own, *_, buffers in answers:
        assert_allclose(own, value, **CLOSE)
        for key, buffer in buffers.items():
            assert_allclose(buffer, state[key], **CLOSE, err_msg=key)
    for of, grad in enumerate(grads, 1):
        ours = np.concatenate([answer[of] for answer in answers])
        assert_allclose(ours / 2, grad, **CLOSE)
