"""The example's modules, and a tiny data set in RoadScene's layout."""

import sys
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

sys.path.insert(0, str(Path(__file__).parents[2] / "examples"))


@pytest.fixture
def tiny_data(tmp_path):
    """Three pairs of 20×16 pixels, and the file that Windows leaves behind."""
    root, rng = tmp_path / "data", np.random.default_rng(0)
    for folder, shape in (
        ("crop_LR_visible", (16, 20, 3)),
        ("cropinfrared", (16, 20)),
    ):
        (root / folder).mkdir(parents=True)
        for name in ("FLIR_00002", "FLIR_00001", "FLIR_video_00003"):
            pixels = rng.integers(0, 256, shape, dtype=np.uint8)
            Image.fromarray(pixels).save(root / folder / f"{name}.png")
        (root / folder / "Thumbs.db").write_bytes(b"no image")
    return root
