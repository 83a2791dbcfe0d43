"""
Is there still a gap? The verdict of a test
===========================================

The MMD of two samples is never quite zero. A test says whether it is more than chance:
:func:`~xmodal_losses.two_sample.kernel_test` deals the rows out again, five hundred
times, and asks how often the MMD comes out as large. Grey is what chance does, orange
what was found, and the dashed line the threshold at α = 0.05.

Three pairs of samples, blue and orange, 500 rows of each:

- **the same** distribution: found where chance would have it;
- **a shift** by a third of the standard deviation: far beyond chance;
- **a texture**: mean and spread are the same, but the orange rows lie in stripes. The
  eye sees them, and a kernel with the median distance for a bandwidth does not.

:func:`~xmodal_losses.two_sample.mmd_agg` asks thirteen kernels in place of one, and
sets each the threshold that keeps the level of all. The last row has one point for
each: above the line it rejects. Wide kernels see the shift, narrow ones the stripes,
and the verdict is right in all three cases.
"""

import math

import matplotlib.pyplot as plt
import torch

import xmodal_losses as xl
from xmodal_losses.two_sample import kernel_test, mmd_agg

ROWS = 500
generator = torch.Generator().manual_seed(0)


def sample(rows=ROWS):
    return torch.randn(rows, 2, generator=generator)


def striped():
    """Return rows of the same mean and spread, in stripes."""
    rows = sample(4 * ROWS)
    chance = 0.5 + 0.5 * torch.cos(2 * math.pi * rows[:, 0] / 0.8)
    return rows[torch.rand(len(rows), generator=generator) < chance][:ROWS]


x = sample()
samples = {
    "the same": sample(),
    "a shift": sample() + torch.tensor([0.3, 0.15]),
    "a texture": striped(),
}
median = xl.GaussianKernel("median")
kernels = [xl.GaussianKernel(0.1 * 2 ** (i / 2)) for i in range(13)]

figure, grid = plt.subplots(
    3, 3, figsize=(6.8, 6.4), height_ratios=[5, 3, 3], sharex="row", sharey="row"
)
one, many = {}, {}
for (top, middle, bottom), (name, y) in zip(grid.T, samples.items(), strict=True):
    one[name] = kernel_test(x, y, median, generator=generator)
    many[name] = mmd_agg(x, y, kernels=kernels, generator=generator)

    top.scatter(*x.T, s=5, color="C0", alpha=0.85, linewidth=0)
    top.scatter(*y.T, s=5, color="C1", alpha=0.85, linewidth=0)
    top.set(aspect="equal", xlim=(-3.3, 3.3), ylim=(-3.3, 3.3))
    top.set_title(name, loc="center", fontweight="bold")
    top.axis("off")

    result = one[name]
    middle.hist(result.null / result.threshold, bins=30, color="0.75")
    found = result.statistic / result.threshold
    middle.plot([found] * 2, [0, 60], color="C1", lw=3)
    middle.axvline(1, color="0.4", ls="--", lw=1)
    middle.set(xlim=(-1.5, 4.5), xlabel="MMD² / threshold", yticks=[])
    middle.spines["left"].set_visible(False)

    for verdict in many[name].tests:
        height = verdict.statistic / verdict.threshold
        colour = "C1" if verdict.rejected else "0.65"
        bottom.plot([verdict.kernel.bandwidth] * 2, [0, height], color=colour, lw=1.5)
        bottom.plot(verdict.kernel.bandwidth, height, "o", color=colour, ms=6)
    bottom.axhline(1, color="0.4", ls="--", lw=1)
    bottom.set(xscale="log", xlabel="bandwidth", ylim=(-0.7, 4))
    bottom.set_xticks([0.1, 1], ["0.1", "1"])
grid[2, 0].set_ylabel("MMD² / threshold")
plt.show()

for name in samples:
    print(f"{name}\n{many[name]}\n")
    assert many[name].rejected == (name != "the same")
rejecting = {name: [test.rejected for test in many[name].tests] for name in samples}
assert not rejecting["a shift"][0]
assert rejecting["a shift"][-1]
assert rejecting["a texture"][0]
assert not rejecting["a texture"][-1]
assert [result.rejected for result in one.values()] == [False, True, False]
