"""Explain requests as they come in, checked field by field, as plain values.

Knows what unset means and the options of `limelens.explain`. Runs nothing.
"""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence
from typing import Any, Final

from limelens.explain import ExplainOptions, Settings
from limelens.serve.bundle import Metadata
from limelens.serve.bundle.explain_defaults import (
    MAX_FILLS,
    MIN_SAMPLES,
    NO_DEFAULTS,
    ExplainDefaults,
)
from limelens.serve.errors import InvalidRequestError
from limelens.serve.explaining.explain_image import serving_errors
from limelens.serve.explaining.spec import SEGMENTS_LIMIT, ExplainSpec
from limelens.serve.image.encoded import EncodedImage
from limelens.serve.rpc.requests.classify import read_image
from limelens.serve.rpc.requests.segmentation import (
    ALL_PARAMETERS,
    PARAMETERS,
    read_segmentation,
)
from limelens.serve.rpc.requests.values import enum_name, number
from limelens.serve.rpc.server_config import Limits
from limelens.v1 import classifier_service_pb2 as service_pb2
from limelens.v1 import explanation_pb2

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
    """What to explain of an image, and how; ignores the request's own image.

    Options that the request leaves unset are the model's own, then the library's.
    """
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
        max_segments=SEGMENTS_LIMIT,
        deadline_ms=request.deadline_ms or None,
        started_at=arrived_at,
    )
    for name, kind in _ENUMS.items():
        if chosen := enum_name(kind, getattr(request, name), name):
            options[name] = chosen  # type: ignore[literal-required]
    hide = _hide(request.hide)
    if hide is not None:
        options["hide"] = hide
    if request.hide.num_fills:
        options["num_fills"] = _num_fills(request.hide.num_fills)
    usual = _usual(request, options, metadata.explain or NO_DEFAULTS)
    cut = read_segmentation(request.segmentation, usual, is_lime="compat" in options)
    num_samples = _num_samples(request, usual, limits)
    options = usual.options() | options | cut
    options.pop("num_samples", None)
    if request.HasField("stability"):
        options["stability"] = number("stability", request.stability, over=0, most=1)
        options["max_samples"] = num_samples
    else:
        options["num_samples"] = num_samples
    if request.HasField("kernel_width"):
        options["kernel_width"] = number("kernel_width", request.kernel_width, over=0, most=1e6)
    if request.num_features:
        _check_selection(request.num_features, len(labels or ()) or top_labels or 1, options)
    with serving_errors():
        settings = Settings(**options)
    renderings = {
        enum_name(explanation_pb2.Picture, value, f"pictures[{i}]", may_be_unset=False)
        for i, value in enumerate(request.pictures)
    }
    palette = enum_name(explanation_pb2.Palette, request.palette, "palette")
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
        from_model=usual.names,
    )


def _usual(
    request: service_pb2.ExplainRequest, options: ExplainOptions, own: ExplainDefaults
) -> ExplainDefaults:
    """The model's own settings, as far as the request leaves them open and they fit it."""
    if "compat" in options:
        return NO_DEFAULTS
    method = options.get("method")
    if method is None and (own.method or "lime") != "lime":
        # Only lime selects segments and measures distances.
        of_lime = request.num_features or request.feature_selection or request.distance
        method = "lime" if of_lime else None
    cut = request.segmentation
    chosen = enum_name(explanation_pb2.SegmentationMethod, cut.method, "segmentation.method")
    parameters = {descriptor.name for descriptor, _ in cut.ListFields()} & ALL_PARAMETERS
    if chosen is None and not parameters <= PARAMETERS[own.segmentation or "slic"].keys():
        chosen = "slic"
    left = own.for_method(method).for_cut(
        chosen, is_own=bool(cut.segments_png), is_numbered=bool(cut.num_segments)
    )
    given = set(options) & set(left.names)
    if "hide" in options:
        given.add("num_fills")
    if request.num_samples or request.max_samples:
        given.add("num_samples")
    if request.HasField("kernel_width") or options.get("distance", "cosine") != "cosine":
        given.add("kernel_width")
    return left.without(*given)


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


def _num_samples(
    request: service_pb2.ExplainRequest, usual: ExplainDefaults, limits: Limits
) -> int:
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
    unset = min(usual.num_samples or Settings.num_samples, limits.max_samples)
    num_samples = given or unset
    if not MIN_SAMPLES <= num_samples <= limits.max_samples:
        raise InvalidRequestError(
            name, f"{given}; expected {MIN_SAMPLES} to {limits.max_samples}, or 0 for {unset}"
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


def _hide(hide: explanation_pb2.Hide) -> str | tuple[int, int, int] | None:
    """The fill; None where it is unset."""
    fill = hide.WhichOneof("fill")
    if fill == "color":
        color = hide.color
        if color > 0xFFFFFF:
            raise InvalidRequestError("hide.color", f"{color:#x}; expected 0x000000 to 0xFFFFFF")
        return color >> 16, color >> 8 & 0xFF, color & 0xFF
    if fill is not None and not getattr(hide, fill):
        raise InvalidRequestError(f"hide.{fill}", "false; expected true, or another fill")
    return "mean" if fill == "segment_mean" else fill


def _num_fills(num_fills: int) -> int:
    if not 0 < num_fills <= MAX_FILLS:
        raise InvalidRequestError(
            "hide.num_fills", f"{num_fills}; expected 1 to {MAX_FILLS}, or 0 for the default"
        )
    return num_fills
