"""Traces: a span for each call, in its client's trace, and one for each stage of the work.

Spans go to an OpenTelemetry collector in the background. They carry names, numbers and times, never
images. A camera stream is one span; each of its frames is a trace of its own with a link to it,
because a stream may last for weeks.

Importing this module without `limelens[tracing]` raises `MissingExtraError`.
"""

from __future__ import annotations

import os
import sys
import threading
import time
from collections.abc import Iterable
from typing import TYPE_CHECKING, Final

from limelens.serve.addresses import parse_address
from limelens.serve.call_context import Call, current_call
from limelens.serve.errors import LimelensError, MissingExtraError
from limelens.serve.observing.observer import (
    ExplanationEnded,
    ExplanationStatus,
    FrameClassified,
    Metadata,
    Observer,
    RequestClassified,
)
from limelens.serve.status import code_number, is_fault

try:
    from opentelemetry import context as otel_context
    from opentelemetry import propagate
    from opentelemetry.exporter.otlp.proto.grpc.trace_exporter import OTLPSpanExporter
    from opentelemetry.sdk.resources import SERVICE_NAME, Resource
    from opentelemetry.sdk.trace import TracerProvider
    from opentelemetry.sdk.trace.export import BatchSpanProcessor, ConsoleSpanExporter, SpanExporter
    from opentelemetry.trace import Link, Span, SpanKind, Status, StatusCode, set_span_in_context
except ImportError as error:
    raise MissingExtraError(
        f"traces need limelens[tracing] ({error}); pip install 'limelens[tracing]'"
    ) from error

if TYPE_CHECKING:
    from limelens.serve.scheduling.inference import InferenceResult

MAX_TRACED: Final = 32  # how many images of a request have spans for their stages
CLOSE_S: Final = 3.0  # how long the last spans may take
_UNKNOWN: Final = "unknown_service"
_Attributes = dict[str, str | int | float | bool]


def tracing_to(target: str) -> Tracing:
    """Traces that go to a collector or to stderr. `OTEL_…` variables set everything else.

    Args:
        target: `HOST:PORT` of an OTLP receiver over gRPC in plaintext, `https://HOST:PORT` with
            TLS, `otlp` for the receiver in `OTEL_EXPORTER_OTLP_ENDPOINT`, or `console` for stderr.
    """
    exporter: SpanExporter
    if target == "console":
        exporter = ConsoleSpanExporter(
            out=sys.stderr, formatter=lambda span: span.to_json(indent=None) + os.linesep
        )
    elif target == "otlp":
        exporter = OTLPSpanExporter()
    else:
        exporter = OTLPSpanExporter(endpoint=_collector(target))
    resource = Resource.create()
    if str(resource.attributes.get(SERVICE_NAME, _UNKNOWN)).startswith(_UNKNOWN):
        resource = resource.merge(Resource({SERVICE_NAME: "limelens"}))
    provider = TracerProvider(resource=resource, shutdown_on_exit=False)
    provider.add_span_processor(BatchSpanProcessor(exporter))
    return Tracing(provider)


