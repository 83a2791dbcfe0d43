"""
Learned by heart
================

Two networks, two sensors, 400 scenes, and :func:`Deep CCA
<xmodal_losses.functional.dcca>`, for long. Half of what makes up a scene is seen by
both. Left, the sum of the 12 correlations: above in the rows of training, below in rows
held out; what is between is learned by heart. Right, how well the half that both see
is told from the features of rows held out.

- **Deep CCA alone** soon has nearly all the correlation there can be, in the rows that
  it knows. From then on its features get worse.
- **With noise**: :func:`~xmodal_losses.functional.noise_regularization` asks that
  networks treat noise as they treat data, and do not fold it away. They learn less by
  heart, and go on telling as much of new scenes.

Noise takes time: early on, Deep CCA alone is ahead.
"""

import matplotlib.pyplot as plt
import torch
from torch import nn

import xmodal_losses as xl

LATENT, COMMON, WIDTH, ROWS, EPOCHS, EVERY = 12, slice(3, 9), 24, 400, 500, 20
generator = torch.Generator().manual_seed(0)


def draw(*shape):
    return torch.randn(shape, generator=generator)


# Each sensor sees three quarters of the latent: half is common.
latent = draw(2 * ROWS, LATENT)
views = []
for own in (latent[:, :-3], latent[:, 3:]):
    bent = torch.tanh(own @ draw(9, WIDTH) / 3) @ draw(WIDTH, WIDTH) / WIDTH**0.5
    views.append(bent + 0.1 * draw(2 * ROWS, WIDTH))
criterion = xl.DCCALoss()
with_noise = xl.NoiseRegularizationLoss(chance_corrected=True)


def told(features):
    """Return the R² of the common latent in rows held out, by ridge regression."""
    features = (features - features[:ROWS].mean(0)) / features[:ROWS].std(0)
    known, new = features.split(ROWS)
    target, truth = latent[:, COMMON].split(ROWS)
    gram = known.T @ known + 1e-2 * ROWS * torch.eye(known.shape[1])
    error = new @ torch.linalg.solve(gram, known.T @ target) - truth
    return 1 - error.square().mean() / truth.var()


def train(weight):
    """Return correlations in training, those held out, and what is told, in time."""
    torch.manual_seed(0)
    encoders = nn.ModuleList(
        nn.Sequential(
            *(nn.Linear(WIDTH, 64), nn.LeakyReLU()),
            *(nn.Linear(64, 64), nn.LeakyReLU()),
            nn.Linear(64, LATENT),
        )
        for _ in views
    )
    optimizer = torch.optim.Adam(encoders.parameters(), lr=2e-3)
    seen = []
    for epoch in range(EPOCHS + 1):
        if epoch % EVERY == 0:
            with torch.no_grad():
                z = [f(x) for f, x in zip(encoders, views, strict=True)]
                parts = zip(*(one.split(ROWS) for one in z), strict=True)
                seen.append([*(-criterion(*p) for p in parts), told(torch.cat(z, 1))])
        for rows in torch.randperm(ROWS).split(200):
            loss, z = 0.0, []
            for encode, view in zip(encoders, views, strict=True):
                x = view[rows]
                z.append(encode(x))
                if weight:
                    noise = torch.randn_like(x)
                    loss = loss + weight * with_noise(z[-1], encode(noise), x, noise)
            optimizer.zero_grad()
            (loss + criterion(*z)).backward()
            optimizer.step()
    return torch.tensor(seen).T


ways = {"deep CCA": train(0.0), "with noise": train(5.0)}
epochs = torch.arange(0, EPOCHS + 1, EVERY)
figure, (left, right) = plt.subplots(1, 2, figsize=(6.8, 3.0))
for (title, (top, low, r2)), colour in zip(ways.items(), ("C1", "C0"), strict=True):
    left.fill_between(epochs, low, top, color=colour, alpha=0.25, linewidth=0)
    left.plot(epochs, top, color=colour, lw=1, ls="--")
    left.plot(epochs, low, color=colour)
    right.plot(epochs, r2, color=colour)
    right.annotate(
        title,
        (EPOCHS, r2[-1]),
        (-4, 8 if colour == "C0" else -14),
        textcoords="offset points",
        color=colour,
        ha="right",
    )
left.set(title="sum of correlations", xlabel="epoch", ylim=(6, 12.2))
right.set(title="R² of what both see", xlabel="epoch", ylim=(0.82, 0.91))
plt.show()

alone, noisy = ways.values()
assert alone[0, -1] > 11.7
assert alone[2, 2] > noisy[2, 2]
assert alone[2].max() - alone[2, -1] > 0.01
assert noisy[2, -5:].mean() > alone[2, -5:].mean() + 0.01
assert noisy[2].max() - noisy[2, -5:].mean() < 0.02
assert (noisy[0] - noisy[1])[-1] < 0.75 * (alone[0] - alone[1])[-1]
