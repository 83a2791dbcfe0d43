"""Read aligned pairs of visible and infrared images from folders."""

from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

import torch.nn.functional as F
from torch import Tensor

from .images import DataError, read_image

__all__ = [
    "IR_FOLDER",
    "RGB_FOLDER",
    "DataError",
    "Files",
    "Pair",
    "find_pairs",
    "match_folders",
    "read_pair",
]

# The visible images also exist in high resolution, but with other proportions; these
# two folders share the pixel grid.
RGB_FOLDER = "crop_LR_visible"
IR_FOLDER = "cropinfrared"
SUFFIXES = {".jpg", ".jpeg", ".png", ".bmp", ".tif", ".tiff"}

# From the name of a pair to its visible and its infrared file.
Files = dict[str, tuple[Path, Path]]


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


def some(names: Iterable[str], most: int = 3) -> str:
    """List the first few names."""
    names = sorted(names)
    rest = len(names) - most
    return ", ".join(names[:most]) + (f" and {rest} more" if rest > 0 else "")


def image_files(folder: Path) -> dict[str, Path]:
    """Map stem to file. RoadScene's folders also hold a `Thumbs.db`."""
    if not folder.is_dir():
        raise DataError(f"{folder} is not a folder.")
    files: dict[str, Path] = {}
    for path in sorted(folder.iterdir()):
        if path.suffix.lower() in SUFFIXES:
            if path.stem in files:
                raise DataError(
                    f"{folder} holds both {files[path.stem].name} and {path.name}; "
                    "a name may stand for one image only."
                )
            files[path.stem] = path
    if not files:
        raise DataError(
            f"{folder} holds no images ({', '.join(sorted(SUFFIXES))} are looked for)."
        )
    return files


def match_folders(folder_a: Path, folder_b: Path) -> Files:
    """Pair the images of two folders by name, without the suffix; sorted.

    Raises:
        DataError: If a folder is missing or empty, or half of a pair is.
    """
    a, b = image_files(folder_a), image_files(folder_b)
    for here, there, folder in ((a, b, folder_b), (b, a, folder_a)):
        if alone := here.keys() - there.keys():
            first = here[min(alone)]
            raise DataError(
                f"{first} has no counterpart in {folder}: {len(alone)} of "
                f"{len(here)} names are missing there ({some(alone)})."
            )
    return {name: (a[name], b[name]) for name in a}


def find_pairs(root: str | Path) -> Files:
    """Map the name of every pair of RoadScene under `root` to its files, sorted.

    Raises:
        DataError: If a folder or one half of a pair is missing.
    """
    root = Path(root)
    if not root.is_dir():
        raise DataError(f"{root} is not a directory.")
    for folder in (RGB_FOLDER, IR_FOLDER):
        if not (root / folder).is_dir():
            raise DataError(
                f"{root / folder} is not a folder. The data directory must hold "
                f"{RGB_FOLDER}/ and {IR_FOLDER}/; for other folders, use --data-a "
                "and --data-b."
            )
    return match_folders(root / RGB_FOLDER, root / IR_FOLDER)


def read_pair(name: str, rgb_path: Path, ir_path: Path) -> Pair:
    """Read both halves.

    Raises:
        DataError: If one cannot be read, or they differ in size.
    """
    pair = Pair(name, read_image(rgb_path, 3), read_image(ir_path, 1))
    size_rgb, size_ir = (tuple(x.shape[:0:-1]) for x in (pair.rgb, pair.ir))
    if size_rgb != size_ir:
        raise DataError(
            f"{rgb_path} is {size_rgb[0]}×{size_rgb[1]} and {ir_path} is "
            f"{size_ir[0]}×{size_ir[1]}; aligned pairs must have equal sizes."
        )
    return pair
