"""Frames of a camera with known faces in them: real ones pasted over real backgrounds, drawn ones.

A frame follows from its seed alone. Faces are pasted with the whole image that they come from, and
do not overlap; a frame may be noisy, blurred and compressed. Knows nothing of detectors.
"""

from __future__ import annotations

import io
from collections.abc import Sequence
from dataclasses import dataclass
from enum import StrEnum
from pathlib import Path
from typing import Final

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageEnhance, ImageFilter

from benchmarks.faces.sources import LABELS, Portrait
from limelens.serve.image import read_image
from limelens.train.synthetic import MASK_STYLES, draw_mask, render_portrait

HEIGHT, WIDTH = 480, 640
MAX_FACES: Final = 8
_Box = tuple[float, float, float, float]
_BILINEAR: Final = Image.Resampling.BILINEAR
_MOST_ENLARGED: Final = 2.0
_PLACES_TRIED: Final = 40
_HIDDEN_SHARE: Final = 0.15
_RIM_SHARE: Final = 0.12
_DRAWN_HEIGHT: Final = 2.57
"""About how high a drawn face is, in distances of its eyes."""


class Condition(StrEnum):
    """What makes a face harder to find."""

    PLAIN = "plain"
    HIDDEN = "hidden"  # something covers a part of it, but neither nose nor mouth
    RIM = "rim"  # the frame's edge cuts off a part of it


@dataclass(frozen=True)
class TrueFace:
    """A face in a frame.

    Args:
        box: Left, top, right, bottom in pixels; it may reach out of the frame.
        label: `with_mask` or `without_mask`.
        condition: What makes it harder to find.
    """

    box: _Box
    label: str
    condition: Condition = Condition.PLAIN

    @property
    def size_px(self) -> float:
        """The longer side."""
        left, top, right, bottom = self.box
        return max(right - left, bottom - top)


@dataclass(frozen=True, eq=False)
class Frame:
    """`(480, 640, 3)` uint8 RGB pixels, and all faces in them."""

    pixels: NDArray[np.uint8]
    faces: tuple[TrueFace, ...]


def pasted(
    rng: np.random.Generator,
    portraits: Sequence[Portrait],
    backgrounds: Sequence[Path],
    sizes: tuple[float, float] = (24, 200),
) -> Frame:
    """A frame of one to eight real faces over a real background.

    Args:
        rng: Of everything in the frame.
        portraits: To choose from; as many with a mask as without one are taken, on average.
        backgrounds: Files of images without people, to choose from.
        sizes: The least and the largest longer side of a face, in pixels.
    """
    image = _background(rng, backgrounds)
    taken: list[_Box] = []
    faces = []
    for _ in range(int(rng.integers(1, MAX_FACES + 1))):
        portrait, size = _chosen(rng, portraits, sizes)
        scale = size / portrait.size_px
        width = max(4, round(portrait.pixels.shape[1] * scale))
        height = max(4, round(portrait.pixels.shape[0] * scale))
        across, down = width / portrait.pixels.shape[1], height / portrait.pixels.shape[0]
        left, top, right, bottom = portrait.box
        box = (left * across, top * down, right * across, bottom * down)
        photo = Image.fromarray(portrait.pixels).resize((width, height), _BILINEAR, reducing_gap=3)
        if rng.random() < 0.5:
            photo = photo.transpose(Image.Transpose.FLIP_LEFT_RIGHT)
            box = (width - box[2], box[1], width - box[0], box[3])
        place = _place(rng, (width, height), box, taken)
        if place is None:
            continue
        (x, y), at_rim = place
        box = (box[0] + x, box[1] + y, box[2] + x, box[3] + y)
        image.paste(_lit(rng, photo), (x, y), _edge(rng, width, height))
        taken.append((x, y, x + width, y + height))
        condition = Condition.RIM if at_rim else Condition.PLAIN
        if not at_rim and rng.random() < _HIDDEN_SHARE:
            _hide(rng, image, box, backgrounds)
            condition = Condition.HIDDEN
        faces.append(TrueFace(box, portrait.label, condition))
    return Frame(filmed(rng, image), tuple(faces))


def drawn(rng: np.random.Generator, sizes: tuple[float, float] = (24, 200)) -> Frame:
    """A frame of one to four drawn people beside each other, each before a background.

    Args:
        rng: Of everything in the frame.
        sizes: The least and the largest height of a face, in pixels, about.
    """
    count = int(rng.integers(1, 5))
    width = WIDTH // count
    image = Image.new("RGB", (WIDTH, HEIGHT))
    faces = []
    for index in range(count):
        columns = width if index < count - 1 else WIDTH - index * width
        shorter = min(columns, HEIGHT)
        # A face must fit into its part of the frame.
        unit = min(_log_uniform(rng, sizes) / _DRAWN_HEIGHT, 0.4 * shorter)
        share = unit / shorter
        portrait = render_portrait(rng, (HEIGHT, columns), unit=(share, share))
        pixels, label = portrait.image, LABELS[int(rng.integers(2))]
        if label == LABELS[0]:
            style = MASK_STYLES[str(rng.choice(sorted(MASK_STYLES)))]
            pixels, _ = draw_mask(pixels, portrait.face, style, rng)
        left, top, right, bottom = portrait.face.box
        x = index * width
        image.paste(Image.fromarray(pixels), (x, 0))
        visible = left >= 0 and top >= 0 and right <= columns and bottom <= HEIGHT
        faces.append(
            TrueFace(
                (left + x, top, right + x, bottom),
                label,
                Condition.PLAIN if visible else Condition.RIM,
            )
        )
    return Frame(filmed(rng, image), tuple(faces))


