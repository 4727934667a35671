"""The tiles' states and frames, as a page is told them."""

from __future__ import annotations

import json
import socket
import time
from collections.abc import Callable, Iterator
from dataclasses import replace
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import httpx
import pytest
from tests.waiting import until
from tests.watch.console.conftest import Browser, set_users

from limelens.serve.decisions.camera_state import CameraState, UnknownReason
from limelens.serve.decisions.decision import Decision, FaceIssue, FacePrediction, Prediction, Score
from limelens.serve.image import Region
from limelens.watch.console.serving import Console
from limelens.watch.live import LiveCamera, LiveCameras, LiveFrame

Start = Callable[..., Console]
Browse = Callable[..., Browser]
Events = Iterator[tuple[str, Any]]


def camera(name: str = "door", state: CameraState = CameraState.CLEAR, **more: Any) -> LiveCamera:
    return LiveCamera(name, f"rtsp://{name}/live", state, datetime.now(UTC), **more)


def frame(jpeg: bytes = b"\xff\xd8 a frame", *faces: FacePrediction) -> LiveFrame:
    return LiveFrame(jpeg, faces, datetime.now(UTC))


def events(answer: httpx.Response) -> Events:
    name = ""
    for line in answer.iter_lines():
        if line.startswith("event: "):
            name = line.removeprefix("event: ")
        elif line.startswith("data: "):
            yield name, json.loads(line.removeprefix("data: "))


def next_news(stream: Events) -> dict[str, Any]:
    """The next cameras that changed, by id."""
    while True:
        name, value = next(stream)
        assert name == "cameras", name
        if value["cameras"]:
            return {one["id"]: one for one in value["cameras"]}


@pytest.fixture
def live() -> LiveCameras:
    found = LiveCameras()
    found.put(camera(label="with_mask", probability=0.97, people=1, last_event_id="e1"))
    return found


def test_a_page_is_told_each_change_once_and_every_second_that_it_is_connected(
    start_console: Start, browse: Browse, live: LiveCameras
) -> None:
    browser = browse(start_console(live).address)
    with browser.stream("GET", "/cameras/stream", headers={"accept-language": "de"}) as answer:
        assert answer.headers["content-type"].startswith("text/event-stream")
        stream = events(answer)
        assert next(stream)[0] == "hello"
        door = next_news(stream)["door"]
        assert (door["state"], door["label"], door["event"]) == ("clear", "with_mask", "e1")
        assert not door["is_stale"]
        assert next(stream) == ("cameras", {"ids": ["door"], "cameras": []})
        live.put(
            camera("yard", CameraState.UNKNOWN, reason=UnknownReason.CAMERA_LOST, detail="401")
        )
        yard = next_news(stream)["yard"]
        assert (yard["state"], yard["detail"], yard["is_stale"]) == ("unknown", "401", True)
        assert yard["reason"] == "Die Kamera ist nicht lesbar"
        assert (yard["detail_language"], yard["error_language"]) == ("en", "")
        live.remove("door")
        until(lambda: next(stream)[1]["ids"] == ["yard"])


def test_a_clear_that_expired_is_never_sent_though_nobody_says_so(
    start_console: Start, browse: Browse
) -> None:
    live = LiveCameras()
    with browse(start_console(live).address).stream("GET", "/cameras/stream") as answer:
        stream = events(answer)
        next(stream)
        live.put(camera())
        later = next_news(stream)["door"]
        assert later["state"] == "clear"
        live.put(camera(decided_at=time.monotonic(), max_age_s=2.0))
        while later["state"] == "clear":  # the camera's thread puts nothing more
            assert (later["age_s"] or 0) <= 2.0
            later = next_news(stream)["door"]
        assert later["state"] == "unknown"
        assert later["reason"] == "No frame was classified for too long"


