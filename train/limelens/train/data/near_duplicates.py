"""Finds images that are nearly the same, by their perceptual hashes.

A difference hash alone is not enough: it calls 45,000 pairs of 736 bottles on white near, and 167
pairs of different shirts before one background, none of them duplicates. So colours must agree, and
also frequencies where one of two images is discarded. Knows pixels; does not know files, labels or
splits.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Final

import numpy as np
from numpy.typing import NDArray
from PIL import Image

_PAIRS_AT_ONCE: Final = 512


@dataclass(frozen=True, eq=False)
class PerceptualHash:
    """The features of an image that are compared.

    Args:
        gradients: 64-bit difference hash.
        colours: `(P, 3)`, the mean RGB of each field of a grid.
        frequencies: 64-bit hash of the lowest frequencies; 0 if it is not compared.
        mirrored: `gradients` of the image with left and right exchanged; None if a mirrored copy is
            another image.
    """

    gradients: int
    colours: NDArray[np.uint8]
    frequencies: int = 0
    mirrored: int | None = None


@dataclass(frozen=True)
class Threshold:
    """How far the hashes of two near duplicates may be apart.

    Args:
        colours: Mean difference of the fields, 0 to 255.
        frequencies: Bits of 64.
        ignores_tint: Whether each image's mean colour is subtracted first.
        gradients: Bits of 64.
    """

    colours: float
    frequencies: int = 64
    ignores_tint: bool = False
    gradients: int = 4


COPY: Final = Threshold(16.0, 6)
"""One of the two can be discarded: a copy at another size, quality or brightness."""
RELATED: Final = Threshold(32.0, 16)
"""Must not be on both sides of a split: another crop, a frame of the same scene."""
ONE_SIDE: Final = Threshold(8.0, ignores_tint=True)
"""Must not be on both sides of a split, by hashes without frequencies."""
LISTED: Final = Threshold(5.5, ignores_tint=True)
"""Stricter than `ONE_SIDE`: people look at each pair."""


def perceptual_hash(
    pixels: NDArray[np.uint8],
    *,
    grid: int = 16,
    frequencies: bool = False,
    mirrored: bool = False,
) -> PerceptualHash:
    """The perceptual hash of an image; only hashes made with the same options compare.

    `grid` fields along each side give colours; hashing `frequencies` too takes longer. With
    `mirrored`, which excludes frequencies, a mirrored copy counts as near too.
    """
    # Imported here: an evaluation needs no hashes.
    import imagehash

    image = Image.fromarray(pixels)
    small = image.resize((grid, grid), Image.Resampling.BOX)
    return PerceptualHash(
        int(str(imagehash.dhash(image)), 16),
        np.asarray(small).reshape(-1, 3),
        int(str(imagehash.phash(image)), 16) if frequencies else 0,
        int(str(imagehash.dhash(image.transpose(Image.Transpose.FLIP_LEFT_RIGHT))), 16)
        if mirrored
        else None,
    )


def near_duplicate_groups(
    hashes: Sequence[PerceptualHash], threshold: Threshold = ONE_SIDE
) -> NDArray[np.intp]:
    """Groups images so that near duplicates, and their near duplicates in turn, are in one group.

    Returns:
        `(N,)` the index of the first image of each one's group.
    """
    groups = np.arange(len(hashes))
    for index, near, _ in _near_before(hashes, threshold):
        joined = np.append(groups[near], index)
        groups[: index + 1][np.isin(groups[: index + 1], joined)] = joined.min()
    return groups


def first_of_kind(hashes: Sequence[PerceptualHash], threshold: Threshold) -> NDArray[np.intp]:
    """For each image the first one that it is near to, `(N,)`; itself if there is none.

    An image is compared only with the first image of each group, so that a chain of small steps
    does not join a whole series.
    """
    firsts = np.arange(len(hashes))
    is_first = np.ones(len(hashes), dtype=np.bool_)
    for index, near, _ in _near_before(hashes, threshold, is_first):
        firsts[index], is_first[index] = near[0], False
    return firsts


def nearest_before(hashes: Sequence[PerceptualHash], threshold: Threshold) -> NDArray[np.intp]:
    """For each image the nearest near duplicate before it, `(N,)`; -1 if there is none."""
    nearest = np.full(len(hashes), -1)
    for index, near, difference in _near_before(hashes, threshold):
        nearest[index] = near[difference.argmin()]
    return nearest


def _near_before(
    hashes: Sequence[PerceptualHash], threshold: Threshold, among: NDArray[np.bool_] | None = None
) -> Iterator[tuple[int, NDArray[np.intp], NDArray[np.float32]]]:
    """Each image with near duplicates before it: index, their indices, how their colours differ.

    `among` says which images count; it is read anew for each one.
    """
    gradients = np.array([one.gradients for one in hashes], dtype=np.uint64)
    frequencies = np.array([one.frequencies for one in hashes], dtype=np.uint64)
    for index in range(1, len(hashes)):
        differences: dict[int, float] = {}
        for sides in _sides(hashes[index]):
            bits = np.bitwise_count(gradients[:index] ^ np.uint64(sides.gradients))
            near = np.flatnonzero(bits <= threshold.gradients)
            if among is not None:
                near = near[among[near]]
            bits = np.bitwise_count(frequencies[near] ^ np.uint64(sides.frequencies))
            near = near[bits <= threshold.frequencies]
            for one, apart in zip(near, _apart(hashes, near, sides, threshold), strict=True):
                if apart <= threshold.colours:
                    differences[one] = min(apart, differences.get(one, apart))
        if differences:
            found = sorted(differences)
            yield index, np.array(found), np.array([differences[one] for one in found], np.float32)


def _sides(hash: PerceptualHash) -> Iterator[PerceptualHash]:
    """The hash of an image and, if it has one, that of its mirror image."""
    yield hash
    if hash.mirrored is not None:
        grid = math.isqrt(len(hash.colours))
        colours = hash.colours.reshape(grid, grid, 3)[:, ::-1].reshape(-1, 3)
        yield PerceptualHash(hash.mirrored, colours)


def _apart(
    hashes: Sequence[PerceptualHash],
    others: NDArray[np.intp],
    hash: PerceptualHash,
    threshold: Threshold,
) -> list[float]:
    """How far the colours of other images are from those of one, 0 to 255."""
    found: list[float] = []
    for start in range(0, len(others), _PAIRS_AT_ONCE):
        part = others[start : start + _PAIRS_AT_ONCE]
        colours = np.stack([hashes[one].colours for one in part]).astype(np.float32)
        colours -= hash.colours
        if threshold.ignores_tint:
            colours -= colours.mean(axis=1, keepdims=True)
        found += np.abs(colours).mean(axis=(1, 2)).tolist()
    return found
