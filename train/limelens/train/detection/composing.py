"""Composes frames as a camera sees them: people of any size before any background.

Faces are pasted with hard, soft and oval edges, and so are pieces without faces, so that an edge
says nothing; other frames are whole photographs, scaled. Knows images and boxes; does not know
where they come from or what a network makes of them.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field

import numpy as np
from PIL import Image, ImageDraw, ImageFilter

from limelens.train.detection.distortion import distort
from limelens.train.detection.frames import (
    Boxes,
    Frame,
    Photograph,
    Pixels,
    Sources,
    clipped,
    mirrored,
    moved,
    no_boxes,
)
from limelens.train.synthetic import random_background

_BILINEAR = Image.Resampling.BILINEAR


@dataclass(frozen=True)
class Scenery:
    """How frames look.

    Args:
        size: Height and width in pixels.
        face_px: Least and largest longer side of a face.
        num_faces: The probabilities of no, one, two … pasted faces.
        whole: Which share of the frames are photographs of people as they are, scaled; the others
            have a background without people.
        drawn: Which share of the pasted faces are drawn.
        least_px: Faces smaller than this may be found or not.
        distorted: Whether light, blur, noise and JPEG change the frame.
    """

    size: tuple[int, int] = (256, 320)
    face_px: tuple[float, float] = (11.0, 250.0)
    num_faces: tuple[float, ...] = (0.14, 0.24, 0.24, 0.16, 0.1, 0.04, 0.03, 0.02, 0.03)
    whole: float = 0.35
    drawn: float = 0.15
    least_px: float = 10.0
    distorted: bool = True


def compose(sources: Sources, scenery: Scenery, rng: np.random.Generator) -> Frame:
    """One frame.

    Args:
        sources: At least one photograph of each kind.
        scenery: How it looks.
        rng: Of everything in the frame.

    Returns:
        The frame; a face is in `faces` if at least half of it is inside and not covered.
    """
    height, width = scenery.size
    board = _Board(Image.new("RGB", (width, height)))
    if rng.random() < scenery.whole:
        _lay_photograph(board, sources, scenery, rng)
    else:
        board.image = _background(sources, scenery, rng)
    for _ in range(int(rng.poisson(1.2))):
        _paste_distractor(board, sources, scenery, rng)
    count = int(rng.choice(len(scenery.num_faces), p=scenery.num_faces))
    for _ in range(count):
        _paste_face(board, sources, scenery, rng)
    if rng.random() < 0.35:
        _cover_faces(board, rng)
    image = distort(board.image, rng) if scenery.distorted else np.asarray(board.image)
    return board.framed(image, scenery.least_px)


@dataclass
class _Board:
    """A frame while it is composed."""

    image: Image.Image
    faces: Boxes = field(default_factory=no_boxes)
    unsure: Boxes = field(default_factory=no_boxes)
    masked: list[bool] = field(default_factory=list)
    taken: list[tuple[float, float, float, float]] = field(default_factory=list)

    def add(self, photograph: Photograph, faces: Boxes, unsure: Boxes) -> None:
        """Notes the boxes of a photograph that was laid into the frame."""
        self.faces = np.concatenate([self.faces, faces])
        self.unsure = np.concatenate([self.unsure, unsure])
        self.masked += [photograph.masked] * len(faces)

    def framed(self, image: Pixels, least_px: float) -> Frame:
        """The finished frame."""
        height, width = image.shape[:2]
        masked = np.array(self.masked, dtype=bool)
        inside, shares = clipped(self.faces, width, height)
        longest = (inside[:, 2:] - inside[:, :2]).max(axis=1, initial=0)
        is_face = (shares >= 0.5) & (longest >= least_px)
        rest = np.concatenate(
            [inside[~is_face & (shares > 0.02)], clipped(self.unsure, width, height)[0]]
        )
        return Frame(image, inside[is_face], rest, masked[is_face])

    def place(
        self, width: int, height: int, rng: np.random.Generator, *, outside: float
    ) -> tuple[int, int] | None:
        """Where a piece covers nothing else; up to a share of it may be outside the frame."""
        for _ in range(12):
            x = _between(rng, -outside * width, self.image.width - width * (1 - outside))
            y = _between(rng, -outside * height, self.image.height - height * (1 - outside))
            piece = (x, y, x + width, y + height)
            if not any(_meet(piece, other) for other in self.taken):
                self.taken.append(piece)
                return x, y
        return None


def _between(rng: np.random.Generator, low: float, high: float) -> int:
    return round(float(rng.uniform(min(low, high), max(low, high))))


def _meet(a: Sequence[float], b: Sequence[float]) -> bool:
    return a[0] < b[2] and b[0] < a[2] and a[1] < b[3] and b[1] < a[3]


def _any(photographs: Sequence[Photograph], rng: np.random.Generator) -> Photograph:
    return photographs[int(rng.integers(len(photographs)))]


def _person(sources: Sources, drawn: float, rng: np.random.Generator) -> Photograph:
    if rng.random() < drawn:
        return _any(sources.drawn, rng)
    return _any(sources.masked if rng.random() < 0.55 else sources.bare, rng)


def _background(sources: Sources, scenery: Scenery, rng: np.random.Generator) -> Image.Image:
    """An image without people, or several side by side, or a drawn wall."""
    height, width = scenery.size
    kind = rng.random()
    if kind < 0.12:
        return Image.fromarray(random_background(rng, height, width))
    if kind < 0.16:  # a lamp that is off, a lens that is covered
        tone = int(rng.choice((0, 0, 8, 60, 255)))
        return Image.new("RGB", (width, height), (tone, tone, tone))
    num_across, num_down = (1, 1) if kind < 0.75 else (int(n) for n in rng.integers(1, 4, 2))
    result = Image.new("RGB", (width, height))
    for column in range(num_across):
        for row in range(num_down):
            left, right = (width * n // num_across for n in (column, column + 1))
            top, bottom = (height * n // num_down for n in (row, row + 1))
            photograph = _any(sources.backgrounds, rng)
            tile = _covering(photograph, (right - left, bottom - top), rng)
            result.paste(tile, (left, top))
    if rng.random() < 0.25:
        result = result.filter(ImageFilter.GaussianBlur(float(rng.uniform(0, 2.5))))
    return result


def _covering(
    photograph: Photograph, size: tuple[int, int], rng: np.random.Generator
) -> Image.Image:
    """A part of an image that covers a size in pixels."""
    image = Image.fromarray(photograph.pixels)
    factor = max(size[0] / image.width, size[1] / image.height) * float(np.exp(rng.uniform(0, 0.7)))
    wide, tall = size[0] / factor, size[1] / factor
    x, y = float(rng.uniform(0, image.width - wide)), float(rng.uniform(0, image.height - tall))
    part = (x, y, min(x + wide, image.width), min(y + tall, image.height))
    image = image.resize(size, _BILINEAR, box=part, reducing_gap=2.0)
    return image.transpose(Image.Transpose.FLIP_LEFT_RIGHT) if rng.random() < 0.5 else image


def _lay_photograph(
    board: _Board, sources: Sources, scenery: Scenery, rng: np.random.Generator
) -> None:
    """A photograph of people as it is; where it does not cover the frame it goes on somehow."""
    height, width = scenery.size
    photograph = _person(sources, 0.3, rng)
    image, boxes, unsure = Image.fromarray(photograph.pixels), photograph.faces, photograph.unsure
    if rng.random() < 0.5:
        image = image.transpose(Image.Transpose.FLIP_LEFT_RIGHT)
        boxes, unsure = mirrored(boxes, image.width), mirrored(unsure, image.width)
    side = float((boxes[:, 2:] - boxes[:, :2]).max(initial=1))
    low, high = scenery.face_px
    covering = max(width / image.width, height / image.height)
    factor = float(np.exp(rng.uniform(np.log(low), np.log(1.25 * high)))) / side
    if covering * side <= 1.25 * high and rng.random() < 0.7:
        factor = max(factor, covering)
    wide, tall = max(4, round(image.width * factor)), max(4, round(image.height * factor))
    # A wide photograph may be cut anywhere, but mostly where its faces are.
    x, y = _offset(wide, width, rng), _offset(tall, height, rng)
    scale = (wide / image.width, tall / image.height)
    faces = moved(boxes, scale, (x, y))
    if factor >= covering:
        part = (
            max(0.0, -x / factor), max(0.0, -y / factor),
            min(float(image.width), (width - x) / factor),
            min(float(image.height), (height - y) / factor),
        )  # fmt: skip
        board.image = image.resize((width, height), _BILINEAR, box=part, reducing_gap=2.0)
        # Other people may stand where nobody is yet.
        board.taken = [tuple(box) for box in faces.tolist()]
    else:
        board.image = _continued(image, sources, scenery, rng)
        board.image.paste(image.resize((wide, tall), _BILINEAR, reducing_gap=2.0), (x, y))
        board.taken = [(x, y, x + wide, y + tall)]
    board.add(photograph, faces, moved(unsure, scale, (x, y)))


def _offset(length: int, room: int, rng: np.random.Generator) -> int:
    return _between(rng, min(0, room - length), max(0, room - length))


def _continued(
    image: Image.Image, sources: Sources, scenery: Scenery, rng: np.random.Generator
) -> Image.Image:
    """What is around a photograph that is smaller than the frame."""
    height, width = scenery.size
    if rng.random() < 0.4:
        return _background(sources, scenery, rng)
    corner = image.getpixel((0, 0))
    if rng.random() < 0.5 and isinstance(corner, tuple):
        return Image.new("RGB", (width, height), corner)
    tone = int(rng.choice((0, 114, 128, 255)))
    return Image.new("RGB", (width, height), (tone, tone, tone))


def _paste_distractor(
    board: _Board, sources: Sources, scenery: Scenery, rng: np.random.Generator
) -> None:
    """A piece without a face whose edges look like those of a face."""
    low, high = scenery.face_px
    tall = max(8, round(float(np.exp(rng.uniform(np.log(low + 4), np.log(0.6 * high))))))
    wide = max(8, round(tall * float(rng.uniform(0.6, 1.4))))
    place = board.place(wide, tall, rng, outside=0.2)
    if place is None:
        return
    piece = _covering(_any(sources.backgrounds, rng), (wide, tall), rng)
    board.image.paste(piece, place, _edge(wide, tall, rng))


def _paste_face(
    board: _Board, sources: Sources, scenery: Scenery, rng: np.random.Generator
) -> None:
    """Somebody's face with more or less of what was around it."""
    photograph = _person(sources, scenery.drawn, rng)
    image = Image.fromarray(photograph.pixels)
    if not len(photograph.faces):
        return
    left, top, right, bottom = photograph.faces[int(rng.integers(len(photograph.faces)))].tolist()
    part = (0.0, 0.0, float(image.width), float(image.height))
    if len(photograph.faces) > 1 or rng.random() < 0.6:
        margins = rng.uniform(0.0, 0.55, 4) * np.array([right - left, bottom - top] * 2)
        part = (
            max(0.0, left - margins[0]), max(0.0, top - margins[1]),
            min(part[2], right + margins[2]), min(part[3], bottom + margins[3]),
        )  # fmt: skip
    low, high = scenery.face_px
    side = float(np.exp(rng.uniform(np.log(low), np.log(high))))
    factor = side / max(right - left, bottom - top)
    stretch = float(rng.uniform(0.92, 1.08))
    wide = max(6, round((part[2] - part[0]) * factor))
    tall = max(6, round((part[3] - part[1]) * factor * stretch))
    if wide > 1.4 * board.image.width or tall > 1.4 * board.image.height:
        return
    kernel = _BILINEAR if rng.random() < 0.5 else Image.Resampling.LANCZOS
    piece = image.resize((wide, tall), kernel, box=part, reducing_gap=2.0)
    scale = (wide / (part[2] - part[0]), tall / (part[3] - part[1]))
    shift = (-part[0] * scale[0], -part[1] * scale[1])
    boxes, unsure = moved(photograph.faces, scale, shift), moved(photograph.unsure, scale, shift)
    if rng.random() < 0.5:
        piece = piece.transpose(Image.Transpose.FLIP_LEFT_RIGHT)
        boxes, unsure = mirrored(boxes, wide), mirrored(unsure, wide)
    if rng.random() < 0.4:  # the light is another there
        gains = float(rng.uniform(0.45, 1.4)) * np.exp(rng.normal(0, 0.06, 3))
        table = np.clip(np.arange(256)[None] * gains[:, None], 0, 255).astype(np.uint8)
        piece = piece.point(table.ravel().tolist())
    place = board.place(wide, tall, rng, outside=0.25 if rng.random() < 0.3 else 0.0)
    if place is None:
        return
    edge = _edge(wide, tall, rng)
    if rng.random() < 0.2 and len(boxes) == 1:
        angle = float(rng.normal(0, 11))
        edge = edge or Image.new("L", (wide, tall), 255)
        piece, edge = piece.rotate(angle, _BILINEAR), edge.rotate(angle, _BILINEAR)
        boxes = _turned(boxes, (wide, tall), angle)
    board.image.paste(piece, place, edge)
    # Faces that the cut left out or cut through.
    inside, shares = clipped(boxes, wide, tall)
    whole = shares > 0.6
    unsure = np.concatenate([clipped(unsure, wide, tall)[0], inside[~whole & (shares > 0.02)]])
    board.add(photograph, moved(inside[whole], (1, 1), place), moved(unsure, (1, 1), place))


