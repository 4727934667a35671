"""Requests as they come in, checked field by field, as plain values.

It knows the messages, their limits and what unset means. It runs nothing: decoding is left to
whoever holds a `Picture`, in a thread of its choice.
"""

from __future__ import annotations

import io
import math
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any, Final, Literal

import numpy as np
from numpy.typing import NDArray
from PIL import Image as PillowImage
from PIL import UnidentifiedImageError

from limelens.serve.bundle import Metadata
from limelens.serve.errors import InvalidImageError, InvalidRequestError
from limelens.serve.image import (
    MAX_PIXELS,
    UNSEEN,
    Region,
    ResizeRule,
    fit,
    raw_image,
    read_fitted,
    read_image,
)
from limelens.v1 import classifier_service_pb2 as service_pb2
from limelens.v1 import explanation_pb2, image_pb2

MIN_SAMPLES: Final = 10
MAX_SEGMENTS: Final = 1000
"""More segments of a picture are not explained, whoever cut it."""
_MAX_SELECTED: Final = 1000
_MAX_CONTRASTS: Final = 100
_MAX_STREAM_SEGMENTS: Final = 1024 * 1024
_DEFAULT_SEGMENTS: Final = 40
_DEFAULT_SAMPLES: Final = 1000
_MAX_LABEL_LENGTH: Final = 100


@dataclass(frozen=True)
class Limits:
    """What one request may ask for.

    Args:
        max_images: Pictures in one request.
        max_pixels: Height times width of one picture.
        max_samples: Pictures that the model is shown for one explanation.
    """

    max_images: int = 64
    max_pixels: int = MAX_PIXELS
    max_samples: int = 10_000


@dataclass(frozen=True, eq=False)
class Picture:
    """A picture that was sent and is not decoded yet.

    Args:
        place: Where in the request it stands, such as `images[2]`.
        encoded: A file's bytes; empty where pixels were sent.
        pixels: `(H, W, 3)` uint8 where they were sent.
        region: The part that is looked at; None is all.
        max_pixels: Limit on height times width.
    """

    place: str
    encoded: bytes = field(repr=False)
    pixels: NDArray[np.uint8] | None = field(repr=False)
    region: Region | None
    max_pixels: int

    @property
    def size_bytes(self) -> int:
        """What it takes while it waits."""
        return len(self.encoded) + (0 if self.pixels is None else self.pixels.nbytes)

    def read(self) -> NDArray[np.uint8]:
        """The upright picture, `(H, W, 3)` uint8.

        Raises:
            InvalidImageError: As `read_image`, naming the field.
        """
        if self.pixels is not None:
            return self.pixels
        try:
            return read_image(self.encoded, max_pixels=self.max_pixels)
        except InvalidImageError as error:
            raise error.at(f"{self.place}.encoded") from error

    def fitted(self, rule: ResizeRule) -> NDArray[np.uint8]:
        """The part that is looked at as the network sees it; sooner than by way of `read`.

        Raises:
            InvalidImageError: As `read`.
        """
        if self.pixels is not None:
            return fit(self.pixels, rule, self.region).pixels
        try:
            return read_fitted(self.encoded, rule, self.region, max_pixels=self.max_pixels)
        except InvalidImageError as error:
            raise error.at(f"{self.place}.encoded") from error


_NO_PICTURE: Final = Picture("", b"", None, None, 0)


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


@dataclass(frozen=True)
class StreamSettings:
    """What holds for all frames of a camera.

    Args:
        camera_id: The camera's name.
        answering: How predictions are to be put.
        region: The part of every frame that is looked at; None is all.
        window: Frames that smoothing looks back on.
        required: How many of them must agree.
        max_age_s: Older frames are dropped; None is no limit.
        required_to_alert: How many must agree on a label that somebody must be told of.
        max_decision_age_s: A decision becomes unknown once no frame was classified for so long;
            None is no limit.
        explaining: How changes are explained; None is not.
    """

    camera_id: str
    answering: Answering
    region: Region | None
    window: int
    required: int
    max_age_s: float | None
    required_to_alert: int
    max_decision_age_s: float | None
    explaining: service_pb2.ExplainOnChange | None


