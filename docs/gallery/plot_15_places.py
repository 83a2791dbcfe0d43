"""
Places that are not where they were
===================================

Two cameras see a town, the second one from further right. Its map of features, three
numbers a pixel and noise at first, goes down the gradient of a loss; they are shown as
colours. Dotted is what both cameras see.

- :func:`VICReg <xmodal_losses.functional.vicreg>` pairs pixels as they are counted. The
  first map is copied to where it does not belong.
- :func:`VICReg of places <xmodal_losses.functional.vicreg_local>` is told where pixels
  are (``positions_a``, ``positions_b``) and pairs those nearest to each other. With
  ``num_matches`` no more than what both cameras see, all else has no partner, and stays
  noise.
"""

import matplotlib.pyplot as plt
import torch
from matplotlib.patches import Rectangle

import xmodal_losses.functional as F

HEIGHT, WIDTH, RIGHT, DOWN = 36, 54, 16, 6
generator = torch.Generator().manual_seed(0)


def town():
    """Return a map of colours, (height, width, 3), larger than what a camera sees."""
    y, x = torch.meshgrid(
        torch.arange(HEIGHT + DOWN), torch.arange(WIDTH + RIGHT), indexing="ij"
    )
    picture = torch.empty(*y.shape, 3)

    def paint(where, colour):
        picture[where] = torch.tensor(colour)

    paint(y >= 0, (0.75, 0.87, 0.95))
    paint(y > 30, (0.55, 0.55, 0.58))
    for left, top, width, colour in (
        (3, 14, 15, (0.84, 0.60, 0.45)),
        (20, 8, 13, (0.93, 0.83, 0.62)),
        (41, 12, 16, (0.62, 0.42, 0.40)),
        (59, 17, 11, (0.90, 0.70, 0.55)),
    ):
        wall = (x >= left) & (x < left + width) & (y >= top) & (y <= 31)
        paint(wall, colour)
        panes = ((x - left) % 4 > 1) & ((y - top) % 5 > 2) & (y < 30)
        paint(wall & panes, (0.20, 0.32, 0.52))
    paint((x > 35) & (x < 38) & (y > 20) & (y < 33), (0.42, 0.30, 0.22))
    paint((x - 36) ** 2 + (y - 17) ** 2 < 30, (0.25, 0.52, 0.32))
    return picture


scene = town()
flat = scene.flatten(0, 1)
mean = flat.mean(0)
values, vectors = torch.linalg.eigh((flat - mean).T.cov())
whiten = vectors / values.sqrt()  # what VICReg wants: columns that vary alike


def seen(left, top):
    """Return the features of a camera's view, and where its pixels are."""
    view = scene[top : top + HEIGHT, left : left + WIDTH]
    rows = torch.arange(top, top + HEIGHT)
    columns = torch.arange(left, left + WIDTH)
    places = torch.cartesian_prod(rows, columns).float()
    return (view.flatten(0, 1) - mean) @ whiten, places


a, places_a = seen(0, 0)
truth, places_b = seen(RIGHT, DOWN)
noise = torch.randn(*truth.shape, generator=generator)
SHARED = (HEIGHT - DOWN) * (WIDTH - RIGHT)


def by_count(b):
    return F.vicreg(a, b)


def by_place(b):
    return F.vicreg_local(
        a[None],
        b[None],
        positions_a=places_a[None],
        positions_b=places_b[None],
        num_matches=SHARED,
        pooled=True,
    )


def descend(loss, steps=150):
    b = noise.clone().requires_grad_()
    optimizer = torch.optim.Adam([b], lr=0.1)
    for _ in range(steps):
        optimizer.zero_grad()
        loss(b).backward()
        optimizer.step()
    return b.detach()


maps = {
    "what a sees": a,
    "what b sees": truth,
    "VICReg": descend(by_count),
    "VICReg of places": descend(by_place),
}
figure, axes = plt.subplots(2, 2, figsize=(6.8, 5.0))
for axis, (title, features) in zip(axes.flat, maps.items(), strict=True):
    colours = features @ torch.linalg.inv(whiten) + mean
    axis.imshow(colours.reshape(HEIGHT, WIDTH, 3).clamp(0, 1))
    axis.set_title(title, loc="center")
    axis.axis("off")
    corner = (RIGHT - 0.5, DOWN - 0.5) if features is a else (-0.5, -0.5)
    size = WIDTH - RIGHT, HEIGHT - DOWN
    for colour, style in (("white", "-"), ("black", ":")):  # on any ground
        axis.add_patch(Rectangle(corner, *size, fill=False, ec=colour, ls=style))
plt.show()

inside = ((places_b >= places_a.min(0)[0]) & (places_b <= places_a.max(0)[0])).all(1)
assert int(inside.sum()) == SHARED
wrong, right = ((maps[key] - truth).norm(dim=1) for key in list(maps)[2:])
assert right[inside].median() < 0.2 < 1.0 < wrong[inside].median()
assert maps["VICReg of places"][~inside].equal(noise[~inside])
