"""What models have done, counted from real queues and models."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from tests.serve.scheduling.pending import MadeBy
from tests.serve.stand_in import stand_in

from limelens.serve.bundle import Bundle, load_bundle
from limelens.serve.errors import InvalidImageError
from limelens.serve.repository.model_version import ModelVersion
from limelens.serve.rpc.inference.responses import model_statistics
from limelens.serve.scheduling.cpu import CpuEngine
from limelens.serve.scheduling.gpu import GpuEngine
from limelens.serve.scheduling.statistics import Runs, Statistics, StatisticsCollector, total

PIXELS = np.full((32, 32, 3), 200, np.uint8)


@pytest.fixture
def bundle(one_model: Path) -> Bundle:
    return load_bundle(one_model / "colours" / "1", "cpu")


def ask(
    bundle: Bundle,
    collector: StatisticsCollector,
    prepare: list[Callable[[], Any]],
    **deadline: Any,
) -> Any:
    engine: CpuEngine | GpuEngine
    if bundle.runs is None:
        engine = CpuEngine(num_threads=2, on_completion=collector.record)
    else:
        engine = GpuEngine(bundle.runs.thread, num_threads=2, on_completion=collector.record)
    try:
        return asyncio.run(engine.classify(bundle, [MadeBy(one) for one in prepare], **deadline))
    finally:
        engine.close()


def test_an_unused_model_has_no_counts(bundle: Bundle) -> None:
    found = StatisticsCollector().of(bundle.path)
    assert (found.answered, found.failed, found.last_answered_at) == (0, 0, 0)
    message = model_statistics(ModelVersion("colours", 1, bundle), found)
    assert (message.inference_count, message.execution_count) == (0, 0)
    assert not message.batch_stats


def test_the_runs_of_joined_images_are_counted_once_each(bundle: Bundle) -> None:
    collector = StatisticsCollector()
    ask(stand_in(bundle.path), collector, [lambda: PIXELS] * 20)
    found = collector.of(bundle.path)
    assert found.answered == 20
    assert sum(runs.images for runs in found.runs.values()) == 20
    assert all(runs.images % size == 0 for size, runs in found.runs.items())
    message = model_statistics(ModelVersion("colours", 1, bundle), found)
    assert message.inference_count == 20
    sizes = {batch.batch_size: batch.compute_infer.count for batch in message.batch_stats}
    assert sum(size * count for size, count in sizes.items()) == 20
    assert message.execution_count == sum(sizes.values())
    assert message.inference_stats.compute_infer.ns == pytest.approx(
        sum(batch.batch_size * batch.compute_infer.ns for batch in message.batch_stats), abs=100
    )


def test_images_that_cannot_be_read_are_failures(bundle: Bundle) -> None:
    collector = StatisticsCollector()

    def unreadable() -> np.ndarray:
        raise InvalidImageError("damaged")

    with pytest.raises(InvalidImageError):
        ask(bundle, collector, [unreadable])
    found = collector.of(bundle.path)
    assert (found.answered, found.failed) == (0, 1)
    assert found.failed_s > 0


def test_a_version_loaded_again_goes_on_counting(bundle: Bundle) -> None:
    collector = StatisticsCollector()
    ask(bundle, collector, [lambda: PIXELS])
    again = load_bundle(bundle.path, "cpu")
    ask(again, collector, [lambda: PIXELS])
    assert collector.of(bundle.path).answered == collector.of(again.path).answered == 2


def test_statistics_of_several_processes_add_up() -> None:
    one = Statistics(1.0, 2, 0.5, 7.0, {1: Runs(3, 0.1, 0.2), 8: Runs(8, 0.2, 0.4)})
    other = Statistics(2.0, 1, 0.5, 9.0, {1: Runs(2, 0.1, 0.3)})
    both = total([one, other])
    assert (both.answered, both.failed, both.last_answered_at) == (13, 3, 9.0)
    assert both.runs[1].images == 5
    assert both.waited_s == pytest.approx(3.0)
    assert both.run_s == pytest.approx(0.9)
    assert total([]) == Statistics()
