"""Reconstruction: what SwinFuse was trained for, on the pairs at hand.

The authors train encoder and decoder to reconstruct single images, by L1 and MS-SSIM.
Their weights can hardly be had, so this stage stands in for them. Crops are smaller
than MS-SSIM's coarsest scale asks for: the structural term is SSIM (Wang, Bovik,
Sheikh & Simoncelli 2004) at one scale.
"""

from collections.abc import Iterator

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from tqdm import trange

from .patches import Batch
from .swinfuse import SwinFuse

__all__ = ["reconstruct", "ssim"]


def ssim(a: Tensor, b: Tensor, size: int = 7) -> Tensor:
    """Return the mean structural similarity of images in [−1, 1], in [−1, 1]."""

    def mean(x: Tensor) -> Tensor:
        return F.avg_pool2d(x, size, 1)

    c1, c2 = (0.01 * 2) ** 2, (0.03 * 2) ** 2  # of values that span 2
    mean_a, mean_b = mean(a), mean(b)
    var_a, var_b = mean(a * a) - mean_a**2, mean(b * b) - mean_b**2
    cov = mean(a * b) - mean_a * mean_b
    luminance = (2 * mean_a * mean_b + c1) / (mean_a**2 + mean_b**2 + c1)
    structure = (2 * cov + c2) / (var_a + var_b + c2)
    return (luminance * structure).mean()


LR = 3e-4  # tanh saturates, and stays so, where steps are large


def reconstruct(
    backbone: SwinFuse, batches: Iterator[Batch], steps: int, quiet: bool
) -> None:
    """Train encoder and decoder on both modalities of `steps` batches.

    Also a backbone that is frozen afterwards is trained here.
    """
    frozen = [p for p in backbone.parameters() if not p.requires_grad]
    backbone.requires_grad_(True)
    optimizer = torch.optim.AdamW(backbone.parameters(), lr=LR)
    scheduler = torch.optim.lr_scheduler.OneCycleLR(optimizer, LR, total_steps=steps)
    backbone.train()
    with trange(steps, desc="reconstruct", disable=quiet) as bar:
        for step in bar:
            batch = next(batches)
            images = torch.cat([batch.rgb, batch.ir])
            made = backbone.reconstruct(images)
            loss = F.l1_loss(made, images) + 1 - ssim(made, images)
            optimizer.zero_grad()
            loss.backward()
            nn.utils.clip_grad_norm_(backbone.parameters(), 1.0)
            optimizer.step()
            scheduler.step()
            if step % 10 == 0:
                bar.set_postfix(loss=f"{loss.item():.3f}")
    for parameter in frozen:
        parameter.requires_grad_(False)
