"""Draws what is behind a person: a wall, a gradient, a blur, gravel, bricks, a room."""

from math import ceil, cos, sin

import numpy as np
from PIL import Image, ImageDraw, ImageFilter

from limelens.train.synthetic.painting import RGB, Pixels, any_colour, dimmed, muted, varied


def random_background(rng: np.random.Generator, height: int, width: int) -> Pixels:
    """`(height, width, 3)` RGB, 0 to 255, of any kind."""
    kind = int(rng.integers(7))
    first, second = muted(any_colour(rng)), muted(any_colour(rng))
    if kind == 0:  # a studio's wall
        grey = int(rng.choice((252, 244, 225, 190, 128, 40)))
        first = varied(rng, (grey, grey, grey), 8)
        second = dimmed(first, float(rng.uniform(0.8, 1.0)))
    if kind <= 1:
        return _gradient(rng, height, width, first, second)
    if kind <= 3:
        return _out_of_focus(rng, height, width, first)
    if kind == 4:
        return _grains(rng, height, width, first)
    image = Image.new("RGB", (width, height), first)
    if kind == 5:
        _draw_bricks(image, rng, first, second)
    else:
        _draw_room(image, rng, second)
    blur = float(rng.uniform(0, 0.02)) * width
    return np.asarray(image.filter(ImageFilter.BoxBlur(blur)))


def _gradient(rng: np.random.Generator, height: int, width: int, first: RGB, second: RGB) -> Pixels:
    angle = float(rng.uniform(0, 2 * np.pi))
    down = np.linspace(-0.5, 0.5, height, dtype=np.float32)[:, None]
    across = np.linspace(-0.5, 0.5, width, dtype=np.float32)[None, :]
    mix = np.clip(0.5 + 0.8 * (across * cos(angle) + down * sin(angle)), 0, 1)[..., None]
    a, b = np.array(first, dtype=np.float32), np.array(second, dtype=np.float32)
    return (a + (b - a) * mix).clip(0, 255).astype(np.uint8)


def _out_of_focus(rng: np.random.Generator, height: int, width: int, colour: RGB) -> Pixels:
    cells = int(rng.integers(3, 9))
    lights = rng.integers(-128, 128, (cells, cells, 1))
    hue = rng.normal(0, 1, (cells, cells, 3)) * float(rng.choice((6, 14, 40)))
    grid = (np.asarray(colour) + lights * float(rng.uniform(0.2, 0.7)) + hue).clip(0, 255)
    small = Image.fromarray(grid.astype(np.uint8))
    return np.asarray(small.resize((width, height), Image.Resampling.BICUBIC))


def _grains(rng: np.random.Generator, height: int, width: int, colour: RGB) -> Pixels:
    """Gravel, leaves, a distant crowd."""
    grain = int(rng.integers(2, 9))
    shape = (max(2, height // grain), max(2, width // grain), 1)
    noise = rng.normal(0, 28, shape) + np.asarray(colour)
    small = Image.fromarray(noise.clip(0, 255).astype(np.uint8))
    return np.asarray(small.resize((width, height), Image.Resampling.BICUBIC))


def _draw_bricks(image: Image.Image, rng: np.random.Generator, colour: RGB, joint: RGB) -> None:
    """Bricks, or tiles."""
    draw = ImageDraw.Draw(image)
    width, height = image.size
    tall = max(3, round(height * float(rng.uniform(0.05, 0.16))))
    long = round(tall * float(rng.uniform(1.0, 2.6)))
    shifted = rng.random() < 0.6
    for row in range(ceil(height / tall)):
        top = row * tall
        start = -(long // 2) * (row % 2 if shifted else 0)
        for left in range(start, width, long):
            brick = (left, top, left + long - 1, top + tall - 1)
            draw.rectangle(brick, fill=varied(rng, colour, 14), outline=joint)


def _draw_room(image: Image.Image, rng: np.random.Generator, floor_colour: RGB) -> None:
    """Floor, windows, shelves, other people's clothes."""
    draw = ImageDraw.Draw(image)
    width, height = image.size
    floor = round(height * float(rng.uniform(0.55, 0.95)))
    draw.rectangle((0, floor, width, height), fill=floor_colour)
    for _ in range(int(rng.integers(3, 10))):
        x, y = float(rng.uniform(-0.1, 0.95)) * width, float(rng.uniform(-0.1, 0.7)) * height
        w, h = (float(v) for v in rng.uniform(0.06, 0.4, 2) * (width, height))
        colour = any_colour(rng)
        draw.rectangle((x, y, x + w, y + h), fill=colour, outline=dimmed(colour, 0.6))
