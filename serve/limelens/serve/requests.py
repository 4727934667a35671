"""Requests as they come in, checked field by field, as plain values.

It knows the messages, their limits and what unset means. It runs nothing: decoding is left to
whoever holds a `Picture`, in a thread of its choice.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any

import numpy as np
from numpy.typing import NDArray

from limelens.serve.bundle import Metadata
from limelens.serve.errors import InvalidImageError, InvalidRequestError
from limelens.serve.image import (
    MAX_PIXELS,
    Region,
    ResizeRule,
    fit,
    raw_image,
)
from limelens.serve.image.apart import quick_source, read_fitted_apart, read_image_apart
from limelens.serve.image.decoding import decoded, source_fitted
from limelens.serve.image.fitting import Pixels
from limelens.serve.image.inspecting import MAX_DECODE_S, Source
from limelens.v1 import classifier_service_pb2 as service_pb2
from limelens.v1 import image_pb2


@dataclass(frozen=True)
class Limits:
    """What one request may ask for.

    Args:
        max_images: Pictures in one request.
        max_pixels: Height times width of one picture.
        max_samples: Pictures that the model is shown for one explanation.
        max_decode_s: Seconds of CPU that decoding one image may take, beside what its bytes take.
    """

    max_images: int = 64
    max_pixels: int = MAX_PIXELS
    max_samples: int = 10_000
    max_decode_s: float = MAX_DECODE_S


@dataclass(frozen=True, eq=False)
class Picture:
    """A picture that was sent and is not decoded yet.

    Args:
        place: Where in the request it stands, such as `images[2]`.
        encoded: A file's bytes; empty where pixels were sent.
        pixels: `(H, W, 3)` uint8 where they were sent.
        region: The part that is looked at; None is all.
        max_pixels: Limit on height times width.
        max_decode_s: As in `Limits`.
        is_message: Whether `place` is an `Image` message, whose bytes are its field `encoded`.
    """

    place: str
    encoded: bytes = field(repr=False)
    pixels: NDArray[np.uint8] | None = field(repr=False)
    region: Region | None
    max_pixels: int
    max_decode_s: float = MAX_DECODE_S
    is_message: bool = True

    @property
    def size_bytes(self) -> int:
        """What it takes while it waits."""
        return len(self.encoded) + (0 if self.pixels is None else self.pixels.nbytes)

    @property
    def is_quick(self) -> bool:
        """Whether it is decoded, or refused, before anybody notices."""
        return self.pixels is not None or self._looked_at is not None

    def read(self) -> NDArray[np.uint8]:
        """The upright image, `(H, W, 3)` uint8; what is not quick is decoded by another process.

        Raises:
            InvalidImageError: As `read_image`, naming the field.
        """
        if self.pixels is not None:
            return self.pixels
        try:
            source = self._source()
            if source is None:
                return read_image_apart(self.encoded, **self._limits)
            return decoded(source, self.max_pixels, Pixels.array)
        except InvalidImageError as error:
            raise error.at(self._field) from error

    def fitted(self, rule: ResizeRule) -> NDArray[np.uint8]:
        """The part that is looked at as the network sees it; sooner than by way of `read`.

        Raises:
            InvalidImageError: As `read`.
        """
        if self.pixels is not None:
            return fit(self.pixels, rule, self.region).pixels
        try:
            source = self._source()
            if source is None:
                return read_fitted_apart(self.encoded, rule, self.region, **self._limits)
            return source_fitted(source, rule, self.region, self.max_pixels)
        except InvalidImageError as error:
            raise error.at(self._field) from error

    def _source(self) -> Source | None:
        """What is to be decoded in this thread; None where another process is to do it."""
        found = self._looked_at
        if isinstance(found, InvalidImageError):
            raise found.at("")
        return found

    @cached_property
    def _looked_at(self) -> Source | InvalidImageError | None:
        """What came of looking at the bytes, which is done once."""
        try:
            return quick_source(self.encoded, **self._limits)
        except InvalidImageError as error:
            return error.at("")

    @property
    def _limits(self) -> Mapping[str, Any]:
        return {"max_pixels": self.max_pixels, "max_decode_s": self.max_decode_s}

    @property
    def _field(self) -> str:
        return f"{self.place}.encoded" if self.is_message else self.place


@dataclass(frozen=True)
class Answering:
    """How predictions are to be put.

    Args:
        top_k: Scores for each picture; 0 means the default.
        threshold: In place of the model's own; None means the model's own.
        embed: Whether feature vectors are wanted.
    """

    top_k: int
    threshold: float | None
    embed: bool = False


def read_classify(
    request: service_pb2.ClassifyRequest, metadata: Metadata, limits: Limits
) -> tuple[list[Picture], Answering]:
    """The pictures and what is wanted of them.

    Raises:
        InvalidRequestError: A field is not within its limits.
    """
    _check_count(request.images, limits)
    answering = read_answering(request, metadata, embed=request.return_embedding)
    return _pictures(request.images, limits), answering


def read_embed(request: service_pb2.EmbedRequest, limits: Limits) -> list[Picture]:
    """The pictures whose feature vectors are wanted.

    Raises:
        InvalidRequestError: A field is not within its limits.
    """
    _check_count(request.images, limits)
    return _pictures(request.images, limits)


def read_answering(
    request: service_pb2.ClassifyRequest | service_pb2.StreamConfig,
    metadata: Metadata,
    prefix: str = "",
    *,
    embed: bool = False,
) -> Answering:
    """The wanted number of scores and the threshold.

    Raises:
        InvalidRequestError: A field is not within its limits.
    """
    num_labels = len(metadata.labels)
    if not 0 <= request.top_k <= num_labels:
        raise InvalidRequestError(
            f"{prefix}top_k",
            f"{request.top_k}; expected 1 to {num_labels}, the number of labels, or 0",
        )
    threshold = request.threshold if request.HasField("threshold") else None
    if threshold is not None and not 0 <= threshold <= 1:  # NaN fails too
        raise InvalidRequestError(f"{prefix}threshold", f"{threshold:g}; expected 0 to 1")
    return Answering(request.top_k, threshold, embed)


def read_picture(
    image: image_pb2.Image, name: str, limits: Limits, region: Region | None = None
) -> Picture:
    """One picture, not decoded.

    Args:
        image: The message.
        name: The field that it stands in.
        limits: Of the server.
        region: What is looked at where the picture names none itself.

    Raises:
        InvalidRequestError: Neither bytes nor pixels, pixels that do not fit their size, or an
            impossible region.
    """
    source = image.WhichOneof("source")
    if image.HasField("region_of_interest"):
        region = read_region(image.region_of_interest, f"{name}.region_of_interest")
    if source == "encoded":
        encoded = image.encoded
        if not encoded:
            raise InvalidImageError("no bytes; expected an encoded picture", f"{name}.encoded")
        return Picture(name, encoded, None, region, limits.max_pixels, limits.max_decode_s)
    if source == "raw":
        raw = image.raw
        try:
            pixels = raw_image(raw.data, raw.height, raw.width, max_pixels=limits.max_pixels)
        except InvalidImageError as error:
            raise error.at(f"{name}.raw") from error
        return Picture(name, b"", pixels, region, limits.max_pixels)
    raise InvalidRequestError(name, "no picture; expected `encoded` or `raw` to be set")


def read_region(region: image_pb2.RegionOfInterest, name: str) -> Region:
    """A region of interest.

    Raises:
        InvalidRequestError: It is empty or not within 0 to 1.
    """
    try:
        return Region(region.left, region.top, region.right, region.bottom)
    except InvalidRequestError as error:
        raise InvalidRequestError(name, error.description) from error


def _check_count(images: Sequence[image_pb2.Image], limits: Limits) -> None:
    if not 1 <= len(images) <= limits.max_images:
        raise InvalidRequestError(
            "images", f"{len(images)} pictures; expected 1 to {limits.max_images}"
        )


def _pictures(images: Sequence[image_pb2.Image], limits: Limits) -> list[Picture]:
    return [read_picture(image, f"images[{i}]", limits) for i, image in enumerate(images)]
