"""The projection head: from tokens to one embedding per cell."""

import torch.nn.functional as F
from torch import Tensor, nn

__all__ = ["HEADS", "ConvHead", "PatchHead"]


def conv(inputs: int, outputs: int, stride: int = 1) -> nn.Sequential:
    """Return a 3×3 convolution, batch normalisation and ReLU.

    Replicate padding: zeros would tell the network how far the border is, and in
    aligned pairs that distance alone identifies the match.
    """
    return nn.Sequential(
        nn.Conv2d(inputs, outputs, 3, stride, 1, padding_mode="replicate", bias=False),
        nn.BatchNorm2d(outputs),
        nn.ReLU(),
    )


class Context(nn.Module):
    """Add to cells ``(B, dim, h, w)`` what lies up to three cells around them.

    A 7×7 convolution of each channel, then one across channels: a twentieth of the
    parameters and the products of 3×3 convolutions with that reach.
    """

    def __init__(self, dim: int) -> None:
        super().__init__()
        wide = {"padding": 3, "padding_mode": "replicate", "groups": dim}
        self.branch = nn.Sequential(
            nn.Conv2d(dim, dim, 7, bias=False, **wide),
            nn.BatchNorm2d(dim),
            nn.Conv2d(dim, dim, 1, bias=False),
            nn.BatchNorm2d(dim),
            nn.ReLU(),
        )

    def forward(self, cells: Tensor) -> Tensor:
        return cells + self.branch(cells)


class ConvHead(nn.Module):
    """Return ``(projection, embedding)`` maps of a half or a quarter of the resolution.

    Tokens see at most their own 7×7 window when one block per stage is run; the
    convolutions give a cell the 13×13 pixels around it, 17×17 at a quarter, and each
    layer of `context` three more cells on every side: what tells one piece of kerb from
    the next lies there, and on cells it costs little. Cell ``(i, j)`` sits on pixel
    ``(stride·i, stride·j)``. Batch normalisation is what lets it learn from random
    weights, and keeps the dimensions of the projection at unit variance.

    Args:
        dim: Width of the tokens.
        out_dim: Width of the embedding.
        stride: Pixels per cell, 2 or 4.
        context: Layers that look at the cells around.

    Shape:
        - Input: ``(B, dim, H, W)``.
        - Outputs: ``(B, out_dim, ⌈H/stride⌉, ⌈W/stride⌉)``: the projection, which the
          moment losses take, and the same normalised to unit length.
    """

    def __init__(
        self, dim: int = 96, out_dim: int = 128, stride: int = 2, context: int = 0
    ) -> None:
        super().__init__()
        self.body = nn.Sequential(
            conv(dim, 64),
            conv(64, 96, stride=2),
            conv(96, 96, stride=stride // 2),
            conv(96, 128),
        )
        self.context = nn.Sequential(*(Context(128) for _ in range(context)))
        self.project = nn.Sequential(
            nn.Conv2d(128, out_dim, 1, bias=False),
            nn.BatchNorm2d(out_dim, affine=False),
        )

    def forward(self, tokens: Tensor) -> tuple[Tensor, Tensor]:
        """Project the tokens ``(B, dim, H, W)``."""
        projection = self.project(self.context(self.body(tokens)))
        return projection, F.normalize(projection, dim=1)


class PatchHead(ConvHead):
    """One linear map of the 9×9 tokens around a cell, between two of single tokens.

    Shapes and arguments as of :class:`ConvHead`. It learns slower.
    """

    def __init__(
        self, dim: int = 96, out_dim: int = 128, stride: int = 2, context: int = 0
    ) -> None:
        super().__init__(dim, out_dim, stride, context)
        self.body = nn.Sequential(
            nn.Conv2d(dim, 24, 1, bias=False),
            nn.BatchNorm2d(24),
            nn.GELU(),
            nn.Conv2d(24, 128, 9, stride, 4, padding_mode="replicate", bias=False),
            nn.BatchNorm2d(128),
            nn.GELU(),
        )


HEADS = {"conv": ConvHead, "patch": PatchHead}
