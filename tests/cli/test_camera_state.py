"""What `limelens camera --jsonl` tells a door, with real cameras and servers that go and come."""

from __future__ import annotations

import json
import os
import queue
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest
from tests.cameras.mjpeg_camera import MjpegCamera
from tests.cli.test_camera import GREEN, GREY, LASTING, RED, save_video
from tests.notified import Manager
from tests.waiting import PATIENCE_S, until

Line = dict[str, Any]


class Told:
    """A `limelens camera` that runs, and its lines as they come."""

    def __init__(self, *arguments: object) -> None:
        self.process = subprocess.Popen(
            [sys.executable, "-m", "limelens.cli", "camera", *map(str, arguments), "--jsonl"],
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )
        self.lines: list[Line] = []
        self._coming: queue.Queue[Line | None] = queue.Queue()
        self._thread = threading.Thread(target=self._read, daemon=True)
        self._thread.start()

    def _read(self) -> None:
        assert self.process.stdout is not None
        for line in self.process.stdout:
            self._coming.put(json.loads(line))
        self._coming.put(None)

    def until(self, **wanted: object) -> Line:
        """The next line with these values."""
        while (line := self._coming.get(timeout=PATIENCE_S)) is not None:
            self.lines.append(line)
            if all(line.get(key) == value for key, value in wanted.items()):
                return line
        raise AssertionError(f"ended without {wanted}")

    def end(self, number: int = signal.SIGTERM) -> list[Line]:
        """Ends it; returns the lines that came until then."""
        self.process.send_signal(number)
        self.process.wait(PATIENCE_S)
        rest: list[Line] = []
        while (line := self._coming.get(timeout=PATIENCE_S)) is not None:
            rest.append(line)
        return rest


@pytest.fixture
def tell() -> Iterator[Callable[..., Told]]:
    started: list[Told] = []

    def start(*arguments: object) -> Told:
        started.append(Told(*arguments))
        return started[-1]

    yield start
    for one in started:
        one.process.kill()
        one.process.communicate()


@pytest.fixture
def door() -> Iterator[MjpegCamera]:
    with MjpegCamera() as camera:
        camera.colour = GREEN
        yield camera


def test_a_file_tells_each_state_and_ends_as_unknown(
    limelens: Callable[..., Any], tmp_path: Path, start_server: Callable[..., Any]
) -> None:
    visit = save_video(tmp_path / "visit.mp4", [GREY] * 3 + [RED] * 3 + [GREEN] * 3)
    before = datetime.now(UTC) - timedelta(seconds=1)
    result = limelens(
        "camera", visit, "--server", start_server().address, "--camera-id", "door",
        "--threshold", 0.5, "--jsonl",
    )  # fmt: skip
    assert result.exit_code == 0, result.stderr
    lines = [json.loads(line) for line in result.stdout.splitlines()]
    assert [line["sequence"] for line in lines] == list(range(1, len(lines) + 1))
    assert {line["camera_id"] for line in lines} == {"door"}
    assert {line["type"] for line in lines} == {"state", "frame"}  # a file has no heartbeat
    assert all(datetime.fromisoformat(line["time"]) > before for line in lines)
    states = [line for line in lines if line["type"] == "state"]
    assert [(one["state"], one["previous"], one["reason"]) for one in states] == [
        ("unknown", "unknown", "starting"), ("unknown", "unknown", "abstained"),
        ("alert", "unknown", ""), ("clear", "alert", ""), ("unknown", "clear", "off"),
    ]  # fmt: skip
    # Whoever reads a key of a frame's line finds it in every line.
    assert [(one["alert"], one["smoothed_label"], one["frame_id"]) for one in states] == [
        (False, None, None), (False, None, 0), (True, "red", 3), (False, "green", 6),
        (False, None, None),
    ]  # fmt: skip


@pytest.mark.ci
def test_a_lost_server_is_unknown_with_heartbeats_until_it_is_back(
    door: MjpegCamera, start_server: Callable[..., Any], tell: Callable[..., Told]
) -> None:
    server = start_server()
    told = tell(door.url, "--server", server.address, "--heartbeat-s", 0.2, *LASTING)
    assert told.until(type="state")["reason"] == "starting"
    told.until(type="state", state="clear")
    assert told.until(type="heartbeat")["state"] == "clear"
    server.stop()
    lost = told.until(type="lost")
    assert (lost["state"], lost["reason"]) == ("unknown", "server_lost")
    assert "going down" in lost["detail"] or "refused" in lost["detail"]
    for _ in range(3):
        beat = told.until(type="heartbeat")
        assert (beat["state"], beat["reason"]) == ("unknown", "server_lost")
    start_server(listen=server.address)
    told.until(type="back")
    assert told.until(type="state", state="clear")["smoothed_label"] == "green"
    # Of a server that is lost a state is told before anything else is.
    kinds = [line["type"] for line in told.lines if line["reason"] == "server_lost"]
    assert kinds[:2] == ["state", "lost"]
    last = told.end()[-1]
    assert (last["type"], last["state"], last["reason"]) == ("state", "unknown", "off")


