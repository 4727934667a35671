"""KServe's ServingRuntime and InferenceService. No cluster is asked; the server is real."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import yaml
from tests.deploy.fetched import wheel
from tests.deploy.schemas import VERSIONS, kserve_models, unknown_fields, validated

ROOT = Path(__file__).parents[2]
CLIENT = ROOT / "tests" / "serve" / "rpc" / "inference" / "stock_client.py"
MODELS = "/mnt/models"
"""Where KServe puts what is at storageUri."""


def load(name: str) -> Any:
    return yaml.safe_load((ROOT / "deploy" / "kserve" / f"{name}.yaml").read_text())


def container() -> Any:
    (found,) = load("serving-runtime")["spec"]["containers"]
    return found


def test_the_service_asks_for_what_the_runtime_offers() -> None:
    runtime, service = load("serving-runtime"), load("inference-service")
    model = service["spec"]["predictor"]["model"]
    assert model["runtime"] == runtime["metadata"]["name"]
    assert model["protocolVersion"] in runtime["spec"]["protocolVersions"]
    formats = runtime["spec"]["supportedModelFormats"]
    assert model["modelFormat"].items() <= formats[0].items()
    # Clients ask for the model by the name of the service: here the shipped one's.
    assert (ROOT / "models" / service["metadata"]["name"]).is_dir()


def test_the_runtime_is_confined_and_has_one_port_for_grpc() -> None:
    found = container()
    assert found["name"] == "kserve-container"
    assert found["ports"] == [{"name": "h2c", "containerPort": 8500, "protocol": "TCP"}]
    assert f"--models={MODELS}" in found["args"]
    assert found["readinessProbe"]["grpc"]["port"] == found["livenessProbe"]["grpc"]["port"] == 8500
    context = found["securityContext"]
    assert context["readOnlyRootFilesystem"] is True
    assert context["runAsNonRoot"] is True
    assert context["allowPrivilegeEscalation"] is False
    assert f"--num-threads={found['resources']['limits']['cpu']}" in found["args"]
    annotations = load("serving-runtime")["spec"]["annotations"]
    assert f"--http=0.0.0.0:{annotations['prometheus.kserve.io/port']}" in found["args"]


@pytest.mark.ci
def test_kserve_and_kubernetes_know_every_field(tmp_path: Path) -> None:
    models = kserve_models()
    kinds = {"serving-runtime": "V1alpha1ServingRuntime"}
    kinds["inference-service"] = "V1beta1InferenceService"
    for name, kind in kinds.items():
        assert unknown_fields(load(name), kind, models) == []
    wrong = load("inference-service")
    wrong["spec"]["predictor"]["model"]["storageURI"] = "pvc://limelens-models"
    found = unknown_fields(wrong, kinds["inference-service"], models)
    assert found == ["$.spec.predictor.model.storageURI"]

    # What is Kubernetes' own in it is that of a pod.
    spec = load("serving-runtime")["spec"]
    pod = {"apiVersion": "v1", "kind": "Pod", "metadata": {"name": "runtime"}}
    pod["spec"] = {"containers": spec["containers"], "volumes": spec["volumes"]}
    (tmp_path / "pod.yaml").write_text(yaml.safe_dump(pod))
    done = validated(VERSIONS, tmp_path / "pod.yaml")
    assert done.returncode == 0, done.stdout + done.stderr
    assert done.stdout.count(" passed for ") == len(VERSIONS)


@pytest.mark.ci
def test_a_stock_client_infers_from_what_kserves_initializer_leaves(
    start: Callable[..., Any], models_there: Path, tmp_path: Path
) -> None:
    # KServe's own code puts the repository there; of a local one it makes links.
    there = tmp_path / "shown" / "mnt"
    there.mkdir()
    code = "import sys, kserve_storage; kserve_storage.Storage.download(*sys.argv[1:])"
    done = subprocess.run(
        [sys.executable, "-W", "ignore", "-c", code, f"file://{models_there}", str(there)],
        env={**os.environ, "PYTHONPATH": str(wheel("kserve-storage", "0.21.0"))},
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    assert (there / "colours" / "1" / "model.onnx").exists()

    process = start("-m", "limelens.cli", *container()["args"], mounts={there: MODELS}, alone=True)
    ready = process.stdout.readline()
    assert ready, process.communicate()[1]
    assert "colours" in ready
    calls = [
        "return [client.is_server_ready(), client.is_model_ready('colours')]",
        "return client.get_model_metadata('colours', as_json=True)['versions']",
        "images = tensor(encoded(pixels(RED)[0], pixels(BLUE)[0]))\n"
        "best = wanted('probabilities', top=1)\n"
        "return texts(client.infer('colours', [images], outputs=[best]))",
    ]
    ready, versions, labels = inside(process.pid, calls)
    assert ready == [True, True]
    assert versions == ["1"]
    assert [one[0].rpartition(":")[2] for one in labels] == ["red", "blue"]
    process.terminate()
    _, errors = process.communicate(timeout=60)
    assert process.returncode == 0, errors


def inside(pid: int, calls: list[str]) -> list[Any]:
    """What calls of tritonclient return, in the network of a process; first the probes' answer."""
    probes = {container()[one]["grpc"].get("service", "") for one in ("readinessProbe",
              "livenessProbe")}  # fmt: skip
    code = (
        "import sys, grpc\n"
        "from grpc_health.v1 import health_pb2, health_pb2_grpc\n"
        "stub = health_pb2_grpc.HealthStub(grpc.insecure_channel('localhost:8500'))\n"
        "for name in sys.argv[1:]:\n"
        "    print(stub.Check(health_pb2.HealthCheckRequest(service=name)).status)\n"
    )
    enter = ["nsenter", "--net", f"--target={pid}", sys.executable]
    asked = subprocess.run(
        [*enter, "-c", code, *probes], capture_output=True, text=True, check=False
    )
    assert asked.stdout.split() == ["1"] * len(probes), asked.stderr  # SERVING
    lines = [json.dumps({"address": "localhost:8500", "code": one}) for one in calls]
    done = subprocess.run(
        [*enter, CLIENT], input="\n".join(lines) + "\n", capture_output=True, text=True, check=False
    )
    answers = [json.loads(line) for line in done.stdout.splitlines()]
    assert len(answers) == len(calls), done.stderr
    return [one["returned"] for one in answers]
