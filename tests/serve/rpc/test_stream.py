"""Camera streams against a real server."""

from __future__ import annotations

import asyncio
import contextlib
import datetime
import io
import threading
import time
from collections.abc import Callable, Iterator
from typing import Any

import grpc
import grpc.aio
import numpy as np
import pytest
from PIL import Image
from tests.serve.paced import Paced
from tests.serve.rpc.conftest import Gate
from tests.waiting import ever_longer, slow_by, until, until_async

from limelens.serve import Client
from limelens.serve.client import Frame
from limelens.serve.client.results import CameraState, FrameStatus
from limelens.serve.decisions.decision import Decision
from limelens.serve.errors import (
    ExpiredError,
    InvalidRequestError,
    NotFoundError,
    OverloadedError,
    UnavailableError,
)
from limelens.serve.image import Region
from limelens.serve.rpc.server_config import ServiceSettings
from limelens.v1 import classifier_service_pb2 as service_pb2
from limelens.v1 import classifier_service_pb2_grpc as service_grpc
from limelens.v1 import image_pb2


def colour(red: int, green: int, blue: int) -> np.ndarray:
    return np.full((8, 8, 3), (red, green, blue), np.uint8)


RED, GREEN, GREY = colour(255, 0, 0), colour(0, 255, 0), colour(99, 99, 99)


def test_every_frame_gets_a_response_in_order(client: Client) -> None:
    camera = Paced(client, camera_id="door", top_k=1)
    found = [camera(frame) for frame in (RED, GREEN, GREY)]
    assert [one.frame_id for one in found] == [0, 1, 2]
    assert [one.smoothed_label for one in found] == ["red", "green", None]
    assert [one.changed for one in found] == [True, True, True]
    assert [one.alert for one in found] == [True, False, False]
    assert all(one.status is FrameStatus.CLASSIFIED for one in found)
    assert found[0].prediction is not None
    assert len(found[0].prediction.scores) == 1
    assert found[0].model.name == "colours"
    assert camera.end() == []


def test_the_decision_is_smoothed_with_hysteresis(client: Client) -> None:
    camera = Paced(client, smoothing=(3, 2))
    found = [camera(frame) for frame in (RED, GREEN, RED, GREEN, GREEN, GREY, RED, RED)]
    assert [one.smoothed_label for one in found] == [
        None, None, "red", "green", "green", "green", "green", "red",
    ]  # fmt: skip
    assert [one.smoothed_decision is Decision.LABEL for one in found] == [False] * 2 + [True] * 6
    assert found[0].smoothed_decision is Decision.ABSTAINED
    assert [one.changed for one in found] == [
        False, False, True, True, False, False, False, True,
    ]  # fmt: skip
    camera.end()


def test_capture_time_comes_back_and_frames_have_regions(client: Client) -> None:
    moment = datetime.datetime(2024, 2, 29, 12, 30, 15, 250_000, tzinfo=datetime.UTC)
    both = np.concatenate([RED, GREEN], axis=1)
    camera = Paced(client, region=Region(0.5, 0, 1, 1))
    answer = camera(Frame(41, both, moment))
    assert (answer.frame_id, answer.capture_time, answer.smoothed_label) == (41, moment, "green")
    camera.end()


def test_a_bad_frame_is_reported_and_the_stream_continues(client: Client) -> None:
    camera = Paced(client)
    found = [camera(frame) for frame in (RED, b"no image", b"", RED)]
    assert [one.status.value for one in found] == ["classified", "invalid", "invalid", "classified"]
    assert "not a supported image: text" in found[1].reason
    assert "no bytes" in found[2].reason
    assert found[1].prediction is None
    assert found[1].smoothed_label == "red"
    assert not found[3].changed
    camera.end()


def test_frames_out_of_order_are_dropped_and_counted(client: Client) -> None:
    camera = Paced(client)
    found = [camera(Frame(number, RED)) for number in (5, 5, 4, 6, -1)]
    assert [one.status.value for one in found] == [
        "classified", "out_of_order", "out_of_order", "classified", "invalid",
    ]  # fmt: skip
    assert [one.dropped_frames for one in found] == [0, 1, 2, 2, 2]
    camera.end()


def until_waiting(server: Any, frame_id: int) -> None:
    """Waits until a frame of the only camera waits for its turn."""

    def is_waiting() -> bool:
        [camera] = server.service.cameras
        return camera.waiting is not None and camera.waiting.frame_id == frame_id

    until(is_waiting)


