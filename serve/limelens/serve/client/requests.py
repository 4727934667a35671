"""Requests: a call's arguments as a message of the contract.

It knows images, arguments and messages, and nothing of connections.
"""

from __future__ import annotations

import datetime
import difflib
import io
import os
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Final, Literal, TypedDict, Unpack, cast, get_args

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from limelens.serve.errors import InvalidRequestError, MissingFileError, UnreadableFileError
from limelens.serve.faces.options import FaceOptions
from limelens.serve.image import Region
from limelens.v1 import classifier_service_pb2 as service_pb2
from limelens.v1 import explanation_pb2, face_pb2, image_pb2

ImageInput = str | os.PathLike[str] | bytes | NDArray[np.uint8]
"""A file's path, a file's bytes, or `(H, W, 3)` uint8 RGB pixels."""

SegmentationMethod = Literal["slic", "quickshift", "felzenszwalb", "grid"]
Drawn = Literal["overlay", "heat_map", "segments"]
Palette = Literal["green_red", "blue_orange"]
Method = Literal["lime", "kernel_shap", "occlusion", "rise"]
HideName = Literal["mean", "blur", "shuffle", "references"]
Hide = HideName | tuple[int, int, int]

_MAX_RAW_BYTES: Final = 4 * 1024 * 1024
"""Larger arrays are sent as PNG: slower to make, and lossless."""


class CallArguments(TypedDict, total=False):
    """The keyword arguments of every call.

    Args:
        timeout_s: Deadline; None is the client's.
        request_id: The id of the call in the server's log, 1 to 64 printable ASCII characters;
            with None the server makes one.
    """

    timeout_s: float | None
    request_id: str | None


class ModelArguments(CallArguments, total=False):
    """The keyword arguments of every call on images.

    An empty `model` means the only one served, version 0 the newest. Of every image the model sees
    the `region`.
    """

    model: str
    version: int
    region: Region | None


class ClassifyArguments(ModelArguments, total=False):
    """The keyword arguments of `Client.classify`, with those of `ModelArguments`.

    Args:
        top_k: Scores for each image; 0 means 5 or all, whichever is less.
        threshold: The least probability for a decision, in place of the model's own.
        embedding: Whether to return the feature vectors.
        faces: Whether, or how, to find faces and classify each instead of the whole image.
    """

    top_k: int
    threshold: float | None
    embedding: bool
    faces: bool | FaceOptions


class EmbedArguments(ModelArguments, total=False):
    """The keyword arguments of `Client.embed`, with those of `ModelArguments`.

    `normalize` divides each vector by its length, so that the dot product of two is their cosine
    similarity.
    """

    normalize: bool


class ExplainArguments(ModelArguments, total=False):
    """The keyword arguments of `Client.explain`, with those of `ModelArguments`.

    Args:
        labels: The labels to explain, by name; empty means the most probable.
        top_labels: How many of the most probable; 0 means 1, or none with `contrasts`.
        contrasts: Pairs of labels: why the first and not the second. They come after labels.
        method: None, as for all that follow, is the model's own (see `ModelInfo.explain_settings`),
            or lime.
        segmentation: How to cut the image.
        num_segments: For slic and grid; 0 is the default.
        segmentation_options: The method's other parameters, by their names in the contract.
        segments: The caller's own, as a 16-bit PNG or as an array, of the upright image's size.
        num_samples: Images to run the model on; 0 is the model's own, or 1000.
        stability: Sample until this is reached, at most `max_samples`.
        max_samples: The cap on that; 0 means `num_samples`.
        deadline_ms: Milliseconds after which to explain from the samples so far; 0 is no limit.
            `timeout_s` in contrast ends the call without a result.
        hide: What replaces a hidden segment; a tuple is a colour, red, green, blue; `references`
            are the model's golden images of other labels. None is the model's own, or `mean`.
        num_fills: In how many fills each row of hidden segments is predicted, for `shuffle` and
            `references`; 0 is the server's default.
        kernel_width: Width of the kernel that weighs samples by distance.
        distance: How to measure a sample's distance from the whole image.
        feature_selection: `none`, `auto`, `forward_selection`, `highest_weights` or `lasso_path`.
        num_features: Most segments in the surrogate; 0 means all.
        sampling: None chooses one that suits.
        seed: None lets the server choose a random one.
        compat: `lime` for the algorithm of the `lime` package.
        renderings: The images to draw.
        pictures: An older name of `renderings`.
        palette: Their colours: `green_red`, or `blue_orange` for readers who cannot tell green from
            red.
        faces: Whether, or how, to find faces and explain the decision about one of them; drawings
            show it in the whole image.
        face: Which, by its place in `Prediction.faces` of the same image; None is the worst of
            those that can be judged.
    """

    labels: Sequence[str]
    top_labels: int
    contrasts: Sequence[tuple[str, str]]
    method: Method | None
    segmentation: SegmentationMethod | None
    num_segments: int
    segmentation_options: Mapping[str, float] | None
    segments: bytes | NDArray[np.integer] | None
    num_samples: int
    stability: float | None
    max_samples: int
    deadline_ms: int
    hide: Hide | None
    num_fills: int
    kernel_width: float | None
    distance: Literal["cosine", "euclidean"] | None
    feature_selection: str | None
    num_features: int
    sampling: Literal["paired", "independent"] | None
    seed: int | None
    compat: Literal["lime"] | None
    renderings: Iterable[Drawn]
    pictures: Iterable[Drawn]
    palette: Palette | None
    faces: bool | FaceOptions
    face: int | None


