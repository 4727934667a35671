"""Draws a face mask onto an image whose face is known.

Knows materials and shapes of masks, and how they reflect the image's light; does not find faces,
and does not know labels, files or training.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Final, get_args

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageFilter

from limelens.train.synthetic.cloth import CUTS, Cut, MaskKind, Pattern, folded, printed
from limelens.train.synthetic.face import Face
from limelens.train.synthetic.painting import (
    RGB,
    Floats,
    Light,
    Pixels,
    Sheet,
    blur,
    check_image,
    cloth_colour,
    over,
    shadowed,
    step,
    unsharpness,
    varied,
)


@dataclass(frozen=True)
class MaskStyle:
    """What a mask is made of; colours as in even white light.

    Args:
        kind: Its cut: `surgical` (pleats, wire over the nose), `cloth` (seam in the middle), `cup`
            (N95/FFP2 with a valve), `sport` (tight, foam), `bandana`, `gaiter`.
        pattern: What is printed on it; `teeth` is a drawn mouth.
        accent: Of the print.
        strap: Of the ear loops.
    """

    kind: MaskKind
    colour: RGB
    pattern: Pattern = "plain"
    accent: RGB = (240, 240, 240)
    strap: RGB = (232, 232, 230)


MASK_STYLES: Final[Mapping[str, MaskStyle]] = {
    "surgical-blue": MaskStyle("surgical", (142, 190, 220)),
    "surgical-white": MaskStyle("surgical", (236, 238, 240)),
    "surgical-green": MaskStyle("surgical", (150, 208, 190)),
    "surgical-pink": MaskStyle("surgical", (240, 184, 200)),
    "surgical-black": MaskStyle("surgical", (46, 46, 50), strap=(38, 38, 40)),
    "cloth-navy": MaskStyle("cloth", (38, 54, 104), strap=(38, 54, 104)),
    "cloth-stripes": MaskStyle("cloth", (172, 44, 52), "stripes", (240, 232, 220)),
    "cloth-dots": MaskStyle("cloth", (28, 96, 128), "dots", (245, 240, 235)),
    "cloth-checks": MaskStyle("cloth", (235, 228, 214), "checks", (150, 40, 48)),
    "cloth-floral": MaskStyle("cloth", (240, 214, 220), "floral", (190, 60, 96)),
    "cloth-camouflage": MaskStyle("cloth", (92, 98, 64), "noise", (56, 60, 44), (60, 62, 50)),
    "cloth-teeth": MaskStyle("cloth", (36, 34, 38), "teeth", (240, 238, 228), (36, 34, 38)),
    "cup-white": MaskStyle("cup", (238, 238, 234), strap=(224, 206, 120)),
    "cup-grey": MaskStyle("cup", (150, 154, 160), strap=(90, 90, 92)),
    "sport-black": MaskStyle("sport", (34, 34, 38), strap=(34, 34, 38)),
    "sport-grey": MaskStyle("sport", (92, 94, 98), strap=(92, 94, 98)),
    "bandana-red": MaskStyle("bandana", (170, 34, 40), "floral", (238, 232, 226)),
    "gaiter-black": MaskStyle("gaiter", (42, 44, 52)),
}
"""Named styles; together they use everything that can be drawn."""

_KINDS: tuple[MaskKind, ...] = get_args(MaskKind)
_KIND_SHARES = (0.36, 0.24, 0.11, 0.19, 0.04, 0.06)
_PATTERNS: tuple[Pattern, ...] = get_args(Pattern)
_PATTERN_SHARES = (0.4, 0.11, 0.11, 0.1, 0.14, 0.1, 0.04)
_SURGICAL: tuple[RGB, ...] = (
    (142, 190, 220), (120, 178, 222), (176, 208, 226), (236, 238, 240), (226, 230, 234),
    (150, 208, 190), (96, 160, 150), (240, 184, 200), (190, 180, 220), (46, 46, 50), (60, 72, 110),
)  # fmt: skip
_SPORT: tuple[RGB, ...] = (
    (30, 30, 34), (52, 54, 58), (92, 94, 98), (130, 132, 136), (60, 66, 92), (196, 130, 140),
    (224, 196, 178),
)  # fmt: skip


def random_style(rng: np.random.Generator) -> MaskStyle:
    """A mask as worn in the street: surgical ones often, teeth seldom."""
    kind = _KINDS[int(rng.choice(len(_KINDS), p=_KIND_SHARES))]
    if kind == "surgical":
        colour = varied(rng, _SURGICAL[int(rng.integers(len(_SURGICAL)))], 12)
        dark = sum(colour) < 240
        return MaskStyle(kind, colour, strap=colour if dark else (232, 232, 230))
    if kind == "cup":
        grey = int(rng.choice((240, 234, 226, 170, 120, 60)))
        colour = varied(rng, (grey, grey, grey), 8)
        straps: tuple[RGB, ...] = ((226, 206, 120), (235, 235, 235), (60, 60, 62))
        return MaskStyle(kind, colour, strap=straps[int(rng.integers(3))])
    if kind == "sport":
        colour = varied(rng, _SPORT[int(rng.integers(len(_SPORT)))], 10)
        return MaskStyle(kind, colour, strap=colour)
    pattern = _PATTERNS[int(rng.choice(len(_PATTERNS), p=_PATTERN_SHARES))]
    if kind == "bandana" and pattern == "teeth":
        pattern = "floral"
    colour, accent = cloth_colour(rng), cloth_colour(rng)
    if sum(abs(a - b) for a, b in zip(colour, accent, strict=True)) < 150:
        accent = (245, 242, 236) if sum(colour) < 400 else (40, 36, 44)
    strap = colour if rng.random() < 0.6 else (235, 235, 235)
    return MaskStyle(kind, colour, pattern, accent, strap)


def draw_mask(
    image: Pixels, face: Face, style: MaskStyle, rng: np.random.Generator
) -> tuple[Pixels, NDArray[np.bool_]]:
    """Puts a mask on a face.

    The mask covers the tip of the nose, the mouth and the chin, takes up the brightness and tint
    of the image around it, and sits up to a few percent off its place.

    Args:
        image: To copy.
        face: Where the face is; parts outside the image are cut off.
        style: What the mask is made of.
        rng: Of placement, folds and prints.

    Returns:
        The image with the mask, and the `(H, W)` region that the mask covers without its ear
        loops; empty if the mask falls outside the image.

    Raises:
        ValueError: The image is not `(H, W, 3)` uint8.
    """
    check_image(image)
    # Slightly off its place, but only downwards, so that the eyes stay free.
    lx, ly, rx, ry = (rng.normal(0.0, 0.02, 4).clip(-0.04, 0.04) * face.unit).tolist()
    left, right = face.left_eye, face.right_eye
    placed = Face((left[0] + lx, left[1] + abs(ly)), (right[0] + rx, right[1] + abs(ry)), face.yaw)
    return put_on(image, placed, style, CUTS[style.kind].varied(rng), rng)


def put_on(
    image: Pixels, face: Face, style: MaskStyle, cut: Cut, rng: np.random.Generator
) -> tuple[Pixels, NDArray[np.bool_]]:
    """As `draw_mask`, but with a given cut and exactly where the face is."""
    unit = face.unit
    region = np.zeros(image.shape[:2], dtype=np.bool_)
    body = face.to_pixels(cut.outline())
    loops = _loops(face, style.kind, cut) if cut.loops else []
    sheet = Sheet.around(image, np.concatenate([body, *loops]), 0.12 * unit + 1, "L")
    if sheet is None:
        return image.copy(), region
    sheet.polygon(body, 255)
    cover = sheet.finished()
    photo = sheet.cut(image)
    light = Light.falling_on(photo, cover, 0.4 * unit)
    x, y = face.from_pixels(*sheet.centres())
    softness = float(rng.uniform(0.15, 0.4)) + 0.006 * unit + unsharpness(photo) * 0.035 * unit
    if loops:
        width = (0.10 if style.kind == "sport" else 0.045) * unit
        strap = sheet.blank()
        for loop in loops:
            strap.line(loop, 255, max(width, 1.0), round_ends=False)
        # Near the ears they go behind hair and head.
        fade = 1 - step(np.abs(x), 1.03, 0.14)
        alpha = strap.finished() * fade * 0.92
        photo = photo * (1 - 0.3 * blur(alpha, 0.04 * unit)[..., None])
        lit = np.asarray(style.strap, dtype=np.float32) * light.tint * light.exposure
        photo = over(photo, lit * light.run[..., None] * 0.92, alpha)

    colours = printed(style.pattern, style.colour, style.accent, x, y, unit, rng)
    shade = folded(style.kind, cut, x, y, rng)
    # Cloth turns away from the viewer near its rim.
    shade *= 0.76 + 0.24 * np.clip(2 * blur(cover, 0.07 * unit) - 1, 0, 1) ** 0.7
    cloth = light.greyed(colours * (shade * light.run)[..., None] * light.tint * light.exposure)
    # A sheen keeps black cloth from looking like a hole.
    cloth += (14 * light.exposure * light.run * np.clip(shade, 0, 1.2) ** 3)[..., None]
    if style.kind == "cup" and rng.random() >= 0.4:
        cloth = _with_valve(cloth, x, y, style.colour, rng)
    whole = Image.fromarray(np.clip(cloth, 0, 255).astype(np.uint8))
    cloth = np.asarray(whole.filter(ImageFilter.BoxBlur(softness * 0.7)), dtype=np.float32)
    cloth = cloth + rng.normal(0.0, 2.0, cover.shape).astype(np.float32)[..., None]
    cover = blur(cover, softness)
    photo = shadowed(photo, cover, 0.06 * unit, round(0.03 * unit))
    region[sheet.index] = cover > 0.5
    return sheet.pasted(image, over(photo, cloth, cover)), region


def _loops(face: Face, kind: MaskKind, cut: Cut) -> list[Floats]:
    """Ear loops or headbands, each `(N, 2)` in pixels; none on a side that is turned away."""
    t = np.linspace(0, 1, 9, dtype=np.float32)[:, None]
    bow = np.array([0.0, 0.05], dtype=np.float32) * np.sin(np.pi * t)
    if kind == "cup":
        mid = (cut.top_side + cut.bottom_side) / 2
        ends = [
            ((cut.top_half * 0.9, cut.top_side - 0.1), (1.10, 0.30)),
            ((cut.bottom_half * 0.92, mid + 0.15), (1.02, 1.02)),
        ]
    else:
        ends = [
            ((cut.top_half - 0.03, cut.top_side + 0.03), (1.12, 0.28)),
            ((cut.bottom_half - 0.03, cut.bottom_side - 0.03), (1.10, 0.62)),
        ]
    loops = []
    for side in (side for side in (-1.0, 1.0) if side * face.yaw <= 0.3):
        for start, end in np.array(ends, dtype=np.float32) * np.array([side, 1], np.float32):
            loops.append(face.to_pixels(start + (end - start) * t + bow))
    return loops


def _with_valve(
    cloth: Floats, x: Floats, y: Floats, colour: RGB, rng: np.random.Generator
) -> Floats:
    """The `(h, w, 3)` colours of a cup with an exhalation valve on one side."""
    side = float(rng.choice((-0.34, 0.34)))
    away = np.hypot(x - side, y - 1.2)
    inside = 1 - step(away, 0.17, 0.03)
    tone = 0.86 if sum(colour) > 330 else 1.5
    ridges = 1 + 0.10 * np.sin((y - 1.2) * 60)
    rim = np.exp(-(((away - 0.18) / 0.025) ** 2))
    fitted = cloth * (1 - inside * (1 - tone * ridges))[..., None]
    return np.asarray(fitted * (1 - 0.3 * rim)[..., None])
