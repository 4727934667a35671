"""Puts a plan's load on a server from several processes; joins their records to metrics."""

from __future__ import annotations

import multiprocessing
import time
from collections import Counter
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from multiprocessing.connection import Connection
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

from limelens.serve.errors import LimelensError, UnavailableError
from limelens.serve.tools.load.callers import Recorded, call_in_process
from limelens.serve.tools.load.plan import Kind, LoadPlan

_CONNECT_S: Final = 15.0
_LAST_RESPONSES_S: Final = 300.0
_PERCENTILES: Final = {"p50": 50.0, "p90": 90.0, "p99": 99.0, "p99_9": 99.9}


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
        generator_cpu: Cores that sending took, of all processes together.
        late_p99_ms: How late calls of an open loop were sent, the 99th percentile. If it is
            large, the sender could not keep up.
    """

    kinds: Mapping[Kind, KindMetrics]
    generator_cpu: float
    late_p99_ms: float


def latency_metrics(latencies_s: NDArray[np.float64]) -> dict[str, float]:
    """Percentiles, mean and maximum in milliseconds; empty without latencies."""
    if not latencies_s.size:
        return {}
    values = 1000 * latencies_s
    found = {name: float(np.percentile(values, q)) for name, q in _PERCENTILES.items()}
    return {**found, "mean": float(values.mean()), "max": float(values.max())}


def generate(
    plan: LoadPlan,
    on_begin: Callable[[], None] = lambda: None,
    on_end: Callable[[], None] = lambda: None,
) -> LoadMetrics:
    """Makes the calls of a plan from processes of their own.

    `on_begin` is called when counting begins, `on_end` when no more calls begin.

    Raises:
        UnavailableError: The server could not be reached.
        LimelensError: A process of callers failed.
    """
    # Forked processes would inherit broken halves of gRPC's threads.
    context = multiprocessing.get_context("spawn")
    processes: list[Any] = []
    connections: list[Connection] = []
    try:
        for number in range(plan.num_processes):
            ours, theirs = context.Pipe()
            process = context.Process(
                target=call_in_process, args=(plan, number, theirs), daemon=True
            )
            process.start()
            theirs.close()
            processes.append(process)
            connections.append(ours)
        for connection in connections:
            _received(connection)  # loading what it needs takes seconds on a busy machine
        connected_by = time.monotonic() + _CONNECT_S
        for connection in connections:
            if not connection.poll(_until(connected_by)):
                spoken = "plaintext" if plan.tls is None else "TLS"
                raise UnavailableError(
                    f"no server answers on {plan.server} in {spoken}; expected a limelens server "
                    f"that speaks it; limelens doctor --server {plan.server} finds out why"
                )
            _received(connection)
        begin = time.monotonic() + plan.warmup_s + 0.05
        for connection in connections:
            connection.send(begin)
        time.sleep(_until(begin))
        on_begin()
        end = begin + plan.duration_s
        if plan.calls_each is None:
            time.sleep(_until(end))
        else:
            for connection in connections:  # callers may be done sooner
                connection.poll(_until(end))
        on_end()
        last_s = max(_LAST_RESPONSES_S, plan.explain_deadline_s)
        found = []
        for connection in connections:
            if not connection.poll(last_s):
                raise LimelensError(f"calls did not end within {last_s:g} s after the last began")
            found.append(_received(connection))
    finally:
        for process, connection in zip(processes, connections, strict=True):
            connection.close()
            process.terminate()
            process.join()
    lateness = np.concatenate([np.asarray(one.lateness_s, np.float64) for one in found])
    kinds = {*plan.closed_loops, *([Kind.CLASSIFY] if plan.is_open else [])}
    return LoadMetrics(
        {kind: _kind_metrics(kind, found, plan.duration_s) for kind in Kind if kind in kinds},
        generator_cpu=sum(one.cpu_s for one in found) / plan.duration_s,
        late_p99_ms=float(np.percentile(1000 * lateness, 99)) if lateness.size else 0.0,
    )


def _kind_metrics(kind: Kind, recorded: list[Recorded], duration_s: float) -> KindMetrics:
    parts = [one.recordings[kind] for one in recorded]
    latencies = np.concatenate([np.asarray(one.latencies_s, np.float64) for one in parts])
    return KindMetrics(
        answered=int(latencies.size),
        per_s=sum(one.num_in_time for one in parts) / duration_s,
        latency_ms=latency_metrics(latencies),
        errors=dict(sorted(sum((one.errors for one in parts), Counter[str]()).items())),
    )


def _until(moment: float) -> float:
    return max(0.0, moment - time.monotonic())


def _received(connection: Connection) -> Any:
    try:
        found = connection.recv()
    except EOFError:
        raise LimelensError("a process of callers ended without a report") from None
    if isinstance(found, str) and found not in ("started", "ready"):
        raise LimelensError(f"a process of callers failed: {found}")
    return found
