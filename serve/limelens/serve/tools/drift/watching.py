"""Watches for drift in a server: compares the last images of each model with its reference.

Engines hand over the result of an image now and then. One thread of low priority measures them
together and sets the gauges, so that no call waits. Memory is bounded: of the images in the window
two numbers and a label each are kept.
"""

from __future__ import annotations

import logging
import threading
import time
from collections import deque
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Final

import numpy as np
from numpy.typing import NDArray

from limelens.serve.bundle import Bundle
from limelens.serve.errors import LimelensError
from limelens.serve.observing.drift import DriftGauges, DriftValues
from limelens.serve.priority import lower_thread_priority
from limelens.serve.tools.drift.comparing import (
    FEWEST,
    Comparison,
    Reference,
    Sample,
    compare,
    reference_of,
)
from limelens.serve.tools.similar.index import IndexRefusedError, load_faiss
from limelens.serve.tools.similar.index_file import load_index

if TYPE_CHECKING:
    from prometheus_client import CollectorRegistry

    from limelens.serve.repository.registry import ModelRegistry
    from limelens.serve.rpc.server_config import DriftSettings

_MOST_PENDING: Final = 64
"""Images that wait to be measured; older ones are forgotten."""
_GATHER_S: Final = 0.2
_log = logging.getLogger(__name__)


class DriftMonitor:
    """Watches the models of some references; it is a `limelens.serve.observing.drift.DriftWatch`.

    Raises:
        IndexRefusedError: An index cannot be read, or is of a model that is not served.
        MissingExtraError: faiss or scipy is not installed.
        TooFewImagesError: An index has too few images.
    """

    def __init__(self, settings: DriftSettings, models: ModelRegistry) -> None:
        self._watches: dict[str, _Watch] = {}
        self._by_digest: dict[str, _Watch] = {}
        for name, path in settings.references:
            watch = _Watch(_reference(path), name, settings)
            names = sorted({one.name for one in models.served})
            if watch.name not in names:
                raise IndexRefusedError(
                    f"--drift-reference {path}: an index of the model {watch.name}; served are "
                    f"{', '.join(names)}: make an index with one of these, or say which it is by "
                    "NAME=INDEX"
                )
            if watch.name in self._watches:
                raise IndexRefusedError(
                    f"--drift-reference {path}: a second index of {watch.name}; expected one"
                )
            self._watches[watch.name] = watch
            self._by_digest.setdefault(watch.digest, watch)
        self._wake = threading.Event()
        self._closing = threading.Event()
        self._thread: threading.Thread | None = None
        self._unsubscribe: Callable[[], None] = lambda: None

    def start(self, registry: CollectorRegistry, models: ModelRegistry) -> None:
        """Begins to set gauges in a registry."""
        gauges = DriftGauges(registry)
        for watch in self._watches.values():
            watch.follow(models)
            gauges.set(watch.name, watch.values())
        self._unsubscribe = models.subscribe(self._wake.set)
        self._thread = threading.Thread(
            target=self._work, args=(gauges, models), name="limelens-drift", daemon=True
        )
        self._thread.start()

    def close(self) -> None:
        """Ends the thread."""
        self._unsubscribe()
        self._closing.set()
        self._wake.set()
        if self._thread is not None:
            self._thread.join()

    def wants(self, bundle: Bundle) -> bool:
        """See `Sampler`."""
        watch = self._by_digest.get(bundle.digest)
        return watch is not None and watch.is_due()

    def take(
        self, bundle: Bundle, probabilities: NDArray[np.float32], embedding: NDArray[np.float32]
    ) -> None:
        """See `Sampler`."""
        best = int(probabilities.argmax())
        scored = float(probabilities[best]), bundle.labels[best]
        self._by_digest[bundle.digest].pending.append((embedding.copy(), *scored))
        self._wake.set()

    def _work(self, gauges: DriftGauges, models: ModelRegistry) -> None:
        lower_thread_priority()
        load_faiss().omp_set_num_threads(1)  # of this thread
        while not self._closing.is_set():
            self._wake.wait()  # for images, or other versions
            self._closing.wait(_GATHER_S)  # several images are measured together
            self._wake.clear()
            for watch in self._watches.values():
                try:
                    if watch.follow(models) or watch.measure():
                        gauges.set(watch.name, watch.values())
                # A metric may not end what sets the others.
                except Exception:
                    _log.exception("drift of %s cannot be measured", watch.name)


class _Watch:
    """A model's reference, and what is known of its last images."""

    def __init__(self, reference: Reference, name: str, settings: DriftSettings) -> None:
        self._reference = reference
        self.name = name or reference.index.made.model
        self.digest = reference.index.made.digest
        self.pending: deque[tuple[NDArray[np.float32], float, str]] = deque(maxlen=_MOST_PENDING)
        self._every_s = settings.every_s
        self._next_at = 0.0
        self._is_served = True
        self._window: deque[tuple[float, float, str]] = deque(maxlen=settings.window)
        if reference.own.predicted is None:
            _log.warning(
                "drift of %s: labels are not matched, and another mix of them may look like drift; "
                "make the index again with limelens index",
                self.name,
            )

    def is_due(self) -> bool:
        """Whether the next image is wanted; threads that ask at once may get one each."""
        now = time.monotonic()
        if now < self._next_at:
            return False
        self._next_at = now + self._every_s
        return True

    def follow(self, models: ModelRegistry) -> bool:
        """Notes whether the reference's model is served; returns whether that has changed."""
        versions = [one for one in models.served if one.name == self.name]
        is_served = any(one.bundle.digest == self.digest for one in versions)
        if is_served == self._is_served:
            return False
        self._is_served = is_served
        self.pending.clear()
        self._window.clear()
        if not is_served:
            _log.warning(
                "drift of %s is unknown: the reference was made with another model than is served; "
                "make it again with limelens index",
                self.name,
            )
        return True

    def measure(self) -> bool:
        """Measures the images that wait; returns whether there were any."""
        taken = [self.pending.popleft() for _ in range(len(self.pending))]
        if not taken:
            return False
        vectors, confidences, labels = zip(*taken, strict=True)
        distances = self._reference.sample(np.stack(vectors), None).distances.tolist()
        self._window.extend(zip(distances, confidences, labels, strict=True))
        return True

    def values(self) -> DriftValues:
        """What the gauges show."""
        if not self._is_served:
            return DriftValues()
        own = self._reference.own
        known = DriftValues(
            reference_distance=float(np.median(own.distances)),
            images=len(self._window),
            **(
                {}
                if own.confidences is None
                else {"reference_confidence": float(np.median(own.confidences))}
            ),
        )
        if len(self._window) < FEWEST:
            return known
        distances, confidences, labels = zip(*self._window, strict=True)
        sample = Sample(np.array(distances), np.array(confidences), np.array(labels, np.str_))
        return _with(known, compare(self._reference, sample))


def _with(known: DriftValues, comparison: Comparison) -> DriftValues:
    found: dict[str, float] = {}
    for one in comparison.shifts:
        found[one.name], found[f"{one.name}_ks"] = one.median, one.ks
        found[f"reference_{one.name}"] = one.reference_median
    if comparison.mix_change is not None:
        found["mix_change"] = comparison.mix_change
    return replace(known, detected=float(comparison.is_drift), **found)


def _reference(path: Path) -> Reference:
    try:
        return reference_of(load_index(path))
    except LimelensError as error:
        raise type(error)(f"--drift-reference {error}") from error
    except OSError as error:
        raise IndexRefusedError(
            f"--drift-reference {path}: {error.strerror or error}; expected a file that limelens "
            "index wrote"
        ) from error
