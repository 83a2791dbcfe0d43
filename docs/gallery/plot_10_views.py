"""
What three sensors have in common
=================================

Three sensors of eight columns see a spiral. Most of what each sees is its own business,
and twice as large: above are the two directions in which it varies most, and they show
nothing.

Then each gets a linear map to two columns, trained by nothing but agreement with the
others. Below is what the first sensor makes of new rows, by itself. (It is turned to
lie as the spiral does: any linear map of it would agree as well.)

- :func:`DGCCA <xmodal_losses.functional.dgcca>` looks for directions that all views
  have.
- The same, if each sensor was off half of the time: ``mask`` says when. An eighth of
  the rows is in all three views.
- :func:`MCCA <xmodal_losses.functional.mcca>` adds up what every two have in common.
- :func:`Eckart–Young <xmodal_losses.functional.eckart_young>` gets there without
  whitening, from 32 rows at a time.
"""

import math

import matplotlib.pyplot as plt
import torch
from matplotlib.colors import LinearSegmentedColormap

import xmodal_losses.functional as F

ROWS, STEPS = 600, 200

torch.manual_seed(0)
mixes = torch.linalg.qr(torch.randn(3, 8, 8))[0]


def scenes():
    """Return what the sensors see, (3, ROWS, 8), the spiral, and where on it."""
    who = torch.rand(ROWS)
    angle = 3.6 * math.pi * who.sqrt()
    spiral = who.sqrt()[:, None] * torch.stack([angle.cos(), angle.sin()], 1)
    spiral = spiral + 0.02 * torch.randn(ROWS, 2)
    own = torch.randn(3, ROWS, 6)
    return torch.cat([spiral.expand(3, -1, -1), own], 2) @ mixes, spiral, who


seen, _, _ = scenes()
new, spiral, who = scenes()
off = torch.rand(3, ROWS) < 0.5


def dgcca(views, **options):
    return F.dgcca(list(views), num_components=2, **options)


def trained(loss, rows=ROWS, **options):
    """Return what the first sensor makes of new rows."""
    maps = (0.1 * torch.randn(3, 8, 2)).requires_grad_()
    optimizer = torch.optim.Adam([maps], lr=0.05)
    schedule = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, STEPS)
    for _ in range(STEPS):
        batch = torch.randperm(ROWS)[:rows]
        optimizer.zero_grad()
        loss(seen[:, batch] @ maps, **options).backward()
        optimizer.step()
        schedule.step()
    z = (new[0] @ maps[0]).detach()
    return z @ torch.linalg.lstsq(z, spiral).solution


results = {
    "DGCCA": trained(dgcca),
    "half of it missing": trained(dgcca, mask=~off),
    "MCCA": trained(lambda views: F.mcca(list(views))),
    "Eckart–Young": trained(
        lambda views: F.eckart_young(list(views), estimator="unbiased"), rows=32
    ),
}

hue = LinearSegmentedColormap.from_list("hue", ["#0072b2", "#cc79a7", "#e69f00"])
figure = plt.figure(figsize=(6.8, 4.4))
upper, lower = figure.subfigures(2, 1, height_ratios=[5, 4])
panels = {f"sensor {i + 1}": view for i, view in enumerate(new)} | results
axes = [*upper.subplots(1, 3), *lower.subplots(1, 4)]
for axis, (title, rows) in zip(axes, panels.items(), strict=True):
    if title.startswith("sensor"):
        rows = rows @ torch.linalg.svd(rows).Vh[:2].T
    axis.scatter(*rows.T, c=who, s=5, cmap=hue, linewidth=0)
    axis.set_title(title, loc="center")
    axis.set_aspect("equal")
    axis.axis("off")
plt.show()

spread = (spiral - spiral.mean(0)).square().sum()
for rows in results.values():
    assert (rows - spiral).square().sum() < 0.01 * spread
