"""A camera's stream: what is dropped and what never is, ends, and a server that comes back."""

from __future__ import annotations

import asyncio
import gc
import itertools
import subprocess
import sys
import threading
import weakref
from collections import Counter
from collections.abc import AsyncIterator, Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from tests.waiting import ever_longer, slow_by, slow_by_async, until, until_async

from limelens.serve import AsyncClient
from limelens.serve.client import Frame
from limelens.serve.client.results import FrameAnswer, FrameStatus
from limelens.serve.errors import (
    ExpiredError,
    InvalidRequestError,
    NotFoundError,
    OverloadedError,
    UnavailableError,
)
from limelens.serve.rpc.server_config import ServiceSettings

RED = np.full((8, 8, 3), (255, 0, 0), np.uint8)
GREEN = np.full((8, 8, 3), (0, 255, 0), np.uint8)


class Counted:
    """Frames that know how many of them were taken, and how many are held."""

    def __init__(self, most: int | None = None, every_s: float = 0.0) -> None:
        self.most, self.every_s = most, every_s
        self.pauses_at: int | None = None
        """The frame that does not come as long as this is its number."""
        self.num_taken = 0
        self.is_closed = False
        """Whether no more can be taken."""
        self._held: weakref.WeakSet[Frame] = weakref.WeakSet()
        self._lock = threading.Lock()

    @property
    def num_held(self) -> int:
        gc.collect()
        with self._lock:  # a set may not grow while it is read
            return sum(1 for one in self._held if not isinstance(one.image, bytes))

    def __iter__(self) -> Iterator[Frame]:
        try:
            for number in itertools.count():
                if number == self.most:
                    return
                if self.every_s:
                    slow_by(self.every_s)
                until(lambda: self.pauses_at != number)  # noqa: B023
                frame = Frame(number, RED.copy())
                with self._lock:
                    self._held.add(frame)
                self.num_taken += 1
                yield frame
                del frame
        finally:
            self.is_closed = True


def test_every_frame_of_a_file_is_classified_for_a_slow_reader(
    start_server: Callable[..., Any], connect: Callable[..., Any]
) -> None:
    client = connect(start_server().address)
    frames = Counted(40)
    answers = client.stream(frames, drop_old=False)
    for number, answer in enumerate(answers):
        assert answer.frame_id == number
        assert answer.status is FrameStatus.CLASSIFIED
        if number % 8 == 0:
            slow_by(0.03)
            assert frames.num_taken <= number + 2
    assert (number, answer.dropped_frames) == (39, 0)


def test_a_slow_reader_of_a_camera_holds_one_frame_and_gets_the_newest(
    start_server: Callable[..., Any], connect: Callable[..., Any]
) -> None:
    server = start_server()
    client = connect(server.address)
    frames = Counted()
    answers = client.stream(frames)
    next(answers)
    until(lambda: frames.num_taken >= 1000)  # nobody reads
    assert frames.num_held <= 4  # the newest, the one on its way, the one just made
    assert server.counts().run <= 70  # of those that may go before answers are read
    newest = frames.num_taken
    reported = []
    for one in answers:
        reported.append(one)
        if one.status is FrameStatus.CLASSIFIED and one.frame_id >= newest - 1:
            break
    assert any(one.status is FrameStatus.SUPERSEDED for one in reported)
    assert reported[-1].dropped_frames > 500
    answers.close()


def test_every_frame_gets_one_answer(
    start_server: Callable[..., Any], connect: Callable[..., Any]
) -> None:
    client = connect(start_server().address)
    answers = list(client.stream([RED] * 100))
    assert sorted(one.frame_id for one in answers) == list(range(100))
    states = Counter(one.status for one in answers)
    assert set(states) <= {FrameStatus.CLASSIFIED, FrameStatus.SUPERSEDED}
    last = max(answers, key=lambda one: one.frame_id)
    assert last.status is FrameStatus.CLASSIFIED
    assert max(one.dropped_frames for one in answers) == states[FrameStatus.SUPERSEDED]


def test_an_unreadable_frame_is_reported_and_a_missing_one_is_an_error(
    start_server: Callable[..., Any], connect: Callable[..., Any], tmp_path: Path
) -> None:
    client = connect(start_server().address)
    answers = client.stream([RED, b"nothing", tmp_path / "gone.jpg", RED], drop_old=False)
    assert [next(answers).status.value for _ in range(2)] == ["classified", "invalid"]
    with pytest.raises(FileNotFoundError):
        next(answers)
    with pytest.raises(InvalidRequestError, match="frame 7: float64"):
        list(client.stream([Frame(7, np.zeros((2, 2, 3)))]))  # type: ignore[arg-type]


