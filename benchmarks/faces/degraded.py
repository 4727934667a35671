"""How far a face may be degraded until its model errs: what the quality gate's bounds rest on.

Each known face is made smaller, blurred or cut off, compressed as a camera does it, and judged with
the margin of the model. No detector takes part: where the face is, is known.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import Final

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageFilter

from benchmarks.faces.frames import jpeg
from benchmarks.faces.outcomes import labels_of
from benchmarks.faces.sources import Portrait
from limelens.serve import Bundle
from limelens.serve.faces.boxes import Face
from limelens.serve.faces.quality import sharpness
from limelens.serve.image import read_image

SIZES: Final = (12, 16, 20, 24, 28, 32, 40, 48, 64, 96)
"""Longer side of a face, in pixels."""
BLURS: Final = (0.0, 0.01, 0.02, 0.03, 0.04, 0.06, 0.08, 0.12)
"""Standard deviation of a Gaussian, as a share of the face's longer side."""
VISIBLE: Final = (1.0, 0.9, 0.8, 0.7, 0.6, 0.5, 0.4)
"""Share of a face that is left when the frame's edge cuts it."""
_SIZE_PX: Final = 96
"""Of the faces that are blurred or cut off."""
_SHARPNESS_EDGES: Final = (0.0, 0.03, 0.04, 0.05, 0.06, 0.08, 0.1, 0.15, 2.0)


@dataclass(frozen=True)
class Degree:
    """Faces that are degraded alike.

    Args:
        name: How.
        accuracy: Share of the faces with the right label, 0 to 1.
        lower: The same of the label that fares worse.
        num_faces: How many.
    """

    name: str
    accuracy: float
    lower: float
    num_faces: int


@dataclass(frozen=True)
class _Judged:
    label: str
    is_right: bool
    sharpness: float = 0.0


def smaller(portraits: Sequence[Portrait], bundle: Bundle, margin: float) -> list[Degree]:
    """Faces of each of `SIZES`."""
    return [
        _degree(f"{size} px", [_judged(one, bundle, margin, size) for one in portraits])
        for size in SIZES
    ]


def cut_off(portraits: Sequence[Portrait], bundle: Bundle, margin: float) -> list[Degree]:
    """Faces of which each of `VISIBLE` is left; in turns the left, right, top or bottom is cut."""
    return [
        _degree(
            f"{share:.1f} visible",
            [
                _judged(one, bundle, margin, _SIZE_PX, lost=1 - share, side=number % 4)
                for number, one in enumerate(portraits)
            ],
        )
        for share in VISIBLE
    ]


def blurred(
    portraits: Sequence[Portrait], bundle: Bundle, margin: float
) -> tuple[list[Degree], list[Degree]]:
    """Faces blurred by each of `BLURS`; the same faces, by their sharpness."""
    by_blur = {
        blur: [_judged(one, bundle, margin, _SIZE_PX, blur=blur) for one in portraits]
        for blur in BLURS
    }
    every = [one for judged in by_blur.values() for one in judged]
    return (
        [_degree(f"blur {blur:g} of the face", judged) for blur, judged in by_blur.items()],
        [
            _degree(
                f"sharpness {low:g} to {high:g}",
                [one for one in every if low <= one.sharpness < high],
            )
            for low, high in pairwise(_SHARPNESS_EDGES)
        ],
    )


def _degree(name: str, judged: Iterable[_Judged]) -> Degree:
    judged = list(judged)
    shares = [
        float(np.mean([one.is_right for one in judged if one.label == label]))
        for label in {one.label for one in judged}
    ]
    accuracy = float(np.mean([one.is_right for one in judged])) if judged else float("nan")
    return Degree(name, accuracy, min(shares, default=float("nan")), len(judged))


def _judged(
    portrait: Portrait,
    bundle: Bundle,
    margin: float,
    size_px: int,
    *,
    blur: float = 0.0,
    lost: float = 0.0,
    side: int = 0,
) -> _Judged:
    scale = size_px / portrait.size_px
    height, width = (max(1, round(n * scale)) for n in portrait.pixels.shape[:2])
    photo = Image.fromarray(portrait.pixels).resize(
        (width, height), Image.Resampling.BILINEAR, reducing_gap=3
    )
    if blur:
        photo = photo.filter(ImageFilter.GaussianBlur(blur * size_px))
    box = np.array(portrait.box) * scale
    pixels, box = cut(np.asarray(photo), box, lost, side) if lost else (np.asarray(photo), box)
    pixels = read_image(jpeg(pixels))
    left, top, right, bottom = box.tolist()
    face = Face(left, top, right, bottom, score=1.0)
    label = labels_of(pixels, [face], margin, bundle)[0]
    return _Judged(portrait.label, label == portrait.label, sharpness(face, pixels))


def cut(
    pixels: NDArray[np.uint8], box: NDArray[np.float64], lost: float, side: int
) -> tuple[NDArray[np.uint8], NDArray[np.float64]]:
    """Cuts a share of the face off at the left, right, top or bottom; the box reaches out then."""
    left, top, right, bottom = box
    if side == 0:
        at = max(0, round(left + lost * (right - left)))
        return pixels[:, at:], box - (at, 0, at, 0)
    if side == 1:
        return pixels[:, : max(1, round(right - lost * (right - left)))], box
    if side == 2:
        at = max(0, round(top + lost * (bottom - top)))
        return pixels[at:], box - (0, at, 0, at)
    return pixels[: max(1, round(bottom - lost * (bottom - top)))], box
