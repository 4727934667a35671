"""What the cloth of a mask looks like: what is printed on it, and how it lies on a face.

It works on coordinates in face units (see `synthetic.face`) and knows nothing of the image
that the mask is drawn on, nor of its light.
"""

from math import cos, sin
from typing import Literal

import numpy as np
from PIL import Image, ImageDraw, ImageFilter

from limelens.train.synthetic.colours import RGB, varied
from limelens.train.synthetic.cuts import Cut, MaskKind
from limelens.train.synthetic.painting import Floats, cloud, step

Pattern = Literal["plain", "stripes", "dots", "checks", "floral", "noise", "teeth"]

# A drawn print lies over the face from this corner on and is this large.
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
    """The colours of the cloth as it lies flat in even white light.

    Args:
        pattern: What is printed on it.
        colour: Of the cloth.
        accent: Of the print.
        x: `(h, w)` in face units, of each pixel.
        y: `(h, w)` in face units.
        unit: Pixels per face unit.
        rng: Where the size and the place of the print come from.

    Returns:
        `(h, w, 3)`, 0 to 255.
    """
    if pattern in ("floral", "teeth"):
        return _sampled(_drawn(pattern, colour, accent, unit, rng), x, y)
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
    return (base + (np.asarray(accent, dtype=np.float32) - base) * mix[..., None]).astype(
        np.float32
    )


def folded(kind: MaskKind, cut: Cut, x: Floats, y: Floats, rng: np.random.Generator) -> Floats:
    """How bright white cloth is over the face: roundness, pleats, seams and creases.

    Args:
        kind: What kind of mask it is.
        cut: Its outline.
        x: `(h, w)` in face units, of each pixel.
        y: `(h, w)` in face units.
        rng: Where the creases come from.

    Returns:
        `(h, w)`, about 1.
    """
    top = cut.top_at(x)
    v = (y - top) / np.maximum(cut.bottom_at(x) - top, 0.05)
    round_off = np.abs(x / max(cut.top_half, cut.bottom_half)).clip(0, 1.2)
    shade = 1.05 - 0.30 * round_off**2.4
    shade -= 0.24 * np.clip((v - 0.72) / 0.28, 0, 1.2) ** 1.5
    size = (x.shape[1], x.shape[0])
    shade += 0.025 * cloud(rng, size, (6, 6))
    if kind in ("surgical", "sport", "cloth", "bandana", "gaiter"):
        along_nose = np.exp(-(((y - cut.top - 0.22) / 0.26) ** 2))
        shade += 0.07 * np.exp(-((x / 0.15) ** 2)) * along_nose
        shade -= 0.08 * np.exp(-(((np.abs(x) - 0.33) / 0.13) ** 2)) * along_nose
    if kind == "surgical":
        offset = float(rng.uniform(-0.03, 0.03))
        for fold in (0.36, 0.52, 0.68):
            away = v - fold - offset - 0.01 * np.sin(3 * x + 9 * fold)
            shade -= 0.17 * np.exp(-((away / 0.018) ** 2))
            shade += 0.07 * np.exp(-(((away + 0.045) / 0.03) ** 2))
        wire = np.exp(-(((v - 0.075) / 0.022) ** 4)) * (np.abs(x) < 0.42)
        shade += 0.09 * wire
        for hem in (0.13, 0.93):
            shade -= 0.06 * np.exp(-(((v - hem) / 0.010) ** 2))
        shade -= 0.10 * np.exp(-(((np.abs(x) - cut.top_half * 0.92) / 0.02) ** 2))
    elif kind in ("cloth", "sport"):
        shade -= 0.16 * np.exp(-((x / 0.018) ** 2))
        shade += 0.04 * np.exp(-(((np.abs(x) - 0.06) / 0.04) ** 2))
        if kind == "cloth":
            shade -= 0.07 * np.exp(-(((v - 0.06) / 0.010) ** 2))
            shade -= 0.07 * np.exp(-(((v - 0.94) / 0.010) ** 2))
    elif kind == "cup":
        shade += 0.10 * np.exp(-(((x + 0.15) / 0.4) ** 2 + ((y - 0.9) / 0.35) ** 2))
        rim = ((x / 0.84) ** 2 + ((y - 1.1) / 0.78) ** 2).clip(0, 2)
        shade -= 0.12 * np.exp(-(((rim - 0.80) / 0.05) ** 2))
        if rng.random() < 0.6:
            shade -= 0.14 * np.exp(-(((y - 1.12 - 0.08 * x * x) / 0.02) ** 2))
    else:
        tilt = float(rng.uniform(-0.4, 0.4))
        for _ in range(5):
            at = float(rng.uniform(0.9, 2.5))
            bend = float(rng.uniform(0.1, 0.45))
            away = y + bend * x * x + tilt * x - at
            shade -= 0.12 * np.exp(-((away / 0.05) ** 2))
            shade += 0.07 * np.exp(-(((away + 0.09) / 0.06) ** 2))
    shaded: Floats = shade.astype(np.float32)
    return shaded


def _drawn(
    pattern: Literal["floral", "teeth"],
    colour: RGB,
    accent: RGB,
    unit: float,
    rng: np.random.Generator,
) -> Floats:
    """A print that is too intricate for a formula, `(H, W, 3)`, 0 to 255; see `_sampled`."""
    scale = int(np.clip(unit, 12, 160)) * 2  # its pixels per face unit
    width, height = _PRINT_WIDTH * scale, _PRINT_HEIGHT * scale
    texture = Image.new("RGB", (round(width), round(height)), colour)
    draw = ImageDraw.Draw(texture)
    if pattern == "teeth":
        cx, cy = 1.25 * scale, 0.85 * scale
        a, b = 0.52 * scale, 0.24 * scale
        lips = varied(rng, (170, 40, 50), 40)
        draw.ellipse((cx - a, cy - b, cx + a, cy + b), fill=lips)
        inner_a, inner_b = a * 0.86, b * 0.68
        opening = (cx - inner_a, cy - inner_b, cx + inner_a, cy + inner_b)
        draw.ellipse(opening, fill=(30, 12, 14))
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
                px, py = cx + r * cos(turn + 1.2 * k), cy + r * sin(turn + 1.2 * k)
                petal = 0.62 * r
                draw.ellipse((px - petal, py - petal, px + petal, py + petal), fill=leaf)
            middle = (236, 200, 80) if sum(leaf) < 600 else colour
            draw.ellipse((cx - r / 2, cy - r / 2, cx + r / 2, cy + r / 2), fill=middle)
    # On a face that is larger than the print it is enlarged, and needs no blur.
    blurred = texture.filter(ImageFilter.BoxBlur(max(0.0, scale / unit / 2 - 0.5)))
    return np.asarray(blurred, dtype=np.float32)


def _sampled(texture: Floats, x: Floats, y: Floats) -> Floats:
    """The `(h, w, 3)` colours of a drawn print at `(h, w)` x and y in face units."""
    height, width = texture.shape[:2]
    column = ((x - _PRINT_X) / _PRINT_WIDTH * width).astype(np.int32).clip(0, width - 1)
    row = ((y - _PRINT_Y) / _PRINT_HEIGHT * height).astype(np.int32).clip(0, height - 1)
    sampled: Floats = texture[row, column]
    return sampled
