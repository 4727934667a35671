"""Versions that come and go while a server answers."""

from __future__ import annotations

import gc
import itertools
import os
import shutil
import signal
import subprocess
import time
import weakref
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import grpc
import numpy as np
import onnx
import pytest
from benchmarks.drains import drain_under_load
from benchmarks.swaps import publish, swap_under_load
from benchmarks.traffic import ServerProcess
from grpc_health.v1 import health_pb2, health_pb2_grpc
from onnx import TensorProto, helper, numpy_helper
from tests.conftest import BundleMaker
from tests.serve.paced import Paced
from tests.waiting import ever_longer, slow_by, until

from limelens.serve import Client
from limelens.serve.bundle import Task
from limelens.serve.client.results import ChangeStatus, FrameStatus, ModelInfo
from limelens.serve.errors import LimelensError, NotFoundError, ServerError
from limelens.serve.repository.canary import PROVEN, TOO_MANY

RED = np.full((8, 8, 3), (255, 0, 0), np.uint8)
GREEN = np.full((8, 8, 3), (0, 255, 0), np.uint8)
SERVING = health_pb2.HealthCheckResponse.SERVING
NOT_SERVING = health_pb2.HealthCheckResponse.NOT_SERVING


def put(folder: Path, bundles: BundleMaker, version: int, **changes: Any) -> Path:
    """Puts a version of `colours` into a repository by one rename."""
    graph = changes.pop("graph", None)
    metadata = replace(bundles.metadata(), **changes)
    return put_bytes(folder, version, bundles.model(metadata, graph).SerializeToString())


def put_bytes(folder: Path, version: int, data: bytes) -> Path:
    """The same with any bytes as the file."""
    beside = folder / "colours" / f".{version}"
    beside.mkdir(parents=True)
    (beside / "model.onnx").write_bytes(data)
    return beside.rename(folder / "colours" / str(version)) / "model.onnx"


def graph_that_fails_for_red(bundles: BundleMaker) -> onnx.GraphProto:
    """0/0 where an image is as red as can be; the golden image is not."""
    graph = bundles.graph(Task.MULTICLASS)
    graph.node[-1].output[0] = "fine"
    graph.initializer.extend(
        [
            helper.make_tensor("one", TensorProto.FLOAT, [], [1.0]),
            helper.make_tensor("first", TensorProto.INT64, [1], [0]),
        ]
    )
    graph.node.extend(
        [
            helper.make_node("Gather", ["embedding", "first"], ["redness"], axis=1),
            helper.make_node("Sub", ["redness", "one"], ["missing"]),
            helper.make_node("Div", ["missing", "missing"], ["ones"]),
            helper.make_node("Mul", ["fine", "ones"], ["probabilities"]),
        ]
    )
    return graph


def graph_that_takes_long_to_judge(bundles: BundleMaker) -> onnx.GraphProto:
    """Products of constants, which a session works out when it is built: tens of seconds."""
    graph = bundles.graph(Task.MULTICLASS)
    whole = numpy_helper.from_array(np.eye(1500, dtype=np.float32), "power0")
    both = helper.make_tensor("both", TensorProto.INT64, [2], [0, 1])
    graph.initializer.extend([whole, both])
    num_products = 300
    for i in range(num_products):
        graph.node.append(helper.make_node("MatMul", [f"power{i}", "power0"], [f"power{i + 1}"]))
    graph.node.append(
        helper.make_node("ReduceMean", [f"power{num_products}", "both"], ["mean"], keepdims=0)
    )
    graph.node.append(helper.make_node("Min", ["fine", "mean"], ["probabilities"]))
    next(node for node in graph.node if node.output[0] == "probabilities").output[0] = "fine"
    return graph


def graph_that_breaks_for_red(bundles: BundleMaker) -> onnx.GraphProto:
    """Looks up a row that is not there where an image is as red as can be: the run raises."""
    graph = bundles.graph(Task.MULTICLASS)
    graph.node[-1].output[0] = "fine"
    graph.initializer.extend(
        [
            helper.make_tensor("first", TensorProto.INT64, [1], [0]),
            helper.make_tensor("row", TensorProto.FLOAT, [1, 1], [1.0]),
            helper.make_tensor("last", TensorProto.INT64, [2], [0, 1]),
        ]
    )
    graph.node.extend(
        [
            helper.make_node("Gather", ["embedding", "first"], ["redness"], axis=1),
            helper.make_node("Floor", ["redness"], ["full"]),
            helper.make_node("ReduceMax", ["full", "last"], ["reddest"], keepdims=0),
            helper.make_node("Cast", ["reddest"], ["index"], to=TensorProto.INT64),
            helper.make_node("Gather", ["row", "index"], ["ones"], axis=0),
            helper.make_node("Mul", ["fine", "ones"], ["probabilities"]),
        ]
    )
    return graph


