"""What is trained: a backbone, and the head that turns it into embeddings."""

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from .cnn import SmallCNN
from .evaluate import Described
from .heads import HEADS
from .images import luma
from .patches import local_contrast
from .settings import Settings
from .swinfuse import SwinFuse

__all__ = ["Describer", "Features"]


class Features(nn.Module):
    """SwinFuse or the control, and a head: maps of (projection, unit embedding).

    Args:
        settings: Which backbone, and how much of it is run.

    Attributes:
        stride: Cell (i, j) of the maps sits on pixel (stride·i, stride·j).

    Shape:
        - Input: ``(B, 1, H, W)``, values in [−1, 1].
        - Outputs: ``(B, 128, ⌈H/stride⌉, ⌈W/stride⌉)``, both.
    """

    def __init__(self, settings: Settings) -> None:
        super().__init__()
        if settings.backbone == "swinfuse":
            self.backbone: nn.Module = SwinFuse(
                blocks_run=settings.blocks_run,
                stage=settings.stage,
                drop_path=settings.drop_path,
                checkpointing=settings.checkpointing,
            )
        else:
            self.backbone = SmallCNN()
        if settings.finetune == "head":
            self.backbone.requires_grad_(False)
        self.head = HEADS[settings.head](
            self.backbone.dim, stride=settings.stride, context=settings.context
        )
        self.stride = settings.stride

    def forward(self, image: Tensor) -> tuple[Tensor, Tensor]:
        """Describe images."""
        return self.head(self.backbone(image))


class Describer:
    """Turn whole images into unit features with a model, in evaluation mode.

    Args:
        model: As :class:`Features`.
        downscale: Pixels of the image per pixel of what the model is given.
        device: Where the model is.
    """

    def __init__(
        self, model: nn.Module, downscale: int, device: torch.device | str = "cpu"
    ) -> None:
        self.model, self.downscale, self.device = model, downscale, device

    @torch.no_grad()
    def __call__(self, image: Tensor, is_rgb: bool = False) -> Described:
        """Describe an image ``(1, 1 | 3, H, W)`` in [0, 1], of either modality."""
        del is_rgb  # one model for both
        image = luma(image.to(self.device))
        image = local_contrast(F.avg_pool2d(image, self.downscale))
        _, maps = self.model.eval()(image)
        pitch = self.downscale * self.model.stride
        return Described(maps, pitch, (self.downscale - 1) / 2)
