"""What stands before every page, asked by a real client."""

from __future__ import annotations

import http.client
import ipaddress
import socket
from collections.abc import Callable, Iterator
from contextlib import suppress
from pathlib import Path

import httpx
import pytest
from tests.conftest import Authority
from tests.waiting import until
from tests.watch.console.conftest import Browser

from limelens.serve.errors import AccessPolicyError, ListenError
from limelens.watch.console import connections
from limelens.watch.console.connections import LimitedSocket, WatchedProtocol
from limelens.watch.console.serving import Console

Start = Callable[..., Console]
Browse = Callable[..., Browser]


@pytest.mark.parametrize("path", ["/health", "/login", "/missing", "/static/console.css"])
def test_every_answer_forbids_what_a_page_does_not_need(
    start_console: Start, browse: Browse, path: str
) -> None:
    headers = browse(start_console().address).get(path).headers
    policy = headers["content-security-policy"]
    assert policy.startswith("default-src 'none'")
    assert "unsafe" not in policy
    assert "frame-ancestors 'none'" in policy
    assert "base-uri 'none'" in policy
    assert headers["x-frame-options"] == "DENY"
    assert headers["x-content-type-options"] == "nosniff"
    assert headers["referrer-policy"] == "same-origin"
    assert headers["cross-origin-resource-policy"] == "same-origin"
    assert headers["cache-control"] == ("no-cache" if "/static/" in path else "no-store")
    assert "server" not in headers


def test_a_name_that_was_made_to_lead_here_reaches_nothing(
    start_console: Start, browse: Browse
) -> None:
    console = start_console(hosts=["door.example", "*.halls.example"])
    browser = browse(console.address)
    port = console.address.rpartition(":")[2]
    for host in ("127.0.0.1", "localhost", "[::1]", "DOOR.example", "north.halls.example"):
        assert browser.get("/health", headers={"host": f"{host}:{port}"}).status_code == 200, host
    for host in (
        "evil.example",
        "halls.example",
        "a.b.halls.example",
        "127.0.0.1.evil.example",
        "",
        "x@localhost",
        "localhost/.evil",
        "[",
        "[::1",
        "localhost]",
    ):
        answer = browser.get("/health", headers={"host": host})
        assert answer.status_code == 421, host
        assert "--host" in answer.text
        assert answer.headers["x-frame-options"] == "DENY"
        assert "set-cookie" not in answer.headers


def test_no_path_leads_out_of_the_static_files(start_console: Start) -> None:
    address = start_console().address
    for path in (
        "/static/../settings.py",
        "/static/%2e%2e/settings.py",
        "/static/..%2fsettings.py",
        "/static/....//settings.py",
        "/static//etc/passwd",
        "/static/%2fetc/passwd",
        "/static/..%5csettings.py",
        "/static/console.css%00.html",
    ):
        # httpx would tidy the path.
        connection = http.client.HTTPConnection(address.removeprefix("http://"), timeout=30)
        connection.request("GET", path)
        answer = connection.getresponse()
        assert answer.status == 404, path
        assert b"root:" not in answer.read()
        connection.close()


def test_a_post_needs_the_token_of_the_page(start_console: Start, browse: Browse) -> None:
    browser = browse(start_console().address)
    token = browser.csrf("/health")
    form = {"theme": "dark", "next": "/health"}
    for wrong in (
        {},
        {"csrf": ""},
        {"csrf": "0" * 64},
        {"csrf": browse(str(browser.base_url)).csrf()},
    ):
        answer = browser.post("/preferences", data={**form, **wrong})
        assert answer.status_code == 403
        assert "limelens-theme" not in browser.cookies
    for origin in ("https://evil.example", "null", "http://127.0.0.1:1", "http://["):
        answer = browser.post(
            "/preferences", data={**form, "csrf": token}, headers={"origin": origin}
        )
        assert answer.status_code == 403, origin
    done = browser.post("/preferences", data=form, headers={"x-csrf-token": token})
    assert (done.status_code, done.headers["location"]) == (303, "/health")
    assert 'data-theme="dark"' in browser.get("/health").text


