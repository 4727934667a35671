"""Order, deadlines and bounds of the queue."""

from __future__ import annotations

import asyncio
import threading
import time
from collections.abc import Iterator
from dataclasses import replace
from itertools import chain
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from limelens.serve import load_bundle
from limelens.serve.bundle import Bundle
from limelens.serve.errors import ExpiredError, ModelOutputError, OverloadedError
from limelens.serve.scheduler import Ended, Fate, Priority, Scheduler


class Gate:
    """A session that waits until it is opened, and notes what it ran."""

    def __init__(self, session: Any) -> None:
        self.session = session
        self.opened = threading.Event()
        self.entered = threading.Event()
        self.batches: list[list[int]] = []

    def run(self, outputs: list[str], feed: dict[str, np.ndarray]) -> Any:
        self.entered.set()
        assert self.opened.wait(10)
        self.batches.append(feed["images"][:, 0, 0, 0].tolist())
        return self.session.run(outputs, feed)


@pytest.fixture
def gate(one_model: Path) -> Gate:
    return Gate(load_bundle(one_model / "colours" / "1", "cpu").session)


@pytest.fixture
def bundle(one_model: Path, gate: Gate) -> Bundle:
    return replace(load_bundle(one_model / "colours" / "1", "cpu"), session=gate)


@pytest.fixture
def schedulers(gate: Gate) -> Iterator[Any]:
    started: list[Scheduler] = []

    def start(**settings: Any) -> Scheduler:
        started.append(Scheduler(**{"num_threads": 1, **settings}))
        return started[-1]

    yield start
    gate.opened.set()
    for scheduler in started:
        scheduler.close()


def picture(value: int) -> Any:
    """Prepares a picture of one colour, which tells in `Gate.batches` who ran."""
    return lambda: np.full((32, 32, 3), value, np.uint8)


async def occupied(scheduler: Scheduler, bundle: Bundle, gate: Gate) -> asyncio.Task[Any]:
    """Keeps the only worker busy until the gate is opened."""
    task = asyncio.create_task(scheduler.classify(bundle, [picture(0)]))
    await asyncio.to_thread(gate.entered.wait, 5)
    return task


async def queued(*coroutines: Any) -> list[asyncio.Task[Any]]:
    tasks = [asyncio.create_task(one) for one in coroutines]
    await asyncio.sleep(0.02)
    return tasks


async def test_answers_keep_the_order_of_the_pictures(
    schedulers: Any, bundle: Bundle, gate: Gate
) -> None:
    gate.opened.set()
    scheduler = schedulers(num_threads=3)
    values = list(range(0, 250, 5))
    outcomes = await scheduler.classify(bundle, [picture(v) for v in values], embed=True)
    found = [outcome.embedding[0] * 255 for outcome in outcomes]
    np.testing.assert_allclose(found, values, atol=0.01)
    assert scheduler.counts.run == len(values)


async def test_calls_that_come_one_by_one_stay_on_the_thread_that_was_last_at_work(
    schedulers: Any, bundle: Bundle, gate: Gate
) -> None:
    gate.opened.set()
    scheduler = schedulers(num_threads=3)
    at_work: list[int] = []

    def prepared() -> np.ndarray:
        at_work.append(threading.get_ident())
        return np.zeros((32, 32, 3), np.uint8)

    for _ in range(6):
        await asyncio.sleep(0.05)  # until the thread waits again
        await scheduler.classify(bundle, [prepared])
    assert len(set(at_work)) == 1


async def test_camera_frames_go_first(schedulers: Any, bundle: Bundle, gate: Gate) -> None:
    scheduler = schedulers()
    first = await occupied(scheduler, bundle, gate)
    others = await queued(
        scheduler.classify(bundle, [picture(1)]),
        scheduler.classify(bundle, [picture(2)]),
        scheduler.classify(bundle, [picture(9)], priority=Priority.FRAME),
    )
    gate.opened.set()
    await asyncio.gather(first, *others)
    assert gate.batches == [[0], [9], [1], [2]]


