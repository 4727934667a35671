"""Explanations in chunks sized by time, and runs from memory that is made once."""

from __future__ import annotations

import threading
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from contextlib import nullcontext
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from limelens.serve import load_bundle
from limelens.serve.bundle import Bundle
from limelens.serve.bundle.binding import MOST, BoundRuns
from limelens.serve.chunks import CHUNK_S, TimedChunks
from limelens.serve.explain_requests import read_explain
from limelens.serve.explanation import explain_picture
from limelens.serve.requests import Limits
from limelens.v1 import classifier_service_pb2 as service_pb2
from limelens.v1 import image_pb2


class Device:
    """A model that takes a set time for each picture, by a clock of its own."""

    def __init__(self, seconds_each: float) -> None:
        self.seconds_each = seconds_each
        self.now = 0.0
        self.chunks: list[int] = []

    def predict(self, images: np.ndarray) -> np.ndarray:
        self.chunks.append(len(images))
        self.now += len(images) * self.seconds_each
        return images.reshape(len(images), -1)[:, :2].astype(np.float32)

    def clock(self) -> float:
        return self.now


def pictures(count: int, size: int = 32) -> np.ndarray:
    return np.random.default_rng(count).integers(0, 256, (count, size, size, 3), dtype=np.uint8)


@pytest.fixture
def bundle(one_model: Path) -> Bundle:
    return load_bundle(one_model / "colours" / "1", "cpu")


@pytest.fixture
def bound(bundle: Bundle) -> Bundle:
    return replace(bundle, bound=BoundRuns(bundle.session, bundle.input_size, lock_pages=False))


@pytest.mark.parametrize("seconds_each", [0.0001, 0.001, 0.003])
def test_chunks_come_to_take_about_the_time_they_are_to_take(seconds_each: float) -> None:
    device = Device(seconds_each)
    ask = TimedChunks(device.predict, nullcontext, clock=device.clock)
    images = pictures(2000, 2)
    answers = ask(images)
    np.testing.assert_array_equal(answers, images.reshape(2000, -1)[:, :2])
    assert sum(device.chunks) == 2000
    for count in device.chunks[10:-1]:
        assert CHUNK_S / 2 < count * seconds_each <= CHUNK_S + seconds_each


def test_chunks_shrink_at_once_when_the_device_becomes_slow() -> None:
    device = Device(0.0001)
    ask = TimedChunks(device.predict, nullcontext, clock=device.clock)
    ask(pictures(1000, 2))
    device.seconds_each = 0.0039
    ask(pictures(100, 2))
    assert ask.count == 2


def test_a_picture_that_takes_too_long_by_itself_is_a_chunk() -> None:
    device = Device(1.0)
    ask = TimedChunks(device.predict, nullcontext, clock=device.clock)
    ask(pictures(12, 2))
    assert device.chunks[1:] == [1, 1, 1, 1]


def test_every_chunk_waits_for_its_turn() -> None:
    device = Device(0.001)
    lock = threading.Lock()
    ask = TimedChunks(device.predict, lambda: lock, clock=device.clock)
    with lock, ThreadPoolExecutor(1) as pool:
        answer = pool.submit(ask, pictures(8, 2))
        assert not device.chunks
        lock.release()
        answer.result(10)
        lock.acquire()
    assert device.chunks == [8]


@pytest.mark.parametrize("options", [{}, {"seed": 7}, {"stability": 0.9, "max_samples": 2000}])
def test_an_explanation_is_the_same_in_whatever_chunks(
    bundle: Bundle, options: dict[str, Any]
) -> None:
    image = image_pb2.Image(
        raw=image_pb2.RawImage(data=pictures(1)[0].tobytes(), height=32, width=32)
    )
    request = service_pb2.ExplainRequest(image=image, num_samples=300, **options)
    if "stability" in options:
        request.num_samples = 0
    turns: list[int] = []

    def turn() -> Any:
        turns.append(1)
        return nullcontext()

    def weights(turn: Callable[[], Any] | None) -> Any:
        question = read_explain(request, bundle.metadata, Limits())
        question = replace(question, options={**question.options, "seed": 3})
        found = explain_picture(bundle, question, turn=turn).explanation
        return found.num_samples, [
            (one.label, [(w.segment, w.weight) for w in one.weights]) for one in found.explanations
        ]

    plain, timed = weights(None), weights(turn)
    assert timed[0] == plain[0]
    for (label, ours), (other, theirs) in zip(timed[1], plain[1], strict=True):
        assert label == other
        np.testing.assert_allclose(ours, theirs, rtol=1e-5, atol=1e-6)
    assert len(turns) > 1


@pytest.mark.parametrize("count", [1, 2, 31, 33, MOST, MOST + 1])
def test_bound_memory_gives_the_same_numbers(bundle: Bundle, bound: Bundle, count: int) -> None:
    images = pictures(count)
    for found, expected in zip(
        bound.predict_and_embed(images), bundle.predict_and_embed(images), strict=True
    ):
        np.testing.assert_array_equal(found, expected)
    np.testing.assert_array_equal(bound.predict(images), bundle.predict(images))


def test_what_was_answered_from_bound_memory_is_not_written_over(bound: Bundle) -> None:
    first = bound.predict(np.zeros((3, 32, 32, 3), np.uint8))
    kept = first.copy()
    bound.predict(np.full((3, 32, 32, 3), 255, np.uint8))
    np.testing.assert_array_equal(first, kept)


def test_bound_memory_is_made_once_and_serves_threads_at_once(
    bundle: Bundle, bound: Bundle
) -> None:
    assert bound.bound is not None
    batches = [pictures(count) for count in range(1, 30)] * 4
    for images in batches:
        bound.predict(images)
    assert bound.bound.num_buffers == 1
    with ThreadPoolExecutor(4) as pool:
        found = list(pool.map(bound.predict, batches))
    for images, answer in zip(batches, found, strict=True):
        np.testing.assert_array_equal(answer, bundle.predict(images))
    assert bound.bound.num_buffers <= 4
