"""What systemd is told, over a real socket of this machine."""

from __future__ import annotations

import os
import socket
from collections.abc import Iterator
from pathlib import Path

import pytest

from limelens.serve.service_manager import ServiceManager


@pytest.fixture
def listening(tmp_path: Path) -> Iterator[socket.socket]:
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as listening:
        listening.bind(str(tmp_path / "notify"))
        listening.settimeout(30)
        yield listening


def test_it_is_told_what_happens(listening: socket.socket) -> None:
    environment = {"NOTIFY_SOCKET": listening.getsockname()}
    manager = ServiceManager(environment)
    # No child may speak for this process.
    assert environment == {}
    manager.ready("watching 2 cameras")
    assert listening.recv(100) == b"READY=1\nSTATUS=watching 2 cameras"
    manager.reloading()
    assert listening.recv(100).startswith(b"RELOADING=1\nMONOTONIC_USEC=")
    manager.stopping()
    assert listening.recv(100) == b"STOPPING=1"
    manager.stopping(within_s=25.5)
    assert listening.recv(100) == b"STOPPING=1\nEXTEND_TIMEOUT_USEC=25500000"


def test_the_watchdog_is_fed_by_the_process_that_it_watches(listening: socket.socket) -> None:
    environment = {"NOTIFY_SOCKET": listening.getsockname(), "WATCHDOG_USEC": "20000000"}
    other = ServiceManager({**environment, "WATCHDOG_PID": "1"})
    other.alive()
    assert other.watchdog_s == 0
    assert ServiceManager({"WATCHDOG_USEC": "20000000"}).watchdog_s == 0
    manager = ServiceManager({**environment, "WATCHDOG_PID": str(os.getpid())})
    assert manager.watchdog_s == 20
    manager.alive()
    manager.alive()  # so soon after the last one it says nothing
    manager.stopping()
    assert listening.recv(100) == b"WATCHDOG=1"
    assert listening.recv(100) == b"STOPPING=1"


def test_a_status_is_one_line_that_can_be_sent(listening: socket.socket) -> None:
    manager = ServiceManager({"NOTIFY_SOCKET": listening.getsockname()})
    for status, sent in (
        ("a\nREADY=0", b"a READY=0"),
        ("\udcff.onnx", b"\\udcff.onnx"),
        ("x" * 10**6, b"x" * 1000),
    ):
        manager.ready(status)
        assert listening.recv(10_000) == b"READY=1\nSTATUS=" + sent


@pytest.mark.parametrize("microseconds", ["9" * 400, "9" * 5000, "-1", "1.5", "soon", ""])
def test_a_watchdog_that_makes_no_sense_is_none(microseconds: str) -> None:
    environment = {"NOTIFY_SOCKET": "@none", "WATCHDOG_USEC": microseconds}
    assert ServiceManager(environment).watchdog_s == 0


def test_without_a_manager_nothing_happens(tmp_path: Path) -> None:
    ServiceManager({}).ready("alone")
    ServiceManager({"NOTIFY_SOCKET": str(tmp_path / "gone")}).ready("alone")
