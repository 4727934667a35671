"""`limelens serve` tells systemd how it is, here over a real socket of the same kind."""

from __future__ import annotations

import os
import signal
import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
from benchmarks.traffic import ServerProcess, Traffic
from onnx import TensorProto, helper
from tests.notified import Manager
from tests.waiting import until

from limelens.serve import Client
from limelens.serve.errors import LimelensError

WATCHDOG_S = 4.0
FACE = np.random.default_rng(0).integers(0, 256, (224, 224, 3), np.uint8)
GREEN, WHITE = (np.full((32, 32, 3), colour, np.uint8) for colour in ((0, 250, 0), (255,) * 3))


@pytest.fixture
def manager(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Manager]:
    with Manager(str(tmp_path / "notify")) as one:
        monkeypatch.setenv("NOTIFY_SOCKET", one.address)
        monkeypatch.setenv("WATCHDOG_USEC", str(round(WATCHDOG_S * 1e6)))
        yield one


@pytest.fixture
def start() -> Iterator[Callable[..., ServerProcess]]:
    """Starts servers that are gone after the test; arguments are those of `ServerProcess`."""
    started: list[tuple[ServerProcess, tuple[int, ...]]] = []

    def begin(models: Path, *options: str) -> ServerProcess:
        server = ServerProcess(models, "--grace-s", "20", "--num-threads", "2", *options)
        started.append((server, server.workers))
        return server

    yield begin
    for server, workers in started:
        server.process.kill()
        server.process.communicate()
        for pid in workers:
            if Path(f"/proc/{pid}").exists():
                os.kill(pid, signal.SIGKILL)


def hanging_graph(bundles: Any) -> onnx.GraphProto:
    """Of white images it never gives a result; of others it gives what it always does."""
    graph = bundles.graph(bundles.metadata().task)
    body = helper.make_graph(
        [
            helper.make_node("Identity", ["goes_on"], ["goes_on_still"]),
            helper.make_node("Identity", ["before"], ["after"]),
        ],
        "body",
        [
            helper.make_tensor_value_info("number", TensorProto.INT64, []),
            helper.make_tensor_value_info("goes_on", TensorProto.BOOL, []),
            helper.make_tensor_value_info("before", TensorProto.FLOAT, None),
        ],
        [
            helper.make_tensor_value_info("goes_on_still", TensorProto.BOOL, []),
            helper.make_tensor_value_info("after", TensorProto.FLOAT, None),
        ],
    )
    softmax = graph.node.pop()
    graph.node.extend(
        [
            helper.make_node("ReduceMin", ["scaled"], ["darkest"], keepdims=0),
            helper.make_node("GreaterOrEqual", ["darkest", "white"], ["is_white"]),
            helper.make_node("Loop", ["", "is_white", "logits"], ["looped"], body=body),
            helper.make_node("Softmax", ["looped"], softmax.output),
        ]
    )
    graph.initializer.append(helper.make_tensor("white", TensorProto.FLOAT, [], [1.0]))
    return graph  # type: ignore[no-any-return]


@pytest.fixture
def hanging_model(tmp_path: Path, bundles: Any) -> Path:
    path = tmp_path / "models" / "colours" / "1" / "model.onnx"
    path.parent.mkdir(parents=True)
    model = bundles.model(bundles.metadata(), hanging_graph(bundles))
    path.write_bytes(model.SerializeToString())
    return tmp_path / "models"


def ask(address: str, image: Any) -> threading.Thread:
    """Classifies an image, in a thread, whatever comes of it."""

    def call() -> None:
        with Client(address, max_attempts=1, timeout_s=120) as client:
            try:
                client.classify(image)
            except LimelensError:
                return

    thread = threading.Thread(target=call, daemon=True)
    thread.start()
    return thread


@pytest.mark.ci
@pytest.mark.parametrize("processes", [1, 2])
def test_systemd_hears_when_it_serves_reloads_and_stops(
    manager: Manager, start: Callable[..., ServerProcess], models: Path, processes: int
) -> None:
    address = ["--listen", "127.0.0.1:0", "--processes", str(processes)]
    starting = threading.Thread(target=lambda: servers.append(start(models, *address)))
    servers: list[ServerProcess] = []
    starting.start()
    heard = manager.until("READY=1")
    assert next(one for one in heard if one != "WATCHDOG=1") == "READY=1"
    starting.join()
    [server] = servers
    status = f"serving 2 models on {server.address}"
    assert f"STATUS={status}{', 2 processes' if processes == 2 else ''}" in heard
    with Client(server.address, max_attempts=1) as client:
        assert client.classify(GREEN, model="colours")[0].label == "green"
    manager.until("WATCHDOG=1")
    server.send_signal(signal.SIGHUP)
    manager.until("RELOADING=1")
    manager.until("READY=1")
    server.send_signal(signal.SIGTERM)
    heard = manager.until("STOPPING=1")
    [extended] = [one for one in heard if one.startswith("EXTEND_TIMEOUT_USEC=")]
    assert int(extended.partition("=")[2]) > 20e6
    assert server.end() == (0, "")
    # Neither a worker nor a decoder speaks for it.
    assert manager.pids == {server.process.pid}


