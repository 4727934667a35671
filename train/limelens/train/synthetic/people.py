"""Draws a person around a face: clothes, head, features, hair, hat and glasses.

Knows what people look like, in face units (see `synthetic.face`); does not know the place or the
camera.
"""

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from limelens.train.synthetic.canvas import FaceCanvas, dome, ellipse
from limelens.train.synthetic.painting import RGB, any_colour, dimmed, mixed, varied

Doubles = NDArray[np.float64]

_SKIN: tuple[RGB, ...] = (
    (246, 216, 196), (236, 196, 170), (224, 178, 146), (202, 152, 118), (172, 122, 90),
    (138, 92, 66), (104, 68, 50), (74, 50, 40),
)  # fmt: skip
_HAIR: tuple[RGB, ...] = (
    (22, 18, 18), (34, 26, 22), (52, 38, 30), (84, 58, 40), (128, 88, 54), (196, 160, 104),
    (150, 70, 40), (150, 148, 146), (216, 212, 206),
)  # fmt: skip
_HAIR_SHARES = (0.24, 0.2, 0.16, 0.12, 0.08, 0.07, 0.05, 0.05, 0.03)
_EYES: tuple[RGB, ...] = ((52, 34, 24), (70, 46, 30), (90, 120, 140), (84, 104, 70))
_EYE_SHARES = (0.5, 0.25, 0.15, 0.1)
# Depth of the tip of the nose.
_NOSE = 0.40


@dataclass(frozen=True)
class Looks:
    """What does not change about a person.

    Args:
        jaw_power: How square the jaw is; 2 is round.
        broad: Width of the head, about 1.
        long: Height of the face below the eyes, about 1.
        feminine: Which of two sets of hair, neck, brows, lashes and lips.
    """

    skin: RGB
    hair: RGB
    jaw_power: float
    broad: float
    long: float
    feminine: bool

    @classmethod
    def random(cls, rng: np.random.Generator) -> "Looks":
        """Any person's."""
        tone = float(rng.uniform(0, len(_SKIN) - 1))
        below = int(tone)
        skin = mixed(_SKIN[below], _SKIN[min(below + 1, len(_SKIN) - 1)], tone - below)
        return cls(
            skin=varied(rng, skin, 8),
            hair=varied(rng, _HAIR[int(rng.choice(len(_HAIR), p=_HAIR_SHARES))], 8),
            jaw_power=float(rng.uniform(2.0, 3.2)),
            broad=float(rng.uniform(0.94, 1.06)),
            long=float(rng.uniform(0.95, 1.06)),
            feminine=rng.random() < 0.5,
        )


@dataclass(frozen=True)
class DrawnPerson:
    """Who was drawn.

    Args:
        looks: What does not change about them.
        lamp: By which share the light grows with each face unit to the right.
        glasses: Whether they wear any.
        hat: Whether they wear one.
    """

    looks: Looks
    lamp: float
    glasses: bool
    hat: bool


def draw_person(canvas: FaceCanvas, rng: np.random.Generator) -> DrawnPerson:
    """Draws a person around the canvas's face, from the back to the front."""
    looks = Looks.random(rng)
    hat = rng.random() < 0.16
    bald = not looks.feminine and rng.random() < 0.12
    if looks.feminine and rng.random() < 0.8:
        _draw_long_hair(canvas, looks, rng)
    _draw_body(canvas, looks, rng)
    _draw_head(canvas, looks)
    _shade(canvas, rng)
    _draw_eyes(canvas, looks, rng)
    _draw_nose(canvas, looks, rng)
    _draw_mouth(canvas, looks, rng)
    lamp, from_above = float(rng.normal(0, 0.2)), float(rng.normal(0.03, 0.08))
    canvas.lit(lamp, from_above, float(rng.uniform(0.7, 1.7)), rng)
    if hat:
        _draw_hat(canvas, looks, rng)
    elif not bald:
        _draw_hair(canvas, looks, rng)
    glasses = rng.random() < 0.22
    if glasses:
        _draw_glasses(canvas, rng)
    return DrawnPerson(looks, lamp, glasses, hat)


