"""The cloth of a mask: its cut, its print and its folds on a face.

Works on coordinates in face units (see `synthetic.face`); does not know the image that the mask is
drawn on, nor its light.
"""

from collections.abc import Mapping
from dataclasses import dataclass, replace
from math import cos, sin
from typing import Final, Literal

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageDraw, ImageFilter

from limelens.train.synthetic.painting import RGB, Floats, cloud, step, varied

Pattern = Literal["plain", "stripes", "dots", "checks", "floral", "noise", "teeth"]
MaskKind = Literal["surgical", "cloth", "cup", "sport", "bandana", "gaiter"]


@dataclass(frozen=True)
class Cut:
    """An upper and a lower edge, both bent, joined by two bent sides; in face units.

    Args:
        top: Y of the upper edge on the nose.
        top_side: Y of the upper edge at the cheeks.
        top_half: Half the width at the upper corners.
        top_power: How late the upper edge bends; 1 is straight down from the nose.
        bulge: How far the sides bend outwards.
        loops: Whether it is held by ear loops or headbands.
    """

    top: float
    top_side: float
    top_half: float
    bottom: float
    bottom_side: float
    bottom_half: float
    top_power: float = 1.6
    bottom_power: float = 2.2
    bulge: float = 0.0
    loops: bool = True

    def varied(self, rng: np.random.Generator) -> "Cut":
        """A random variation of the cut, worn a little higher or lower."""
        width = float(rng.uniform(0.96, 1.05))
        return replace(
            self,
            top=self.top + float(rng.uniform(-0.02, 0.06)),
            top_side=self.top_side + float(rng.uniform(-0.04, 0.06)),
            bottom=self.bottom + float(rng.uniform(-0.04, 0.08)),
            top_half=self.top_half * width,
            bottom_half=self.bottom_half * width,
        )

    def top_at(self, x: Floats) -> Floats:
        """The upper edge's y at x, of the same shape."""
        return _edge(x, self.top, self.top_side, self.top_half, self.top_power)

    def bottom_at(self, x: Floats) -> Floats:
        """The lower edge's y at x, of the same shape."""
        return _edge(x, self.bottom, self.bottom_side, self.bottom_half, self.bottom_power)

    def outline(self) -> Floats:
        """`(N, 2)` corners, clockwise from the upper left one."""
        upper = np.linspace(-self.top_half, self.top_half, 25, dtype=np.float32)
        lower = np.linspace(self.bottom_half, -self.bottom_half, 25, dtype=np.float32)
        along = np.linspace(0, 1, 12, dtype=np.float32)[1:-1]
        side_x = self.top_half + (self.bottom_half - self.top_half) * along
        side_x = side_x + self.bulge * np.sin(np.pi * along)
        side_y = self.top_side + (self.bottom_side - self.top_side) * along
        x = np.concatenate([upper, side_x, lower, -side_x[::-1]])
        y = np.concatenate([self.top_at(upper), side_y, self.bottom_at(lower), side_y[::-1]])
        return np.stack([x, y], 1).astype(np.float32)


def _edge(x: Floats, middle: float, side: float, half: float, power: float) -> Floats:
    bend = np.minimum(np.abs(x) / half, 1.2) ** power
    return (middle + (side - middle) * bend).astype(np.float32)


CUTS: Final[Mapping[MaskKind, Cut]] = {
    "surgical": Cut(0.36, 0.60, 0.94, 1.93, 1.42, 0.82, bulge=-0.02),
    "cloth": Cut(0.33, 0.70, 0.99, 1.93, 1.16, 0.97, top_power=1.5, bottom_power=2.3),
    "cup": Cut(0.31, 0.98, 0.84, 1.92, 1.14, 0.84, top_power=2.3, bottom_power=2.6, bulge=0.02),
    "sport": Cut(0.34, 0.56, 1.03, 1.88, 0.98, 1.01, top_power=1.5, bottom_power=1.9),
    "bandana": Cut(0.38, 0.42, 1.06, 2.75, 1.15, 1.06, 1.8, bottom_power=0.9, loops=False),
    "gaiter": Cut(0.40, 0.46, 1.06, 2.62, 2.36, 0.80, top_power=1.8, bulge=-0.03, loops=False),
}
"""Masks as they are worn."""

CHIN_CUT: Final = Cut(1.38, 1.12, 0.90, 2.06, 1.45, 0.84, bottom_power=2.0)
"""A mask that was pulled down below the mouth."""

