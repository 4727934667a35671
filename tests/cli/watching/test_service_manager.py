"""`limelens watch` tells systemd how it is, here over a real socket of the same kind."""

from __future__ import annotations

import signal
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from tests.filming import GREEN, filming
from tests.notified import Manager

TEXT = '[server]\naddress = "{server}"\n[[camera]]\nid = "door"\nsource = "{source}"\n'


@pytest.fixture(params=["{}", "@{}"], ids=["path", "abstract"])
def manager(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Manager]:
    with Manager(request.param.format(tmp_path / "notify")) as one:
        yield one


def test_systemd_hears_when_it_is_ready_alive_reloading_and_stopping(
    manager: Manager,
    watching: Callable[..., Any],
    start_server: Callable[..., Any],
) -> None:
    with filming(GREEN) as camera:
        text = TEXT.format(server=start_server().address, source=camera.url)
        environment = {"NOTIFY_SOCKET": manager.address, "WATCHDOG_USEC": "2000000"}
        one = watching(text, environment=environment)
        assert "STATUS=watching 1 camera" in manager.until("READY=1") + manager.until("WATCHDOG=1")
        one.wait_for("door", "clear")
        manager.until("WATCHDOG=1")
        one.process.send_signal(signal.SIGHUP)
        manager.until("RELOADING=1")
        manager.until("READY=1")
        assert one.process.poll() is None
        one.process.send_signal(signal.SIGTERM)
        manager.until("STOPPING=1")
        assert one.wait() == 0
