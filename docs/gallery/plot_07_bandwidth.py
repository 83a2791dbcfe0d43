"""
MMD: what a bandwidth sees
==========================

Blue rows stay, orange ones go down the gradient of
:func:`~xmodal_losses.functional.mmd`. A kernel sees the two clouds as blurred by its
bandwidth σ: above is the difference of the blurred clouds, below is where the rows are
after 300 steps.

- **Too narrow**, and a row sees those beside it only. Orange rows flee from one another
  into a lattice, and find blue ones by chance, where the clouds touch.
- **In between**, most arrive. The others lose sight of them, and are driven out.
- **Too wide**, and nothing is left but a slope from mean to mean. Mean and spread come
  out equal, and nobody has seen that there are crescents.
- **The default** takes five bandwidths at once, a factor of four from first to last,
  around the distances that there are: the wide ones bring rows here, the narrow ones
  put them in their place.

Below is the pull on a blob at some distance. One bandwidth lets go of what is further
away than a few σ; a rule goes along with the distance, and does not.
"""

import matplotlib.pyplot as plt
import torch
from matplotlib.colors import LinearSegmentedColormap

import xmodal_losses as xl
import xmodal_losses.functional as F

# sphinx_gallery_multi_image = "single"

rule = [xl.GaussianKernel("mean", factor=2 ** (i / 2)) for i in range(-2, 3)]
KERNELS = {
    "σ = 0.1": xl.GaussianKernel(0.1),
    "σ = 0.5": xl.GaussianKernel(0.5),
    "σ = 5": xl.GaussianKernel(5.0),
    "default": xl.MultiKernel(rule),
}
COLOURS = ("C6", "C2", "C4", "C3")

torch.manual_seed(0)
t = 3.14 * torch.rand(120)
side = torch.tensor([-1.0, 1.0]).repeat(60)
a = torch.stack([0.6 * side - 1.2 * t.cos(), side * (1.2 * t.sin() - 0.3)], 1)
a = a + 0.07 * torch.randn(120, 2)
start = torch.tensor([2.2, 1.4]) + 0.35 * torch.randn(120, 2)


def slope_of(kernel, b):
    b = b.clone().requires_grad_()
    return torch.autograd.grad(F.mmd(a, b, kernel=kernel), b)[0]


def flow(kernel):
    b = start
    for step in range(300):
        slope = slope_of(kernel, b)
        length = 0.06 * 0.985**step
        b = b - length * slope / slope.square().sum(1).mean().sqrt()
    return b


def blurred(kernel, where):
    """Return the difference of the clouds as the kernel sees them at some points."""
    if kernel is KERNELS["default"]:  # its rule is to look at the rows, not at these
        rows = torch.cat([a, start])
        squares = torch.pdist(rows).square().mean() / 2
        kernel = xl.MultiKernel(
            [xl.GaussianKernel(float((squares * 2.0**i).sqrt())) for i in range(-2, 3)]
        )
    return kernel(where, a).mean(1) - kernel(where, start).mean(1)


ends = {name: flow(kernel) for name, kernel in KERNELS.items()}

# Blue where there is more of the blue cloud, orange where there is more of the other.
clear = LinearSegmentedColormap.from_list("ab", ["#d55e00", (1, 1, 1, 0), "#0072b2"])
x, y = torch.linspace(-2.6, 3.5, 123), torch.linspace(-2.4, 3.1, 111)
where = torch.cartesian_prod(y, x).flip(1)
figure, grid = plt.subplots(2, 4, figsize=(6.8, 3.5))
for axes, colour, (name, kernel) in zip(grid.T, COLOURS, KERNELS.items(), strict=True):
    seen = blurred(kernel, where).view(len(y), len(x))
    seen = seen.sign() * (seen / seen.abs().max()).abs().sqrt()  # faint parts, too
    edges = (x[0], x[-1], y[0], y[-1])
    look = {"cmap": clear, "vmin": -1, "vmax": 1, "alpha": 0.75}
    axes[0].imshow(seen, extent=edges, origin="lower", interpolation="bilinear", **look)
    for axis, b in zip(axes, (start, ends[name]), strict=True):
        axis.scatter(*a.T, s=4, color="C0", linewidth=0)
        axis.scatter(*b.T, s=4, color="C1", linewidth=0)
        axis.set(xlim=edges[:2], ylim=edges[2:], aspect="equal", xticks=[], yticks=[])
        axis.spines[:].set(visible=True, color="0.85")
    axes[0].set_title(name, loc="center", color=colour, fontweight="bold")

blobs = 0.35 * torch.randn(2, 120, 2)
pulls = {}
distances = torch.logspace(-0.7, 1.3, 40)
figure, axis = plt.subplots(figsize=(6.8, 2.6))
for colour, (name, kernel) in zip(COLOURS, KERNELS.items(), strict=True):
    pulls[name] = []
    for distance in distances:
        far = (blobs[1] + torch.stack([distance, torch.zeros(())])).requires_grad_()
        loss = F.mmd(blobs[0], far, kernel=kernel)
        pulls[name].append(torch.autograd.grad(loss, far)[0].sum(0)[0])
    axis.plot(distances, pulls[name], color=colour, label=name)
axis.set(xscale="log", yscale="log", ylim=(1e-4, 3), xlim=(0.2, 20))
axis.set(xlabel="distance", title="pull")
axis.legend(ncols=4, loc="upper right")
plt.show()

arrived = {name: torch.cdist(b, a).amin(1) < 0.25 for name, b in ends.items()}
arrived = {name: near.float().mean() for name, near in arrived.items()}
assert arrived["σ = 0.1"] < 0.4 < 0.6 < arrived["σ = 0.5"] < 0.8 < arrived["default"]
wide = ends["σ = 5"]
assert torch.allclose(wide.mean(0), a.mean(0), atol=0.02)
assert torch.allclose(wide.std(0), a.std(0), atol=0.02)
assert F.mmd(a, wide) > 5 * F.mmd(a, ends["default"])
assert pulls["default"][-1] > 10 * pulls["σ = 5"][-1]
