"""Finds images that are cut out of others: their sides were cut away, and they were saved anew.

The hashes of `data.near_duplicates` do not survive that. So a grid of rectangles of each image is
compared with all whole images, coarsely, by the nearest neighbours of their colours. What comes
near is then laid over its image (Lucas and Kanade 1981, with a place and a scale for each axis),
and counts if they agree everywhere: different bottles agree in their outlines, not in their labels.
Knows thumbnails; does not know files, labels or splits.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Iterator
from dataclasses import dataclass, replace
from typing import Any, Final, NamedTuple

import numpy as np
from numpy.typing import NDArray
from PIL import Image

_SIDE: Final = 48
_COARSE_SIDE: Final = 24
_GREY: Final = np.array([0.299, 0.587, 0.114], np.float32)

_KEPT: Final = (1.0, 0.94, 0.88, 0.82, 0.76)
"""Shares of a side that the rectangles keep; what lies between them still comes near."""
_NUM_FIELDS: Final = 8
_NUM_COMPONENTS: Final = 32
_NUM_NEIGHBOURS: Final = 3
_MAX_DISTANCE: Final = 0.06
_MAX_WHOLES: Final = 5
_MAX_FLAT_INDEX: Final = 1000
_IMAGES_AT_ONCE: Final = 16

_MAX_AREA: Final = 0.95
"""With more of the area left an image is no crop: hashes find it."""
_MIN_CORRELATION: Final = 0.965
_MIN_AGREEMENT: Final = 0.98
_MIN_TILE_AGREEMENT: Final = 0.9
_TILE: Final = 8
_NUM_TILES: Final = 4
_NOISE: Final = 16.0
"""The mean square that JPEG may change, of 255²."""
_PAIRS_AT_ONCE: Final = 256


class Crop(NamedTuple):
    """An image that is cut out of another: indices, and how well they agree, up to 1."""

    whole: int
    part: int
    agreement: float


@dataclass(frozen=True, eq=False)
class _Pairs:
    """Pairs to compare: `(K,)` indices, and `(K, 2, 2)` where the part is in the whole.

    A region is top and bottom, then left and right, as shares of the height and the width.
    """

    wholes: NDArray[np.int64]
    parts: NDArray[np.int64]
    regions: NDArray[np.float32]

    def __len__(self) -> int:
        return len(self.wholes)

    def __getitem__(self, rows: NDArray[np.bool_] | slice) -> _Pairs:
        return _Pairs(self.wholes[rows], self.parts[rows], self.regions[rows])

    def chunks(self) -> Iterator[_Pairs]:
        for start in range(0, len(self), _PAIRS_AT_ONCE):
            yield self[start : start + _PAIRS_AT_ONCE]

    @property
    def areas(self) -> NDArray[np.float32]:
        spans = self.regions[..., 1] - self.regions[..., 0]
        return spans[:, 0] * spans[:, 1]


def thumbnail(pixels: NDArray[np.uint8]) -> NDArray[np.uint8]:
    """The image as `find_crops` compares it: `(48, 48, 3)`, whatever its shape."""
    return np.asarray(Image.fromarray(pixels).resize((_SIDE, _SIDE), Image.Resampling.BOX))


def find_crops(thumbnails: NDArray[np.uint8]) -> list[Crop]:
    """Pairs of images of which one is cut out of the other.

    It finds those that keep at least three quarters of both sides, wherever these were cut, also if
    they were then scaled or stretched; not those that were mirrored too.

    Args:
        thumbnails: `(N, 48, 48, 3)`, as `thumbnail` gives them.

    Returns:
        Those that agree best first. An image may be part of several others.
    """
    if len(thumbnails) < 2:
        return []
    coarse = _resampled(thumbnails, _COARSE_SIDE).round().astype(np.uint8)
    found: list[Crop] = []
    for chunk in _candidates(coarse).chunks():
        pairs = _aligned(coarse, chunk, _COARSE_SIDE // 2, num_steps=5)
        correlations = _correlations(coarse, pairs, _COARSE_SIDE // 2)
        pairs = pairs[(correlations >= _MIN_CORRELATION) & (pairs.areas < _MAX_AREA)]
        pairs = _aligned(thumbnails, pairs, _TILE * _NUM_TILES, num_steps=4)
        agreements = _agreements(thumbnails, pairs)
        is_crop = (agreements >= _MIN_AGREEMENT) & (pairs.areas < _MAX_AREA)
        pairs, agreements = pairs[is_crop], agreements[is_crop]
        found += map(Crop, pairs.wholes.tolist(), pairs.parts.tolist(), agreements.tolist())
    return sorted(found, key=lambda crop: -crop.agreement)


def _candidates(images: NDArray[np.uint8]) -> _Pairs:
    """For each image up to five others with a rectangle whose colours are near to all of it."""
    # Imported here: nothing else of training needs it.
    import faiss

    spans = np.array(
        [
            (start, start + kept)
            for number, kept in enumerate(_KEPT)
            for start in np.linspace(0, 1 - kept, number + 1)
        ],
        dtype=np.float32,
    )
    side, num_spans = images.shape[1], len(spans)
    weights = _weights(spans, _NUM_FIELDS, side).reshape(-1, side)
    wholes = _unit(_resampled(images, _NUM_FIELDS)).reshape(len(images), -1)
    _, axes = np.linalg.eigh(np.cov(wholes.T))
    main = axes[:, : -_NUM_COMPONENTS - 1 : -1].astype(np.float32)
    index = _index(faiss, np.ascontiguousarray(wholes @ main))

    best: dict[tuple[int, int], tuple[float, int]] = {}
    for first in range(0, len(images), _IMAGES_AT_ONCE):
        planes = images[first : first + _IMAGES_AT_ONCE].astype(np.float32).transpose(0, 3, 1, 2)
        fields = (weights @ planes @ weights.T).reshape(
            -1, 3, num_spans, _NUM_FIELDS, num_spans, _NUM_FIELDS
        )
        rectangles = fields.transpose(0, 2, 4, 3, 5, 1).reshape(-1, _NUM_FIELDS, _NUM_FIELDS, 3)
        vectors = (
            _unit(rectangles.astype(np.float32, copy=False)).reshape(len(rectangles), -1) @ main
        )
        distances, neighbours = index.search(vectors, min(_NUM_NEIGHBOURS, len(images)))
        owners = first + np.arange(len(vectors)) // num_spans**2
        near = (distances < _MAX_DISTANCE) & (neighbours != owners[:, np.newaxis])
        for row, column in zip(*np.nonzero(near), strict=True):
            pair = int(neighbours[row, column]), int(owners[row])
            this = float(distances[row, column]), int(row % num_spans**2)
            best[pair] = min(this, best.get(pair, this))
    chosen = [
        (whole, part, best[part, whole][1])
        for _, of_part in itertools.groupby(sorted(best), key=lambda pair: pair[0])
        for part, whole in sorted(of_part, key=lambda pair: best[pair])[:_MAX_WHOLES]
    ]
    table = np.array(chosen, dtype=np.int64).reshape(-1, 3)
    rows, columns = np.divmod(table[:, 2], num_spans)
    return _Pairs(table[:, 0], table[:, 1], np.stack([spans[rows], spans[columns]], axis=1))


def _index(faiss: Any, vectors: NDArray[np.float32]) -> Any:
    """The index of some vectors; where they are many it searches only the cells near a query."""
    index = faiss.IndexFlatL2(vectors.shape[1])
    if len(vectors) > _MAX_FLAT_INDEX:
        num_cells = 2 * math.isqrt(len(vectors))
        index = faiss.IndexIVFFlat(index, vectors.shape[1], num_cells)
        index.cp.min_points_per_centroid = 1
        index.nprobe = 4
        index.train(vectors)
    index.add(vectors)
    return index


def _aligned(images: NDArray[np.uint8], pairs: _Pairs, side: int, num_steps: int) -> _Pairs:
    """Moves the edges of each region to where it agrees best with the part, in grey.

    Gauss-Newton on the difference of `side` by `side` fields.
    """
    wholes = images[pairs.wholes] @ _GREY
    parts = _unit(_resampled(images[pairs.parts], side) @ _GREY)
    slopes = np.gradient(wholes, axis=(1, 2))
    # A field moves by this share of what the upper or left edge moves, and with the other edge by
    # the rest.
    share = 1 - (np.arange(side, dtype=np.float32) + 0.5) / side
    regions = pairs.regions
    for _ in range(num_steps):
        rows, columns = _region_weights(regions, side, images.shape[1])
        inside, down, across = (rows @ one @ columns for one in (wholes, *slopes))
        length = _lengths(inside)
        edges = (
            down * share[:, np.newaxis],
            down * (1 - share)[:, np.newaxis],
            across * share,
            across * (1 - share),
        )
        jacobian = np.stack([_centred(one) / length for one in edges], axis=-1)
        jacobian = images.shape[1] * jacobian.reshape(len(pairs), side**2, 4)
        residual = (parts - _centred(inside) / length).reshape(len(pairs), side**2, 1)
        transposed = jacobian.transpose(0, 2, 1)
        squares = transposed @ jacobian
        damping = 1e-3 * np.trace(squares, axis1=1, axis2=2) / 4 + 1e-9
        squares += damping[:, np.newaxis, np.newaxis] * np.eye(4, dtype=np.float32)
        step = np.linalg.solve(squares, transposed @ residual).reshape(len(pairs), 2, 2)
        regions = np.clip(regions + np.clip(step, -0.04, 0.04), -0.02, 1.02)
    return replace(pairs, regions=regions)


def _correlations(images: NDArray[np.uint8], pairs: _Pairs, side: int) -> NDArray[np.float32]:
    """Of each region with its part, in grey, `(K,)`."""
    rows, columns = _region_weights(pairs.regions, side, images.shape[1])
    inside = _unit(rows @ (images[pairs.wholes] @ _GREY) @ columns)
    parts = _unit(_resampled(images[pairs.parts], side) @ _GREY)
    found: NDArray[np.float32] = (inside * parts).sum(axis=(1, 2))
    return found


def _agreements(images: NDArray[np.uint8], pairs: _Pairs) -> NDArray[np.float32]:
    """The share of what is to be seen that each region has in common with its part, `(K,)`.

    0 if it is not in nearly all tiles.
    """
    side = _TILE * _NUM_TILES
    rows, columns = _region_weights(pairs.regions, side, images.shape[1])
    planes = images[pairs.wholes].astype(np.float32).transpose(0, 3, 1, 2)
    inside = rows[:, np.newaxis] @ planes @ columns[:, np.newaxis]

    def tiles(fields: NDArray[Any]) -> NDArray[np.float32]:
        cut = fields.reshape(-1, _NUM_TILES, _TILE, _NUM_TILES, _TILE, 3)
        # Each tile less its mean colour: exposure may differ.
        return _centred(cut.transpose(0, 1, 3, 2, 4, 5).reshape(-1, _TILE, _TILE, 3))

    first, second = (
        tiles(inside.transpose(0, 2, 3, 1)),
        tiles(_resampled(images[pairs.parts], side)),
    )

    def energy(fields: NDArray[np.float32]) -> NDArray[np.float32]:
        found: NDArray[np.float32] = (fields**2).mean(axis=(1, 2, 3))
        return found.reshape(len(pairs), _NUM_TILES**2)

    apart = np.maximum(energy(first - second) - _NOISE, 0)
    total = energy(first) + energy(second) + 1
    # The worst tile is not counted: a watermark or a text may have been put there.
    by_tile = np.sort(1 - apart / total, axis=1)[:, 1]
    overall: NDArray[np.float32] = 1 - apart.sum(axis=1) / total.sum(axis=1)
    overall[by_tile < _MIN_TILE_AGREEMENT] = 0
    return overall


def _weights(spans: NDArray[np.float32], num: int, side: int) -> NDArray[np.float32]:
    """What each pixel along a side counts in each of `num` fields of a span, `(..., num, side)`."""
    start, end = spans[..., :1], spans[..., 1:]
    edges = side * np.clip(start + (end - start) * np.linspace(0, 1, num + 1), 0, 1)
    pixels = np.arange(side)
    upper, lower = edges[..., 1:, np.newaxis], edges[..., :-1, np.newaxis]
    overlap = np.clip(np.minimum(upper, pixels + 1) - np.maximum(lower, pixels), 0, 1)
    weights = overlap / np.maximum(overlap.sum(axis=-1, keepdims=True), 1e-6)
    return np.asarray(weights, dtype=np.float32)


def _region_weights(
    regions: NDArray[np.float32], num: int, side: int
) -> tuple[NDArray[np.float32], NDArray[np.float32]]:
    """Matrices whose products with an image, from left and right, are the fields of its region."""
    return (
        _weights(regions[:, 0], num, side),
        _weights(regions[:, 1], num, side).transpose(0, 2, 1),
    )


def _resampled(images: NDArray[np.uint8], num: int) -> NDArray[np.float32]:
    """Mean colours of `num` by `num` fields, `(N, num, num, 3)`."""
    weights = _weights(np.array([0, 1], np.float32), num, images.shape[1])
    found = np.empty((len(images), num, num, 3), np.float32)
    for start in range(0, len(images), _PAIRS_AT_ONCE):
        some = images[start : start + _PAIRS_AT_ONCE].astype(np.float32).transpose(0, 3, 1, 2)
        found[start : start + len(some)] = (weights @ some @ weights.T).transpose(0, 2, 3, 1)
    return found


def _centred(fields: NDArray[np.float32]) -> NDArray[np.float32]:
    """Less the mean over rows and columns, of each channel."""
    centred: NDArray[np.float32] = fields - fields.mean(axis=(1, 2), keepdims=True)
    return centred


def _lengths(fields: NDArray[np.float32]) -> NDArray[np.float32]:
    """The length of each image as a vector, once it is centred; it divides such fields."""
    centred = _centred(fields)
    squares = np.square(centred).sum(axis=tuple(range(1, centred.ndim)), keepdims=True)
    lengths: NDArray[np.float32] = np.sqrt(squares) + np.float32(1e-3)
    return lengths


def _unit(fields: NDArray[np.float32]) -> NDArray[np.float32]:
    return _centred(fields) / _lengths(fields)
