"""Counts and times of a server, as Prometheus reads them.

Each server has a registry of its own. What happens is counted by an observer whose series are
bound once, because it is told from the threads that classify; what merely is (queues, streams,
models) is looked up when somebody reads. Labels of series are names from the contract and from
bundles alone, never from requests: their number is bounded. It knows no ports.
"""

from __future__ import annotations

import threading
import weakref
from collections.abc import Iterable, Iterator, Mapping
from typing import TYPE_CHECKING, Final, Protocol

from prometheus_client import (
    CollectorRegistry,
    Counter,
    Gauge,
    Histogram,
    PlatformCollector,
    ProcessCollector,
)
from prometheus_client.core import (
    CounterMetricFamily,
    GaugeMetricFamily,
    InfoMetricFamily,
    Metric,
)
from prometheus_client.registry import Collector

from limelens.serve.about import package_version
from limelens.serve.decisions.frame_status import FrameStatus
from limelens.serve.errors import ModelOutputError
from limelens.serve.observing.observer import (
    Answered,
    ExplanationFate,
    FrameClassified,
    Metadata,
    Observer,
)
from limelens.serve.scheduling.inference import InferenceStatus, Priority

if TYPE_CHECKING:
    from limelens.serve.access.shares import Shares
    from limelens.serve.bundle import Bundle
    from limelens.serve.call_context import Call
    from limelens.serve.decisions.decision import Prediction
    from limelens.serve.explaining.rendering import RenderedExplanation
    from limelens.serve.observing.observer import ExplanationEnded
    from limelens.serve.observing.pauses import Pauses
    from limelens.serve.repository.model_version import ModelVersion
    from limelens.serve.repository.registry import ModelRegistry
    from limelens.serve.scheduling.engine import Engine
    from limelens.serve.scheduling.inference import Completion

MAX_LABELS: Final = 200
"""Labels of one model that are counted by name; the decisions for all others are `other`."""
OTHER: Final = "other"

_STREAMS: Final = ("limelens_streams_open", "Cameras' streams.")
_BYTES: Final = (
    "limelens_waiting_bytes",
    "Messages of requests that wait or are worked on.",
)
_WAITING: Final = ("limelens_queue_pictures", "Images of requests that wait.")
_REFUSED: Final = ("limelens_refused_pictures", "Images refused because the queue was full.")
_OVERLOADED: Final = (
    "limelens_overloaded_calls",
    "Calls refused because there were too many at a time, or their client had its share.",
)
_SLOW: Final = (
    "limelens_slow_images_waiting",
    "Images that take long to decode, and wait for a process that does.",
)
_PAUSE: Final = (
    "limelens_event_loop_pause_seconds",
    "The longest time of the last minute in which nothing could be answered.",
)
_CALL_S: Final = (0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 30, 60)
_WORK_S: Final = (0.0005, 0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5)
_EXPLANATION_S: Final = (0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 30, 60, 120)
_BATCH: Final = (1, 2, 4, 8, 16, 32, 64, 128)
_SHARES: Final = (0.1, 0.2, 0.3, 0.4, 0.5, 0.6, 0.7, 0.8, 0.9, 1)
_PRIORITIES: Final = {
    "ClassifyStream": "frame",
    "Explain": "explanation",
    "ExplainStream": "explanation",
    "GetModel": "none",
    "ListModels": "none",
    # Of the inference protocol: all but ModelInfer and ModelStreamInfer.
    "ServerLive": "none",
    "ServerReady": "none",
    "ModelReady": "none",
    "ServerMetadata": "none",
    "ModelMetadata": "none",
    "ModelConfig": "none",
    "ModelStatistics": "none",
    "RepositoryIndex": "none",
    "RepositoryModelLoad": "none",
    "RepositoryModelUnload": "none",
}
# The others answer no frame, or are told by the client alone.
_FRAME_FATES: Final = (
    FrameStatus.CLASSIFIED,
    FrameStatus.SUPERSEDED,
    FrameStatus.STALE,
    FrameStatus.OUT_OF_ORDER,
    FrameStatus.INVALID,
    FrameStatus.FAILED,
)
_IMAGE_PRIORITIES: Final = {Priority.FRAME: "frame", Priority.REQUEST: "request"}