async def test_a_large_request_lets_others_pass_and_is_not_starved(
    schedulers: Any, bundle: Bundle, gate: Gate
) -> None:
    scheduler = schedulers()
    first = await occupied(scheduler, bundle, gate)
    large = scheduler.classify(bundle, [picture(100 + i) for i in range(6)])
    small = [scheduler.classify(bundle, [picture(1 + i)]) for i in range(20)]
    tasks = await queued(large, *small)
    gate.opened.set()
    await asyncio.gather(first, *tasks)
    order = [batch[0] for batch in gate.batches]
    assert order.index(1) < order.index(101)
    assert order.index(101) < order.index(12)
    assert order.index(102) < order.index(20)


async def test_what_expired_in_the_queue_never_runs(
    schedulers: Any, bundle: Bundle, gate: Gate
) -> None:
    scheduler = schedulers()
    first = await occupied(scheduler, bundle, gate)
    deadline = time.monotonic() + 0.05
    tasks = await queued(
        *(scheduler.classify(bundle, [picture(i)], deadline=deadline) for i in range(1, 31)),
        scheduler.classify(bundle, [picture(77)]),
    )
    await asyncio.sleep(0.1)
    gate.opened.set()
    results = await asyncio.gather(first, *tasks, return_exceptions=True)
    assert sum(isinstance(one, ExpiredError) for one in results) == 30
    assert gate.batches == [[0], [77]]
    assert (scheduler.counts.run, scheduler.counts.dropped) == (2, 30)


async def test_what_was_cancelled_in_the_queue_never_runs(
    schedulers: Any, bundle: Bundle, gate: Gate
) -> None:
    scheduler = schedulers(max_queue=4)
    first = await occupied(scheduler, bundle, gate)
    (gone,) = await queued(scheduler.classify(bundle, [picture(i) for i in range(1, 5)]))
    with pytest.raises(OverloadedError):
        await scheduler.classify(bundle, [picture(50)])
    gone.cancel()
    await asyncio.sleep(0)
    # Its place is free at once, not only when its turn would have come.
    (stays,) = await queued(scheduler.classify(bundle, [picture(i) for i in range(11, 15)]))
    gate.opened.set()
    await asyncio.gather(first, stays)
    assert sorted(batch[0] for batch in gate.batches) == [0, 11, 12, 13, 14]


async def test_a_full_queue_says_when_to_come_back(
    schedulers: Any, bundle: Bundle, gate: Gate
) -> None:
    scheduler = schedulers(max_queue=3)
    first = await occupied(scheduler, bundle, gate)
    tasks = await queued(scheduler.classify(bundle, [picture(1)] * 2))
    with pytest.raises(OverloadedError, match="the queue holds 3") as caught:
        await scheduler.classify(bundle, [picture(1)] * 2)
    assert caught.value.retry_after_s > 0
    frame = await queued(scheduler.classify(bundle, [picture(9)], priority=Priority.FRAME))
    gate.opened.set()
    await asyncio.gather(first, *tasks, *frame)
    assert scheduler.counts.refused == 2
    # Nothing leaked: as many fit as before.
    await scheduler.classify(bundle, [picture(1)] * 3)


async def test_one_bad_picture_fails_its_request_alone(
    schedulers: Any, bundle: Bundle, gate: Gate
) -> None:
    gate.opened.set()
    scheduler = schedulers(num_threads=2, max_queue=8)

    def bad() -> np.ndarray:
        raise ValueError("no picture")

    results = await asyncio.gather(
        scheduler.classify(bundle, [picture(1)]),
        scheduler.classify(bundle, [picture(2), bad, picture(3)]),
        scheduler.classify(bundle, [picture(4)]),
        return_exceptions=True,
    )
    assert isinstance(results[1], ValueError)
    assert [isinstance(one, list) for one in results] == [True, False, True]
    for _ in range(3):
        await scheduler.classify(bundle, [picture(1)] * 8)