SCARF_CUT: Final = Cut(1.74, 1.40, 0.98, 2.75, 2.35, 1.28, bulge=0.16, loops=False)
"""A scarf around the neck, up to the chin."""

# Corner and size of the drawn print over the face.
_PRINT_X, _PRINT_Y = -1.25, 0.2
_PRINT_WIDTH, _PRINT_HEIGHT = 2.5, 2.6


def printed(
    pattern: Pattern,
    colour: RGB,
    accent: RGB,
    x: Floats,
    y: Floats,
    unit: float,
    rng: np.random.Generator,
) -> Floats:
    """The colours of the cloth, flat in even white light, `(h, w, 3)`, 0 to 255.

    At `(h, w)` x and y in face units of `unit` pixels; the print has the accent's colour.
    """
    if pattern in ("floral", "teeth"):
        texture = _drawn(pattern, colour, accent, unit, rng)
        height, width = texture.shape[:2]
        column = ((x - _PRINT_X) / _PRINT_WIDTH * width).astype(np.int32).clip(0, width - 1)
        row = ((y - _PRINT_Y) / _PRINT_HEIGHT * height).astype(np.int32).clip(0, height - 1)
        return np.asarray(texture[row, column])
    base = np.asarray(colour, dtype=np.float32)
    pixel = 1.2 / unit  # about one, in face units, so that prints do not alias
    mix: Floats
    if pattern == "plain":
        return np.broadcast_to(base, (*x.shape, 3)).astype(np.float32)
    if pattern == "stripes":
        angle, pitch = float(rng.uniform(0, np.pi)), float(rng.uniform(0.14, 0.34))
        phase = (x * cos(angle) + y * sin(angle)) / pitch
        away = (np.abs(phase % 1 - 0.5) * pitch).astype(np.float32)
        mix = step(away, 0.25 * pitch, pixel)
    elif pattern == "dots":
        pitch = float(rng.uniform(0.2, 0.36))
        row = np.floor(y / pitch)
        dx = ((x / pitch + 0.5 * row) % 1 - 0.5) * pitch
        dy = (y / pitch % 1 - 0.5) * pitch
        away = np.hypot(dx, dy).astype(np.float32)
        mix = 1 - step(away, float(rng.uniform(0.2, 0.32)) * pitch, pixel)
    elif pattern == "checks":
        pitch = float(rng.uniform(0.16, 0.3))
        across = step(np.abs(x / pitch % 1 - 0.5) * pitch, 0.25 * pitch, pixel)
        down = step(np.abs(y / pitch % 1 - 0.5) * pitch, 0.25 * pitch, pixel)
        mix = ((across + down) / 2).astype(np.float32)
    else:  # camouflage: three colours
        size = (x.shape[1], x.shape[0])
        cells = max(4, min(40, round(x.shape[1] / unit * 5)))
        second, third = cloud(rng, size, (cells, cells)), cloud(rng, size, (cells, cells))
        other = np.asarray(varied(rng, colour, 40), dtype=np.float32)
        base = base + (other - base) * step(third, 0.5, 0.2)[..., None]
        mix = step(second, 0.3, 0.2)
    colours = base + (np.asarray(accent, dtype=np.float32) - base) * mix[..., None]
    return colours.astype(np.float32)