def _draw_body(canvas: FaceCanvas, looks: Looks, rng: np.random.Generator) -> None:
    skin = dimmed(looks.skin, 0.86)
    neck = 0.62 if looks.feminine else 0.76
    base = 2.35
    canvas.polygon([(-neck, 0.9), (neck, 0.9), (neck * 1.1, 3.2), (-neck * 1.1, 3.2)], skin, -0.3)
    canvas.tone(ellipse(0.0, 2.0, 0.8, 0.24), 92, -0.2)
    colour = any_colour(rng)
    wide = float(rng.uniform(2.0, 2.7))
    t = np.linspace(-1, 1, 41)
    drop = np.abs(t) ** float(rng.uniform(2.2, 3.6)) * 1.0
    opening = np.clip(1 - (np.abs(t) * wide / (neck * 1.2)) ** 2, 0, 1)
    deep = float(rng.choice((0.15, 0.4, 0.9)))
    shoulder = base + 0.25 * np.abs(t) + drop + opening * deep
    outline = np.concatenate(
        [np.stack([t * wide, shoulder], 1), [(wide * 1.1, 9.0), (-wide * 1.1, 9.0)]]
    )
    canvas.polygon(outline, colour, -0.35)
    kind = int(rng.integers(5))
    if kind == 0:  # stripes
        other = any_colour(rng)
        for y in np.arange(base + 0.9, 7.0, 0.5):
            canvas.line([(-wide, float(y)), (wide, float(y))], other, 0.2, -0.35)
    elif kind == 1:  # a shirt's collar
        light = dimmed(colour, 1.15)
        for side in (-1, 1):
            flap = [(side * neck, 2.3), (side * 0.1, 3.1), (side * 0.75, 3.0)]
            canvas.polygon(flap, light, -0.3)
        canvas.line([(0.0, 3.0), (0.0, 9.0)], dimmed(colour, 0.75), 0.05, -0.35)
    elif kind == 2:  # a jacket over it
        for side in (-1, 1):
            inner, outer = [(side * neck, 2.4), (side * 0.35, 9.0)], side * wide
            canvas.polygon([*inner, (outer, 9.0), (outer, 3.6)], dimmed(colour, 0.55), -0.3)
    for side in (-1, 1):
        sleeve = [(side * wide * 0.72, 3.6), (side * wide * 0.8, 9.0)]
        canvas.line(sleeve, dimmed(colour, 0.7), 0.08, -0.35)


def _draw_head(canvas: FaceCanvas, looks: Looks) -> None:
    skin = looks.skin
    for side in (-1, 1):
        if side * canvas.face.yaw < 0.35:  # else the ear is behind the head
            outer = ellipse(side * 1.06 * looks.broad, 0.32, 0.14, 0.36)
            inner = ellipse(side * 1.07 * looks.broad, 0.32, 0.07, 0.22)
            canvas.polygon(outer, dimmed(skin, 0.9), -0.75)
            canvas.polygon(inner, dimmed(skin, 0.72), -0.75)
    canvas.polygon(_outline(looks), skin, -0.25)


def _outline(looks: Looks) -> Doubles:
    """The head from the forehead around the chin, `(N, 2)` in face units."""
    t = np.linspace(0, 2 * np.pi, 72, endpoint=False)
    c, s = np.cos(t), np.sin(t)
    down = 1.45 * looks.long
    low_x = np.sign(c) * np.abs(c) ** (2 / looks.jaw_power) * (1 - 0.08 * np.abs(s))
    x = np.where(s > 0, low_x, np.sign(c) * np.abs(c) ** 0.8)
    y = np.where(s > 0, 0.3 + down * np.abs(s) ** (2 / 2.1), 0.3 - 1.8 * np.abs(s) ** 0.85)
    return np.stack([x * 1.03 * looks.broad, y], 1)


def _shade(canvas: FaceCanvas, rng: np.random.Generator) -> None:
    """Hollows and bulges of the face."""
    dark = int(rng.integers(92, 112))
    for side in (-1, 1):
        canvas.tone(ellipse(side * 0.5, -0.06, 0.32, 0.17), dark)
        canvas.tone(ellipse(side * 0.62, 0.62, 0.26, 0.2), 140)
        canvas.tone(ellipse(side * 0.98, 0.6, 0.2, 0.95), 98, -0.3)
    canvas.tone(np.array([(-0.16, 0.72), (0.16, 0.72), (0.24, 0.62), (-0.24, 0.62)]), 88)
    canvas.tone(ellipse(0.0, 0.3, 0.08, 0.4), 150, _NOSE)
    far = 1.0 if canvas.face.yaw <= 0 else -1.0
    canvas.tone(np.array([(far * 0.1, 0.0), (far * 0.14, 0.6), (far * 0.3, 0.6)]), 100)
    canvas.tone(ellipse(0.0, 1.3, 0.26, 0.06), 96)
    canvas.tone(ellipse(0.0, 1.5, 0.25, 0.12), 142)
    canvas.tone(ellipse(0.0, -0.75, 0.6, 0.3), 142)


