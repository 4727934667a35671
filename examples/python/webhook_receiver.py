"""Receives events of cameras, and says what a door may do.

It takes only what was signed with the secret within the last five minutes. Each event counts once,
however often it comes: a database remembers the ids, and has an event before its sender hears that
it was taken. An event that comes late is kept, but opens no door: only a fresh `clear` does. A
camera of which nothing is heard for SILENCE_S seconds, three heartbeats, opens none either.

It needs nothing but Python.

    python webhook_receiver.py 127.0.0.1:8700 secret.txt events.sqlite [SILENCE_S]
"""

from __future__ import annotations

import base64
import binascii
import hashlib
import hmac
import json
import sqlite3
import sys
import time
from collections.abc import Mapping
from datetime import UTC, datetime, timedelta
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from threading import Lock, Timer

LONGEST_AGE_S = 300
"""Older signatures are not taken; this also bounds how far the clocks may differ."""
LATE = timedelta(seconds=10)
LARGEST_BODY = 1_000_000
SILENCE_S = 15.0
"""Three heartbeats of the default of 5 s."""


def is_signed(headers: Mapping[str, str], body: bytes, secrets: list[bytes], now: float) -> bool:
    """Whether the message is its sender's, unchanged, and no recording of an old one.

    Args:
        headers: The message's, with names in lower case.
        body: As it came, before it is read as JSON.
        secrets: Any of them may have signed.
        now: Seconds since 1970.
    """
    message_id = headers.get("webhook-id", "")
    timestamp = headers.get("webhook-timestamp", "")
    if not timestamp.isdecimal() or abs(now - int(timestamp)) > LONGEST_AGE_S:
        return False
    signed = f"{message_id}.{timestamp}.".encode() + body
    expected = [hmac.new(secret, signed, hashlib.sha256).digest() for secret in secrets]
    for one in headers.get("webhook-signature", "").split():
        version, _, text = one.partition(",")
        try:
            found = base64.b64decode(text, validate=True)
        except binascii.Error:
            continue
        if version == "v1" and any(hmac.compare_digest(found, right) for right in expected):
            return True
    return False


class Events:
    """The events that came, each once, in a database that survives a kill and a loss of power."""

    def __init__(self, path: str) -> None:
        self._lock = Lock()
        self._database = sqlite3.connect(path, check_same_thread=False, isolation_level=None)
        self._database.execute("PRAGMA journal_mode = WAL")
        self._database.execute("PRAGMA synchronous = FULL")
        self._database.execute(
            "CREATE TABLE IF NOT EXISTS events "
            "(number INTEGER PRIMARY KEY, id TEXT UNIQUE, event TEXT)"
        )

    def add(self, message_id: str, body: str) -> bool:
        """Keeps an event; False if it was known."""
        with self._lock:
            added = self._database.execute(
                "INSERT OR IGNORE INTO events (id, event) VALUES (?, ?)", (message_id, body)
            )
            return added.rowcount == 1


class Doors:
    """What the door of each camera may do, until nothing is heard of it for a while."""

    def __init__(self, silence_s: float) -> None:
        self._silence_s = silence_s
        self._lock = Lock()
        self._said: dict[str, str] = {}
        self._timers: dict[str, Timer] = {}

    def heard(self, camera: str, state: str, *, is_late: bool) -> None:
        """Takes a state, and prints what it means if that is new; begins to wait for the next."""
        with self._lock:
            late = " (late)" if is_late else ""
            opens = state == "clear" and not is_late
            self._say(camera, f"{state}{late}, the door {'may open' if opens else 'stays shut'}")
            if camera in self._timers:
                self._timers[camera].cancel()
            timer = self._timers[camera] = Timer(
                self._silence_s, lambda: self._silent(camera, timer)
            )
            timer.daemon = True
            timer.start()

    def _silent(self, camera: str, timer: Timer) -> None:
        with self._lock:
            if self._timers[camera] is timer:  # a message may have come just now
                self._say(camera, f"silent for {self._silence_s:g} s, the door stays shut")

    def _say(self, camera: str, text: str) -> None:
        if self._said.get(camera) != text:
            self._said[camera] = text
            print(f"{camera}: {text}", flush=True)


class Receiver(BaseHTTPRequestHandler):
    """Answers 204 once an event is kept, 401 to what is not signed, 400 to what is no event."""

    protocol_version = "HTTP/1.1"
    timeout = 30
    secrets: list[bytes]
    events: Events
    doors: Doors

    def do_POST(self) -> None:
        """Takes one event."""
        length = self.headers.get("content-length", "")
        if not length.isdecimal() or int(length) > LARGEST_BODY:
            self.close_connection = True
            self.answer(413, "expected a content-length of at most 1000000")
            return
        body = self.rfile.read(int(length))
        headers = {name.lower(): value for name, value in self.headers.items()}
        if not is_signed(headers, body, self.secrets, time.time()):
            self.answer(401, "the signature is wrong or too old")
            return
        try:
            event = json.loads(body)
            came = datetime.now(UTC)
            camera, state = str(event["camera_id"]), str(event["state"])
            is_late = came - datetime.fromisoformat(event["time"]) > LATE
        except (ValueError, KeyError, TypeError):
            self.answer(400, "this is no event")
            return
        if self.events.add(headers["webhook-id"], body.decode()):
            self.doors.heard(camera, state, is_late=is_late)
        self.answer(204)

    def answer(self, status: int, text: str = "") -> None:
        """Sends a status and a line of text."""
        body = text.encode()
        self.send_response(status)
        if status != 204:
            self.send_header("content-length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, format: str, *args: object) -> None:
        """Says nothing about requests."""


def read_secrets(path: Path) -> list[bytes]:
    """The keys in a file: `whsec_` and base64; more than one while the secret is replaced."""
    return [base64.b64decode(one.removeprefix("whsec_")) for one in path.read_text().split()]


def main() -> int:
    """Reads the command line."""
    if len(sys.argv) not in (4, 5):
        print(
            "usage: python webhook_receiver.py HOST:PORT SECRET_FILE DATABASE [SILENCE_S]",
            file=sys.stderr,
        )
        return 2
    host, _, port = sys.argv[1].rpartition(":")
    try:
        Receiver.secrets = read_secrets(Path(sys.argv[2]))
        Receiver.events = Events(sys.argv[3])
        Receiver.doors = Doors(float(sys.argv[4]) if len(sys.argv) == 5 else SILENCE_S)
        with ThreadingHTTPServer((host, int(port)), Receiver) as server:
            print(f"listening on {host}:{server.server_port}", file=sys.stderr, flush=True)
            server.serve_forever()
    except KeyboardInterrupt:
        pass
    except (OSError, ValueError, sqlite3.Error) as error:
        print(error, file=sys.stderr)
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