def empty(rng: np.random.Generator, backgrounds: Sequence[Path]) -> Frame:
    """A frame without anybody in it."""
    return Frame(filmed(rng, _background(rng, backgrounds)), ())


def filmed(rng: np.random.Generator, image: Image.Image) -> NDArray[np.uint8]:
    """What a camera makes of a view: in some frames blur, noise, less light, and JPEG."""
    if rng.random() < 0.3:
        image = ImageEnhance.Brightness(image).enhance(float(rng.uniform(0.5, 1.25)))
    if rng.random() < 0.4:
        image = image.filter(ImageFilter.GaussianBlur(float(rng.uniform(0.3, 1.1))))
    values = np.asarray(image)
    if rng.random() < 0.5:
        noise = rng.standard_normal(values.shape, np.float32) * np.float32(rng.uniform(1, 10))
        values = np.clip(values + noise, 0, 255).astype(np.uint8)
    return read_image(jpeg(values, int(rng.integers(45, 95))))


def jpeg(pixels: NDArray[np.uint8], quality: int = 85) -> bytes:
    """A camera's file."""
    file = io.BytesIO()
    Image.fromarray(pixels).save(file, "JPEG", quality=quality)
    return file.getvalue()


def _background(rng: np.random.Generator, backgrounds: Sequence[Path]) -> Image.Image:
    """A part of an image, of a frame's size."""
    path = backgrounds[int(rng.integers(len(backgrounds)))]
    image = Image.fromarray(read_image(path.read_bytes()))
    scale = max(WIDTH / image.width, HEIGHT / image.height) * float(rng.uniform(1.0, 1.4))
    wide, high = WIDTH / scale, HEIGHT / scale
    left, top = rng.uniform(0, image.width - wide), rng.uniform(0, image.height - high)
    box = (left, top, left + wide, top + high)
    image = image.resize((WIDTH, HEIGHT), _BILINEAR, box=box)
    if rng.random() < 0.3:
        image = image.filter(ImageFilter.GaussianBlur(float(rng.uniform(0.5, 2.5))))
    return image


def _chosen(
    rng: np.random.Generator, portraits: Sequence[Portrait], sizes: tuple[float, float]
) -> tuple[Portrait, float]:
    """A face and its size in the frame; few pixels are not enlarged to many."""
    label = LABELS[int(rng.integers(2))]
    alike = [one for one in portraits if one.label == label]
    size = _log_uniform(rng, sizes)
    enough = [one for one in alike if one.size_px * _MOST_ENLARGED >= size] or alike
    return enough[int(rng.integers(len(enough)))], size


def _log_uniform(rng: np.random.Generator, sizes: tuple[float, float]) -> float:
    return float(np.exp(rng.uniform(*np.log(sizes))))


def _place(
    rng: np.random.Generator, size: tuple[int, int], box: _Box, taken: Sequence[_Box]
) -> tuple[tuple[int, int], bool] | None:
    """Where an image goes so that it covers no other, and whether the rim cuts off its face."""
    width, height = size
    at_rim = rng.random() < _RIM_SHARE
    for _ in range(_PLACES_TRIED):
        if at_rim:
            # Up to a third of the face is cut off, at the left or right.
            lost = float(rng.uniform(0.1, 0.33)) * (box[2] - box[0])
            side = int(rng.integers(2))
            x = round(-box[0] - lost) if side else round(WIDTH - box[2] + lost)
            y = int(rng.integers(0, max(1, HEIGHT - height)))
        else:
            # The face is whole in the frame; the rest of its image may be cut off.
            x = int(rng.integers(round(-box[0]), max(1, round(WIDTH - box[2]))))
            y = int(rng.integers(round(-box[1]), max(1, round(HEIGHT - box[3]))))
        if all(
            x + width <= other[0] or other[2] <= x or y + height <= other[1] or other[3] <= y
            for other in taken
        ):
            return (x, y), at_rim
    return None


def _lit(rng: np.random.Generator, photo: Image.Image) -> Image.Image:
    if rng.random() < 0.5:
        photo = ImageEnhance.Brightness(photo).enhance(float(rng.uniform(0.65, 1.25)))
    if rng.random() < 0.25:
        photo = ImageEnhance.Color(photo).enhance(float(rng.uniform(0.2, 1.2)))
    return photo


def _edge(rng: np.random.Generator, width: int, height: int) -> Image.Image | None:
    """How the image fades into the background; None is a hard edge."""
    if rng.random() < 0.5:
        return None
    soft = max(1, round(min(width, height) * float(rng.uniform(0.02, 0.08))))
    cover = Image.new("L", (width, height), 0)
    cover.paste(255, (soft, soft, max(soft + 1, width - soft), max(soft + 1, height - soft)))
    return cover.filter(ImageFilter.GaussianBlur(soft / 2))


def _hide(
    rng: np.random.Generator, image: Image.Image, box: _Box, backgrounds: Sequence[Path]
) -> None:
    """Covers a side or the forehead of a face, by a part of another image."""
    left, top, right, bottom = box
    wide, high = right - left, bottom - top
    if rng.random() < 0.5:
        top, bottom = top - 0.2 * high, top + float(rng.uniform(0.15, 0.3)) * high
    elif rng.random() < 0.5:
        left, right = left - 0.2 * wide, left + float(rng.uniform(0.15, 0.3)) * wide
    else:
        left, right = right - float(rng.uniform(0.15, 0.3)) * wide, right + 0.2 * wide
    size = (max(1, round(right - left)), max(1, round(bottom - top)))
    path = backgrounds[int(rng.integers(len(backgrounds)))]
    cover = Image.fromarray(read_image(path.read_bytes())).resize(size, _BILINEAR, reducing_gap=3)
    image.paste(cover, (round(left), round(top)))
