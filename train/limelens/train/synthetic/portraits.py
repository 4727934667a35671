"""Renders portraits, and folders of them with and without face masks.

The images stand in for photographs in tests, in CI, in a first try. Both labels come from the same
code and the same distributions (people, framing, light, background, size, blur, things before the
mouth); only the mask tells them apart. Knows nothing of training; `people`, `backgrounds`,
`face_masks` and `distractors` know what things look like.
"""

import multiprocessing
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ProcessPoolExecutor
from itertools import starmap
from pathlib import Path
from typing import Any, Final, Literal, NamedTuple, TypeVar

import numpy as np
from PIL import Image, ImageFilter

from limelens.train.synthetic.backgrounds import random_background
from limelens.train.synthetic.canvas import FaceCanvas
from limelens.train.synthetic.distractors import (
    Distractor,
    draw_distractor,
    random_distractor,
)
from limelens.train.synthetic.drawn_groups import (
    Groups,
    face_groups,
    mask_groups,
    person_groups,
)
from limelens.train.synthetic.face import Face
from limelens.train.synthetic.face_masks import draw_mask, random_style
from limelens.train.synthetic.painting import Pixels
from limelens.train.synthetic.people import DrawnPerson, draw_person

Result = TypeVar("Result")
Label = Literal["with_mask", "without_mask"]

LABELS: Final[tuple[Label, Label]] = ("with_mask", "without_mask")
"""The folders that `write_dataset` makes, in the order of class indices."""
_CLOSE_UP: Final = (0.26, 0.42)
"""Distance between the eyes, as a share of the shorter side, as where a detector cuts faces out."""

_SUPERSAMPLING: Final = 2
_CHUNK: Final = 8
_SPLITS: Final[Mapping[str, float]] = {"train": 0.8, "val": 0.1, "test": 0.1}
# Bare mouths are covered often enough that a model does not learn "no skin there" for a mask.
_BARE_DISTRACTORS: Final[tuple[Distractor, ...]] = (
    "hand", "chin_mask", "cup", "phone", "microphone", "beard",
)  # fmt: skip
# These come with both labels alike.
_SHARED_DISTRACTORS: Final[tuple[Distractor, ...]] = ("blob", "caption")


class Portrait(NamedTuple):
    """A rendered person, and where the face is; the eyes are always inside the image."""

    image: Pixels
    face: Face


def render_portrait(
    rng: np.random.Generator,
    size: int | tuple[int, int] = 160,
    *,
    unit: tuple[float, float] | None = None,
) -> Portrait:
    """An image of a person without a mask, and where the face is.

    Args:
        rng: Of everything in the image.
        size: Pixels of a square's side, or (height, width).
        unit: Least and largest distance between the eyes, as a share of the shorter side; None
            goes from half-length to a crop inside the head.

    Raises:
        ValueError: A side is under 16 pixels.
    """
    portrait, _ = _draw_portrait(rng, _height_width(size), unit)
    return Portrait(photograph(portrait.image, rng), portrait.face)


def add_person(image: Pixels, face: Face, rng: np.random.Generator) -> Pixels:
    """Draws a person without a mask into an image.

    Args:
        image: `(H, W, 3)` RGB, 0 to 255; it stays as it is.
        face: Where their face is.
        rng: Of how they look.

    Returns:
        `(H, W, 3)` uint8; what the person does not cover is softened a little.
    """
    return _with_person(image, face, rng)[0]


