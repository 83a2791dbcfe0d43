"""The control: a plain convolutional network where SwinFuse would be.

With the head, about 0.3 M parameters. Trained the same way, it says whether the task,
the data and the losses are right, and it is what SwinFuse is measured against.
"""

from torch import Tensor, nn

from .heads import conv

__all__ = ["SmallCNN"]


class SmallCNN(nn.Module):
    """Two convolutions, 7×7 pixels of context with the head's first.

    Shape:
        - Input: ``(B, in_chans, H, W)``, any H and W, values in [−1, 1].
        - Output: ``(B, 48, H, W)``.
    """

    dim = 48

    def __init__(self, *, in_chans: int = 1) -> None:
        super().__init__()
        self.body = nn.Sequential(conv(in_chans, 32), conv(32, self.dim))

    def forward(self, image: Tensor) -> Tensor:
        """Return the features of images ``(B, in_chans, H, W)``."""
        return self.body(image)