@pytest.mark.parametrize("max_batch_size", [1, 16])
async def test_companions_do_not_change_an_answer(
    schedulers: Any, bundle: Bundle, gate: Gate, max_batch_size: int
) -> None:
    gate.opened.set()
    scheduler = schedulers(num_threads=2, max_batch_size=max_batch_size)
    pixels = np.random.default_rng(3).integers(0, 256, (32, 32, 3), dtype=np.uint8)
    (alone,) = await scheduler.classify(bundle, [lambda: pixels])
    calls = [
        scheduler.classify(bundle, [lambda: pixels, *[picture(i)] * (i % 4)]) for i in range(40)
    ]
    for outcomes in await asyncio.gather(*calls):
        found = outcomes[0].probabilities
        if max_batch_size == 1:
            assert found.tobytes() == alone.probabilities.tobytes()
        else:
            np.testing.assert_allclose(found, alone.probabilities, atol=1e-6)


async def test_on_a_gpu_waiting_pictures_are_joined(
    schedulers: Any, bundle: Bundle, gate: Gate
) -> None:
    scheduler = schedulers(num_threads=2, max_batch_size=4)
    first = await occupied(scheduler, bundle, gate)
    tasks = await queued(*(scheduler.classify(bundle, [picture(i)]) for i in range(1, 7)))
    tasks[2].cancel()
    await asyncio.sleep(0.05)
    gate.opened.set()
    results = await asyncio.gather(first, *tasks, return_exceptions=True)
    assert [len(batch) for batch in gate.batches] == [1, 4, 1]
    assert 3 not in chain(*gate.batches)
    assert sum(isinstance(one, list) for one in results) == 6


async def test_pictures_of_two_models_are_not_joined(
    schedulers: Any, bundle: Bundle, gate: Gate
) -> None:
    other_gate = Gate(gate.session)
    other_gate.opened.set()
    other = replace(bundle, session=other_gate)
    scheduler = schedulers(num_threads=2, max_batch_size=8)
    first = await occupied(scheduler, bundle, gate)
    tasks = await queued(
        *(scheduler.classify(bundle if i % 2 else other, [picture(i)]) for i in range(1, 9))
    )
    gate.opened.set()
    await asyncio.gather(first, *tasks)
    assert sorted(chain(*gate.batches)) == [0, 1, 3, 5, 7]
    assert sorted(chain(*other_gate.batches)) == [2, 4, 6, 8]


class Picky:
    """A session that fails for batches with a poisonous picture, or with more than it can hold."""

    def __init__(self, session: Any, most: int, message: str) -> None:
        self.session, self.most, self.message = session, most, message

    def run(self, outputs: list[str], feed: dict[str, np.ndarray]) -> Any:
        if len(feed["images"]) > self.most:
            raise RuntimeError(self.message)
        results = self.session.run(outputs, feed)
        results[0][feed["images"][:, 0, 0, 0] == 66] = np.nan
        return results


async def test_a_picture_with_unusable_numbers_fails_alone_in_its_batch(
    schedulers: Any, bundle: Bundle, gate: Gate
) -> None:
    picky = replace(bundle, session=Picky(gate.session, 100, ""))
    scheduler = schedulers(num_threads=4, max_batch_size=8)
    values = [1, 2, 66, 3, 4, 5]
    results = await asyncio.gather(
        *(scheduler.classify(picky, [picture(v)]) for v in values), return_exceptions=True
    )
    assert [type(one) for one in results] == [list, list, ModelOutputError, list, list, list]
    assert scheduler.counts.not_finite == 1


class Short:
    """A bundle that gives fewer rows than it was given pictures."""

    name = "short"

    def __init__(self, num_rows: int) -> None:
        self.num_rows = num_rows

    def predict(self, _images: np.ndarray) -> np.ndarray:
        return np.ones((self.num_rows, 3), np.float32)


