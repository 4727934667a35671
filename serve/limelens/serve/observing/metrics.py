"""Metrics of a server for Prometheus.

Each server has a registry of its own. An observer counts events; its series are bound once, because
worker threads use them. Gauges (queues, streams, models) are sampled at scrape time. Label values
come from the contract and from bundles only, never from requests, so that their number is bounded.
It knows no ports.
"""

from __future__ import annotations

import functools
import threading
import weakref
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from typing import TYPE_CHECKING, Any, Final, NamedTuple

from prometheus_client import (
    CollectorRegistry,
    Counter,
    Gauge,
    Histogram,
    PlatformCollector,
    ProcessCollector,
)
from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, InfoMetricFamily, Metric
from prometheus_client.registry import Collector

from limelens.serve.about import package_version
from limelens.serve.decisions.decision import Decision, FaceIssue
from limelens.serve.decisions.frame_status import FrameStatus
from limelens.serve.errors import ModelOutputError
from limelens.serve.observing.observer import (
    ExplanationStatus,
    FrameClassified,
    Metadata,
    Observer,
    RequestClassified,
)
from limelens.serve.scheduling.inference import InferenceStatus, Priority

if TYPE_CHECKING:
    from limelens.serve.access.shares import Shares
    from limelens.serve.bundle import Bundle
    from limelens.serve.call_context import Call
    from limelens.serve.decisions.decision import Prediction
    from limelens.serve.observing.observer import ExplanationEnded
    from limelens.serve.observing.pauses import Pauses
    from limelens.serve.repository.model_version import ModelVersion
    from limelens.serve.repository.registry import ModelRegistry
    from limelens.serve.scheduling.engine import Engine
    from limelens.serve.scheduling.inference import Completion
    from limelens.serve.scheduling.memory_budget import Budget

MAX_LABELS: Final = 200
"""How many labels of a model are counted by name; decisions for other labels count as `other`."""
OTHER: Final = "other"

_CALL_S: Final = (0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 30, 60)
_WORK_S: Final = (0.0005, 0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5)
_EXPLANATION_S: Final = (0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 30, 60, 120)
_BATCH: Final = (1, 2, 4, 8, 16, 32, 64, 128)
_SHARES: Final = (0.1, 0.2, 0.3, 0.4, 0.5, 0.6, 0.7, 0.8, 0.9, 1)


class _Series(NamedTuple):
    text: str
    labels: str
    buckets: tuple[float, ...] = ()  # of a histogram; a counter has none


_SERIES: Final = {
    "limelens_request_seconds": _Series(
        "From a call's arrival to its response or end.", "rpc priority code", _CALL_S
    ),
    "limelens_pictures": _Series(
        "Images that left the queue, by how they ended.", "model priority fate"
    ),
    "limelens_queue_seconds": _Series(
        "How long an image waited in the queue.", "model priority", _WORK_S
    ),
    "limelens_decode_seconds": _Series("Decoding and resizing one image.", "model", _WORK_S),
    "limelens_run_seconds": _Series(
        "The model's run for an image; counted once for each image of a batch.", "model", _WORK_S
    ),
    "limelens_batch_pictures": _Series(
        "Images in an image's batch; counted once for each of them.", "model", _BATCH
    ),
    "limelens_not_finite": _Series(
        "Images and explanations for which the model's output was not finite.", "model"
    ),
    "limelens_frames": _Series("Camera frames, by status.", "model fate"),
    "limelens_frame_seconds": _Series(
        "From a frame's arrival to its response, for classified frames.", "model", _CALL_S
    ),
    "limelens_lost_answers": _Series("Responses dropped because a camera does not read.", "model"),
    "limelens_decisions": _Series(
        "Decided images and frames, by label; a multilabel decision counts all its labels.",
        "model label",
    ),
    "limelens_abstentions": _Series("Images and frames without a decision.", "model"),
    "limelens_alerts": _Series(
        "Images of requests decided as an alert label, and cameras' decisions that changed to one.",
        "model source",
    ),
    "limelens_faces": _Series(
        "Faces found, by the issue that keeps them from being judged.", "issue"
    ),
    "limelens_explanations": _Series("Explanations, by how they ended.", "model fate"),
    "limelens_explanation_seconds": _Series(
        "From the request for an explanation to its response.", "model", _EXPLANATION_S
    ),
    "limelens_explanation_samples": _Series("Images that models ran for explanations.", "model"),
    "limelens_explanation_stability": _Series(
        "The least stability of an explanation's labels, 0 to 1.", "model", _SHARES
    ),
}
# Priorities of methods that use a model; `none` for all others.
_PRIORITIES: Final = {
    "Classify": "request",
    "Embed": "request",
    "ModelInfer": "request",
    "ModelStreamInfer": "request",
    "ClassifyStream": "frame",
    "Explain": "explanation",
    "ExplainStream": "explanation",
}
# The other statuses do not respond to a frame, or only clients report them.
_FRAME_STATUSES: Final = (
    FrameStatus.CLASSIFIED,
    FrameStatus.SUPERSEDED,
    FrameStatus.STALE,
    FrameStatus.OUT_OF_ORDER,
    FrameStatus.INVALID,
    FrameStatus.FAILED,
)
_IMAGE_PRIORITIES: Final = {Priority.FRAME: "frame", Priority.REQUEST: "request"}


