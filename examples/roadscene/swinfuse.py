"""SwinFuse's feature extractor: three residual stages of window attention.

Patch size 1, so tokens are pixels: every stage keeps the resolution and the width
96. A stage is six Swin blocks (window 7, every second one shifted by 3) and its
input is added to its output. Architecture: Wang, Chen, Shao, Li & Zhang, "SwinFuse:
A Residual Swin Transformer Fusion Network for Infrared and Visible Images", IEEE TIM
2022, arXiv:2204.11436. Written from the published description; parameter names and
shapes equal those of the released model, so that its weights load.

The released code leaves each stage after the first block, so only `blocks.0` of its
stages ever ran, and saw nothing beyond its own 7×7 cell. `blocks_run=1` gives those
features; 2 adds one shifted block per stage; 6 is the paper.
"""

from functools import lru_cache
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

__all__ = ["SwinFuse"]

WINDOW = 7
SHIFT = WINDOW // 2


def to_windows(tokens: Tensor) -> Tensor:
    """Cut ``(B, H, W, C)`` into its 7×7 windows, ``(B, windows, 49, C)``."""
    b, h, w, c = tokens.shape
    cells = tokens.view(b, h // WINDOW, WINDOW, w // WINDOW, WINDOW, c)
    return cells.transpose(2, 3).reshape(b, -1, WINDOW * WINDOW, c)


def from_windows(windows: Tensor, height: int, width: int) -> Tensor:
    """Undo :func:`to_windows`."""
    b, _, _, c = windows.shape
    cells = windows.view(b, height // WINDOW, width // WINDOW, WINDOW, WINDOW, c)
    return cells.transpose(2, 3).reshape(b, height, width, c)


@lru_cache(maxsize=32)
def shift_mask(height: int, width: int, device: torch.device | None = None) -> Tensor:
    """Return what a shifted window must not mix, ``(windows, 49, 49)``: 0 or −100.

    Rolling the image by the shift brings its far edges into one window; tokens that
    were not neighbours before the roll must not see each other.
    """

    def bands(length: int) -> Tensor:
        index = torch.arange(length)
        return (index >= length - WINDOW).int() + (index >= length - SHIFT).int()

    regions = 3 * bands(height)[:, None] + bands(width)
    region = to_windows(regions[None, :, :, None])[0, :, :, 0]
    mask = -100.0 * (region[:, :, None] != region[:, None, :]).float()
    return mask.to(device)


def relative_position_index() -> Tensor:
    """Return the table row of every pair of positions in a window, ``(49, 49)``."""
    axis = torch.arange(WINDOW)
    y, x = (grid.flatten() for grid in torch.meshgrid(axis, axis, indexing="ij"))
    dy = y[:, None] - y[None, :] + WINDOW - 1
    dx = x[:, None] - x[None, :] + WINDOW - 1
    return dy * (2 * WINDOW - 1) + dx


class DropPath(nn.Module):
    """Drop a whole residual branch per sample with probability `rate`."""

    def __init__(self, rate: float) -> None:
        super().__init__()
        self.rate = rate

    def forward(self, x: Tensor) -> Tensor:
        if not self.training or self.rate == 0.0:
            return x
        keep = torch.rand(len(x), *[1] * (x.dim() - 1), device=x.device) >= self.rate
        return x * keep / (1.0 - self.rate)


class WindowAttention(nn.Module):
    """Self-attention inside each window, with a learned bias per displacement."""

    def __init__(self, dim: int, heads: int) -> None:
        super().__init__()
        self.heads = heads
        self.relative_position_bias_table = nn.Parameter(
            torch.zeros((2 * WINDOW - 1) ** 2, heads)
        )
        self.register_buffer("relative_position_index", relative_position_index())
        self.qkv = nn.Linear(dim, 3 * dim)
        self.proj = nn.Linear(dim, dim)

    def forward(self, windows: Tensor, mask: Tensor | None) -> Tensor:
        b, n, t, c = windows.shape
        qkv = self.qkv(windows).view(b, n, t, 3, self.heads, c // self.heads)
        q, k, v = qkv.permute(3, 0, 1, 4, 2, 5)  # each (B, windows, heads, 49, c/heads)
        bias = self.relative_position_bias_table[self.relative_position_index]
        bias = bias.permute(2, 0, 1)
        if mask is not None:
            bias = bias + mask[:, None].to(bias)
        out = F.scaled_dot_product_attention(q, k, v, attn_mask=bias)
        return self.proj(out.transpose(2, 3).reshape(b, n, t, c))


class MLP(nn.Module):
    """Two linear layers with a GELU between."""

    def __init__(self, dim: int, hidden: int) -> None:
        super().__init__()
        self.fc1 = nn.Linear(dim, hidden)
        self.fc2 = nn.Linear(hidden, dim)

    def forward(self, x: Tensor) -> Tensor:
        return self.fc2(F.gelu(self.fc1(x)))


class SwinBlock(nn.Module):
    """Window attention and an MLP, each on normalised input and added to it."""

    def __init__(
        self, dim: int, heads: int, shift: int, drop_path: float, img_size: int | None
    ) -> None:
        super().__init__()
        self.shift = shift
        self.norm1 = nn.LayerNorm(dim)
        self.attn = WindowAttention(dim, heads)
        self.drop_path = DropPath(drop_path)
        self.norm2 = nn.LayerNorm(dim)
        self.mlp = MLP(dim, 4 * dim)
        # The released file carries these masks. They follow from the size alone, so
        # forward computes its own, and any image size works.
        if shift and img_size is not None:
            self.register_buffer("attn_mask", shift_mask(img_size, img_size).clone())

    def forward(self, x: Tensor) -> Tensor:
        _, h, w, _ = x.shape
        y = self.norm1(x)
        if self.shift:
            y = y.roll((-self.shift, -self.shift), dims=(1, 2))
        mask = shift_mask(h, w, x.device) if self.shift else None
        y = from_windows(self.attn(to_windows(y), mask), h, w)
        if self.shift:
            y = y.roll((self.shift, self.shift), dims=(1, 2))
        x = x + self.drop_path(y)
        return x + self.drop_path(self.mlp(self.norm2(x)))

    def _load_from_state_dict(
        self, state_dict: dict[str, Tensor], prefix: str, *args: Any
    ) -> None:
        # A mask that was saved for another image size is passed over.
        if not hasattr(self, "attn_mask"):
            state_dict.pop(f"{prefix}attn_mask", None)
        super()._load_from_state_dict(state_dict, prefix, *args)


class Stage(nn.Module):
    """Six blocks, of which the first `blocks_run` are executed."""

    def __init__(
        self,
        dim: int,
        heads: int,
        blocks_run: int,
        drop_path: list[float],
        img_size: int | None,
        checkpointing: bool,
    ) -> None:
        super().__init__()
        self.blocks_run, self.checkpointing = blocks_run, checkpointing
        self.blocks = nn.ModuleList(
            SwinBlock(dim, heads, SHIFT * (i % 2), rate, img_size)
            for i, rate in enumerate(drop_path)
        )

    def forward(self, x: Tensor) -> Tensor:
        for block in self.blocks[: self.blocks_run]:
            if self.checkpointing and torch.is_grad_enabled():
                x = checkpoint(block, x, use_reentrant=False)
            else:
                x = block(x)
        return x


class PatchEmbed(nn.Module):
    """Lift each pixel to `dim` channels and normalise it."""

    def __init__(self, in_chans: int, dim: int) -> None:
        super().__init__()
        self.proj = nn.Conv2d(in_chans, dim, 1)
        self.norm = nn.LayerNorm(dim)

    def forward(self, image: Tensor) -> Tensor:
        return self.norm(self.proj(image).permute(0, 2, 3, 1))


class SwinFuse(nn.Module):
    """SwinFuse's encoder, with every name of the released model.

    Args:
        blocks_run: Blocks executed per stage, 1 to 6; see the file's docstring.
        stage: ``"last"``, the normalised output of the third stage, or
            ``"penultimate"``, that of the second, normalised without parameters.
        drop_path: Largest stochastic-depth rate, reached by the last of the 18
            blocks. The authors train with 0.2.
        img_size: If given, a multiple of 7: keep the shifted blocks' masks for this
            square size in the state_dict, as the released file does (224). None
            leaves them out and ignores them on loading.
        in_chans: Channels of the image.
        checkpointing: Keep one activation per block, and compute the others again for
            the gradient: a fifth of the memory, a third more time.

    Shape:
        - Input: ``(B, in_chans, H, W)``, any H and W, values in [−1, 1].
        - Output: ``(B, 96, H, W)``.
    """

    dim = 96

    def __init__(
        self,
        *,
        blocks_run: int = 1,
        stage: str = "last",
        drop_path: float = 0.0,
        img_size: int | None = None,
        in_chans: int = 1,
        checkpointing: bool = False,
    ) -> None:
        super().__init__()
        if not 1 <= blocks_run <= 6:
            raise ValueError(
                f"SwinFuse: blocks_run must be in [1, 6], got {blocks_run}."
            )
        if stage not in ("last", "penultimate"):
            raise ValueError(
                f"SwinFuse: stage must be 'last' or 'penultimate', got {stage!r}."
            )
        if img_size is not None and img_size % WINDOW:
            raise ValueError(
                f"SwinFuse: img_size must be a multiple of {WINDOW}, got {img_size}."
            )
        self.stage = stage
        dim = self.dim
        rates = torch.linspace(0.0, drop_path, 18).tolist()
        rest = img_size, checkpointing
        self.patch_embed = PatchEmbed(in_chans, dim)
        self.EN1_0 = Stage(dim, 1, blocks_run, rates[:6], *rest)
        self.EN2_0 = Stage(dim, 2, blocks_run, rates[6:12], *rest)
        self.EN3_0 = Stage(dim, 4, blocks_run, rates[12:], *rest)
        self.norm = nn.LayerNorm(dim)
        self.conv = nn.Conv2d(dim, in_chans, 1)
        # Two modules the released code never calls: kept for their names.
        self.norm_up = nn.LayerNorm(2 * dim)
        self.prelu = nn.PReLU()
        self.apply(self._init)

    @staticmethod
    def _init(module: nn.Module) -> None:
        # The authors draw with std 0.02, which makes every block start as the
        # identity; from random weights and in few steps that does not train.
        if isinstance(module, nn.Linear):
            nn.init.xavier_uniform_(module.weight)
            nn.init.zeros_(module.bias)
        elif isinstance(module, WindowAttention):
            nn.init.trunc_normal_(module.relative_position_bias_table, std=0.02)

    def forward(self, image: Tensor) -> Tensor:
        """Return the features of images ``(B, in_chans, H, W)``."""
        *_, h, w = image.shape
        # Whole windows: repeat the last row and column (mirroring would need an
        # image larger than the padding), and cut them off again at the end.
        image = F.pad(image, (0, -w % WINDOW, 0, -h % WINDOW), mode="replicate")
        x = self.patch_embed(image)
        x = self.EN1_0(x) + x
        x = self.EN2_0(x) + x
        if self.stage == "last":
            x = self.norm(self.EN3_0(x) + x)
        else:
            x = F.layer_norm(x, (self.dim,))
        return x[:, :h, :w].permute(0, 3, 1, 2)

    def reconstruct(self, image: Tensor) -> Tensor:
        """Return images ``(B, in_chans, H, W)`` made of their features."""
        return self.conv(self(image)).tanh()
