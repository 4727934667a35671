"""A fail-secure and a fail-safe door at one real camera and server, and what can happen to them.

`limelens camera` writes into a pipe; each line goes on to a controller of each kind as it comes.
"""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest
from tests.cameras.mjpeg_camera import GREEN, RED, MjpegCamera
from tests.waiting import PATIENCE_S, until

CONTROLLER = Path(__file__).parents[2] / "examples" / "python" / "door_controller.py"
HEARTBEAT_S = 0.4
MISSED = 3


class Controller:
    """A door's controller, and what it said of the door."""

    def __init__(self, kind: str, *arguments: object) -> None:
        self.kind = kind
        self.said: list[str] = []
        self.process = subprocess.Popen(
            [sys.executable, CONTROLLER, kind, *map(str, arguments)],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
        )
        assert self.process.stdin is not None
        self.input = self.process.stdin
        self._thread = threading.Thread(target=self._read)
        self._thread.start()

    def _read(self) -> None:
        assert self.process.stdout is not None
        with self.process.stdout as lines:
            for line in lines:
                self.said.append(line.partition(" ")[2].strip())

    def kill(self) -> None:
        self.process.kill()
        self.process.wait()
        self.input.close()
        self._thread.join()

    def hear(self, line: str) -> None:
        self.input.write(line)
        self.input.flush()

    def tell(self, state: str, at: datetime | None = None, **more: object) -> None:
        """Hears a line as `limelens camera` writes it."""
        time = (at or datetime.now(UTC)).isoformat(timespec="milliseconds")
        self.hear(json.dumps({"type": "state", "time": time, "state": state, **more}) + "\n")

    def until(self, said: str) -> None:
        """Waits until that is the last thing that it said."""
        until(lambda: self.said[-1:] == [said])


class Doors:
    """A camera at two doors.

    Args:
        arguments: After `limelens camera`.
        heartbeat_s: A line that is older than `MISSED` of them says nothing any more.
    """

    def __init__(self, *arguments: object, heartbeat_s: float = HEARTBEAT_S) -> None:
        options = ("--heartbeat-s", heartbeat_s, "--missed", MISSED)
        self.controllers = [Controller(kind, *options) for kind in ("--fail-secure", "--fail-safe")]
        command = ("camera", *arguments, "--jsonl", "--heartbeat-s", heartbeat_s)
        self.watching = subprocess.Popen(
            [sys.executable, "-m", "limelens.cli", *map(str, command)],
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
            text=True,
        )
        self._thread = threading.Thread(target=self._pass_on)
        self._thread.start()

    def _pass_on(self) -> None:
        assert self.watching.stdout is not None
        with self.watching.stdout as lines:
            for line in lines:
                for controller in self.controllers:
                    controller.hear(line)
        for controller in self.controllers:
            controller.input.close()

    def until(self, state: str) -> None:
        """Waits until both doors stand as they must in a state."""
        secure, safe = ("open", "open") if state == "clear" else ("locked", "locked")
        if state.startswith("unknown"):
            safe = "open"
        self.controllers[0].until(f"{secure}: {state}")
        self.controllers[1].until(f"{safe}: {state}")

    def ended(self) -> list[int]:
        return [controller.process.wait(PATIENCE_S) for controller in self.controllers]

    def kill(self) -> None:
        self.watching.kill()
        self.watching.wait()
        self._thread.join()
        for controller in self.controllers:
            controller.kill()


@pytest.fixture
def film() -> Iterator[MjpegCamera]:
    with MjpegCamera() as camera:
        camera.colour = GREEN
        yield camera


@pytest.fixture
def doors(film: MjpegCamera) -> Iterator[Callable[..., Doors]]:
    made: list[Doors] = []

    def make(address: str, *arguments: object, **settings: Any) -> Doors:
        made.append(Doors(film.url, "--server", address, *arguments, **settings))
        return made[-1]

    yield make
    for one in made:
        one.kill()


@pytest.mark.ci
def test_doors_follow_the_camera_and_fail_each_to_its_side(
    doors: Callable[..., Doors], film: MjpegCamera, serve_process: Callable[..., Any]
) -> None:
    server, address = serve_process()
    both = doors(address, "--max-decision-age-s", 1, "--frozen-after-s", 0)
    both.until("clear")
    film.colour = RED
    both.until("alert")
    film.colour = GREEN
    both.until("clear")

    server.kill()  # the server is gone
    both.until("unknown, server_lost")
    server, _ = serve_process(listen=address)
    both.until("clear")

    os.kill(server.pid, signal.SIGSTOP)  # it is there and says nothing: the decision expires
    both.until("unknown, expired")
    os.kill(server.pid, signal.SIGCONT)
    both.until("clear")

    film.status = 503  # the camera is gone
    film.hang_up()
    both.until("unknown, camera_lost")
    film.status = 200
    both.until("clear")

    os.kill(both.watching.pid, signal.SIGSTOP)  # heartbeats are missing
    both.until(f"unknown, nothing was said for {HEARTBEAT_S * MISSED:g} s")
    os.kill(both.watching.pid, signal.SIGCONT)
    both.until("clear")

    both.watching.kill()  # the input ends
    both.until("unknown, the camera's program ended")
    assert both.ended() == [1, 1]


def test_a_refused_stream_opens_no_secure_door(
    doors: Callable[..., Doors], start_server: Callable[..., Any], tokens: Any, tmp_path: Path
) -> None:
    (tmp_path / "token").write_text(tokens.set("guest", ["models"]))
    server = start_server(access=tokens.access())
    both = doors(server.address, "--token-file", tmp_path / "token", heartbeat_s=PATIENCE_S)
    both.until("unknown, the camera's program ended")
    assert both.ended() == [1, 1]
    for controller in both.controllers:
        # How long the process takes to end after that is not said.
        assert any(said.endswith("unknown, refused") for said in controller.said)


@pytest.fixture
def secure() -> Iterator[Controller]:
    controller = Controller("--fail-secure", "--camera-id", "door", "--heartbeat-s", 20)
    yield controller
    controller.kill()


def test_only_a_recent_line_of_this_camera_opens(secure: Controller) -> None:
    now = datetime.now(UTC)
    secure.tell("clear", now - timedelta(seconds=61), camera_id="door")  # it waited in the pipe
    secure.tell("clear", now + timedelta(hours=1), camera_id="door")  # a clock jumped
    secure.tell("clear", camera_id="yard")
    secure.tell("alert", camera_id="door", reason="")
    secure.until("locked: alert")
    assert secure.said == ["locked: unknown, nothing was said yet", "locked: alert"]
    secure.tell("clear", camera_id="door", reason="")
    secure.until("open: clear")
    secure.tell("clear", camera_id="yard")
    secure.tell("ajar", camera_id="door", reason="new")  # of a newer version
    secure.until("locked: unknown, new")


@pytest.mark.parametrize(
    "line", ["", "open", "[]", "{}", '{"camera_id": "door", "time": "now", "state": "clear"}']
)
def test_a_line_that_cannot_be_read_locks(secure: Controller, line: str) -> None:
    secure.tell("clear", camera_id="door")
    secure.until("open: clear")
    secure.hear(f"{line}\n")
    secure.until("locked: unknown, a line that cannot be read")
    secure.tell("clear", camera_id="door")
    secure.until("open: clear")


def test_a_controller_that_is_ended_leaves_the_door_on_its_side(secure: Controller) -> None:
    secure.tell("clear", camera_id="door")
    secure.until("open: clear")
    secure.process.terminate()
    assert secure.process.wait(PATIENCE_S) == 0
    secure.until("locked: unknown, the controller ends")
