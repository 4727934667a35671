"""One page of metrics for all workers.

Workers count into files that outlive them, in the multi-process mode of prometheus-client, so that
nothing that was counted is lost with a worker, and one that is started in its place counts on. What
is true of the moment (queues, streams) is asked of the workers when somebody reads.
"""

from __future__ import annotations

import os
import resource
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from typing import Final

from prometheus_client import CollectorRegistry, PlatformCollector, ProcessCollector, values
from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, Metric
from prometheus_client.multiprocess import MultiProcessCollector, mark_process_dead
from prometheus_client.registry import Collector

from limelens.serve.observing.metrics import ModelsCollector
from limelens.serve.repository.model_repository import ModelVersions

_CPU: Final = "process_cpu_seconds"
_OF_ALL: Final = (
    "process_resident_memory_bytes",
    "process_virtual_memory_bytes",
    "process_open_fds",
)


def count_into(folder: Path, number: int) -> None:
    """Has the metrics that this process makes from now on counted in files.

    Args:
        folder: Where.
        number: Of the worker. One that takes another's place has its number, and counts on.
    """
    os.environ["PROMETHEUS_MULTIPROC_DIR"] = str(folder)
    values.ValueClass = values.MultiProcessValue(lambda: number)  # type: ignore[no-untyped-call]


def forget_state(folder: Path, number: int) -> None:
    """Drops what was true of a moment in a worker that is gone; what it counted stays."""
    mark_process_dead(number, str(folder))  # type: ignore[no-untyped-call]


class Totals:
    """What is told of all workers; `registry` is what is read.

    Args:
        folder: Into which they count.
        models: What they serve.
        sample: Has them note the state of this moment, and waits for it; from any thread.
        workers: The process ids of those that answer.
        restarts: How often one was started in place of another.
    """

    def __init__(
        self,
        folder: Path,
        models: ModelVersions,
        *,
        sample: Callable[[], None],
        workers: Callable[[], Iterable[int]],
        restarts: Callable[[], int],
    ) -> None:
        self.registry = CollectorRegistry()
        # In this order: the others read what the first had noted.
        self.registry.register(_Sampling(sample))
        MultiProcessCollector(self.registry, str(folder))  # type: ignore[no-untyped-call]
        self.registry.register(ModelsCollector(models))
        self.registry.register(_Processes(workers, restarts))
        PlatformCollector(registry=self.registry)


class _Lazy(Collector):
    def describe(self) -> Iterable[Metric]:
        """Nothing is looked up when it is registered."""
        return ()


class _Sampling(_Lazy):
    def __init__(self, sample: Callable[[], None]) -> None:
        self._sample = sample

    def collect(self) -> Iterator[Metric]:
        self._sample()
        return iter(())


class _Processes(_Lazy):
    """The machine's side: memory, files and CPU of this process and the workers together."""

    def __init__(self, workers: Callable[[], Iterable[int]], restarts: Callable[[], int]) -> None:
        self._workers = workers
        self._restarts = restarts

    def collect(self) -> Iterator[Metric]:
        workers = tuple(self._workers())
        # The processor's time of those that are gone is this process's children's.
        gone = resource.getrusage(resource.RUSAGE_CHILDREN)
        sums = {_CPU: gone.ru_utime + gone.ru_stime}
        own = {one.name: one for one in ProcessCollector(registry=None).collect()}
        for pid in (os.getpid(), *workers):
            collector = ProcessCollector(pid=lambda pid=pid: pid, registry=None)  # type: ignore[misc]
            for family in collector.collect():
                sums[family.name] = sums.get(family.name, 0.0) + family.samples[0].value
        for name, family in own.items():
            if name == _CPU:
                yield CounterMetricFamily(name, family.documentation, value=sums[name])
            elif name in _OF_ALL:
                yield GaugeMetricFamily(name, family.documentation, value=sums[name])
            else:  # when it was started, and how many files each may open
                yield family
        yield GaugeMetricFamily(
            "limelens_workers", "Processes that answer calls.", value=len(workers)
        )
        yield CounterMetricFamily(
            "limelens_worker_restarts",
            "Processes that were started in place of one that ended.",
            value=self._restarts(),
        )
