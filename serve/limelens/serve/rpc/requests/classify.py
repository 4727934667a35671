"""Requests of `Classify` and `Embed`, checked field by field; also images and regions.

It knows the messages, their limits and the meaning of unset fields. Images are decoded later, in a
worker's thread.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from limelens.serve.bundle import Metadata
from limelens.serve.errors import InvalidImageError, InvalidRequestError
from limelens.serve.faces.options import FaceOptions
from limelens.serve.image import Region, raw_image
from limelens.serve.image.encoded import EncodedImage
from limelens.serve.rpc.requests.faces import read_faces
from limelens.serve.rpc.server_config import Limits
from limelens.v1 import classifier_service_pb2 as service_pb2
from limelens.v1 import image_pb2


@dataclass(frozen=True)
class ClassifyOptions:
    """What to return for each image.

    Args:
        top_k: How many scores; 0 is the default.
        threshold: Replaces the model's threshold; None keeps it.
        embed: Whether to return the feature vector.
        faces: Which faces to look for; None classifies whole images.
    """

    top_k: int
    threshold: float | None
    embed: bool = False
    faces: FaceOptions | None = None


def read_classify(
    request: service_pb2.ClassifyRequest, metadata: Metadata, limits: Limits
) -> tuple[list[EncodedImage], ClassifyOptions]:
    """The images, and what to return for them."""
    options = read_options(request, metadata, embed=request.return_embedding)
    if options.faces is not None and options.embed:
        raise InvalidRequestError(
            "return_embedding", "true together with faces; expected false: faces have no vectors"
        )
    return _read_images(request.images, limits), options


def read_embed(request: service_pb2.EmbedRequest, limits: Limits) -> list[EncodedImage]:
    """The images whose feature vectors are requested."""
    return _read_images(request.images, limits)


def read_options(
    request: service_pb2.ClassifyRequest | service_pb2.StreamConfig,
    metadata: Metadata,
    prefix: str = "",
    *,
    embed: bool = False,
) -> ClassifyOptions:
    """The number of scores, the threshold, and which faces to look for."""
    num_labels = len(metadata.labels)
    if not 0 <= request.top_k <= num_labels:
        raise InvalidRequestError(
            f"{prefix}top_k",
            f"{request.top_k}; expected 1 to {num_labels}, the number of labels, or 0",
        )
    threshold = request.threshold if request.HasField("threshold") else None
    if threshold is not None and not 0 <= threshold <= 1:  # NaN fails too
        raise InvalidRequestError(f"{prefix}threshold", f"{threshold:g}; expected 0 to 1")
    faces = None
    if request.HasField("faces"):
        is_stream = isinstance(request, service_pb2.StreamConfig)
        faces = read_faces(request.faces, f"{prefix}faces", is_stream=is_stream)
    return ClassifyOptions(request.top_k, threshold, embed, faces)


def read_image(
    image: image_pb2.Image, name: str, limits: Limits, region: Region | None = None
) -> EncodedImage:
    """One image, not decoded yet, with a region of interest for images that name none."""
    source = image.WhichOneof("source")
    if image.HasField("region_of_interest"):
        region = read_region(image.region_of_interest, f"{name}.region_of_interest")
    if source == "encoded":
        encoded = image.encoded
        if not encoded:
            raise InvalidImageError("no bytes; expected an encoded image", f"{name}.encoded")
        return EncodedImage(name, encoded, None, region, limits.decoding)
    if source == "raw":
        raw = image.raw
        try:
            pixels = raw_image(raw.data, raw.height, raw.width, max_pixels=limits.max_pixels)
        except InvalidImageError as error:
            raise error.at(f"{name}.raw") from error
        return EncodedImage(name, b"", pixels, region)
    raise InvalidRequestError(name, "no image; expected `encoded` or `raw` to be set")


def read_region(region: image_pb2.RegionOfInterest, name: str) -> Region:
    """A region of interest."""
    try:
        return Region(region.left, region.top, region.right, region.bottom)
    except InvalidRequestError as error:
        raise InvalidRequestError(name, error.description) from error


def _read_images(images: Sequence[image_pb2.Image], limits: Limits) -> list[EncodedImage]:
    if not 1 <= len(images) <= limits.max_images:
        raise InvalidRequestError(
            "images", f"{len(images)} images; expected 1 to {limits.max_images}"
        )
    return [read_image(image, f"images[{i}]", limits) for i, image in enumerate(images)]