class Metrics(Observer):
    """Counts events into `registry`."""

    def __init__(self, repository: ModelRegistry, *, max_labels: int = MAX_LABELS) -> None:
        self.registry = registry = CollectorRegistry()
        ProcessCollector(registry=registry)
        PlatformCollector(registry=registry)
        self._in_flight = Gauge(
            "limelens_requests_in_flight",
            "Calls in flight.",
            ("rpc",),
            registry=registry,
            multiprocess_mode="livesum",
        )
        self._all: dict[str, Any] = {
            name: Histogram(name, text, labels.split(), buckets=buckets, registry=registry)
            if buckets
            else Counter(name, text, labels.split(), registry=registry)
            for name, (text, labels, buckets) in _SERIES.items()
        }
        faces = self._all["limelens_faces"]
        self._faces = {one: faces.labels(one or "none") for one in (None, *FaceIssue)}
        self._service_samples: ServiceSamples | None = None
        self._repository = repository
        self._max_labels = max_labels
        self._calls: dict[tuple[str, str], Histogram] = {}
        self._gauges: dict[str, Gauge] = {}
        self._models: dict[str, _ModelSeries] = {}
        self._by_bundle: weakref.WeakKeyDictionary[Bundle, _ModelSeries] = (
            weakref.WeakKeyDictionary()
        )
        self._binding = threading.Lock()
        for model in repository.served:
            self._of(model)

    def sample_from(self, **sources: Any) -> None:
        """Adds gauges of a server's queues and streams, and of the models; see `ServiceSamples`."""
        self._service_samples = ServiceSamples(**sources)
        self.registry.register(ModelsCollector(self._repository))
        self.registry.register(self._service_samples)

    def sample(self) -> None:
        """Samples queues and streams, for other processes to read."""
        if self._service_samples is not None:
            self._service_samples.sample()

    def call_began(self, call: Call, metadata: Metadata) -> None:  # noqa: ARG002
        gauge = self._gauges.get(call.rpc)
        if gauge is None:
            gauge = self._gauges[call.rpc] = self._in_flight.labels(call.rpc)
        gauge.inc()

    def call_ended(self, call: Call, code: str) -> None:
        key = call.rpc, code
        histogram = self._calls.get(key)
        if histogram is None:
            priority = _PRIORITIES.get(call.rpc, "none")
            histogram = self._calls[key] = self._all["limelens_request_seconds"].labels(
                call.rpc, priority, code
            )
        histogram.observe(call.seconds)
        self._gauges[call.rpc].dec()

    def image_completed(self, completion: Completion) -> None:
        series = self._by_bundle.get(completion.bundle) or self._of_bundle(completion.bundle)
        statuses, queue_s = series.images[completion.priority]
        statuses[completion.status].inc()
        queue_s.observe(completion.waited_s)
        if completion.decode_s:
            series.decode_s.observe(completion.decode_s)
        if completion.status is InferenceStatus.ANSWERED:
            series.run_s.observe(completion.run_s)
            series.batch.observe(completion.batch_size)
        elif isinstance(completion.error, ModelOutputError):
            series.not_finite.inc()

    def request_classified(self, classified: RequestClassified) -> None:
        series = self._of(classified.model)
        for prediction in classified.predictions:
            series.count_decision(prediction)
            if prediction.alert:
                series.alerts_of_requests.inc()

    def faces_found(self, issues: Sequence[FaceIssue | None]) -> None:
        for issue in issues:
            self._faces[issue].inc()

    def frame_ended(self, model: ModelVersion, status: FrameStatus) -> None:
        self._of(model).frames[status].inc()

    def frame_classified(self, classified: FrameClassified) -> None:
        series = self._of(classified.model)
        series.count_decision(classified.prediction)
        result = classified.result
        classified_at = result.started_at + result.decode_s + result.run_s
        series.frame_s.observe(classified_at - classified.arrived_at)

    def camera_alerted(self, model: ModelVersion) -> None:
        self._of(model).alerts_of_cameras.inc()

    def responses_lost(self, model: ModelVersion, count: int) -> None:
        self._of(model).lost.inc(count)

    def explanation_ended(self, ended: ExplanationEnded) -> None:
        series = self._of(ended.model)
        series.explanations[ended.status].inc()
        if ended.not_finite:
            series.not_finite.inc()
        if ended.explained is not None:
            explanation = ended.explained.explanation
            series.samples.inc(explanation.num_samples)
            if ended.status is ExplanationStatus.DONE:
                series.explanation_s.observe(ended.ended - ended.began)
                series.stability.observe(min(one.stability for one in explanation.explanations))

    def _of(self, model: ModelVersion) -> _ModelSeries:
        series = self._by_bundle.get(model.bundle)
        return series if series is not None else self._bind(model.name, model.bundle)

    def _of_bundle(self, bundle: Bundle) -> _ModelSeries:
        for model in self._repository.served:
            if model.bundle is bundle:
                return self._bind(model.name, bundle)
        return self._bind(bundle.name, bundle)

    def _bind(self, name: str, bundle: Bundle) -> _ModelSeries:
        with self._binding:
            series = self._models.get(name)
            if series is None:
                series = self._models[name] = _ModelSeries(self._all, name, self._max_labels)
            series.admit(bundle.labels)
            self._by_bundle[bundle] = series
            return series


