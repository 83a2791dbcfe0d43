"""Procedurally made RGB–IR scenes, for running without the data set.

A scene is a list of regions drawn back to front: sky, hills, road, trees, buildings
with windows, poles, cars and people. Each has one colour in the visible image and one
temperature in the infrared, drawn independently, so that contrast between two regions
has the same sign in both modalities about half of the time. People, engines and tyres
of cars that were driven are hot; puddles, and some cars, are cold.

Much does not correspond. By day everything casts a shadow, in the visible image alone;
at night this is nearly black but for its lamps, which are not warm. Signs on walls are
seen in the visible image only, warm spots on ground and walls in the infrared only.
Visible surfaces carry fine patterns, infrared ones smooth gradients and a duller lens;
both get noise.

The halves are aligned exactly, or misaligned to order by a displacement that
`true_displacement` returns.
"""

import torch
import torch.nn.functional as F
from torch import Tensor

from .data import Pair
from .displace import displaced, smooth_field
from .splits import Split

__all__ = ["SYNTHETIC_SPLIT", "synthetic_pair", "true_displacement"]

NAMES = [f"scene_{i:03d}" for i in range(64)]
SYNTHETIC_SPLIT = Split(NAMES[:44], NAMES[44:52], NAMES[52:], [])
HEIGHT, WIDTH = 256, 384
NIGHTS = 0.25  # share of the scenes


