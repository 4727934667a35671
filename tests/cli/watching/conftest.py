"""Runs `limelens watch` as a process, and reads its lines while it runs."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from tests.waiting import until

COMMAND = (sys.executable, "-m", "limelens.cli", "watch")


class Watching:
    """A process that watches.

    Args:
        arguments: After `limelens watch`.
        environment: In addition to this process's own.
        stderr: Where its messages go, in place of `messages`.
    """

    def __init__(
        self,
        *arguments: object,
        environment: dict[str, str] | None = None,
        stderr: int = subprocess.PIPE,
    ) -> None:
        self.process = subprocess.Popen(
            [*COMMAND, *map(str, arguments)],
            stdout=subprocess.PIPE,
            stderr=stderr,
            text=True,
            env={**os.environ, **(environment or {})},
        )
        self.events: list[dict[str, Any]] = []
        self.messages: list[str] = []
        self._readers = [
            threading.Thread(target=self._read_events), threading.Thread(target=self._read_messages)
        ]  # fmt: skip
        for reader in self._readers:
            reader.start()

    def of(self, camera_id: str, *types: str) -> list[dict[str, Any]]:
        """The events of a camera so far."""
        return [
            one
            for one in list(self.events)
            if one["camera_id"] == camera_id and (not types or one["type"] in types)
        ]

    def states(self, camera_id: str) -> list[tuple[str, str]]:
        """The states of a camera so far, each with its reason or its label."""
        return [
            (one["state"], one["reason"] or one["label"]) for one in self.of(camera_id, "state")
        ]

    def wait_for(self, camera_id: str, *state: str) -> None:
        """Waits until a camera's last state is this, with its reason or label if that is given."""
        try:
            until(lambda: self.states(camera_id)[-1:] and self._is(camera_id, state))
        except AssertionError:
            raise AssertionError(
                f"{camera_id} never was {state}: {self.states(camera_id)}, {self.messages}"
            ) from None

    def stop(self, number: int = signal.SIGTERM) -> int:
        """Sends a signal, and returns the exit code."""
        self.process.send_signal(number)
        return self.wait()

    def wait(self) -> int:
        """Waits for the end; returns the exit code."""
        code = self.process.wait(60)
        for reader in self._readers:
            reader.join()
        return code

    def _is(self, camera_id: str, state: tuple[str, ...]) -> bool:
        return self.states(camera_id)[-1][: len(state)] == state

    def _read_events(self) -> None:
        assert self.process.stdout is not None
        for line in self.process.stdout:
            self.events.append(json.loads(line))

    def _read_messages(self) -> None:
        for line in self.process.stderr or ():
            self.messages.append(line)


@pytest.fixture
def watching(tmp_path: Path) -> Iterator[Callable[..., Watching]]:
    """Starts `limelens watch --jsonl` with the text of a file; killed after the test."""
    started: list[Watching] = []

    def start(text: str, *options: object, **settings: Any) -> Watching:
        path = tmp_path / "door.toml"
        path.write_text(text)
        started.append(Watching(path, "--jsonl", *options, **settings))
        return started[-1]

    yield start
    for one in started:
        one.process.kill()
        one.wait()
        for pipe in (one.process.stdout, one.process.stderr):
            if pipe is not None:
                pipe.close()
