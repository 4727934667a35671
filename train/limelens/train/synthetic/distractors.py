"""Draws things on or near a face that a network could mistake for a worn mask.

Knows shapes in face units (see `synthetic.face`); does not know labels, files or training.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from functools import lru_cache, partial
from math import ceil, cos, hypot, sin
from typing import Final, Literal, get_args

import numpy as np
from PIL import Image, ImageDraw, ImageFont

from limelens.train.synthetic.cloth import CHIN_CUT, SCARF_CUT
from limelens.train.synthetic.face import FRONT, Face
from limelens.train.synthetic.face_masks import put_on, random_style
from limelens.train.synthetic.painting import (
    RGB,
    Floats,
    Light,
    Pixels,
    Sheet,
    blur,
    check_image,
    cloth_colour,
    cloud,
    dimmed,
    over,
    shadowed,
    step,
    varied,
)

Distractor = Literal[
    "hand", "scarf", "chin_mask", "beard", "cup", "phone", "microphone", "caption", "blob"
]
Points = Sequence[tuple[float, float]]
Placing = Callable[[Points], Floats]

DISTRACTORS: Final[tuple[Distractor, ...]] = get_args(Distractor)
"""Every kind that `draw_distractor` draws."""

DISTRACTORS_CLEAR_OF_MOUTH: tuple[Distractor, ...] = ("scarf", "chin_mask", "caption", "blob")
"""The kinds that never touch the mouth; all but `chin_mask` may go with a mask."""

_font = lru_cache(maxsize=32)(ImageFont.load_default)
_HAIR: tuple[RGB, ...] = ((28, 22, 20), (52, 36, 28), (92, 62, 40), (150, 140, 132), (126, 74, 44))


def draw_distractor(
    image: Pixels, face: Face, rng: np.random.Generator, kind: Distractor | None = None
) -> Pixels:
    """A copy of an image with something on or near its face that is not a worn mask.

    Args:
        image: To copy.
        face: Where the face is.
        rng: Of the choice and the shapes.
        kind: None takes any. `hand`, `cup`, `phone` and `microphone` hide all or part of the
            mouth; `beard` goes around it; `scarf` and `chin_mask` (a mask pulled down) end below
            it; `caption` is a box of text at the image's lower edge and `blob` a plain shape, both
            kept off the mouth. None of them hides the eyes.

    Raises:
        ValueError: The image is not `(H, W, 3)` uint8, or the kind is unknown.
    """
    check_image(image)
    chosen = random_distractor(rng) if kind is None else kind
    if chosen not in _DRAW:
        raise ValueError(f"Distractor is {chosen!r}; known are {', '.join(DISTRACTORS)}")
    return _DRAW[chosen](image, face, rng)


def random_distractor(
    rng: np.random.Generator, among: Sequence[Distractor] = DISTRACTORS
) -> Distractor:
    """Any of some kinds, each as often."""
    return among[int(rng.integers(len(among)))]


def _draw_chin_mask(image: Pixels, face: Face, rng: np.random.Generator) -> Pixels:
    style = random_style(rng)
    while style.kind in ("bandana", "gaiter"):
        style = random_style(rng)
    return put_on(image, face, style, CHIN_CUT.varied(rng), rng)[0]


def _draw_scarf(image: Pixels, face: Face, rng: np.random.Generator) -> Pixels:
    style = replace(random_style(rng), kind="gaiter")
    return put_on(image, face, style, SCARF_CUT.varied(rng), rng)[0]


def _draw_hand(image: Pixels, face: Face, rng: np.random.Generator) -> Pixels:
    unit = face.unit
    side = float(rng.choice((-1.0, 1.0)))
    skin = dimmed(_skin(image, face, rng), float(rng.uniform(0.92, 1.08)))
    upright = rng.random() < 0.5
    if upright:  # the palm below the chin, fingers up over the mouth
        wrist, palm = (0.25, 3.4), (0.12, 1.95)
        tips = [(-0.36, 0.92), (-0.11, 0.72), (0.15, 0.74), (0.41, 0.95)]
        roots = [(-0.28, 1.8), (-0.06, 1.74), (0.17, 1.74), (0.39, 1.8)]
        thumb = [(0.45, 2.1), (0.72, 1.7), (0.70, 1.25)]
    else:  # from the side, fingers across the mouth
        wrist, palm = (1.75, 2.6), (0.92, 1.55)
        tips = [(-0.42, 0.82), (-0.55, 1.05), (-0.48, 1.29), (-0.25, 1.5)]
        roots = [(0.62, 1.08), (0.64, 1.3), (0.66, 1.52), (0.68, 1.72)]
        thumb = [(0.95, 1.4), (0.78, 0.95), (0.62, 0.66)]
    shift = rng.uniform(-0.06, 0.06, 2)

    def placed(points: Points) -> Floats:
        moved = (np.asarray(points) + shift) * (side, 1.0)
        return face.to_pixels(moved, FRONT)

    corners = placed([wrist, palm, *tips, *roots, *thumb])
    sheet = Sheet.around(image, corners, 0.6 * unit, "RGBA")
    if sheet is None:
        return image.copy()
    dark = dimmed(skin, 0.72)

    def stroke(points: Points, inner: float, outer: float, tone: RGB = skin) -> None:
        sheet.line(placed(points), dark, outer * unit)
        sheet.line(placed(points), tone, inner * unit)

    stroke([wrist, palm], 0.76, 0.80)
    sheet.polygon(placed([*roots, palm]), skin)
    for root, tip in zip(roots, tips, strict=True):
        bend = ((root[0] + tip[0]) / 2, (root[1] + tip[1]) / 2 - 0.03)
        stroke([root, bend, tip], 0.21, 0.25, dimmed(skin, float(rng.uniform(0.97, 1.04))))
        sheet.line(placed([tip, (tip[0], tip[1] + 0.03)]), dimmed(skin, 1.12), 0.1125 * unit)
    stroke(thumb, 0.225, 0.2625)
    sheet.line(placed([roots[0], palm]), skin, 0.275 * unit)
    return _laid(image, sheet, 0.014, unit, rng)


def _draw_object(
    paint: Callable[[Sheet, Placing, float, RGB, np.random.Generator], None],
    half: float,
    top: float,
    bottom: float,
    image: Pixels,
    face: Face,
    rng: np.random.Generator,
) -> Pixels:
    """Draws a thing that is held before the mouth, within these sides in face units."""
    unit = face.unit
    tilt = float(rng.uniform(-0.25, 0.25))
    shift = rng.uniform(-0.12, 0.12, 2)
    turn = np.array([[cos(tilt), sin(tilt)], [-sin(tilt), cos(tilt)]])

    def placed(points: Points) -> Floats:
        centred = np.asarray(points) - (0.0, 1.1)
        return face.to_pixels(centred @ turn + (0.0, 1.1) + shift, FRONT + 0.2)

    colour = cloth_colour(rng)
    corners = placed([(-half, top), (half, top), (-half, bottom), (half, bottom)])
    sheet = Sheet.around(image, corners, 0.2 * unit, "RGBA")
    if sheet is None:
        return image.copy()
    paint(sheet, placed, unit, colour, rng)
    if paint is not _paint_microphone:  # somebody has to hold it
        skin = _skin(image, face, rng)
        side = float(rng.choice((-1.0, 1.0)))
        for k in range(4):
            at = 1.55 + 0.2 * k
            finger = placed([(side * 0.62, at + 0.1), (-side * (0.1 - 0.04 * k), at)])
            sheet.line(finger, dimmed(skin, 0.72), 0.2 * unit)
            sheet.line(finger, skin, 0.165 * unit)
        sheet.line(placed([(side * 0.6, 1.7), (side * 0.7, 2.6)]), dimmed(skin, 0.95), 0.5 * unit)
    return _laid(image, sheet, 0.012, unit, rng)


def _paint_microphone(
    sheet: Sheet, placed: Placing, unit: float, colour: RGB, rng: np.random.Generator
) -> None:
    tone = int(rng.integers(34, 90))
    grey = (tone, tone, tone + 4)
    sheet.line(placed([(0.0, 1.5), (0.0, 3.4)]), dimmed(grey, 0.7), 0.24 * unit)
    sheet.line(placed([(0.05, 1.5), (0.05, 3.4)]), grey, 0.08 * unit)
    sheet.line(placed([(0.0, 1.28), (0.0, 1.36)]), grey, 0.48 * unit)
    for at in (1.12, 1.21, 1.3, 1.39, 1.48):
        sheet.line(placed([(-0.2, at), (0.2, at)]), dimmed(grey, 1.35), 0.025 * unit)
    if rng.random() < 0.5:  # a broadcaster's ring
        sheet.line(placed([(0.0, 1.75), (0.0, 1.95)]), colour, 0.5 * unit, round_ends=False)


def _paint_cup(
    sheet: Sheet, placed: Placing, unit: float, colour: RGB, rng: np.random.Generator
) -> None:
    top, low = 0.42, 0.31
    steps = np.linspace(-1, 1, 12)
    rim = [(top * t, 0.98 - 0.07 * (1 - t * t) ** 0.5) for t in steps]
    foot = [(low * t, 2.0 + 0.07 * (1 - t * t) ** 0.5) for t in steps[::-1]]
    label = [(-0.36, 1.3), (0.36, 1.3), (0.33, 1.65), (-0.33, 1.65)]
    sheet.polygon(placed(rim + foot), colour)
    sheet.polygon(placed(label), cloth_colour(rng))
    sheet.line(placed([(-0.25, 1.05), (-0.2, 1.95)]), dimmed(colour, 1.25), 0.08 * unit)
    sheet.line(placed([(0.33, 1.05), (0.27, 1.95)]), dimmed(colour, 0.75), 0.1 * unit)
    sheet.line(placed(rim), dimmed(colour, 0.7), 0.035 * unit)


def _paint_phone(
    sheet: Sheet, placed: Placing, unit: float, colour: RGB, _rng: np.random.Generator
) -> None:
    shell = [(-0.44, 0.82), (0.44, 0.82), (0.44, 2.45), (-0.44, 2.45)]
    sheet.polygon(placed(shell), colour)
    sheet.line(placed([*shell, shell[0]]), dimmed(colour, 0.6), 0.06 * unit)
    sheet.line(placed([(-0.25, 1.0), (-0.25, 1.18)]), (24, 24, 28), 0.16 * unit)
    sheet.line(placed([(-0.25, 1.03), (-0.25, 1.05)]), (90, 100, 120), 0.07 * unit)


def _laid(
    image: Pixels, sheet: Sheet, softness: float, unit: float, rng: np.random.Generator
) -> Pixels:
    """The image under a coloured sheet, in the image's light, with a shadow below it.

    The sheet's shapes are blurred by `softness` face units of `unit` pixels.
    """
    layer = sheet.finished(softness * unit)
    cover = blur(layer[..., 3], 0.3 + 0.006 * unit)
    # The rim's pixels are mixed with the empty sheet's black: remove it.
    opacity: Floats = np.maximum(layer[..., 3:], 0.05)
    colours = layer[..., :3] * 255 / opacity
    photo = sheet.cut(image)
    light = Light.falling_on(photo, cover, 0.4 * unit)
    shade = light.run**0.5 * (0.8 + 0.25 * np.clip(2 * blur(cover, 0.08 * unit) - 1, 0, 1))
    colours = light.greyed(np.clip(colours, 0, 255) * (shade * light.exposure)[..., None])
    colours = colours + rng.normal(0.0, 2.5, cover.shape).astype(np.float32)[..., None]
    photo = shadowed(photo, cover, 0.08 * unit, round(0.04 * unit))
    return sheet.pasted(image, over(photo, colours, cover))


def _skin(image: Pixels, face: Face, rng: np.random.Generator) -> RGB:
    """The skin's colour beside the nose; a likely one if that is outside the image."""
    spots = np.array([[-0.45, 0.45], [0.45, 0.45], [0.0, 0.35], [0.0, -0.35], [0.0, 0.5]])
    height, width = image.shape[:2]
    found = [
        image[int(y), int(x)]
        for x, y in face.to_pixels(spots)
        if 0 <= x < width and 0 <= y < height
    ]
    if not found:
        return varied(rng, (200, 150, 125), 20)
    r, g, b = (int(v) for v in np.median(np.stack(found), axis=0))
    return (r, g, b)


