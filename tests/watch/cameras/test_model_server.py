"""The private server of a model file, when it hangs."""

from __future__ import annotations

import os
import signal
import time
from contextlib import suppress
from pathlib import Path

import numpy as np
import pytest
from tests.waiting import until

from limelens.watch.cameras.connections import connect
from limelens.watch.cameras.model_server import ModelServer

HANGS_AFTER_S = 8.0


def serving() -> list[int]:
    """The private servers that this process started."""
    found = Path(f"/proc/{os.getpid()}/task").glob("*/children")
    pids = [int(child) for path in found for child in path.read_text().split()]
    return [pid for pid in pids if b"model_process" in command_line(pid)]


def command_line(pid: int) -> bytes:
    """Of a process; empty once it has ended."""
    with suppress(FileNotFoundError, ProcessLookupError):
        return Path(f"/proc/{pid}/cmdline").read_bytes()
    return b""


@pytest.mark.ci
def test_a_server_that_hangs_is_ended_and_started_again(one_model: Path) -> None:
    said: list[str] = []
    file = one_model / "colours" / "1" / "model.onnx"
    server = ModelServer(file, said.append, HANGS_AFTER_S)
    try:
        server.wait_ready(lambda: False)
        (first,) = serving()
        began = time.monotonic()
        until(lambda: time.monotonic() > began + 1.5 * HANGS_AFTER_S)  # it is the time that counts
        # Being asked nothing is not hanging.
        assert (serving(), said) == ([first], [])
        os.kill(first, signal.SIGSTOP)
        until(lambda: serving() not in ([], [first]))
        assert said == [
            f"{file}: its server hangs: no sign of life for 8 s; starting its server again in 0.5 s"
        ]
        server.wait_ready(lambda: False)
        with connect(server.settings) as client:
            (found,) = client.classify([np.full((8, 8, 3), (0, 255, 0), np.uint8)])
            assert found.label == "green"
    finally:
        server.close()
    assert serving() == []
