"""
What is alike stays alike
=========================

A drive through a town: 96 pictures, each much like the one before, and the last part
leads through the street where it began. Both cameras know as much, each in a space of
its own. The matrices tell how alike pictures are, within a modality and across.

Rows of *b* go down the gradient of a loss; those of *a* stay.

- :func:`InfoNCE <xmodal_losses.functional.info_nce>` takes all pictures but the partner
  for negatives: the one before, and the same street again. Of how alike they are, much
  is lost.
- :func:`Similarity preservation <xmodal_losses.functional.similarity_preservation>` has
  it that pictures are as alike across as they are within.
- **Its default holds the target constant**, which serves encoders that other losses
  train. Left alone, nothing keeps *b* what it was: the target moves along, and the rows
  end up in a few heaps.

Below, one row of each matrix: how alike the pictures of *b* are to the marked one of
*a*. Grey is how alike those of *a* are to it.
"""

import math

import matplotlib.pyplot as plt
import torch
from torch.nn.functional import normalize

import xmodal_losses.functional as F

PICTURES, AGAIN, MARKED = 96, 72, 12
generator = torch.Generator().manual_seed(0)


def drive():
    """Return a picture's place, as waves of the way that is driven."""
    way = torch.arange(PICTURES) / AGAIN * 2 * math.pi  # after 72 pictures, again
    waves = torch.arange(1, 9)
    angles = waves * way[:, None]
    heights = torch.exp(-((waves / 5.0) ** 2))
    return normalize(torch.cat([heights * angles.cos(), heights * angles.sin()], 1))


z_a = drive()
turn = torch.linalg.qr(torch.randn(16, 16, generator=generator)).Q
start = z_a @ turn  # of the same shape, in another space


def descend(loss, steps=400):
    """Return the rows of b after some steps down the gradient of a loss."""
    z_b = start.clone().requires_grad_()
    optimizer = torch.optim.Adam([z_b], lr=0.03)
    for _ in range(steps):
        optimizer.zero_grad()
        loss(z_a, z_b).backward()
        optimizer.step()
    return normalize(z_b.detach())


def preserve(z_a, z_b):
    return F.similarity_preservation(z_a, z_b, detach_target=False)


within = z_a @ z_a.T
across = {
    "before": z_a @ start.T,
    "InfoNCE": z_a @ descend(F.info_nce).T,
    "similarity\npreservation": z_a @ descend(preserve).T,
    "its target\nconstant": z_a @ descend(F.similarity_preservation).T,
}

figure, axes = plt.subplots(2, 5, figsize=(6.8, 3.4), height_ratios=[1.2, 1])
shown = {"within a,\nwithin b": within, **across}
for (top, bottom), (title, matrix) in zip(axes.T, shown.items(), strict=True):
    top.imshow(matrix, cmap="RdBu", vmin=-1, vmax=1)
    top.axhline(MARKED, color="C4", lw=1)
    top.set_title(title, loc="center", fontsize=9)
    top.set(xticks=[], yticks=[])
    top.spines[:].set(visible=True)
    bottom.plot(within[MARKED], color="0.8", lw=4)
    bottom.plot(matrix[MARKED], color="C0" if matrix is within else "C1", lw=1.2)
    bottom.axvline(MARKED, color="C4", lw=1, zorder=0)
    bottom.set(ylim=(-1, 1.05), xticks=[], yticks=[-1, 0, 1], xlabel="pictures of b")
    bottom.label_outer()
plt.show()

before, contrast, preserved, drifted = across.values()
again = MARKED, MARKED + AGAIN
assert within[again] > 0.99 > 0.8 > contrast[again]
assert (preserved - within).abs().mean() < 0.05 < (contrast - within).abs().mean()
assert (drifted - within).abs().mean() > 0.15
assert preserved[again] > 0.9
