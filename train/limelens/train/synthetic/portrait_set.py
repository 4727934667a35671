"""Renders folders of images of people, with and without face masks.

The images stand in for photographs where none can be had: in tests, in CI, in a first try. Both
labels are drawn by the same code from the same distributions (people, framing, light, background,
size, blur, things held before the mouth); the mask alone tells them apart. Nothing is known here
of tensors or of training, nor of how people and masks are drawn.
"""

import multiprocessing
from collections.abc import Mapping
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Final, Literal

import numpy as np
from PIL import Image

from limelens.train.synthetic.camera import photograph
from limelens.train.synthetic.distractors import Distractor, draw_distractor
from limelens.train.synthetic.masks import draw_mask, random_style
from limelens.train.synthetic.painting import Pixels
from limelens.train.synthetic.portraits import draw_portrait, height_width

Label = Literal["with_mask", "without_mask"]

LABELS: Final[tuple[Label, Label]] = ("with_mask", "without_mask")
"""The folders that `write_dataset` makes, in the order of class indices."""

_CHUNK: Final = 16
_SPLITS: Final[Mapping[str, float]] = {"train": 0.8, "val": 0.1, "test": 0.1}
# The bare-mouthed need something before the mouth often enough, or a model learns "no skin there".
_BARE_DISTRACTORS: Final[tuple[Distractor, ...]] = (
    "hand", "chin_mask", "cup", "phone", "microphone", "beard",
)  # fmt: skip
# These come with both labels alike.
_SHARED_DISTRACTORS: Final[tuple[Distractor, ...]] = ("blob", "caption")


def render_sample(
    rng: np.random.Generator, label: Label, size: int | tuple[int, int] = 160
) -> Pixels:
    """An image for one of the two labels.

    Args:
        rng: Where everything about the image comes from.
        label: `with_mask` or `without_mask`; the latter often has a hand, a cup, a beard or a
            mask below the chin. Scarves, captions and plain shapes come with both alike.
        size: Pixels of a square's side, or (height, width); 16 or more.

    Returns:
        `(H, W, 3)` uint8 RGB, 0 to 255.

    Raises:
        ValueError: A side is under 16 pixels, or the label is unknown.
    """
    if label not in LABELS:
        raise ValueError(f"Label is {label!r}; expected one of {', '.join(LABELS)}")
    height, width = height_width(size)
    # Collected images are often squeezed into another shape; some of ours are too.
    drawn_width = max(16, round(width * float(rng.uniform(0.82, 1.18))))
    portrait = draw_portrait(rng, (height, drawn_width))
    image, face = portrait.image, portrait.face
    if rng.random() < 0.12:
        image = draw_distractor(image, face, rng, "scarf")
    if label == "with_mask":
        image, _ = draw_mask(image, face, random_style(rng), rng)
    elif rng.random() < 0.4:
        kind = _BARE_DISTRACTORS[int(rng.integers(len(_BARE_DISTRACTORS)))]
        image = draw_distractor(image, face, rng, kind)
    for shared in _SHARED_DISTRACTORS:
        if rng.random() < 0.08:
            image = draw_distractor(image, face, rng, shared)
    squeezed = Image.fromarray(image).resize((width, height), Image.Resampling.BILINEAR)
    return photograph(np.asarray(squeezed), rng)


def write_dataset(
    folder: Path,
    num_images_per_label: int,
    seed: int,
    *,
    size: int = 160,
    splits: Mapping[str, float] = _SPLITS,
    quality: int = 90,
    num_workers: int = 1,
) -> dict[str, int]:
    """Writes `folder/{train,val,test}/{with_mask,without_mask}/0000.jpg` and so on.

    The same arguments give the same files. Files that are already there under other names stay.

    Args:
        folder: Where to write; made if it is not there.
        num_images_per_label: Images of each label over all splits, at least one a split.
        seed: Seed of all images, 0 or more.
        size: The longer side in pixels, 16 or more.
        splits: Each split's share, by name; they sum to 1.
        quality: JPEG quality, 1 to 95.
        num_workers: Processes; the files are the same. More than one are spawned: a script that
            asks for them guards its own start by `if __name__ == "__main__"`.

    Returns:
        How many images of each label went into each split.

    Raises:
        ValueError: Too few images for the splits, or the shares do not sum to 1.
    """
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
                # A stream of its own for each image: a larger set begins with a smaller one's.
                stream = (seed, split_index, label_index, number)
                jobs.append(_Job(target / f"{number:04d}.jpg", label, stream, size, quality))
    if num_workers > 1:
        context = multiprocessing.get_context("spawn")
        with ProcessPoolExecutor(num_workers, mp_context=context) as pool:
            list(pool.map(_write, jobs, chunksize=_CHUNK))
    else:
        for job in jobs:
            _write(job)
    return counts


@dataclass(frozen=True)
class _Job:
    """One file to write."""

    path: Path
    label: Label
    stream: tuple[int, int, int, int]
    size: int
    quality: int


def _write(job: _Job) -> None:
    rng = np.random.default_rng(job.stream)
    image = render_sample(rng, job.label, _random_shape(rng, job.size))
    Image.fromarray(image).save(job.path, quality=job.quality)


def _random_shape(rng: np.random.Generator, size: int) -> tuple[int, int]:
    """Height and width, the longer of them `size`: as often tall as wide, for both labels."""
    short = max(16, round(size * float(rng.uniform(0.72, 1.0))))
    return (size, short) if rng.random() < 0.5 else (short, size)
