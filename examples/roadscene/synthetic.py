"""Procedurally made aligned RGB–IR scenes, for running without the data set.

A scene is a list of regions drawn back to front: sky, hills, road, buildings with
windows, poles, cars and people. Each has one colour in the visible image and one
temperature in the infrared, drawn independently, so that contrast between two regions
has the same sign in both modalities about half of the time. Textures differ too:
visible surfaces carry fine patterns that infrared does not show, and infrared carries
smooth gradients. Both get noise, and night scenes are nearly black in the visible.
"""

import torch
import torch.nn.functional as F
from torch import Tensor

from .data import Pair
from .splits import Split

__all__ = ["SYNTHETIC_SPLIT", "synthetic_pair"]

NAMES = [f"scene_{i:03d}" for i in range(64)]
SYNTHETIC_SPLIT = Split(NAMES[:44], NAMES[44:52], NAMES[52:], [])


def smooth_noise(height: int, width: int, cell: int, rng: torch.Generator) -> Tensor:
    """Return noise in [0, 1] that varies over about `cell` pixels."""
    coarse = torch.rand(1, 1, height // cell + 2, width // cell + 2, generator=rng)
    return F.interpolate(coarse, (height, width), mode="bilinear", align_corners=True)[
        0, 0
    ]


class Canvas:
    """Both images of one scene; every shape is painted into both."""

    def __init__(self, height: int, width: int, rng: torch.Generator) -> None:
        self.rng, self.height, self.width = rng, height, width
        self.rgb, self.ir = torch.zeros(3, height, width), torch.zeros(height, width)
        self.y = torch.arange(height)[:, None].expand(height, width)
        self.x = torch.arange(width)[None, :].expand(height, width)

    def number(self, low: float, high: float) -> float:
        """Draw a number."""
        return low + (high - low) * torch.rand((), generator=self.rng).item()

    def paint(self, where: Tensor, heat: tuple[float, float], texture: float) -> None:
        """Fill a region: random colour and pattern, random temperature in `heat`."""
        tint = torch.rand(3, 1, 1, generator=self.rng) - 0.5
        colour = self.number(0.2, 0.8) + 0.25 * tint
        fine = smooth_noise(self.height, self.width, 3, self.rng) - 0.5
        slow = smooth_noise(self.height, self.width, 40, self.rng) - 0.5
        self.rgb = torch.where(where, colour + texture * fine, self.rgb)
        self.ir = torch.where(where, self.number(*heat) + 0.1 * slow, self.ir)

    def box(self, x: float, y: float, width: float, height: float) -> Tensor:
        """Return the mask of a rectangle with its top left corner at (x, y)."""
        across = (self.x >= x) & (self.x < x + width)
        return across & (self.y >= y) & (self.y < y + height)

    def disc(self, x: float, y: float, radius: float) -> Tensor:
        """Return the mask of a disc."""
        return (self.x - x) ** 2 + (self.y - y) ** 2 < radius**2


def building(canvas: Canvas, horizon: float) -> None:
    """Paint a wall and its windows."""
    width, height = canvas.number(40, 120), canvas.number(40, 0.9 * horizon)
    x, y = canvas.number(-20, canvas.width - 20), horizon - height
    canvas.paint(canvas.box(x, y, width, height + 10), (0.25, 0.6), 0.15)
    step_x, step_y = canvas.number(12, 24), canvas.number(14, 26)
    windows = canvas.box(x + 4, y + 4, width - 8, height - 8)
    windows &= ((canvas.x - x) % step_x > 0.5 * step_x) & (
        (canvas.y - y) % step_y > 0.5 * step_y
    )
    canvas.paint(windows, (0.1, 0.8), 0.05)


def car(canvas: Canvas, horizon: float) -> None:
    """Paint a body, a cabin, two wheels and a warm engine."""
    size = canvas.number(24, 60)
    x = canvas.number(0, canvas.width - size)
    y = canvas.number(horizon, canvas.height - 0.5 * size)
    canvas.paint(canvas.box(x, y, size, 0.3 * size), (0.2, 0.5), 0.05)
    cabin = canvas.box(x + 0.2 * size, y - 0.2 * size, 0.5 * size, 0.2 * size)
    canvas.paint(cabin, (0.1, 0.6), 0.05)
    engine = canvas.box(x, y + 0.1 * size, 0.3 * size, 0.2 * size)
    canvas.ir = torch.where(engine, 0.8, canvas.ir)
    for at in (0.2, 0.8):
        wheel = canvas.disc(x + at * size, y + 0.3 * size, 0.1 * size)
        canvas.paint(wheel, (0.6, 0.9), 0.05)


def person(canvas: Canvas, horizon: float) -> None:
    """Paint a warm body and head, whatever is worn."""
    tall = canvas.number(20, 60)
    x, y = canvas.number(0, canvas.width), canvas.number(horizon - 10, horizon + 30)
    canvas.paint(canvas.box(x, y, 0.3 * tall, 0.8 * tall), (0.75, 0.9), 0.1)
    canvas.paint(canvas.disc(x + 0.15 * tall, y - 3, 0.12 * tall), (0.9, 1.0), 0.05)


def synthetic_pair(name: str, *, height: int = 256, width: int = 384) -> Pair:
    """Draw the scene called `name`, ``scene_000`` say; its number is the seed."""
    rng = torch.Generator().manual_seed(int(name.removeprefix("scene_")))
    canvas = Canvas(height, width, rng)
    horizon = height * canvas.number(0.35, 0.55)
    everywhere = torch.ones(height, width, dtype=torch.bool)
    canvas.paint(everywhere, (0.05, 0.2), 0.05)  # sky
    hills = canvas.y > horizon - 30 * smooth_noise(height, width, 60, rng)
    canvas.paint(hills, (0.2, 0.4), 0.3)
    canvas.paint(canvas.y > horizon, (0.3, 0.5), 0.25)  # ground
    middle, spread = width * canvas.number(0.3, 0.7), canvas.number(0.4, 1.2)
    below = (canvas.y - horizon).clamp(min=0)
    off_axis = (canvas.x - middle).abs()
    canvas.paint((off_axis < spread * below) & (below > 0), (0.3, 0.6), 0.1)  # road
    dashes = (off_axis < 0.03 * below) & (below.sqrt() % 2 < 1) & (below > 0)
    canvas.paint(dashes, (0.3, 0.6), 0.02)

    for paint, low, high in ((building, 2, 5), (car, 1, 4), (person, 1, 4)):
        for _ in range(int(canvas.number(low, high + 1))):
            paint(canvas, horizon)
    for _ in range(int(canvas.number(1, 4))):  # poles
        x, top = canvas.number(0, width), canvas.number(0, horizon)
        pole = canvas.box(x, top, canvas.number(3, 7), horizon + 20 - top)
        canvas.paint(pole, (0.1, 0.7), 0.05)

    light = canvas.number(0.1, 0.3) if canvas.number(0, 1) < 0.25 else 1.0
    rgb = light * canvas.rgb + 0.02 * torch.randn(3, height, width, generator=rng)
    ir = canvas.ir + 0.02 * torch.randn(height, width, generator=rng)
    return Pair(name, rgb.clamp(0, 1), ir.clamp(0, 1)[None])