class Metrics(Observer):
    """Counts what it is told; `registry` is what is read.

    Args:
        repository: Knows by which name a bundle is served, and what is served and refused.
        max_labels: Labels of one model that are counted by name.
    """

    def __init__(self, repository: ModelRegistry, *, max_labels: int = MAX_LABELS) -> None:
        self.registry = registry = CollectorRegistry()
        ProcessCollector(registry=registry)
        PlatformCollector(registry=registry)
        self._service_samples: ServiceSamples | None = None
        self._repository = repository
        self._max_labels = max_labels
        self._request_s = Histogram(
            "limelens_request_seconds",
            "From a call's arrival to its answer or its end.",
            ("rpc", "priority", "code"),
            buckets=_CALL_S,
            registry=registry,
        )
        self._in_flight = Gauge(
            "limelens_requests_in_flight",
            "Calls under way.",
            ("rpc",),
            registry=registry,
            multiprocess_mode="livesum",
        )
        self._images = Counter(
            "limelens_pictures",
            "Images that left the queue, by how it ended.",
            ("model", "priority", "fate"),
            registry=registry,
        )
        self._queue_s = Histogram(
            "limelens_queue_seconds",
            "From an image's arrival until its turn came.",
            ("model", "priority"),
            buckets=_WORK_S,
            registry=registry,
        )
        self._decode_s = Histogram(
            "limelens_decode_seconds",
            "Decoding and resizing one image.",
            ("model",),
            buckets=_WORK_S,
            registry=registry,
        )
        self._run_s = Histogram(
            "limelens_run_seconds",
            "The run of the model that an image was in; once for each image.",
            ("model",),
            buckets=_WORK_S,
            registry=registry,
        )
        self._batch = Histogram(
            "limelens_batch_pictures",
            "Images in the run that an image was in; once for each image.",
            ("model",),
            buckets=_BATCH,
            registry=registry,
        )
        self._not_finite = Counter(
            "limelens_not_finite",
            "Images and explanations for which the model's numbers were unusable.",
            ("model",),
            registry=registry,
        )
        self._frames = Counter(
            "limelens_frames",
            "Cameras' frames answered, by what became of them.",
            ("model", "fate"),
            registry=registry,
        )
        self._frame_s = Histogram(
            "limelens_frame_seconds",
            "From the arrival of a frame that was classified to its answer.",
            ("model",),
            buckets=_CALL_S,
            registry=registry,
        )
        self._lost = Counter(
            "limelens_lost_answers",
            "Answers thrown away because a camera does not read.",
            ("model",),
            registry=registry,
        )
        self._decisions = Counter(
            "limelens_decisions",
            "Images and frames that were decided, by label; all labels of several.",
            ("model", "label"),
            registry=registry,
        )
        self._abstentions = Counter(
            "limelens_abstentions",
            "Images and frames without a decision.",
            ("model",),
            registry=registry,
        )
        self._alerts = Counter(
            "limelens_alerts",
            "Images of requests decided as an alert label, and cameras' decisions that changed "
            "to one.",
            ("model", "source"),
            registry=registry,
        )
        self._explanations = Counter(
            "limelens_explanations",
            "Explanations that are over, by how it ended.",
            ("model", "fate"),
            registry=registry,
        )
        self._explanation_s = Histogram(
            "limelens_explanation_seconds",
            "From asking for an explanation to having it; of those answered.",
            ("model",),
            buckets=_EXPLANATION_S,
            registry=registry,
        )
        self._samples = Counter(
            "limelens_explanation_samples",
            "Images that models were shown for explanations that were made.",
            ("model",),
            registry=registry,
        )
        self._stability = Histogram(
            "limelens_explanation_stability",
            "The least stability of the labels of an explanation that was answered, 0 to 1.",
            ("model",),
            buckets=_SHARES,
            registry=registry,
        )
        self._calls: dict[tuple[str, str], Histogram] = {}
        self._gauges: dict[str, Gauge] = {}
        self._models: dict[str, _OfModel] = {}
        self._by_bundle: weakref.WeakKeyDictionary[Bundle, _OfModel] = weakref.WeakKeyDictionary()
        self._binding = threading.Lock()
        for served in repository.served:
            self._of(served)

    def look_at(
        self, service: SampledService, calls: Shares | None = None, pauses: Pauses | None = None
    ) -> None:
        """Shows a service's queues and streams, and the repository's models, from now on.

        Args:
            service: The service.
            calls: Who has how many calls under way.
            pauses: How long the event loop was held.
        """
        self._service_samples = ServiceSamples(service, calls, pauses)
        self.registry.register(ModelsCollector(self._repository))
        self.registry.register(self._service_samples)

    def sample(self) -> None:
        """Notes the state of queues and streams where other processes read it."""
        if self._service_samples is not None:
            self._service_samples.note()

    def call_began(self, call: Call, metadata: Metadata) -> None:  # noqa: ARG002
        """See `Observer`."""
        gauge = self._gauges.get(call.rpc)
        if gauge is None:
            gauge = self._gauges[call.rpc] = self._in_flight.labels(call.rpc)
        gauge.inc()

    def call_ended(self, call: Call, code: str) -> None:
        """See `Observer`."""
        key = call.rpc, code
        histogram = self._calls.get(key)
        if histogram is None:
            priority = _PRIORITIES.get(call.rpc, "request")
            histogram = self._calls[key] = self._request_s.labels(call.rpc, priority, code)
        histogram.observe(call.seconds)
        self._gauges[call.rpc].dec()

    def image_ended(self, ended: Completion) -> None:
        """See `Observer`."""
        model = self._by_bundle.get(ended.bundle) or self._of_bundle(ended.bundle)
        fates, queue_s = model.images[ended.priority]
        fates[ended.status].inc()
        queue_s.observe(ended.waited_s)
        if ended.decode_s:
            model.decode_s.observe(ended.decode_s)
        if ended.status is InferenceStatus.ANSWERED:
            model.run_s.observe(ended.run_s)
            model.batch.observe(ended.batch_size)
        elif isinstance(ended.error, ModelOutputError):
            model.not_finite.inc()

    def answered(self, answered: Answered) -> None:
        """See `Observer`."""
        model = self._of(answered.served)
        for prediction in answered.predictions:
            model.decided(prediction)
            if prediction.alert:
                model.alerts_of_requests.inc()

    def frame_ended(self, served: ModelVersion, fate: str) -> None:
        """See `Observer`."""
        self._of(served).frames[fate].inc()

    def frame_classified(self, classified: FrameClassified) -> None:
        """See `Observer`."""
        model = self._of(classified.served)
        model.decided(classified.prediction)
        outcome = classified.outcome
        answered_at = outcome.started_at + outcome.decode_s + outcome.run_s
        model.frame_s.observe(answered_at - classified.arrived_at)

    def camera_alerted(self, served: ModelVersion) -> None:
        """See `Observer`."""
        self._of(served).alerts_of_cameras.inc()

    def answers_lost(self, served: ModelVersion, count: int) -> None:
        """See `Observer`."""
        self._of(served).lost.inc(count)

    def explained(self, ended: ExplanationEnded) -> None:
        """See `Observer`."""
        model = self._of(ended.served)
        model.explanations[ended.fate].inc()
        if ended.not_finite:
            model.not_finite.inc()
        if ended.explained is not None:
            model.samples.inc(ended.explained.explanation.num_samples)
            if ended.fate is ExplanationFate.DONE:
                model.explanation_s.observe(ended.ended - ended.began)
                model.stability.observe(_least_stability(ended.explained))

    def _of(self, served: ModelVersion) -> _OfModel:
        found = self._by_bundle.get(served.bundle)
        return found if found is not None else self._bind(served.name, served.bundle)

    def _of_bundle(self, bundle: Bundle) -> _OfModel:
        for served in self._repository.served:
            if served.bundle is bundle:
                return self._bind(served.name, bundle)
        return self._bind(bundle.name, bundle)

    def _bind(self, name: str, bundle: Bundle) -> _OfModel:
        with self._binding:
            found = self._models.get(name)
            if found is None:
                found = self._models[name] = _OfModel(self, name)
            found.admit(bundle.labels)
            self._by_bundle[bundle] = found
            return found


