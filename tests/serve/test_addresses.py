"""Addresses of servers."""

from __future__ import annotations

import pytest

from limelens.serve.addresses import is_loopback_host, parse_address


@pytest.mark.parametrize(
    ("text", "host", "port"),
    [
        ("127.0.0.1:8500", "127.0.0.1", 8500),
        ("door.example:1", "door.example", 1),
        ("[::1]:65535", "::1", 65535),
        ("localhost:0", "localhost", 0),
    ],
)
def test_a_host_and_a_port_are_read(text: str, host: str, port: int) -> None:
    assert parse_address(text) == (host, port)


@pytest.mark.parametrize(
    "text", ["", "8500", ":8500", "[]:8500", "door:", "door:-1", "door:65536", "unix:here"]
)
def test_anything_else_is_refused(text: str) -> None:
    with pytest.raises(ValueError, match="expected HOST:PORT"):
        parse_address(text)


@pytest.mark.parametrize(
    ("host", "is_here"),
    [("localhost", True), ("127.8.9.1", True), ("::1", True), ("fe80::1%eth0", False), ("", False)],
)
def test_hosts_that_are_this_machine(host: str, is_here: bool) -> None:
    assert is_loopback_host(host) is is_here