def _draw_beard(image: Pixels, face: Face, rng: np.random.Generator) -> Pixels:
    unit = face.unit
    if rng.random() < 0.6:
        drop = 1.42 + float(rng.uniform(0.0, 0.25))
        outline = _beard((1.0, 0.35, drop, 0.75), (0.92, 0.30, 0.55, 0.5))
    else:
        outline = _beard((0.5, 0.95, 0.85, 0.6), (0.46, 0.86, -0.04, 1.0))
    points = face.to_pixels(outline)
    sheet = Sheet.around(image, points, 0.1 * unit, "L")
    if sheet is None:
        return image.copy()
    sheet.polygon(points, 255)
    x, y = face.from_pixels(*sheet.centres())
    cover = blur(sheet.finished(), 0.06 * unit)
    # Lips and the spot below the nose stay bare.
    lips = (x / 0.34) ** 2 + ((y - 1.04) / 0.12) ** 2
    cover *= step(lips, 1.0, 0.35)
    size = sheet.size
    strands = max(3, round(size[0] / max(unit * 0.03, 1.2)))
    texture = cloud(rng, size, (min(strands, size[0]), max(2, strands // 4)))
    colour = np.asarray(varied(rng, _HAIR[int(rng.integers(len(_HAIR)))], 8), dtype=np.float32)
    photo = sheet.cut(image)
    light = Light.falling_on(photo, cover, 0.4 * unit)
    hair = light.greyed(colour) * ((1 + 0.22 * texture) * light.run * light.exposure)[..., None]
    density = float(rng.uniform(0.55, 0.95))
    cover = cover * density * np.clip(0.95 + 0.15 * texture, 0.3, 1)
    return sheet.pasted(image, over(photo, hair, cover))


def _beard(jaw: tuple[float, ...], cheek: tuple[float, ...]) -> Floats:
    """`(82, 2)` outline in face units between the lower and the upper arc.

    An arc is half its width, its ends' y, how far it drops, and its power.
    """
    t = np.linspace(-np.pi / 2, np.pi / 2, 41, dtype=np.float32)
    arcs = [
        (half * np.sin(at), y + drop * np.cos(at).clip(0) ** power)
        for at, (half, y, drop, power) in ((t, jaw), (t[::-1], cheek))
    ]
    return np.concatenate(arcs, axis=1).T


def _draw_caption(image: Pixels, face: Face, rng: np.random.Generator) -> Pixels:
    height, width = image.shape[:2]
    lowest_lip = float(face.to_pixels(np.array([[-0.35, 1.25], [0.35, 1.25]]))[:, 1].max())
    band = min(max(6, round(height * float(rng.uniform(0.07, 0.16)))), height)
    top = height - band
    if lowest_lip > top and face.mouth[1] < height:
        top = max(top, ceil(lowest_lip))
    if height - top < 3:
        return image.copy()
    canvas = Image.fromarray(image)
    draw = ImageDraw.Draw(canvas)
    light = rng.random() < 0.7
    draw.rectangle((0, top, width, height), fill=(250, 250, 250) if light else (16, 16, 18))
    letters = "".join(chr(97 + int(k)) for k in rng.integers(0, 26, 14))
    text = f"{letters[:6]} {letters[6:9]} {letters[9:]} · {int(rng.integers(10**6, 10**9))}"
    font = _font(max(4, min(40, round((height - top) * 0.55))))
    ink = (40, 40, 44) if light else (235, 235, 235)
    draw.text((width / 2, (top + height) / 2), text, fill=ink, font=font, anchor="mm")
    return np.asarray(canvas)


def _draw_blob(image: Pixels, face: Face, rng: np.random.Generator) -> Pixels:
    height, width = image.shape[:2]
    unit = face.unit
    for _ in range(12):
        half_w, half_h = (float(v) for v in rng.uniform(0.2, 0.7, 2) * unit)
        cx, cy = float(rng.uniform(0, width)), float(rng.uniform(0, height))
        dx, dy = (cx - face.centre[0]) / unit, (cy - face.centre[1]) / unit
        x = dx * cos(face.roll) + dy * sin(face.roll)
        y = dy * cos(face.roll) - dx * sin(face.roll)
        reach = hypot(half_w, half_h) / unit
        # Off the face from the brows to the lower lip.
        if abs(x) > 1.0 + reach or not -0.3 - reach < y < 1.25 + reach:
            break
    else:
        return image.copy()
    t = np.linspace(0, 2 * np.pi, 40, endpoint=False, dtype=np.float32)
    if rng.random() < 0.5:
        t = t[::10] + np.float32(np.pi / 4)
        half_w, half_h = half_w * 1.2, half_h * 1.2
    points = np.stack([cx + half_w * np.cos(t), cy + half_h * np.sin(t)], 1).astype(np.float32)
    sheet = Sheet.around(image, points, 2, "RGBA")
    if sheet is None:
        return image.copy()
    sheet.polygon(points, cloth_colour(rng))
    return _laid(image, sheet, 0.0, unit, rng)


_DRAW: Final[Mapping[Distractor, Callable[[Pixels, Face, np.random.Generator], Pixels]]] = {
    "hand": _draw_hand,
    "scarf": _draw_scarf,
    "chin_mask": _draw_chin_mask,
    "beard": _draw_beard,
    "cup": partial(_draw_object, _paint_cup, 0.7, 0.7, 2.8),
    "phone": partial(_draw_object, _paint_phone, 0.7, 0.7, 2.8),
    "microphone": partial(_draw_object, _paint_microphone, 0.4, 0.8, 3.4),
    "caption": _draw_caption,
    "blob": _draw_blob,
}
