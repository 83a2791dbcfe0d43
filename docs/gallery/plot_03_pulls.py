"""
Whom a contrastive loss moves
=============================

A row (blue, on top), its partner (green), the other rows of the partner's modality
(orange) and those of its own (blue, inside). Of each pair with this row, the ray tells
how hard a loss pulls it together (green) or pushes it apart (orange and blue): the
derivative of the row's loss by the similarity, in units of one over the temperature.

- :func:`InfoNCE <xmodal_losses.functional.info_nce>` pushes rows of the other modality,
  and pulls as hard as it pushes. The nearer, the harder.
- :func:`NT-Xent <xmodal_losses.functional.nt_xent>` pushes those of its own, too.
- :func:`Decoupled <xmodal_losses.functional.decoupled>` contrast pulls with all its
  might, however near the partner is.
- :func:`Debiased <xmodal_losses.functional.debiased>` contrast takes from the negatives
  what the partner would be among them: to bring it near pays twice, and the pull is the
  largest. With ``hardness``, it is after the nearest ones, so much so that some others
  are let nearer.
- :func:`SigLIP <xmodal_losses.functional.sigmoid_contrastive>` asks each pair on its
  own: what it does to one has nothing to do with the others.
- :func:`MIL-NCE <xmodal_losses.functional.mil_nce>` and :func:`soft targets
  <xmodal_losses.functional.soft_info_nce>` know that registration is good to a pixel,
  here, and spare the partner's neighbours. The one pulls what is near already, by its
  share; the other what falls short of the weight that it was given.
"""

import math

import matplotlib.pyplot as plt
import torch

import xmodal_losses.functional as F

TEMPERATURE = 0.2

torch.manual_seed(0)
others = torch.linspace(0.6, 2 * math.pi - 0.9, 26) + 0.04 * torch.randn(26)
angle_b = torch.cat([torch.tensor([0.0, -0.22, 0.24]), others])
angle_a = angle_b + 0.3 + 0.05 * torch.randn(29)
angle_a[0] = -0.1
a, b = (torch.stack([t.sin(), t.cos()], 1) for t in (angle_a, angle_b))
# Rows 1 and 2 show the places beside that of row 0; all others are far away.
place = torch.cat([torch.tensor([0.0, 1.0, -1.0]), 10.0 * torch.arange(1, 27)])
registered = {"positions": place[:, None], "jitter": 1.0}
CASES = {
    "InfoNCE": (F.info_nce, {}),
    "NT-Xent": (F.nt_xent, {}),
    "decoupled": (F.decoupled, {}),
    "debiased": (F.debiased, {"false_negatives": 0.03}),
    "hardness = 2": (F.debiased, {"false_negatives": 0.0, "hardness": 2.0}),
    "SigLIP": (F.sigmoid_contrastive, {"scale": 5.0, "bias": -5.0}),
    "MIL-NCE": (F.mil_nce, registered),
    "soft targets": (F.soft_info_nce, registered),
}


def forces(loss, **options):
    """Return slopes of the first row's loss by its similarities to *a* and to *b*."""
    # A third coordinate, which is 1 for the first row and 0 for all others, is added to
    # similarities with the first row, and to nothing else.
    probe = torch.zeros(2, 29, 1, requires_grad=True)
    first = torch.zeros(29, 1).index_fill(0, torch.tensor(0), 1.0)
    z_a = torch.cat([a, first + (1 - first) * probe[0]], 1)
    z_b = torch.cat([b, probe[1]], 1)
    if loss is not F.sigmoid_contrastive:
        options["temperature"] = TEMPERATURE
    values = loss(z_a, z_b, normalize=False, reduction="none", **options)
    (slopes,) = torch.autograd.grad(values[0], probe)
    # The loss is the mean over both directions, and this is one of them. That of the
    # partner is in both.
    slopes = 2 * TEMPERATURE * slopes[..., 0]
    slopes[1, 0] /= 2
    return slopes


figure, axes = plt.subplots(2, 4, figsize=(6.8, 4.0))
found = {}
for axis, (title, (loss, options)) in zip(axes.flat, CASES.items(), strict=True):
    found[title] = forces(loss, **options)
    outward = ((a, -1, 0.84, "C0"), (b, 1, 1.0, "C1"))
    for slope, (rows, way, radius, side) in zip(found[title], outward, strict=True):
        foot = radius * rows
        rays = torch.stack([foot, foot + 1.2 * way * slope.abs()[:, None] * rows])
        for mask, colour in ((slope > 0.004, side), (slope < -0.004, "C2")):
            axis.plot(*rays[:, mask].unbind(2), color=colour, lw=1.7)
        axis.scatter(*foot.T, s=5, color=side, linewidth=0, zorder=3)
    axis.scatter(*b[0], s=36, color="C2", linewidth=0, zorder=4)
    axis.scatter(*0.84 * a[0], s=36, color="C0", linewidth=0, zorder=4)
    axis.set_title(title, loc="center")
    axis.set(aspect="equal", xlim=(-1.55, 1.55), ylim=(-1.1, 2.45))
    axis.axis("off")
plt.show()

pull = {title: -slopes[1, 0] for title, slopes in found.items()}
push = {title: slopes.clamp(min=0).sum(1) for title, slopes in found.items()}
all_push = {title: both.sum() for title, both in push.items()}
assert abs(pull["InfoNCE"] - all_push["InfoNCE"]) < 0.02
assert abs(pull["NT-Xent"] - all_push["NT-Xent"]) < 0.02
assert push["InfoNCE"][0] == 0 < 0.3 < push["NT-Xent"][0]
assert torch.isclose(pull["decoupled"], torch.ones(()))
assert pull["debiased"] > 1.05
assert found["hardness = 2"][1, 1] > 3 * found["NT-Xent"][1, 1]
assert found["hardness = 2"][1, 3] < 0
for title in ("MIL-NCE", "soft targets"):
    assert (found[title][1, :3] < 0).all()
    assert (found[title][1, 3:] > 0).all()