@pytest.mark.parametrize("max_batch_size", [1, 8])
async def test_no_answer_of_a_model_ends_a_thread(
    schedulers: Any, bundle: Bundle, gate: Gate, max_batch_size: int
) -> None:
    gate.opened.set()
    scheduler = schedulers(num_threads=1, max_batch_size=max_batch_size)
    async with asyncio.timeout(5):
        for _ in range(3):
            with pytest.raises(IndexError):
                await scheduler.classify(Short(0), [picture(1), picture(2)])
        sizes: Any = [lambda: np.zeros((4, 4, 3), np.uint8), picture(3)]
        results = await asyncio.gather(
            *(scheduler.classify(Short(1), [one]) for one in sizes * 4), return_exceptions=True
        )
        assert all(isinstance(one, list) for one in results)
        assert len(await scheduler.classify(bundle, [picture(1)])) == 1


async def test_closing_loses_no_picture_that_is_being_prepared(
    schedulers: Any, bundle: Bundle
) -> None:
    scheduler = schedulers(num_threads=1, max_batch_size=8)
    preparing, go_on = threading.Event(), threading.Event()

    def slowly() -> np.ndarray:
        preparing.set()
        assert go_on.wait(5)
        return np.zeros((32, 32, 3), np.uint8)

    task = asyncio.create_task(scheduler.classify(bundle, [slowly]))
    await asyncio.to_thread(preparing.wait, 5)
    closing = asyncio.create_task(asyncio.to_thread(scheduler.close))
    await asyncio.sleep(0.05)
    go_on.set()
    await closing
    async with asyncio.timeout(2):
        with pytest.raises(OverloadedError, match="going down"):
            await task


async def test_a_batch_too_large_for_memory_is_halved(
    schedulers: Any, bundle: Bundle, gate: Gate
) -> None:
    words = "Failed to allocate memory for requested buffer of size 1"
    scheduler = schedulers(num_threads=4, max_batch_size=8)
    two = replace(bundle, session=Picky(gate.session, 2, words))
    results = await asyncio.gather(*(scheduler.classify(two, [picture(i)]) for i in range(16)))
    assert len(results) == 16
    none = replace(bundle, session=Picky(gate.session, 0, words))
    with pytest.raises(OverloadedError, match="no memory left"):
        await scheduler.classify(none, [picture(1)])


async def test_closing_answers_what_still_waits(
    schedulers: Any, bundle: Bundle, gate: Gate
) -> None:
    scheduler = schedulers()
    first = await occupied(scheduler, bundle, gate)
    tasks = await queued(scheduler.classify(bundle, [picture(1)]))
    closing = asyncio.create_task(asyncio.to_thread(scheduler.close))
    await asyncio.sleep(0.05)
    gate.opened.set()
    await closing
    results = await asyncio.gather(first, *tasks, return_exceptions=True)
    assert isinstance(results[1], OverloadedError)
    with pytest.raises(OverloadedError):
        await scheduler.classify(bundle, [picture(1)])


async def test_a_flood_of_cancelled_calls_keeps_memory_bounded(
    schedulers: Any, bundle: Bundle, gate: Gate
) -> None:
    scheduler = schedulers(max_queue=16)
    first = await occupied(scheduler, bundle, gate)
    for _ in range(400):
        (task,) = await queued_once(scheduler.classify(bundle, [picture(1)] * 16))
        task.cancel()
        await asyncio.sleep(0)
    assert len(scheduler._arrivals) < 3 * 16 + 1100
    gate.opened.set()
    await first
    assert gate.batches == [[0]]


async def queued_once(coroutine: Any) -> list[asyncio.Task[Any]]:
    task = asyncio.create_task(coroutine)
    await asyncio.sleep(0)
    return [task]