@dataclass(frozen=True, eq=False)
class Question:
    """What is to be explained, and how.

    Args:
        picture: What is explained.
        options: Arguments of `limelens.explain.explain`, without picture, model and deadline.
        contrasts: Pairs of labels: why the first and not the second. They come after what is
            explained by itself.
        only_contrasts: Whether nothing is explained by itself: the labels in `options` are those
            of the contrasts.
        segments_png: The caller's own segments; empty where a method finds them.
        overlay: Whether overlays are wanted.
        heat_map: Whether heat maps are wanted.
        segments: Whether the segments are wanted.
        palette: The colours of what is drawn, as `limelens.explain` names them.
        deadline_ms: After so long from arrival nothing more begins; None is no limit.
        arrived_at: By `time.monotonic`.
    """

    picture: Picture
    options: Mapping[str, Any]
    contrasts: tuple[tuple[int, int], ...]
    only_contrasts: bool
    segments_png: bytes = field(repr=False)
    overlay: bool
    heat_map: bool
    segments: bool
    palette: Literal["green-red", "blue-orange"]
    deadline_ms: int | None
    arrived_at: float


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
        return Picture(name, encoded, None, region, limits.max_pixels)
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


def read_stream_config(
    config: service_pb2.StreamConfig, metadata: Metadata, limits: Limits
) -> StreamSettings:
    """A camera's configuration.

    Raises:
        InvalidRequestError: A field is not within its limits.
    """
    if not 1 <= len(config.camera_id) <= 128:
        raise InvalidRequestError(
            "config.camera_id", f"{len(config.camera_id)} characters; expected 1 to 128"
        )
    for name in ("max_frame_age_ms", "max_decision_age_ms"):
        if getattr(config, name) < 0:
            raise InvalidRequestError(
                f"config.{name}", f"{getattr(config, name)}; expected 0 or more"
            )
    region = None
    if config.HasField("region_of_interest"):
        region = read_region(config.region_of_interest, "config.region_of_interest")
    window = required = required_to_alert = 1
    if config.HasField("smoothing"):
        window, required = config.smoothing.window, config.smoothing.required
        if not 1 <= window <= 1000:
            raise InvalidRequestError(
                "config.smoothing.window", f"{window}; expected 1 to 1000 frames"
            )
        if not window < 2 * required <= 2 * window:
            raise InvalidRequestError(
                "config.smoothing.required",
                f"{required} of {window} frames; expected {window // 2 + 1} to {window}",
            )
        required_to_alert = config.smoothing.required_to_alert or required
        if not 1 <= required_to_alert <= required:
            raise InvalidRequestError(
                "config.smoothing.required_to_alert",
                f"{required_to_alert} frames; expected 1 to {required}, or 0 for {required}",
            )
    explaining = None
    if config.HasField("explain_on_change"):
        explaining = config.explain_on_change
        # Only to find now what is wrong with it.
        read_change(explaining, metadata, limits, _NO_PICTURE, metadata.labels[0])
    return StreamSettings(
        camera_id=config.camera_id,
        answering=read_answering(config, metadata, "config."),
        region=region,
        window=window,
        required=required,
        max_age_s=config.max_frame_age_ms / 1000 or None,
        required_to_alert=required_to_alert,
        max_decision_age_s=config.max_decision_age_ms / 1000 or None,
        explaining=explaining,
    )


def read_change(
    explaining: service_pb2.ExplainOnChange,
    metadata: Metadata,
    limits: Limits,
    picture: Picture,
    label: str,
) -> Question:
    """How a change of a camera's decision is to be explained.

    Args:
        explaining: What the configuration says.
        metadata: Of the model that brought the change.
        limits: Of the server.
        picture: The frame that brought it.
        label: What it changed to.

    Raises:
        InvalidRequestError: A field is not within its limits.
    """
    place, options = "config.explain_on_change.options", explaining.options
    num_bytes = len(options.segmentation.segments_png)
    if num_bytes > _MAX_STREAM_SEGMENTS:
        raise InvalidRequestError(
            f"{place}.segmentation.segments_png",
            f"{num_bytes:,} bytes, which are held as long as the stream; expected at most "
            f"{_MAX_STREAM_SEGMENTS:,}",
        )
    for given, _ in options.ListFields():
        if given.name in ("model", "version", "image"):
            raise InvalidRequestError(
                f"{place}.{given.name}", "set; expected it to be unset: it is the stream's own"
            )
    try:
        question = _question(options, metadata, limits, picture)
    except InvalidRequestError as error:
        raise InvalidRequestError(f"{place}.{error.field}", error.description) from error
    if options.labels or options.top_labels or options.contrasts:
        return question
    own = {"labels": [metadata.labels.index(label)], "top_labels": None}
    return replace(question, options={**question.options, **own})