def _turned(boxes: Boxes, size: tuple[int, int], angle: float) -> Boxes:
    """Boxes of the same size around centres that were turned counterclockwise, in degrees."""
    middle = np.array(size) / 2
    centres = (boxes[:, :2] + boxes[:, 2:]) / 2 - middle
    c, s = np.cos(np.radians(angle)), np.sin(np.radians(angle))
    turned = centres @ np.array([[c, -s], [s, c]]) + middle
    half = (boxes[:, 2:] - boxes[:, :2]) / 2
    return np.concatenate([turned - half, turned + half], axis=1).astype(np.float32)


def _edge(wide: int, tall: int, rng: np.random.Generator) -> Image.Image | None:
    """How a piece meets what is behind it: hard (None), softly, or in an oval."""
    kind = rng.random()
    if kind < 0.5:
        return None
    if kind < 0.75:
        rim = max(1, round(min(wide, tall) * float(rng.uniform(0.03, 0.12))))
        soft = Image.new("L", (wide, tall), 0)
        soft.paste(255, (rim, rim, max(rim + 1, wide - rim), max(rim + 1, tall - rim)))
        return soft.filter(ImageFilter.BoxBlur(rim / 2))
    y, x = np.ogrid[-1 : 1 : tall * 1j, -1 : 1 : wide * 1j]
    distance = x * x + y * y / 1.08
    cover = np.clip((1.05 - distance) / float(rng.uniform(0.05, 0.3)), 0, 1)
    return Image.fromarray((255 * cover).astype(np.uint8))


