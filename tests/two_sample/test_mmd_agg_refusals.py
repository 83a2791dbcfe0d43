"""What MMDAgg refuses, and how it says so."""

import re

import pytest
import torch
from test_mmd_agg import KERNELS

import xmodal_losses as xl
from xmodal_losses.two_sample import mmd_agg

X, Y = torch.zeros(4, 3), torch.zeros(6, 3)
BAD = {
    "x must be a floating-point tensor of 16": (
        [[1.0]],
        X,
        {},
        TypeError,
    ),
    "y must be a floating-point tensor": (X, X.long(), {}, TypeError),
    "x must be a batch of rows": (X[0], X, {}, ValueError),
    "y must be one sample (N, D), got shape (2, 4, 3)": (
        X,
        torch.zeros(2, 4, 3),
        {},
        ValueError,
    ),
    "x must have at least 2 rows, got shape (1, 3)": (X[:1], X, {}, ValueError),
    "x must have at least 1 column": (X[:, :0], X[:, :0], {}, ValueError),
    "x and y must have the same number of columns, got x (4, 3) and y (4, 2)": (
        X,
        X[:, :2],
        {},
        ValueError,
    ),
    "x and y must be on the same device": (X, X.to("meta"), {}, ValueError),
    "x and y must be finite": (X, X.log().log(), {}, ValueError),
    "kernels must be finite": (
        torch.full((3, 3), 1e200, dtype=torch.float64),
        torch.zeros(3, 3, dtype=torch.float64),
        {"kernels": xl.LinearKernel()},
        ValueError,
    ),
    "distances must be finite in the pool": (
        torch.full((3, 3), 1e200, dtype=torch.float64),
        torch.zeros(3, 3, dtype=torch.float64),
        {"kernels": "gaussian"},
        ValueError,
    ),
    "alpha must be a finite number > 0 and < 1, got 0": (
        X,
        X,
        {"alpha": 0},
        ValueError,
    ),
    "alpha must be a finite number > 0 and < 1, got 1.0": (
        X,
        X,
        {"alpha": 1.0},
        ValueError,
    ),
    "alpha must be a number": (X, X, {"alpha": "5 %"}, TypeError),
    "kernels must be one of 'laplace'": (X, X, {"kernels": "rbf"}, ValueError),
    "kernels must be names or Kernels, one at least and not both, got []": (
        X,
        X,
        {"kernels": []},
        TypeError,
    ),
    "kernels must be names or Kernels, one at least and not both, got "
    "['imq', LinearKernel]": (
        X,
        X,
        {"kernels": ["imq", xl.LinearKernel()]},
        TypeError,
    ),
    "kernels must be a sequence of names or Kernels, got float": (
        X,
        X,
        {"kernels": 1.0},
        TypeError,
    ),
    "kernels must be names or Kernels, one at least and not both, got [int, float]": (
        X,
        X,
        {"kernels": (1, 1.0)},
        TypeError,
    ),
    "num_bandwidths must be >= 2, got 1": (X, X, {"num_bandwidths": 1}, ValueError),
    "num_bandwidths must be an integer": (X, X, {"num_bandwidths": 3.0}, TypeError),
    "weights must be one of 'uniform'": (X, X, {"weights": "equal"}, ValueError),
    "weights must be one per kernel (20), got 2": (
        X,
        X,
        {"weights": [1.0, 2.0]},
        ValueError,
    ),
    "weights[1] must be a finite number > 0, got 0.0": (
        X,
        X,
        {"kernels": KERNELS[:2], "weights": [1.0, 0.0]},
        ValueError,
    ),
    "paired must be True or False": (X, X, {"paired": 1}, TypeError),
    "x and y must have the same number of rows if paired, got 4 and 6": (
        X,
        Y,
        {"paired": True},
        ValueError,
    ),
    "ids must be a tensor of integers": (X, X, {"ids": X[:, 0]}, TypeError),
    "ids must be of shape (4,)": (X, X, {"ids": torch.arange(6)}, ValueError),
    "ids must be None for permutations": (X, Y, {"ids": torch.arange(4)}, ValueError),
    "resampling must be one of": (X, X, {"resampling": "wild"}, ValueError),
    "resampling must be 'wild_bootstrap' or 'auto' if paired": (
        X,
        X,
        {"resampling": "permutation", "paired": True},
        ValueError,
    ),
    "resampling must be 'permutation' or 'auto' for 4 and 6 rows": (
        X,
        Y,
        {"resampling": "wild_bootstrap"},
        ValueError,
    ),
    "num_diagonals must be >= 1": (X, X, {"num_diagonals": 0}, ValueError),
    "num_diagonals must be None for permutations": (
        X,
        Y,
        {"num_diagonals": 2},
        ValueError,
    ),
    "quantile_draws must be >= 1": (X, X, {"quantile_draws": 0}, ValueError),
    "level_draws must be an integer": (X, X, {"level_draws": 2e3}, TypeError),
    "level_draws must be >= 1/alpha - 1, got 98 for alpha=0.01": (
        X,
        X,
        {"level_draws": 98, "alpha": 0.01},
        ValueError,
    ),
    "chunk_size must be >= 1": (X, X, {"chunk_size": 0}, ValueError),
    "generator must be a torch.Generator or None, got int": (
        X,
        X,
        {"generator": 0},
        TypeError,
    ),
}


@pytest.mark.parametrize("message", BAD)
def test_bad_input_is_refused(message):
    x, y, options, error = BAD[message]
    with pytest.raises(error, match="^mmd_agg: " + re.escape(message)) as caught:
        mmd_agg(x, y, **options)
    assert re.match(r"mmd_agg: .+ must (be|have) .+, got .+", str(caught.value))


def test_a_kernel_that_maps_rows_has_a_test_of_its_own():
    """Its features would have to be made once, not for every tile of every draw."""
    x = torch.randn(6, 4)
    deep = xl.DeepKernel(torch.nn.Linear(4, 2))
    with pytest.raises(TypeError, match=r"^mmd_agg: kernels\[1\] must be a kernel"):
        mmd_agg(x, x + 1, kernels=[xl.GaussianKernel(1.0), deep])
