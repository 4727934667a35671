"""Order, deadlines and bounds of the queue, on the CPU."""

from __future__ import annotations

import asyncio
import threading
import time
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
from tests.serve.scheduling.pending import MadeBy
from tests.waiting import slow_by_async, until_async

from limelens.serve import load_bundle
from limelens.serve.bundle import Bundle
from limelens.serve.errors import ExpiredError, ModelOutputError, OverloadedError
from limelens.serve.scheduling.cpu import CpuEngine
from limelens.serve.scheduling.inference import (
    Completion,
    FittedImage,
    InferenceStatus,
    Priority,
)


class Gate:
    """A session that waits until it is opened, and records what it ran."""

    def __init__(self, session: Any) -> None:
        self.session = session
        self.opened = threading.Event()
        self.entered = threading.Event()
        self.batches: list[list[int]] = []

    def run(self, outputs: list[str], feed: dict[str, np.ndarray]) -> Any:
        self.entered.set()
        assert self.opened.wait(120)
        self.batches.append(feed["images"][:, 0, 0, 0].tolist())
        return self.session.run(outputs, feed)


@pytest.fixture
def gate(one_model: Path) -> Gate:
    return Gate(load_bundle(one_model / "colours" / "1", "cpu").session)


@pytest.fixture
def bundle(one_model: Path, gate: Gate) -> Bundle:
    return replace(load_bundle(one_model / "colours" / "1", "cpu"), session=gate)


@pytest.fixture
def engines(gate: Gate) -> Iterator[Any]:
    started: list[CpuEngine] = []

    def start(**settings: Any) -> CpuEngine:
        started.append(CpuEngine(**{"num_threads": 1, **settings}))
        return started[-1]

    yield start
    gate.opened.set()
    for engine in started:
        engine.close()


def image(value: int) -> Any:
    """An image of one colour, which `Gate.batches` records when it runs."""
    return FittedImage(np.full((32, 32, 3), value, np.uint8))


async def occupied(engine: CpuEngine, bundle: Bundle, gate: Gate) -> asyncio.Task[Any]:
    """Keeps the only worker busy until the gate is opened."""
    task = asyncio.create_task(engine.classify(bundle, [image(0)]))
    assert await asyncio.to_thread(gate.entered.wait, 60)
    return task


async def queued(*coroutines: Any) -> list[asyncio.Task[Any]]:
    tasks = [asyncio.create_task(one) for one in coroutines]
    await asyncio.sleep(0)  # they put their images into the queue
    return tasks


async def test_results_keep_the_order_of_the_images(
    engines: Any, bundle: Bundle, gate: Gate
) -> None:
    gate.opened.set()
    engine = engines(num_threads=3)
    values = list(range(0, 250, 5))
    results = await engine.classify(bundle, [image(v) for v in values], embed=True)
    found = [one.embedding[0] * 255 for one in results]
    np.testing.assert_allclose(found, values, atol=0.01)
    assert engine.counts.run == len(values)


async def test_calls_that_come_one_by_one_stay_on_one_thread(
    engines: Any, bundle: Bundle, gate: Gate
) -> None:
    gate.opened.set()
    engine = engines(num_threads=3)
    at_work: list[int] = []

    def prepared() -> np.ndarray:
        at_work.append(threading.get_ident())
        return np.zeros((32, 32, 3), np.uint8)

    for _ in range(6):
        await until_async(lambda: engine.longest_at_work_s == 0)
        await slow_by_async(0.05)  # until the thread that worked waits again
        await engine.classify(bundle, [MadeBy(prepared)])
    assert len(set(at_work)) == 1


async def test_camera_frames_go_first(engines: Any, bundle: Bundle, gate: Gate) -> None:
    engine = engines()
    first = await occupied(engine, bundle, gate)
    others = await queued(
        engine.classify(bundle, [image(1)]),
        engine.classify(bundle, [image(2)]),
        engine.classify(bundle, [image(9)], priority=Priority.FRAME),
    )
    gate.opened.set()
    await asyncio.gather(first, *others)
    assert gate.batches == [[0], [9], [1], [2]]


async def test_a_large_request_lets_others_pass_and_is_not_starved(
    engines: Any, bundle: Bundle, gate: Gate
) -> None:
    engine = engines()
    first = await occupied(engine, bundle, gate)
    large = engine.classify(bundle, [image(100 + i) for i in range(6)])
    small = [engine.classify(bundle, [image(1 + i)]) for i in range(20)]
    tasks = await queued(large, *small)
    gate.opened.set()
    await asyncio.gather(first, *tasks)
    order = [batch[0] for batch in gate.batches]
    assert order.index(1) < order.index(101)
    assert order.index(101) < order.index(12)
    assert order.index(102) < order.index(20)


