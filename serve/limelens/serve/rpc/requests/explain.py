"""Explain requests as they come in, checked field by field, as plain values.

Knows what unset means and the options of `limelens.explain`. Runs nothing.
"""

from __future__ import annotations

import math
import time
from collections.abc import Mapping, Sequence
from typing import Any, Final

from limelens.explain import ExplainOptions, Settings
from limelens.explain.settings import DEFAULT_NUM_SEGMENTS
from limelens.serve.bundle import Metadata
from limelens.serve.errors import InvalidRequestError
from limelens.serve.explaining.explain_image import serving_errors
from limelens.serve.explaining.spec import SEGMENTS_LIMIT, ExplainSpec
from limelens.serve.image.encoded import EncodedImage
from limelens.serve.rpc.requests.classify import read_image
from limelens.serve.rpc.server_config import Limits
from limelens.v1 import classifier_service_pb2 as service_pb2
from limelens.v1 import explanation_pb2

MIN_SAMPLES: Final = 10
_MAX_SELECTED: Final = 1000
_MAX_CONTRASTS: Final = 100
_MAX_LABEL_LENGTH: Final = 100
_ENUMS: Final[Mapping[str, Any]] = {
    "method": explanation_pb2.ExplainMethod,
    "distance": explanation_pb2.Distance,
    "feature_selection": explanation_pb2.FeatureSelection,
    "sampling": explanation_pb2.Sampling,
    "compat": explanation_pb2.Compat,
}


def read_explain(
    request: service_pb2.ExplainRequest, metadata: Metadata, limits: Limits
) -> ExplainSpec:
    """What to explain, and how."""
    if not request.HasField("image"):
        raise InvalidRequestError("image", "not set; expected an image")
    return read_spec(request, metadata, limits, read_image(request.image, "image", limits))


def read_spec(
    request: service_pb2.ExplainRequest, metadata: Metadata, limits: Limits, image: EncodedImage
) -> ExplainSpec:
    """What to explain of an image, and how; ignores the request's own image."""
    arrived_at = time.monotonic()
    for name in ("num_features", "deadline_ms"):
        if (value := getattr(request, name)) < 0:
            raise InvalidRequestError(name, f"{value}; expected 0 or more")
    contrasts = _contrasts(request.contrasts, metadata)
    only_contrasts = bool(contrasts) and not request.labels and not request.top_labels
    labels, top_labels = _labels(request, metadata)
    if only_contrasts:
        labels = list(dict.fromkeys(label for pair in contrasts for label in pair))
        top_labels = None
    options = ExplainOptions(
        labels=labels,
        top_labels=top_labels,
        num_features=request.num_features or None,
        seed=request.seed if request.HasField("seed") else None,
        hide=_hide(request.hide),
        max_segments=SEGMENTS_LIMIT,
        deadline_ms=request.deadline_ms or None,
        started_at=arrived_at,
    )
    for name, kind in _ENUMS.items():
        if chosen := _enum_name(kind, getattr(request, name), name):
            options[name] = chosen  # type: ignore[literal-required]
    options |= _segmentation(request.segmentation, is_lime="compat" in options)
    num_samples = _num_samples(request, limits)
    if request.HasField("stability"):
        options["stability"] = _number("stability", request.stability, over=0, most=1)
        options["max_samples"] = num_samples
    else:
        options["num_samples"] = num_samples
    if request.HasField("kernel_width"):
        options["kernel_width"] = _number("kernel_width", request.kernel_width, over=0, most=1e6)
    if request.num_features:
        _check_selection(request.num_features, len(labels or ()) or top_labels or 1, options)
    with serving_errors():
        settings = Settings(**options)
    renderings = {
        _enum_name(explanation_pb2.Picture, value, f"pictures[{i}]", may_be_unset=False)
        for i, value in enumerate(request.pictures)
    }
    palette = _enum_name(explanation_pb2.Palette, request.palette, "palette")
    return ExplainSpec(
        image=image,
        settings=settings,
        contrasts=contrasts,
        only_contrasts=only_contrasts,
        segments_png=request.segmentation.segments_png,
        overlay="overlay" in renderings,
        heat_map="heat_map" in renderings,
        segments="segments" in renderings,
        palette="blue-orange" if palette == "blue_orange" else "green-red",
        arrived_at=arrived_at,
    )


def _check_selection(num_features: int, num_labels: int, options: ExplainOptions) -> None:
    # Asking for few segments implies a selection.
    selection = options.setdefault("feature_selection", "auto")
    if selection == "none":
        raise InvalidRequestError(
            "num_features",
            f"{num_features} with feature_selection NONE, which takes all; expected 0, or a "
            "selection",
        )
    if selection == "forward_selection" and num_features * num_labels > _MAX_SELECTED:
        raise InvalidRequestError(
            "num_features",
            f"{num_features} to be selected one after the other for each of {num_labels} labels; "
            f"expected at most {_MAX_SELECTED} together, or 0 for all",
        )


