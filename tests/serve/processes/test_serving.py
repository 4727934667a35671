"""Two processes behind one port are one server to those who call it."""

from __future__ import annotations

import json
import os
import resource
import signal
import subprocess
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import grpc
import pytest
from benchmarks.traffic import ServerProcess
from grpc_health.v1 import health_pb2, health_pb2_grpc
from PIL import Image
from tests.detectors import frame_of, save_detector
from tests.ports import free_port
from tests.serve.processes.conftest import (
    CHANNELS,
    GREEN,
    RED,
    Fleet,
    Load,
    is_alive,
    run_to_its_end,
)
from tests.waiting import until

from limelens.inference import inference_service_pb2 as inference_pb2
from limelens.inference import inference_service_pb2_grpc as inference_grpc
from limelens.serve.access.config import AccessConfig
from limelens.serve.client.in_process import local_client
from limelens.serve.errors import LimelensError, ListenError
from limelens.serve.rpc.server import ServerConfig
from limelens.serve.run_server import serve
from limelens.serve.tools.load.process import local_server
from limelens.serve.tools.similar import index_folder, save_index
from limelens.v1 import classifier_service_pb2 as service_pb2
from limelens.v1 import classifier_service_pb2_grpc as service_grpc
from limelens.v1 import face_pb2, image_pb2


@pytest.mark.ci
def test_one_line_announces_all_processes_and_all_respond_alike(
    fleet: Callable[..., Fleet],
) -> None:
    # Threads that cannot be divided evenly: results do not depend on their number.
    options = ("--num-threads", "3", "--log-level", "debug", "--log-format", "json")
    server = fleet(*options)
    assert server.line.endswith("(2 processes; CPUExecutionProvider, 3 threads)\n")
    assert local_server(server.address) == server.process.pid
    assert len(server.workers) == 2
    explain = service_pb2.ExplainRequest(image=GREEN.images[0], num_samples=60, seed=3)
    replies = set()
    for stub in server.stubs():
        predictions = stub.Classify(RED).predictions[0]
        explanation = stub.Explain(explain)
        explanation.ClearField("timings")
        listed = stub.ListModels(service_pb2.ListModelsRequest())
        replies.add(tuple(m.SerializeToString() for m in (predictions, explanation, listed)))
    assert len(replies) == 1
    server.send_signal(signal.SIGTERM)
    code, errors = server.end()
    assert code == 0
    assert server.process.stdout is not None
    lines = [json.loads(line) for line in errors.splitlines()]
    answered = [line["worker"] for line in lines if line.get("rpc") == "Classify"]
    assert {*answered} == {1, 2}
    assert "supervisor" in lines[-1]["logger"]
    assert lines[-1]["message"] == "stopped"


@pytest.mark.ci
def test_no_call_is_lost_when_the_server_goes_down(fleet: Callable[..., Fleet]) -> None:
    server = fleet("--grace-s", "20")
    with Load(server, until_error=True) as load:
        load.more()
        signalled_at = server.send_signal(signal.SIGTERM)
        assert server.end() == (0, "")
        until(lambda: load.codes)
    assert load.codes == {grpc.StatusCode.UNAVAILABLE}
    assert not [one for one in load.calls if one.code is not None and one.began < signalled_at]


@pytest.mark.ci
def test_every_process_reports_health_and_none_serves_while_stopping(
    fleet: Callable[..., Fleet],
) -> None:
    server = fleet("--health-listen", "127.0.0.1:0")
    serving = health_pb2.HealthCheckResponse.SERVING
    watching = []
    for channel in [server.channel() for _ in range(CHANNELS)]:
        watching.append(health_pb2_grpc.HealthStub(channel).Watch(health_pb2.HealthCheckRequest()))
        assert next(watching[-1]).status == serving
    server.send_signal(signal.SIGTERM)
    for one in watching:
        assert next(one).status == health_pb2.HealthCheckResponse.NOT_SERVING
    assert server.end() == (0, "")


