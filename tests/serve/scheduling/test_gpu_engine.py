"""Batches of images, on a session that stands in for a GPU's; see `tests.serve.stand_in`."""

from __future__ import annotations

import asyncio
import functools
import random
import threading
import time
from collections.abc import AsyncIterator, Callable, Iterator
from itertools import chain
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray
from tests.serve.scheduling.pending import MadeBy
from tests.serve.stand_in import Busy, StrictSession, images_run, random_images, stand_in
from tests.serve.strict_owner import StrictOwner
from tests.waiting import slow_by_async, until_async

from limelens.serve import load_bundle
from limelens.serve.bundle import Bundle
from limelens.serve.bundle.execution.device_thread import DeviceThread, Urgency, device_thread
from limelens.serve.errors import (
    ExpiredError,
    InvalidRequestError,
    LimelensError,
    ModelOutputError,
    OverloadedError,
)
from limelens.serve.scheduling.gpu import GpuEngine
from limelens.serve.scheduling.inference import (
    Completion,
    FittedImage,
    InferenceStatus,
    Priority,
)


@pytest.fixture
def thread() -> DeviceThread:
    return DeviceThread("stand-in")


@pytest.fixture
def model(one_model: Path) -> Path:
    return one_model / "colours" / "1"


@pytest.fixture
def engines(thread: DeviceThread) -> Iterator[Any]:
    started: list[GpuEngine] = []

    def start(**settings: Any) -> GpuEngine:
        started.append(GpuEngine(thread, **{"num_threads": 2, **settings}))
        return started[-1]

    yield start
    for engine in started:
        engine.close()


def image(value: int) -> Any:
    """Prepares an image of one colour, that its session records when it runs."""
    return FittedImage(np.full((32, 32, 3), value, np.uint8))


async def begun(engine: GpuEngine, *coroutines: Any) -> list[asyncio.Task[Any]]:
    """Tasks whose images are all in batches that wait for the device."""
    before = engine.num_staged
    tasks = [asyncio.create_task(one) for one in coroutines]
    await until_async(lambda: engine.num_staged >= before + len(tasks))
    return tasks


async def test_images_that_wait_run_as_one_batch_padded_to_a_prepared_size(
    engines: Any, thread: DeviceThread, model: Path
) -> None:
    seen: list[list[int]] = []
    bundle = stand_in(model, thread=thread, on_run=images_run(seen))
    engine = engines()
    seen.clear()
    busy = Busy(thread)
    tasks = await begun(engine, *(engine.classify(bundle, [image(i)]) for i in range(1, 6)))
    busy.end()
    results = [one for (one,) in await asyncio.gather(*tasks)]
    assert [len(batch) for batch in seen] == [8]
    assert {1, 2, 3, 4, 5} <= set(seen[0])
    expected = load_bundle(model, "cpu").predict(np.stack([image(i).pixels for i in range(1, 6)]))
    for result, row in zip(results, expected, strict=True):
        np.testing.assert_allclose(result.probabilities, row, atol=1e-5)
    assert engine.counts.run == 5


async def test_responses_keep_the_order_of_the_images(
    engines: Any, thread: DeviceThread, model: Path
) -> None:
    bundle = stand_in(model, thread=thread)
    engine = engines(num_threads=3)
    values = list(range(0, 250, 5))
    results = await engine.classify(bundle, [image(v) for v in values], embed=True)
    np.testing.assert_allclose([one.embedding[0] * 255 for one in results], values, atol=0.01)


async def test_embeddings_reach_only_callers_who_requested_them(
    engines: Any, thread: DeviceThread, model: Path
) -> None:
    bundle = stand_in(model, thread=thread)
    engine = engines()
    busy = Busy(thread)
    tasks = await begun(
        engine, *(engine.classify(bundle, [image(i)], embed=i % 2 == 0) for i in range(6))
    )
    busy.end()
    found = [one for (one,) in await asyncio.gather(*tasks)]
    assert [one.embedding is not None for one in found] == [True, False] * 3