class Tracing(Observer):
    """Turns notifications into spans."""

    def __init__(self, provider: TracerProvider) -> None:
        self._provider = provider
        self._tracer = provider.get_tracer("limelens")
        self._spans: dict[Call, Span] = {}

    def call_began(self, call: Call, metadata: Metadata) -> None:
        span = self._tracer.start_span(
            f"{call.service}/{call.rpc}",
            context=_caller_context(metadata),
            kind=SpanKind.SERVER,
            attributes={
                "rpc.system": "grpc",
                "rpc.service": call.service,
                "rpc.method": call.rpc,
                "limelens.request_id": call.request_id,
            },
        )
        self._spans[call] = span
        context = span.get_span_context()
        if context.is_valid:
            call.trace_id = f"{context.trace_id:032x}"

    def call_ended(self, call: Call, code: str) -> None:
        span = self._spans.pop(call)
        if span.is_recording():
            span.set_attribute("rpc.grpc.status_code", code_number(code))
            if call.model:
                span.set_attribute("limelens.model", call.model)
                span.set_attribute("limelens.version", call.version)
            if call.caller:
                span.set_attribute("limelens.caller", call.caller)
            if is_fault(code):
                span.set_status(Status(StatusCode.ERROR, code))
        span.end()

    def request_classified(self, classified: RequestClassified) -> None:
        parent = self._parent()
        if parent is None:
            return
        images = classified.predictions or classified.results
        parent.set_attribute("limelens.images", len(images))
        for index, result in enumerate(classified.results[:MAX_TRACED]):
            self._stages(parent, _stages(result, classified.arrived_at), {"limelens.image": index})

    def frame_classified(self, classified: FrameClassified) -> None:
        stream = self._parent()
        if stream is None:
            return
        model = classified.model
        stages = _stages(classified.result, classified.arrived_at)
        offset = _offset_ns()
        frame = self._tracer.start_span(
            "frame",
            context=otel_context.Context(),
            links=[Link(stream.get_span_context())],
            start_time=_ns(classified.arrived_at, offset),
            attributes={
                "limelens.model": model.name,
                "limelens.version": model.version,
                "limelens.alert": classified.prediction.alert,
            },
        )
        if frame.is_recording():
            self._stages(frame, stages, {})
        frame.end(_ns(stages[-1][2], offset))

    def explanation_ended(self, ended: ExplanationEnded) -> None:
        """See `Observer`. Alternating stages are laid end to end: lengths are right."""
        parent = self._parent()
        if parent is None or ended.explained is None:
            return
        explanation = ended.explained.explanation
        parent.set_attribute("limelens.samples", explanation.num_samples)
        if ended.status is not ExplanationStatus.DONE:
            return
        spent = explanation.timings_ms
        at = ended.explained.started_at
        stages = [("queue", ended.began, at)]
        for name, seconds in (
            ("decode", ended.explained.decode_s),
            ("segment", spent.segment / 1000),
            ("predict", spent.predict / 1000),
            ("fit", spent.fit / 1000),
        ):
            stages.append((name, at, at + seconds))
            at += seconds
        self._stages(parent, stages, {})

    def close(self) -> None:
        """Sends the last spans, for a short time: the collector may be gone."""
        thread = threading.Thread(target=self._provider.shutdown, daemon=True)
        thread.start()
        thread.join(CLOSE_S)

    def _parent(self) -> Span | None:
        call = current_call.get()
        span = None if call is None else self._spans.get(call)
        return span if span is not None and span.is_recording() else None

    def _stages(
        self, parent: Span, stages: Iterable[tuple[str, float, float]], attributes: _Attributes
    ) -> None:
        offset = _offset_ns()
        within = set_span_in_context(parent)
        for name, began, ended in stages:
            span = self._tracer.start_span(
                name, context=within, start_time=_ns(began, offset), attributes=attributes
            )
            span.end(_ns(ended, offset))


def _collector(target: str) -> str:
    """The URL of an OTLP receiver."""
    scheme, _, address = target.rpartition("://")
    wrong = LimelensError(
        f"trace to {target!r}; expected HOST:PORT, https://HOST:PORT, otlp or console"
    )
    if scheme not in ("", "http", "https"):
        raise wrong
    try:
        parse_address(address)
    except ValueError:
        raise wrong from None
    return f"{scheme or 'http'}://{address}"


def _stages(result: InferenceResult, arrived_at: float) -> list[tuple[str, float, float]]:
    """Name, beginning and end of each stage, by `time.monotonic`."""
    started = result.started_at
    decoded = started + result.decode_s
    return [
        ("queue", arrived_at, started),
        ("decode", started, decoded),
        ("run", decoded, decoded + result.run_s),
    ]


def _caller_context(metadata: Metadata) -> otel_context.Context:
    """The client's trace, from the headers that `OTEL_PROPAGATORS` names."""
    known = propagate.get_global_textmap().fields
    carrier = {key: value for key, value in metadata if key in known and isinstance(value, str)}
    return propagate.extract(carrier, context=otel_context.Context())


def _offset_ns() -> int:
    """From `time.monotonic_ns` to `time.time_ns`.

    The thread may lose the machine between two readings, which would shift all stages: of a few
    pairs, the one that took the shortest counts.
    """
    pairs = []
    for _ in range(3):
        before, now = time.monotonic_ns(), time.time_ns()
        after = time.monotonic_ns()
        pairs.append((after - before, now - (before + after) // 2))
    return min(pairs)[1]


def _ns(monotonic_s: float, offset_ns: int) -> int:
    return round(monotonic_s * 1e9) + offset_ns
