"""
Absolute value or square
========================

Columns should not repeat each other, and should stay what they are: rows go down the
gradient of a decorrelation term and of a squared distance from where they were. A dot
is a pair of columns, its correlation before and after.

- :func:`Soft decorrelation <xmodal_losses.functional.soft_decorrelation>` adds up
  absolute correlations. Each is pulled as hard as any other: large ones get smaller by
  the same amount, small ones arrive at 0, and stay there.
- The covariances of :func:`VICReg <xmodal_losses.functional.vicreg>` are squared. Each
  is pulled as hard as it is large: the largest lose most, and small ones next to
  nothing.

Which is wanted depends on what small correlations are. Those of few rows are chance,
and an absolute value works on them as on all others.
"""

import matplotlib.pyplot as plt
import torch

import xmodal_losses.functional as F

ROWS, COLUMNS = 512, 12
generator = torch.Generator().manual_seed(3)
mix = torch.randn(COLUMNS, COLUMNS, generator=generator).tril()
mix = mix * torch.rand(COLUMNS, COLUMNS, generator=generator) ** 2
mix.diagonal().fill_(1.0)
start = torch.randn(ROWS, COLUMNS, generator=generator) @ mix.T
start = (start - start.mean(0)) / start.std(0)


def squares(z_a, z_b):
    return F.vicreg_terms(z_a, z_b).covariance


def descend(term, strength, steps=600):
    """Return rows between where they were and columns that do not repeat each other."""
    z = start.clone().requires_grad_()
    optimizer = torch.optim.Adam([z], lr=0.01)
    schedule = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, steps)
    for _ in range(steps):
        optimizer.zero_grad()
        stay = (z - start).square().sum(1).mean()
        (stay + strength * term(z, start)).backward()
        optimizer.step()
        schedule.step()
    return z.detach()


def correlations(z):
    return torch.corrcoef(z.T)


before = correlations(start)
after = {
    "soft decorrelation": correlations(descend(F.soft_decorrelation, 0.08)),
    "squared covariances": correlations(descend(squares, 2.0)),
}

pairs = torch.triu_indices(COLUMNS, COLUMNS, 1).unbind()
off = ~torch.eye(COLUMNS, dtype=torch.bool)


def show(axis, matrix, title):
    axis.imshow(matrix.where(off, torch.nan), cmap="RdBu", vmin=-0.8, vmax=0.8)
    axis.set_title(title, loc="center")
    axis.set(xticks=[], yticks=[])
    axis.spines[:].set(visible=True)


figure, axes = plt.subplot_mosaic(
    [["before", "soft", "of soft"], ["before", "squares", "of squares"]],
    figsize=(6.8, 4.1),
)
show(axes["before"], before, "correlations before")
for name, (title, matrix), colour in zip(
    ("soft", "squares"), after.items(), ("C0", "C1"), strict=True
):
    show(axes[name], matrix, title)
    dots = axes[f"of {name}"]
    dots.axline((0, 0), slope=1, color="0.6", lw=0.8, ls=":")
    dots.axhline(0, color="0.6", lw=0.8)
    dots.scatter(before[pairs], matrix[pairs], s=10, color=colour, linewidth=0)
    dots.set(xlim=(-0.9, 0.9), ylim=(-0.9, 0.9), aspect="equal", ylabel="after")
dots.set_xlabel("before")
plt.show()

soft, squared = (matrix[pairs] for matrix in after.values())
small, large = before[pairs].abs() < 0.1, before[pairs].abs() > 0.3
assert (soft.abs() < 0.01).float().mean() > 2 * (squared.abs() < 0.01).float().mean()
assert soft[small].abs().mean() < 0.2 * before[pairs][small].abs().mean()
