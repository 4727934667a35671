"""Cameras that speak MJPEG over HTTP and show people for known times, in a process of their own.

They know nothing of limelens. Times are those of `time.time`, as in the lines of `limelens watch`.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from multiprocessing import get_context
from multiprocessing.connection import Connection
from typing import Any, Final

import numpy as np

from benchmarks.door.people import Person

_PATIENCE_S: Final = 60.0


@dataclass(frozen=True)
class Change:
    """Somebody else at a door.

    Args:
        camera: Its number.
        at: When. If the camera was late with the first frame of it, so much later.
        sent_at: When that frame was sent.
        label: What they are.
    """

    camera: int
    at: float
    sent_at: float
    label: str


@dataclass(frozen=True, eq=False)
class Film:
    """What one camera shows.

    Args:
        people: In their order; the first is there before the film begins.
        changes_s: When each of the others comes, in seconds from the beginning, rising.
        fps: Frames a second.
        phase: Where in the first interval the first frame is, 0 to 1.
    """

    people: tuple[Person, ...]
    changes_s: tuple[float, ...]
    fps: float
    phase: float


@dataclass
class Shown:
    """What the cameras showed.

    Args:
        changes: All of them, in no order.
        num_frames: Frames sent by each camera since the film began.
    """

    changes: list[Change] = field(default_factory=list)
    num_frames: dict[int, int] = field(default_factory=dict)


def films(
    people: dict[str, list[Person]],
    num: int,
    *,
    fps: float,
    seconds: float,
    stay_s: tuple[float, float],
) -> list[Film]:
    """Films in which people of two labels take turns, each for a random time."""
    rng = np.random.default_rng(0)
    labels = list(people)
    made = []
    for number in range(num):
        changes_s = np.cumsum(rng.uniform(*stay_s, int(seconds / stay_s[0])))
        changes_s = changes_s[changes_s < seconds - stay_s[1]]
        turns = [
            people[labels[(number + turn) % 2]][rng.integers(len(people[labels[0]]))]
            for turn in range(len(changes_s) + 1)
        ]
        made.append(Film(tuple(turns), tuple(changes_s.tolist()), fps, float(rng.random())))
    return made


class Cameras:
    """Cameras that were started."""

    def __init__(self, port: int, pid: int, connection: Connection) -> None:
        self.port = port
        self.pid = pid
        self._connection = connection

    def url(self, number: int) -> str:
        """Where a camera is."""
        return f"http://127.0.0.1:{self.port}/{number}"

    def begin(self, at: float) -> None:
        """Begins the film at a time; until then all show their first person."""
        self._connection.send(at)

    def shown(self) -> Shown:
        """Ends the film."""
        self._connection.send(None)
        found: Shown = self._connection.recv()
        return found


@contextmanager
def filming(made: list[Film]) -> Iterator[Cameras]:
    """Starts a camera for each film."""
    here, there = get_context("spawn").Pipe()
    process = get_context("spawn").Process(target=_run, args=(made, there), daemon=True)
    process.start()
    try:
        if not here.poll(_PATIENCE_S):
            raise TimeoutError(f"the cameras did not start within {_PATIENCE_S:g} s")
        assert process.pid is not None
        yield Cameras(here.recv(), process.pid, here)
    finally:
        process.kill()
        process.join()


def _run(made: list[Film], connection: Connection) -> None:
    studio = _Studio(made)
    server = ThreadingHTTPServer(("127.0.0.1", 0), studio.handler())
    server.daemon_threads = True
    threading.Thread(target=server.serve_forever, daemon=True).start()
    connection.send(server.server_port)
    studio.begins_at = connection.recv()
    connection.recv()
    connection.send(studio.shown)
    connection.recv()  # the last person stays until this process is killed


class _Studio:
    def __init__(self, made: list[Film]) -> None:
        self.films = made
        self.begins_at = float("inf")
        self.shown = Shown()

    def handler(self) -> type[BaseHTTPRequestHandler]:
        studio = self

        class Handler(BaseHTTPRequestHandler):
            def do_GET(self) -> None:
                self.send_response(200)
                self.send_header("Content-Type", "multipart/x-mixed-replace; boundary=frame")
                self.end_headers()
                with suppress(OSError):  # the reader is gone
                    studio.play(int(self.path.rpartition("/")[2]), self.wfile)

            def log_message(self, *_arguments: Any) -> None:
                pass

        return Handler

    def play(self, number: int, out: Any) -> None:
        film = self.films[number]
        interval_s = 1 / film.fps
        due = time.time() + film.phase * interval_s
        turn = 0
        count = 0
        while True:
            time.sleep(max(0.0, due - time.time()))
            # By the times at which frames are due: a camera that is late shows what it should have.
            since_s = due - self.begins_at
            now = int(np.searchsorted(film.changes_s, since_s, side="right")) if since_s > 0 else 0
            image = film.people[now].frames[count % len(film.people[now].frames)]
            out.write(
                b"--frame\r\nContent-Type: image/jpeg\r\nContent-Length: %d\r\n\r\n%s\r\n"
                % (len(image), image)
            )
            sent_at = time.time()
            if since_s > 0:
                self.shown.num_frames[number] = self.shown.num_frames.get(number, 0) + 1
            if now != turn:
                changed_at = self.begins_at + film.changes_s[now - 1] + (sent_at - due)
                label = film.people[now].label
                self.shown.changes.append(Change(number, changed_at, sent_at, label))
            turn = now
            count += 1
            due += interval_s
