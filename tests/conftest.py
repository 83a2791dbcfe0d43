"""Profiles, seeds and devices."""

import os

import hypothesis
import numpy as np
import pytest
import torch

_COMMON = {
    "deadline": None,
    "suppress_health_check": [
        hypothesis.HealthCheck.too_slow,
        hypothesis.HealthCheck.function_scoped_fixture,
    ],
}
hypothesis.settings.register_profile("dev", max_examples=25, **_COMMON)
hypothesis.settings.register_profile(
    "ci", max_examples=100, derandomize=True, database=None, **_COMMON
)
hypothesis.settings.register_profile("nightly", max_examples=2000, **_COMMON)
hypothesis.settings.register_profile(
    "few", max_examples=5, derandomize=True, database=None, **_COMMON
)
hypothesis.settings.load_profile(os.environ.get("HYPOTHESIS_PROFILE", "dev"))

torch.set_num_threads(1)

collect_ignore = ["mutants.py"]  # a command, whose packages not everyone has


@pytest.fixture(autouse=True)
def _seed():
    torch.manual_seed(0)
    np.random.seed(0)  # noqa: NPY002  (estimators of scikit-learn read it)


def pytest_configure(config):
    """Let through what torch says to itself."""
    config.addinivalue_line(
        "filterwarnings",
        # Dynamo instantiates every autograd.Function it traces.
        "ignore:.*autograd.function.Function.* should not be instantiated"
        ":DeprecationWarning",
    )
    config.addinivalue_line(
        "filterwarnings", "ignore:Synchronization debug mode is a prototype"
    )


def pytest_collection_modifyitems(items):
    """Skip what needs a device that is not there."""
    if torch.cuda.is_available():
        return
    skip = pytest.mark.skip(reason="no CUDA device")
    for item in items:
        if item.get_closest_marker("cuda"):
            item.add_marker(skip)
