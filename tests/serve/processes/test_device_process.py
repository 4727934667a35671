"""Servers whose models run in a process that owns the device.

The device is the CPU, which gains nothing by it; everything else is what a GPU gets.
"""

from __future__ import annotations

import os
import shutil
import signal
import urllib.error
import urllib.request
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import grpc
import numpy as np
import onnx
import pytest
from grpc_health.v1 import health_pb2, health_pb2_grpc
from onnx import TensorProto, helper
from tests.conftest import BundleMaker
from tests.detectors import frame_of, save_detector
from tests.serve.processes.conftest import GREEN, RED, Fleet, Load, is_alive
from tests.serve.rpc.test_swapping import graph_that_breaks_for_red, put
from tests.waiting import slow_by, until

from limelens.serve import load_bundle
from limelens.v1 import classifier_service_pb2 as service_pb2
from limelens.v1 import face_pb2, image_pb2

EXPLAIN = service_pb2.ExplainRequest(image=GREEN.images[0], num_samples=60, seed=3)


@pytest.fixture
def owned(fleet: Callable[..., Fleet]) -> Callable[..., Fleet]:
    """As `fleet`, with a process that owns the device."""

    def start(*options: str, **named: Any) -> Fleet:
        server = fleet("--device-process", *options, **named)
        assert server.owner
        assert len(server.workers) == 2
        return server

    return start


def explanations(server: Fleet) -> set[bytes]:
    """Those of all workers, without their times."""
    found = set()
    for stub in server.stubs(8):
        explanation = stub.Explain(EXPLAIN)
        explanation.ClearField("timings")
        found.add(explanation.SerializeToString())
    return found


def answers(stub: Any) -> bool:
    code = stub.Classify.future(GREEN).code()
    assert code in (grpc.StatusCode.OK, grpc.StatusCode.UNAVAILABLE)
    return bool(code is grpc.StatusCode.OK)


def replace_owner(server: Fleet) -> None:
    """Kills the process that owns the device, and waits until another one is there."""
    killed = server.owner
    os.kill(killed, signal.SIGKILL)
    until(lambda: server.owner not in (0, killed))


@contextmanager
def away(server: Fleet) -> Iterator[None]:
    """Within it no process owns the device, as while a large model is loaded."""
    owner = server.owner
    until(lambda: len(server.owners) == 2)  # one that will replace it
    (spare,) = {*server.owners} - {owner}
    os.kill(spare, signal.SIGSTOP)
    os.kill(owner, signal.SIGKILL)
    until(lambda: server.owners == (spare,))
    try:
        for stub in server.stubs():
            until(lambda stub=stub: not answers(stub))  # type: ignore[misc]
        yield
    finally:
        os.kill(spare, signal.SIGCONT)


@pytest.mark.ci
def test_it_answers_as_a_server_without_does(
    owned: Callable[..., Fleet], one_model: Path, tmp_path: Path
) -> None:
    server = owned("--face-detector", str(save_detector(tmp_path)), "--num-threads", "3")
    assert server.line.endswith("(2 processes; CPUExecutionProvider, 1 thread)\n")
    bundle = load_bundle(one_model / "colours" / "1", "cpu")
    pixels = np.full((1, *bundle.input_size, 3), (255, 0, 0), np.uint8)
    probabilities, embedding = bundle.predict_and_embed(pixels)
    frame = frame_of([(320, 160, 160, (255, 0, 0)), (560, 0, 80, (0, 0, 255))])
    raw = image_pb2.RawImage(width=640, height=480, data=frame.tobytes())
    faces = service_pb2.ClassifyRequest(
        images=[image_pb2.Image(raw=raw)], faces=face_pb2.FaceOptions()
    )
    for stub in server.stubs():
        (prediction,) = stub.Classify(RED).predictions
        scores = {one.label: one.probability for one in prediction.scores}
        assert [scores[label] for label in bundle.labels] == pytest.approx(
            probabilities[0].tolist(), abs=1e-5
        )
        vectors = stub.Embed(service_pb2.EmbedRequest(images=RED.images)).embeddings
        np.testing.assert_allclose(vectors[0].values, embedding[0], atol=1e-5)
        (prediction,) = stub.Classify(faces).predictions
        assert [face.prediction.label for face in prediction.faces] == ["red", "blue"]
        model = stub.GetModel(service_pb2.GetModelRequest()).model
        assert list(model.batch_sizes)[-1] == 64
    assert len(explanations(server)) == 1
    server.send_signal(signal.SIGTERM)
    assert server.end() == (0, "")


@pytest.mark.ci
def test_calls_while_an_owner_is_replaced_end_unavailable_at_worst(
    owned: Callable[..., Fleet],
) -> None:
    server = owned()
    before = explanations(server)
    with Load(server, 8) as load:
        for _ in range(2):
            replace_owner(server)
            load.more()
    # Of a machine so busy that they waited for more than five seconds.
    assert load.codes <= {grpc.StatusCode.UNAVAILABLE}
    stubs = server.stubs()
    until(lambda: all(map(answers, stubs)))  # one worker may have the device before the other
    assert explanations(server) == before
    server.send_signal(signal.SIGTERM)
    code, errors = server.end()
    assert code == 0
    assert errors.count("the owner of cpu ended: signal SIGKILL; another starts") == 2


@pytest.mark.ci
def test_a_worker_that_is_killed_loses_only_its_own_calls(owned: Callable[..., Fleet]) -> None:
    server = owned()
    owner = server.owner
    with Load(server, 8) as load:
        server.replace_worker()
        load.more()
    assert load.codes <= {grpc.StatusCode.UNAVAILABLE}
    assert server.owner == owner
    assert len(explanations(server)) == 1