async def test_cancelled_or_expired_images_of_a_batch_never_run(
    engines: Any, thread: DeviceThread, model: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    passed_s = 0.0
    clock = SimpleNamespace(monotonic=lambda: time.monotonic() + passed_s)
    monkeypatch.setattr("limelens.serve.scheduling.engine.time", clock)
    seen: list[list[int]] = []
    bundle = stand_in(model, thread=thread, on_run=images_run(seen))
    engine = engines()
    seen.clear()
    busy = Busy(thread)
    deadline = time.monotonic() + 600
    tasks = await begun(
        engine,
        engine.classify(bundle, [image(10)]),
        engine.classify(bundle, [image(20)]),
        engine.classify(bundle, [image(30)], deadline=deadline),
        engine.classify(bundle, [image(40)]),
    )
    tasks[0].cancel()
    await asyncio.wait(tasks[:1])  # it only asks for it
    passed_s = 601.0
    busy.end()
    results = await asyncio.gather(*tasks, return_exceptions=True)
    assert isinstance(results[0], asyncio.CancelledError)
    assert isinstance(results[2], ExpiredError)
    # Two are left, in the first rows, in a batch of two.
    assert sorted(chain(*seen)) == [20, 40]
    assert (engine.counts.run, engine.counts.dropped, engine.counts.overdue) == (2, 2, 0)
    expected = load_bundle(model, "cpu").predict(np.stack([image(40).pixels]))
    assert isinstance(results[3], list)
    np.testing.assert_allclose(results[3][0].probabilities, expected[0], atol=1e-5)


async def test_camera_frames_go_before_requests_that_wait(
    engines: Any, thread: DeviceThread, model: Path
) -> None:
    seen: list[list[int]] = []
    bundle = stand_in(model, thread=thread, max_batch_size=2, on_run=images_run(seen))
    engine = engines(num_threads=1)
    seen.clear()
    busy = Busy(thread)
    # Two full batches wait, and no more are begun: what follows stays in the queue's order.
    first = await begun(engine, *(engine.classify(bundle, [image(i)]) for i in range(1, 5)))
    rest = [asyncio.create_task(engine.classify(bundle, [image(i)])) for i in range(6, 12)]
    frame = engine.classify(bundle, [image(99)], priority=Priority.FRAME)
    rest.append(asyncio.create_task(frame))
    await until_async(lambda: engine.num_queued >= len(rest))
    busy.end()
    await asyncio.gather(*first, *rest)
    order = list(chain(*seen))
    assert order.index(99) < order.index(6)


async def test_images_of_two_models_are_not_joined(
    engines: Any, thread: DeviceThread, model: Path
) -> None:
    seen: dict[bool, list[list[int]]] = {True: [], False: []}
    bundles = {
        odd: stand_in(model, thread=thread, on_run=images_run(seen[odd])) for odd in (True, False)
    }
    engine = engines()
    seen[True].clear()
    seen[False].clear()
    busy = Busy(thread)
    tasks = await begun(
        engine, *(engine.classify(bundles[i % 2 == 1], [image(i)]) for i in range(1, 9))
    )
    busy.end()
    await asyncio.gather(*tasks)
    assert sorted(chain(*seen[True])) == [1, 3, 5, 7]
    assert sorted(chain(*seen[False])) == [2, 4, 6, 8]


class Broken(StrictSession):
    """A session whose numbers are unusable, or that has no memory, for some images.

    Only once its sizes are prepared, when `has_begun` is set.
    """

    most = 1000
    poisonous = -1
    has_begun = False
    num_failed = 0

    def run_with_iobinding(self, binding: Any, options: Any) -> None:
        values = binding.inputs["images"].numpy()
        if self.has_begun and len(values) > self.most:
            type(self).num_failed += 1
            raise RuntimeError("Failed to allocate memory for requested buffer of size 1")
        super().run_with_iobinding(binding, options)
        if self.has_begun and binding.outputs:
            binding.outputs["probabilities"].numpy()[values[:, 0, 0, 0] == self.poisonous] = np.nan


def broken(model: Path, thread: DeviceThread, **settings: Any) -> tuple[Bundle, type[Broken]]:
    kind: type[Broken] = type("Broken", (Broken,), settings)
    bundle = stand_in(model, thread=thread, open_session=kind)
    kind.has_begun = True
    return bundle, kind


async def test_an_image_with_unusable_numbers_fails_alone_in_its_batch(
    engines: Any, thread: DeviceThread, model: Path
) -> None:
    bundle, _ = broken(model, thread, poisonous=66)
    engine = engines()
    busy = Busy(thread)
    values = [1, 2, 66, 3, 4, 5]
    tasks = await begun(engine, *(engine.classify(bundle, [image(v)]) for v in values))
    busy.end()
    results = await asyncio.gather(*tasks, return_exceptions=True)
    assert [type(one) for one in results] == [list, list, ModelOutputError, list, list, list]
    assert engine.counts.not_finite == 1


async def test_a_batch_too_large_for_memory_is_halved_and_the_session_rebuilt(
    engines: Any, thread: DeviceThread, model: Path
) -> None:
    bundle, kind = broken(model, thread, most=4)
    assert bundle.runs is not None
    before = bundle.runs.session
    engine = engines()
    busy = Busy(thread)
    tasks = await begun(engine, *(engine.classify(bundle, [image(i)]) for i in range(8)))
    busy.end()
    results = await asyncio.gather(*tasks)
    assert len(results) == 8
    assert kind.num_failed == 1
    await until_async(lambda: bundle.runs is not None and bundle.runs.session is not before)
    assert bundle.runs.sizes == (1, 2, 4)
    # From now on batches are no larger than what fits.
    await asyncio.gather(*(engine.classify(bundle, [image(i)]) for i in range(20)))
    assert kind.num_failed == 1


async def test_no_memory_for_a_half_is_an_overload(
    engines: Any, thread: DeviceThread, model: Path
) -> None:
    bundle, kind = broken(model, thread, most=0)
    engine = engines()
    with pytest.raises(OverloadedError, match="no memory left"):
        await engine.classify(bundle, [image(i) for i in range(4)])
    # Memory is there again.
    kind.most = 1000
    assert len(await engine.classify(bundle, [image(1)])) == 1


async def test_threads_go_on_when_there_was_no_memory_for_a_batch(
    engines: Any, thread: DeviceThread, model: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    bundle = stand_in(model, thread=thread)
    engine = engines(num_threads=1)

    def fail() -> None:
        raise OSError(24, "Too many open files")

    with monkeypatch.context() as patch:
        patch.setattr(bundle.runs, "borrow_staging", fail)
        with pytest.raises(OverloadedError, match="no memory for a batch"):
            await asyncio.wait_for(engine.classify(bundle, [image(1)]), 60)
    assert len(await asyncio.wait_for(engine.classify(bundle, [image(1)]), 60)) == 1


async def test_pixels_of_another_size_fail_their_request_alone(
    engines: Any, thread: DeviceThread, model: Path
) -> None:
    bundle = stand_in(model, thread=thread)
    engine = engines()
    for _ in range(3):
        with pytest.raises(InvalidRequestError, match="the bundle expects"):
            await engine.classify(bundle, [FittedImage(np.zeros((4, 4, 3), np.uint8))])
    assert len(await engine.classify(bundle, [image(1)])) == 1


async def test_closing_loses_no_image_that_is_being_prepared(
    thread: DeviceThread, model: Path
) -> None:
    bundle = stand_in(model, thread=thread)
    engine = GpuEngine(thread, num_threads=1)
    preparing, go_on = threading.Event(), threading.Event()

    def slowly() -> NDArray[np.uint8]:
        preparing.set()
        assert go_on.wait(120)
        return np.zeros((32, 32, 3), np.uint8)

    task = asyncio.create_task(engine.classify(bundle, [MadeBy(slowly)]))
    assert await asyncio.to_thread(preparing.wait, 60)
    closing = asyncio.create_task(asyncio.to_thread(engine.close))
    await asyncio.sleep(0.05)
    go_on.set()
    await closing
    async with asyncio.timeout(60):
        with pytest.raises(OverloadedError, match="going down"):
            await task


async def test_every_image_is_reported_once(
    engines: Any, thread: DeviceThread, model: Path
) -> None:
    reported: list[Completion] = []
    bundle = stand_in(model, thread=thread)
    engine = engines(on_completion=reported.append)

    def unreadable() -> NDArray[np.uint8]:
        raise ValueError("no image")

    await engine.classify(bundle, [image(i) for i in range(20)])
    with pytest.raises(ValueError, match="no image"):
        await engine.classify(bundle, [MadeBy(unreadable)], priority=Priority.FRAME)
    statuses = [one.status for one in reported]
    assert statuses.count(InferenceStatus.ANSWERED) == 20
    assert statuses.count(InferenceStatus.UNREADABLE) == 1
    assert all(
        1 <= one.batch_size <= 8 for one in reported if one.status is InferenceStatus.ANSWERED
    )


async def test_chunks_of_explanations_run_between_batches_and_are_not_starved(
    engines: Any, thread: DeviceThread, model: Path
) -> None:
    bundle = stand_in(model, thread=thread)
    engine = engines()
    ended = asyncio.Event()

    async def flood() -> None:
        while not ended.is_set():
            await engine.classify(bundle, [image(1)] * 8)

    tasks = [asyncio.create_task(flood()) for _ in range(4)]
    async with asyncio.timeout(60):
        await asyncio.to_thread(thread.call, lambda: None, Urgency.CHUNK)
    ended.set()
    await asyncio.gather(*tasks)


@pytest.mark.parametrize("seed", range(4))
async def test_random_traffic_gets_the_numbers_of_a_plain_session(
    engines: Any, thread: DeviceThread, models: Path, seed: int
) -> None:
    engine = engines(num_threads=3, max_queue=1000)
    await random_traffic(
        engine, lambda path: stand_in(path, thread=thread, max_batch_size=16), models, seed
    )


@pytest.mark.parametrize("seed", range(2))
async def test_so_it_does_if_another_process_owns_the_device(models: Path, seed: int) -> None:
    with StrictOwner() as owner:
        load = functools.partial(load_bundle, device=owner.device, max_batch_size=16)
        engine = GpuEngine(device_thread(owner.device), num_threads=3, max_queue=1000)
        try:
            await random_traffic(engine, load, models, seed)
        finally:
            engine.close()


async def random_traffic(
    engine: GpuEngine, load: Callable[[Path], Bundle], models: Path, seed: int
) -> None:
    """Requests of all sizes, cancellations, deadlines, embeddings, explanations and swaps."""
    from limelens.explain import explain

    rng = random.Random(seed)
    versions = [models / "colours" / "1", models / "colours" / "2"]
    plain = load_bundle(versions[0], "cpu")
    current = [load(versions[0])]
    photo = random_images(1, seed=seed)[0]
    expected = explain(photo, plain.predict, seed=3, num_samples=64, segmentation="grid")
    num_right = 0

    async def request(number: int) -> None:
        nonlocal num_right
        pixels = random_images(rng.randint(1, 40), seed=1000 * seed + number)
        embed = rng.random() < 0.3
        deadline = time.monotonic() + rng.uniform(0.0, 0.2) if rng.random() < 0.2 else None
        call = engine.classify(
            current[0],
            [FittedImage(one) for one in pixels],
            embed=embed,
            deadline=deadline,
            priority=rng.choice(list(Priority)),
        )
        task = asyncio.create_task(call)
        if rng.random() < 0.2:
            await slow_by_async(rng.uniform(0, 0.05))
            task.cancel()
        try:
            results = await task
        except (asyncio.CancelledError, LimelensError):
            return
        numbers, vectors = plain.predict_and_embed(pixels)
        for result, row, vector in zip(results, numbers, vectors, strict=True):
            np.testing.assert_allclose(result.probabilities, row, atol=1e-5)
            assert (result.embedding is not None) == embed
            if result.embedding is not None:
                np.testing.assert_allclose(result.embedding, vector, atol=1e-5)
        num_right += 1

    async def explanations() -> None:
        for _ in range(3):
            found = await asyncio.to_thread(
                explain, photo, current[0].predict, seed=3, num_samples=64, segmentation="grid"
            )
            for ours, theirs in zip(found.explanations, expected.explanations, strict=True):
                mine = {one.segment: one.weight for one in ours.weights}
                assert mine == pytest.approx(
                    {one.segment: one.weight for one in theirs.weights}, abs=1e-5
                )

    async def swaps() -> None:
        for version in (1, 0, 1):
            await slow_by_async(0.05)
            current[0] = await asyncio.to_thread(load, versions[version])

    async def requests() -> AsyncIterator[Any]:
        for number in range(60):
            await slow_by_async(rng.uniform(0, 0.01))
            yield asyncio.create_task(request(number))

    others = [asyncio.create_task(explanations()), asyncio.create_task(swaps())]
    tasks = [task async for task in requests()]
    async with asyncio.timeout(180):
        await asyncio.gather(*tasks, *others)
    assert num_right > 20
    assert engine.num_waiting == 0


async def test_a_sampler_gets_vectors_that_callers_do_not(
    engines: Any, thread: DeviceThread, model: Path
) -> None:
    taken: list[tuple[Any, Any]] = []

    class EverySecond:
        asked = 0

        def wants(self, _bundle: Any) -> bool:
            self.asked += 1
            return self.asked % 2 == 0

        def take(self, _bundle: Any, probabilities: Any, embedding: Any) -> None:
            taken.append((probabilities.copy(), embedding.copy()))

    bundle = stand_in(model, thread=thread)
    sampler = EverySecond()
    engine = engines(sampler=sampler)
    results = [(await engine.classify(bundle, [image(20 * i)]))[0] for i in range(4)]
    (with_vector,) = await engine.classify(bundle, [image(80)], embed=True)
    assert [one.embedding for one in results] == [None] * 4
    assert with_vector.embedding is not None
    assert sampler.asked == 4
    pixels = np.stack([image(value).pixels for value in (20, 60)])
    numbers, vectors = load_bundle(model, "cpu").predict_and_embed(pixels)
    np.testing.assert_allclose([one for one, _ in taken], numbers, atol=1e-5)
    np.testing.assert_allclose([one for _, one in taken], vectors, atol=1e-5)
