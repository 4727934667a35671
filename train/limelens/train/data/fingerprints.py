"""Whether two images are so much the same that one of them may be thrown away.

A difference hash alone says so of different shirts before one background: of 167 such pairs among
3,000 images of clothing none was a duplicate. So gradients, frequencies and colours must agree.
It knows pixels, and nothing of labels, files or splits.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final

import imagehash
import numpy as np
from numpy.typing import NDArray
from PIL import Image

from limelens.train.data.duplicates import MAX_DISTANCE, difference_hash

_GRID: Final = 4


@dataclass(frozen=True)
class Fingerprint:
    """What is compared of an image.

    Args:
        gradients: The 64-bit difference hash.
        frequencies: The 64-bit perceptual hash, of the lowest frequencies.
        colours: Mean R, G, B of 4x4 fields, 48 bytes.
    """

    gradients: int
    frequencies: int
    colours: bytes


@dataclass(frozen=True)
class Likeness:
    """How far two fingerprints may be apart.

    Args:
        gradients: Bits of 64.
        frequencies: Bits of 64.
        colours: Mean difference of the fields, of 255.
    """

    gradients: int
    frequencies: int
    colours: float


SAME: Final = Likeness(MAX_DISTANCE, 6, 16.0)
"""One of the two can go: copies at another size, quality or brightness."""
RELATED: Final = Likeness(MAX_DISTANCE, 16, 32.0)
"""Better not on both sides of a split: other crops, frames of one scene."""


def fingerprint(pixels: NDArray[np.uint8]) -> Fingerprint:
    """The fingerprint of an image.

    Args:
        pixels: `(H, W, 3)` uint8 RGB.
    """
    image = Image.fromarray(pixels)
    return Fingerprint(
        difference_hash(pixels),
        int(str(imagehash.phash(image)), 16),
        image.resize((_GRID, _GRID), Image.Resampling.BOX).tobytes(),
    )


def first_of_kind(fingerprints: Sequence[Fingerprint], likeness: Likeness) -> NDArray[np.intp]:
    """For each image the first one that it is like.

    The first of a kind stands for it: an image is compared with those alone, so that a chain of
    small steps does not make all of a series one kind.

    Args:
        fingerprints: In the order of preference.
        likeness: What counts as like.

    Returns:
        `(N,)` indices, each at most its own; a first of a kind has its own index.
    """
    num = len(fingerprints)
    gradients = np.array([f.gradients for f in fingerprints], dtype=np.uint64)
    frequencies = np.array([f.frequencies for f in fingerprints], dtype=np.uint64)
    colours = np.frombuffer(b"".join(f.colours for f in fingerprints), dtype=np.uint8)
    colours = colours.reshape(num, _GRID * _GRID * 3).astype(np.int16)
    result = np.arange(num)
    firsts = np.empty(num, dtype=np.intp)
    gradients_of_firsts = np.empty(num, dtype=np.uint64)
    num_firsts = 0
    for index in range(num):
        distance = np.bitwise_count(gradients_of_firsts[:num_firsts] ^ gradients[index])
        like = firsts[np.flatnonzero(distance <= likeness.gradients)]
        distance = np.bitwise_count(frequencies[like] ^ frequencies[index])
        like = like[distance <= likeness.frequencies]
        like = like[np.abs(colours[like] - colours[index]).mean(axis=1) <= likeness.colours]
        if len(like):
            result[index] = like[0]
            continue
        firsts[num_firsts] = index
        gradients_of_firsts[num_firsts] = gradients[index]
        num_firsts += 1
    return result
