"""Reads from each file what an audit compares: its size, its digests, its perceptual hash.

Knows files and pixels; does not know labels or splits.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from limelens.serve.errors import InvalidImageError
from limelens.serve.image import read_image
from limelens.train.audit.feature_vectors import plain_features
from limelens.train.data.examples import Skipped
from limelens.train.data.near_duplicates import PerceptualHash, perceptual_hash


@dataclass(frozen=True, eq=False)
class ImageFacts:
    """What is known of a readable file.

    Args:
        path: The file.
        height: Of the upright image, in pixels.
        width: Of the upright image, in pixels.
        size_bytes: Of the file.
        content: SHA-256 of the file.
        pixels: SHA-256 of the upright image.
        hash: By which near duplicates are found.
        features: As `plain_features`; None if not asked for.
    """

    path: Path
    height: int
    width: int
    size_bytes: int
    content: str
    pixels: str
    hash: PerceptualHash
    features: NDArray[np.float32] | None


def read_facts(paths: Sequence[Path], *, features: bool) -> Iterator[ImageFacts | Skipped]:
    """Reads files, in their order; an unreadable one gives a `Skipped`.

    Args:
        paths: The files.
        features: Whether to compute plain features too.
    """

    def read(path: Path) -> ImageFacts | Skipped:
        try:
            encoded = path.read_bytes()
            pixels = read_image(encoded)
        except OSError as error:
            return Skipped(path, str(error.strerror))
        except InvalidImageError as error:
            return Skipped(path, str(error))
        shape = str(pixels.shape).encode()
        return ImageFacts(
            path,
            pixels.shape[0],
            pixels.shape[1],
            len(encoded),
            hashlib.sha256(encoded).hexdigest(),
            hashlib.sha256(shape + pixels.tobytes()).hexdigest(),
            perceptual_hash(pixels),
            plain_features(pixels) if features else None,
        )

    with ThreadPoolExecutor() as pool:
        yield from pool.map(read, paths)
