"""What is trained: a backbone, and the head that turns it into embeddings."""

from torch import Tensor, nn

from .cnn import SmallCNN
from .heads import ConvHead
from .settings import Settings
from .swinfuse import SwinFuse

__all__ = ["Features"]


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
            )
        else:
            self.backbone = SmallCNN()
        self.head = ConvHead(self.backbone.dim, stride=settings.stride)
        self.stride = settings.stride

    def forward(self, image: Tensor) -> tuple[Tensor, Tensor]:
        """Describe images."""
        return self.head(self.backbone(image))
