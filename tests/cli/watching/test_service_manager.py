"""`limelens watch` tells systemd how it is, here over a real socket of the same kind."""

from __future__ import annotations

import signal
import socket
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from tests.filming import GREEN, filming

TEXT = '[server]\naddress = "{server}"\n[[camera]]\nid = "door"\nsource = "{source}"\n'


class Manager:
    """What systemd would listen to."""

    def __init__(self, path: str) -> None:
        self._socket = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)
        self._socket.bind(path)
        self._socket.settimeout(60)

    def until(self, line: str) -> list[str]:
        """Waits for a line; returns those that came before it, and itself."""
        heard: list[str] = []
        while line not in heard:
            heard += self._socket.recv(4096).decode().splitlines()
        return heard

    def close(self) -> None:
        self._socket.close()


@pytest.fixture(params=["path", "abstract"])
def manager(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[tuple[Manager, str]]:
    name = str(tmp_path / "notify")
    one = Manager(f"\0{name}" if request.param == "abstract" else name)
    yield one, f"@{name}" if request.param == "abstract" else name
    one.close()


def test_systemd_hears_when_it_is_ready_alive_reloading_and_stopping(
    manager: tuple[Manager, str],
    watching: Callable[..., Any],
    start_server: Callable[..., Any],
) -> None:
    heard, address = manager
    with filming(GREEN) as camera:
        text = TEXT.format(server=start_server().address, source=camera.url)
        environment = {"NOTIFY_SOCKET": address, "WATCHDOG_USEC": "2000000"}
        one = watching(text, environment=environment)
        assert "STATUS=watching 1 camera" in heard.until("READY=1") + heard.until("WATCHDOG=1")
        one.wait_for("door", "clear")
        heard.until("WATCHDOG=1")
        one.process.send_signal(signal.SIGHUP)
        heard.until("RELOADING=1")
        heard.until("READY=1")
        assert one.process.poll() is None
        one.process.send_signal(signal.SIGTERM)
        heard.until("STOPPING=1")
        assert one.wait() == 0