def folded(kind: MaskKind, cut: Cut, x: Floats, y: Floats, rng: np.random.Generator) -> Floats:
    """The brightness of white cloth over the face: roundness, pleats, seams and creases.

    `(h, w)`, about 1, at x and y in face units.
    """
    top = cut.top_at(x)
    v = (y - top) / np.maximum(cut.bottom_at(x) - top, 0.05)
    round_off = np.abs(x / max(cut.top_half, cut.bottom_half)).clip(0, 1.2)
    shade = 1.05 - 0.30 * round_off**2.4
    shade -= 0.24 * np.clip((v - 0.72) / 0.28, 0, 1.2) ** 1.5
    shade += 0.025 * cloud(rng, (x.shape[1], x.shape[0]), (6, 6))
    if kind in ("surgical", "sport", "cloth", "bandana", "gaiter"):
        along_nose = _bump(y - cut.top - 0.22, 0.26)
        shade += 0.07 * _bump(x, 0.15) * along_nose
        shade -= 0.08 * _bump(np.abs(x) - 0.33, 0.13) * along_nose
    if kind == "surgical":
        offset = float(rng.uniform(-0.03, 0.03))
        for fold in (0.36, 0.52, 0.68):
            away = v - fold - offset - 0.01 * np.sin(3 * x + 9 * fold)
            shade -= 0.17 * _bump(away, 0.018)
            shade += 0.07 * _bump(away + 0.045, 0.03)
        shade += 0.09 * np.exp(-(((v - 0.075) / 0.022) ** 4)) * (np.abs(x) < 0.42)
        for hem in (0.13, 0.93):
            shade -= 0.06 * _bump(v - hem, 0.010)
        shade -= 0.10 * _bump(np.abs(x) - cut.top_half * 0.92, 0.02)
    elif kind in ("cloth", "sport"):
        shade -= 0.16 * _bump(x, 0.018)
        shade += 0.04 * _bump(np.abs(x) - 0.06, 0.04)
        if kind == "cloth":
            for hem in (0.06, 0.94):
                shade -= 0.07 * _bump(v - hem, 0.010)
    elif kind == "cup":
        shade += 0.10 * np.exp(-(((x + 0.15) / 0.4) ** 2 + ((y - 0.9) / 0.35) ** 2))
        rim = ((x / 0.84) ** 2 + ((y - 1.1) / 0.78) ** 2).clip(0, 2)
        shade -= 0.12 * _bump(rim - 0.80, 0.05)
        if rng.random() < 0.6:
            shade -= 0.14 * _bump(y - 1.12 - 0.08 * x * x, 0.02)
    else:
        tilt = float(rng.uniform(-0.4, 0.4))
        for _ in range(5):
            at = float(rng.uniform(0.9, 2.5))
            bend = float(rng.uniform(0.1, 0.45))
            away = y + bend * x * x + tilt * x - at
            shade -= 0.12 * _bump(away, 0.05)
            shade += 0.07 * _bump(away + 0.09, 0.06)
    return np.asarray(shade, dtype=np.float32)


def _bump(away: NDArray[np.floating], width: float) -> NDArray[np.floating]:
    """1 where `away` is 0, falling to nothing over a few widths."""
    return np.asarray(np.exp(-((away / width) ** 2)))


def _drawn(
    pattern: Pattern, colour: RGB, accent: RGB, unit: float, rng: np.random.Generator
) -> Floats:
    """A print too intricate for a formula, `(H, W, 3)`, 0 to 255."""
    scale = int(np.clip(unit, 12, 160)) * 2  # its pixels per face unit
    width, height = _PRINT_WIDTH * scale, _PRINT_HEIGHT * scale
    texture = Image.new("RGB", (round(width), round(height)), colour)
    draw = ImageDraw.Draw(texture)
    if pattern == "teeth":
        cx, cy, a, b = 1.25 * scale, 0.85 * scale, 0.52 * scale, 0.24 * scale
        lips = varied(rng, (170, 40, 50), 40)
        for half, tall, fill in ((a, b, lips), (a * 0.86, b * 0.68, (30, 12, 14))):
            draw.ellipse((cx - half, cy - tall, cx + half, cy + tall), fill=fill)
        num_teeth = int(rng.integers(5, 9))
        for side in (-1, 1):
            for k in range(num_teeth):
                t = (k + 0.5) / num_teeth * 2 - 1
                w, h = a * 0.78 / num_teeth, b * 0.62 * (1 - t * t) ** 0.5
                mid = cx + t * a * 0.8
                box = (mid - w, min(cy, cy + side * h), mid + w, max(cy, cy + side * h))
                draw.rectangle(box, fill=accent, outline=(60, 40, 40))
    else:
        for _ in range(int(rng.integers(18, 46))):
            cx, cy = (float(v) for v in rng.uniform(0, 1, 2) * (width, height))
            r = float(rng.uniform(0.05, 0.15)) * scale
            leaf = varied(rng, accent, 40)
            turn = float(rng.uniform(0, 2 * np.pi))
            for k in range(int(rng.integers(4, 7))):
                at = cx + r * cos(turn + 1.2 * k), cy + r * sin(turn + 1.2 * k)
                draw.circle(at, 0.62 * r, fill=leaf)
            draw.circle((cx, cy), r / 2, fill=(236, 200, 80) if sum(leaf) < 600 else colour)
    # A print that is enlarged needs no blur.
    blurred = texture.filter(ImageFilter.BoxBlur(max(0.0, scale / unit / 2 - 0.5)))
    return np.asarray(blurred, dtype=np.float32)