def _cover_faces(board: _Board, rng: np.random.Generator) -> None:
    """Something before some of the faces; a face that is mostly hidden becomes unsure."""
    draw = ImageDraw.Draw(board.image)
    faces = board.faces
    hidden = np.zeros(len(faces), dtype=bool)
    for number, (left, top, right, bottom) in enumerate(faces.tolist()):
        if rng.random() > 0.4:
            continue
        wide, tall = right - left, bottom - top
        share = float(rng.uniform(0.1, 0.5))
        side = int(rng.integers(4))
        beyond = 0.3 * float(rng.random())
        thing = [
            (left - beyond * wide, top - beyond * tall, left + share * wide, bottom + tall),
            (right - share * wide, top - beyond * tall, right + beyond * wide, bottom + tall),
            (left - beyond * wide, bottom - share * tall, right + beyond * wide, bottom + tall),
            (left - wide, top - beyond * tall, right + wide, top + 0.6 * share * tall),
        ][side]
        colour = tuple(int(v) for v in rng.integers(0, 256, 3))
        if rng.random() < 0.5:
            draw.rectangle(thing, fill=colour)
        else:
            draw.ellipse(thing, fill=colour)
        hidden[number] = share > 0.42
    board.unsure = np.concatenate([board.unsure, faces[hidden]])
    board.faces = faces[~hidden]
    board.masked = [mask for mask, gone in zip(board.masked, hidden, strict=True) if not gone]