@pytest.mark.ci
def test_calls_in_flight_are_finished_however_the_server_ends(owned: Callable[..., Fleet]) -> None:
    for number in (signal.SIGTERM, signal.SIGKILL):
        server = owned("--grace-s", "20")
        children = *server.workers, server.owner
        with Load(server, until_error=True) as load:
            load.more()
            # As a service manager sends it: to all processes of the service.
            for pid in children if number is signal.SIGTERM else ():
                os.kill(pid, number)
            signalled_at = server.send_signal(number)
            until(lambda gone=children: not any(map(is_alive, gone)))  # type: ignore[misc]
        assert load.codes == {grpc.StatusCode.UNAVAILABLE}
        assert not [one for one in load.calls if one.code is not None and one.began < signalled_at]


@pytest.mark.slow
def test_an_owner_that_hangs_is_replaced_and_workers_are_not(
    owned: Callable[..., Fleet], tmp_path: Path, bundles: BundleMaker
) -> None:
    put(tmp_path, bundles, 1, graph=graph_that_hangs_for_red(bundles))
    server = owned(models=tmp_path)
    owner, workers = server.owner, server.workers
    stub = server.stub()
    assert stub.Classify.future(RED).code() is grpc.StatusCode.UNAVAILABLE
    assert server.owner != owner
    assert server.workers == workers
    until(lambda: answers(stub))


def graph_that_hangs_for_red(bundles: BundleMaker) -> onnx.GraphProto:
    """Counts for years where an image is as red as can be."""
    graph = graph_that_breaks_for_red(bundles)
    nodes = {node.output[0]: node for node in graph.node}
    graph.node.remove(nodes["ones"])
    graph.node.remove(nodes["probabilities"])
    body = helper.make_graph(
        [helper.make_node(*one) for one in (
            ("Identity", ["is_on"], ["goes_on"]), ("Identity", ["one"], ["same"])
        )],
        "body",
        [
            helper.make_tensor_value_info("number", TensorProto.INT64, []),
            helper.make_tensor_value_info("is_on", TensorProto.BOOL, []),
            helper.make_tensor_value_info("one", TensorProto.FLOAT, [1, 1]),
        ],
        [
            helper.make_tensor_value_info("goes_on", TensorProto.BOOL, []),
            helper.make_tensor_value_info("same", TensorProto.FLOAT, [1, 1]),
        ],
    )  # fmt: skip
    graph.initializer.append(helper.make_tensor("years", TensorProto.INT64, [], [2**50]))
    graph.node.extend(
        [
            helper.make_node("Mul", ["index", "years"], ["times"]),
            helper.make_node("Loop", ["times", "", "row"], ["ones"], body=body),
            helper.make_node("Mul", ["fine", "ones"], ["probabilities"]),
        ]
    )
    return graph


@pytest.mark.ci
def test_a_server_is_not_ready_until_its_models_are_open_on_the_device(
    owned: Callable[..., Fleet], own_port: Callable[[], int]
) -> None:
    http = f"127.0.0.1:{own_port()}"
    server = owned("--http", http)

    def readiness() -> str:
        try:
            with urllib.request.urlopen(f"http://{http}/readyz", timeout=60) as page:
                return str(page.read().decode())
        except urllib.error.HTTPError as error:
            return error.read().decode()

    watching = health_pb2_grpc.HealthStub(server.channel()).Watch(health_pb2.HealthCheckRequest())
    status = health_pb2.HealthCheckResponse
    assert readiness() == "ok\n"
    assert next(watching).status == status.SERVING
    with away(server):
        until(lambda: readiness() == "a device is starting anew\n")
        for _ in range(50):
            assert readiness() == "a device is starting anew\n"
        assert next(watching).status == status.NOT_SERVING
    until(lambda: readiness() == "ok\n")
    assert next(watching).status == status.SERVING
    stubs = server.stubs()
    until(lambda: all(map(answers, stubs)))


@pytest.mark.ci
def test_metrics_count_the_memory_of_the_owner_and_its_spare(
    owned: Callable[..., Fleet], own_port: Callable[[], int]
) -> None:
    http = f"127.0.0.1:{own_port()}"
    server = owned("--http", http)
    until(lambda: len(server.owners) == 2)

    def reported() -> float:
        with urllib.request.urlopen(f"http://{http}/metrics", timeout=60) as page:
            lines = page.read().decode().splitlines()
        (line,) = (one for one in lines if one.startswith("process_virtual_memory_bytes "))
        return float(line.split()[1])

    def is_whole() -> bool:
        children = *server.workers, *server.owners
        sizes = [size_of(one) for one in (server.process.pid, *children)]
        return reported() > sum(sizes) - min(sizes) / 2

    until(is_whole)


def size_of(pid: int) -> int:
    """Bytes of a process's address space."""
    pages = int(Path(f"/proc/{pid}/statm").read_text().split()[0])
    return pages * os.sysconf("SC_PAGE_SIZE")


@pytest.mark.ci
def test_workers_follow_a_change_of_versions_while_the_device_is_away(
    owned: Callable[..., Fleet], tmp_path: Path, bundles: BundleMaker
) -> None:
    put(tmp_path, bundles, 1)
    put(tmp_path, bundles, 2, threshold=0.9)
    server = owned("--reload", "request", models=tmp_path)
    explanations(server)  # the chunks are chosen
    workers = server.workers
    with away(server):
        shutil.rmtree(tmp_path / "colours" / "2")
        server.send_signal(signal.SIGHUP)
        slow_by(1)  # as long as the change may take if nothing holds it up
    stubs = server.stubs()
    until(lambda: all(map(answers, stubs)) and server.versions(stubs) == {1})
    assert server.workers == workers