def test_an_error_of_the_source_comes_after_earlier_answers(
    start_server: Callable[..., Any], connect: Callable[..., Any]
) -> None:
    def unplugged() -> Iterator[Any]:
        yield RED
        yield GREEN
        raise OSError("the camera was unplugged")

    client = connect(start_server().address)
    answers = client.stream(unplugged(), drop_old=False)
    assert [next(answers).smoothed_label for _ in range(2)] == ["red", "green"]
    with pytest.raises(OSError, match="unplugged"):
        next(answers)
    with pytest.raises(TypeError):
        list(client.stream(5))


def test_closing_the_answers_ends_the_call_and_takes_no_more_frames(
    start_server: Callable[..., Any], connect: Callable[..., Any]
) -> None:
    server = start_server()
    client = connect(server.address)
    frames = Counted(every_s=0.001)
    answers = client.stream(frames)
    next(answers)
    assert len(server.service.cameras) == 1
    answers.close()
    until(lambda: not server.service.cameras)
    until(lambda: frames.is_closed)
    assert client.classify(RED)[0].label == "red"


def test_a_server_that_goes_down_ends_the_stream(
    start_server: Callable[..., Any], connect: Callable[..., Any]
) -> None:
    server = start_server()
    answers = connect(server.address).stream(Counted(every_s=0.005))
    next(answers)
    stopping = threading.Thread(target=server.stop)
    stopping.start()
    with pytest.raises(UnavailableError):
        for _ in answers:
            pass
    stopping.join()


@pytest.mark.ci
@pytest.mark.parametrize("drop_old", [True, False])
def test_a_server_that_comes_back_goes_on_with_the_stream(
    start_server: Callable[..., Any], connect: Callable[..., Any], drop_old: bool
) -> None:
    server = start_server()
    frames = Counted(every_s=0.002)
    answers: list[FrameAnswer] = []
    stream = connect(server.address).stream(
        frames, drop_old=drop_old, reconnect=True, smoothing=(3, 2)
    )
    num_restarts = 0
    for answer in stream:
        answers.append(answer)
        if num_restarts < 2 and len(answers) >= (20, 600)[num_restarts]:
            if num_undecided(answers) <= num_restarts:
                continue  # the server has not begun
            # Of more frames that were given up the client does not keep the answers.
            frames.pauses_at = frames.num_taken + 100
            server.stop()
            server = start_server(listen=server.address)
            frames.pauses_at = None
            num_restarts += 1
            if num_restarts == 2:
                frames.most = frames.num_taken + 200
    count = frames.num_taken
    reported = Counter(one.frame_id for one in answers)
    assert sorted(reported) == list(range(count))
    assert set(reported.values()) == {1}
    states = Counter(one.status for one in answers)
    if not drop_old:
        assert states == {FrameStatus.CLASSIFIED: count}
    else:
        assert answers[-1].status is FrameStatus.CLASSIFIED
        assert answers[-1].dropped_frames == count - states[FrameStatus.CLASSIFIED]
    # What each server reported of its first frames: nothing is known yet, and that is a change.
    assert num_undecided(answers) == 3
    before: str | None = None
    for one in answers:
        assert one.changed is (one.smoothed_label != before)
        before = one.smoothed_label


def num_undecided(answers: list[FrameAnswer]) -> int:
    """How many frames were classified before their server had decided anything."""
    labels = [one.smoothed_label for one in answers if one.status is FrameStatus.CLASSIFIED]
    return labels.count(None)