class _OfModel:
    """The series of one model, whatever its version, bound once."""

    def __init__(self, metrics: Metrics, name: str) -> None:
        self.images = {
            priority: (
                {fate: metrics._images.labels(name, of, fate.value) for fate in InferenceStatus},
                metrics._queue_s.labels(name, of),
            )
            for priority, of in _IMAGE_PRIORITIES.items()
        }
        self.decode_s = metrics._decode_s.labels(name)
        self.run_s = metrics._run_s.labels(name)
        self.batch = metrics._batch.labels(name)
        self.not_finite = metrics._not_finite.labels(name)
        self.frames = {
            fate.value: metrics._frames.labels(name, fate.value) for fate in _FRAME_FATES
        }
        self.frame_s = metrics._frame_s.labels(name)
        self.lost = metrics._lost.labels(name)
        self.abstentions = metrics._abstentions.labels(name)
        self.alerts_of_requests = metrics._alerts.labels(name, "request")
        self.alerts_of_cameras = metrics._alerts.labels(name, "camera")
        self.explanations = {
            fate: metrics._explanations.labels(name, fate.value) for fate in ExplanationFate
        }
        self.explanation_s = metrics._explanation_s.labels(name)
        self.samples = metrics._samples.labels(name)
        self.stability = metrics._stability.labels(name)
        self._name = name
        self._of_label = metrics._decisions
        self._left = metrics._max_labels
        self._decisions: dict[str, Counter] = {}
        self._other: Counter | None = None

    def admit(self, labels: Iterable[str]) -> None:
        """Counts these labels by name, as long as there is room; the first of a bundle first."""
        for label in labels:
            if label in self._decisions:
                continue
            if self._left:
                self._left -= 1
                self._decisions[label] = self._of_label.labels(self._name, label)
            else:
                if self._other is None:
                    self._other = self._of_label.labels(self._name, OTHER)
                return

    def decided(self, prediction: Prediction) -> None:
        decided = prediction.labels or ((prediction.label,) if prediction.label else ())
        for label in decided:
            counter = self._decisions.get(label, self._other)
            if counter is not None:
                counter.inc()
        if not decided:
            self.abstentions.inc()