def _draw_eyes(canvas: FaceCanvas, looks: Looks, rng: np.random.Generator) -> None:
    skin = looks.skin
    brow = dimmed(mixed(looks.hair, skin, float(rng.uniform(0.1, 0.45))), 0.85)
    lift = float(rng.uniform(-0.05, 0.08))
    thick = float(rng.uniform(0.04, 0.08)) if looks.feminine else float(rng.uniform(0.06, 0.12))
    half = float(rng.uniform(0.19, 0.25))
    openness = float(rng.choice((1.0, 1.0, 0.85, 0.6, 0.1))) * float(rng.uniform(0.085, 0.12))
    iris = varied(rng, _EYES[int(rng.choice(len(_EYES), p=_EYE_SHARES))], 10)
    white = mixed((226, 222, 220), skin, 0.18)
    gaze = float(rng.uniform(-0.06, 0.06))
    for side in (-1, 1):
        x = side * 0.5
        inner, outer = x - side * 0.27, x + side * 0.32
        arch = [(inner, -0.24 + lift), (x + side * 0.02, -0.34 + lift), (outer, -0.22 + lift)]
        canvas.line(arch, brow, thick)
        canvas.polygon(ellipse(x, 0.0, half, openness), white)
        radius = min(0.105, openness * 1.15)
        canvas.polygon(ellipse(x + gaze, 0.0, radius, radius), iris)
        canvas.polygon(ellipse(x + gaze, 0.0, radius * 0.5, radius * 0.5), (14, 12, 12))
        canvas.polygon(ellipse(x + gaze + 0.03, -0.035, 0.022, 0.022), (250, 250, 250))
        t = np.linspace(-1, 1, 9)
        lid = np.stack([x + half * 1.08 * t, -openness * np.sqrt(1 - t * t) - 0.005], 1)
        lash = (24, 18, 18) if looks.feminine else dimmed(skin, 0.4)
        canvas.line(lid, lash, 0.05 if looks.feminine else 0.035)
        low = np.stack([x + half * t, openness * np.sqrt(1 - t * t) + 0.01], 1)
        canvas.line(low, dimmed(skin, 0.72), 0.02)


def _draw_nose(canvas: FaceCanvas, looks: Looks, rng: np.random.Generator) -> None:
    skin = looks.skin
    broad = float(rng.uniform(0.16, 0.25))
    for side in (-1, 1):
        nostril = ellipse(side * broad * 0.55, 0.655, broad * 0.3, 0.035)
        canvas.polygon(nostril, dimmed(skin, 0.45), _NOSE)
        wing = [(side * broad * 1.05, 0.52), (side * broad * 1.2, 0.62), (side * broad, 0.68)]
        canvas.line(wing, dimmed(skin, 0.75), 0.03, _NOSE - 0.08)


def _draw_mouth(canvas: FaceCanvas, looks: Looks, rng: np.random.Generator) -> None:
    skin = looks.skin
    wide = float(rng.uniform(0.34, 0.52))
    smile = float(rng.uniform(-0.04, 0.14))
    gape = max(0.0, float(rng.normal(0.02, 0.07)))
    red = (176, 60, 70) if looks.feminine and rng.random() < 0.6 else (176, 96, 92)
    lips = mixed(dimmed(skin, 0.8), red, float(rng.uniform(0.35, 0.8)))
    t = np.linspace(-1, 1, 17)
    bow = smile * (t * t - 0.5)
    full = float(rng.uniform(0.06, 0.11))
    arch = np.sqrt(np.clip(1 - t * t, 0, 1))
    x = wide * t
    middle = 1.02 - bow
    upper = middle - (full * arch * (1 - 0.25 * np.exp(-((t / 0.15) ** 2))) + gape * 0.3 * arch)
    lower = middle + full * 1.25 * arch + gape * arch
    canvas.polygon(_between(x, upper, lower), lips)
    if gape > 0.03:
        top = middle - gape * 0.3 * arch
        canvas.polygon(_between(x * 0.92, top, middle + gape * arch), (60, 22, 24))
        teeth = _between(x * 0.86, top + 0.01, middle + gape * 0.5 * arch)
        canvas.polygon(teeth, (236, 230, 222))
    else:
        canvas.line(np.stack([x, middle], 1), dimmed(lips, 0.55), 0.03)
    if smile > 0.05:
        for side in (-1, 1):
            fold = [(side * 0.3, 0.66), (side * (wide + 0.1), 0.84), (side * (wide + 0.12), 1.02)]
            canvas.line(fold, dimmed(skin, 0.84), 0.03)


def _between(x: Doubles, upper: Doubles, lower: Doubles) -> Doubles:
    """`(2N, 2)` outline between two lines over the same `(N,)` x."""
    return np.concatenate([np.stack([x, upper], 1), np.stack([x[::-1], lower[::-1]], 1)])


def _draw_long_hair(canvas: FaceCanvas, looks: Looks, rng: np.random.Generator) -> None:
    length = float(rng.uniform(1.2, 3.4))
    wide = float(rng.uniform(1.2, 1.5))
    sides = np.array([(wide * 1.03, length * 0.6), (wide * 0.8, length)])
    outline = np.concatenate([dome(wide, 0.1, 1.85), sides, sides[::-1] * (-1, 1)])
    _draw_strands(canvas, looks, outline, -0.5, rng)