class _ModelSeries:
    """The series of one model in all its versions, bound once."""

    def __init__(self, series: Mapping[str, Any], name: str, max_labels: int) -> None:
        def bound(metric: str, *labels: str) -> Any:
            return series[f"limelens_{metric}"].labels(name, *labels)

        self.images = {
            priority: (
                {status: bound("pictures", of, status.value) for status in InferenceStatus},
                bound("queue_seconds", of),
            )
            for priority, of in _IMAGE_PRIORITIES.items()
        }
        self.decode_s = bound("decode_seconds")
        self.run_s = bound("run_seconds")
        self.batch = bound("batch_pictures")
        self.not_finite = bound("not_finite")
        self.frames = {one: bound("frames", one.value) for one in _FRAME_STATUSES}
        self.frame_s = bound("frame_seconds")
        self.lost = bound("lost_answers")
        self.abstentions = bound("abstentions")
        self.alerts_of_requests = bound("alerts", "request")
        self.alerts_of_cameras = bound("alerts", "camera")
        self.explanations = {one: bound("explanations", one.value) for one in ExplanationStatus}
        self.explanation_s = bound("explanation_seconds")
        self.samples = bound("explanation_samples")
        self.stability = bound("explanation_stability")
        self._decision = functools.partial(bound, "decisions")
        self._left = max_labels
        self._by_label: dict[str, Counter] = {}
        self._other: Counter | None = None

    def admit(self, labels: Iterable[str]) -> None:
        """Counts these labels by name while there is room, in their order."""
        for label in labels:
            if label in self._by_label:
                continue
            if self._left:
                self._left -= 1
                self._by_label[label] = self._decision(label)
            else:
                if self._other is None:
                    self._other = self._decision(OTHER)
                return

    def count_decision(self, prediction: Prediction) -> None:
        decided = prediction.labels or ((prediction.label,) if prediction.label else ())
        for label in decided:
            counter = self._by_label.get(label, self._other)
            if counter is not None:
                counter.inc()
        if prediction.decision is Decision.ABSTAINED:
            self.abstentions.inc()