async def test_tells_how_it_ended_for_every_picture(
    schedulers: Any, bundle: Bundle, gate: Gate
) -> None:
    told: list[Ended] = []
    scheduler = schedulers(on_ended=told.append)
    pixels = np.zeros((*bundle.input_size, 3), np.uint8)

    def unreadable() -> np.ndarray:
        raise ValueError("no picture")

    first = asyncio.create_task(scheduler.classify(bundle, [lambda: pixels]))
    await asyncio.to_thread(gate.entered.wait, 10)
    late = asyncio.create_task(
        scheduler.classify(bundle, [lambda: pixels], deadline=time.monotonic())
    )
    broken = asyncio.create_task(scheduler.classify(bundle, [unreadable], priority=Priority.FRAME))
    await asyncio.sleep(0.05)
    gate.opened.set()
    await first
    with pytest.raises(ExpiredError):
        await late
    with pytest.raises(ValueError, match="no picture"):
        await broken
    scheduler.close()

    by_fate = {one.fate: one for one in told}
    assert sorted(by_fate) == [Fate.ANSWERED, Fate.DROPPED, Fate.UNREADABLE]
    assert (by_fate[Fate.ANSWERED].batch_size, by_fate[Fate.DROPPED].batch_size) == (1, 0)
    assert by_fate[Fate.DROPPED].waited_s >= 0.05
    assert by_fate[Fate.UNREADABLE].priority is Priority.FRAME
    assert all(one.run_s == 0 for one in told if one.fate is not Fate.ANSWERED)


async def test_a_chunk_of_an_explanation_lets_what_is_ready_go_first(
    schedulers: Any, bundle: Bundle, gate: Gate
) -> None:
    scheduler = schedulers(num_threads=1, max_batch_size=2)
    first = await occupied(scheduler, bundle, gate)
    tasks = await queued(*(scheduler.classify(bundle, [picture(i)]) for i in (1, 2, 3)))
    order: list[Any] = []

    def chunk() -> None:
        with scheduler.between():
            order.append(list(gate.batches))

    thread = threading.Thread(target=chunk)
    thread.start()
    gate.opened.set()
    await asyncio.gather(first, *tasks)
    await asyncio.to_thread(thread.join, 10)
    # Whether it came after all batches or, having waited long enough, after some: never first.
    assert order
    assert order[0][0] == [0]


async def test_while_a_chunk_is_on_the_device_no_batch_runs(
    schedulers: Any, bundle: Bundle, gate: Gate
) -> None:
    gate.opened.set()
    scheduler = schedulers(num_threads=1, max_batch_size=4)
    with scheduler.between():
        tasks = await queued(*(scheduler.classify(bundle, [picture(i)]) for i in (1, 2)))
        assert not gate.batches
    await asyncio.gather(*tasks)
    assert sorted(chain.from_iterable(gate.batches)) == [1, 2]


async def test_what_expires_while_a_chunk_is_on_the_device_never_runs(
    schedulers: Any, bundle: Bundle, gate: Gate
) -> None:
    gate.opened.set()
    scheduler = schedulers(num_threads=1, max_batch_size=4)
    with scheduler.between():
        deadline = time.monotonic() + 0.1
        tasks = await queued(scheduler.classify(bundle, [picture(1)], deadline=deadline))
        await asyncio.sleep(0.2)
    with pytest.raises(ExpiredError):
        await tasks[0]
    assert not gate.batches
    assert (scheduler.counts.run, scheduler.counts.overdue) == (0, 0)


async def test_a_chunk_is_not_kept_waiting_for_ever(
    schedulers: Any, bundle: Bundle, gate: Gate
) -> None:
    gate.opened.set()
    scheduler = schedulers(num_threads=2, max_batch_size=2)
    ended = asyncio.Event()

    async def flood() -> None:
        while not ended.is_set():
            await scheduler.classify(bundle, [picture(1)] * 8)

    def chunk() -> None:
        with scheduler.between():
            pass

    tasks = [asyncio.create_task(flood()) for _ in range(4)]
    await asyncio.wait_for(asyncio.to_thread(chunk), 30)
    ended.set()
    await asyncio.gather(*tasks)


async def test_a_runner_that_joins_nothing_still_runs_one_at_a_time(
    schedulers: Any, bundle: Bundle, gate: Gate
) -> None:
    gate.opened.set()
    scheduler = schedulers(num_threads=3, max_batch_size=1, has_runner=True)
    await scheduler.classify(bundle, [picture(i) for i in range(10)])
    assert sorted(chain.from_iterable(gate.batches)) == list(range(10))
    assert all(len(batch) == 1 for batch in gate.batches)