def read_explain(
    request: service_pb2.ExplainRequest, metadata: Metadata, limits: Limits
) -> Question:
    """What is to be explained, and how.

    Raises:
        InvalidRequestError: A field is not within its limits.
    """
    if not request.HasField("image"):
        raise InvalidRequestError("image", "not set; expected a picture")
    return _question(request, metadata, limits, read_picture(request.image, "image", limits))


def _question(
    request: service_pb2.ExplainRequest, metadata: Metadata, limits: Limits, picture: Picture
) -> Question:
    arrived_at = time.monotonic()
    method = _known(explanation_pb2.ExplainMethod, request.method, "method")
    num_samples = _num_samples(request, limits)
    if request.num_features < 0:
        raise InvalidRequestError("num_features", f"{request.num_features}; expected 0 or more")
    if request.deadline_ms < 0:
        raise InvalidRequestError("deadline_ms", f"{request.deadline_ms}; expected 0 or more")
    contrasts = _contrasts(request.contrasts, metadata)
    only_contrasts = bool(contrasts) and not request.labels and not request.top_labels
    labels, top_labels = _labels(request, metadata)
    if only_contrasts:
        labels, top_labels = (
            list(dict.fromkeys(label for pair in contrasts for label in pair)),
            None,
        )
    compat = _known(explanation_pb2.Compat, request.compat, "compat")
    options: dict[str, Any] = {
        "labels": labels,
        "top_labels": top_labels,
        "num_samples": num_samples,
        "num_features": request.num_features or None,
        "seed": request.seed if request.HasField("seed") else None,
        "compat": "lime" if compat == "lime" else None,
        "hide": _hide(request.hide),
        **_segmentation(request.segmentation, is_lime=compat == "lime"),
    }
    for name, kind, value in (
        ("distance", explanation_pb2.Distance, request.distance),
        ("feature_selection", explanation_pb2.FeatureSelection, request.feature_selection),
        ("sampling", explanation_pb2.Sampling, request.sampling),
    ):
        chosen = _known(kind, value, name)
        if chosen:
            options[name] = chosen
    if method not in (None, "lime"):
        options["method"] = method
    # To ask for few segments is to ask for a selection.
    if request.num_features and options.setdefault("feature_selection", "auto") == "none":
        raise InvalidRequestError(
            "num_features",
            f"{request.num_features} with feature_selection NONE, which takes all; "
            "expected 0, or a selection",
        )
    num_labels = len(labels or ()) or top_labels or 1
    if (
        options.get("feature_selection") == "forward_selection"
        and request.num_features * num_labels > _MAX_SELECTED
    ):
        raise InvalidRequestError(
            "num_features",
            f"{request.num_features} to be selected one after the other for each label, of which "
            f"there are {num_labels}; expected at most {_MAX_SELECTED} together, or 0 for all",
        )
    if request.HasField("kernel_width"):
        options["kernel_width"] = _number("kernel_width", request.kernel_width, over=0, most=1e6)
    if request.HasField("stability"):
        options["stability"] = _number("stability", request.stability, over=0, most=1)
        options["max_samples"] = num_samples
        options["num_samples"] = min(num_samples, MIN_SAMPLES)
    pictures = {
        _known(explanation_pb2.Picture, value, f"pictures[{i}]", may_be_unset=False)
        for i, value in enumerate(request.pictures)
    }
    return Question(
        picture=picture,
        options=options,
        contrasts=contrasts,
        only_contrasts=only_contrasts,
        segments_png=request.segmentation.segments_png,
        overlay="overlay" in pictures,
        heat_map="heat_map" in pictures,
        segments="segments" in pictures,
        palette=_PALETTES[_known(explanation_pb2.Palette, request.palette, "palette")],
        deadline_ms=request.deadline_ms or None,
        arrived_at=arrived_at,
    )