@pytest.mark.ci
def test_ctrl_c_of_a_terminal_drains_and_a_second_one_ends_at_once(
    fleet: Callable[..., Fleet],
) -> None:
    server = fleet("--grace-s", "60")
    workers = server.workers
    # One whose request does not come, so that the server has something to wait for.
    never = threading.Event()
    channel = server.channel()
    asking: grpc.StreamUnaryMultiCallable[bytes, bytes] = channel.stream_unary(
        "/limelens.v1.ClassifierService/Classify"
    )
    call = asking.future(_nothing_until(never))
    models = service_grpc.ClassifierServiceStub(channel)  # type: ignore[no-untyped-call]
    models.ListModels(service_pb2.ListModelsRequest())  # behind it on the same connection
    # As a terminal does it: to the whole group, which workers do not belong to.
    assert all(os.getpgid(pid) == pid for pid in workers)
    server.send_signal(signal.SIGINT)
    until(lambda: _refuses(server))
    assert server.process.poll() is None
    server.send_signal(signal.SIGINT)
    assert server.process.wait(60) == 128 + signal.SIGINT
    until(lambda: not any(map(is_alive, workers)))
    assert call.code() is grpc.StatusCode.UNAVAILABLE
    never.set()


def _nothing_until(event: threading.Event) -> Iterator[bytes]:
    event.wait()
    yield from ()


def _refuses(server: Fleet) -> bool:
    try:
        server.stub().Classify(GREEN, timeout=60)
    except grpc.RpcError as error:
        return error.code() is grpc.StatusCode.UNAVAILABLE
    return False


def test_the_port_of_such_a_server_is_taken(fleet: Callable[..., Fleet], one_model: Path) -> None:
    server = fleet()
    for processes in (1, 2):
        config = ServerConfig(
            one_model, listen=server.address, device="cpu", num_threads=2, processes=processes
        )
        with pytest.raises(ListenError, match=f"{server.address}: the port is taken"):
            serve(config)
    assert server.versions(server.stubs()) == {1}


def test_a_port_of_another_server_is_not_shared(one_model: Path) -> None:
    with ServerProcess(one_model, "--processes", "1") as alone:
        config = ServerConfig(one_model, listen=alone.address, device="cpu", processes=2)
        with pytest.raises(ListenError, match="the port is taken"):
            serve(config)


@pytest.mark.parametrize(
    ("settings", "reason"),
    [
        ({"listen": "unix:/tmp/limelens-test"}, "a socket of the file system has one listener"),
        ({"num_threads": 1}, "1 for 2 processes; expected at least one for each"),
        ({"device": "cuda:0,1,2"}, "2 cannot use the 3 devices"),
        ({"device": "gpu"}, "expected auto, cpu, cuda, or GPUs by number"),
        ({"access": AccessConfig(tokens=Path("/nowhere.toml"))}, "a file that says who may call"),
        ({"device": "cuda"}, "(?i)cuda was asked for and cannot be used"),
        ({"models": Path("/nowhere")}, "/nowhere: no such folder"),
        ({"face_detector": "/nowhere/model.onnx"}, "/nowhere/model.onnx: No such file"),
    ],
    ids=lambda one: next(iter(one)) if isinstance(one, dict) else "",
)
def test_an_error_at_the_start_is_raised(
    one_model: Path, settings: dict[str, Any], reason: str
) -> None:
    settings = {"models": one_model, "listen": "127.0.0.1:0", "device": "cpu", **settings}
    with pytest.raises(LimelensError, match=reason):
        serve(ServerConfig(processes=2, **settings))


def test_a_server_that_cannot_start_prints_one_line(one_model: Path) -> None:
    tls = ("--tls-cert", __file__, "--tls-key", __file__)
    found = run_to_its_end(
        *("--models", str(one_model), "--listen", "127.0.0.1:0", "--processes", "2", *tls)
    )
    assert (found.returncode, found.stdout) == (1, "")
    assert "certificate" in found.stderr.splitlines()[-1]
    assert len(found.stderr.splitlines()) == 1


