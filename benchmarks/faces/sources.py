"""Real images to build frames from: faces with known places, and backgrounds without people.

Where the faces are was found by CenterFace and looked through by eye, and so were the backgrounds
with people in them; both lists name files by their digests. Images with several faces, or whose
face is a small part, are left out.
"""

from __future__ import annotations

import csv
import hashlib
import os
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Final

import numpy as np
from numpy.typing import NDArray

from limelens.serve.errors import LimelensError
from limelens.serve.folders import find_images
from limelens.serve.image import read_image

SPLITS: Final = ("val", "test")
LABELS: Final = ("with_mask", "without_mask")
_FOLDER: Final = Path(__file__).parent
_DIGEST_LENGTH: Final = 16
_BACKGROUNDS: Final = ("cats_dogs/validation", "clothing/validation", "wine/validation")


@dataclass(frozen=True, eq=False)
class Portrait:
    """An image of one face.

    Args:
        pixels: `(H, W, 3)` uint8 RGB.
        box: Left, top, right, bottom of the face, from forehead to chin, in pixels; it may reach
            out of the image.
        label: `with_mask` or `without_mask`.
    """

    pixels: NDArray[np.uint8]
    box: tuple[float, float, float, float]
    label: str

    @property
    def size_px(self) -> float:
        """The longer side of the face."""
        left, top, right, bottom = self.box
        return max(right - left, bottom - top)


def data_folder() -> Path:
    """The folder of the sets.

    Raises:
        LimelensError: None is named.
    """
    folder = os.environ.get("LIMELENS_DATA")
    if not folder:
        raise LimelensError(
            "LIMELENS_DATA is not set; it names the folder that holds facemask and cats_dogs"
        )
    return Path(folder)


def portraits(data: Path, split: str) -> list[Portrait]:
    """The faces of `data/facemask/SPLIT` whose places are known.

    Raises:
        LimelensError: The set is not there, or is another one.
    """
    places, found = _places(), []
    for label in LABELS:
        for path, content in _files(data / "facemask" / split / label):
            place = places.get(_digest(content))
            if place is not None:
                pixels = read_image(content)
                height, width = pixels.shape[:2]
                left, top, right, bottom = place
                box = (left * width, top * height, right * width, bottom * height)
                found.append(Portrait(pixels, box, path.parent.name))
    if {one.label for one in found} != {*LABELS}:
        raise LimelensError(
            f"{data}/facemask/{split} holds other images than those with known faces"
        )
    return found


def backgrounds(data: Path) -> list[Path]:
    """Images of cats, dogs, clothes and bottles in which no person is seen.

    Raises:
        LimelensError: A set is not there.
    """
    peopled = frozenset((_FOLDER / "peopled.txt").read_text().split())
    return [
        path
        for name in _BACKGROUNDS
        for path, content in _files(data / name)
        if _digest(content) not in peopled
    ]


def _files(folder: Path) -> Iterator[tuple[Path, bytes]]:
    if not folder.is_dir():
        raise LimelensError(f"{folder} does not exist; LIMELENS_DATA names the folder of the sets")
    for path in find_images(folder):
        yield path, path.read_bytes()


def _digest(content: bytes) -> str:
    return hashlib.sha256(content).hexdigest()[:_DIGEST_LENGTH]


@cache
def _places() -> Mapping[str, tuple[float, float, float, float]]:
    """By digest: left, top, right, bottom in fractions of the image."""
    with (_FOLDER / "places.csv").open(newline="") as file:
        return {
            row["file"]: (
                float(row["left"]), float(row["top"]), float(row["right"]), float(row["bottom"])
            )
            for row in csv.DictReader(file)
        }  # fmt: skip
