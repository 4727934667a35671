"""Reads from each file what an audit compares: its size, digests, perceptual hash and thumbnail.

Knows files and pixels; does not know labels or splits.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from limelens.train.audit.cropped_copies import thumbnail
from limelens.train.audit.feature_vectors import plain_features
from limelens.train.data.examples import Skipped
from limelens.train.data.near_duplicates import PerceptualHash, perceptual_hash
from limelens.train.data.reading import read_each


@dataclass(frozen=True, eq=False)
class ImageFacts:
    """What is known of a readable file; sizes are those of the upright image, in pixels.

    Args:
        content: SHA-256 of the file.
        pixels: SHA-256 of the upright image.
        thumbnail: As `cropped_copies.thumbnail`.
        features: As `plain_features`; empty unless requested.
    """

    height: int
    width: int
    size_bytes: int
    content: str
    pixels: str
    hash: PerceptualHash
    thumbnail: NDArray[np.uint8]
    features: NDArray[np.float32]


def read_facts(paths: Sequence[Path], *, features: bool) -> Iterator[ImageFacts | Skipped]:
    """Reads files, in their order, with plain features or without; see `read_each`."""

    def describe(encoded: bytes, pixels: NDArray[np.uint8]) -> ImageFacts:
        height, width = pixels.shape[:2]
        return ImageFacts(
            height,
            width,
            len(encoded),
            hashlib.sha256(encoded).hexdigest(),
            hashlib.sha256(str(pixels.shape).encode() + pixels.tobytes()).hexdigest(),
            perceptual_hash(pixels, mirrored=True),
            thumbnail(pixels),
            plain_features(pixels) if features else np.empty(0, np.float32),
        )

    return read_each(paths, describe)