class StreamArguments(TypedDict, total=False):
    """The keyword arguments of `Client.stream` that go to the server.

    Args:
        camera_id: The camera's name in the server's log.
        model: Empty means the only one served.
        version: 0 means the newest.
        region: The part of every frame that the model sees.
        smoothing: (window, required): how many of the last frames must agree.
        max_frame_age_s: The server drops older frames; 0 means no limit.
        top_k: Scores for each frame; 0 means 5 or all, whichever is less.
        threshold: The least probability for a decision, in place of the model's own.
        required_to_alert: With smoothing: how many frames must agree on an alert label; 0 means
            as many as on others.
        max_decision_age_s: Seconds without a classified frame after which the decision becomes
            unknown, which an answer reports; 0 means no limit.
        explain_on_change: Arguments of `explain`, without model, version, region, timeout_s and
            request_id. With them, even an empty mapping, each change of the decision is
            explained, and a later answer brings the explanation. Without labels, the label that
            it changed to.
        explain_alerts_only: Whether to explain only changes to alert labels.
        faces: Whether, or how, to follow the people in the frames. Smoothing then counts the
            frames of each person, and the frame's decision is that of the worst of them.
    """

    camera_id: str
    model: str
    version: int
    region: Region | None
    smoothing: tuple[int, int] | None
    max_frame_age_s: float
    top_k: int
    threshold: float | None
    required_to_alert: int
    max_decision_age_s: float
    explain_on_change: ExplainArguments | None
    explain_alerts_only: bool
    faces: bool | FaceOptions


@dataclass(frozen=True, eq=False)
class Frame:
    """One frame of a camera, with a rising number of at least 0.

    Its `capture_time` comes back with the answer; without a time zone it is taken as UTC.
    """

    frame_id: int
    image: ImageInput
    capture_time: datetime.datetime | None = None


def read_file(path: str | os.PathLike[str], expected: str) -> bytes:
    """The bytes of a file that a caller names; an error says what was expected.

    Raises:
        UnreadableFileError: It is missing, a folder, or cannot be read.
    """
    try:
        return Path(path).read_bytes()
    except FileNotFoundError as error:
        raise MissingFileError(error, f"expected {expected}") from error
    except OSError as error:
        raise UnreadableFileError(error, f"expected {expected}") from error


_RENAMED: Final = {"pictures": "renderings"}  # the old name still works


def check_arguments(method: str, given: Iterable[str], accepted: type[Any]) -> None:
    """Refuses keyword arguments that a method does not have, and names the one that was meant.

    Raises:
        TypeError: As Python raises it for any function.
    """
    known = sorted(accepted.__optional_keys__)
    for name in given:
        if name not in known:
            near = [_RENAMED.get(one, one) for one in difflib.get_close_matches(name, known, 1)]
            meant = f"did you mean {near[0]!r}?" if near else f"expected {', '.join(known)}"
            raise TypeError(f"{method}() got an unexpected keyword argument {name!r}; {meant}")


def several(images: ImageInput | Iterable[ImageInput]) -> Iterator[ImageInput]:
    """One image or many, as a sequence."""
    if isinstance(images, (str, bytes, os.PathLike)) or (
        isinstance(images, np.ndarray) and images.ndim == 3
    ):
        return iter([images])
    return iter(images)


def image_message(image: ImageInput, region: Region | None, name: str) -> image_pb2.Image:
    """An image, or the region of it that the model sees, as it is sent.

    Raises:
        InvalidRequestError: An array that is no image; `name` is what the error calls it.
        OSError: The file cannot be read.
    """
    message = image_pb2.Image(region_of_interest=_region(region))
    if isinstance(image, np.ndarray):
        if image.dtype != np.uint8 or image.ndim != 3 or image.shape[2] != 3:
            raise InvalidRequestError(
                name, f"{image.dtype} {image.shape}; expected uint8 (H, W, 3) RGB"
            )
        if 0 < image.nbytes <= _MAX_RAW_BYTES:
            message.raw.data = image.tobytes()
            message.raw.height, message.raw.width = image.shape[:2]
        elif image.nbytes:
            message.encoded = _png(Image.fromarray(image))
    elif isinstance(image, bytes):
        message.encoded = image
    else:
        message.encoded = read_file(image, "a file that holds an image")
    return message


