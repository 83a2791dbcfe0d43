"""The example under torchrun: the numbers of one process, and its files once."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from numpy.testing import assert_allclose
from roadscene.patches import Batch
from roadscene.processes import Processes, SharedBatchNorm, share_batch_norm
from torch import nn

EXAMPLES = Path(__file__).parents[2] / "examples"
TINY = (
    *("--steps=4", "--batch-size=3", "--crop-size=28", "--grid=4", "--downscale=8"),
    *(
        "--validate-every=2",
        "--validation-pairs=1",
        "--test-pairs=2",
        "--device=cpu",
        "--precision=float32",
    ),
)
# The script with a few of the made scenes.
FEW_SCENES = f"""
import sys
sys.path.insert(0, {str(EXAMPLES)!r})
import roadscene_swinfuse as script
from roadscene import sources
names = [f"scene_{{i:03d}}" for i in range(8)]
sources.SYNTHETIC_SPLIT = sources.SYNTHETIC_SPLIT._replace(
    train=names[:4], validation=names[4:6], test=names[6:]
)
script.main(sys.argv[1:])
"""


def run(folder, processes, *flags):
    """Run the script; return what it printed."""
    script = folder / "few_scenes.py"
    script.write_text(FEW_SCENES)
    launcher = [sys.executable]
    if processes > 1:
        launcher += ["-m", "torch.distributed.run", "--standalone"]
        launcher += [f"--nproc-per-node={processes}"]
    environment = {k: v for k, v in os.environ.items() if k != "ROADSCENE_DIR"}
    done = subprocess.run(
        [*launcher, str(script), *TINY, *flags],
        env=environment | {"OMP_NUM_THREADS": "1"},
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    return done.stdout


def terms(folder):
    return json.loads((folder / "metrics.json").read_text("utf-8"))["terms"]


@pytest.mark.slow
@pytest.mark.skipif(not torch.distributed.is_available(), reason="torch has none")
def test_two_processes_are_one(tmp_path):
    one, two, resumed = tmp_path / "one", tmp_path / "two", tmp_path / "resumed"
    run(tmp_path, 1, f"--out={one}")
    printed = run(tmp_path, 2, f"--out={two}")  # two pairs on one, one on the other
    assert printed.count("retrieval top-1 (%)") == 1
    assert printed.count("github.com/jiayi-ma/RoadScene") == 1
    assert {p.name for p in two.iterdir()} == {p.name for p in one.iterdir()}
    # Adam turns rounding of a gradient near 0 into whole steps: weights that differ
    # by 1e-7 at first mean losses that differ by up to 6e-5 after one step, and by
    # 7e-3 after two.
    expected = terms(one)
    for name, values in terms(two).items():
        for step, tolerance in enumerate((1e-5, 1e-3, 5e-2, 5e-2)):
            assert_allclose(
                values[step], expected[name][step], rtol=tolerance, err_msg=name
            )

    # In half precision, which is the default where a processor has it.
    half = tmp_path / "half"
    run(tmp_path, 2, f"--out={half}", "--precision=bfloat16")
    for name, values in terms(half).items():
        assert_allclose(values[0], expected[name][0], rtol=0.1, err_msg=name)

    run(tmp_path, 2, f"--out={resumed}", "--stop-at=2")
    run(tmp_path, 1, f"--out={resumed}", "--resume")
    for name, values in terms(resumed).items():
        assert_allclose(values, expected[name], rtol=5e-2, err_msg=name)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_batch_norm_of_one_process_is_that_of_torch(dtype):
    model = nn.Sequential(nn.BatchNorm2d(3), nn.BatchNorm2d(3, affine=False))
    shared = nn.Sequential(nn.BatchNorm2d(3), nn.BatchNorm2d(3, affine=False))
    share_batch_norm(shared)
    assert all(isinstance(module, SharedBatchNorm) for module in shared)
    torch.distributed.init_process_group(
        "gloo", store=torch.distributed.HashStore(), rank=0, world_size=1
    )
    try:
        for _ in range(2):
            x = (3 + torch.randn(4, 3, 5, 5)).to(dtype).requires_grad_()
            y = x.detach().clone().requires_grad_()
            for one, z in ((model, x), (shared, y)):
                # What comes in half precision, as under autocast, leaves in it.
                out = one(z)
                assert out.dtype == dtype
                (out.float() ** 3).sum().backward()
            tolerance = 1e-5 if dtype == torch.float32 else 0.05
            assert_allclose(y.grad.float(), x.grad.float(), atol=tolerance)
    finally:
        torch.distributed.destroy_process_group()
    for name, value in model.state_dict().items():
        assert_allclose(
            shared.state_dict()[name], value, rtol=1e-5, atol=1e-6, err_msg=name
        )


@pytest.mark.parametrize("size", [1, 2, 3, 5])
def test_pairs_are_divided_among_processes(size):
    batch = Batch(*(torch.arange(5) + field for field in range(6)))
    parts = [Processes(size, rank).share(batch) for rank in range(size)]
    for whole, *own in zip(batch, *parts, strict=True):
        assert torch.equal(torch.cat(own), whole)
        assert all(len(part) for part in own)