def version_of(client: Client) -> int:
    return client.classify(GREEN).model.version


def listed(client: Client) -> dict[int, ModelInfo]:
    return {one.version: one for one in client.models()}


def health(address: str, service: str = "") -> Any:
    with grpc.insecure_channel(address) as channel:
        stub = health_pb2_grpc.HealthStub(channel)
        return stub.Check(health_pb2.HealthCheckRequest(service=service)).status


@pytest.mark.ci
def test_versions_take_over_under_load_without_a_failed_call(
    tmp_path: Path, bundles: BundleMaker
) -> None:
    bundle = bundles.save(tmp_path, bundles.metadata())
    run = swap_under_load(bundle, RED, swaps=3, callers=2, num_samples=50, calm_s=0)
    assert not run.failed
    assert {one.version for one in run.calls} == {1, 2, 3, 4}


@pytest.mark.slow
@pytest.mark.parametrize(
    "layout", [("--processes", "1"), ("--processes", "2"), ("--processes", "2", "--device-process")]
)
def test_a_hundred_versions_take_over_under_load_without_a_failed_call(
    tmp_path: Path, bundles: BundleMaker, layout: tuple[str, ...]
) -> None:
    bundle = bundles.save(tmp_path, bundles.metadata())
    run = swap_under_load(
        bundle, RED, swaps=100, callers=3, num_samples=100, calm_s=1, options=layout
    )
    assert not run.failed
    assert {one.version for one in run.calls} >= {*range(2, 102)}
    # What two models at once and the explanations need is there by then.
    assert np.median(run.pss_bytes[-10:]) < 1.2 * np.median(run.pss_bytes[10:20])


def test_bad_files_are_rejected_with_reasons_and_the_old_version_serves(
    start_server: Callable[..., Any], tmp_path: Path, bundles: BundleMaker
) -> None:
    put(tmp_path, bundles, 1)
    whole = bundles.model(bundles.metadata())
    nan, outside = bundles.model(bundles.metadata()), bundles.model(bundles.metadata())
    nan.graph.initializer[-1].float_data[0] = np.nan
    tensor = outside.graph.initializer[-1]
    tensor.ClearField("float_data")
    tensor.data_location = TensorProto.EXTERNAL
    tensor.external_data.add(key="location", value="weights.bin")
    other = replace(bundles.metadata().golden, probabilities=np.array([0.1, 0.2, 0.7], np.float32))
    wrong = bundles.model(replace(bundles.metadata(), golden=other))
    bad = {
        2: (whole.SerializeToString()[:500], "not an ONNX file"),
        3: (nan.SerializeToString(), "not all finite"),
        4: (outside.SerializeToString(), "lie in another file"),
        5: (b"", "not a valid ONNX graph"),
        6: (wrong.SerializeToString(), "golden vector is missed"),
    }
    server = start_server(tmp_path, reload_s=0.05)
    for version, (data, _) in bad.items():
        put_bytes(tmp_path, version, data)
    with Client(server.address, max_attempts=1) as client:
        until(lambda: len(server.repository.rejected) == len(bad))
        assert version_of(client) == 1
        models = listed(client)
        assert [models[version].ready for version in range(1, 7)] == [True] + [False] * 5
        for version, (_, reason) in bad.items():
            assert "model.onnx" in models[version].state_reason
            assert str(tmp_path) not in models[version].state_reason
            assert reason in models[version].state_reason
        with pytest.raises(NotFoundError, match=r"it was refused: .*not all finite"):
            client.classify(RED, version=3)
    assert health(server.address, "colours") == SERVING


