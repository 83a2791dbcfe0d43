"""
Classes without pairs
=====================

Three classes (circles, triangles, squares) seen by two sensors (blue and orange) at
different times. No row has a partner; labels are all there is. Each row moves by the
gradient of one loss, and its way is drawn.

- :func:`SupCon <xmodal_losses.functional.sup_con>` and :func:`SINCERE
  <xmodal_losses.functional.sincere>` compare directions, row by row: each class has a
  ray in the end, for both modalities.
- :func:`Contrastive-center <xmodal_losses.functional.contrastive_center>` draws rows
  into a learned centre.
- Losses of the batch's own centres move modalities as a whole, and do not change how a
  class is spread. :func:`Hetero-center <xmodal_losses.functional.hetero_center>` brings
  both centres of a class together, and does not care which other class is there.
  :func:`Its triplet form <xmodal_losses.functional.hetero_center_triplet>` is content
  as soon as no other class is nearer, by a margin. :func:`The cross-modality
  contrastive-center loss <xmodal_losses.functional.cross_modality_contrastive_center>`
  goes on pushing the nearest classes apart.
"""

import matplotlib.pyplot as plt
import torch

import xmodal_losses.functional as F

STEPS = 200
LOSSES = {
    "SupCon": F.sup_con,
    "SINCERE": F.sincere,
    "contrastive-center": F.contrastive_center,
    "hetero-center": F.hetero_center,
    "hetero-center triplet": F.hetero_center_triplet,
    "cross-modality c.-c.": F.cross_modality_contrastive_center,
}


def classes(angles, radius, shift, each):
    """Return rows of three classes around the origin, and their labels."""
    angles = torch.tensor(angles)
    centers = radius * torch.stack([angles.cos(), angles.sin()], 1) + torch.tensor(
        shift
    )
    rows = centers[:, None] + 0.28 * torch.randn(3, each, 2)
    return rows.flatten(0, 1), torch.arange(3).repeat_interleave(each)


torch.manual_seed(0)
a, labels_a = classes([0.4, 2.5, 4.5], 1.5, [-0.2, 0.0], 18)
b, labels_b = classes([1.3, 3.3, 5.5], 0.9, [0.5, 0.2], 14)
labels = torch.cat([labels_a, labels_b])


def centers_of(rows, labels):
    return torch.stack([rows[labels == label].mean(0) for label in range(3)])


def drift(loss):
    """Return where all rows are at every step, (STEPS + 1, 96, 2)."""
    rows = torch.cat([a, b])
    centers = centers_of(rows, labels)
    path = [rows]
    for step in range(STEPS):
        rows, centers = (z.clone().requires_grad_() for z in (rows, centers))
        if loss is F.contrastive_center:  # one batch, and centres that are learned
            value = loss(rows, labels, centers)
        else:
            value = loss(rows[: len(a)], rows[len(a) :], labels_a, labels_b)
            value = value + 0 * centers.sum()
        slopes = torch.autograd.grad(value, (rows, centers))
        # A length of the step's own, as the losses differ in scale; at 0, it rests.
        length = 0.035 * 0.985**step / (slopes[0].square().sum(1).mean().sqrt() + 1e-12)
        rows, centers = (
            z.detach() - length * slope
            for z, slope in zip((rows, centers), slopes, strict=True)
        )
        path.append(rows)
    return torch.stack(path)


figure, axes = plt.subplot_mosaic(
    [["start", *list(LOSSES)[:3]], ["start", *list(LOSSES)[3:]]], figsize=(6.8, 3.9)
)
paths = {name: drift(loss) for name, loss in LOSSES.items()}
for name, axis in axes.items():
    path = paths.get(name, torch.cat([a, b])[None])
    for side, colour in ((slice(len(a)), "C0"), (slice(len(a), None), "C1")):
        axis.plot(*path[:, side].unbind(2), color=colour, lw=0.5, alpha=0.35)
        for label, marker in enumerate("o^s"):
            rows = path[-1, side][labels[side] == label]
            look = {"marker": marker, "color": colour, "linewidth": 0}
            axis.scatter(*rows.T, s=12, zorder=3, **look)
    axis.set(aspect="equal", xlim=(-2.9, 2.9), ylim=(-2.9, 2.9))
    axis.set_title(name, loc="center", fontsize=9)
    axis.axis("off")
plt.show()

for name, path in paths.items():
    z_a, z_b = path[-1].split([len(a), len(b)])
    centers_a, centers_b = centers_of(z_a, labels_a), centers_of(z_b, labels_b)
    apart = torch.cdist(centers_a, centers_b)
    own = apart.diagonal()
    other = (apart + torch.diag(torch.full((3,), torch.inf))).amin(0)
    if name in ("SupCon", "SINCERE"):
        unit = torch.nn.functional.normalize(path[-1], dim=1)
        assert (centers_of(unit, labels).norm(dim=1) > 0.999).all()
    elif name == "contrastive-center":
        assert (path[-1] - centers_a[labels]).norm(dim=1).max() < 0.05
    else:
        moved = path[-1] - path[0]
        for part, mine in ((moved[: len(a)], labels_a), (moved[len(a) :], labels_b)):
            assert (part - centers_of(part, mine)[mine]).abs().max() < 1e-3
        if name == "hetero-center triplet":
            assert (own + 0.29 < other).all()
        else:
            assert own.max() < 0.01
