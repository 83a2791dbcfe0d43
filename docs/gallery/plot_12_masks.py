"""
Masks on an image grid
======================

Rows of an image loss are places of a feature map. Which places, and which of them are
negatives of each other?

Above, :func:`~xmodal_losses.dense.sample_positions` chooses 96 places; in the border,
which sees padding, there are none (``valid``). A grid is even, and always the same;
random is neither; stratified draws one place in each cell; weighted goes where scores
are high, here at edges.

Below, :func:`~xmodal_losses.dense.paired_rows` reads 150 places for
:func:`~xmodal_losses.functional.info_nce`, whose gradient tells from what the blue one
is pushed away: orange. Places with a ring are no negatives of it, by three kinds of
mask. ``exclude_radius`` spares the neighbours, which see much the same. ``ids`` spare
what is the same, other windows in this case. ``weight`` 0 removes the sky, where
nothing is to be found. The matrices have a row and a column for each place, from the
upper left to the lower right.
"""

import matplotlib.pyplot as plt
import torch
from matplotlib.colors import ListedColormap
from matplotlib.patches import Rectangle

import xmodal_losses.functional as F
from xmodal_losses import dense

# sphinx_gallery_multi_image = "single"

HEIGHT, WIDTH, BORDER = 48, 72, 4
SKY, STREET, WALL, WINDOW, TREE, PERSON = range(6)
TINTS = ["#e9f2fa", "#dcdcdc", "#f5e3d3", "#a9cbe3", "#b5dcc0", "#d9a5c0"]

y, x = torch.meshgrid(torch.arange(HEIGHT), torch.arange(WIDTH), indexing="ij")
scene = torch.full((HEIGHT, WIDTH), SKY)
scene[y > 33] = STREET
scene[(y > 9) & (y < 34) & (x > 6) & (x < 37)] = WALL
panes = (y % 7 > 1) & (y % 7 < 6) & (x % 7 > 0) & (x % 7 < 6)
scene[panes & (y > 13) & (y < 33) & (x > 7) & (x < 36)] = WINDOW
scene[(x > 56) & (x < 60) & (y > 20) & (y < 37)] = TREE
scene[(x - 58) ** 2 + (y - 18) ** 2 < 90] = TREE
scene[(x > 42) & (x < 48) & (y > 28) & (y < 35)] = PERSON
scene[(x > 43) & (x < 47) & (y > 28) & (y < 42)] = PERSON
scene[(x - 45) ** 2 + (y - 26) ** 2 < 6] = PERSON

valid = torch.zeros(1, HEIGHT, WIDTH, dtype=torch.bool)
valid[:, BORDER:-BORDER, BORDER:-BORDER] = True
edges = torch.zeros(1, HEIGHT, WIDTH)
edges[0, 1:] += scene.diff(dim=0) != 0
edges[0, :, 1:] += scene.diff(dim=1) != 0
generator = torch.Generator().manual_seed(0)
features = torch.randn(2, 1, 32, HEIGHT, WIDTH, generator=generator)


def draw(axis, title):
    axis.imshow(scene, cmap=ListedColormap(TINTS), vmin=0, vmax=5)
    axis.set_title(title, loc="center")
    axis.axis("off")


figure, axes = plt.subplots(2, 2, figsize=(6.8, 4.9))
frame = (BORDER - 0.5, BORDER - 0.5), WIDTH - 2 * BORDER, HEIGHT - 2 * BORDER
for axis, method in zip(
    axes.flat, ("grid", "random", "stratified", "weighted"), strict=True
):
    places = dense.sample_positions(
        features[0],
        96,
        method=method,
        scores=edges if method == "weighted" else None,
        valid=valid,
        generator=generator,
    )
    draw(axis, method)
    axis.add_patch(Rectangle(*frame, fill=False, ec="0.5", ls=":"))
    chosen = places.positions[places.valid]
    axis.scatter(*chosen.T, s=16, color="C0", ec="white", lw=0.5)
    column, row = chosen.long().T
    assert valid[0, row, column].all()

PLACES, RADIUS = 150, 9
rows = dense.paired_rows(
    *features,
    PLACES,
    method="stratified",
    ids=scene[None],
    generator=generator,
)
shown, where = rows.ids[0], rows.positions[0]
# A window is like another. Of wall, street and sky, no two places are.
ids = torch.where(shown == WINDOW, 0, 1 + torch.arange(PLACES))
MASKS = {
    "exclude_radius": {"positions": rows.positions, "exclude_radius": RADIUS},
    "ids": {"ids": ids[None]},
    "weight": {"weight": (shown != SKY).float()[None]},
}
middle = (where - torch.tensor([24.0, 18.0])).norm(dim=1)
mine = int(middle.masked_fill(shown != WINDOW, torch.inf).argmin())


def pushes(**mask):
    """Return which places are pushed away by which, (150, 150)."""
    z_b = rows.z_b.clone().requires_grad_()
    loss = F.info_nce(rows.z_a, z_b, symmetric=False, reduction="none", **mask)
    slopes = [torch.autograd.grad(one, z_b, retain_graph=True)[0] for one in loss[0]]
    return torch.cat(slopes).norm(dim=2) > 0


figure, axes = plt.subplots(2, 3, figsize=(6.8, 4.1), height_ratios=[2, 3])
found = {}
for (top, bottom), (title, mask) in zip(axes.T, MASKS.items(), strict=True):
    matrix = pushes(**mask)
    found[title] = matrix[mine].index_fill(0, torch.tensor(mine), False)
    negatives = where[found[title]]
    spared = where[~found[title]]
    draw(top, title)
    lines = torch.stack([where[mine].expand_as(negatives), negatives])
    top.plot(*lines.unbind(2), color="C1", lw=0.4, alpha=0.4)
    top.scatter(*negatives.T, s=6, color="C1", linewidth=0, zorder=3)
    top.scatter(*spared.T, s=9, fc="white", ec="C0", lw=0.8, zorder=3)
    top.scatter(*where[mine], s=40, color="C0", ec="white", lw=0.8, zorder=4)
    bottom.imshow(matrix, cmap=ListedColormap([(1, 1, 1, 0), "#e8935a"]))
    bottom.set(xticks=[], yticks=[])
    bottom.spines[:].set(visible=True)
plt.show()

far = (where - where[mine]).abs().amax(1) > RADIUS
other = torch.arange(PLACES) != mine
assert found["exclude_radius"].equal(far)
assert found["ids"].equal(shown != WINDOW)
assert found["weight"].equal((shown != SKY) & other)
