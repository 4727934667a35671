"""One state of versions for all processes: a swap is seen by all or by none."""

from __future__ import annotations

import contextlib
import signal
from collections.abc import Callable
from pathlib import Path
from typing import Any

import grpc
import pytest
from tests.conftest import BundleMaker
from tests.golden_images import put_bundle, write_folder
from tests.serve.processes.conftest import CHANNELS, GREEN, RED, Fleet, Load
from tests.serve.rpc.test_swapping import graph_that_fails_for_red, put, put_bytes
from tests.waiting import until

from limelens.inference import inference_service_pb2 as inference_pb2
from limelens.inference import inference_service_pb2_grpc as inference_grpc
from limelens.serve.repository.canary import TOO_MANY
from limelens.v1 import classifier_service_pb2 as service_pb2
from limelens.v1.model_pb2 import ModelState


def listed(stubs: list[Any]) -> set[bytes]:
    """The replies of `ListModels`, from each worker."""
    return {
        one.ListModels(service_pb2.ListModelsRequest()).SerializeToString(deterministic=True)
        for one in stubs
    }


@pytest.mark.ci
@pytest.mark.parametrize("layout", [(), ("--device-process",)], ids=["alike", "device process"])
def test_no_call_sees_an_old_version_after_a_new_one(
    fleet: Callable[..., Fleet], tmp_path: Path, bundles: BundleMaker, layout: tuple[str, ...]
) -> None:
    put(tmp_path, bundles, 1)
    server = fleet("--reload-s", "0.1", *layout, models=tmp_path)
    with Load(server) as load:
        for version in (2, 3, 4):
            put(tmp_path, bundles, version)
            until(lambda wanted=version: load.calls[-1].version == wanted)  # type: ignore[misc]
    assert not load.codes
    assert {one.version for one in load.calls} == {1, 2, 3, 4}
    newest, earliest = 0, sorted(load.calls, key=lambda one: one.ended)
    for call in sorted(load.calls, key=lambda one: one.began):
        while earliest and earliest[0].ended <= call.began:
            newest = max(newest, earliest.pop(0).version)
        assert call.version >= newest
    assert server.versions(server.stubs()) == {4}


@pytest.mark.ci
def test_a_bad_version_is_refused_by_all_with_one_reason(
    fleet: Callable[..., Fleet], tmp_path: Path, bundles: BundleMaker
) -> None:
    put(tmp_path, bundles, 1)
    server = fleet("--reload-s", "0.1", models=tmp_path)
    stubs = server.stubs()
    put_bytes(tmp_path, 2, b"no model")

    until(lambda: b"not an ONNX file" in listed(stubs[:1]).pop())
    assert len(listed(stubs)) == 1
    assert server.versions(stubs) == {1}


@pytest.mark.ci
def test_a_version_that_fails_anywhere_is_rolled_back_everywhere(
    fleet: Callable[..., Fleet], tmp_path: Path, bundles: BundleMaker
) -> None:
    put(tmp_path, bundles, 1)
    server = fleet("--reload-s", "0.1", models=tmp_path)
    stubs = server.stubs()
    put(tmp_path, bundles, 2, graph=graph_that_fails_for_red(bundles))
    # With few calls: those that are answered prove the version.
    until(lambda: server.versions(stubs[:1]) == {2})
    assert server.versions(stubs) == {2}
    for number in range(TOO_MANY):  # here one, there one: in a row for the whole server
        with pytest.raises(grpc.RpcError, match="not finite"):
            stubs[number % len(stubs)].Classify(RED)
    until(lambda: server.versions(stubs) == {1})
    assert stubs[0].Classify(RED).predictions[0].label == "red"
    (reply,) = listed(stubs)
    models = service_pb2.ListModelsResponse.FromString(reply).models
    assert [one.state for one in models] == [
        ModelState.MODEL_STATE_READY,
        ModelState.MODEL_STATE_UNAVAILABLE,
    ]
    assert "failed several times in a row; version 1" in models[1].state_reason


@pytest.mark.ci
def test_a_version_that_is_clearly_worse_is_held_back_from_all(
    fleet: Callable[..., Fleet], tmp_path: Path
) -> None:
    images = write_folder(tmp_path / "images")
    models = tmp_path / "models"
    put_bundle(models, 1)
    put_bundle(models, 2, gain=0.0)  # found by the start
    server = fleet("--hold-back-images", str(images), "--reload-s", "0.1", models=models)
    stubs = server.stubs()
    assert server.versions(stubs) == {1}
    (reply,) = listed(stubs)
    _, second = service_pb2.ListModelsResponse.FromString(reply).models
    assert second.state == ModelState.MODEL_STATE_UNAVAILABLE
    expected = "held back: right on 8 of 24 given images, version 1 on 24"
    assert second.state_reason.startswith(expected)
    put_bundle(models, 3, gain=5.0)
    until(lambda: server.versions(stubs) == {3})


@pytest.mark.ci
def test_a_request_to_one_process_has_all_scan_for_new_versions(
    fleet: Callable[..., Fleet], tmp_path: Path, bundles: BundleMaker
) -> None:
    put(tmp_path, bundles, 1)
    server = fleet("--reload", "request", models=tmp_path)
    stubs = server.stubs()
    assert server.versions(stubs) == {1}
    put(tmp_path, bundles, 2)
    server.send_signal(signal.SIGHUP)
    until(lambda: 2 in server.versions(stubs))
    assert server.versions(stubs) == {2}
    put(tmp_path, bundles, 3)
    channel = server.channel()
    load = inference_grpc.GRPCInferenceServiceStub(channel)  # type: ignore[no-untyped-call]
    load.RepositoryModelLoad(inference_pb2.RepositoryModelLoadRequest(model_name="colours"))
    assert server.versions(stubs) == {3}
    assert len(listed(stubs)) == 1


@pytest.mark.ci
def test_a_worker_that_starts_later_serves_what_the_others_do(
    fleet: Callable[..., Fleet], tmp_path: Path, bundles: BundleMaker
) -> None:
    first = put(tmp_path, bundles, 1)
    server = fleet("--reload-s", "0.1", models=tmp_path)
    put(tmp_path, bundles, 2)
    until(lambda: server.versions([server.stub()]) == {2})
    # What is served is no longer what lies in the file, and cannot be read again.
    first.write_bytes(b"spoilt")
    (tmp_path / "colours" / "2" / "model.onnx").write_bytes(b"spoilt")
    stubs = server.stubs()
    until(lambda: b"not an ONNX file" in listed(stubs[:1]).pop())
    server.replace_worker()
    until(lambda: len(_answering(server)) == CHANNELS)
    assert len(listed(server.stubs())) == 1
    old = service_pb2.ClassifyRequest(images=GREEN.images, version=1)
    assert {one.Classify(old).model.version for one in server.stubs()} == {1}


def _answering(server: Fleet) -> list[int]:
    found = []
    for stub in server.stubs():
        with contextlib.suppress(grpc.RpcError):
            found.append(stub.Classify(GREEN).model.version)
    return found