def _draw_hair(canvas: FaceCanvas, looks: Looks, rng: np.random.Generator) -> None:
    wide = 1.1 * looks.broad
    high = float(rng.uniform(1.62, 1.95))
    line = float(rng.uniform(-0.95, -0.5))
    if looks.feminine and rng.random() < 0.35:
        line = -0.42  # a fringe
    temple = float(rng.uniform(-0.35, 0.25)) + (0.3 if looks.feminine else 0.0)
    part = float(rng.uniform(-0.5, 0.5))
    u = np.linspace(0.93, -0.93, 15)
    front = line + (temple - line) * np.abs(u) ** 4
    front = front - 0.22 * np.exp(-(((u - part) / 0.25) ** 2)) + rng.normal(0, 0.03, 15)
    edge = np.stack([u * wide, front], 1)
    sides = np.array([(wide, temple), (0.95 * wide, temple)])
    top = dome(wide, -0.1, high - 0.1)
    outline = np.concatenate([top, sides, edge, sides[::-1] * (-1, 1)])
    _draw_strands(canvas, looks, outline, -0.2, rng)


def _draw_strands(
    canvas: FaceCanvas, looks: Looks, outline: Doubles, depth: float, rng: np.random.Generator
) -> None:
    """A mass of hair with lighter and darker strands."""
    low, high = outline.min(axis=0), outline.max(axis=0)
    contrast = 0.4 if sum(looks.hair) < 250 else 0.16
    strands = []
    for _ in range(30):
        x0, x1 = (float(v) for v in rng.uniform(low[0], high[0], 2))
        x1 = x0 + 0.25 * (x1 - x0)
        curve = [(x0 * 0.7, float(low[1])), (x0, float(low[1] * 0.5)), (x1, float(high[1]))]
        strands.append((curve, dimmed(looks.hair, 1 + contrast * float(rng.uniform(-0.8, 1.2)))))
    canvas.strands(outline, looks.hair, strands, 0.05, depth)


def _draw_hat(canvas: FaceCanvas, looks: Looks, rng: np.random.Generator) -> None:
    colour = any_colour(rng)
    brim = float(rng.uniform(-0.75, -0.45))
    canvas.polygon(dome(1.14, brim, 1.3), colour, -0.2)
    kind = int(rng.integers(3))
    if kind == 0:  # a cap's peak
        t = np.linspace(np.pi, 2 * np.pi, 25)
        peak = np.stack([1.05 * np.cos(t), brim - 0.05 - 0.26 * np.sin(t)], 1)
        canvas.polygon(peak, dimmed(colour, 0.6), 0.2)
    elif kind == 1:  # a woollen hat's rim
        rim = [(-1.14, brim), (0.0, brim + 0.05), (1.14, brim)]
        canvas.line(rim, dimmed(colour, 0.8), 0.34, -0.2)
        for x in np.linspace(-1, 1, 11):
            rib = [(float(x), brim - 0.15), (float(x), brim + 0.18)]
            canvas.line(rib, dimmed(colour, 0.65), 0.03, -0.2)
    else:  # a wide brim
        canvas.polygon(ellipse(0.0, brim, 1.9, 0.22), dimmed(colour, 0.75), 0.0)
    for side in (-1, 1):
        lock = [(side * 1.06, brim), (side * 1.1, 0.2), (side * 0.92, brim + 0.1)]
        canvas.polygon(lock, looks.hair, -0.3)


def _draw_glasses(canvas: FaceCanvas, rng: np.random.Generator) -> None:
    frame = dimmed(any_colour(rng), 0.5)
    half_x, half_y = float(rng.uniform(0.32, 0.42)), float(rng.uniform(0.2, 0.3))
    width = float(rng.uniform(0.03, 0.08))
    square = float(rng.choice((2.0, 3.5)))
    dark = rng.random() < 0.3
    for side in (-1, 1):
        ring = ellipse(side * 0.52, 0.04, half_x, half_y, square)
        if dark:
            canvas.polygon(ring, (26, 24, 28))
            glint = [(side * 0.52 - 0.15, -0.08), (side * 0.52 - 0.05, -0.12)]
            canvas.line(glint, (120, 124, 130), 0.05)
        canvas.line(np.concatenate([ring, ring[:2]]), frame, width)
        canvas.line([(side * (0.5 + half_x), -0.02), (side * 1.06, 0.05)], frame, width * 0.8)
    canvas.line([(-0.54 + half_x, 0.0), (0.0, -0.05), (0.54 - half_x, 0.0)], frame, width)
