"""
Deep CCA against linear CCA
===========================

One thing varies, and two sensors see it: as a place along a spiral the one, as a place
along a wave the other, each with noise of its own. Colour is what varies, and neither
of them is told. How much do they have in common?

Linear CCA looks along straight lines, and finds less than half a correlation. Two small
networks trained by :func:`~xmodal_losses.functional.dcca` unroll spiral and wave, and
find nearly all of it: in rows that are new to them, for
:class:`~xmodal_losses.CCAProjector` is fitted to some rows and applied to others.

The colours say what to expect, and what not. Partners meet: the line is thin. But the
order of the colours is gone, where the line is folded; *any* function of what is shared
will do. For more of it, ask for more components.
"""

import math

import matplotlib.pyplot as plt
import torch
from matplotlib.colors import LinearSegmentedColormap
from torch import nn

import xmodal_losses as xl

torch.manual_seed(0)


def scenes(rows):
    """Return what both sensors see, and what there is to be seen."""
    shared = 2 * torch.rand(rows) - 1
    noise_a, noise_b = 2 * torch.rand(2, rows) - 1
    angle, radius = 1.9 * math.pi * (shared + 1), 0.85 + 0.5 * shared + 0.1 * noise_a
    spiral = radius[:, None] * torch.stack([angle.cos(), angle.sin()], 1)
    height = 0.75 * torch.sin(3 * math.pi * shared) + 0.15 * noise_b
    wave = torch.stack([1.3 * shared, height], 1)
    return spiral, wave, shared


def encoder():
    return nn.Sequential(
        *(nn.Linear(2, 64), nn.ReLU()),
        *(nn.Linear(64, 64), nn.ReLU()),
        nn.Linear(64, 1),
    )


encode_a, encode_b = encoder(), encoder()
parameters = [*encode_a.parameters(), *encode_b.parameters()]
optimizer = torch.optim.Adam(parameters, lr=3e-3)
criterion = xl.DCCALoss(ridge=1e-3)
for _ in range(400):
    a, b, _ = scenes(512)
    optimizer.zero_grad()
    criterion(encode_a(a), encode_b(b)).backward()
    optimizer.step()

a, b, _ = scenes(1000)
new_a, new_b, shared = scenes(1000)


@torch.no_grad()
def components(encode_a, encode_b):
    """Return the first canonical component of new rows, and their correlation."""
    z_a, z_b = encode_a(a), encode_b(b)
    projector = xl.CCAProjector(z_a.shape[1], z_b.shape[1], num_components=1)
    projector.update(z_a, z_b)
    projector.fit()
    first = (
        projector.transform_a(encode_a(new_a)),
        projector.transform_b(encode_b(new_b)),
    )
    first = torch.cat(first, 1).T
    return first, torch.corrcoef(first)[0, 1]


linear, linear_correlation = components(nn.Identity(), nn.Identity())
deep, deep_correlation = components(encode_a, encode_b)

hue = LinearSegmentedColormap.from_list("hue", ["#0072b2", "#cc79a7", "#e69f00"])
panels = {
    "what a sees": new_a.T,
    "what b sees": new_b.T,
    f"linear CCA: {linear_correlation:.3f}": linear,
    f"deep CCA: {deep_correlation:.3f}": deep,
}
figure, axes = plt.subplots(2, 2, figsize=(6.8, 6.4))
for axis, (title, (x, y)) in zip(axes.flat, panels.items(), strict=True):
    axis.scatter(x, y, c=shared, s=7, cmap=hue, linewidth=0)
    axis.set_title(title, loc="center")
    axis.set(xticks=[], yticks=[])
for axis in axes[0]:
    axis.set_aspect("equal")
    axis.axis("off")
for axis in axes[1]:
    axis.set(xlabel="component of a", ylabel="component of b")
plt.show()

assert linear_correlation < 0.5 < 0.98 < deep_correlation
