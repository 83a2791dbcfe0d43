"""Read aligned RGB–IR pairs from RoadScene's folders."""

from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F
from PIL import Image, UnidentifiedImageError
from torch import Tensor

__all__ = ["IR_FOLDER", "RGB_FOLDER", "DataError", "Pair", "find_pairs", "read_pair"]

# The visible images also exist in high resolution, but with other proportions; these
# two folders share the pixel grid.
RGB_FOLDER = "crop_LR_visible"
IR_FOLDER = "cropinfrared"
SUFFIXES = {".jpg", ".jpeg", ".png", ".bmp"}


class DataError(Exception):
    """The data set is not what it should be; the message names the file."""


@dataclass(frozen=True)
class Pair:
    """One scene in both modalities, on one pixel grid, values in [0, 1]."""

    name: str
    rgb: Tensor  # (3, H, W)
    ir: Tensor  # (1, H, W)

    def downscaled(self, factor: int) -> "Pair":
        """Average factor × factor blocks; a remainder at right or bottom is cut."""
        return Pair(
            self.name, F.avg_pool2d(self.rgb, factor), F.avg_pool2d(self.ir, factor)
        )


def image_files(folder: Path) -> dict[str, Path]:
    """Map stem to file. RoadScene's folders also hold a `Thumbs.db`."""
    if not folder.is_dir():
        raise DataError(
            f"{folder} is not a folder. The data directory must hold "
            f"{RGB_FOLDER}/ and {IR_FOLDER}/."
        )
    files = (path for path in folder.iterdir() if path.suffix.lower() in SUFFIXES)
    return {path.stem: path for path in sorted(files)}


def read_image(path: Path, mode: str) -> Tensor:
    """Read one image as float (C, H, W) in [0, 1]."""
    try:
        with Image.open(path) as image:
            array = np.asarray(image.convert(mode))
    except (UnidentifiedImageError, OSError, ValueError, SyntaxError) as error:
        raise DataError(f"{path} cannot be read as an image: {error}.") from error
    array = array.reshape(*array.shape[:2], -1).transpose(2, 0, 1)
    return torch.from_numpy(array.copy()).float() / 255


def read_pair(name: str, rgb_path: Path, ir_path: Path) -> Pair:
    """Read both halves.

    Raises:
        DataError: If one cannot be read, or they differ in size.
    """
    pair = Pair(name, read_image(rgb_path, "RGB"), read_image(ir_path, "L"))
    size_rgb, size_ir = (tuple(x.shape[:0:-1]) for x in (pair.rgb, pair.ir))
    if size_rgb != size_ir:
        raise DataError(
            f"{rgb_path} is {size_rgb[0]}×{size_rgb[1]} and {ir_path} is "
            f"{size_ir[0]}×{size_ir[1]}; aligned pairs must have equal sizes."
        )
    return pair


def find_pairs(root: str | Path) -> dict[str, tuple[Path, Path]]:
    """Map the name of every pair under `root` to its two files, sorted.

    Raises:
        DataError: If a folder or one half of a pair is missing.
    """
    root = Path(root)
    if not root.is_dir():
        raise DataError(f"{root} is not a directory.")
    rgb, ir = image_files(root / RGB_FOLDER), image_files(root / IR_FOLDER)
    for name in sorted(rgb.keys() ^ ir.keys()):
        here, missing = (rgb, IR_FOLDER) if name in rgb else (ir, RGB_FOLDER)
        raise DataError(f"{here[name]} has no counterpart in {root / missing}.")
    if not rgb:
        raise DataError(f"{root / RGB_FOLDER} holds no images.")
    return {name: (rgb[name], ir[name]) for name in rgb}