def test_the_newest_waiting_frame_is_classified(server: Any, client: Client, gate: Gate) -> None:
    camera = Paced(client)
    camera(RED)
    gate.close(lambda: camera.send(RED), 1)
    for _ in range(6):
        camera.send(GREEN)
    until_waiting(server, 7)
    gate.opened.set()
    found = [camera.answer() for _ in range(7)]
    by_id = {one.frame_id: one.status.value for one in found}
    assert by_id == {
        1: "classified", 2: "superseded", 3: "superseded", 4: "superseded",
        5: "superseded", 6: "superseded", 7: "classified",
    }  # fmt: skip
    assert found[-1].frame_id == 7
    assert found[-1].dropped_frames == 5
    camera.end()


def test_the_newest_frame_is_chosen_when_its_turn_comes(
    start_server: Callable[..., Any], gate: Gate
) -> None:
    """Also while the stream's place in the queue has not come up."""
    server = start_server(num_threads=1)
    with Client(server.address) as client:
        camera = Paced(client)
        camera(RED)
        busy = threading.Thread(target=client.classify, args=(RED,))
        gate.close(busy.start, 1)
        for image in (RED, RED, GREEN):
            camera.send(image)
        until_waiting(server, 3)
        gate.opened.set()
        found = [camera.answer() for _ in range(3)]
        assert [one.status.value for one in found] == ["superseded", "superseded", "classified"]
        assert found[-1].smoothed_label == "green"
        busy.join()
        camera.end()


def test_a_decision_expires_while_the_next_frame_waits_for_its_turn(
    client: Client, gate: Gate
) -> None:
    camera = Paced(client, max_decision_age_s=0.3)
    assert camera(RED).state is CameraState.ALERT
    gate.close(lambda: camera.send(RED), 1)
    reported = camera.answer()
    assert (reported.status, reported.frame_id) == (FrameStatus.DECISION_EXPIRED, 0)
    assert (reported.state, reported.smoothed_label) == (CameraState.UNKNOWN, None)
    gate.opened.set()
    answer = camera.answer()
    assert (answer.frame_id, answer.state) == (1, CameraState.ALERT)
    camera.leave()


def test_a_stale_frame_is_dropped_and_counted(start_server: Callable[..., Any], gate: Gate) -> None:
    server = start_server(num_threads=1)
    with Client(server.address) as client:
        camera = Paced(client, max_frame_age_s=0.1)

        def is_in_time() -> bool:
            return camera(RED).status is FrameStatus.CLASSIFIED

        until(is_in_time)  # a busy machine may be too late for some
        before = camera(RED)
        busy = threading.Thread(target=client.classify, args=(RED,))
        gate.close(busy.start, 1)
        num_runs = server.counts().run
        camera.send(RED)
        until_waiting(server, before.frame_id + 1)
        slow_by(0.15)  # in its turn
        gate.opened.set()
        answer = camera.answer()
        assert (answer.status, answer.dropped_frames) == (
            FrameStatus.STALE, before.dropped_frames + 1,
        )  # fmt: skip
        busy.join()
        assert server.counts().run == num_runs + 1
        until(is_in_time)
        camera.end()


def test_numbers_that_are_not_finite_make_the_decision_unknown(
    client: Client, break_for: Callable[..., None]
) -> None:
    break_for(lambda images: images[:, 0, 0, 1] == 255)
    camera = Paced(client, smoothing=(3, 2))
    found = [camera(frame) for frame in (RED, RED, GREEN, RED, RED)]
    assert [one.smoothed_label for one in found] == [None, "red", None, None, "red"]
    assert found[2].status is FrameStatus.FAILED
    assert "not finite" in found[2].reason
    assert not found[2].alert
    camera.end()


@pytest.mark.parametrize(
    ("settings", "words"),
    [
        ({"camera_id": ""}, "config.camera_id: 0 characters; expected 1 to 128"),
        ({"camera_id": "x" * 129}, "config.camera_id: 129 characters"),
        ({"top_k": 9}, "config.top_k: 9; expected 1 to 3"),
        ({"threshold": 2.0}, "config.threshold: 2; expected 0 to 1"),
        ({"smoothing": (0, 0)}, "config.smoothing.window: 0; expected 1 to 1000"),
        ({"smoothing": (1001, 600)}, "config.smoothing.window: 1001"),
        ({"smoothing": (10, 5)}, "config.smoothing.required: 5 of 10 frames; expected 6 to 10"),
        ({"smoothing": (10, 11)}, "config.smoothing.required: 11 of 10"),
        ({"max_frame_age_s": -1.0}, "config.max_frame_age_ms: -1000; expected 0 or more"),
        ({"version": -1}, "version: -1"),
    ],
)
def test_a_wrong_configuration_is_refused(
    client: Client, settings: dict[str, Any], words: str
) -> None:
    with pytest.raises(InvalidRequestError) as caught:
        list(client.stream([RED], **settings))
    assert words in str(caught.value)