@pytest.mark.ci
def test_every_process_finds_faces(fleet: Callable[..., Fleet], tmp_path: Path) -> None:
    server = fleet("--face-detector", str(save_detector(tmp_path)))
    frame = frame_of([(320, 160, 160, (255, 0, 0)), (560, 0, 80, (0, 0, 255))])
    raw = image_pb2.RawImage(width=640, height=480, data=frame.tobytes())
    request = service_pb2.ClassifyRequest(
        images=[image_pb2.Image(raw=raw)], faces=face_pb2.FaceOptions()
    )
    for stub in server.stubs():
        (prediction,) = stub.Classify(request).predictions
        assert [face.prediction.label for face in prediction.faces] == ["red", "blue"]


def red_index(model: Path, folder: Path) -> Path:
    """An index of reddish images, unlike `GREEN`."""
    (folder / "red").mkdir()
    for number in range(30):
        Image.new("RGB", (8, 8), (220 + number, 40, 70 - number)).save(
            folder / "red" / f"{number}.png"
        )
    index = index_folder(local_client(model, "cpu"), folder / "red").index
    save_index(index, folder / "red.index")
    return folder / "red.index"


@pytest.mark.ci
def test_metrics_of_all_are_one_page_and_count_every_call(
    fleet: Callable[..., Fleet], one_model: Path, tmp_path: Path
) -> None:
    import urllib.request

    http = f"127.0.0.1:{free_port()}"
    index = red_index(one_model / "colours" / "1", tmp_path)
    server = fleet("--http", http, "--drift-reference", str(index), "--drift-every-s", "0")

    def read(path: str) -> str:
        with urllib.request.urlopen(f"http://{http}{path}", timeout=60) as page:
            text: str = page.read().decode()
            return text

    def value(name: str, **labels: str) -> float:
        from prometheus_client.parser import text_string_to_metric_families

        return sum(
            sample.value
            for family in text_string_to_metric_families(read("/metrics"))
            for sample in family.samples
            if sample.name == name and labels.items() <= sample.labels.items()
        )

    assert read("/readyz") == "ok\n"
    stubs = server.stubs()
    made = 0
    for _ in range(5):
        server.versions(stubs)
        made += len(stubs)
        # Of more than 64 images at once, the drift of some is left out.
        until(lambda so_far=made: value("limelens_drift_images", model="colours") == so_far)  # type: ignore[misc]
    assert value("limelens_request_seconds_count", rpc="Classify", code="OK") == made
    assert value("limelens_decisions_total", label="green") == made
    assert value("limelens_model_info", model="colours", version="1") == 1
    assert value("limelens_requests_in_flight") == 0
    assert value("limelens_workers") == 2
    until(lambda: value("limelens_drift_detected", model="colours") == 1)
    memory = value("process_resident_memory_bytes")
    assert memory > _rss(server.process.pid) + _rss(server.workers[0])
    statistics = inference_grpc.GRPCInferenceServiceStub(server.channel())  # type: ignore[no-untyped-call]
    asked = statistics.ModelStatistics(inference_pb2.ModelStatisticsRequest())
    assert asked.model_stats[0].inference_count == made

    server.replace_worker()
    until(lambda: value("limelens_workers") == 2)
    stubs = server.stubs()
    server.versions(stubs)
    made += len(stubs)
    assert value("limelens_request_seconds_count", rpc="Classify", code="OK") == made
    assert value("limelens_decisions_total", label="green") == made
    assert value("limelens_worker_restarts_total") == 1
    assert value("limelens_requests_in_flight") == 0
    server.send_signal(signal.SIGTERM)
    assert server.end()[0] == 0


def _rss(pid: int) -> int:
    return int(Path(f"/proc/{pid}/statm").read_text().split()[1]) * os.sysconf("SC_PAGE_SIZE")