def test_other_methods_and_too_large_bodies_are_refused(
    start_console: Start, browse: Browse
) -> None:
    browser = browse(start_console().address)
    token = browser.csrf()
    for method in ("PUT", "DELETE", "OPTIONS", "TRACE"):
        assert browser.request(method, "/health").status_code == 405
    assert browser.post("/preferences", data={"csrf": token, "a": "x" * 70_000}).status_code == 413

    def chunks() -> Iterator[bytes]:
        for _ in range(70):
            yield b"a=" + b"x" * 1024

    answer = browser.post(
        "/preferences",
        content=chunks(),
        headers={"content-type": "application/x-www-form-urlencoded"},
    )
    assert answer.status_code == 413


def test_nobody_is_sent_to_another_site(start_console: Start, browse: Browse) -> None:
    browser = browse(start_console().address)
    for there in ("https://evil.example", "//evil.example", "/\\evil.example", "/\t/evil.example"):
        answer = browser.fill_in("/preferences", theme="light", next=there)
        assert answer.headers["location"] == "/", there


def test_beyond_this_machine_it_starts_only_with_users_and_tls(
    start_console: Start, users: Path, tmp_path: Path
) -> None:
    cert, key = Authority(tmp_path / "ca", "ca").issue("door")
    _, other = Authority(tmp_path / "ca", "ca").issue("other")
    beyond = {"listen": "0.0.0.0:0"}
    with pytest.raises(ListenError, match="limelens console users add"):
        start_console(**beyond)
    with pytest.raises(ListenError, match="tls_cert and tls_key"):
        start_console(**beyond, users=users)
    with pytest.raises(ListenError, match="needs a login"):
        start_console(**beyond, tls_cert=cert, tls_key=key)
    with pytest.raises(AccessPolicyError, match="cannot be used"):
        start_console(**beyond, users=users, tls_cert=cert, tls_key=other)
    with pytest.raises(AccessPolicyError, match="given together"):
        start_console(**beyond, users=users, insecure=True, tls_cert=cert)
    start_console(**beyond, users=users, insecure=True)


def test_over_tls_cookies_stay_on_tls(
    start_console: Start, browse: Browse, users: Path, tmp_path: Path
) -> None:
    authority = Authority(tmp_path / "ca", "ca")
    cert, key = authority.issue("door")
    console = start_console(listen="0.0.0.0:0", users=users, tls_cert=cert, tls_key=key)
    address = console.address.replace("0.0.0.0", "localhost")
    assert address.startswith("https://")
    browser = browse(address, authority.path)
    answer = browser.log_in("vera", "vera has a password")
    assert "max-age=" in answer.headers["strict-transport-security"]
    for cookie in answer.headers.get_list("set-cookie"):
        assert cookie.startswith("__Host-limelens-")
        assert {"httponly", "secure", "samesite=strict", "path=/"} <= {
            word.strip().lower() for word in cookie.split(";")
        }
    assert browser.get("/health").status_code == 200
    with pytest.raises(httpx.TransportError):
        httpx.get(address.replace("https", "http") + "/login", trust_env=False)


def test_a_renewed_certificate_is_used_without_a_restart(
    start_console: Start, browse: Browse, users: Path, tmp_path: Path
) -> None:
    first, second = Authority(tmp_path / "one", "ca"), Authority(tmp_path / "two", "ca")
    cert, key = first.issue("door")
    console = start_console(users=users, tls_cert=cert, tls_key=key, reread_s=0.05)
    assert browse(console.address, first.path).get("/login").status_code == 200
    new_cert, new_key = second.issue("door")
    cert.write_bytes(new_cert.read_bytes())  # for a moment it does not fit the key

    def is_new() -> bool:
        try:
            return browse(console.address, second.path).get("/login").status_code == 200
        except httpx.TransportError:
            return False

    assert not is_new()
    assert browse(console.address, first.path).get("/login").status_code == 200
    key.write_bytes(new_key.read_bytes())
    until(is_new)


