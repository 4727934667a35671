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


def metrics_of_all(
    folder: Path,
    models: ModelRegistry,
    *,
    sample: Callable[[], None],
    workers: Callable[[], Iterable[int]],
    owners: Callable[[], Iterable[int]],
    restarts: Callable[[], int],
) -> CollectorRegistry:
    """The metrics of all workers, and of the processes that own a device."""
    registry = CollectorRegistry()
    registry.register(_Sampling(sample))  # first: the others read the gauges
    MultiProcessCollector(registry, str(folder))  # type: ignore[no-untyped-call]
    registry.register(ModelsCollector(models))
    registry.register(_Processes(workers, owners, restarts))
    PlatformCollector(registry=registry)
    return registry


class _Sampling(Collector):
    def __init__(self, sample: Callable[[], None]) -> None:
        self._sample = sample

    def collect(self) -> Iterator[Metric]:
        self._sample()
        return iter(())


class _Processes(Collector):
    """Memory, files and CPU of this process and its children together."""

    def __init__(
        self,
        workers: Callable[[], Iterable[int]],
        owners: Callable[[], Iterable[int]],
        restarts: Callable[[], int],
    ) -> None:
        self._workers = workers
        self._owners = owners
        self._restarts = restarts

    def collect(self) -> Iterator[Metric]:
        workers = tuple(self._workers())
        # The CPU time of workers that are gone counts as that of this process's children.
        gone = resource.getrusage(resource.RUSAGE_CHILDREN)
        sums = {_CPU: gone.ru_utime + gone.ru_stime}
        own = {one.name: one for one in ProcessCollector(registry=None).collect()}
        for pid in (os.getpid(), *workers, *self._owners()):
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
