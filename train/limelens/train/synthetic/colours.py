"""Colours by chance, and colours made from others."""

import numpy as np

RGB = tuple[int, int, int]
"""Red, green and blue, 0 to 255 each."""


def cloth_colour(rng: np.random.Generator) -> RGB:
    """A colour of cloth or plastic: greys and muted ones oftener than bright ones."""
    hue = float(rng.uniform(0, 6))
    strength = float(rng.beta(1.2, 1.4))
    value = float(rng.uniform(0.12, 0.98))
    r, g, b = (
        int(255 * value * (1 - strength * min(max(min(k, 4 - k), 0.0), 1.0)))
        for k in ((5 + hue) % 6, (3 + hue) % 6, (1 + hue) % 6)
    )
    return (r, g, b)


def any_colour(rng: np.random.Generator) -> RGB:
    """A grey with some of any colour in it, seldom a pure one."""
    grey = float(rng.uniform(20, 245))
    strength = float(rng.beta(1.0, 1.5))
    r, g, b = (int(v) for v in grey * (1 - strength) + rng.uniform(0, 255, 3) * strength)
    return (r, g, b)


def varied(rng: np.random.Generator, colour: RGB, amount: int) -> RGB:
    """The colour, each channel up to `amount` brighter or darker."""
    shifts = rng.integers(-amount, amount + 1, 3)
    r, g, b = (max(0, min(255, v + int(d))) for v, d in zip(colour, shifts, strict=True))
    return (r, g, b)


def dimmed(colour: RGB, factor: float) -> RGB:
    """The colour times a factor: darker below 1, lighter above."""
    r, g, b = (max(0, min(255, round(v * factor))) for v in colour)
    return (r, g, b)


def mixed(first: RGB, second: RGB, share: float) -> RGB:
    """The first colour with a share, 0 to 1, of the second."""
    r, g, b = (round(a + (b - a) * share) for a, b in zip(first, second, strict=True))
    return (r, g, b)


def muted(colour: RGB) -> RGB:
    """The colour, halfway to grey."""
    grey = sum(colour) // 3
    return mixed(colour, (grey, grey, grey), 0.5)