def test_connections_leave_the_process_open_files(
    start_console: Start, browse: Browse, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(connections, "MAX_CONNECTIONS", 20)
    monkeypatch.setattr(WatchedProtocol, "look_s", 600.0)  # those that were let in stay
    console = start_console()
    place = ("127.0.0.1", int(console.address.rpartition(":")[2]))
    flood = [socket.create_connection(place, timeout=60) for _ in range(21)]
    assert flood[20].recv(1) == b""
    flood[0].sendall(b"GET /session HTTP/1.1\r\nHost: localhost\r\n\r\n")
    assert flood[0].recv(12) == b"HTTP/1.1 200"
    for one in flood:
        one.close()

    until(lambda: _is_served(browse(console.address)))


def test_a_connection_that_takes_no_response_is_closed(
    start_console: Start, browse: Browse, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(WatchedProtocol, "look_s", 0.2)
    monkeypatch.setattr(connections, "MAX_CONNECTIONS", 1)
    console = start_console()
    place = ("127.0.0.1", int(console.address.rpartition(":")[2]))
    ask = b"GET /static/console.css HTTP/1.1\r\nHost: localhost\r\n\r\n"
    with socket.create_connection(place, timeout=60) as deaf:
        deaf.sendall(ask * 1000)  # for far more than the system holds for it
        until(lambda: _is_served(browse(console.address)))


def test_requests_ahead_of_their_turn_fill_no_memory(start_console: Start) -> None:
    place = ("127.0.0.1", int(start_console().address.rpartition(":")[2]))
    much = b"GET /session HTTP/1.1\r\nHost: localhost\r\n\r\n" * 1_000_000
    with socket.create_connection(place, timeout=60) as hasty, pytest.raises(ConnectionError):
        hasty.sendall(much)  # far more than the system holds


def _is_served(browser: Browser) -> bool:
    try:
        return browser.get("/session").status_code == 200
    except httpx.TransportError:
        return False


def test_one_address_cannot_take_every_connection(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(connections, "MAX_PER_ADDRESS", 3)
    with (
        socket.create_server(("127.0.0.1", 0)) as listening,
        LimitedSocket(listening, [ipaddress.ip_network("127.0.0.3/32")]) as limited,
    ):

        def accepted(source: str) -> socket.socket:
            opened = socket.create_connection(
                limited.getsockname(), timeout=60, source_address=(source, 0)
            )
            with opened:
                return limited.accept()[0]

        first = [accepted("127.0.0.1") for _ in range(3)]
        with pytest.raises(ConnectionAbortedError):
            accepted("127.0.0.1")
        others = [accepted("127.0.0.2"), *(accepted("127.0.0.3") for _ in range(5))]
        first.pop().close()
        for one in (accepted("127.0.0.1"), *first, *others):
            one.close()


def test_nobody_is_a_proxy_by_a_wide_word(start_console: Start) -> None:
    for everybody in ("*", "0.0.0.0/0", "::/0", "proxy.example"):
        with pytest.raises(AccessPolicyError, match="expected the proxy's own address"):
            start_console(trusted_proxies=[everybody])


def test_a_request_with_two_ends_is_refused(start_console: Start) -> None:
    place = ("127.0.0.1", int(start_console().address.rpartition(":")[2]))
    with socket.create_connection(place, timeout=60) as opened:
        opened.sendall(
            b"POST /login HTTP/1.1\r\nHost: localhost\r\nContent-Length: 5\r\n"
            b"Transfer-Encoding: chunked\r\n\r\n0\r\n\r\n"
            b"GET /health HTTP/1.1\r\nHost: localhost\r\n\r\n"
        )
        answer = b"".join(iter(lambda: opened.recv(4096), b""))
    assert answer.startswith(b"HTTP/1.1 400")
    assert answer.count(b"HTTP/1.1") == 1


def test_a_connection_that_brings_or_takes_nothing_is_closed(
    start_console: Start, browse: Browse, monkeypatch: pytest.MonkeyPatch
) -> None:
    console = start_console()
    browser = browse(console.address)
    host, _, port = console.address.removeprefix("http://").partition(":")
    for sent in (b"", b"GET /health HTT", b"GET /health HTTP/1.1\r\nHost: localhost\r\nX: "):
        # The other client is not hurried: it may take longer between connecting and asking.
        with monkeypatch.context() as soon:
            soon.setattr(WatchedProtocol, "look_s", 0.1)
            with (
                socket.create_connection((host, int(port)), timeout=60) as idle,
                suppress(ConnectionError),  # it was closed before anything was sent
            ):
                idle.sendall(sent)
                assert idle.recv(1) == b"", sent
        assert browser.get("/health", headers={"connection": "close"}).status_code == 200
