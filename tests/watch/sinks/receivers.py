"""Receivers of webhooks: the one of examples/python, and others that misbehave as they are told."""

from __future__ import annotations

import json
import sqlite3
import ssl
import subprocess
import sys
import threading
import time
from collections.abc import Callable
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

from tests.waiting import slow_by

ROOT = Path(__file__).parents[3]


class Example:
    """The receiver of examples/python in a process of its own, always at the same port.

    Args:
        folder: For its files.
        secret: The file with the secret.
        port: One that is the test's own.
        silence_s: As of the example.
    """

    def __init__(self, folder: Path, secret: Path, port: int, silence_s: float = 15) -> None:
        self.database = folder / "events.sqlite"
        self._secret = secret
        self._silence_s = silence_s
        self._said = folder / "said.txt"
        self.port = port
        self._process: subprocess.Popen[str] | None = None

    def start(self) -> None:
        script = ROOT / "examples" / "python" / "webhook_receiver.py"
        address = f"127.0.0.1:{self.port}"
        with self._said.open("a") as said:
            self._process = subprocess.Popen(
                [
                    *(sys.executable, script, address),
                    *(self._secret, self.database, str(self._silence_s)),
                ],
                stdout=said,
                stderr=subprocess.PIPE,
                text=True,
            )
        assert self._process.stderr is not None
        line = self._process.stderr.readline()
        assert line == f"listening on {address}\n"

    def kill(self) -> None:
        if self._process is not None:
            self._process.kill()
            self._process.communicate()
            self._process = None

    def said(self) -> list[str]:
        """The lines that it printed."""
        return self._said.read_text().splitlines()

    def events(self) -> list[dict[str, Any]]:
        """What came, in order."""
        if not self.database.exists():
            return []
        database = sqlite3.connect(self.database)
        try:
            rows = database.execute("SELECT event FROM events ORDER BY number").fetchall()
        finally:
            database.close()
        return [json.loads(row[0]) for row in rows]

    def sequences(self) -> list[int]:
        """The numbers of the events that came, in order."""
        return [event["sequence"] for event in self.events()]


Answer = Callable[[BaseHTTPRequestHandler], None]


class Scripted:
    """A receiver that answers as it is told: the first request by the first answer, and so on.

    The last answer is for all further requests.
    """

    def __init__(self, *answers: Answer, tls: ssl.SSLContext | None = None) -> None:
        self.bodies: list[dict[str, Any]] = []
        self.headers: list[dict[str, str]] = []
        self.times: list[float] = []
        scripted = self

        class Handler(BaseHTTPRequestHandler):
            protocol_version = "HTTP/1.1"
            timeout = 60

            def do_POST(self) -> None:
                body = self.rfile.read(int(self.headers["content-length"]))
                number = len(scripted.bodies)
                scripted.headers.append({k.lower(): v for k, v in self.headers.items()})
                scripted.times.append(time.monotonic())
                scripted.bodies.append(json.loads(body))
                try:
                    answers[min(number, len(answers) - 1)](self)
                except OSError:
                    self.close_connection = True

            def log_message(self, format: str, *args: object) -> None:
                pass

        self.server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self.server.daemon_threads = True
        if tls is not None:
            # A client that never ends its handshake then holds up its own thread only.
            self.server.socket = tls.wrap_socket(
                self.server.socket, server_side=True, do_handshake_on_connect=False
            )
        self.port = self.server.server_port
        self._thread = threading.Thread(target=self.server.serve_forever, args=(0.02,))
        self._thread.start()

    @property
    def sequences(self) -> list[int]:
        return [body["sequence"] for body in self.bodies]

    def stop(self) -> None:
        self.server.shutdown()
        self.server.server_close()
        self._thread.join()


def says(status: int, body: bytes = b"", **headers: str) -> Answer:
    def answer(request: BaseHTTPRequestHandler) -> None:
        request.send_response(status)
        for name, value in headers.items():
            request.send_header(name.replace("_", "-"), value)
        if status != 204:
            request.send_header("content-length", str(len(body)))
        request.end_headers()
        request.wfile.write(body)

    return answer


def drips(request: BaseHTTPRequestHandler) -> None:
    """Never comes to an end of its status line."""
    for byte in b"HTTP/1.1 200 " + b"x" * 1000:
        request.wfile.write(bytes([byte]))
        slow_by(0.05)


def floods(request: BaseHTTPRequestHandler) -> None:
    """A status, then more than anybody wants to read."""
    request.send_response(200)
    request.end_headers()
    while True:
        request.wfile.write(b"x" * 65536)


def hangs_up(request: BaseHTTPRequestHandler) -> None:
    request.close_connection = True
