"""Take the trained extractor elsewhere: one file, and one call per image."""

import os
from dataclasses import asdict, fields
from pathlib import Path
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn

from .checkpoint import read
from .data import DataError
from .model import Describer, Features
from .settings import Settings

__all__ = ["Extractor", "FeatureMap", "load_features", "save_features"]

KIND = "roadscene features, 1"


class FeatureMap(NamedTuple):
    """What :class:`Extractor` returns of a batch of images of one size."""

    maps: Tensor  # (B, D, h, w), of unit length along D
    points: Tensor  # (h, w, 2), the pixel (x, y) that each cell is centred on


class Extractor:
    """Unit features of whole images, of either modality: products are similarities.

    Args:
        describe: The model and what it is given.
    """

    def __init__(self, describe: Describer) -> None:
        self.describe = describe

    def __call__(self, image: Tensor) -> FeatureMap:
        """Describe images of any size, on any device.

        Args:
            image: ``(B, 3 or 1, H, W)``, floats in [0, 1]; colour is turned grey. What
                is left over at right and bottom when both sides are divided by the
                factor of the training's `downscale` is not looked at.

        Returns:
            Features and places of the cells, on the device of the extractor.

        Raises:
            TypeError: If the image is not of floats.
            ValueError: If it has another shape, or is smaller than that factor.
        """
        least = self.describe.downscale
        if not image.is_floating_point():
            raise TypeError(
                f"Extractor: image must be of floats in [0, 1], got {image.dtype}. "
                "Divide bytes by 255."
            )
        if image.ndim != 4 or image.shape[1] not in (1, 3):
            raise ValueError(
                "Extractor: image must have the shape (B, 1 or 3, H, W), got "
                f"{tuple(image.shape)}. Add the dimensions that it lacks."
            )
        if min(image.shape[2:]) < least:
            raise ValueError(
                f"Extractor: image must have at least {least}×{least} pixels, got "
                f"{image.shape[3]}×{image.shape[2]}."
            )
        maps, pitch, first = self.describe(image.float())
        rows, columns = (
            first + pitch * torch.arange(n, device=maps.device) for n in maps.shape[2:]
        )
        grid = torch.meshgrid(columns, rows, indexing="xy")
        return FeatureMap(maps, torch.stack(grid, dim=-1))


def save_features(path: Path, model: nn.Module, settings: Settings) -> None:
    """Write the weights of `model`, and the settings it was made with.

    An interrupted write leaves the old file.
    """
    state = {name: value.cpu() for name, value in model.state_dict().items()}
    scratch = path.with_suffix(".tmp")
    torch.save({"kind": KIND, "settings": asdict(settings), "model": state}, scratch)
    os.replace(scratch, path)


def load_features(path: str | Path, device: torch.device | str = "cpu") -> Extractor:
    """Read what `save_features` wrote; nothing in the file is executed.

    Raises:
        DataError: If it cannot be read, or is something else.
    """
    path = Path(path)
    content: Any = read(path)
    if not isinstance(content, dict) or content.get("kind") != KIND:
        raise DataError(f"{path} is not a file of features that a run has written.")
    if unknown := content["settings"].keys() - {
        field.name for field in fields(Settings)
    }:
        raise DataError(
            f"{path} was written by another version of the example: this one does not "
            f"know the settings {', '.join(sorted(unknown))}."
        )
    settings = Settings(**content["settings"])
    model = Features(settings)
    try:
        model.load_state_dict(content["model"])
    except RuntimeError as error:
        raise DataError(f"{path} does not fit the model: {error}") from error
    model = model.eval().requires_grad_(False).to(device)
    return Extractor(Describer(model, settings.downscale, device))