def _num_samples(request: service_pb2.ExplainRequest, limits: Limits) -> int:
    """How many samples to draw at most."""
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
    usual = min(Settings.num_samples, limits.max_samples)
    num_samples = given or usual
    if not MIN_SAMPLES <= num_samples <= limits.max_samples:
        raise InvalidRequestError(
            name, f"{given}; expected {MIN_SAMPLES} to {limits.max_samples}, or 0 for {usual}"
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
        field = f"contrasts[{i}]"
        pair = (
            _label(message.label, metadata, f"{field}.label"),
            _label(message.against, metadata, f"{field}.against"),
        )
        if pair[0] == pair[1]:
            raise InvalidRequestError(
                f"{field}.against", f"{message.against!r} like label; expected another label"
            )
        if pair in found:
            raise InvalidRequestError(field, "is given twice")
        found.append(pair)
    return tuple(found)


def _label(name: str, metadata: Metadata, field: str) -> int:
    if name not in metadata.labels:
        raise InvalidRequestError(
            field, f"{name[:_MAX_LABEL_LENGTH]!r}; expected one of {', '.join(metadata.labels)}"
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
            raise InvalidRequestError(f"labels[{i}]", f"{label!r} is given twice")
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


# The parameters of each method, named as in scikit-image: least and most. The upper bounds keep one
# request from occupying a thread for minutes.
_PARAMETERS: Final[Mapping[str, Mapping[str, tuple[float, float]]]] = {
    "slic": {"compactness": (1e-6, 1e6), "sigma": (0, 100)},
    "quickshift": {"kernel_size": (0.5, 10), "max_dist": (1e-6, 1e6), "ratio": (0, 1)},
    "felzenszwalb": {"scale": (1e-6, 1e9), "min_size": (1, 1e9), "sigma": (0, 100)},
    "grid": {},
}


def _segmentation(message: explanation_pb2.Segmentation, *, is_lime: bool) -> ExplainOptions:
    given: Any = _enum_name(
        explanation_pb2.SegmentationMethod, message.method, "segmentation.method"
    )
    set_fields = [descriptor.name for descriptor, _ in message.ListFields()]
    if message.segments_png:
        if len(set_fields) > 1:
            others = ", ".join(name for name in set_fields if name != "segments_png")
            raise InvalidRequestError(
                "segmentation.segments_png", f"given together with {others}; expected it alone"
            )
        return {}
    method = given or ("quickshift" if is_lime else "slic")
    limits = _PARAMETERS[method]
    parameters: dict[str, float] = {}
    for name in set_fields:
        if name in ("method", "num_segments"):
            continue
        field = f"segmentation.{name}"
        if name not in limits:
            takes = ", ".join(limits) or "none"
            raise InvalidRequestError(
                field, f"not a parameter of {method}, whose parameters are: {takes}"
            )
        least, most = limits[name]
        parameters[name] = _number(field, getattr(message, name), least=least, most=most)
    options = ExplainOptions(segmentation=given, segmentation_options=parameters or None)
    num_segments = message.num_segments
    if method in ("slic", "grid"):
        if num_segments != 0 and not 2 <= num_segments <= SEGMENTS_LIMIT:
            raise InvalidRequestError(
                "segmentation.num_segments",
                f"{num_segments}; expected 2 to {SEGMENTS_LIMIT}, or 0 for {DEFAULT_NUM_SEGMENTS}",
            )
        options["num_segments"] = num_segments or DEFAULT_NUM_SEGMENTS
    elif num_segments:
        raise InvalidRequestError(
            "segmentation.num_segments", f"{method} finds its own number; expected 0"
        )
    return options


def _number(
    name: str, value: float, *, most: float, least: float = 0.0, over: float | None = None
) -> float:
    bad = not math.isfinite(value) or value > most or value < least
    if bad or (over is not None and value <= over):
        expected = f"over {over:g}" if over is not None else f"{least:g}"
        raise InvalidRequestError(name, f"{value:g}; expected {expected} to {most:g}")
    return value


def _enum_name(kind: Any, value: int, name: str, *, may_be_unset: bool = True) -> str | None:
    """An enum's value as an option of `limelens.explain`; None where it is unset."""
    names: Sequence[str] = kind.keys()
    prefix = names[0].removesuffix("UNSPECIFIED")
    if value not in kind.values() or (value == 0 and not may_be_unset):
        found = kind.Name(value) if value in kind.values() else value
        raise InvalidRequestError(name, f"{found}; expected one of {', '.join(names[1:])}")
    if value == 0:
        return None
    return str(kind.Name(value).removeprefix(prefix).lower())