def test_an_unknown_model_is_refused(client: Client) -> None:
    with pytest.raises(NotFoundError, match="there is colours"):
        list(client.stream([RED], model="cats"))


def frame(number: int, pixels: np.ndarray = RED) -> service_pb2.ClassifyStreamRequest:
    raw = image_pb2.RawImage(data=pixels.tobytes(), height=8, width=8)
    return service_pb2.ClassifyStreamRequest(
        frame=service_pb2.Frame(frame_id=number, image=image_pb2.Image(raw=raw))
    )


CONFIG = service_pb2.ClassifyStreamRequest(config=service_pb2.StreamConfig(camera_id="door"))


@pytest.mark.parametrize(
    "messages",
    [
        [],
        [frame(0)],
        [service_pb2.ClassifyStreamRequest()],
        [CONFIG, CONFIG],
        [CONFIG, frame(0), CONFIG],
    ],
)
def test_messages_must_be_one_configuration_and_then_frames(
    server: Any, messages: list[service_pb2.ClassifyStreamRequest]
) -> None:
    with pytest.raises(grpc.RpcError) as caught:
        list(server.stub().ClassifyStream(iter(messages)))
    assert caught.value.code() is grpc.StatusCode.INVALID_ARGUMENT
    assert "configuration" in (caught.value.details() or "")


def test_an_error_during_a_response_still_ends_the_call(server: Any) -> None:
    stub = server.stub()
    for _ in range(100):  # the error comes while the first answer is being written, at times
        with pytest.raises(grpc.RpcError) as caught:
            list(stub.ClassifyStream(iter([CONFIG, frame(0), CONFIG]), timeout=60))
        assert caught.value.code() is grpc.StatusCode.INVALID_ARGUMENT


def test_a_stream_may_end_with_its_configuration(server: Any) -> None:
    assert list(server.stub().ClassifyStream(iter([CONFIG]))) == []


def test_waiting_frames_still_get_a_response_at_the_end(server: Any) -> None:
    answers = list(server.stub().ClassifyStream(iter([CONFIG, *map(frame, range(20))])))
    assert sorted(one.frame_id for one in answers) == list(range(20))
    last = max(answers, key=lambda one: one.frame_id)
    assert last.status == service_pb2.FRAME_STATUS_CLASSIFIED


def test_a_silent_stream_is_ended(start_server: Callable[..., Any]) -> None:
    for idle_s in ever_longer(0.2):
        server = start_server(service=ServiceSettings(stream_idle_s=idle_s))
        with Client(server.address) as client, contextlib.suppress(ExpiredError):
            camera = Paced(client)
            camera(RED)  # a busy machine may be too late with it
            with pytest.raises(ExpiredError, match=rf"no frame for {idle_s:g} seconds"):
                camera.answer()
            break


def test_too_many_streams_are_refused(start_server: Callable[..., Any]) -> None:
    server = start_server(service=ServiceSettings(max_streams=1))
    with Client(server.address) as client:
        camera = Paced(client)
        camera(RED)
        with pytest.raises(OverloadedError, match=r"stream limit reached \(1 open\)"):
            list(client.stream([RED]))
        camera.end()
        assert len(list(client.stream([RED]))) == 1


def test_idle_streams_leave_others_alone(client: Client) -> None:
    cameras = [Paced(client) for _ in range(50)]
    for camera in cameras:
        camera(RED)
    began = time.monotonic()
    for _ in range(20):
        client.classify(RED)
    assert time.monotonic() - began < 30
    for camera in cameras:
        camera.end()


async def drain(call: Any) -> None:
    async for _ in call:
        pass