def render_sample(
    rng: np.random.Generator,
    label: Label,
    size: int | tuple[int, int] = 160,
    *,
    close_up: bool = False,
) -> tuple[Pixels, Groups]:
    """An image for one of the two labels, and what was drawn in it.

    Args:
        rng: Of everything in the image.
        label: `without_mask` often has a hand, a cup, a beard or a mask below the chin. Scarves,
            captions and plain shapes come with both labels alike.
        size: Pixels of a square's side, or (height, width).
        close_up: The face fills the image, and nothing but a mask covers it.

    Raises:
        ValueError: A side is under 16 pixels, or the label is unknown.
    """
    if label not in LABELS:
        raise ValueError(f"Label is {label!r}; expected one of {', '.join(LABELS)}")
    height, width = _height_width(size)
    # Collected images are often squeezed into another shape.
    drawn_width = max(16, round(width * float(rng.uniform(0.82, 1.18))))
    unit = _CLOSE_UP if close_up else None
    (image, face), person = _draw_portrait(rng, (height, drawn_width), unit)
    groups = {**person_groups(person), **face_groups(face, height, drawn_width)}
    if not close_up and rng.random() < 0.12:
        image = draw_distractor(image, face, rng, "scarf")
    if label == "with_mask":
        style = random_style(rng)
        image, _ = draw_mask(image, face, style, rng)
        groups |= mask_groups(style)
    elif not close_up and rng.random() < 0.4:
        kind = random_distractor(rng, _BARE_DISTRACTORS)
        image = draw_distractor(image, face, rng, kind)
        groups["before_mouth"] = kind
    else:
        groups["before_mouth"] = "nothing"
    for shared in () if close_up else _SHARED_DISTRACTORS:
        if rng.random() < 0.08:
            image = draw_distractor(image, face, rng, shared)
    squeezed = Image.fromarray(image).resize((width, height), Image.Resampling.BILINEAR)
    return photograph(np.asarray(squeezed), rng), groups


def write_dataset(
    folder: Path,
    num_images_per_label: int,
    seed: int,
    *,
    size: int = 160,
    splits: Mapping[str, float] = _SPLITS,
    num_workers: int = 1,
    close_up: bool = False,
) -> dict[str, int]:
    """Writes `folder/{train,val,test}/{with_mask,without_mask}/0000.jpg` and so on.

    `groups.csv` says of each image what was drawn: pose, skin, lighting, mask.

    The same arguments give the same files. Existing files with other names stay.

    Args:
        folder: Created if missing.
        num_images_per_label: Over all splits, at least one each.
        seed: 0 or more.
        size: Longer side in pixels, 16 or more.
        splits: The share of each; they sum to 1.
        num_workers: As for `run_jobs`.
        close_up: As for `render_sample`.

    Returns:
        How many images of each label went into each split.

    Raises:
        ValueError: Too few images for the splits, or the shares do not sum to 1.
    """
    # Imported here: drawing needs only numpy and Pillow.
    from limelens.train.data.groups_table import write_groups

    if abs(sum(splits.values()) - 1) > 1e-6 or min(splits.values(), default=0) <= 0:
        raise ValueError(f"Splits are {dict(splits)!r}; the shares must be over 0 and sum to 1")
    if num_images_per_label < len(splits):
        raise ValueError(
            f"num_images_per_label is {num_images_per_label}; {len(splits)} splits need one each"
        )
    counts = {name: max(1, round(num_images_per_label * share)) for name, share in splits.items()}
    largest = max(counts, key=lambda name: counts[name])
    counts[largest] += num_images_per_label - sum(counts.values())
    jobs = []
    for split_index, (split, count) in enumerate(counts.items()):
        for label_index, label in enumerate(LABELS):
            target = folder / split / label
            target.mkdir(parents=True, exist_ok=True)
            for number in range(count):
                # Each image has its own stream, so that a larger set begins with a smaller one.
                stream = (seed, split_index, label_index, number)
                jobs.append((target / f"{number:04d}.jpg", label, stream, size, close_up))
    groups = run_jobs(_write, jobs, num_workers)
    names = [job[0].relative_to(folder).as_posix() for job in jobs]
    write_groups(folder, dict(zip(names, groups, strict=True)))
    return counts


def run_jobs(
    function: Callable[..., Result], jobs: Sequence[tuple[Any, ...]], num_workers: int
) -> list[Result]:
    """What a function of a module returns for each job's arguments, in their order.

    Several worker processes are spawned: a script that asks for them guards its own start by
    `if __name__ == "__main__"`.
    """
    if num_workers <= 1:
        return list(starmap(function, jobs))
    # Forked processes could wait forever on locks of threads that they do not have.
    spawn = multiprocessing.get_context("spawn")
    with ProcessPoolExecutor(num_workers, mp_context=spawn) as pool:
        return list(pool.map(function, *zip(*jobs, strict=True), chunksize=_CHUNK))


