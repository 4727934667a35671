"""`limelens serve --processes 2`, with callers on connections of their own."""

from __future__ import annotations

import contextlib
import os
import signal
import subprocess
import threading
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import grpc
import numpy as np
import pytest
from benchmarks.traffic import ServerProcess
from tests.waiting import PATIENCE_S, slow_by, until

from limelens.v1 import classifier_service_pb2 as service_pb2
from limelens.v1 import classifier_service_pb2_grpc as service_grpc
from limelens.v1 import image_pb2

CHANNELS = 30
"""That all of them lead to the same of two workers has a chance of one in five hundred million."""


def request_of(colour: tuple[int, int, int], **fields: Any) -> service_pb2.ClassifyRequest:
    pixels = np.full((8, 8, 3), colour, np.uint8)
    raw = image_pb2.RawImage(width=8, height=8, data=pixels.tobytes())
    return service_pb2.ClassifyRequest(images=[image_pb2.Image(raw=raw)], **fields)


RED = request_of((255, 0, 0))
GREEN = request_of((0, 255, 0))


@dataclass(frozen=True)
class Called:
    """One call: when, and its version or error."""

    began: float
    ended: float
    version: int
    code: grpc.StatusCode | None


class Fleet(ServerProcess):
    """The command with two processes."""

    def __init__(self, models: Path, *options: str) -> None:
        super().__init__(models, "--processes", "2", *options)
        self._channels: list[grpc.Channel] = []

    def replace_worker(self) -> None:
        """Kills one and waits until its replacement has started, which may not serve yet."""
        killed = self.workers[0]
        os.kill(killed, signal.SIGKILL)
        until(lambda: len(self.workers) == 2 and killed not in self.workers)

    def channel(self) -> grpc.Channel:
        """A connection of its own, without retries."""
        options = [("grpc.enable_retries", 0), ("grpc.use_local_subchannel_pool", 1)]
        self._channels.append(grpc.insecure_channel(self.address, options))
        return self._channels[-1]

    def stub(self) -> Any:
        return service_grpc.ClassifierServiceStub(self.channel())  # type: ignore[no-untyped-call]

    def stubs(self, count: int = CHANNELS) -> list[Any]:
        """On connections of their own, so that they reach every worker."""
        return [self.stub() for _ in range(count)]

    def versions(self, stubs: list[Any]) -> set[int]:
        return {one.Classify(GREEN).model.version for one in stubs}

    def close(self) -> None:
        for one in self._channels:
            one.close()
        workers = self.workers if self.process.poll() is None else ()
        if self.process.poll() is None:
            self.process.kill()
        with contextlib.suppress(ValueError):  # both were read already
            self.process.communicate()
        for pid in workers:
            with contextlib.suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)


@pytest.fixture
def fleet(one_model: Path) -> Iterator[Callable[..., Fleet]]:
    """Starts servers that are gone after the test; arguments are the command's."""
    started: list[Fleet] = []

    def start(*options: str, models: Path | None = None) -> Fleet:
        started.append(Fleet(models or one_model, *options))
        return started[-1]

    yield start
    for one in started:
        one.close()


class Load:
    """Callers that call without pause, each on a connection of its own.

    Args:
        fleet: The server.
        callers: How many.
        until_error: Whether a caller leaves at its first error, as when a server goes down.
    """

    def __init__(self, fleet: Fleet, callers: int = 6, *, until_error: bool = False) -> None:
        self._until_error = until_error
        self._over = threading.Event()
        self.calls: list[Called] = []
        self._threads = [
            threading.Thread(target=self._call, args=(one,)) for one in fleet.stubs(callers)
        ]

    def __enter__(self) -> Load:
        for one in self._threads:
            one.start()
        until(lambda: len(self.calls) > 20)
        return self

    def __exit__(self, *_: object) -> None:
        self._over.set()
        for one in self._threads:
            one.join(PATIENCE_S)
            assert not one.is_alive(), "a call hangs"

    def more(self, count: int = 50) -> None:
        """Waits until so many more calls were answered."""
        there = self.answered
        until(lambda: self.answered >= there + count)

    @property
    def answered(self) -> int:
        return sum(1 for one in self.calls if one.code is None)

    @property
    def codes(self) -> set[grpc.StatusCode]:
        """Of calls that were not answered."""
        return {one.code for one in self.calls if one.code is not None}

    def _call(self, stub: Any) -> None:
        while not self._over.is_set():
            began = time.monotonic()
            version, code = 0, None
            try:
                reply = stub.Classify(GREEN, timeout=60, wait_for_ready=False)
            except grpc.RpcError as error:
                code = error.code()
                slow_by(0.02)
            else:
                assert reply.predictions[0].label == "green"
                version = reply.model.version
            self.calls.append(Called(began, time.monotonic(), version, code))
            if code is not None and self._until_error:
                return


def is_alive(pid: int) -> bool:
    """Whether a process runs; one that waits to be collected does not."""
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except (FileNotFoundError, ProcessLookupError):
        return False


def run_to_its_end(*options: str) -> subprocess.CompletedProcess[str]:
    """Runs a server that cannot start."""
    import sys

    return subprocess.run(
        [sys.executable, "-m", "limelens.cli", "serve", "--device", "cpu", *options],
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
