"""The configuration of a camera stream, checked field by field."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Final

from limelens.serve.bundle import Metadata
from limelens.serve.decisions.smoothing import Smoothing
from limelens.serve.errors import InvalidRequestError
from limelens.serve.explaining.spec import ExplainSpec
from limelens.serve.image import Region
from limelens.serve.image.encoded import EncodedImage
from limelens.serve.rpc.requests.classify import ClassifyOptions, read_options, read_region
from limelens.serve.rpc.requests.explain import read_spec
from limelens.serve.rpc.server_config import Limits
from limelens.v1 import classifier_service_pb2 as service_pb2

_MAX_STREAM_SEGMENTS: Final = 1024 * 1024
_NO_IMAGE: Final = EncodedImage("", b"")


@dataclass(frozen=True)
class StreamSettings:
    """The settings of one stream.

    Args:
        camera_id: The camera's name.
        options: What to return for each frame.
        region: The region of interest of every frame; None is the whole frame.
        window: How many frames smoothing considers.
        required: How many of them must agree.
        max_age_s: Older frames are dropped; None is no limit.
        required_to_alert: How many frames must agree on an alert label.
        max_decision_age_s: How long one holds without a classified frame.
        explaining: How to explain changes of the decision.
    """

    camera_id: str
    options: ClassifyOptions
    region: Region | None
    window: int
    required: int
    max_age_s: float | None
    required_to_alert: int
    max_decision_age_s: float | None
    explaining: service_pb2.ExplainOnChange | None

    def new_smoothing(self) -> Smoothing:
        """Smoothing of a decision that is unknown yet."""
        return Smoothing(self.window, self.required, required_to_alert=self.required_to_alert)


def read_stream_config(
    config: service_pb2.StreamConfig, metadata: Metadata, limits: Limits
) -> StreamSettings:
    """Reads a camera's configuration."""
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
        # Read now only to report mistakes early.
        read_change(explaining, metadata, limits, _NO_IMAGE, metadata.labels[0])
    return StreamSettings(
        camera_id=config.camera_id,
        options=read_options(config, metadata, "config."),
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
    image: EncodedImage,
    label: str,
) -> ExplainSpec:
    """How to explain a change of a camera's decision."""
    place, options = "config.explain_on_change.options", explaining.options
    num_bytes = len(options.segmentation.segments_png)
    if num_bytes > _MAX_STREAM_SEGMENTS:
        raise InvalidRequestError(
            f"{place}.segmentation.segments_png",
            f"{num_bytes:,} bytes, which the server holds during the stream; expected at most "
            f"{_MAX_STREAM_SEGMENTS:,}",
        )
    for given, _ in options.ListFields():
        if given.name in ("model", "version", "image", "faces", "face"):
            raise InvalidRequestError(
                f"{place}.{given.name}", "set; expected unset: the stream's own is used"
            )
    try:
        spec = read_spec(options, metadata, limits, image)
    except InvalidRequestError as error:
        raise InvalidRequestError(f"{place}.{error.field}", error.description) from error
    if options.labels or options.top_labels or options.contrasts:
        return spec
    own = replace(spec.settings, labels=[metadata.labels.index(label)], top_labels=None)
    return replace(spec, settings=own)