def test_a_refusal_is_logged_once_and_not_at_every_scan(
    start_server: Callable[..., Any],
    tmp_path: Path,
    bundles: BundleMaker,
    caplog: pytest.LogCaptureFixture,
) -> None:
    put(tmp_path, bundles, 1)
    server = start_server(tmp_path, reload_s=0.02)
    put_bytes(tmp_path, 2, b"no model")
    until(lambda: bool(server.repository.rejected))
    put(tmp_path, bundles, 3)
    until(lambda: server.repository.get().version == 3)
    reported = [one for one in caplog.records if "refused colours version 2" in one.getMessage()]
    assert len(reported) == 1
    assert server.repository.load_counts.rejected == 1
    assert server.repository.load_counts.loaded == 2


def test_a_bad_new_file_is_reported_beside_the_served_version(
    start_server: Callable[..., Any], tmp_path: Path, bundles: BundleMaker
) -> None:
    path = put(tmp_path, bundles, 1)
    server = start_server(tmp_path, reload_s=0.05)
    path.write_bytes(b"spoilt")
    until(lambda: bool(server.repository.rejected))
    with Client(server.address, max_attempts=1) as client:
        model = listed(client)[1]
        assert model.ready
        assert "not an ONNX file" in model.state_reason
        assert version_of(client) == 1