def classify_request(
    images: ImageInput | Iterable[ImageInput], **arguments: Unpack[ClassifyArguments]
) -> service_pb2.ClassifyRequest:
    """The request of `Client.classify`; raises as `image_message`."""
    check_arguments("classify", arguments, ClassifyArguments)
    return service_pb2.ClassifyRequest(
        model=arguments.get("model"),
        version=arguments.get("version"),
        images=_images(images, arguments.get("region")),
        top_k=arguments.get("top_k"),
        threshold=arguments.get("threshold"),
        return_embedding=arguments.get("embedding"),
        faces=faces_message(arguments.get("faces")),
    )


def embed_request(
    images: ImageInput | Iterable[ImageInput], **arguments: Unpack[EmbedArguments]
) -> service_pb2.EmbedRequest:
    """The request of `Client.embed`; raises as `image_message`."""
    check_arguments("embed", arguments, EmbedArguments)
    return service_pb2.EmbedRequest(
        model=arguments.get("model"),
        version=arguments.get("version"),
        images=_images(images, arguments.get("region")),
        normalize=arguments.get("normalize"),
    )


def stream_config(**arguments: Unpack[StreamArguments]) -> service_pb2.ClassifyStreamRequest:
    """The first message of `Client.stream`."""
    check_arguments("stream", arguments, StreamArguments)
    config = service_pb2.StreamConfig(
        camera_id=arguments.get("camera_id", "camera"),
        model=arguments.get("model"),
        version=arguments.get("version"),
        region_of_interest=_region(arguments.get("region")),
        max_frame_age_ms=round(arguments.get("max_frame_age_s", 0.0) * 1000),
        max_decision_age_ms=round(arguments.get("max_decision_age_s", 0.0) * 1000),
        top_k=arguments.get("top_k"),
        threshold=arguments.get("threshold"),
        faces=faces_message(arguments.get("faces")),
    )
    if (smoothing := arguments.get("smoothing")) is not None:
        config.smoothing.window, config.smoothing.required = smoothing
    if required_to_alert := arguments.get("required_to_alert"):
        config.smoothing.required_to_alert = required_to_alert
    if (explain := arguments.get("explain_on_change")) is not None:
        for name in ("model", "version", "region", "timeout_s", "request_id", "faces", "face"):
            given = explain.get(name)
            if given or (name == "face" and given is not None):
                raise InvalidRequestError(
                    f"explain_on_change.{name}", "given; expected none: the stream's own is used"
                )
        config.explain_on_change.options.CopyFrom(explain_request(b"", **explain))
        config.explain_on_change.options.ClearField("image")
        config.explain_on_change.alerts_only = arguments.get("explain_alerts_only", False)
    return service_pb2.ClassifyStreamRequest(config=config)


def frame_request(frame: Frame) -> service_pb2.ClassifyStreamRequest:
    """Any other message of `Client.stream`; raises as `image_message`."""
    message = service_pb2.Frame(
        frame_id=frame.frame_id, image=image_message(frame.image, None, f"frame {frame.frame_id}")
    )
    if frame.capture_time is not None:
        message.capture_time.FromDatetime(frame.capture_time)
    return service_pb2.ClassifyStreamRequest(frame=message)


def explain_request(
    image: ImageInput, **arguments: Unpack[ExplainArguments]
) -> service_pb2.ExplainRequest:
    """The request of `Client.explain`; raises as `image_message`, and for unknown words."""
    check_arguments("explain", arguments, ExplainArguments)
    cut: dict[str, Any] = dict(arguments.get("segmentation_options") or {})
    unknown = sorted(set(cut) - _SEGMENTATION_FIELDS)
    if unknown:
        raise InvalidRequestError(
            "segmentation_options",
            f"{unknown}; expected some of {', '.join(sorted(_SEGMENTATION_FIELDS))}",
        )
    segments = arguments.get("segments")
    if segments is not None:
        cut["segments_png"] = segments if isinstance(segments, bytes) else _ids_png(segments)
    # The other arguments have the names of fields.
    fields: dict[str, Any] = {
        name: value for name, value in arguments.items() if name not in _OWN_FIELDS
    }
    for name, kind in _ENUMS.items():
        if name in fields:
            fields[name] = _value(kind, name, fields[name])
    return service_pb2.ExplainRequest(
        image=image_message(image, arguments.get("region"), "image"),
        segmentation=explanation_pb2.Segmentation(
            method=_value(
                explanation_pb2.SegmentationMethod, "segmentation", arguments.get("segmentation")
            ),
            num_segments=arguments.get("num_segments") or 0,
            **cut,
        ),
        contrasts=[
            explanation_pb2.Contrast(label=label, against=against)
            for label, against in arguments.get("contrasts") or ()
        ],
        hide=_hide(arguments.get("hide"), arguments.get("num_fills") or 0),
        faces=faces_message(arguments.get("faces")),
        pictures=[
            _value(explanation_pb2.Picture, "renderings", one)
            for one in arguments.get("renderings") or arguments.get("pictures") or ()
        ],
        **fields,
    )


