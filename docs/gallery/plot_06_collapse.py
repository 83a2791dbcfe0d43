"""
Collapse, and what stops it
===========================

Two small networks see eight factors, some clearly and some through noise, and answer
with 16 columns. Nothing but a loss says what these should be. Two of the columns are
drawn, blue for *a* and orange for *b*, and below all of them: the number of directions
in which held-out rows vary, as training goes on, and by how much in the end.

- **Partners near each other**, and nothing else: the best answer is a point.
- **And columns that vary**: the point becomes a line. One factor, the clearest, sixteen
  times over, is agreement and variance enough.
- **And columns that do not repeat each other**: this is all of :func:`VICReg
  <xmodal_losses.functional.vicreg>`, and rows vary in eight directions, as many as
  there are things to say.
- :func:`InfoNCE <xmodal_losses.functional.info_nce>` has no such term: what tells rows
  apart keeps them apart. (It has no scale, and its rows are drawn larger.)

The loss falls in all four. What tells them apart is
:func:`~xmodal_losses.diagnostics.effective_rank`, and beside it the standard deviation:
a rank has no scale, and that of the point is as high as any, of differences that hardly
exist.
"""

import matplotlib.pyplot as plt
import torch
from torch import nn

import xmodal_losses as xl
from xmodal_losses import diagnostics

FACTORS, COLUMNS, ROWS, STEPS = 8, 16, 256, 500
LOSSES = {
    "partners": xl.VICRegLoss(variance_weight=0.0, covariance_weight=0.0),
    "+ variance": xl.VICRegLoss(covariance_weight=0.0),
    "+ covariance": xl.VICRegLoss(),
    "InfoNCE": xl.InfoNCELoss(temperature=0.1),
}
COLOURS = dict(zip(LOSSES, ("0.5", "C4", "C2", "C3"), strict=True))

torch.manual_seed(0)
noise = torch.linspace(0.05, 1.0, FACTORS)
mix_a, mix_b = torch.randn(2, FACTORS, 32) / FACTORS**0.5


def views(rows):
    """Return what the two sensors see of new scenes."""
    factors = torch.randn(rows, FACTORS)
    see_a, see_b = factors + noise * torch.randn(2, rows, FACTORS)
    return see_a @ mix_a, see_b @ mix_b


def encoder():
    return nn.Sequential(nn.Linear(32, 64), nn.ReLU(), nn.Linear(64, COLUMNS))


held_out = views(1000)


def trained(loss):
    """Return held-out embeddings of both, and their rank at every tenth step."""
    torch.manual_seed(1)
    encode_a, encode_b = encoder(), encoder()
    parameters = [*encode_a.parameters(), *encode_b.parameters()]
    optimizer = torch.optim.Adam(parameters, lr=4e-3)
    ranks = []
    for step in range(STEPS + 1):
        if step % 10 == 0:
            with torch.no_grad():
                z_a, z_b = encode_a(held_out[0]), encode_b(held_out[1])
            ranks.append(diagnostics.effective_rank(z_a))
        a, b = views(ROWS)
        optimizer.zero_grad()
        loss(encode_a(a), encode_b(b)).backward()
        optimizer.step()
    return z_a, z_b, torch.stack(ranks)


results = {name: trained(loss) for name, loss in LOSSES.items()}

figure = plt.figure(figsize=(6.8, 5.0))
figure.get_layout_engine().set(h_pad=0.08)
upper, lower = figure.subfigures(2, 1, height_ratios=[3, 5])
rank, spread = lower.subplots(1, 2)
rank.axhline(FACTORS, color="0.5", ls=":", lw=1)
for top, (name, (z_a, z_b, ranks)) in zip(
    upper.subplots(1, 4), results.items(), strict=True
):
    colour, limit = COLOURS[name], 1.4 if name == "InfoNCE" else 3.5
    for z, side in ((z_a, "C0"), (z_b, "C1")):
        x, y = (z - z.mean(0))[:400, :2].T
        top.scatter(x, y, s=5, color=side, alpha=0.6, linewidth=0)
    top.set(xlim=(-limit, limit), ylim=(-limit, limit), aspect="equal")
    top.set_title(name, loc="center", color=colour, fontweight="bold")
    top.axis("off")
    rank.plot(range(0, STEPS + 1, 10), ranks, color=colour)
    directions = torch.linalg.svdvals(z_a - z_a.mean(0)) / len(z_a) ** 0.5
    spread.plot(range(1, COLUMNS + 1), directions, "o-", ms=3, lw=1.2, color=colour)
rank.set(xlabel="step", ylim=(0, COLUMNS), title="effective rank")
rank.set_yticks([0, 4, 8, 12, 16])
spread.set(yscale="log", xlabel="direction", title="standard deviation")
spread.set_xticks([1, 8, 16])
plt.show()

ranks = {name: ranks[-1] for name, (*_, ranks) in results.items()}
size = {name: z_a.std(0).mean() for name, (z_a, *_) in results.items()}
assert size["partners"] < 0.02 < 0.9 < size["+ covariance"]
assert ranks["partners"] > 7
assert ranks["+ variance"] < 1.2 < 7 < ranks["+ covariance"] < 9 < ranks["InfoNCE"]
