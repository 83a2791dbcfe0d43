"""What deep CCA does in long training, without and with noise regularisation.

    python -m benchmarks.collapse

Two views of one latent row, each a random nonlinear map of three quarters of it with
noise: half of the latent is common to both. Networks are trained by deep CCA on 1000
rows, and every so often 1000 others are looked at: the correlation of their features,
and how well the common latent is predicted from them by ridge regression. Seeded, on
one core, some minutes.

The numbers are in `results/`, and the table of `docs/losses/noise_regularization.md` is
written from them.
"""

import argparse
import json
from pathlib import Path
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn

import xmodal_losses.functional as F
from benchmarks.common import RESULTS, ROOT

__all__ = ["FILE", "PAGE", "measure", "rewritten", "table"]

FILE = RESULTS / "collapse.json"
PAGE = ROOT / "docs" / "losses" / "noise_regularization.md"
BEGIN = "<!-- collapse: written by `python -m benchmarks.collapse` -->"
END = "<!-- end -->"
EPOCHS = (0, 25, 50, 100, 200, 400, 600)
LATENT, WIDTH, ROWS, BATCH = 20, 40, 1000, 200


class Way(NamedTuple):
    """How it is trained."""

    name: str
    weight: float
    chance_corrected: bool = False


WAYS = (
    Way("deep CCA", 0.0),
    Way("with noise, weight 5", 5.0),
    Way("with noise, corrected for chance, weight 5", 5.0, True),
)


def views(seed: int) -> tuple[Tensor, list[Tensor]]:
    """Return the common latent of rows to train on and to look at, and their views."""
    generator = torch.Generator().manual_seed(seed)

    def draw(*shape: int) -> Tensor:
        return torch.randn(shape, generator=generator)

    quarter, n = LATENT // 4, 2 * ROWS
    latent = draw(n, LATENT)
    out = []
    for own in (latent[:, :-quarter], latent[:, quarter:]):
        first = draw(own.shape[1], WIDTH) / own.shape[1] ** 0.5
        second = draw(WIDTH, WIDTH) / WIDTH**0.5
        out.append(torch.tanh(own @ first) @ second + 0.1 * draw(n, WIDTH))
    return latent[:, quarter:-quarter], out


def predicted(features: Tensor, latent: Tensor) -> float:
    """Return the mean R² of the second half of the rows, regressed on the first."""
    train, test = features[:ROWS].double(), features[ROWS:].double()
    mean, scale = train.mean(0), train.std(0).clamp_min(1e-6)
    train, test = (train - mean) / scale, (test - mean) / scale
    target, truth = latent[:ROWS].double(), latent[ROWS:].double()
    ridge = 1e-2 * ROWS * torch.eye(train.shape[1], dtype=torch.float64)
    weights = torch.linalg.solve(train.T @ train + ridge, train.T @ target)
    residual = (test @ weights - truth).square().sum(0)
    return float((1 - residual / (truth - truth.mean(0)).square().sum(0)).mean())


def measure(way: Way, epochs: tuple[int, ...] = EPOCHS, seed: int = 0) -> list[dict]:
    """Train, and return what was seen at these epochs."""
    latent, data = views(seed)
    torch.manual_seed(seed)
    networks = nn.ModuleList(
        nn.Sequential(
            nn.Linear(WIDTH, 64),
            nn.LeakyReLU(),
            nn.Linear(64, 64),
            nn.LeakyReLU(),
            nn.Linear(64, LATENT),
        )
        for _ in data
    )
    optimizer = torch.optim.Adam(networks.parameters(), lr=1e-3)
    seen: list[dict[str, Any]] = []
    for epoch in range(max(epochs) + 1):
        if epoch in epochs:
            with torch.no_grad():
                z = [f(x) for f, x in zip(networks, data, strict=True)]
            correlations = [
                -float(F.dcca(z[0][half], z[1][half]))
                for half in (slice(ROWS), slice(ROWS, None))
            ]
            seen.append(
                {
                    "epoch": epoch,
                    "train": correlations[0],
                    "held_out": correlations[1],
                    "r2": predicted(torch.cat(z, 1), latent),
                }
            )
        for rows in torch.randperm(ROWS).split(BATCH):
            x = [view[rows] for view in data]
            z = [f(own) for f, own in zip(networks, x, strict=True)]
            loss = F.dcca(*z)
            if way.weight:
                for f, own, encoded in zip(networks, x, z, strict=True):
                    noise = torch.randn_like(own)
                    loss = loss + way.weight * F.noise_regularization(
                        encoded,
                        f(noise),
                        own,
                        noise,
                        chance_corrected=way.chance_corrected,
                    )
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
    return seen


def table(results: dict[str, list[dict]]) -> str:
    """Return the results as a table."""
    epochs = [row["epoch"] for row in next(iter(results.values()))]
    lines = [
        "| | after epoch | " + " | ".join(map(str, epochs)) + " |",
        "| --- | --- |" + " --- |" * len(epochs),
    ]
    for what, title, digits in (
        ("train", "Σρ, rows of training", 1),
        ("held_out", "Σρ, held out", 1),
        ("r2", "R² of the common latent, held out", 3),
    ):
        for name, rows in results.items():
            values = " | ".join(f"{row[what]:.{digits}f}" for row in rows)
            lines.append(f"| {title} | {name} | {values} |")
    return "\n".join(lines)


def rewritten(page: str, results: dict[str, list[dict]]) -> str:
    """Return the page with the table of these results."""
    before, rest = page.split(BEGIN)
    _, after = rest.split(END)
    return f"{before}{BEGIN}\n\n{table(results)}\n\n{END}{after}"


def main() -> None:
    """Train in all ways, and write results and page."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--json", type=Path, default=FILE, help="write here")
    args = parser.parse_args()
    torch.set_num_threads(1)
    results = {way.name: measure(way) for way in WAYS}
    args.json.write_text(json.dumps(results, indent=1) + "\n", encoding="utf-8")
    if args.json == FILE:
        text = PAGE.read_text(encoding="utf-8")
        PAGE.write_text(rewritten(text, results), encoding="utf-8")
    print(table(results))


if __name__ == "__main__":
    main()
