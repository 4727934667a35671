"""What became of calls, in figures. It knows latencies and codes, and not where they come from."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray

from limelens.serve.tools.load.plan import Kind

PERCENTILES = {"p50": 50.0, "p90": 90.0, "p99": 99.0, "p99_9": 99.9}


@dataclass(eq=False)
class Recording:
    """What one process of callers noted of one kind of call; grows while it runs.

    Args:
        latencies_s: Of calls that were answered; in an open loop from when they were due.
        num_in_time: How many answers came before the time was over.
        codes: How often a call ended otherwise, by the status' name.
    """

    latencies_s: list[float] = field(default_factory=list)
    num_in_time: int = 0
    codes: Counter[str] = field(default_factory=Counter)


@dataclass(frozen=True)
class KindFigures:
    """What became of the calls of one kind.

    Args:
        answered: How many were answered.
        per_s: Answers a second, within the time.
        latency_ms: Of those answered: p50, p90, p99, p99_9, mean, max; empty where there is none.
        errors: How many ended otherwise, by the status' name; of a camera's frames those that
            were not classified, by why.
    """

    answered: int
    per_s: float
    latency_ms: Mapping[str, float]
    errors: Mapping[str, int]


@dataclass(frozen=True)
class LoadFigures:
    """What became of all calls, and what it cost to send them.

    Args:
        kinds: By kind of call; those that were not asked are not there.
        duration_s: For how long calls were begun.
        generator_cpu: Cores that sending took, of all processes together.
        late_p99_ms: How long after they were due calls of an open loop were sent: the 99th
            percentile. Much of it means that the sender could not keep up.
    """

    kinds: Mapping[Kind, KindFigures]
    duration_s: float
    generator_cpu: float
    late_p99_ms: float


def latency_figures(latencies_s: NDArray[np.float64]) -> dict[str, float]:
    """Percentiles, mean and largest in milliseconds; empty where there is nothing."""
    if not latencies_s.size:
        return {}
    values = 1000 * latencies_s
    found = {name: float(np.percentile(values, q)) for name, q in PERCENTILES.items()}
    return {**found, "mean": float(values.mean()), "max": float(values.max())}


def kind_figures(recordings: Sequence[Recording], duration_s: float) -> KindFigures:
    """The figures of what several processes noted of one kind."""
    latencies = np.concatenate([np.asarray(one.latencies_s, np.float64) for one in recordings])
    codes: Counter[str] = Counter()
    for one in recordings:
        codes.update(one.codes)
    return KindFigures(
        answered=int(latencies.size),
        per_s=sum(one.num_in_time for one in recordings) / duration_s,
        latency_ms=latency_figures(latencies),
        errors=dict(sorted(codes.items())),
    )
