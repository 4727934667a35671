"""One page of metrics for all workers.

Workers count into files that outlive them, in the multi-process mode of prometheus-client: no count
is lost with a worker, and its replacement counts on. Gauges (queues, streams) are sampled by the
workers when the page is read.
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
from limelens.serve.repository.registry import ModelRegistry

_CPU: Final = "process_cpu_seconds"
_OF_ALL: Final = (
    "process_resident_memory_bytes",
    "process_virtual_memory_bytes",
    "process_open_fds",
)


def count_into(folder: Path, number: int) -> None:
    """Makes metrics that this process creates from now on count into files of its own."""
    os.environ["PROMETHEUS_MULTIPROC_DIR"] = str(folder)
    values.ValueClass = values.MultiProcessValue(lambda: number)  # type: ignore[no-untyped-call]


def forget_state(folder: Path, number: int) -> None:
    """Drops the gauges of a worker that is gone; its counts stay."""
    mark_process_dead(number, str(folder))  # type: ignore[no-untyped-call]


class MetricsPage:
    """The metrics of all workers, in `registry`.

    Args:
        folder: That they count into.
        models: What they serve.
        sample: Has the workers set their gauges, and waits for it; called in any thread.
        workers: Returns the process ids of the workers that serve.
        restarts: Returns how often a worker was replaced.
    """

    def __init__(
        self,
        folder: Path,
        models: ModelRegistry,
        *,
        sample: Callable[[], None],
        workers: Callable[[], Iterable[int]],
        restarts: Callable[[], int],
    ) -> None:
        self.registry = CollectorRegistry()
        # Sampling first: the others read the gauges.
        self.registry.register(_Sampling(sample))
        MultiProcessCollector(self.registry, str(folder))  # type: ignore[no-untyped-call]
        self.registry.register(ModelsCollector(models))
        self.registry.register(_Processes(workers, restarts))
        PlatformCollector(registry=self.registry)


class _Lazy(Collector):
    def describe(self) -> Iterable[Metric]:
        """Collects nothing when it is registered."""
        return ()


class _Sampling(_Lazy):
    def __init__(self, sample: Callable[[], None]) -> None:
        self._sample = sample

    def collect(self) -> Iterator[Metric]:
        self._sample()
        return iter(())


class _Processes(_Lazy):
    """Memory, files and CPU of this process and the workers together."""

    def __init__(self, workers: Callable[[], Iterable[int]], restarts: Callable[[], int]) -> None:
        self._workers = workers
        self._restarts = restarts

    def collect(self) -> Iterator[Metric]:
        workers = tuple(self._workers())
        # The CPU time of workers that are gone counts as that of this process's children.
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
            else:  # its start time, and how many files each process may open
                yield family
        yield GaugeMetricFamily(
            "limelens_workers", "Processes that serve calls.", value=len(workers)
        )
        yield CounterMetricFamily(
            "limelens_worker_restarts",
            "Processes that replaced one that ended.",
            value=self._restarts(),
        )
