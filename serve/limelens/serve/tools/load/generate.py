"""Puts a plan's load on a server: processes of callers begin together, their notes are joined."""

from __future__ import annotations

import multiprocessing
import time
from collections.abc import Callable
from multiprocessing.connection import Connection
from multiprocessing.process import BaseProcess
from typing import Final

import numpy as np

from limelens.serve.errors import LimelensError, UnavailableError
from limelens.serve.tools.load.callers import Noted, Share, call_in_process
from limelens.serve.tools.load.figures import LoadFigures, kind_figures
from limelens.serve.tools.load.plan import Kind, LoadPlan

_CONNECT_S: Final = 15.0
_LAST_ANSWERS_S: Final = 300.0


def generate(
    plan: LoadPlan,
    on_begin: Callable[[], None] = lambda: None,
    on_end: Callable[[], None] = lambda: None,
) -> LoadFigures:
    """Sends what a plan says, from processes of their own.

    Args:
        plan: The load.
        on_begin: Called when counting begins.
        on_end: Called when no more calls are begun.

    Raises:
        UnavailableError: The server could not be reached.
        LimelensError: A process of callers failed.
    """
    # Forked processes would inherit gRPC's threads half alive.
    context = multiprocessing.get_context("spawn")
    started: list[tuple[BaseProcess, Connection]] = []
    try:
        for number in range(plan.num_processes):
            ours, theirs = context.Pipe()
            process = context.Process(
                target=call_in_process, args=(Share(plan, number), theirs), daemon=True
            )
            process.start()
            theirs.close()
            started.append((process, ours))
        deadline = time.monotonic() + _CONNECT_S
        for _, connection in started:
            if not connection.poll(max(0.0, deadline - time.monotonic())):
                spoken = "plaintext" if plan.tls is None else "TLS"
                raise UnavailableError(
                    f"nobody answers on {plan.server} in {spoken}; expected a limelens server "
                    f"that speaks it; limelens doctor --server {plan.server} looks closer"
                )
            _received(connection)
        begin = time.monotonic() + plan.warmup_s + 0.05
        for _, connection in started:
            connection.send(begin)
        time.sleep(max(0.0, begin - time.monotonic()))
        on_begin()
        time.sleep(_until_over(plan, begin, [connection for _, connection in started]))
        on_end()
        last = max(_LAST_ANSWERS_S, plan.explain_deadline_s)
        noted: list[Noted] = []
        for _, connection in started:
            if not connection.poll(last):
                raise LimelensError(f"calls were not answered within {last:g} s after the last")
            found = _received(connection)
            assert isinstance(found, Noted)
            noted.append(found)
    finally:
        for one, connection in started:
            connection.close()
            one.terminate()
            one.join()
    duration_s = plan.duration_s
    lateness = np.concatenate([np.asarray(one.lateness_s, np.float64) for one in noted])
    asked = {
        Kind.CLASSIFY: bool(plan.callers or plan.rate),
        Kind.STREAM: bool(plan.streams),
        Kind.EXPLAIN: bool(plan.explainers),
    }
    return LoadFigures(
        kinds={
            kind: kind_figures([one.recordings[kind] for one in noted], duration_s)
            for kind in Kind
            if asked[kind]
        },
        duration_s=duration_s,
        generator_cpu=sum(one.cpu_s for one in noted) / duration_s,
        late_p99_ms=float(np.percentile(1000 * lateness, 99)) if lateness.size else 0.0,
    )


def _until_over(plan: LoadPlan, begin: float, connections: list[Connection]) -> float:
    """Seconds until no more calls are begun; waits itself where callers may be done sooner."""
    end = begin + plan.duration_s
    if plan.calls_each is None:
        return max(0.0, end - time.monotonic())
    for connection in connections:
        connection.poll(max(0.0, end - time.monotonic()))
    return 0.0


def _received(connection: Connection) -> object:
    try:
        found = connection.recv()
    except EOFError:
        raise LimelensError("a process of callers ended without a word") from None
    if isinstance(found, str) and found != "ready":
        raise LimelensError(f"a process of callers failed: {found}")
    return found
