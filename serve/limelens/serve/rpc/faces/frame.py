"""An image that is decoded once, for the detector and for the classifier of its faces."""

from __future__ import annotations

import threading
from typing import Protocol

import numpy as np
from numpy.typing import NDArray

from limelens.serve.image import Region, ResizeRule, fit


class FrameImage(Protocol):
    """An image that a frame decodes, such as an `EncodedImage`."""

    @property
    def is_quick(self) -> bool:
        """Whether a worker thread may decode it: that takes no more than a moment."""
        ...

    @property
    def region(self) -> Region | None:
        """The part in which faces are looked for; asked for after `read`."""
        ...

    def read(self) -> NDArray[np.uint8]:
        """The upright pixels, `(H, W, 3)` uint8."""
        ...


class Frame:
    """A `PendingImage`: the part of an image in which faces are looked for.

    Whoever needs its pixels first decodes it, in a worker's thread; others wait for that.
    """

    def __init__(self, image: FrameImage) -> None:
        self._image = image
        self._lock = threading.Lock()
        self._pixels: NDArray[np.uint8] | None = None

    @property
    def is_quick(self) -> bool:
        """See `PendingImage`."""
        return self._pixels is not None or self._image.is_quick

    @property
    def region(self) -> Region | None:
        """The part in which faces are looked for; None is everything."""
        return self._image.region

    @property
    def size(self) -> tuple[int, int]:
        """Height and width of the upright image, in pixels; see `read`."""
        height, width = self.read().shape[:2]
        return height, width

    def read(self) -> NDArray[np.uint8]:
        """The upright pixels of the whole image, `(H, W, 3)` uint8; blocks where they are not yet.

        Raises:
            InvalidImageError: It cannot be decoded; the error names the field.
        """
        with self._lock:
            if self._pixels is None:
                self._pixels = self._image.read()
            return self._pixels

    def fitted(self, rule: ResizeRule) -> NDArray[np.uint8]:
        """See `PendingImage`."""
        return fit(self.read(), rule, self.region).pixels
