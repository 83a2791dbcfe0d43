"""
When unpaired terms move the marginals only
===========================================

Colour tells who is who: a thing has one colour in both modalities. Modality *b* sees
the spiral of *a* smaller, turned and elsewhere. :func:`MMD
<xmodal_losses.functional.mmd>` asks that both be one distribution. It is not told any
pair. Does it find them?

- **Not if rows are free to move**, as those of a large network are. The cloud becomes
  the spiral, to the eye and to the MMD, and the colours along it are wrong. A better
  MMD would not help: the marginals are right already.
- **Yes if the encoder is stiff.** One affine map for all rows cannot deal colours out
  anew, and this spiral fits on itself in one way only. (Six beginnings, the best kept;
  a ring would fit in any of them.)
- **Yes with a term that knows pairs**, here the invariance term of :func:`VICReg
  <xmodal_losses.functional.vicreg_terms>`, and MMD beside it.

So a small MMD says that the modalities *look* alike. Whether partners are near is
another question: look at retrieval, as well.
"""

import math

import matplotlib.pyplot as plt
import torch
from matplotlib.colors import LinearSegmentedColormap

import xmodal_losses as xl
import xmodal_losses.functional as F

N, STEPS, BEGINNINGS = 160, 200, 6


def turn(angle):
    """Return rotations, (…, 2, 2)."""
    cos, sin = angle.cos(), angle.sin()
    return torch.stack([cos, sin, -sin, cos], -1).unflatten(-1, (2, 2))


torch.manual_seed(0)
who = torch.linspace(0, 1, N)
angle = 3.6 * math.pi * who.sqrt()
a = 2 * who.sqrt()[:, None] * torch.stack([angle.cos(), angle.sin()], 1)
a = a + 0.03 * torch.randn(N, 2)
b = 0.4 * a @ turn(torch.tensor(2.5)) + torch.tensor([0.6, -0.2])
b = b + 0.02 * torch.randn(N, 2)

mmd = xl.MMDLoss(kernel=xl.EnergyKernel(), reduction="sum")


def trained(embed, parameters, loss=mmd):
    """Return the embeddings of *b* after training."""
    optimizer = torch.optim.Adam(parameters, lr=0.05)
    schedule = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, STEPS)
    for _ in range(STEPS):
        optimizer.zero_grad()
        z = embed()
        loss(a.expand_as(z), z).backward()
        optimizer.step()
        schedule.step()
    return embed().detach()


def with_pairs(a, z):
    return mmd(a, z) + F.vicreg_terms(a, z).invariance


rows = b.clone().requires_grad_()
free = trained(lambda: rows, [rows])

# Leading dimensions are problems of their own: all beginnings in one call.
matrix = turn(2 * math.pi * torch.arange(BEGINNINGS) / BEGINNINGS).requires_grad_()
shift = torch.zeros(BEGINNINGS, 1, 2, requires_grad=True)
all_stiff = trained(lambda: b @ matrix + shift, [matrix, shift])
left = F.mmd(a.expand_as(all_stiff), all_stiff, reduction="none")
stiff = all_stiff[left.argmin()]

rows = b.clone().requires_grad_()
paired = trained(lambda: rows, [rows], with_pairs)

hue = LinearSegmentedColormap.from_list("hue", ["#0072b2", "#cc79a7", "#e69f00"])
figure, axes = plt.subplot_mosaic(
    [["a"] * 3 + ["b"] * 3, ["free"] * 2 + ["stiff"] * 2 + ["paired"] * 2],
    figsize=(6.8, 5.4),
    height_ratios=[3, 2],
)
panels = {
    "a": ("modality a", a),
    "b": ("modality b, before", b),
    "free": ("MMD, free rows", free),
    "stiff": ("MMD, one affine map", stiff),
    "paired": ("MMD and pairs", paired),
}
apart = {}
for name, (title, z) in panels.items():
    axis = axes[name]
    apart[name] = (z - a).norm(dim=1).mean()
    if name not in ("a", "b"):
        axis.plot(*torch.stack([a, z]).unbind(2), color="0.5", lw=0.4, alpha=0.3)
    axis.scatter(*z.T, c=who, s=16, cmap=hue, linewidth=0, zorder=3)
    axis.set(aspect="equal", xlim=(-2.2, 2.2), ylim=(-2.2, 2.2))
    axis.set_title(title, loc="center")
    axis.axis("off")
plt.show()

print("squared MMD, and mean distance of partners")
for name, (title, z) in panels.items():
    print(f"{title:20} {F.mmd(a, z).abs():8.5f} {apart[name]:6.2f}")
assert F.mmd(a, free) < 1e-4 < 0.1 < F.mmd(a, b)
assert apart["paired"] < 0.05 < apart["stiff"] < 0.5 < 1.5 < apart["free"]