def test_a_file_that_is_being_written_is_not_validated(
    start_server: Callable[..., Any], tmp_path: Path, bundles: BundleMaker
) -> None:
    data = bundles.model(bundles.metadata()).SerializeToString()
    for reload_s in ever_longer(0.5):
        models = tmp_path / f"{reload_s:g}"
        put(models, bundles, 1)
        server = start_server(models, reload_s=reload_s)
        folder = models / "colours" / "2"
        folder.mkdir()
        written = [time.monotonic()]
        with (folder / "model.onnx").open("wb") as file:
            for start in range(0, len(data), len(data) // 20):
                file.write(data[start : start + len(data) // 20])
                file.flush()
                written.append(time.monotonic())
                slow_by(0.05)
        # A busy machine may pause for so long that half a file looks like a whole one.
        if max(later - at for at, later in itertools.pairwise(written)) < min(1.0, reload_s) / 2:
            break
    until(lambda: server.repository.get().version == 2)
    assert server.repository.load_counts.rejected == 0


def test_a_removed_versions_calls_go_to_the_one_before(
    start_server: Callable[..., Any], tmp_path: Path, bundles: BundleMaker
) -> None:
    put(tmp_path, bundles, 1)
    second = put(tmp_path, bundles, 2)
    server = start_server(tmp_path, reload_s=0.05)
    with Client(server.address, max_attempts=1) as client:
        assert version_of(client) == 2
        shutil.rmtree(second.parent)
        until(lambda: version_of(client) == 1)
        until(lambda: list(listed(client)) == [1])


def test_a_missing_repository_changes_nothing(
    start_server: Callable[..., Any],
    tmp_path: Path,
    bundles: BundleMaker,
    caplog: pytest.LogCaptureFixture,
) -> None:
    models = tmp_path / "models"
    put(models, bundles, 1)
    server = start_server(models, reload_s=0.02)
    models.rename(tmp_path / "elsewhere")
    until(lambda: "could not be scanned" in caplog.text)
    models.mkdir()
    until(lambda: "no models in it any more" in caplog.text)
    with Client(server.address, max_attempts=1) as client:
        assert version_of(client) == 1
        models.rmdir()
        (tmp_path / "elsewhere").rename(models)
        put(models, bundles, 2)
        until(lambda: version_of(client) == 2)
    assert caplog.text.count("no models in it any more") < 5


def test_health_is_reported_for_each_model(
    start_server: Callable[..., Any], tmp_path: Path, bundles: BundleMaker
) -> None:
    put(tmp_path, bundles, 1)
    bundles.save(tmp_path, bundles.metadata("tags", Task.MULTILABEL))
    (tmp_path / "broken" / "1").mkdir(parents=True)
    server = start_server(tmp_path, reload_s=0.05)
    assert health(server.address) == SERVING
    assert health(server.address, "colours") == SERVING
    assert health(server.address, "broken") == NOT_SERVING
    shutil.rmtree(tmp_path / "tags")
    until(lambda: health(server.address, "tags") == NOT_SERVING)
    bundles.save(tmp_path / "new", bundles.metadata("broken"))
    shutil.rmtree(tmp_path / "broken")
    (tmp_path / "new" / "broken").rename(tmp_path / "broken")
    until(lambda: health(server.address, "broken") == SERVING)
    assert health(server.address) == SERVING


def test_a_version_that_fails_after_it_took_over_is_rolled_back(
    start_server: Callable[..., Any],
    tmp_path: Path,
    bundles: BundleMaker,
    caplog: pytest.LogCaptureFixture,
) -> None:
    put(tmp_path, bundles, 1)
    server = start_server(tmp_path, reload_s=0.05)
    put(tmp_path, bundles, 2, graph=graph_that_fails_for_red(bundles))
    until(lambda: server.repository.get().version == 2)
    with Client(server.address, max_attempts=1) as client:
        assert version_of(client) == 2
        for _ in range(TOO_MANY):
            with pytest.raises(ServerError, match="not finite"):
                client.classify(RED)
        answer = client.classify(RED)
        assert (answer.model.version, answer[0].label) == (1, "red")
        model = listed(client)[2]
        assert not model.ready
        assert "failed several times in a row; version 1" in model.state_reason
        assert server.repository.load_counts.rolled_back == 1
        assert caplog.text.count("it was rolled back") == 1
        assert not server.repository.refresh()  # scans go on, and leave it out
        assert version_of(client) == 1
        put(tmp_path, bundles, 3)
        until(lambda: version_of(client) == 3)


@pytest.mark.parametrize("versions", ["latest", "all"])
def test_the_version_before_is_kept_until_the_new_one_is_proven(
    tmp_path: Path, bundles: BundleMaker, versions: str, start_server: Callable[..., Any]
) -> None:
    from limelens.serve.repository.version_policy import parse_versions

    put(tmp_path, bundles, 1)
    server = start_server(tmp_path, versions=parse_versions([versions]))
    repository = server.repository
    failing = put(tmp_path, bundles, 2, graph=graph_that_fails_for_red(bundles))
    assert repository.refresh()
    before = [1, 2] if versions == "all" else [2]
    assert [one.version for one in repository.served] == before
    second = repository.get()
    for _ in range(TOO_MANY):
        repository.record(second.bundle, ok=False)
    assert [one.version for one in repository.served] == [1]
    assert not repository.refresh()
    assert repository.get().version == 1

    os.utime(failing, ns=(1, 1))  # wanted again
    assert repository.refresh()
    second = repository.get()
    assert second.version == 2
    for _ in range(PROVEN):
        repository.record(second.bundle, ok=True)
    for _ in range(TOO_MANY):
        repository.record(second.bundle, ok=False)
    assert (
        repository.get() is second
    )  # proven: failures are reported now, and it is not rolled back


def test_a_changed_file_that_fails_is_rolled_back(
    tmp_path: Path, bundles: BundleMaker, start_server: Callable[..., Any]
) -> None:
    path = put(tmp_path, bundles, 1)
    repository = start_server(tmp_path).repository
    first = repository.get()
    graph = graph_that_fails_for_red(bundles)
    path.write_bytes(bundles.model(bundles.metadata(), graph).SerializeToString())
    assert repository.refresh()
    assert repository.get() is not first
    for _ in range(TOO_MANY):
        repository.record(repository.get().bundle, ok=False)
    assert repository.get() is first
    assert "version 1 as it was before" in repository.rejected[0].reason
    assert not repository.refresh()


@pytest.mark.parametrize("rule", ["all", "latest"])
def test_a_version_rolled_back_during_a_scan_stays_out(
    tmp_path: Path, bundles: BundleMaker, rule: str, start_server: Callable[..., Any]
) -> None:
    from limelens.serve.repository.version_policy import parse_versions

    put(tmp_path, bundles, 1)
    repository = start_server(tmp_path, versions=parse_versions([rule])).repository
    put(tmp_path, bundles, 2, graph=graph_that_fails_for_red(bundles))
    assert repository.refresh()
    second = repository.get()
    put(tmp_path, bundles, 3, graph=graph_that_fails_for_red(bundles))

    def fails_now(path: Path, _stamp: Any) -> bool:
        for _ in range(TOO_MANY):
            repository.record(second.bundle, ok=False)
        return path.parent.name == "3"

    assert repository.refresh(is_quiet=fails_now)
    third = repository.get()
    assert third.version == 3
    assert [one.version for one in repository.rejected] == [2]
    for _ in range(TOO_MANY):
        repository.record(third.bundle, ok=False)
    assert repository.get().version == 1
    assert [one.version for one in repository.rejected] == [2, 3]
    assert repository.load_counts.rolled_back == 2


def test_explanations_that_fail_count_against_a_version_too(
    start_server: Callable[..., Any], tmp_path: Path, bundles: BundleMaker
) -> None:
    put(tmp_path, bundles, 1)
    server = start_server(tmp_path)
    put(tmp_path, bundles, 2, graph=graph_that_fails_for_red(bundles))
    assert server.repository.refresh()
    with Client(server.address, max_attempts=1) as client:
        for _ in range(TOO_MANY):
            with pytest.raises(LimelensError):
                client.explain(RED, num_samples=20)
        assert client.explain(RED, num_samples=20).model.version == 1


@pytest.mark.parametrize("call", ["explain", "explain_stream"])
def test_explanations_whose_run_breaks_count_against_a_version_too(
    start_server: Callable[..., Any], tmp_path: Path, bundles: BundleMaker, call: str
) -> None:
    put(tmp_path, bundles, 1)
    server = start_server(tmp_path)
    put(tmp_path, bundles, 2, graph=graph_that_breaks_for_red(bundles))
    assert server.repository.refresh()
    options: Any = {"segmentation": "grid", "num_segments": 4, "num_samples": 20}
    with Client(server.address, max_attempts=1) as client:

        def ask(image: Any) -> Any:
            found = getattr(client, call)(image, **options)
            return found if call == "explain" else list(found)[-1].explanation

        for _ in range(TOO_MANY - 1):
            with pytest.raises(ServerError, match="the server failed"):
                ask(RED)
        for _ in range(TOO_MANY):
            with pytest.raises(LimelensError):
                ask(b"no image")  # says nothing of the model
        assert server.repository.get().version == 2
        with pytest.raises(ServerError, match="the server failed"):
            ask(RED)
        assert ask(RED).model.version == 1


def test_a_replaced_version_is_freed_when_its_last_call_ends(
    start_server: Callable[..., Any], tmp_path: Path, bundles: BundleMaker
) -> None:
    from limelens.serve.repository.version_policy import parse_versions

    put(tmp_path, bundles, 1)
    server = start_server(tmp_path, versions=parse_versions(["latest"]))
    with Client(server.address, max_attempts=1) as client:
        camera = Paced(client)
        assert camera(RED).model.version == 1
        client.classify([RED] * 8)
        client.explain(RED, num_samples=20)
        bundle = weakref.ref(server.repository.get().bundle)
        session = weakref.ref(server.repository.get().bundle.session)
        put(tmp_path, bundles, 2)
        assert server.repository.refresh()
        assert camera(RED).model.version == 2
        for _ in range(PROVEN // 8 + 1):
            assert client.classify([RED] * 8).model.version == 2
        until(lambda: (gc.collect(), bundle() is None and session() is None)[1])
        assert camera.end() == []


def test_a_camera_follows_to_the_new_version_at_its_next_frame(
    start_server: Callable[..., Any], tmp_path: Path, bundles: BundleMaker
) -> None:
    put(tmp_path, bundles, 1)
    server = start_server(tmp_path)
    with Client(server.address, max_attempts=1) as client:
        camera, pinned = Paced(client, smoothing=(3, 2)), Paced(client, version=1)
        assert [camera(RED).smoothed_label for _ in range(2)] == [None, "red"]
        assert pinned(RED).model.version == 1
        put(tmp_path, bundles, 2, alert_labels=("green",))
        assert server.repository.refresh()
        answer = camera(GREEN)
        assert answer.model.version == 2
        # The labels are the same, so smoothing goes on; what is reported is the new version's.
        assert (answer.smoothed_label, answer.alert, answer.changed) == ("red", False, False)
        answer = camera(GREEN)
        assert (answer.smoothed_label, answer.alert, answer.changed) == ("green", True, True)
        assert pinned(RED).model.version == 1
        shutil.rmtree(tmp_path / "colours" / "1")
        assert server.repository.refresh()
        assert pinned(RED).model.version == 1  # to its end, though new calls are refused
        with pytest.raises(NotFoundError):
            client.classify(RED, version=1)

        put(tmp_path, bundles, 3, labels=("red", "green", "azure"), macro_labels={})
        assert server.repository.refresh()
        answer = camera(GREEN)
        assert (answer.model.version, answer.smoothed_label, answer.changed) == (3, None, True)
        assert camera.end() == []
        assert pinned.end() == []


def test_a_camera_continues_if_a_new_version_lacks_its_labels(
    start_server: Callable[..., Any], tmp_path: Path, bundles: BundleMaker
) -> None:
    put(tmp_path, bundles, 1)
    server = start_server(tmp_path)
    wanted: Any = {
        "labels": ["blue"], "segmentation": "grid", "num_segments": 4, "num_samples": 20,
    }  # fmt: skip
    with Client(server.address, max_attempts=1) as client:
        camera = Paced(client, explain_on_change=wanted)
        assert camera(RED).changed
        change = camera.answer().explanation
        assert change is not None
        assert change.status is ChangeStatus.EXPLAINED
        put(tmp_path, bundles, 2, labels=("red", "green", "azure"), macro_labels={})
        assert server.repository.refresh()
        answer = camera(GREEN)
        assert (answer.model.version, answer.smoothed_label) == (2, "green")
        reported = camera.answer()
        assert (reported.status, reported.frame_id) == (FrameStatus.EXPLANATION, 1)
        assert reported.model.version == 2
        assert reported.explanation is not None
        assert reported.explanation.status is ChangeStatus.FAILED
        assert reported.explanation.label == "green"
        assert "config.explain_on_change.options.labels" in reported.explanation.reason
        assert camera(GREEN).frame_id == 2
        assert camera.end() == []


def test_sighup_scans_at_once(tmp_path: Path, bundles: BundleMaker) -> None:
    bundle = bundles.save(tmp_path / "source", bundles.metadata())
    models = tmp_path / "models"
    publish(models, bundle, 1)
    with ServerProcess(models, "--reload", "request") as server:
        with Client(server.address, max_attempts=1) as client:
            publish(models, bundle, 2)
            assert version_of(client) == 1
            server.send_signal(signal.SIGHUP)
            until(lambda: version_of(client) == 2)
        server.send_signal(signal.SIGTERM)
        code, errors = server.end()
    assert code == 0
    # What is served changed: the log says so at its default level.
    [line] = errors.splitlines()
    assert line.endswith("loaded swapped version 2 on CPUExecutionProvider")


def test_sighup_does_not_end_a_server_without_reloading(
    tmp_path: Path, bundles: BundleMaker
) -> None:
    publish(tmp_path / "models", bundles.save(tmp_path, bundles.metadata()), 1)
    with ServerProcess(tmp_path / "models", "--reload", "off") as server:
        server.send_signal(signal.SIGHUP)
        with Client(server.address, max_attempts=1) as client:
            assert version_of(client) == 1
        server.send_signal(signal.SIGTERM)
        code, errors = server.end()
    assert code == 0
    assert "switched off" in errors


def test_a_server_stops_while_a_file_is_being_validated(
    start_server: Callable[..., Any], tmp_path: Path, bundles: BundleMaker
) -> None:
    put(tmp_path, bundles, 1)
    server = start_server(tmp_path, reload_s=0.05)
    slow = put(tmp_path, bundles, 2, graph=graph_that_takes_long_to_judge(bundles))

    def judges() -> str:
        return subprocess.run(
            ["pgrep", "-f", f"limelens.serve.repository.validation {slow}"],
            capture_output=True,
            text=True,
            check=False,
        ).stdout

    if shutil.which("pgrep") is None:
        pytest.skip("pgrep is not installed; it finds the process that judges")
    until(lambda: bool(judges()))
    server.stop()
    until(lambda: not judges())
    assert not server.repository.rejected


@pytest.mark.parametrize("processes", [1, pytest.param(2, marks=pytest.mark.ci)])
def test_calls_begun_before_sigterm_finish_under_load(
    tmp_path: Path, bundles: BundleMaker, processes: int
) -> None:
    publish(tmp_path / "models", bundles.save(tmp_path, bundles.metadata()), 1)
    drain = drain_under_load(tmp_path / "models", RED, num_samples=3000, processes=processes)
    assert (drain.exit_code, drain.failed) == (0, [])


@pytest.mark.slow
@pytest.mark.parametrize("processes", [1, 2])
def test_twenty_stopping_servers_in_a_row_lose_no_call(
    tmp_path: Path, bundles: BundleMaker, processes: int
) -> None:
    publish(tmp_path / "models", bundles.save(tmp_path, bundles.metadata()), 1)
    drains = [
        drain_under_load(tmp_path / "models", RED, num_samples=3000, processes=processes)
        for _ in range(20)
    ]
    assert {one.exit_code for one in drains} == {0}
    assert [call for one in drains for call in one.failed] == []
