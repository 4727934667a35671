"""Requests for explanations as they come in, checked field by field, as plain values.

It knows what unset means and the words of `limelens.explain`. It runs nothing.
"""

from __future__ import annotations

import math
import time
from collections.abc import Mapping, Sequence
from typing import Any, Final, Literal

from limelens.serve.bundle import Metadata
from limelens.serve.errors import InvalidRequestError
from limelens.serve.explaining.spec import MAX_SEGMENTS, ExplainSpec
from limelens.serve.image.encoded import EncodedImage
from limelens.serve.rpc.requests.classify import Limits, read_image
from limelens.v1 import classifier_service_pb2 as service_pb2
from limelens.v1 import explanation_pb2

MIN_SAMPLES: Final = 10
_MAX_SELECTED: Final = 1000
_MAX_CONTRASTS: Final = 100
_DEFAULT_SEGMENTS: Final = 40
_DEFAULT_SAMPLES: Final = 1000
_MAX_LABEL_LENGTH: Final = 100
_PALETTES: Final[Mapping[str | None, Literal["green-red", "blue-orange"]]] = {
    None: "green-red",
    "green_red": "green-red",
    "blue_orange": "blue-orange",
}


def read_explain(
    request: service_pb2.ExplainRequest, metadata: Metadata, limits: Limits
) -> ExplainSpec:
    """What is to be explained, and how.

    Raises:
        InvalidRequestError: A field is not within its limits.
    """
    if not request.HasField("image"):
        raise InvalidRequestError("image", "not set; expected an image")
    return read_question(request, metadata, limits, read_image(request.image, "image", limits))


def read_question(
    request: service_pb2.ExplainRequest, metadata: Metadata, limits: Limits, image: EncodedImage
) -> ExplainSpec:
    """What is to be explained of an image, and how; the request's own image is not looked at.

    Raises:
        InvalidRequestError: A field is not within its limits.
    """
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
    images = {
        _known(explanation_pb2.Picture, value, f"pictures[{i}]", may_be_unset=False)
        for i, value in enumerate(request.pictures)
    }
    return ExplainSpec(
        image=image,
        options=options,
        contrasts=contrasts,
        only_contrasts=only_contrasts,
        segments_png=request.segmentation.segments_png,
        overlay="overlay" in images,
        heat_map="heat_map" in images,
        segments="segments" in images,
        palette=_PALETTES[_known(explanation_pb2.Palette, request.palette, "palette")],
        deadline_ms=request.deadline_ms or None,
        arrived_at=arrived_at,
    )


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