async def test_what_continues_a_request_is_not_refused_and_passes_what_waits(
    engines: Any, bundle: Bundle, gate: Gate
) -> None:
    engine = engines(max_queue=1)
    first = await occupied(engine, bundle, gate)
    waiting = asyncio.create_task(engine.classify(bundle, [image(1)]))
    await until_async(lambda: engine.num_waiting == 1)
    faces = [image(value) for value in (2, 3, 4)]
    continued = asyncio.create_task(engine.classify(bundle, faces, continues=True))
    await until_async(lambda: engine.num_queued == 4)
    assert engine.num_waiting == 1
    gate.opened.set()
    await asyncio.gather(first, waiting, continued)
    assert gate.batches[1:] == [[2], [3], [4], [1]]


async def test_expired_images_never_run(engines: Any, bundle: Bundle, gate: Gate) -> None:
    engine = engines()
    first = await occupied(engine, bundle, gate)
    deadline = time.monotonic() + 0.05
    tasks = await queued(
        *(engine.classify(bundle, [image(i)], deadline=deadline) for i in range(1, 31)),
        engine.classify(bundle, [image(77)]),
    )
    await until_async(lambda: time.monotonic() >= deadline)
    gate.opened.set()
    results = await asyncio.gather(first, *tasks, return_exceptions=True)
    assert sum(isinstance(one, ExpiredError) for one in results) == 30
    assert gate.batches == [[0], [77]]
    assert (engine.counts.run, engine.counts.dropped) == (2, 30)


async def test_cancelled_images_never_run(engines: Any, bundle: Bundle, gate: Gate) -> None:
    engine = engines(max_queue=4)
    first = await occupied(engine, bundle, gate)
    (gone,) = await queued(engine.classify(bundle, [image(i) for i in range(1, 5)]))
    with pytest.raises(OverloadedError):
        await engine.classify(bundle, [image(50)])
    gone.cancel()
    await asyncio.sleep(0)
    # Its place is free at once, not only when its turn would have come.
    (stays,) = await queued(engine.classify(bundle, [image(i) for i in range(11, 15)]))
    gate.opened.set()
    await asyncio.gather(first, stays)
    assert sorted(batch[0] for batch in gate.batches) == [0, 11, 12, 13, 14]


async def test_a_full_queue_sends_a_retry_delay(engines: Any, bundle: Bundle, gate: Gate) -> None:
    engine = engines(max_queue=3)
    first = await occupied(engine, bundle, gate)
    tasks = await queued(engine.classify(bundle, [image(1)] * 2))
    with pytest.raises(OverloadedError, match="the queue holds 3") as caught:
        await engine.classify(bundle, [image(1)] * 2)
    assert caught.value.retry_after_s > 0
    frame = await queued(engine.classify(bundle, [image(9)], priority=Priority.FRAME))
    gate.opened.set()
    await asyncio.gather(first, *tasks, *frame)
    assert engine.counts.refused == 2
    # Nothing leaked: as many fit as before.
    await engine.classify(bundle, [image(1)] * 3)


async def test_one_bad_image_fails_its_request_alone(
    engines: Any, bundle: Bundle, gate: Gate
) -> None:
    gate.opened.set()
    engine = engines(num_threads=2, max_queue=8)

    def bad() -> np.ndarray:
        raise ValueError("no image")

    results = await asyncio.gather(
        engine.classify(bundle, [image(1)]),
        engine.classify(bundle, [image(2), MadeBy(bad), image(3)]),
        engine.classify(bundle, [image(4)]),
        return_exceptions=True,
    )
    assert isinstance(results[1], ValueError)
    assert [isinstance(one, list) for one in results] == [True, False, True]
    for _ in range(3):
        await engine.classify(bundle, [image(1)] * 8)


async def test_other_images_do_not_change_a_result(
    engines: Any, bundle: Bundle, gate: Gate
) -> None:
    gate.opened.set()
    engine = engines(num_threads=2)
    pixels = np.random.default_rng(3).integers(0, 256, (32, 32, 3), dtype=np.uint8)
    (alone,) = await engine.classify(bundle, [FittedImage(pixels)])
    one = FittedImage(pixels)
    calls = [engine.classify(bundle, [one, *[image(i)] * (i % 4)]) for i in range(40)]
    for results in await asyncio.gather(*calls):
        assert results[0].probabilities.tobytes() == alone.probabilities.tobytes()


class Picky:
    """A session that fails for a poisonous image, or for more images than it can hold."""

    def __init__(self, session: Any, most: int, message: str) -> None:
        self.session, self.most, self.message = session, most, message

    def run(self, outputs: list[str], feed: dict[str, np.ndarray]) -> Any:
        if len(feed["images"]) > self.most:
            raise RuntimeError(self.message)
        results = self.session.run(outputs, feed)
        results[0][feed["images"][:, 0, 0, 0] == 66] = np.nan
        return results


