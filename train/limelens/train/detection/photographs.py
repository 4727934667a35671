"""Reads the photographs that frames are composed of, and draws more.

The places of the faces come from a teacher, another detector; where it is unsure, nothing will be
learned. Knows folders of images by split and label; does not know networks.
"""

from __future__ import annotations

import hashlib
import logging
from collections.abc import Sequence
from pathlib import Path
from typing import Final

import numpy as np

from limelens.train.data.examples import DataError, Skipped
from limelens.train.data.label_folders import read_label_folders
from limelens.train.data.reading import read_each
from limelens.train.detection.frames import Boxes, Find, Photograph, Pixels, Sources, clipped
from limelens.train.synthetic import LABELS, draw_mask, random_style, render_portrait

SURE: Final = 0.3
"""A teacher's score from which a box of a photograph of people is a face."""
SOMEBODY: Final = 0.7
"""A teacher's score from which there is somebody in a photograph that should have nobody.

Below it, CenterFace mostly means a dog."""
_BORDER: Final = 0.3
_log = logging.getLogger(__name__)


def read_sources(
    people: Path,
    others: Sequence[Path],
    teacher: Find,
    split: str,
    *,
    background_split: str | None = None,
    num_drawn: int,
    seed: int = 0,
) -> tuple[Sources, str]:
    """The photographs of one split, and drawn portraits.

    Args:
        people: A folder of splits with the labels `with_mask` and `without_mask`.
        others: Folders of splits with any labels, without people.
        teacher: Finds the faces, unsure ones included.
        split: Which one.
        background_split: Which one of the others; None is the same.
        num_drawn: How many portraits are drawn, half of them with a mask.
        seed: Of the portraits.

    Returns:
        The sources, and the SHA-256 of all images that were read, hexadecimal.

    Raises:
        DataError: A folder has no such split, or not these labels, or no image is left.
    """
    digest = hashlib.sha256()
    by_label = _of_split(people, split)
    if {*by_label} != {*LABELS}:
        raise DataError(f"{people} has the labels {', '.join(by_label)}; expected {LABELS}")
    photographs: dict[bool, list[Photograph]] = {True: [], False: []}
    for label, paths in sorted(by_label.items()):
        masked = label == LABELS[0]
        for pixels in _images(paths, digest):
            faces, unsure = find_all(pixels, teacher)
            if len(faces):
                photographs[masked].append(Photograph(pixels, faces, unsure, masked))
    backgrounds = []
    for folder in others:
        for _, paths in sorted(_of_split(folder, background_split or split).items()):
            for pixels in _images(paths, digest):
                if teacher(pixels)[1].max(initial=0) < SOMEBODY:
                    backgrounds.append(Photograph(pixels))
    drawn = [draw_portrait(np.random.default_rng((seed, n)), n % 2 == 1) for n in range(num_drawn)]
    sources = Sources(photographs[True], photographs[False], drawn, backgrounds)
    for name, some in vars(sources).items():
        _log.info("%s: %d %s", split, len(some), name)
        if not some:
            raise DataError(f"{split}: no photographs for {name}; expected at least one")
    return sources, digest.hexdigest()


def find_all(pixels: Pixels, teacher: Find) -> tuple[Boxes, Boxes]:
    """The faces of a photograph of people, and the boxes of which the teacher is unsure.

    A face that fills the image is easier to find with a border around it, so the teacher looks
    twice, and the look with the surest box counts.
    """
    border = round(_BORDER * max(pixels.shape[:2]))
    padded = np.pad(pixels, ((border, border), (border, border), (0, 0)), constant_values=128)
    boxes, scores = teacher(pixels)
    wider, their_scores = teacher(padded)
    if their_scores.max(initial=0) > scores.max(initial=0):
        boxes, scores = wider - np.float32(border), their_scores
    height, width = pixels.shape[:2]
    boxes = clipped(boxes, width, height)[0]
    return boxes[scores >= SURE], boxes[scores < SURE]


def draw_portrait(rng: np.random.Generator, masked: bool) -> Photograph:
    """A drawn person whose face is known, with or without a mask."""
    portrait = render_portrait(rng, (int(rng.integers(112, 176)), int(rng.integers(112, 208))))
    image = portrait.image
    if masked:
        image, _ = draw_mask(image, portrait.face, random_style(rng), rng)
    box = np.array([portrait.face.box], dtype=np.float32)
    return Photograph(image, clipped(box, image.shape[1], image.shape[0])[0], masked=masked)


def _of_split(folder: Path, split: str) -> dict[str, Sequence[Path]]:
    by_split = read_label_folders(folder).by_split
    if split not in by_split:
        raise DataError(f"{folder} has the splits {', '.join(by_split)}; expected {split}")
    return dict(by_split[split])


def _images(paths: Sequence[Path], digest: hashlib._Hash) -> list[Pixels]:
    """The readable ones; their content goes into the digest."""
    images = []
    for one in read_each(paths, lambda data, pixels: (hashlib.sha256(data).digest(), pixels)):
        if isinstance(one, Skipped):
            _log.warning("%s is left out: %s", one.path, one.reason)
            continue
        digest.update(one[0])
        images.append(one[1])
    return images
