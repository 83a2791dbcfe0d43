"""
Temperature, and what InfoNCE looks at
======================================

A row (blue) has one partner (green) and 44 negatives (orange), here on a circle. The
gradient of :func:`~xmodal_losses.functional.info_nce` pushes every negative away, and
the rays tell how hard, next to the hardest. The number inside is the effective number
of negatives, as :func:`~xmodal_losses.functional.info_nce_terms` reports it in
training.

**Temperature is how far a row can see.** At τ = 1 it pushes all that it is not; at
0.02, the nearest one, and nothing else. If that one shows the same thing, as here, the
whole push is a mistake: ``ids`` take it out, and the next rows get the light.
``hardest`` limits the number of negatives whatever the temperature, and does not ask
whether they are any.

Below, the same number for rows of 128 random columns among 2048 of them, which are at
right angles, nearly. Temperatures in use, from 0.05 to 0.2, are those between seeing
less than a tenth of the rows and more than three quarters.
"""

import math

import matplotlib.pyplot as plt
import torch

import xmodal_losses.functional as F

# sphinx_gallery_multi_image = "single"

torch.manual_seed(0)
partner, doubtful = 0.0, 0.16
others = torch.linspace(0.5, 2 * math.pi - 0.9, 43) + 0.03 * torch.randn(43)
angle = torch.cat([torch.tensor([partner, doubtful]), others])
b = torch.stack([angle.sin(), angle.cos()], 1)
a = torch.tensor([math.sin(-0.15), math.cos(-0.15)]).expand(len(b), 2)
ids = torch.arange(len(b))
ids[1] = 0  # it shows what the first row does

PANELS = {
    "τ = 1": {"temperature": 1.0},
    "τ = 0.2": {"temperature": 0.2},
    "τ = 0.07": {"temperature": 0.07},
    "τ = 0.02": {"temperature": 0.02},
    "τ = 0.02, ids": {"temperature": 0.02, "ids": ids},
    "τ = 1, hardest = 5": {"temperature": 1.0, "hardest": 5},
}


def push(**options):
    """Return which share of its push the first row of *a* spends on each negative."""
    z = b.clone().requires_grad_()
    options |= {"symmetric": False, "normalize": False, "reduction": "none"}
    (slope,) = torch.autograd.grad(F.info_nce(a, z, **options)[0], z)
    force = slope[1:].norm(dim=1)
    return force / force.sum()


figure, axes = plt.subplots(2, 3, figsize=(6.8, 5.0))
circle = torch.linspace(0, 2 * math.pi, 200)
counts = {}
for axis, (title, options) in zip(axes.flat, PANELS.items(), strict=True):
    share = push(**options)
    counts[title] = 1 / share.square().sum()
    foot = 1.12 * b[1:]
    rays = torch.stack([foot, foot + 1.15 * b[1:] * (share / share.max())[:, None]])
    axis.plot(circle.sin(), circle.cos(), color="0.75", lw=0.8)
    axis.plot(*rays[:, share > 0.01 * share.max()].unbind(2), color="C1", lw=2)
    axis.scatter(*b[1:].T, s=12, color="C1", linewidth=0, zorder=3)
    axis.scatter(*b[0], s=55, color="C2", linewidth=0, zorder=4)
    axis.scatter(*a[0], s=55, color="C0", linewidth=0, zorder=4)
    axis.text(0, 0.1, f"{counts[title]:.1f}", ha="center", va="center", fontsize=19)
    axis.text(0, -0.35, "negatives", ha="center", va="center", color="0.5")
    axis.set(aspect="equal", xlim=(-2, 2), ylim=(-1.6, 2.35))
    axis.set_title(title, loc="center")
    axis.axis("off")

rows = torch.randn(2, 2048, 128)
temperatures = torch.logspace(-2, 0, 25)
seen = torch.stack(
    [
        F.info_nce_terms(*rows, temperature=t).effective_negatives_a.mean()
        for t in temperatures.tolist()
    ]
)
figure, axis = plt.subplots(figsize=(6.8, 2.6))
axis.axvspan(0.05, 0.2, color="C0", alpha=0.12, linewidth=0)
axis.text(0.1, 120, "in use", ha="center", color="C0")
axis.plot(temperatures, seen, color="C1")
axis.axhline(2047, color="0.5", ls=":", lw=1)
axis.set(xscale="log", xlabel="temperature τ", xlim=(0.01, 1), ylim=(0, 2150))
axis.set_title("effective number of negatives, of 2047")
axis.set_xticks([0.01, 0.05, 0.2, 1], ["0.01", "0.05", "0.2", "1"])
axis.set_xticks([], minor=True)
axis.set_yticks([0, 1000, 2000])
plt.show()

reported = F.info_nce_terms(a, b, temperature=0.07).effective_negatives_a[0]
assert torch.isclose(counts["τ = 0.07"], reported, rtol=1e-4)
assert counts["τ = 0.02"] < 1.1 < 30 < counts["τ = 1"]
assert push(temperature=0.02)[0] > 0.95
assert push(temperature=0.02, ids=ids)[0] == 0
assert 4.5 < counts["τ = 1, hardest = 5"] <= 5
assert (seen[temperatures < 0.05] < 200).all()
assert (seen[temperatures > 0.2] > 1600).all()
