"""Metrics of calls: latencies, rates and errors. It knows nothing of how calls are made."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray

from limelens.serve.tools.load.plan import Kind

_PERCENTILES = {"p50": 50.0, "p90": 90.0, "p99": 99.0, "p99_9": 99.9}


@dataclass(eq=False)
class Recording:
    """What one process of callers measured of one kind of call; grows while it runs.

    Args:
        latencies_s: Of calls that succeeded; in an open loop from when they were due.
        num_in_time: How many of them ended before the time was over.
        errors: How often a call ended otherwise, by the status' name.
    """

    latencies_s: list[float] = field(default_factory=list)
    num_in_time: int = 0
    errors: Counter[str] = field(default_factory=Counter)


@dataclass(frozen=True)
class KindMetrics:
    """Metrics of the calls of one kind.

    Args:
        answered: How many succeeded.
        per_s: How many succeeded a second, within the time.
        latency_ms: Of those: p50, p90, p99, p99_9, mean, max; empty if none succeeded.
        errors: How many ended otherwise, by the status' name; for a camera the frames that were
            not classified, by their status.
    """

    answered: int
    per_s: float
    latency_ms: Mapping[str, float]
    errors: Mapping[str, int]


@dataclass(frozen=True)
class LoadMetrics:
    """Metrics of all calls, and the cost of sending them.

    Args:
        kinds: By kind of call, for those in the plan.
        duration_s: For how long calls began.
        generator_cpu: Cores that sending took, of all processes together.
        late_p99_ms: How late calls of an open loop were sent, the 99th percentile. If it is
            large, the sender could not keep up.
    """

    kinds: Mapping[Kind, KindMetrics]
    duration_s: float
    generator_cpu: float
    late_p99_ms: float


def latency_metrics(latencies_s: NDArray[np.float64]) -> dict[str, float]:
    """Percentiles, mean and maximum in milliseconds; empty without latencies."""
    if not latencies_s.size:
        return {}
    values = 1000 * latencies_s
    found = {name: float(np.percentile(values, q)) for name, q in _PERCENTILES.items()}
    return {**found, "mean": float(values.mean()), "max": float(values.max())}


def kind_metrics(recordings: Sequence[Recording], duration_s: float) -> KindMetrics:
    """Joins what several processes recorded of one kind."""
    latencies = np.concatenate([np.asarray(one.latencies_s, np.float64) for one in recordings])
    errors = sum((one.errors for one in recordings), Counter[str]())
    return KindMetrics(
        answered=int(latencies.size),
        per_s=sum(one.num_in_time for one in recordings) / duration_s,
        latency_ms=latency_metrics(latencies),
        errors=dict(sorted(errors.items())),
    )
