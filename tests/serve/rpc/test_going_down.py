"""The end of `limelens serve`, alone and with workers: signals, full disks, callers who retry."""

from __future__ import annotations

import contextlib
import os
import select
import signal
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import IO, Any

import grpc
import numpy as np
import pytest
from tests.waiting import PATIENCE_S, until

from limelens.serve import Client
from limelens.v1 import classifier_service_pb2 as service_pb2
from limelens.v1 import classifier_service_pb2_grpc as service_grpc
from limelens.v1 import image_pb2

_RED = np.full((8, 8, 3), (255, 0, 0), np.uint8)
_IMAGE = image_pb2.Image(raw=image_pb2.RawImage(width=8, height=8, data=_RED.tobytes()))
_CLASSIFY = "/limelens.v1.ClassifierService/Classify"
_REQUEST = service_pb2.ClassifyRequest(images=[_IMAGE])


class Command:
    """`limelens serve`, from before it is ready."""

    def __init__(self, models: Path, processes: int, *options: str, stdout: Any = None) -> None:
        self.process = subprocess.Popen(
            [
                *(sys.executable, "-m", "limelens.cli", "serve", "--models", str(models)),
                *("--listen", "127.0.0.1:0", "--device", "cpu", "--processes", str(processes)),
                *("--num-threads", "2", *options),
            ],
            stdout=subprocess.PIPE if stdout is None else stdout,
            stderr=subprocess.PIPE,
            text=True,
        )
        self.workers: set[int] = set()

    def ready(self) -> str:
        """Waits for its line; its address."""
        assert self.process.stdout is not None
        return self.address_in(self.process.stdout)

    def address_in(self, stream: IO[str]) -> str:
        line = stream.readline()
        assert " on 127.0.0.1:" in line, line
        pid = self.process.pid
        children = Path(f"/proc/{pid}/task/{pid}/children").read_text().split()
        self.workers = {int(one) for one in children}
        return line.split(" on ")[1].split()[0]

    def catches(self, number: signal.Signals) -> bool:
        """Whether it answers a signal by now."""
        status = Path(f"/proc/{self.process.pid}/status").read_text()
        mask = next(line for line in status.splitlines() if line.startswith("SigCgt"))
        return bool(int(mask.split()[1], 16) >> (number - 1) & 1)

    def has_loaded(self, name: str) -> bool:
        return name in Path(f"/proc/{self.process.pid}/maps").read_text()

    def send_signal(self, number: signal.Signals) -> None:
        self.process.send_signal(number)

    def end(self) -> tuple[int, str]:
        """Waits until it and its workers are gone: the exit code and what is on stderr."""
        _, errors = self.process.communicate(timeout=PATIENCE_S)
        until(lambda: not any(Path(f"/proc/{pid}").exists() for pid in self.workers))
        return self.process.returncode, errors


@pytest.fixture
def command(one_model: Path) -> Iterator[Callable[..., Command]]:
    started: list[Command] = []

    def start(processes: int, *options: str, stdout: Any = None) -> Command:
        started.append(Command(one_model, processes, *options, stdout=stdout))
        return started[-1]

    yield start
    for one in started:
        if one.process.poll() is None:
            one.process.kill()
            one.process.communicate()


@contextlib.contextmanager
def calling(address: str, num_callers: int, *, again: bool) -> Iterator[list[Any]]:
    """Callers who ask without a pause; the status of each call, None where it was answered.

    Args:
        address: Of the server.
        num_callers: Every other one takes a new connection for each call.
        again: Whether they go on when the server is gone.
    """
    statuses: list[Any] = []
    is_over = threading.Event()

    def call(is_new_each_time: bool) -> None:
        options = [("grpc.enable_retries", 0), ("grpc.use_local_subchannel_pool", 1)]
        channel = grpc.insecure_channel(address, options)
        while not is_over.is_set():
            if is_new_each_time:
                channel.close()
                channel = grpc.insecure_channel(address, options)
            stub = service_grpc.ClassifierServiceStub(channel)  # type: ignore[no-untyped-call]
            try:
                stub.Classify(_REQUEST, timeout=60)
            except grpc.RpcError as error:
                statuses.append(error.code())
                if not again:
                    break
            else:
                statuses.append(None)
        channel.close()

    threads = [threading.Thread(target=call, args=(bool(one % 2),)) for one in range(num_callers)]
    for one in threads:
        one.start()
    try:
        until(lambda: statuses.count(None) > 20)
        yield statuses
    finally:
        is_over.set()
        for one in threads:
            one.join(PATIENCE_S)


@pytest.mark.parametrize("processes", [1, pytest.param(2, marks=pytest.mark.ci)])
def test_callers_who_never_stop_retrying_get_unavailable_and_nothing_else(
    command: Callable[..., Command], processes: int
) -> None:
    server = command(processes)
    with calling(server.ready(), 8, again=True) as statuses:
        server.send_signal(signal.SIGTERM)
        assert server.end() == (0, "")
        until(lambda: grpc.StatusCode.UNAVAILABLE in statuses)
    assert {*statuses} == {None, grpc.StatusCode.UNAVAILABLE}