class ModelsCollector(Collector):
    """The served and rejected models, sampled at scrape time."""

    def __init__(self, repository: ModelRegistry) -> None:
        self._repository = repository

    def collect(self) -> Iterator[Metric]:
        repository = self._repository
        yield InfoMetricFamily(
            "limelens_build", "The release of limelens.", value={"version": package_version()}
        )
        models = InfoMetricFamily(
            "limelens_model",
            "The models that are served.",
            labels=("model", "version", "provider", "precision"),
        )
        for one in repository.served:
            bundle = one.bundle
            names = one.name, str(one.version), bundle.provider, bundle.metadata.precision
            models.add_metric(names, {})
        yield models
        rejected = GaugeMetricFamily(
            "limelens_refused_versions", "Versions that were rejected.", labels=("model",)
        )
        held_back = GaugeMetricFamily(
            "limelens_held_back_versions",
            "Versions that are not served because they are clearly worse.",
            labels=("model",),
        )
        found = repository.rejected
        for name in sorted({one.name for one in repository.served} | {one.name for one in found}):
            are_held_back = [one.held_back_by > 0 for one in found if one.name == name]
            rejected.add_metric((name,), are_held_back.count(False))
            held_back.add_metric((name,), are_held_back.count(True))
        yield from (rejected, held_back)
        yield CounterMetricFamily(
            "limelens_load_failures",
            "How often a model's file was rejected.",
            value=repository.load_counts.rejected,
        )
        yield CounterMetricFamily(
            "limelens_versions_held_back",
            "How often a version was held back because it is clearly worse.",
            value=repository.load_counts.held_back,
        )


class ServiceSamples(Collector):
    """Queues and streams of a server, sampled at scrape time."""

    def __init__(
        self,
        *,
        engines: Mapping[str, Engine],
        budget: Budget,
        num_streams: Callable[[], int],
        num_slow: Callable[[], int],
        images: Shares,
        calls: Shares,
        pauses: Pauses,
    ) -> None:
        self._engines = engines
        self._shares = {"images": images, "calls": calls}
        self._counted: dict[tuple[Counter, str], int] = {}
        # In no registry: one process reads them directly, several read them from files.
        gauge = functools.partial(Gauge, registry=None, multiprocess_mode="livesum")
        counter = functools.partial(Counter, registry=None)
        self._gauges: dict[Gauge, Callable[[], float]] = {
            gauge("limelens_streams_open", "Open camera streams."): num_streams,
            gauge(
                "limelens_waiting_bytes", "Bytes of requests that wait or are worked on."
            ): lambda: budget.held,
            gauge(
                "limelens_slow_images_waiting",
                "Slow images that wait to be decoded in another process.",
            ): num_slow,
            gauge(
                "limelens_event_loop_pause_seconds",
                "The longest pause of the event loop in the last minute.",
                multiprocess_mode="livemax",
            ): lambda: pauses.recent_s,
        }
        self._waiting = gauge(
            "limelens_queue_pictures", "Images of requests that wait.", ("provider",)
        )
        self._refused = counter(
            "limelens_refused_pictures", "Images refused because the queue was full.", ("provider",)
        )
        self._overloaded = counter(
            "limelens_overloaded_calls",
            "Calls refused because there were too many, or their client had its share.",
            ("of",),
        )

    def collect(self) -> Iterator[Metric]:
        self.sample()
        for metric in (*self._gauges, self._waiting, self._refused, self._overloaded):
            yield from metric.collect()

    def sample(self) -> None:
        """Takes the current values."""
        for gauge, value in self._gauges.items():
            gauge.set(value())
        for provider, engine in tuple(self._engines.items()):  # other threads may add engines
            self._waiting.labels(provider).set(engine.num_waiting)
            self._count(self._refused, provider, engine.counts.refused)
        for of, shares in self._shares.items():
            self._count(self._overloaded, of, shares.num_refused)

    def _count(self, counter: Counter, label: str, total: int) -> None:
        """Adds what a total has gained since the last sample."""
        key = counter, label
        counter.labels(label).inc(total - self._counted.get(key, 0))
        self._counted[key] = total