def read_segments(data: bytes, size: tuple[int, int], max_pixels: int) -> NDArray[np.uint16]:
    """The caller's own segments.

    Args:
        data: A greyscale PNG of 8 or 16 bits.
        size: Height and width of the upright picture.
        max_pixels: Limit on height times width.

    Returns:
        `size` ids.

    Raises:
        InvalidRequestError: Not such a picture, one of another size, or of too many segments.
    """
    name = "segmentation.segments_png"
    height, width = size
    try:
        with PillowImage.open(io.BytesIO(data), formats=["PNG"]) as image:
            found = image.height, image.width
            if found != size:
                raise InvalidRequestError(
                    name, f"{found[0]}x{found[1]}; the upright picture is {height}x{width}"
                )
            if height * width > max_pixels or image.mode not in ("I;16", "L"):
                raise InvalidRequestError(
                    name, f"mode {image.mode}; expected a 16-bit greyscale PNG"
                )
            ids = np.asarray(image).astype(np.uint16)
            count = np.count_nonzero(np.bincount(ids.ravel(), minlength=UNSEEN)[:UNSEEN])
            if count > MAX_SEGMENTS:
                raise InvalidRequestError(
                    name, f"{count} different ids; expected at most {MAX_SEGMENTS}"
                )
            return ids
    except InvalidRequestError:
        raise
    except UnidentifiedImageError as error:
        raise InvalidRequestError(name, "no PNG; expected a 16-bit greyscale PNG") from error
    # A decoder may raise almost anything on broken bytes.
    except Exception as error:
        raise InvalidRequestError(
            name, f"no PNG that can be read: {error}; expected a 16-bit greyscale PNG"
        ) from error


def _check_count(images: Sequence[image_pb2.Image], limits: Limits) -> None:
    if not 1 <= len(images) <= limits.max_images:
        raise InvalidRequestError(
            "images", f"{len(images)} pictures; expected 1 to {limits.max_images}"
        )


def _pictures(images: Sequence[image_pb2.Image], limits: Limits) -> list[Picture]:
    return [read_picture(image, f"images[{i}]", limits) for i, image in enumerate(images)]


def _num_samples(request: service_pb2.ExplainRequest, limits: Limits) -> int:
    """How many samples at most."""
    name, given = "num_samples", request.num_samples
    if request.max_samples:
        if not request.HasField("stability"):
            raise InvalidRequestError(
                "max_samples",
                f"{request.max_samples} without stability, which it caps; expected stability to be "
                "set, or num_samples in its place",
            )
        if request.num_samples:
            raise InvalidRequestError(
                "max_samples", "given together with num_samples; expected one of them"
            )
        name, given = "max_samples", request.max_samples
    usual = min(_DEFAULT_SAMPLES, limits.max_samples)
    num_samples = given or usual
    if not MIN_SAMPLES <= num_samples <= limits.max_samples:
        raise InvalidRequestError(
            name,
            f"{given}; expected {MIN_SAMPLES} to {limits.max_samples}, or 0 for {usual}",
        )
    return num_samples


def _contrasts(
    messages: Sequence[explanation_pb2.Contrast], metadata: Metadata
) -> tuple[tuple[int, int], ...]:
    if len(messages) > _MAX_CONTRASTS:
        raise InvalidRequestError(
            "contrasts", f"{len(messages)}; expected at most {_MAX_CONTRASTS}"
        )
    found: list[tuple[int, int]] = []
    for i, message in enumerate(messages):
        place = f"contrasts[{i}]"
        pair = (
            _label(message.label, metadata, f"{place}.label"),
            _label(message.against, metadata, f"{place}.against"),
        )
        if pair[0] == pair[1]:
            raise InvalidRequestError(
                f"{place}.against", f"{message.against!r} like label; expected another label"
            )
        if pair in found:
            raise InvalidRequestError(place, "a second time")
        found.append(pair)
    return tuple(found)


def _label(name: str, metadata: Metadata, place: str) -> int:
    if name not in metadata.labels:
        raise InvalidRequestError(
            place, f"{name[:_MAX_LABEL_LENGTH]!r}; expected one of {', '.join(metadata.labels)}"
        )
    return metadata.labels.index(name)


def _labels(
    request: service_pb2.ExplainRequest, metadata: Metadata
) -> tuple[list[int] | None, int | None]:
    num_labels = len(metadata.labels)
    if not request.labels:
        if not 0 <= request.top_labels <= num_labels:
            raise InvalidRequestError(
                "top_labels",
                f"{request.top_labels}; expected 1 to {num_labels}, the number of labels, or 0",
            )
        return None, request.top_labels or 1
    if request.top_labels:
        raise InvalidRequestError("top_labels", "given together with labels; expected one of them")
    indices: list[int] = []
    for i, label in enumerate(request.labels):
        index = _label(label, metadata, f"labels[{i}]")
        if index in indices:
            raise InvalidRequestError(f"labels[{i}]", f"{label!r} a second time")
        indices.append(index)
    return indices, None