def test_a_full_server_is_retried_if_requested(
    start_server: Callable[..., Any],
    connect: Callable[..., Any],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    from limelens.serve.client import feeding

    monkeypatch.setattr(feeding, "_LONGEST_PAUSE_S", 0.3)  # the server says 5
    server = start_server(service=ServiceSettings(max_streams=1))
    client, other = connect(server.address), connect(server.address)
    first = client.stream(Counted(every_s=0.005))
    next(first)
    with pytest.raises(OverloadedError, match=r"stream limit reached \(1 open\)"):
        list(other.stream([RED]))
    leaving = threading.Timer(0.5, first.close)
    leaving.start()
    answers = list(other.stream([RED, RED], reconnect=True, drop_old=False))
    assert [one.status.value for one in answers] == ["classified", "classified"]
    leaving.join()


def test_a_camera_continues_after_a_long_silence(
    start_server: Callable[..., Any], connect: Callable[..., Any]
) -> None:
    def rarely(idle_s: float, failing: bool) -> Iterator[Any]:
        yield RED
        slow_by(4 * idle_s)
        if failing:
            raise OSError("the camera was unplugged")
        yield GREEN
        slow_by(4 * idle_s)

    for idle_s in ever_longer(0.2):
        client = connect(start_server(service=ServiceSettings(stream_idle_s=idle_s)).address)
        with pytest.raises(ExpiredError, match=rf"no frame for {idle_s:g} seconds"):
            list(client.stream(rarely(idle_s, False)))
        both = list(client.stream(rarely(idle_s, False), reconnect=True))
        before: list[FrameAnswer] = []
        with pytest.raises(OSError, match="unplugged"):
            before.extend(client.stream(rarely(idle_s, True), reconnect=True))
        # A frame that a busy machine classifies too late is lost.
        if {one.status for one in (*both, *before)} == {FrameStatus.CLASSIFIED}:
            break
    assert [one.smoothed_label for one in both] == ["red", "green"]
    assert [one.smoothed_label for one in before] == ["red"]


def test_a_refusal_is_reported_even_while_a_frame_is_sent(
    start_server: Callable[..., Any], connect: Callable[..., Any]
) -> None:
    server = start_server(service=ServiceSettings(max_streams=0))
    client = connect(server.address)
    for _ in range(30):
        with pytest.raises(OverloadedError, match=r"stream limit reached \(0 open\)"):
            list(client.stream([bytes(10_000)] * 50))


def test_permanent_errors_are_not_retried(
    start_server: Callable[..., Any], connect: Callable[..., Any]
) -> None:
    client = connect(start_server().address)
    with pytest.raises(NotFoundError):
        list(client.stream([RED], model="cats", reconnect=True))
    with pytest.raises(InvalidRequestError):
        list(client.stream([RED], smoothing=(3, 9), reconnect=True))


async def test_frames_may_come_from_asynchronous_code(start_server: Callable[..., Any]) -> None:
    ended = asyncio.Event()

    async def camera() -> AsyncIterator[np.ndarray]:
        try:
            while True:
                yield RED
                await slow_by_async(0.001)
        finally:
            ended.set()

    async with AsyncClient(start_server().address) as client:
        answers = client.stream(camera(), drop_old=False)
        assert [(await anext(answers)).frame_id for _ in range(5)] == list(range(5))
        await answers.aclose()
        async with asyncio.timeout(60):
            await ended.wait()
        files = [answer async for answer in client.stream(iter([RED] * 5), drop_old=False)]
        assert [one.status.value for one in files] == ["classified"] * 5


async def test_a_cancelled_reader_ends_the_call(start_server: Callable[..., Any]) -> None:
    server = start_server()
    async with AsyncClient(server.address) as client:
        count = [0]

        async def read() -> None:
            async for _ in client.stream(Counted(every_s=0.001)):
                count[0] += 1

        reading = asyncio.create_task(read())
        await until_async(lambda: count[0] > 3)
        reading.cancel()
        with pytest.raises(asyncio.CancelledError):
            await reading
        await until_async(lambda: not server.service.cameras)


async def test_many_cameras_share_one_client(start_server: Callable[..., Any]) -> None:
    async with AsyncClient(start_server().address) as client:

        async def watch(number: int) -> list[str | None]:
            frames = [RED if number % 2 else GREEN] * 10
            stream = client.stream(frames, camera_id=f"door {number}", drop_old=False)
            return [answer.smoothed_label async for answer in stream]

        found = await asyncio.gather(*(watch(number) for number in range(20)))
    assert found == [["green"] * 10, ["red"] * 10] * 10


STUCK = """
import asyncio, sys, threading
from limelens.serve import AsyncClient, Client
def stuck():
    yield bytes.fromhex(sys.argv[3])
    threading.Event().wait()
async def first():
    async with AsyncClient(sys.argv[1]) as client:
        async for answer in client.stream(stuck()):
            return answer
if sys.argv[2] == "AsyncClient":
    answer = asyncio.run(first())
else:
    with Client(sys.argv[1]) as client:
        answer = next(client.stream(stuck()))
print(answer.status.value)
"""


def test_a_silent_camera_lets_the_program_end(start_server: Callable[..., Any], kind: str) -> None:
    command = [sys.executable, "-c", STUCK, start_server().address, kind, b"no image".hex()]
    done = subprocess.run(command, capture_output=True, text=True, timeout=60)
    assert (done.returncode, done.stdout, done.stderr) == (0, "invalid\n", "")