def smooth_noise(height: int, width: int, cell: int, rng: torch.Generator) -> Tensor:
    """Return noise in [0, 1] that varies over about `cell` pixels."""
    coarse = torch.rand(1, 1, height // cell + 2, width // cell + 2, generator=rng)
    return F.interpolate(coarse, (height, width), mode="bilinear", align_corners=True)[
        0, 0
    ]


class Canvas:
    """Both images of one scene, and the light in it."""

    def __init__(self, height: int, width: int, rng: torch.Generator) -> None:
        self.rng, self.height, self.width = rng, height, width
        self.rgb, self.ir = torch.zeros(3, height, width), torch.zeros(height, width)
        self.y = torch.arange(height)[:, None].expand(height, width)
        self.x = torch.arange(width)[None, :].expand(height, width)
        self.night = self.number(0, 1) < NIGHTS
        self.sun = self.number(-2, 2)  # pixels a shadow goes sideways per pixel down

    def number(self, low: float, high: float) -> float:
        """Draw a number."""
        return low + (high - low) * torch.rand((), generator=self.rng).item()

    def chance(self, probability: float) -> bool:
        """Draw a decision."""
        return self.number(0, 1) < probability

    def paint(self, where: Tensor, heat: tuple[float, float], texture: float) -> None:
        """Fill a region: random colour and pattern, random temperature in `heat`."""
        self.colour(where, texture)
        slow = smooth_noise(self.height, self.width, 40, self.rng) - 0.5
        self.ir = torch.where(where, self.number(*heat) + 0.1 * slow, self.ir)

    def colour(self, where: Tensor, texture: float) -> None:
        """Fill a region in the visible image alone."""
        tint = torch.rand(3, 1, 1, generator=self.rng) - 0.5
        fine = smooth_noise(self.height, self.width, 3, self.rng) - 0.5
        colour = self.number(0.2, 0.8) + 0.25 * tint + texture * fine
        self.rgb = torch.where(where, colour, self.rgb)

    def warm(self, x: float, y: float, radius: float, by: float) -> None:
        """Add a soft spot to the infrared image alone."""
        self.ir = self.ir + by * self.glow(x, y, radius)

    def shadow(self, x: float, base: float, width: float, length: float) -> None:
        """Darken what lies in the shadow of something of this width, from its base."""
        if self.night:
            return
        down = self.y - base
        left = x + self.sun * down
        where = (down >= 0) & (down < length)
        where &= (self.x >= left) & (self.x < left + width)
        self.rgb = torch.where(where, 0.5 * self.rgb, self.rgb)

    def box(self, x: float, y: float, width: float, height: float) -> Tensor:
        """Return the mask of a rectangle with its top left corner at (x, y)."""
        across = (self.x >= x) & (self.x < x + width)
        return across & (self.y >= y) & (self.y < y + height)

    def disc(self, x: float, y: float, radius: float, flat: float = 1.0) -> Tensor:
        """Return the mask of a disc, or of an ellipse `flat` times as high."""
        return (self.x - x) ** 2 + ((self.y - y) / flat) ** 2 < radius**2

    def glow(self, x: float, y: float, radius: float) -> Tensor:
        """Return a soft disc."""
        return torch.exp(-((self.x - x) ** 2 + (self.y - y) ** 2) / radius**2)


def building(canvas: Canvas, horizon: float) -> None:
    """Paint a wall, its windows, and perhaps a sign or a warm spot."""
    width, height = canvas.number(40, 120), canvas.number(40, 0.9 * horizon)
    x, y = canvas.number(-20, canvas.width - 20), horizon - height
    canvas.shadow(x, horizon + 10, width, 0.2 * height)
    canvas.paint(canvas.box(x, y, width, height + 10), (0.25, 0.6), 0.15)
    step_x, step_y = canvas.number(12, 24), canvas.number(14, 26)
    windows = canvas.box(x + 4, y + 4, width - 8, height - 8)
    windows &= ((canvas.x - x) % step_x > 0.5 * step_x) & (
        (canvas.y - y) % step_y > 0.5 * step_y
    )
    canvas.paint(windows, (0.1, 0.8), 0.05)
    if canvas.chance(0.5):
        sign = canvas.number(0, 0.6) * width, canvas.number(0, 0.7) * height
        canvas.colour(canvas.box(x + sign[0], y + sign[1], 0.4 * width, 12), 0.6)
    if canvas.chance(0.5):
        spot = canvas.number(0, width), canvas.number(0, height)
        canvas.warm(x + spot[0], y + spot[1], canvas.number(6, 14), 0.3)


def tree(canvas: Canvas, horizon: float) -> None:
    """Paint a trunk and a crown of discs."""
    x, base = canvas.number(0, canvas.width), horizon + canvas.number(0, 15)
    tall = canvas.number(40, 90)
    canvas.shadow(x - 0.3 * tall, base, 0.6 * tall, 0.3 * tall)
    canvas.paint(canvas.box(x - 3, base - tall, 6, tall), (0.2, 0.5), 0.1)
    crown = canvas.disc(x, base - tall, 0.25 * tall)
    for _ in range(6):
        at = x + canvas.number(-0.3, 0.3) * tall, base - canvas.number(0.7, 1.2) * tall
        crown |= canvas.disc(*at, canvas.number(0.1, 0.2) * tall)
    canvas.paint(crown, (0.2, 0.5), 0.4)


def car(canvas: Canvas, horizon: float) -> None:
    """Paint a body, a cabin and two wheels: just driven, or as cold as the night."""
    size = canvas.number(24, 60)
    x = canvas.number(0, canvas.width - size)
    y = canvas.number(horizon, canvas.height - 0.5 * size)
    driven = canvas.chance(0.6)
    canvas.shadow(x, y + 0.35 * size, size, 0.2 * size)
    body = (0.2, 0.5) if driven else (0.02, 0.2)
    canvas.paint(canvas.box(x, y, size, 0.3 * size), body, 0.05)
    cabin = canvas.box(x + 0.2 * size, y - 0.2 * size, 0.5 * size, 0.2 * size)
    canvas.paint(cabin, (0.1, 0.6), 0.05)
    if driven:
        engine = canvas.box(x, y + 0.1 * size, 0.3 * size, 0.2 * size)
        canvas.ir = torch.where(engine, 0.8, canvas.ir)
        # Tracks keep the heat of the tyres for a while.
        canvas.warm(x + size, y + 0.38 * size, 0.3 * size, 0.15)
    for at in (0.2, 0.8):
        wheel = canvas.disc(x + at * size, y + 0.3 * size, 0.1 * size)
        canvas.paint(wheel, (0.6, 0.9) if driven else (0.05, 0.2), 0.05)


def person(canvas: Canvas, horizon: float) -> None:
    """Paint a warm body and head, whatever is worn."""
    tall = canvas.number(20, 60)
    x, y = canvas.number(0, canvas.width), canvas.number(horizon - 10, horizon + 30)
    canvas.shadow(x, y + 0.8 * tall, 0.3 * tall, 0.5 * tall)
    canvas.paint(canvas.box(x, y, 0.3 * tall, 0.8 * tall), (0.75, 0.9), 0.1)
    canvas.paint(canvas.disc(x + 0.15 * tall, y - 3, 0.12 * tall), (0.9, 1.0), 0.05)


def puddle(canvas: Canvas, horizon: float) -> None:
    """Paint something cold and flat."""
    x, y = canvas.number(0, canvas.width), canvas.number(horizon + 20, canvas.height)
    where = canvas.disc(x, y, canvas.number(8, 30), 0.35)
    canvas.paint(where, (0.0, 0.12), 0.03)


def pole(canvas: Canvas, horizon: float) -> None:
    """Paint a pole."""
    x, top = canvas.number(0, canvas.width), canvas.number(0, horizon)
    width = canvas.number(3, 7)
    canvas.shadow(x, horizon + 20, width, 60)
    where = canvas.box(x, top, width, horizon + 20 - top)
    canvas.paint(where, (0.1, 0.7), 0.05)


# What is painted, and the fewest and the most of it.
OBJECTS = (
    (building, 2, 5),
    (tree, 0, 3),
    (puddle, 1, 4),
    (car, 1, 4),
    (person, 1, 4),
    (pole, 1, 3),
)


def draw(canvas: Canvas) -> None:
    """Paint a scene."""
    height, width = canvas.height, canvas.width
    horizon = height * canvas.number(0.35, 0.55)
    everywhere = torch.ones(height, width, dtype=torch.bool)
    canvas.paint(everywhere, (0.05, 0.2), 0.05)  # sky
    hills = canvas.y > horizon - 30 * smooth_noise(height, width, 60, canvas.rng)
    canvas.paint(hills, (0.2, 0.4), 0.3)
    canvas.paint(canvas.y > horizon, (0.3, 0.5), 0.25)  # ground
    middle, spread = width * canvas.number(0.3, 0.7), canvas.number(0.4, 1.2)
    below = (canvas.y - horizon).clamp(min=0)
    off_axis = (canvas.x - middle).abs()
    canvas.paint((off_axis < spread * below) & (below > 0), (0.3, 0.6), 0.1)  # road
    dashes = (off_axis < 0.03 * below) & (below.sqrt() % 2 < 1) & (below > 0)
    canvas.paint(dashes, (0.3, 0.6), 0.02)
    for _ in range(4):
        at = canvas.number(0, width), canvas.number(horizon, height)
        canvas.warm(*at, canvas.number(8, 30), canvas.number(-0.15, 0.15))
    for paint, low, high in OBJECTS:
        for _ in range(int(canvas.number(low, high + 1))):
            paint(canvas, horizon)
    if canvas.night:
        canvas.rgb = canvas.number(0.1, 0.3) * canvas.rgb
        for _ in range(3):
            at = canvas.number(0, width), canvas.number(0.5, 1.2) * horizon
            canvas.rgb = canvas.rgb + canvas.glow(*at, canvas.number(4, 12))


def seed_of(name: str) -> int:
    """Return the number in ``scene_000``."""
    return int(name.removeprefix("scene_"))


def true_displacement(
    name: str,
    *,
    misalignment: float = 0.0,
    shift: tuple[float, float] = (0.0, 0.0),
    height: int = HEIGHT,
    width: int = WIDTH,
) -> Tensor:
    """Return ``(2, H, W)``, how far the infrared image is off at each visible pixel.

    What the visible image shows at (x, y), the infrared one shows at (x + dx, y + dy).

    Args:
        name: Of the scene.
        misalignment: Root mean square of the length of a smooth random displacement,
            in pixels.
        shift: The same for all pixels, (x, y); it is added.
        height: Of the images.
        width: The same.
    """
    field = misalignment * smooth_field(height, width, 1_000_003 + seed_of(name))
    return field + torch.tensor(shift).view(2, 1, 1)


def synthetic_pair(
    name: str,
    *,
    misalignment: float = 0.0,
    shift: tuple[float, float] = (0.0, 0.0),
    height: int = HEIGHT,
    width: int = WIDTH,
) -> Pair:
    """Draw the scene called `name`, ``scene_000`` say; its number is the seed.

    The arguments are those of `true_displacement`; neither changes the visible image.
    """
    rng = torch.Generator().manual_seed(seed_of(name))
    canvas = Canvas(height, width, rng)
    draw(canvas)
    ir = canvas.ir[None]
    if misalignment or any(shift):
        size = {"height": height, "width": width}
        ir = displaced(
            ir,
            true_displacement(name, misalignment=misalignment, shift=shift, **size),
        )
    ir = F.avg_pool2d(F.pad(ir[None], (1, 1, 1, 1), mode="replicate"), 3, 1)[0]
    rgb = canvas.rgb + 0.02 * torch.randn(3, height, width, generator=rng)
    ir = ir + 0.02 * torch.randn(1, height, width, generator=rng)
    return Pair(name, rgb.clamp(0, 1), ir.clamp(0, 1))