class ModelsCollector(Collector):
    """What is served and refused at the moment of reading.

    Args:
        models: Where that is known.
    """

    def __init__(self, models: ModelRegistry) -> None:
        self._repository = models

    def describe(self) -> Iterable[Metric]:
        """Nothing is looked up when it is registered."""
        return ()

    def collect(self) -> Iterator[Metric]:
        """See `Collector`."""
        repository = self._repository
        yield InfoMetricFamily(
            "limelens_build", "The release of limelens.", value={"version": package_version()}
        )
        models = InfoMetricFamily(
            "limelens_model",
            "The models that answer.",
            labels=("model", "version", "provider", "precision"),
        )
        for served in repository.served:
            bundle = served.bundle
            names = served.name, str(served.version), bundle.provider, bundle.metadata.precision
            models.add_metric(names, {})
        yield models
        refused = GaugeMetricFamily(
            "limelens_refused_versions",
            "Versions in the folder that do not answer.",
            labels=("model",),
        )
        counts = {served.name: 0 for served in repository.served}
        for one in repository.rejected:
            counts[one.name] = counts.get(one.name, 0) + 1
        for name, count in counts.items():
            refused.add_metric((name,), count)
        yield refused
        yield CounterMetricFamily(
            "limelens_load_failures",
            "How often a model's file was refused.",
            value=repository.load_counts.rejected,
        )


class _Waits(Protocol):
    @property
    def num_waiting(self) -> int: ...


class SampledService(Protocol):
    """What is sampled of a service."""

    @property
    def num_streams(self) -> int:
        """Open camera streams."""
        ...

    @property
    def num_waiting_bytes(self) -> int:
        """Bytes of images that wait."""
        ...

    @property
    def slow_images(self) -> _Waits:
        """Images that wait to be decoded in another process."""
        ...

    @property
    def engines(self) -> Mapping[str, Engine]:
        """The engines by the name of their provider."""
        ...

    @property
    def shares(self) -> Shares:
        """Who has how much of the queue."""
        ...


class ServiceSamples(Collector):
    """What waits and is open in a service at the moment of reading.

    Args:
        service: Whose queues and streams.
        calls: Who has how many calls under way.
        pauses: How long the event loop was held.
    """

    def __init__(
        self, service: SampledService, calls: Shares | None = None, pauses: Pauses | None = None
    ) -> None:
        self._service = service
        self._calls = calls
        self._pauses = pauses
        self._counted: dict[tuple[str, str], int] = {}
        # Registered nowhere: of one process they are read as they are, of several from files.
        self._streams = Gauge(*_STREAMS, registry=None, multiprocess_mode="livesum")
        self._bytes = Gauge(*_BYTES, registry=None, multiprocess_mode="livesum")
        self._waiting = Gauge(*_WAITING, ("provider",), registry=None, multiprocess_mode="livesum")
        self._refused = Counter(*_REFUSED, ("provider",), registry=None)
        self._overloaded = Counter(*_OVERLOADED, ("of",), registry=None)
        self._slow = Gauge(*_SLOW, registry=None, multiprocess_mode="livesum")
        self._pause = Gauge(*_PAUSE, registry=None, multiprocess_mode="livemax")

    def describe(self) -> Iterable[Metric]:
        """Nothing is looked up when it is registered."""
        return ()

    def collect(self) -> Iterator[Metric]:
        """See `Collector`."""
        self.note()
        found = [self._streams, self._bytes, self._waiting, self._refused]
        found += [self._overloaded, self._slow]
        if self._pauses is not None:
            found.append(self._pause)
        for metric in found:
            yield from metric.collect()

    def note(self) -> None:
        """Takes the values of this moment."""
        service = self._service
        self._streams.set(service.num_streams)
        self._bytes.set(service.num_waiting_bytes)
        self._slow.set(service.slow_images.num_waiting)
        if self._pauses is not None:
            self._pause.set(self._pauses.recent_s)
        for provider, engine in service.engines.items():
            self._waiting.labels(provider).set(engine.num_waiting)
            self._count(self._refused, provider, engine.counts.refused)
        self._count(self._overloaded, "images", service.shares.num_refused)
        if self._calls is not None:
            self._count(self._overloaded, "calls", self._calls.num_refused)

    def _count(self, counter: Counter, label: str, total: int) -> None:
        """Adds what came since the last time to a counter that is kept elsewhere as a total."""
        key = counter._name, label
        counter.labels(label).inc(total - self._counted.get(key, 0))
        self._counted[key] = total


def _least_stability(explained: RenderedExplanation) -> float:
    return min(one.stability for one in explained.explanation.explanations)