_SEGMENTATION_FIELDS: Final = frozenset(
    name
    for name in explanation_pb2.Segmentation.DESCRIPTOR.fields_by_name
    if name not in ("method", "num_segments", "segments_png")
)
_OWN_FIELDS: Final = frozenset(
    {"contrasts", "faces", "hide", "num_fills", "num_segments", "pictures", "region", "renderings",
     "request_id", "segmentation", "segmentation_options", "segments", "timeout_s"}
)  # fmt: skip
_ENUMS: Final[Mapping[str, Any]] = {
    "compat": explanation_pb2.Compat,
    "distance": explanation_pb2.Distance,
    "feature_selection": explanation_pb2.FeatureSelection,
    "method": explanation_pb2.ExplainMethod,
    "palette": explanation_pb2.Palette,
    "sampling": explanation_pb2.Sampling,
}


def _images(
    images: ImageInput | Iterable[ImageInput], region: Region | None
) -> list[image_pb2.Image]:
    return [image_message(image, region, f"images[{i}]") for i, image in enumerate(several(images))]


def _region(region: Region | None) -> image_pb2.RegionOfInterest | None:
    if region is None:
        return None
    return image_pb2.RegionOfInterest(
        left=region.left, top=region.top, right=region.right, bottom=region.bottom
    )


def faces_message(faces: bool | FaceOptions | None) -> face_pb2.FaceOptions | None:
    """Which faces to look for; settings that are as usual stay unset, None looks for none."""
    if not faces:
        return None
    given = {} if faces is True else asdict(faces)
    chosen = {name: value for name, value in given.items() if value != getattr(_USUAL, name)}
    if "max_unseen_s" in chosen:
        chosen["max_unseen_ms"] = round(1000 * chosen.pop("max_unseen_s"))
    return face_pb2.FaceOptions(**chosen)


_USUAL: Final = FaceOptions()


def _hide(hide: Hide | None, num_fills: int) -> explanation_pb2.Hide | None:
    if hide is None:
        return explanation_pb2.Hide(num_fills=num_fills) if num_fills else None
    names = get_args(HideName)
    if hide in names:
        # Fields are named like the fills.
        name = "segment_mean" if hide == "mean" else str(hide)
        return explanation_pb2.Hide(**{name: True}, num_fills=num_fills)
    try:
        red, green, blue = cast("tuple[int, int, int]", hide)
        fits = all(0 <= value <= 255 for value in (red, green, blue))
    except (TypeError, ValueError):
        fits = False
    if not fits:
        expected = ", ".join(map(repr, names))
        raise InvalidRequestError("hide", f"{hide!r}; expected {expected} or (r, g, b)")
    return explanation_pb2.Hide(color=red << 16 | green << 8 | blue, num_fills=num_fills)


def _value(kind: Any, name: str, word: str | None) -> Any:
    """The value of an enum that a word such as `paired` stands for."""
    names: list[str] = kind.keys()
    prefix = names[0].removesuffix("UNSPECIFIED")
    if word is None:
        return 0
    if word == "unspecified" or prefix + word.upper() not in names:
        words = ", ".join(known.removeprefix(prefix).lower() for known in names[1:])
        raise InvalidRequestError(name, f"{word!r}; expected one of {words}")
    return kind.Value(prefix + word.upper())


def _ids_png(segments: NDArray[np.integer]) -> bytes:
    if segments.ndim != 2 or segments.min() < 0 or segments.max() > 65535:
        raise InvalidRequestError(
            "segments", f"shape {segments.shape}; expected (H, W) ids from 0 to 65534"
        )
    return _png(Image.fromarray(segments.astype(np.uint16)))


def _png(image: Image.Image) -> bytes:
    file = io.BytesIO()
    image.save(file, "PNG", compress_level=1)
    return file.getvalue()
