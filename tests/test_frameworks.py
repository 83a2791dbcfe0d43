"""Under Lightning, Accelerate and the Trainer, two processes step as one does."""

import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch

from framework_job import JOBS
from test_api import ROOT

JOB = Path(__file__).with_name("framework_job.py")


def after_a_step(name, processes, folder):
    """Return the parameters before and after."""
    file = folder / f"{processes}.pt"
    launch = ["-m", "torch.distributed.run", "--standalone"]
    launch += ["--nproc-per-node", str(processes)]
    environment = os.environ | {
        "PYTHONPATH": str(ROOT),
        "OMP_NUM_THREADS": "1",
        "CUDA_VISIBLE_DEVICES": "",
    }
    done = subprocess.run(
        [sys.executable, *(launch if processes > 1 else []), str(JOB), name, str(file)],
        cwd=folder,
        env=environment,
        check=False,
        timeout=600,
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stderr
    return torch.load(file)


@pytest.mark.slow
@pytest.mark.peers
@pytest.mark.xdist_group("ranks")
@pytest.mark.parametrize("name", JOBS)
def test_two_processes_step_as_one(name, tmp_path):
    pytest.importorskip(name, exc_type=ImportError)
    before, one = after_a_step(name, 1, tmp_path)
    _, two = after_a_step(name, 2, tmp_path)
    for key in one:
        assert not torch.equal(one[key], before[key])
        torch.testing.assert_close(two[key], one[key], rtol=1e-5, atol=1e-6)
