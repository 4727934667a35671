"""An image as it arrived, and the one way from its bytes to pixels.

Quick images are decoded in the calling thread, others in a process that can be ended; the caller's
limits hold in both. It knows nothing of messages or of models.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from functools import cached_property
from typing import Final

import numpy as np
from numpy.typing import NDArray

from limelens.serve.errors import InvalidImageError
from limelens.serve.image.decoder_client import decode_apart
from limelens.serve.image.decoding import decode
from limelens.serve.image.fitting import Region, ResizeRule, fit
from limelens.serve.image.formats import inspect
from limelens.serve.image.limits import DEFAULT_LIMITS, DecodeLimits, Source

_MAX_QUICK_BYTES: Final = 2 * 1024 * 1024
"""Larger files are not even inspected in the calling thread."""


@dataclass(frozen=True, eq=False)
class EncodedImage:
    """An image that was sent and is not decoded yet.

    Args:
        place: Its field in the request, such as `images[2]`.
        encoded: The bytes of a file; empty where pixels were sent.
        region: The part to use; None is everything.
        is_message: Whether `place` is an `Image` message, whose field `encoded` has the bytes.
    """

    place: str
    encoded: bytes = field(repr=False)
    pixels: NDArray[np.uint8] | None = field(default=None, repr=False)
    region: Region | None = None
    limits: DecodeLimits = DEFAULT_LIMITS
    is_message: bool = True

    @property
    def size_bytes(self) -> int:
        """Bytes that it takes while it waits."""
        return len(self.encoded) + (0 if self.pixels is None else self.pixels.nbytes)

    @property
    def decoded_bytes(self) -> int:
        """Bytes that decoding takes in addition; the most that is allowed if that is unknown."""
        if self.pixels is not None:
            return 0
        match self._inspected:
            case Source() as source:
                return 3 * source.height * source.width
            case None:
                return 3 * self.limits.max_pixels
            case _:
                return 0

    @property
    def is_quick(self) -> bool:
        """Whether decoding or refusing it takes a few hundredths of a second at most."""
        return self.pixels is not None or self._inspected is not None

    def check(self) -> None:
        """Refuses at once what `read` would refuse before decoding.

        Raises:
            InvalidImageError: As `read`.
        """
        if self.pixels is None and isinstance(self._inspected, InvalidImageError):
            self._decoded(None)

    def read(self) -> NDArray[np.uint8]:
        """Decodes all of it: `(H, W, 3)` uint8, upright.

        Blocks on another process if the image is not quick.

        Raises:
            InvalidImageError: As `read_image`; names the field.
        """
        return self._decoded(None) if self.pixels is None else self.pixels

    def fitted(self, rule: ResizeRule) -> NDArray[np.uint8]:
        """Decodes its region as the network sees it: `(H, W, 3)` uint8 of the rule's size."""
        if self.pixels is not None:
            return fit(self.pixels, rule, self.region).pixels
        return self._decoded(rule)

    def _decoded(self, rule: ResizeRule | None) -> NDArray[np.uint8]:
        region = None if rule is None else self.region
        try:
            match self._inspected:
                case None:
                    return decode_apart(self.encoded, self.limits, rule, region)
                case Source() as source:
                    return decode(source, rule, region)
                case error:
                    raise error.at("")
        except InvalidImageError as error:
            raise error.at(f"{self.place}.encoded" if self.is_message else self.place) from error

    @cached_property
    def _inspected(self) -> Source | InvalidImageError | None:
        """The result of inspection, made once; None leaves the image to another process."""
        if len(self.encoded) > _MAX_QUICK_BYTES:
            return None
        try:
            source = inspect(self.encoded, self.limits)
        except InvalidImageError as error:
            return error.at("")
        return source if source.is_quick else None