@pytest.mark.ci
def test_a_killed_worker_loses_only_its_own_calls_and_is_replaced(
    fleet: Callable[..., Fleet],
) -> None:
    server = fleet()
    with Load(server, 8) as load:
        for _ in range(2):
            server.replace_worker()
            load.more()
    assert load.codes <= {grpc.StatusCode.UNAVAILABLE}
    assert server.versions(server.stubs()) == {1}
    server.send_signal(signal.SIGTERM)
    code, errors = server.end()
    assert code == 0
    assert errors.count("ended: signal SIGKILL; another starts") == 2


@pytest.mark.ci
@pytest.mark.parametrize("layout", [(), ("--device-process",)], ids=["alike", "device process"])
def test_a_process_that_cannot_be_started_is_tried_again(
    fleet: Callable[..., Fleet], layout: tuple[str, ...]
) -> None:
    server = fleet("--reload", "off", *layout)
    supervisor = server.process.pid
    soft, hard = resource.prlimit(supervisor, resource.RLIMIT_NOFILE)
    resource.prlimit(supervisor, resource.RLIMIT_NOFILE, (3, hard))  # not one file more
    os.kill(server.workers[0], signal.SIGKILL)
    said = server.process.stderr
    assert said is not None
    while "it could not be started: [Errno 24]" not in (line := said.readline()):
        assert line
    resource.prlimit(supervisor, resource.RLIMIT_NOFILE, (soft, hard))
    until(lambda: len(server.workers) == 2)
    assert server.versions(server.stubs()) == {1}
    server.send_signal(signal.SIGTERM)
    assert server.end()[0] == 0


@pytest.mark.ci
def test_a_worker_that_gets_sigterm_finishes_its_calls(
    fleet: Callable[..., Fleet],
) -> None:
    server = fleet()
    stopped = server.workers[1]
    with Load(server, 8, until_error=True) as load:
        signalled_at = time.monotonic()
        os.kill(stopped, signal.SIGTERM)
        until(lambda: len(server.workers) == 2 and stopped not in server.workers)
    assert not [one for one in load.calls if one.code is not None and one.began < signalled_at]


@pytest.mark.ci
def test_workers_whose_supervisor_is_killed_finish_and_free_the_port(
    fleet: Callable[..., Fleet], one_model: Path
) -> None:
    server = fleet()
    workers = server.workers
    with Load(server, until_error=True) as load:
        signalled_at = time.monotonic()
        server.send_signal(signal.SIGKILL)
        until(lambda: not any(map(is_alive, workers)))
    assert load.codes == {grpc.StatusCode.UNAVAILABLE}
    assert not [one for one in load.calls if one.code is not None and one.began < signalled_at]
    with ServerProcess(one_model, "--processes", "2", "--listen", server.address) as anew:
        assert anew.address == server.address
        anew.send_signal(signal.SIGTERM)
        assert anew.end() == (0, "")


@pytest.mark.ci
@pytest.mark.parametrize(
    "dies",
    [
        pytest.param("", id="at once"),
        # Its channel closes long before its process ends, as may happen on a busy machine.
        pytest.param("os.close(int(sys.argv[1]))\ntime.sleep(1)\n", id="after its channel"),
    ],
)
def test_workers_that_die_at_the_start_end_the_server_with_a_reason(
    one_model: Path, tmp_path: Path, dies: str
) -> None:
    (tmp_path / "onnxruntime.py").write_text(
        f"import os, signal, sys, time\n{dies}os.kill(os.getpid(), 9)\n"
    )
    path = os.pathsep.join([str(tmp_path), os.environ.get("PYTHONPATH", "")])
    reason = r"worker \d ended before the server was ready: signal SIGKILL"
    with pytest.raises(LimelensError, match=reason):
        _started_with({"PYTHONPATH": path}, one_model)


def _started_with(environment: dict[str, str], models: Path) -> Any:
    before = dict(os.environ)
    os.environ.update(environment)
    try:
        with ServerProcess(models, "--processes", "2") as server:
            return server.line
    except subprocess.TimeoutExpired:
        raise AssertionError("it neither starts nor ends") from None
    finally:
        os.environ.clear()
        os.environ.update(before)