async def test_a_reader_that_never_reads_is_ended_with_bounded_memory(
    start_server: Callable[..., Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    from limelens.serve.rpc import camera_stream as stream

    monkeypatch.setattr(stream, "MAX_UNREAD", 50)
    monkeypatch.setattr(stream, "MAX_LOST", 200)
    server = start_server()
    text = b"x" * 600  # no image, so that each frame has a long answer
    invalid = service_pb2.ClassifyStreamRequest(
        frame=service_pb2.Frame(image=image_pb2.Image(encoded=text))
    )
    small_window = [("grpc.http2.bdp_probe", 0), ("grpc.http2.lookahead_bytes", 16_384)]
    async with grpc.aio.insecure_channel(server.address, small_window) as channel:
        stub = service_grpc.ClassifierServiceStub(channel)  # type: ignore[no-untyped-call]
        call = stub.ClassifyStream()
        await call.write(CONFIG)
        num_kept = [0]

        async def flood() -> None:
            while True:
                await call.write(invalid)
                num_kept.extend(len(camera.unread) for camera in server.service.cameras)

        writing = asyncio.create_task(flood())
        async with asyncio.timeout(60):
            await until_async(lambda: num_kept[-1])
            await until_async(lambda: not server.service.cameras)
            # The reason lies behind the answers that nobody fetched.
            with pytest.raises(grpc.RpcError) as caught:
                await drain(call)
            await asyncio.gather(writing, return_exceptions=True)
        assert caught.value.code() is grpc.StatusCode.RESOURCE_EXHAUSTED
        assert max(num_kept) <= 50


async def test_a_half_closed_stream_that_is_never_read_is_ended(
    start_server: Callable[..., Any],
) -> None:
    for idle_s in ever_longer(0.5):
        error = await end_of_an_unread_stream(
            start_server(service=ServiceSettings(stream_idle_s=idle_s))
        )
        if error.code() is not grpc.StatusCode.DEADLINE_EXCEEDED:
            break  # a busy machine may be too late with the next frame
    assert error.code() is grpc.StatusCode.RESOURCE_EXHAUSTED
    assert f"no response was read for {idle_s:g} seconds" in (error.details() or "")


async def end_of_an_unread_stream(server: Any) -> grpc.RpcError:
    """The error that ends a stream of which nothing is read before it is over for the server."""
    small_window = [("grpc.http2.bdp_probe", 0), ("grpc.http2.lookahead_bytes", 16_384)]
    async with grpc.aio.insecure_channel(server.address, small_window) as channel:
        stub = service_grpc.ClassifierServiceStub(channel)  # type: ignore[no-untyped-call]
        call = stub.ClassifyStream()
        await call.write(CONFIG)
        await until_async(lambda: server.service.cameras or call.done())
        # Each is answered at once, as out of order; the answers are more than the window holds.
        with contextlib.suppress(grpc.RpcError, asyncio.InvalidStateError):
            for _ in range(1500):
                await call.write(frame(7))
            await call.done_writing()
        async with asyncio.timeout(120):
            await until_async(lambda: not server.service.cameras)
            # The call is over for the server too, though nobody fetches the reason.
            await until_async(lambda: not server.server.open_calls.count)
        with pytest.raises(grpc.RpcError) as caught:
            await drain(call)
        return caught.value


def test_a_waiting_frame_is_held_once(server: Any, client: Client, gate: Gate) -> None:
    camera = Paced(client)
    camera(RED)
    gate.close(lambda: camera.send(RED), 1)
    moment = datetime.datetime(2024, 2, 29, tzinfo=datetime.UTC)
    camera.send(Frame(2, GREEN, moment))
    (held,) = server.service.cameras
    until(lambda: held.waiting is not None)
    assert held.waiting.frame_id == 2
    assert not held.waiting.HasField("image")
    gate.opened.set()
    assert [camera.answer().capture_time for _ in range(2)] == [None, moment]
    camera.end()


def test_a_camera_that_vanishes_leaves_nothing_behind(server: Any) -> None:
    call = server.stub().ClassifyStream(iter([CONFIG, frame(0)]))
    next(call)
    call.cancel()
    until(lambda: not server.service.cameras)


def test_streams_end_when_the_server_goes_down(server: Any, client: Client) -> None:
    camera = Paced(client)
    camera(RED)
    began = time.monotonic()
    server.stop(grace_s=60)
    with pytest.raises(UnavailableError):
        camera.answer()
    assert time.monotonic() - began < 30


def test_a_multilabel_models_alert_is_reported(
    start_server: Callable[..., Any], models: Any
) -> None:
    white = np.full((8, 8, 3), 255, np.uint8)
    file = io.BytesIO()
    Image.fromarray(white).save(file, "JPEG")
    with Client(start_server(models).address) as client:
        (answer,) = client.stream([file.getvalue()], model="tags")
        assert answer.smoothed_label == "red"
        assert answer.alert
        assert answer.prediction is not None
        assert set(answer.prediction.labels) == {"red", "green", "blue"}


def test_an_error_of_the_frames_source_is_passed_on(client: Client) -> None:
    def frames() -> Iterator[np.ndarray]:
        yield RED
        raise OSError("the camera was unplugged")

    with pytest.raises(OSError, match="unplugged"):
        list(client.stream(frames()))
