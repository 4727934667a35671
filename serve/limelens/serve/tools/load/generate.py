"""Puts a plan's load on a server from several processes, and joins their records."""

from __future__ import annotations

import multiprocessing
import time
from collections.abc import Callable
from multiprocessing.connection import Connection
from typing import Any, Final

import numpy as np

from limelens.serve.errors import LimelensError, UnavailableError
from limelens.serve.tools.load.callers import call_in_process
from limelens.serve.tools.load.metrics import LoadMetrics, kind_metrics
from limelens.serve.tools.load.plan import Kind, LoadPlan

_CONNECT_S: Final = 15.0
_LAST_RESPONSES_S: Final = 300.0


def generate(
    plan: LoadPlan,
    on_begin: Callable[[], None] = lambda: None,
    on_end: Callable[[], None] = lambda: None,
) -> LoadMetrics:
    """Makes the calls of a plan from processes of their own.

    Args:
        plan: The load.
        on_begin: Called when counting begins.
        on_end: Called when no more calls begin.

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
        kinds={
            kind: kind_metrics([one.recordings[kind] for one in found], plan.duration_s)
            for kind in Kind
            if kind in kinds
        },
        duration_s=plan.duration_s,
        generator_cpu=sum(one.cpu_s for one in found) / plan.duration_s,
        late_p99_ms=float(np.percentile(1000 * lateness, 99)) if lateness.size else 0.0,
    )


def _until(moment: float) -> float:
    return max(0.0, moment - time.monotonic())


def _received(connection: Connection) -> Any:
    try:
        found = connection.recv()
    except EOFError:
        raise LimelensError("a process of callers ended without a report") from None
    if isinstance(found, str) and found != "ready":
        raise LimelensError(f"a process of callers failed: {found}")
    return found