def photograph(image: Pixels, rng: np.random.Generator) -> Pixels:
    """A copy with random exposure, tint, focus and noise; some are grey."""
    height, width = image.shape[:2]
    photo = Image.fromarray(image)
    if rng.random() < 0.35:  # enlarged from fewer pixels
        factor = float(rng.uniform(0.35, 0.9))
        fewer = (max(8, round(width * factor)), max(8, round(height * factor)))
        photo = photo.resize(fewer, Image.Resampling.BILINEAR)
        photo = photo.resize((width, height), Image.Resampling.BILINEAR)
    elif rng.random() < 0.5:
        photo = photo.filter(ImageFilter.BoxBlur(float(rng.uniform(0.2, 0.9)) * width / 160))
    values = np.asarray(photo, dtype=np.float32)
    gain = np.exp(rng.normal(0, 0.12) + rng.normal(0, 0.05, 3)).astype(np.float32)
    contrast = float(rng.uniform(0.8, 1.15))
    values = ((values - 118) * contrast + 118 + float(rng.normal(0, 8))) * gain
    if rng.random() < 0.06:
        values = np.repeat(values.mean(axis=2, keepdims=True), 3, axis=2)
    strength = float(rng.choice((0.0, 2.0, 4.0, 9.0), p=(0.3, 0.35, 0.25, 0.1)))
    if strength:
        values = values + rng.standard_normal(values.shape, dtype=np.float32) * np.float32(strength)
    return np.clip(values, 0, 255).astype(np.uint8)


def _draw_portrait(
    rng: np.random.Generator, size: tuple[int, int], unit: tuple[float, float] | None = None
) -> tuple[Portrait, DrawnPerson]:
    """As `render_portrait`, evenly exposed, sharp and without noise; and who it is."""
    height, width = size
    face = _pose(rng, height, width, unit)
    image, person = _with_person(random_background(rng, height, width), face, rng)
    if rng.random() < 0.16:
        image = draw_distractor(image, face, rng, "beard")
    return Portrait(image, face), person


def _with_person(image: Pixels, face: Face, rng: np.random.Generator) -> tuple[Pixels, DrawnPerson]:
    height, width = image.shape[:2]
    finer = (width * _SUPERSAMPLING, height * _SUPERSAMPLING)
    large = Image.fromarray(image).resize(finer, Image.Resampling.BILINEAR)
    person = draw_person(FaceCanvas(large, face.scaled(_SUPERSAMPLING)), rng)
    return np.asarray(large.reduce(_SUPERSAMPLING)), person


def _height_width(size: int | tuple[int, int]) -> tuple[int, int]:
    height, width = (size, size) if isinstance(size, int) else size
    if min(height, width) < 16:
        raise ValueError(f"Size is {height}x{width} pixels; each side needs 16 or more")
    return height, width


def _pose(
    rng: np.random.Generator, height: int, width: int, share: tuple[float, float] | None
) -> Face:
    """Where the face is: from a crop inside the head to half-length, the mouth in the image."""
    side = min(height, width)
    # As in collected images, most faces fill the frame.
    low, high = share or ((0.28, 0.50) if rng.random() < 0.6 else (0.10, 0.28))
    unit = side * float(rng.uniform(low, high))
    yaw = float(np.clip(rng.normal(0, 0.3), -0.8, 0.8))
    roll = float(np.clip(rng.normal(0, 0.12), -0.4, 0.4))
    # Where the eyes may go so that they and the mouth stay inside.
    x_low, x_high = min(1.1 * unit, 0.45 * width), max(width - 1.1 * unit, 0.55 * width)
    y_low, y_high = min(0.9 * unit, 0.3 * height), height - 1.7 * unit
    if y_high <= y_low:
        y_low = y_high = max(0.25 * unit, (y_low + y_high) / 2)
    x = width / 2 + (x_high - x_low) * 0.5 * float(np.clip(rng.normal(0, 0.3), -1, 1))
    y = y_low + (y_high - y_low) * float(rng.beta(2, 3))
    return Face.posed((x, y), unit, roll, yaw)


def _write(path: Path, label: Label, stream: tuple[int, ...], size: int, close_up: bool) -> Groups:
    rng = np.random.default_rng(stream)
    # As often tall as wide, for both labels.
    short = max(16, round(size * float(rng.uniform(0.72, 1.0))))
    shape = (size, short) if rng.random() < 0.5 else (short, size)
    image, groups = render_sample(rng, label, shape, close_up=close_up)
    Image.fromarray(image).save(path, quality=90)
    return groups