async def test_an_image_with_unusable_numbers_fails_alone(
    engines: Any, bundle: Bundle, gate: Gate
) -> None:
    picky = replace(bundle, session=Picky(gate.session, 100, ""))
    engine = engines(num_threads=4)
    values = [1, 2, 66, 3, 4, 5]
    results = await asyncio.gather(
        *(engine.classify(picky, [image(v)]) for v in values), return_exceptions=True
    )
    assert [type(one) for one in results] == [list, list, ModelOutputError, list, list, list]
    assert engine.counts.not_finite == 1


class Short:
    """A bundle that gives fewer rows than it was given images."""

    name = "short"
    metadata = SimpleNamespace(resize=None)

    def __init__(self, num_rows: int) -> None:
        self.num_rows = num_rows

    def predict(self, _images: np.ndarray) -> np.ndarray:
        return np.ones((self.num_rows, 3), np.float32)


async def test_no_output_of_a_model_ends_a_thread(engines: Any, bundle: Bundle, gate: Gate) -> None:
    gate.opened.set()
    engine = engines(num_threads=1)
    async with asyncio.timeout(60):
        for _ in range(3):
            with pytest.raises(IndexError):
                await engine.classify(Short(0), [image(1), image(2)])
        sizes: Any = [FittedImage(np.zeros((4, 4, 3), np.uint8)), image(3)]
        results = await asyncio.gather(
            *(engine.classify(Short(1), [one]) for one in sizes * 4), return_exceptions=True
        )
        assert all(isinstance(one, list) for one in results)
        assert len(await engine.classify(bundle, [image(1)])) == 1


async def test_a_lack_of_memory_is_an_overload(engines: Any, bundle: Bundle, gate: Gate) -> None:
    words = "Failed to allocate memory for requested buffer of size 1"
    engine = engines()
    none = replace(bundle, session=Picky(gate.session, 0, words))
    with pytest.raises(OverloadedError, match="no memory left"):
        await engine.classify(none, [image(1)])


async def test_closing_ends_waiting_requests(engines: Any, bundle: Bundle, gate: Gate) -> None:
    engine = engines()
    first = await occupied(engine, bundle, gate)
    tasks = await queued(engine.classify(bundle, [image(1)]))
    closing = asyncio.create_task(asyncio.to_thread(engine.close))
    await asyncio.wait(tasks)
    gate.opened.set()
    await closing
    results = await asyncio.gather(first, *tasks, return_exceptions=True)
    assert isinstance(results[1], OverloadedError)
    with pytest.raises(OverloadedError):
        await engine.classify(bundle, [image(1)])


async def test_a_flood_of_cancelled_calls_keeps_memory_bounded(
    engines: Any, bundle: Bundle, gate: Gate
) -> None:
    engine = engines(max_queue=16)
    first = await occupied(engine, bundle, gate)
    for _ in range(400):
        (task,) = await queued(engine.classify(bundle, [image(1)] * 16))
        task.cancel()
        await asyncio.sleep(0)
    assert engine.num_queued < 3 * 16 + 1100
    gate.opened.set()
    await first
    assert gate.batches == [[0]]


async def test_how_each_image_ended_is_reported(engines: Any, bundle: Bundle, gate: Gate) -> None:
    reported: list[Completion] = []
    engine = engines(on_completion=reported.append)
    pixels = np.zeros((*bundle.input_size, 3), np.uint8)

    def unreadable() -> np.ndarray:
        raise ValueError("no image")

    first = asyncio.create_task(engine.classify(bundle, [FittedImage(pixels)]))
    assert await asyncio.to_thread(gate.entered.wait, 60)
    late = asyncio.create_task(
        engine.classify(bundle, [FittedImage(pixels)], deadline=time.monotonic())
    )
    broken = asyncio.create_task(
        engine.classify(bundle, [MadeBy(unreadable)], priority=Priority.FRAME)
    )
    await until_async(lambda: engine.num_queued == 2)
    await slow_by_async(0.06)  # the model; both wait as long
    gate.opened.set()
    await first
    with pytest.raises(ExpiredError):
        await late
    with pytest.raises(ValueError, match="no image"):
        await broken
    engine.close()

    by_status = {one.status: one for one in reported}
    assert sorted(by_status) == [
        InferenceStatus.ANSWERED,
        InferenceStatus.DROPPED,
        InferenceStatus.UNREADABLE,
    ]
    assert (
        by_status[InferenceStatus.ANSWERED].batch_size,
        by_status[InferenceStatus.DROPPED].batch_size,
    ) == (1, 0)
    assert by_status[InferenceStatus.DROPPED].waited_s >= 0.05
    assert by_status[InferenceStatus.UNREADABLE].priority is Priority.FRAME
    assert all(one.run_s == 0 for one in reported if one.status is not InferenceStatus.ANSWERED)
