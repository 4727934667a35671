"""Golden images: labelled examples that travel in a bundle, to judge its successor by.

They are images of their own, at about the size of the bundle's input but in the proportions in
which they were taken, so that a version that resizes in another way is judged fairly. This module
knows how they are written in the metadata and what a file may ask of its reader; it runs no model.
"""

from __future__ import annotations

import base64
import io
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from limelens.serve.errors import BundleError, InvalidImageError
from limelens.serve.image import DecodeLimits, ResizeRule, read_fitted, shrink
from limelens.serve.image.formats import inspect

MAX_GOLDEN_IMAGES: Final = 256
MAX_GOLDEN_BYTES: Final = 16 * 1024 * 1024
"""Of all golden images of a bundle together, encoded."""
_LIMITS: Final = DecodeLimits(max_pixels=4_000_000)
_MAX_RATIO: Final = 3
"""Of a golden image's longer side to the input's."""
_QUALITY: Final = 85


@dataclass(frozen=True)
class GoldenImage:
    """An image and what is on it.

    Args:
        labels: Exactly one of a multiclass bundle; any number, none too, of a multilabel bundle.
        encoded: The bytes of an image file.
    """

    labels: tuple[str, ...]
    encoded: bytes = field(repr=False)

    def fitted(self, rule: ResizeRule) -> NDArray[np.uint8]:
        """The image as a bundle sees it: `(H, W, 3)` uint8 of the rule's size.

        Raises:
            BundleError: It cannot be decoded.
        """
        try:
            return read_fitted(self.encoded, rule, limits=_LIMITS)
        except InvalidImageError as error:
            raise BundleError(f"a golden image cannot be read: {error}") from error


def encode_golden(pixels: NDArray[np.uint8], rule: ResizeRule) -> bytes:
    """Encodes pixels as a golden image: a JPEG that is hardly larger than the input of a bundle.

    The shorter side becomes the longer one of the input; nothing is cut off or enlarged.

    Args:
        pixels: `(H, W, 3)` uint8, upright RGB.
        rule: The bundle's; its mode does not matter.
    """
    height, width = pixels.shape[:2]
    side = max(rule.height, rule.width)
    scale = min(1.0, side / min(height, width), _MAX_RATIO * side / max(height, width))
    if scale < 1:
        pixels = shrink(pixels, max(1, round(height * scale)), max(1, round(width * scale)))
    file = io.BytesIO()
    Image.fromarray(pixels).save(file, "JPEG", quality=_QUALITY)
    return file.getvalue()


def golden_images_to_json(images: Sequence[GoldenImage]) -> list[dict[str, Any]]:
    """What the metadata hold."""
    return [
        {
            "labels": list(image.labels),
            "image": base64.b64encode(image.encoded).decode("ascii"),
        }
        for image in images
    ]


def golden_images_from_json(found: Any) -> tuple[GoldenImage, ...]:
    """Reads what `golden_images_to_json` wrote; `check_golden_images` is still to come.

    Raises:
        BundleError: It is no list of images with labels, or too long a list.
    """
    if not isinstance(found, list) or not all(isinstance(one, Mapping) for one in found):
        raise BundleError("golden_images is no list of images; expected labels and bytes of each")
    if len(found) > MAX_GOLDEN_IMAGES:
        raise BundleError(f"{len(found):,} golden images; expected at most {MAX_GOLDEN_IMAGES}")
    images = []
    for one in found:
        labels, text = one.get("labels"), one.get("image")
        if not isinstance(labels, list) or not all(isinstance(label, str) for label in labels):
            raise BundleError(f"labels {labels!r} of a golden image; expected a list of texts")
        try:
            images.append(GoldenImage(tuple(labels), base64.b64decode(text, validate=True)))
        except (TypeError, ValueError):
            raise BundleError("a golden image has no bytes; expected them in base 64") from None
    return tuple(images)


def check_golden_images(
    images: Sequence[GoldenImage], labels: Collection[str], *, is_multilabel: bool
) -> None:
    """Checks golden images against a bundle's labels, and the headers of their files.

    Pixels are decoded only when a version is judged, or explained by them.

    Raises:
        BundleError: Too many images or bytes, labels that the bundle lacks or repeats, or bytes
            that are no image of at most 4 million pixels.
    """
    if len(images) > MAX_GOLDEN_IMAGES:
        raise BundleError(f"{len(images):,} golden images; expected at most {MAX_GOLDEN_IMAGES}")
    size_bytes = sum(len(image.encoded) for image in images)
    if size_bytes > MAX_GOLDEN_BYTES:
        raise BundleError(
            f"golden images of {size_bytes:,} bytes; expected at most {MAX_GOLDEN_BYTES:,}"
        )
    for index, image in enumerate(images):
        names = set(image.labels)
        is_right_number = is_multilabel or len(image.labels) == 1
        if not names <= set(labels) or len(names) < len(image.labels) or not is_right_number:
            expected = "any" if is_multilabel else "one"
            raise BundleError(
                f"golden image {index} has the labels {image.labels}; expected {expected} of "
                f"{tuple(labels)}"
            )
        try:
            inspect(image.encoded, _LIMITS)
        except InvalidImageError as error:
            raise BundleError(f"golden image {index}: {error}") from error
