"""The proxy that gRPC would take, against real sockets."""

from __future__ import annotations

import socket
import threading
from collections.abc import Callable, Iterator

import pytest

from limelens.serve.tools.doctor import State, check_way
from limelens.serve.tools.doctor.proxies import check_proxy, proxy_for

VARIABLES = ("grpc_proxy", "https_proxy", "http_proxy", "no_grpc_proxy", "no_proxy")
Serve = Callable[[bytes], tuple[int, list[bytes]]]


@pytest.fixture(autouse=True)
def no_proxy(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in VARIABLES:
        monkeypatch.delenv(name, raising=False)


@pytest.fixture
def serve() -> Iterator[Serve]:
    """A proxy that gives one answer to whatever it is asked, and what it was asked."""
    listeners: list[socket.socket] = []

    def start(answer: bytes) -> tuple[int, list[bytes]]:
        listener = socket.create_server(("127.0.0.1", 0))
        listeners.append(listener)
        asked: list[bytes] = []

        def run() -> None:
            connection, _ = listener.accept()
            with connection:
                asked.append(connection.recv(4096))
                connection.sendall(answer)

        threading.Thread(target=run, daemon=True).start()
        return listener.getsockname()[1], asked

    yield start
    for listener in listeners:
        listener.close()


def test_the_first_variable_that_is_set_is_used(monkeypatch: pytest.MonkeyPatch) -> None:
    assert proxy_for("door.example") is None
    monkeypatch.setenv("http_proxy", "http://one:1")
    monkeypatch.setenv("https_proxy", "http://two:2")
    found = proxy_for("door.example")
    assert found is not None
    assert (found.variable, found.host, found.port) == ("https_proxy", "two", 2)
    monkeypatch.setenv("grpc_proxy", "")  # set, and for no proxy
    assert proxy_for("door.example") is None


@pytest.mark.parametrize("host", ["127.0.0.1", "localhost", "::1"])
def test_no_proxy_is_used_for_this_machine(monkeypatch: pytest.MonkeyPatch, host: str) -> None:
    monkeypatch.setenv("http_proxy", "http://proxy:3128")
    assert proxy_for(host) is None


@pytest.mark.parametrize(
    ("exceptions", "host", "is_direct"),
    [
        ("door.example", "door.example", True),
        ("other, .example", "Door.Example", True),
        ("example.com", "door.example", False),
        ("10.0.0.0/8", "10.1.2.3", True),
        ("10.0.0.0/8", "11.1.2.3", False),
        ("10.1.2.3", "10.1.2.3", True),
        ("", "door.example", False),
        (" , ", "door.example", False),
    ],
)
def test_hosts_may_be_excluded(
    monkeypatch: pytest.MonkeyPatch, exceptions: str, host: str, is_direct: bool
) -> None:
    monkeypatch.setenv("http_proxy", "http://proxy:3128")
    monkeypatch.setenv("no_proxy", exceptions)
    assert (proxy_for(host) is None) is is_direct


@pytest.mark.parametrize(
    "value", ["http://user:SECRET@127.0.0.1:9", "http://user:SE/CRET@127.0.0.1:9/", "user:SECRET@h"]
)
def test_a_proxys_password_is_never_shown(monkeypatch: pytest.MonkeyPatch, value: str) -> None:
    monkeypatch.setenv("http_proxy", value)
    proxy = proxy_for("door.example")
    assert proxy is not None
    shown = f"{proxy!r} {check_proxy(proxy, 'door.example:8500', 1.0)}"
    assert "SE" not in shown
    assert "CRET" not in shown


@pytest.mark.parametrize("value", ["https://proxy:3128", "proxy:3128", "http://", "http://p:x"])
def test_a_proxy_that_grpc_cannot_use_is_a_warning(
    monkeypatch: pytest.MonkeyPatch, value: str
) -> None:
    monkeypatch.setenv("https_proxy", value)
    first, *others = check_way("door.invalid:8500", None, 5.0)
    assert (first.name, first.state) == ("proxy", State.WARNING)
    assert "connects directly" in first.found
    assert others[0].name == "name"


def test_a_proxy_that_lets_calls_through_is_fine(
    monkeypatch: pytest.MonkeyPatch, serve: Serve
) -> None:
    port, asked = serve(b"HTTP/1.1 200 Connection established\r\n\r\n")
    monkeypatch.setenv("http_proxy", f"http://me:pa%2Fss@127.0.0.1:{port}")
    (check,) = check_way("door.invalid:8500", None, 5.0)
    assert (check.name, check.state) == ("proxy", State.OK)
    assert asked[0].startswith(b"CONNECT door.invalid:8500 HTTP/1.1\r\n")
    assert b"Proxy-Authorization: Basic bWU6cGEvc3M=\r\n" in asked[0]


@pytest.mark.parametrize(
    ("answer", "words"),
    [
        (b"HTTP/1.1 403 Forbidden\r\n\r\n", "403 Forbidden"),
        (b"HTTP/1.1 407 Proxy Authentication Required\r\n\r\n", "407"),
        (b"", "it hangs up"),
    ],
)
def test_a_proxy_that_blocks_calls_is_named(
    monkeypatch: pytest.MonkeyPatch, serve: Serve, answer: bytes, words: str
) -> None:
    port, _ = serve(answer)
    monkeypatch.setenv("http_proxy", f"http://127.0.0.1:{port}")
    (check,) = check_way("door.invalid:8500", None, 5.0)
    assert check.state is State.WRONG
    assert words in check.found
    assert "(http_proxy)" in check.found
    assert "no_proxy" in check.advice


def test_a_missing_proxy_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    with socket.create_server(("127.0.0.1", 0)) as listener:
        port = listener.getsockname()[1]
    monkeypatch.setenv("http_proxy", f"http://127.0.0.1:{port}")
    (check,) = check_way("door.invalid:8500", None, 5.0)
    assert check.state is State.WRONG
    assert "cannot be reached" in check.found
