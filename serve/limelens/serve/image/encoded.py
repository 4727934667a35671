"""An image as it arrived, not decoded yet: the one way from bytes to pixels.

It knows how an image may be decoded within limits of pixels and CPU time, in this process or in one
that can be ended. It knows nothing of messages or of models.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any

import numpy as np
from numpy.typing import NDArray

from limelens.serve.errors import InvalidImageError
from limelens.serve.image.apart import quick_source, read_fitted_apart, read_image_apart
from limelens.serve.image.decoding import decoded, source_fitted
from limelens.serve.image.fitting import Pixels, Region, ResizeRule, fit
from limelens.serve.image.inspecting import MAX_DECODE_S, Source


@dataclass(frozen=True, eq=False)
class EncodedImage:
    """An image that was sent and is not decoded yet.

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