def test_a_frame_comes_with_its_own_faces_and_not_twice(
    start_console: Start, browse: Browse
) -> None:
    live = LiveCameras()
    undecided = Prediction(Decision.ABSTAINED, None, (), False, (), 0.5, None)
    bare = replace(undecided, label="without_mask", scores=(Score("without_mask", 0.9),))
    faces = (
        FacePrediction(Region(0.1, 0.1, 0.2, 0.3), 0.9, bare, None, True, 1, "without_mask"),
        FacePrediction(Region(0.5, 0.1, 0.6, 0.3), 0.9, undecided, FaceIssue.BLURRED, False, 2),
    )
    region = Region(0.0, 0.0, 0.5, 1.0)
    live.put(camera("a/b?c", region=region, frame=frame(b"\xff\xd8 jpeg", *faces)))
    browser = browse(start_console(live, frames_per_s=30).address)
    with browser.stream("GET", "/cameras/stream") as answer:
        stream = events(answer)
        viewer = next(stream)[1]["viewer"]
        asked = {"camera": "a/b?c", "viewer": viewer}
        got = browser.get("/cameras/frame", params=asked)
        assert (got.content, got.headers["content-type"]) == (b"\xff\xd8 jpeg", "image/jpeg")
        about = json.loads(got.headers["x-frame"])
        assert about["region"] == [0, 0, 0.5, 1]
        assert [(one["state"], one["issue"]) for one in about["faces"]] == [
            ("alert", None), ("unknown", "blurred"),
        ]  # fmt: skip
        again = browser.get("/cameras/frame", params=asked | {"after": about["number"]})
        assert (again.status_code, again.content) == (204, b"")
        assert browser.get("/cameras/frame", params=asked | {"camera": "b"}).status_code == 404
        assert browser.get("/cameras/frame", params=asked | {"viewer": "x"}).status_code == 403
    until(lambda: browser.get("/cameras/frame", params=asked).status_code == 403)


def test_frames_come_no_faster_than_they_may(start_console: Start, browse: Browse) -> None:
    live = LiveCameras()
    browser = browse(start_console(live, frames_per_s=0.001).address)
    with browser.stream("GET", "/cameras/stream") as answer:
        stream = events(answer)  # its end would close the connection
        viewer = next(stream)[1]["viewer"]
        codes = []
        for number in range(3):
            live.put(camera(frame=frame(b"%d" % number)))
            asked = {"camera": "door", "viewer": viewer}
            codes.append(browser.get("/cameras/frame", params=asked).status_code)
    assert codes == [200, 204, 204]


def test_more_pages_than_allowed_are_told_so_until_one_is_closed(
    start_console: Start, browse: Browse, live: LiveCameras
) -> None:
    browser = browse(start_console(live, max_viewers=1).address)

    def first() -> str:
        with browser.stream("GET", "/cameras/stream") as answer:
            return next(events(answer))[0]

    with browser.stream("GET", "/cameras/stream") as answer:
        stream = events(answer)
        assert next(stream)[0] == "hello"
        assert first() == "full"
    until(lambda: first() == "hello")


def test_a_page_that_reads_nothing_holds_up_nobody_and_gets_the_newest_state_later(
    start_console: Start, browse: Browse
) -> None:
    live = LiveCameras()
    console = start_console(live)
    host, _, port = console.address.removeprefix("http://").partition(":")
    with socket.socket() as slow:
        slow.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
        slow.connect((host, int(port)))
        slow.sendall(b"GET /cameras/stream HTTP/1.1\r\nHost: 127.0.0.1\r\n\r\n")
        browser = browse(console.address)
        with browser.stream("GET", "/cameras/stream") as answer:
            stream = events(answer)
            next(stream)
            for number in range(40):  # far more than the buffers on the way hold
                live.put(camera(detail=f"{number} " + 100_000 * "x"))
                assert next_news(stream)["door"]["detail"].startswith(f"{number} ")


def test_the_stream_ends_with_the_login(
    start_console: Start, browse: Browse, live: LiveCameras, users: Path
) -> None:
    browser = browse(start_console(live, users=users).address)
    assert (
        browser.get("/cameras/stream", headers={"accept": "text/event-stream"}).status_code == 401
    )
    browser.log_in("vera", "vera has a password")
    with browser.stream("GET", "/cameras/stream") as answer:
        stream = events(answer)
        next(stream)
        next_news(stream)
        set_users(users, {})
        until(lambda: next(stream)[0] == "over")
        assert next(stream, None) is None
    assert browser.get("/session").json() == {"may_see": False}
    assert browser.get("/cameras").status_code == 303


def test_closing_the_console_ends_open_pages(
    start_console: Start, browse: Browse, live: LiveCameras
) -> None:
    console = start_console(live)
    with browse(console.address).stream("GET", "/cameras/stream") as answer:
        stream = events(answer)
        next(stream)
        console.close()
        assert all(name == "cameras" for name, _ in stream)
    with pytest.raises(httpx.ConnectError):
        browse(console.address).get("/cameras")
