"""The private server of a model file, when it hangs."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import tempfile
import threading
import time
from contextlib import suppress
from pathlib import Path

import numpy as np
import pytest
from tests.waiting import PATIENCE_S, until

from limelens.watch.cameras.config import WatchConfig
from limelens.watch.cameras.connections import connect
from limelens.watch.cameras.delivery import Plan
from limelens.watch.cameras.model_server import ModelServer, ModelServerError
from limelens.watch.cameras.settings import CameraSettings
from limelens.watch.cameras.watchdog import Watchdog
from limelens.watch.cameras.watcher import Watcher
from limelens.watch.live import LiveCameras
from limelens.watch.sinks.jsonl import JsonlSink

HANGS_AFTER_S = 8.0


def serving() -> list[int]:
    """The private servers that this process started."""
    return [pid for pid in children(os.getpid()) if b"model_process" in command_line(pid)]


def children(parent: int) -> list[int]:
    """The processes that a process started."""
    found: list[int] = []
    for path in Path(f"/proc/{parent}/task").glob("*/children"):
        with suppress(FileNotFoundError, ProcessLookupError):
            found += [int(child) for child in path.read_text().split()]
    return found


def command_line(pid: int) -> bytes:
    """Of a process; empty once it has ended."""
    with suppress(FileNotFoundError, ProcessLookupError):
        return Path(f"/proc/{pid}/cmdline").read_bytes()
    return b""


def label_of_green(server: ModelServer) -> str | None:
    """What a server says of a green image."""
    with connect(server.settings) as client:
        (found,) = client.classify([np.full((8, 8, 3), (0, 255, 0), np.uint8)])
    return found.label


@pytest.mark.ci
def test_a_server_that_hangs_is_ended_and_started_again(one_model: Path) -> None:
    said: list[str] = []
    file = one_model / "colours" / "1" / "model.onnx"
    server = ModelServer(file, said.append, HANGS_AFTER_S)
    try:
        server.wait_ready(lambda: False)
        (first,) = serving()
        os.kill(first, signal.SIGSTOP)
        until(lambda: serving() not in ([], [first]))
        assert said == [
            f"{file}: its server hangs: no sign of life for 8 s; starting its server again in 0.5 s"
        ]
        server.wait_ready(lambda: False)
        assert label_of_green(server) == "green"
    finally:
        server.close()
    assert serving() == []


@pytest.mark.slow
def test_a_server_that_is_asked_nothing_does_not_hang(one_model: Path) -> None:
    said: list[str] = []
    server = ModelServer(one_model / "colours" / "1" / "model.onnx", said.append, 30.0)
    try:
        server.wait_ready(lambda: False)
        (first,) = serving()
        began = time.monotonic()
        until(lambda: time.monotonic() > began + 45)  # it is the time that counts
        assert (serving(), said) == ([first], [])
    finally:
        server.close()


def test_what_a_killed_server_started_does_not_keep_another_from_starting(one_model: Path) -> None:
    file = one_model / "colours" / "1" / "model.onnx"
    server = ModelServer(file, lambda _: None)
    try:
        server.wait_ready(lambda: False)
        (first,) = serving()
        until(lambda: children(first))  # the process that decodes images
        (decoder,) = children(first)
        # It has the server's pipes, and notices nothing.
        os.kill(decoder, signal.SIGSTOP)
        os.kill(first, signal.SIGKILL)
        until(lambda: serving() not in ([], [first]))
        server.wait_ready(lambda: False)
        until(lambda: not command_line(decoder))
    finally:
        server.close()


def test_a_long_path_of_temporary_files_leaves_room_for_sockets(
    one_model: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = tmp_path / ("long" * 30)
    folder.mkdir()
    monkeypatch.setattr(tempfile, "tempdir", str(folder))
    server = ModelServer(one_model / "colours" / "1" / "model.onnx", lambda _: None)
    try:
        server.wait_ready(lambda: False)
        assert label_of_green(server) == "green"
    finally:
        server.close()
    assert not list(folder.iterdir())


def test_a_configuration_whose_model_has_no_place_for_its_server_changes_nothing(
    one_model: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path / "gone"))
    camera = CameraSettings.model_validate(
        {"id": "door", "source": str(tmp_path), "model": one_model / "colours" / "1" / "model.onnx"}
    )
    watcher = Watcher(LiveCameras(), lambda _: None)
    exchanged: list[str] = []

    def make() -> JsonlSink:
        exchanged.append("made")
        raise AssertionError

    try:
        with pytest.raises(ModelServerError, match=r"model.onnx: .*set TMPDIR to another one"):
            watcher.use(
                WatchConfig(camera=(camera,)), {"events": Plan("new", make)}, timeout_s=PATIENCE_S
            )
        assert not exchanged
    finally:
        watcher.stop(PATIENCE_S)


def test_the_silence_of_a_long_start_is_not_counted_once_it_serves(tmp_path: Path) -> None:
    # It says nothing until well after it is ready, as one that loaded a large model.
    child = "import sys; print(flush=True); sys.stdin.read()"
    watchdog = Watchdog(tmp_path / "notify", hangs_after_s=3.0)
    is_ready = threading.Event()
    with (
        subprocess.Popen(
            [sys.executable, "-c", child],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
            env=watchdog.environment,
            start_new_session=True,
        ) as process,
        watchdog,
    ):
        assert process.stdin is not None
        asked = 0

        def loads() -> bool:
            nonlocal asked
            asked += 1
            return is_ready.is_set()

        watchdog.watch(process, loads)
        until(lambda: asked > 5)  # once a second: longer than it may be silent later
        began = time.monotonic()
        is_ready.set()
        # But for ever it may not be silent.
        until(lambda: watchdog.problem)
        assert time.monotonic() - began >= 3
        process.wait()
    assert watchdog.problem == "its server hangs: no sign of life for 3 s"
