"""
What each loss does to two clouds
=================================

Two sensors see the same forty things. The blue rows stay; the orange ones, which begin
smaller, turned, shifted and noisy, go down the gradient of one loss and of nothing
else. Grey lines lead to partners. Where do the orange rows end up?

- :func:`InfoNCE <xmodal_losses.functional.info_nce>` compares directions: a row goes
  around the origin until it lies on its partner's ray, however far out.
- :func:`VICReg <xmodal_losses.functional.vicreg>` takes every row to its partner, but
  for the standard deviation of 1 that it asks of each column: blue is flatter.
- :func:`Barlow Twins <xmodal_losses.functional.barlow_twins>` lets x go with x and y
  with y: the cloud turns upright, and its place and its size are its own affair.
- :func:`Deep CCA <xmodal_losses.functional.dcca>` would allow for any linear map in
  between: noise is all that goes.
- :func:`MMD <xmodal_losses.functional.mmd>` makes two clouds one. Nobody told it who
  belongs to whom.
- :func:`CORAL <xmodal_losses.functional.coral>` compares covariances: the cloud grows
  as wide as the other, and stays where it was.

Only the first two bring partners together, and only MMD and CORAL could do without
knowing them. Here each row moves as it likes; what an encoder does, which moves all
rows at once, is :doc:`another picture <plot_05_marginals>`.
"""

import math

import matplotlib.pyplot as plt
import torch

import xmodal_losses.functional as F

LOSSES = {
    "InfoNCE": F.info_nce,
    "VICReg": F.vicreg,
    "Barlow Twins": F.barlow_twins,
    "Deep CCA": F.dcca,
    "MMD": F.mmd,
    "CORAL": F.coral,
}
SHOWN = [0, 10, 40, 400]

torch.manual_seed(0)
t = torch.linspace(-2.3, 2.3, 40)
a = 1.4 * torch.stack([t.sin(), 0.3 - t.cos()], 1) + 0.05 * torch.randn(40, 2)
cos, sin = math.cos(math.radians(80)), math.sin(math.radians(80))
turned = a @ torch.tensor([[cos, sin], [-sin, cos]])
start = 0.55 * turned + torch.tensor([1.3, 0.9]) + 0.12 * torch.randn(40, 2)


def drift(loss):
    """Return where the orange rows are at every step, (steps + 1, 40, 2)."""
    b, path = start, [start]
    for step in range(SHOWN[-1]):
        b = b.clone().requires_grad_()
        (slope,) = torch.autograd.grad(loss(a, b), b)
        # Losses differ in scale: directions are theirs, the length of a step is not.
        length = 0.08 * 0.985**step
        b = b.detach() - length * slope / slope.square().sum(1).mean().sqrt()
        path.append(b)
    return torch.stack(path)


paths = {name: drift(loss) for name, loss in LOSSES.items()}

figure, grid = plt.subplots(len(LOSSES), len(SHOWN), figsize=(6.8, 8.8))
for row, (name, path) in zip(grid, paths.items(), strict=True):
    for axis, step in zip(row, SHOWN, strict=True):
        b = path[step]
        axis.plot(*torch.stack([a, b]).unbind(2), color="0.5", lw=0.5, alpha=0.6)
        axis.plot(*path[: step + 1].unbind(2), color="C1", lw=0.6, alpha=0.35)
        axis.scatter(*a.T, s=13, color="C0", linewidth=0, zorder=3)
        axis.scatter(*b.T, s=13, color="C1", linewidth=0, zorder=4)
        axis.set(xticks=[], yticks=[], aspect="equal")
        axis.set(xlim=(-2.5, 2.75), ylim=(-2.15, 2.3))
        axis.spines[:].set_visible(False)
    row[0].set_ylabel(name)
for axis, step in zip(grid[0], SHOWN, strict=True):
    axis.set_title(f"step {step}", loc="center")
plt.show()

end = {name: path[-1] for name, path in paths.items()}
apart = {name: (a - b).norm(dim=1).mean() for name, b in end.items()}
crossed = torch.corrcoef(torch.cat([a, end["Barlow Twins"]], 1).T)[:2, 2:]
assert torch.cosine_similarity(a, end["InfoNCE"]).mean() > 0.99
assert apart["VICReg"] < 0.25 < 1.0 < min(apart["MMD"], apart["CORAL"])
assert torch.allclose(end["VICReg"].std(0), a.std(0).clamp(min=1), atol=0.02)
assert torch.allclose(crossed, torch.eye(2), atol=1e-3)
assert F.dcca(a, end["Deep CCA"]) < -1.99 < -1.97 < F.dcca(a, start)
assert F.mmd(a, end["MMD"]) < 1e-4 < 0.1 < F.mmd(a, start)
assert F.coral(a, end["CORAL"]) < 1e-6 < 0.05 < F.coral(a, start)
assert torch.allclose(end["CORAL"].mean(0), start.mean(0), atol=1e-3)