@pytest.mark.ci
def test_a_server_that_hangs_lets_the_decision_expire(
    door: MjpegCamera, serve_process: Callable[..., Any], tell: Callable[..., Told]
) -> None:
    process, address = serve_process()
    told = tell(door.url, "--server", address, "--max-decision-age-s", 1)
    told.until(type="state", state="clear")
    os.kill(process.pid, signal.SIGSTOP)
    try:
        expired = told.until(type="state", state="unknown")
        assert (expired["reason"], expired["previous"]) == ("expired", "clear")
        assert expired["age_s"] >= 1
        # On a busy machine it may have expired before, and come back for a moment.
        assert told.until(type="heartbeat", state="unknown")["reason"] == "expired"
    finally:
        os.kill(process.pid, signal.SIGCONT)
    told.until(type="state", state="clear")


@pytest.mark.ci
def test_frames_that_waited_while_nothing_ran_are_no_news(
    door: MjpegCamera, start_server: Callable[..., Any], tell: Callable[..., Told]
) -> None:
    told = tell(door.url, "--server", start_server().address, *LASTING)
    told.until(type="state", state="clear")
    os.kill(told.process.pid, signal.SIGSTOP)
    stopped_at = time.monotonic()
    until(lambda: time.monotonic() > stopped_at + 6)  # it is the time that counts
    door.colour = RED
    os.kill(told.process.pid, signal.SIGCONT)
    lost = told.until(type="lost")
    assert "stood still" in lost["detail"]
    told.until(type="state", state="alert")
    told.end()
    later = [line for line in told.lines if line["sequence"] >= lost["sequence"]]
    assert [one for one in later if one["type"] == "lost" and "stood still" in one["detail"]] == [
        lost
    ]
    assert "clear" not in {line["state"] for line in later}


def test_systemd_hears_how_it_is(
    door: MjpegCamera,
    start_server: Callable[..., Any],
    tell: Callable[..., Told],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    address = start_server().address
    with Manager(str(tmp_path / "notify")) as manager:
        monkeypatch.setenv("NOTIFY_SOCKET", manager.address)
        monkeypatch.setenv("WATCHDOG_USEC", "4000000")
        told = tell(door.url, "--server", address)
        heard = manager.until("READY=1")
        [status] = [line for line in heard if line.startswith("STATUS=")]
        assert status.startswith("STATUS=watching http://127.0.0.1:")
        assert "secret" not in status
        for _ in range(2):
            manager.until("WATCHDOG=1")
        door.hang_up()  # a camera that is lost is no reason to start again
        for _ in range(2):
            manager.until("WATCHDOG=1")
        told.process.send_signal(signal.SIGTERM)
        manager.until("STOPPING=1")
        assert told.process.wait(60) == 0


@pytest.mark.ci
def test_a_lost_camera_is_unknown_with_heartbeats_until_it_is_back(
    door: MjpegCamera, start_server: Callable[..., Any], tell: Callable[..., Told]
) -> None:
    told = tell(door.url, "--server", start_server().address, "--heartbeat-s", 0.2, *LASTING)
    told.until(type="state", state="clear")
    door.status = 503
    door.hang_up()
    lost = told.until(type="lost")
    assert (lost["state"], lost["reason"]) == ("unknown", "camera_lost")
    assert "secret" not in json.dumps(told.lines)
    assert told.until(type="heartbeat")["reason"] == "camera_lost"
    assert told.until(type="heartbeat")["state"] == "unknown"
    door.colour = RED
    door.status = 200
    told.until(type="back")
    # What was decided before the loss does not come back.
    state = told.until(type="state", previous="unknown", reason="")
    assert (state["state"], state["smoothed_label"]) == ("alert", "red")


def test_a_password_may_stay_in_a_file(
    door: MjpegCamera, start_server: Callable[..., Any], tell: Callable[..., Told], tmp_path: Path
) -> None:
    door.user = "door:pa/ss#@"
    secret = tmp_path / "door.password"
    secret.write_text("door:pa/ss#@\n")
    url = f"http://{door.address}/live"
    told = tell(url, "--server", start_server().address, "--password-file", secret)
    told.until(type="state", state="clear")


@pytest.mark.ci
def test_a_frozen_camera_is_unknown_until_something_changes(
    door: MjpegCamera, start_server: Callable[..., Any], tell: Callable[..., Told]
) -> None:
    told = tell(door.url, "--server", start_server().address, "--frozen-after-s", 2, *LASTING)
    told.until(type="state", state="clear")
    assert told.until(type="lost")["reason"] == "frozen"  # it never shows anything else
    door.colour = RED
    told.until(type="back")
    told.until(type="state", state="alert")


def test_a_refused_stream_ends_as_unknown(
    door: MjpegCamera, start_server: Callable[..., Any], tokens: Any, tmp_path: Path,
    tell: Callable[..., Told],
) -> None:  # fmt: skip
    (tmp_path / "token").write_text(tokens.set("guest", ["models"]))
    server = start_server(access=tokens.access())
    told = tell(door.url, "--server", server.address, "--token-file", tmp_path / "token")
    refused = told.until(type="state", reason="refused")
    assert refused["state"] == "unknown"
    assert told.process.wait(PATIENCE_S) == 1
