"""Gauges of drift, for Prometheus: whether what a model sees is unlike its reference.

They are set from outside; nothing here knows how drift is found. If several processes serve, the
page shows the process whose images differ most.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, fields
from functools import partial
from typing import TYPE_CHECKING, Protocol

from prometheus_client import CollectorRegistry, Gauge

from limelens.serve.scheduling.inference import Sampler

if TYPE_CHECKING:
    from limelens.serve.repository.registry import ModelRegistry


class DriftWatch(Sampler, Protocol):
    """Watches for drift while a server runs."""

    def start(self, registry: CollectorRegistry, models: ModelRegistry) -> None:
        """Begins to set gauges."""
        ...

    def close(self) -> None:
        """Ends its thread."""
        ...


@dataclass(frozen=True)
class DriftValues:
    """The gauges of one model; NaN is unknown.

    Args:
        detected: 1 if the images have drifted, else 0.
        distance_ks: KS of the distances, 0 to 1.
        confidence_ks: KS of the confidences, 0 to 1.
        distance: Median distance.
        confidence: Median confidence.
        reference_distance: Median distance of the reference, in the images' mix of labels.
        reference_confidence: Median confidence of the reference, likewise.
        mix_change: Share of images that another label is predicted for, 0 to 1.
        images: Images in the window.
    """

    detected: float = math.nan
    distance_ks: float = math.nan
    confidence_ks: float = math.nan
    distance: float = math.nan
    confidence: float = math.nan
    reference_distance: float = math.nan
    reference_confidence: float = math.nan
    mix_change: float = math.nan
    images: float = 0.0


class DriftGauges:
    """The gauges of all models."""

    def __init__(self, registry: CollectorRegistry) -> None:
        most = partial(Gauge, labelnames=("model",), registry=registry, multiprocess_mode="livemax")
        least = partial(
            Gauge, labelnames=("model",), registry=registry, multiprocess_mode="livemin"
        )
        total = partial(
            Gauge, labelnames=("model",), registry=registry, multiprocess_mode="livesum"
        )
        self._shown: set[tuple[str, str]] = set()
        self._gauges = {
            "detected": most(
                "limelens_drift_detected", "Whether recent images are unlike the reference, 0 or 1."
            ),
            "distance_ks": most(
                "limelens_drift_distance_ks",
                "How much farther recent images are from the reference than its own, 0 to 1.",
            ),
            "confidence_ks": most(
                "limelens_drift_confidence_ks",
                "How much less sure the model is of recent images than of the reference, 0 to 1.",
            ),
            "distance": most(
                "limelens_drift_distance", "Median distance of recent images to the reference."
            ),
            "confidence": least(
                "limelens_drift_confidence", "Median confidence in recent images, 0 to 1."
            ),
            "reference_distance": most(
                "limelens_drift_reference_distance",
                "Median distance of the reference's images to its others.",
            ),
            "reference_confidence": most(
                "limelens_drift_reference_confidence",
                "Median confidence in the reference's images, 0 to 1.",
            ),
            "mix_change": most(
                "limelens_drift_mix_change",
                "How much the mix of labels differs from the reference's, 0 to 1.",
            ),
            "images": total("limelens_drift_images", "Recent images that are compared."),
        }

    def set(self, model: str, values: DriftValues) -> None:
        """Shows the values of a model."""
        for one in fields(values):
            value = getattr(values, one.name)
            # Among several processes an unknown value would hide the known ones.
            if not math.isnan(value) or (model, one.name) in self._shown:
                self._shown.add((model, one.name))
                self._gauges[one.name].labels(model).set(value)
