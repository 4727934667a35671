"""Batches of several processes as one run, on a session that stands in for a GPU's."""

from __future__ import annotations

import pickle
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray
from tests.serve.stand_in import Busy, images_run, random_images, stand_in
from tests.waiting import until

from limelens.serve.bundle import Bundle, load_bundle
from limelens.serve.bundle.execution.device_thread import DeviceThread
from limelens.serve.bundle.remote.shared_batch import BatchShape, SharedBatch
from limelens.serve.errors import LimelensError, OverloadedError
from limelens.serve.processes.joined_batches import HandedBatch, JoinedBatches

BOTH = ("probabilities", "embedding")


class Handing:
    """Hands batches over, and waits for their ends."""

    def __init__(self, bundle: Bundle) -> None:
        self._joined = JoinedBatches(bundle)
        lengths = (("probabilities", len(bundle.labels)), ("embedding", bundle.embedding_size))
        self._shape = BatchShape(8, bundle.input_size, lengths)
        self.ends: list[Exception | None] = []
        self.tell: Callable[[Exception | None], None] = self.ends.append

    def hand(
        self, pixels: NDArray[np.uint8], outputs: Sequence[str] = BOTH, *, room: int = 8
    ) -> SharedBatch:
        batch = SharedBatch.create(replace(self._shape, num_images=room))
        batch.images[: len(pixels)] = pixels
        for values in batch.outputs.values():
            values[:] = -1
        self._joined.run(HandedBatch(batch, outputs, len(pixels), self.tell))
        return batch

    def wait(self, count: int) -> None:
        until(lambda: len(self.ends) == count)


@pytest.fixture
def thread() -> DeviceThread:
    return DeviceThread("stand-in")


@pytest.fixture
def path(one_model: Path) -> Path:
    return one_model / "colours" / "1"


def test_what_waits_runs_as_one_and_each_gets_its_own_rows(
    thread: DeviceThread, path: Path
) -> None:
    seen: list[list[int]] = []
    handing = Handing(stand_in(path, thread=thread, on_run=images_run(seen)))
    pixels = [random_images(count, seed=count) for count in (3, 1, 2, 5)]
    seen.clear()
    busy = Busy(thread)
    batches = [
        handing.hand(some, outputs)
        for some, outputs in zip(pixels, (BOTH, BOTH[:1], BOTH[1:], BOTH), strict=True)
    ]
    busy.end()
    handing.wait(4)
    # The last does not fit beside the others; padding makes them 8 and 8.
    assert [len(images) for images in seen] == [8, 8]
    assert handing.ends == [None] * 4
    plain = load_bundle(path, "cpu")
    for batch, some in zip(batches, pixels, strict=True):
        found = dict(zip(BOTH, plain.predict_and_embed(some), strict=True))
        for name, values in batch.outputs.items():
            if name in {0: BOTH, 1: BOTH[:1], 2: BOTH[1:], 3: BOTH}[batches.index(batch)]:
                np.testing.assert_allclose(values[: len(some)], found[name], atol=1e-5)
                assert (values[len(some) :] == -1).all()
            else:
                assert (values == -1).all()


def test_nothing_waits_for_a_batch_to_fill(thread: DeviceThread, path: Path) -> None:
    seen: list[list[int]] = []
    handing = Handing(stand_in(path, thread=thread, on_run=images_run(seen)))
    seen.clear()
    for number in range(3):
        handing.hand(random_images(1))
        handing.wait(number + 1)
    assert [len(images) for images in seen] == [1, 1, 1]


def test_a_run_too_large_for_the_memory_is_halved_and_later_ones_are_smaller(
    thread: DeviceThread, path: Path
) -> None:
    most = [8]

    def lack(inputs: dict[str, NDArray[Any]]) -> None:
        if len(inputs["images"]) > most[0]:
            raise RuntimeError("BFCArena: failed to allocate memory")

    handing = Handing(stand_in(path, thread=thread, on_run=lack))
    most[0] = 4
    plain, pixels = load_bundle(path, "cpu"), random_images(7)
    for number in range(3):
        batch = handing.hand(pixels)
        handing.wait(number + 1)
        np.testing.assert_allclose(
            batch.outputs["probabilities"][:7], plain.predict(pixels), atol=1e-5
        )
    most[0] = 0
    handing.hand(pixels)
    handing.wait(4)
    assert handing.ends[:3] == [None] * 3
    assert isinstance(handing.ends[3], OverloadedError)


def test_an_error_reaches_everybody_in_the_run_and_can_be_sent(
    thread: DeviceThread, path: Path
) -> None:
    broken = [False]

    class Unsendable(RuntimeError):
        def __reduce__(self) -> Any:
            raise TypeError("cannot be pickled")

    def fail(_inputs: dict[str, NDArray[Any]]) -> None:
        if broken[0]:
            raise Unsendable("the device fell off the bus")

    handing = Handing(stand_in(path, thread=thread, on_run=fail))
    broken[0] = True
    busy = Busy(thread)
    handing.hand(random_images(2))
    handing.hand(random_images(3))
    busy.end()
    handing.wait(2)
    for error in handing.ends:
        assert isinstance(pickle.loads(pickle.dumps(error)), LimelensError)
        assert "fell off the bus" in str(error)
    broken[0] = False
    handing.hand(random_images(1))
    handing.wait(3)
    assert handing.ends[2] is None


def test_a_batch_with_less_room_than_is_padded_to_is_run(thread: DeviceThread, path: Path) -> None:
    bundle = stand_in(path, thread=thread)
    handing = Handing(bundle)
    pixels = random_images(3)
    batch = handing.hand(pixels, room=3)  # allocated when the device had memory for no more
    handing.wait(1)
    assert handing.ends == [None]
    expected = load_bundle(path, "cpu").predict(pixels)
    np.testing.assert_allclose(batch.outputs["probabilities"], expected, atol=1e-5)


def test_an_end_that_cannot_be_told_keeps_nobody_else_from_running(
    thread: DeviceThread, path: Path
) -> None:
    bundle = stand_in(path, thread=thread)
    handing = Handing(bundle)

    def fail(_error: Exception | None) -> None:
        raise TypeError("its connection is closed")

    handing.tell = fail
    busy = Busy(thread)
    handing.hand(random_images(1))
    handing.tell = handing.ends.append
    handing.hand(random_images(2))
    busy.end()
    handing.wait(1)
    handing.hand(random_images(3))
    handing.wait(2)
    assert handing.ends == [None, None]
