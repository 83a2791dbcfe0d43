"""Read one image file, grey or colour, of any usual depth, as numbers in [0, 1].

8 bits per channel are divided by 255. What is deeper (16-bit PNG or TIFF, 32-bit
integer or float TIFF) has no white level that could be known: a 14-bit thermal image
in a 16-bit file may use a hundredth of the range. Each such image is stretched so that
its 0.1st percentile becomes 0 and its 99.9th becomes 1, all channels alike, and cut off
there; dead pixels do not decide the range. Transparency is ignored.
"""

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import NamedTuple

import numpy as np
import torch
from PIL import Image, UnidentifiedImageError
from torch import Tensor

__all__ = ["LUMA", "DataError", "ImageInfo", "image_info", "luma", "read_image"]

LUMA = (0.299, 0.587, 0.114)


def luma(image: Tensor) -> Tensor:
    """Turn images ``(…, 3 | 1, H, W)`` grey, ``(…, 1, H, W)``."""
    if image.shape[-3] == 1:
        return image
    return torch.einsum("c,...chw->...hw", image.new_tensor(LUMA), image)[
        ..., None, :, :
    ]


PERCENTILES = (0.1, 99.9)
BITS_PER_SAMPLE = 258  # TIFF's number of this field
# What Pillow keeps at full depth; deep images in colour it cuts to 8 bits.
DEEP_GREY = {"I", "F", "I;16", "I;16L", "I;16B"}
GREY = {"1", "L", "LA", *DEEP_GREY}


class DataError(Exception):
    """The data set is not what it should be; the message names the file."""


class ImageInfo(NamedTuple):
    """What a file's header says."""

    width: int
    height: int
    channels: int  # 1 or 3
    bits: int  # per channel; less than 8 counts as 8


@contextmanager
def opened(path: Path) -> Iterator[Image.Image]:
    """Open an image; name it if it cannot be read."""
    try:
        with Image.open(path) as image:
            yield image
    except (
        UnidentifiedImageError,
        Image.DecompressionBombError,
        OSError,
        ValueError,
        SyntaxError,
    ) as error:
        raise DataError(f"{path} cannot be read as an image: {error}.") from error


def info(image: Image.Image, path: Path) -> ImageInfo:
    """Describe an open image."""
    bits = 8
    if image.format == "PNG":
        with path.open("rb") as file:
            bits = file.read(25)[24]  # Pillow's mode does not tell 16 bits in colour
    elif image.format == "TIFF":
        bits = max(image.tag_v2.get(BITS_PER_SAMPLE, (8,)))
    channels = 1 if image.mode in GREY else 3
    return ImageInfo(image.width, image.height, channels, max(bits, 8))


def image_info(path: Path) -> ImageInfo:
    """Return size, channels and depth without reading the pixels.

    Raises:
        DataError: If it is no image.
    """
    with opened(path) as image:
        return info(image, path)


def deep_colour(path: Path) -> np.ndarray:
    """Read what Pillow would cut to 8 bits: (H, W, 3)."""
    try:
        import cv2  # wanted for this kind of file alone
    except ImportError as error:
        raise DataError(
            f"{path} has more than 8 bits per channel in colour, which takes OpenCV "
            "to read. Install opencv-python-headless."
        ) from error
    encoded = np.frombuffer(path.read_bytes(), np.uint8)
    decoded = cv2.imdecode(encoded, cv2.IMREAD_UNCHANGED)
    if decoded is None:
        raise DataError(f"{path} cannot be read as an image: OpenCV refuses it.")
    return decoded[..., 2::-1]  # blue, green, red, perhaps alpha


def read_array(path: Path) -> np.ndarray:
    """Return the pixels (H, W, 1 or 3) as they are stored."""
    with opened(path) as image:
        _, _, channels, bits = info(image, path)
        if bits == 8:
            array = np.asarray(image.convert("L" if channels == 1 else "RGB"))
        elif image.mode in DEEP_GREY:
            array = np.asarray(image)
        else:
            image.load()  # says what is wrong with a damaged file; OpenCV does not
            array = deep_colour(path)
    return np.atleast_3d(array)


def stretched(values: np.ndarray, path: Path) -> np.ndarray:
    """Bring one deep image to [0, 1]; one without contrast becomes 0."""
    values = values.astype(np.float64)
    if not np.isfinite(values).all():
        raise DataError(f"{path} holds values that are not finite. Fill them first.")
    low, high = np.percentile(values, PERCENTILES)
    return ((values - low) / (high - low or np.inf)).clip(0, 1)


def read_image(path: Path, channels: int) -> Tensor:
    """Read one image as float32 ``(channels, H, W)`` in [0, 1].

    Args:
        path: The file.
        channels: 3: a grey image becomes three equal channels. 1: of colour, the luma.

    Raises:
        DataError: If it cannot be read, or holds what is no number.
    """
    array = read_array(path)
    array = array / 255 if array.dtype == np.uint8 else stretched(array, path)
    image = torch.from_numpy(array.astype(np.float32)).permute(2, 0, 1)
    if channels == 1 and len(image) == 3:
        image = luma(image)
    return image.expand(channels, -1, -1).contiguous()
