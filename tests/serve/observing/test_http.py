"""The HTTP port: access, responses, and slow clients that must not block it."""

from __future__ import annotations

import socket
import subprocess
import sys
import threading
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from tests.waiting import until

from limelens.serve import Client
from limelens.serve.errors import ListenError
from limelens.serve.rpc.server import ServerConfig
from limelens.serve.run_server import serve

RED = np.full((8, 8, 3), (255, 0, 0), np.uint8)
COMMAND = (sys.executable, "-m", "limelens.cli", "serve", "--device", "cpu")


def place(watched: Any) -> tuple[str, int]:
    host, port = watched.http.split(":")
    return host, int(port)


def test_a_server_that_serves_is_alive_and_ready(watch: Callable[..., Any]) -> None:
    watched = watch()
    assert (watched.get("/healthz").status, watched.get("/healthz").text) == (200, "ok\n")
    assert (watched.get("/readyz").status, watched.get("/readyz").text) == (200, "ok\n")


def test_other_pages_are_not_found(watch: Callable[..., Any]) -> None:
    watched = watch()
    for path in ("/", "/metrics/", "/favicon.ico", "/debug", "/healthz/../metrics"):
        assert watched.get(path).status == 404
    for method in ("POST", "PUT", "DELETE", "OPTIONS", "HEAD"):
        assert watched.get("/metrics", method).status == 405


def test_a_server_that_goes_down_is_alive_and_not_ready(
    watch: Callable[..., Any], gate: Any
) -> None:
    watched = watch()
    gate.close()
    with Client(watched.address) as client, ThreadPoolExecutor() as pool:
        held = pool.submit(client.classify, [RED])
        gate.wait_until_entered()
        stopping = pool.submit(watched.server.stop, 60)
        until(lambda: watched.get("/readyz").status == 503)
        page = watched.get("/readyz")
        assert (page.status, page.text) == (503, "going down\n")
        assert watched.get("/healthz").status == 200
        assert watched.value("limelens_requests_in_flight") == 1
        gate.opened.set()
        assert held.result()[0].label == "red"
        stopping.result()
    with pytest.raises(ConnectionRefusedError):
        watched.get("/healthz")


def test_the_port_listens_on_loopback_alone(watch: Callable[..., Any]) -> None:
    watched = watch()
    _, port = place(watched)
    with pytest.raises(ConnectionRefusedError), socket.create_connection(("127.0.0.2", port), 60):
        pass


@pytest.mark.parametrize("http", ["0.0.0.0:0", "[::]:0", "192.0.2.5:8501"])
def test_beyond_loopback_is_refused(http: str, one_model: Path) -> None:
    with pytest.raises(ListenError, match="--insecure-http"):
        serve(ServerConfig(models=one_model, http=http))


@pytest.mark.parametrize("http", ["8501", "localhost", ":8501", "127.0.0.1:http", "a:99999"])
def test_an_impossible_address_is_refused(http: str, one_model: Path) -> None:
    with pytest.raises(ListenError, match="expected HOST:PORT"):
        serve(ServerConfig(models=one_model, http=http))


def test_beyond_loopback_needs_an_option(start_server: Callable[..., Any]) -> None:
    server = start_server(http="0.0.0.0:0", insecure_http=True)
    port = int(server.server.http.address.split(":")[1])
    with socket.create_connection(("127.0.0.2", port), 60):
        pass


def test_a_name_of_this_machine_will_do(watch: Callable[..., Any], start_server: Any) -> None:
    server = start_server(http="localhost:0")
    assert server.server.http.address.startswith("localhost:")
    watched = watch()
    watched.http = server.server.http.address
    assert watched.get("/healthz").status == 200


def test_a_taken_port_ends_the_command_with_one_line(one_model: Path) -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        address = f"127.0.0.1:{taken.getsockname()[1]}"
        found = subprocess.run(
            [*COMMAND, "--models", str(one_model), "--listen", "127.0.0.1:0", "--http", address],
            capture_output=True,
            text=True,
            timeout=60,
            check=False,
        )
    assert found.returncode == 1
    assert found.stderr.startswith(f"limelens: cannot listen on {address} for HTTP: the port is")
    assert len(found.stderr.splitlines()) == 1
    assert found.stdout == ""


def test_silent_and_half_finished_clients_do_not_block_others(watch: Callable[..., Any]) -> None:
    watched = watch()
    openings = [b"", b"GET /met", b"GET /metrics HTTP/1.1\r\nHost:", b"POST /metrics HTTP/1.1\r\n"]
    slow = []
    try:
        for number in range(200):
            slow.append(socket.create_connection(place(watched), 60))
            slow[-1].sendall(openings[number % len(openings)])
        assert watched.get("/readyz").status == 200
        assert "limelens_request_seconds" in watched.get("/metrics").text
    finally:
        for one in slow:
            one.close()


def test_clients_that_never_read_do_not_block_others(watch: Callable[..., Any]) -> None:
    watched = watch()
    deaf = []
    try:
        for _ in range(50):
            one = socket.socket()
            one.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 1024)
            one.connect(place(watched))
            one.sendall(b"GET /metrics HTTP/1.1\r\nHost: a\r\n\r\n" * 20)
            deaf.append(one)
        assert watched.get("/readyz").status == 200
        assert "limelens_request_seconds" in watched.get("/metrics").text
    finally:
        for one in deaf:
            one.close()


@pytest.mark.parametrize(
    "request_bytes",
    [
        b"GET /metrics HTTP/1.1\r\nX: " + b"a" * 100_000 + b"\r\n\r\n",
        b"POST /metrics HTTP/1.1\r\nHost: a\r\nContent-Length: 1000000\r\n\r\n",
        b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03\r\n\r\n",
        b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n",
    ],
    ids=["large headers", "large body", "TLS", "HTTP/2"],
)
def test_malformed_requests_are_refused(watch: Callable[..., Any], request_bytes: bytes) -> None:
    watched = watch()
    with socket.create_connection(place(watched), 60) as connection:
        connection.sendall(request_bytes)
        answer = connection.recv(100)
        assert answer.startswith(b"HTTP/1.")
        assert int(answer.split()[1]) >= 400
    assert watched.get("/healthz").status == 200


def test_many_probes_at_once_all_get_a_response(watch: Callable[..., Any]) -> None:
    watched = watch()
    with ThreadPoolExecutor(20) as pool:
        pages = list(pool.map(watched.get, ["/readyz", "/metrics"] * 50))
    assert {page.status for page in pages} == {200}


def test_the_port_leaves_no_threads_behind(watch: Callable[..., Any]) -> None:
    before = {one.name for one in threading.enumerate()}
    watched = watch()
    with socket.create_connection(place(watched), 60):
        watched.get("/metrics")
        watched.server.stop()

    def left() -> list[str]:
        after = {one.name for one in threading.enumerate()} - before
        return [name for name in after if name.startswith(("limelens-", "waitress"))]

    until(lambda: not left())
