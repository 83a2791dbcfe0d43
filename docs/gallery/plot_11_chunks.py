"""
A large batch in chunks, exactly
================================

A batch is too large for the encoders' graph. The usual way out, the mean over small
batches, has another gradient: that of fewer negatives, or of covariances of few rows.
There are two ways that are exact, :func:`~xmodal_losses.cached_backward` for any loss,
and :class:`~xmodal_losses.ChunkedMoments` for losses of means and covariances.

Left, what autograd holds on to in the course of a step. The whole batch is one
mountain; in 16 chunks, it is a row of hills. Right, the gradient in each parameter of
the encoder, against that of the whole batch. In chunks it is the same, to ten digits
and more in float64. The mean over 16 small batches is another one: InfoNCE, of whose
negatives it has seen a sixteenth, asks for half of what is needed.
"""

import matplotlib.pyplot as plt
import torch
from torch import nn

import xmodal_losses as xl

ROWS, CHUNK = 1024, 64

torch.manual_seed(0)
shared = torch.randn(ROWS, 16)
a, b = (
    torch.cat([shared + 0.3 * torch.randn(ROWS, 16), torch.randn(ROWS, 16)], 1).double()
    for _ in range(2)
)
layers = [layer for _ in range(5) for layer in (nn.Linear(32, 32), nn.Tanh())]
encoder = nn.Sequential(*layers[:-1]).double()
chunks = list(zip(a.split(CHUNK), b.split(CHUNK), strict=True))


def encode(chunk):
    return encoder(chunk[0]), encoder(chunk[1])


def whole(criterion):
    criterion(*encode((a, b))).backward()


def small_batches(criterion):
    for chunk in chunks:
        (criterion(*encode(chunk)) / len(chunks)).backward()


def cached(criterion):
    xl.cached_backward(criterion, encode, chunks)


def moments(criterion):
    chunked = xl.ChunkedMoments(criterion)
    with torch.no_grad():
        for chunk in chunks:
            chunked.update(*encode(chunk))
    for chunk in chunks:
        chunked.share(*encode(chunk)).backward()


class Kept:
    """A tensor that autograd keeps, and the account of all that it keeps."""

    def __init__(self, tensor, account):
        self.tensor, self.account = tensor, account
        # Parameters are there anyway.
        self.bytes = 0 if tensor.is_leaf else tensor.nbytes
        account.append(account[-1] + self.bytes)

    def __del__(self):
        self.account.append(self.account[-1] - self.bytes)


def step(way, criterion):
    """Return the gradient, and the bytes that were kept in the course of it."""
    account = [0]
    encoder.zero_grad()
    with torch.autograd.graph.saved_tensors_hooks(
        lambda tensor: Kept(tensor, account), lambda kept: kept.tensor
    ):
        way(criterion)
    gradient = torch.cat([p.grad.flatten() for p in encoder.parameters()])
    return gradient, torch.tensor(account) / 2**20


# Some training, so that partners are nearly found and it matters who else is there.
optimizer = torch.optim.Adam(encoder.parameters(), lr=1e-3)
for _ in range(30):
    optimizer.zero_grad()
    whole(xl.InfoNCELoss())
    optimizer.step()

figure, grid = plt.subplots(2, 2, figsize=(6.8, 6.2), width_ratios=[4, 3])
cases = {
    "InfoNCE, cached_backward": (xl.InfoNCELoss(), cached),
    "Deep CCA, ChunkedMoments": (xl.DCCALoss(ridge=1e-3), moments),
}
for (left, right), (title, (criterion, chunked)) in zip(
    grid, cases.items(), strict=True
):
    wanted, mountain = step(whole, criterion)
    exact, hills = step(chunked, criterion)
    other, _ = step(small_batches, criterion)
    for account, colour in ((mountain, "0.8"), (hills, "C0")):
        left.fill_between(torch.linspace(0, 1, len(account)), account, color=colour)
    left.text(0.5, 0.45 * mountain.max(), "whole", ha="center", color="0.35")
    left.text(0.5, 1.4 * hills.max(), "in chunks", ha="center", color="C0")
    left.set(ylim=(0, None), xlabel="course of a step", xticks=[])
    left.set_title(f"{title}: MB kept")
    for gradient, colour in ((other, "C1"), (exact, "C0")):
        right.scatter(wanted, gradient, s=3, color=colour, linewidth=0)
    limit = 1.05 * wanted.abs().max()
    right.set(xlim=(-limit, limit), ylim=(-limit, limit), aspect="equal")
    right.set(xlabel="gradient, whole batch", xticks=[0], yticks=[0])
    right.text(0.05, 0.93, "in chunks", color="C0", transform=right.transAxes)
    right.text(
        0.05, 0.85, "mean of small batches", color="C1", transform=right.transAxes
    )

    assert (exact - wanted).norm() < 1e-10 * wanted.norm()
    assert (other - wanted).norm() > 0.1 * wanted.norm()
    if isinstance(criterion, xl.InfoNCELoss):
        assert 0.3 < other.norm() / wanted.norm() < 0.7
    assert hills.max() < mountain.max() / 10
    assert abs(hills[-1]) < 1e-6  # all was given back
plt.show()