def _hide(hide: explanation_pb2.Hide) -> str | tuple[int, int, int]:
    fill = hide.WhichOneof("fill")
    if fill == "color":
        color = hide.color
        if color > 0xFFFFFF:
            raise InvalidRequestError("hide.color", f"{color:#x}; expected 0x000000 to 0xFFFFFF")
        return color >> 16, color >> 8 & 0xFF, color & 0xFF
    if fill is not None and not getattr(hide, fill):
        raise InvalidRequestError(f"hide.{fill}", "false; expected true, or another fill")
    return "mean" if fill in (None, "segment_mean") else fill


# Which options a method takes: (name in scikit-image, least, most); over the least where it
# says so. The upper bounds keep one request from holding a thread for minutes.
_OPTIONS: Final[Mapping[str, Mapping[str, tuple[str, float, float]]]] = {
    "slic": {"compactness": ("compactness", 1e-6, 1e6), "sigma": ("sigma", 0, 100)},
    "quickshift": {
        "kernel_size": ("kernel_size", 0.5, 10),
        "max_dist": ("max_dist", 1e-6, 1e6),
        "ratio": ("ratio", 0, 1),
    },
    "felzenszwalb": {
        "scale": ("scale", 1e-6, 1e9),
        "min_size": ("min_size", 1, 1e9),
        "sigma": ("sigma", 0, 100),
    },
    "grid": {},
}


def _segmentation(message: explanation_pb2.Segmentation, *, is_lime: bool) -> dict[str, Any]:
    prefix = "segmentation."
    given = _known(explanation_pb2.SegmentationMethod, message.method, f"{prefix}method")
    set_fields = [descriptor.name for descriptor, _ in message.ListFields()]
    if message.segments_png:
        if len(set_fields) > 1:
            others = ", ".join(name for name in set_fields if name != "segments_png")
            raise InvalidRequestError(
                f"{prefix}segments_png", f"given together with {others}; expected it alone"
            )
        return {}
    method = given or ("quickshift" if is_lime else "slic")
    options: dict[str, Any] = {}
    for name in set_fields:
        if name in ("method", "num_segments"):
            continue
        if name not in _OPTIONS[method]:
            takes = ", ".join(_OPTIONS[method]) or "none"
            raise InvalidRequestError(
                prefix + name, f"no parameter of {method}, whose parameters are: {takes}"
            )
        argument, least, most = _OPTIONS[method][name]
        options[argument] = _number(prefix + name, getattr(message, name), least=least, most=most)
    arguments: dict[str, Any] = {"segmentation": given, "segmentation_options": options or None}
    if method in ("slic", "grid"):
        if message.num_segments != 0 and not 2 <= message.num_segments <= MAX_SEGMENTS:
            raise InvalidRequestError(
                f"{prefix}num_segments",
                f"{message.num_segments}; expected 2 to {MAX_SEGMENTS}, or 0 for "
                f"{_DEFAULT_SEGMENTS}",
            )
        arguments["num_segments"] = message.num_segments or _DEFAULT_SEGMENTS
    elif message.num_segments:
        raise InvalidRequestError(
            f"{prefix}num_segments", f"{method} finds its own number; expected 0"
        )
    return arguments


def _number(
    name: str, value: float, *, most: float, least: float = 0.0, over: float | None = None
) -> float:
    bad = not math.isfinite(value) or value > most or value < least
    if bad or (over is not None and value <= over):
        expected = f"over {over:g}" if over is not None else f"{least:g}"
        raise InvalidRequestError(name, f"{value:g}; expected {expected} to {most:g}")
    return value


_PALETTES: Final[Mapping[str | None, Literal["green-red", "blue-orange"]]] = {
    None: "green-red",
    "green_red": "green-red",
    "blue_orange": "blue-orange",
}


def _known(kind: Any, value: int, name: str, *, may_be_unset: bool = True) -> str | None:
    """An enum's value in the words of `limelens.explain`; None where it is unset."""
    names: Sequence[str] = kind.keys()
    prefix = names[0].removesuffix("UNSPECIFIED")
    if value not in kind.values() or (value == 0 and not may_be_unset):
        found = kind.Name(value) if value in kind.values() else value
        raise InvalidRequestError(name, f"{found}; expected one of {', '.join(names[1:])}")
    if value == 0:
        return None
    return str(kind.Name(value).removeprefix(prefix).lower())