def test_a_server_that_cannot_start_is_never_ready(
    manager: Manager, start: Callable[..., ServerProcess], tmp_path: Path
) -> None:
    with pytest.raises(LimelensError, match="no model"):
        start(tmp_path)
    with pytest.raises(TimeoutError):
        manager.hear(0.1)


@pytest.mark.slow
def test_the_status_follows_the_models(
    manager: Manager, start: Callable[..., ServerProcess], tmp_path: Path, bundles: Any
) -> None:
    bundles.save(tmp_path / "models", bundles.metadata())
    server = start(tmp_path / "models", "--reload-s", "0.1")
    assert f"STATUS=serving 1 model on {server.address}" in manager.until("READY=1")
    bundles.save(tmp_path / "models", bundles.metadata("others"))
    manager.until(f"STATUS=serving 2 models on {server.address}")


@pytest.mark.ci
def test_a_model_that_hangs_stops_the_watchdogs_food(
    manager: Manager, start: Callable[..., ServerProcess], hanging_model: Path
) -> None:
    server = start(hanging_model)
    with Client(server.address) as client:
        assert client.classify(GREEN)[0].label == "green"
    for _ in range(3):
        manager.until("WATCHDOG=1")
    ask(server.address, WHITE)  # one of two threads: the other one still answers
    manager.until_silent(2 * WATCHDOG_S)
    with Client(server.address) as client:
        assert client.classify(GREEN)[0].label == "green"


@pytest.mark.slow
def test_a_loop_that_hangs_stops_the_watchdogs_food(
    manager: Manager, start: Callable[..., ServerProcess], one_model: Path
) -> None:
    server = start(one_model)
    manager.until("WATCHDOG=1")
    os.kill(server.process.pid, signal.SIGSTOP)
    manager.until_silent(2 * WATCHDOG_S)
    os.kill(server.process.pid, signal.SIGCONT)
    manager.until("WATCHDOG=1")


@pytest.mark.slow
def test_a_worker_that_hangs_stops_the_watchdogs_food_until_it_is_replaced(
    manager: Manager, start: Callable[..., ServerProcess], one_model: Path
) -> None:
    server = start(one_model, "--processes", "2")
    manager.until("READY=1")
    manager.until("WATCHDOG=1")
    stopped = server.workers[0]
    os.kill(stopped, signal.SIGSTOP)
    manager.until_silent(2 * WATCHDOG_S)
    until(lambda: stopped not in server.workers and len(server.workers) == 2)
    for _ in range(3):
        manager.until("WATCHDOG=1")


@pytest.mark.slow
def test_a_worker_whose_model_hangs_is_replaced(
    manager: Manager, start: Callable[..., ServerProcess], hanging_model: Path
) -> None:
    server = start(hanging_model, "--processes", "2")
    workers = set(server.workers)
    manager.until("WATCHDOG=1")
    ask(server.address, WHITE)
    manager.until_silent(2 * WATCHDOG_S)
    until(lambda: set(server.workers) != workers, 150)
    until(lambda: len(server.workers) == 2)
    for _ in range(3):
        manager.until("WATCHDOG=1")


@pytest.mark.slow
@pytest.mark.parametrize("processes", ["1", "2"])
def test_full_load_and_explanations_do_not_starve_the_watchdog(
    manager: Manager, start: Callable[..., ServerProcess], processes: str
) -> None:
    shipped = Path(__file__).parents[2] / "models"
    server = start(shipped, "--processes", processes, "--face-detector", "none")
    manager.until("READY=1")
    with Traffic(server.address, FACE, callers=8, num_samples=2000) as traffic:
        until(lambda: len(traffic.calls) > 50)
        before = len(traffic.calls)
        for _ in range(5):
            manager.until("WATCHDOG=1")
        assert len(traffic.calls) > before