@pytest.mark.parametrize("processes", [1, pytest.param(2, marks=pytest.mark.ci)])
@pytest.mark.parametrize(
    ("first", "second"),
    [
        (signal.SIGINT, signal.SIGINT),
        (signal.SIGTERM, signal.SIGINT),
        (signal.SIGINT, signal.SIGTERM),
    ],
)
def test_a_second_signal_under_load_ends_at_once_and_in_order(
    command: Callable[..., Command],
    processes: int,
    first: signal.Signals,
    second: signal.Signals,
) -> None:
    server = command(processes, "--grace-s", "60", "--http", "127.0.0.1:0")
    address = server.ready()
    folders = {folder for pid in server.workers for folder in _counted_in(pid)}
    assert bool(folders) == (processes > 1)
    with grpc.insecure_channel(address) as channel, calling(address, 4, again=True) as statuses:
        stub = service_grpc.ClassifierServiceStub(channel)  # type: ignore[no-untyped-call]
        # It would wait for this one, whose request does not come, for a minute.
        never = threading.Event()
        call: grpc.StreamUnaryMultiCallable[bytes, bytes] = channel.stream_unary(_CLASSIFY)
        held = call.future(_nothing_until(never))
        stub.Classify(_REQUEST)  # behind it on the same connection
        server.send_signal(first)
        until(lambda: grpc.StatusCode.UNAVAILABLE in statuses)
        assert not held.done()
        server.send_signal(second)
        assert server.end() == (128 + second, "")
        assert held.code() == grpc.StatusCode.UNAVAILABLE
        never.set()
    assert {*statuses} == {None, grpc.StatusCode.UNAVAILABLE}
    assert not [one for one in folders if one.exists()]


def _nothing_until(event: threading.Event) -> Iterator[bytes]:
    """The request of a call that does not come."""
    event.wait()
    yield from ()


def _counted_in(pid: int) -> set[Path]:
    """The folders in memory that a worker counts in."""
    maps = Path(f"/proc/{pid}/maps").read_text().split()
    return {Path(one).parent for one in maps if "/limelens-metrics-" in one}


@pytest.mark.parametrize("processes", [1, pytest.param(2, marks=pytest.mark.ci)])
@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
@pytest.mark.parametrize("loaded", ["", "onnxruntime", "grpc"])
def test_a_server_can_be_stopped_before_it_is_ready(
    command: Callable[..., Command], processes: int, number: signal.Signals, loaded: str
) -> None:
    server = command(processes)
    until(lambda: server.catches(signal.SIGTERM))
    until(lambda: server.has_loaded(loaded) or (processes > 1 and server.has_loaded("numpy")))
    server.send_signal(number)
    assert server.end() == (0, "")


@pytest.mark.parametrize("processes", [1, pytest.param(2, marks=pytest.mark.ci)])
def test_sighup_does_not_end_a_starting_server(
    command: Callable[..., Command], processes: int
) -> None:
    server = command(processes)
    until(lambda: server.catches(signal.SIGHUP))
    assert server.process.stdout is not None
    while not select.select([server.process.stdout], [], [], 0.05)[0]:
        server.send_signal(signal.SIGHUP)
        for child in _children(server.process.pid):  # as `pkill -HUP` would
            with contextlib.suppress(ProcessLookupError):
                os.kill(child, signal.SIGHUP)
    with Client(server.ready()) as client:
        assert client.classify([_RED])[0].label == "red"
    server.send_signal(signal.SIGTERM)
    assert server.end() == (0, "")


def _children(pid: int) -> list[int]:
    return [int(one) for one in Path(f"/proc/{pid}/task/{pid}/children").read_text().split()]


@pytest.mark.parametrize("processes", [1, pytest.param(2, marks=pytest.mark.ci)])
def test_a_server_whose_ready_line_cannot_be_written_serves(
    command: Callable[..., Command], processes: int
) -> None:
    with Path("/dev/full").open("w") as full:
        server = command(processes, stdout=full)
    assert server.process.stderr is not None
    line = server.process.stderr.readline()
    assert "cannot write to stdout (No space left on device); ready: limelens: serving" in line
    with Client(line.split(" on ")[-1].split()[0]) as client:
        assert client.classify([_RED])[0].label == "red"
    server.send_signal(signal.SIGTERM)
    assert server.end() == (0, "")


@pytest.mark.parametrize("processes", [1, pytest.param(2, marks=pytest.mark.ci)])
def test_a_log_that_cannot_be_written_ends_no_server(one_model: Path, processes: int) -> None:
    with Path("/dev/full").open("w") as full:
        process = subprocess.Popen(
            [
                *(sys.executable, "-m", "limelens.cli", "serve", "--models", str(one_model)),
                *("--listen", "127.0.0.1:0", "--device", "cpu", "--processes", str(processes)),
                *("--num-threads", "2", "--log-level", "debug"),
            ],
            stdout=subprocess.PIPE,
            stderr=full,
            text=True,
        )
    try:
        assert process.stdout is not None
        with Client(process.stdout.readline().split(" on ")[1].split()[0]) as client:
            assert client.classify([_RED])[0].label == "red"
        process.terminate()
        process.communicate(timeout=PATIENCE_S)
        assert process.returncode == 0
    finally:
        process.kill()
        process.communicate()


def test_a_command_reports_that_its_output_cannot_be_written() -> None:
    with Path("/dev/full").open("w") as full:
        found = subprocess.run(
            [sys.executable, "-m", "limelens.cli", "--version"],
            stdout=full,
            stderr=subprocess.PIPE,
            text=True,
            timeout=PATIENCE_S,
            check=False,
        )
    assert found.returncode == 1
    assert found.stderr.startswith("limelens: ")
    assert found.stderr.splitlines()[1:] == []
    assert "No space left on device" in found.stderr
