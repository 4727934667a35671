"""The chart in deploy/helm, rendered by the real helm. Nothing here asks a cluster."""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import yaml
from tests.deploy import charts
from tests.deploy.beginning import refusal
from tests.deploy.schemas import VERSIONS, validated

from limelens.serve.about import package_version

pytestmark = pytest.mark.ci
OF_HELM = {"app.kubernetes.io/instance", "app.kubernetes.io/version",
           "app.kubernetes.io/managed-by", "helm.sh/chart"}  # fmt: skip


@pytest.fixture(scope="module", params=charts.SETS)
def objects(request: pytest.FixtureRequest) -> charts.Objects:
    return charts.render(*charts.values_of(request.param))


def without_helms(value: Any) -> Any:
    """An object without the labels that only helm writes."""
    if isinstance(value, dict):
        return {key: without_helms(one) for key, one in value.items() if key not in OF_HELM}
    return [without_helms(one) for one in value] if isinstance(value, list) else value


@pytest.mark.parametrize("name", charts.SETS)
def test_helm_lint_finds_nothing(name: str) -> None:
    done = charts.run("lint", "--strict", str(charts.CHART), *charts.values_of(name))
    assert done.returncode == 0, done.stdout + done.stderr
    assert "[WARNING]" not in done.stdout


def test_the_chart_says_the_same_as_the_plain_manifest() -> None:
    rendered = charts.render(*charts.setting("models.existingClaim=limelens-models"))
    plain = charts.plain()
    rendered.pop("Pod")  # of `helm test`
    assert set(rendered) == set(plain)
    for kind, one in rendered.items():
        assert one["metadata"].pop("namespace") == "doors"
        if kind == "Deployment":
            container = charts.server_of(rendered)
            assert container.pop("imagePullPolicy") == "IfNotPresent"
            assert container["image"] == f"limelens:{package_version()}"
            container["image"] = "limelens"
        assert without_helms(one) == without_helms(plain[kind]), kind


def test_kubernetes_schemas_know_every_field(tmp_path: Path) -> None:
    files = {name: tmp_path / f"{name}.yaml" for name in charts.SETS}
    for name, file in files.items():
        file.write_text(charts.text(*charts.values_of(name)))
    oldest = [file for name, file in files.items() if name != "gpu"]  # 1.30 has no image volumes
    for versions, those in ((VERSIONS[:1], oldest), (VERSIONS[1:], list(files.values()))):
        done = validated(versions, *those)
        assert done.returncode == 0, done.stdout + done.stderr
        passed = [line for line in done.stdout.splitlines() if " passed for " in line]
        unknown = [line for line in done.stdout.splitlines() if line.startswith("WARN")]
        objects = sum(file.read_text().count("\nkind: ") for file in those)
        assert len(passed) + len(unknown) == objects * len(versions)
        # Of the operators; test_custom_resources.py looks at those.
        assert all("PodMonitor" in line or "Certificate" in line for line in unknown)


def test_any_value_arrives_as_the_kind_that_kubernetes_wants(tmp_path: Path) -> None:
    name, text, number = "123", 'a: "b", {{c}} #d', 1_000_000
    values = {
        "nameOverride": "true",
        "replicas": number,
        "image": {"repository": text, "tag": text},
        "tls": {
            "existingSecret": name,
            "clientCa": {"existingSecret": name, "key": text},
        },
        "tokens": {"existingSecret": name},
        "models": {"existingClaim": name, "subPath": text, "reloadS": number,
                   "requireSignatures": [f"-----BEGIN PUBLIC KEY-----{text}"]},
        "processes": number,
        "numThreads": number,
        "maxConnectionAgeS": number,
        "graceS": number,
        "preStopS": number,
        "extraArgs": [text, name],
        "tmpSize": name,
        "gpu": {"enabled": True, "count": 2, "resource": text, "runtimeClassName": name},
        "probes": {"startup": {"periodSeconds": None, "failureThreshold": None}},
        "service": {"headless": False, "annotations": {text: text}},
        "podAnnotations": {"prometheus.io/scrape": "false", text: name},
        "podLabels": {"app.kubernetes.io/name": "other", "team": name},
        "nodeSelector": {"zone": name},
        "priorityClassName": name,
        "autoscaling": {"enabled": True, "minReplicas": number, "maxReplicas": number,
                        "queuedImages": number, "cpuUtilization": number, "scaleDownAfterS": 3600},
        "dashboard": {"enabled": True, "labels": {"app.kubernetes.io/name": "other"}},
        "test": {"ca": {"existingSecret": name, "key": text},
                 "token": {"existingSecret": name, "key": text},
                 "clientCertificate": {"existingSecret": name}, "serverName": text},
    }  # fmt: skip
    files = [tmp_path / "values.yaml", tmp_path / "objects.yaml"]
    files[0].write_text(json.dumps(values))
    command = [
        "template",
        "456",
        str(charts.CHART),
        "--namespace",
        "789",
        "--kube-version",
        "1.37.0",
    ]
    files[1].write_text(charts.run(*command, "--values", str(files[0])).stdout)
    done = validated(VERSIONS[-1:], files[1])
    assert done.returncode == 0, done.stdout + done.stderr

    objects = {one["kind"]: one for one in yaml.safe_load_all(files[1].read_text())}
    template = objects["Deployment"]["spec"]["template"]
    assert f"--tls-client-ca=/client-ca/{text}" in charts.server_of(objects)["args"]
    assert {"--processes=1000000", "--grace-s=1000000"} <= {*charts.server_of(objects)["args"]}
    assert template["metadata"]["annotations"]["prometheus.io/scrape"] == "false"
    selected = objects["Deployment"]["spec"]["selector"]["matchLabels"]
    assert selected.items() <= template["metadata"]["labels"].items()


def test_the_schemas_refuse_a_field_that_there_is_not(tmp_path: Path) -> None:
    wrong = tmp_path / "wrong.yaml"
    wrong.write_text(charts.text().replace("readOnlyRootFilesystem", "readOnlyRootFileSystem"))
    done = validated(VERSIONS[-1:], wrong)
    assert done.returncode == 1
    assert "'readOnlyRootFileSystem' was unexpected" in done.stdout


def test_every_container_is_confined(objects: charts.Objects) -> None:
    pod, test = charts.pod_of(objects), objects["Pod"]["spec"]
    for spec in (pod, test):
        assert spec["automountServiceAccountToken"] is False
        assert spec["securityContext"]["runAsNonRoot"] is True
        assert spec["securityContext"]["runAsUser"] == 65532
        assert spec["securityContext"]["seccompProfile"] == {"type": "RuntimeDefault"}
        for container in [*spec["containers"], *spec.get("initContainers", [])]:
            assert container["securityContext"] == {
                "allowPrivilegeEscalation": False,
                "readOnlyRootFilesystem": True,
                "capabilities": {"drop": ["ALL"]},
            }
            assert container["resources"]["limits"]["memory"]
            names = {mount["name"] for mount in container["volumeMounts"]}
            assert names <= {volume["name"] for volume in spec["volumes"]}
    mounts = {one["name"]: one for one in charts.server_of(objects)["volumeMounts"]}
    assert all(one.get("readOnly") for name, one in mounts.items() if name != "tmp")


def test_the_server_knows_every_option(objects: charts.Objects) -> None:
    arguments = charts.server_of(objects)["args"]
    # Here are no files of the pod.
    first = "/srv/models: no such folder" if "--insecure" in arguments else "tls.crt is no file"
    assert first in refusal(arguments)


def test_a_server_runs_with_the_charts_arguments_where_the_chart_mounts(
    start: Callable[..., Any],
    models_there: Path,
    authority: Callable[[str], Any],
    tokens: Any,
    tmp_path: Path,
) -> None:
    ca = authority("shown")
    chain, key = ca.issue("localhost")
    folders = {name: tmp_path / "shown" / name for name in ("tls", "access")}
    for folder in folders.values():
        folder.mkdir()
    shutil.copy(chain, folders["tls"] / "tls.crt")
    shutil.copy(key, folders["tls"] / "tls.key")
    (folders["tls"] / "tls.key").chmod(0o644)  # its reader is another user
    tokens.path = folders["access"] / "tokens.toml"
    (tmp_path / "token").write_text(tokens.set("door", ["classify", "models"]))
    tokens.path.chmod(0o644)

    objects = charts.render(*charts.setting("models.existingClaim=claim"))
    server = charts.server_of(objects)
    places = {one["name"]: one["mountPath"] for one in server["volumeMounts"]}
    mounts = {folder: places[name] for name, folder in folders.items()}
    process = start(
        *("-m", "limelens.cli", *server["args"]),
        mounts={**mounts, models_there: places["models"]},
        alone=True,
    )
    ready = process.stdout.readline()
    assert ready, process.communicate()[1]
    assert "colours" in ready
    doctor = ["nsenter", "--net", f"--target={process.pid}", sys.executable, "-m", "limelens.cli"]
    doctor += ["doctor", "--server"]
    reached = {
        f"localhost:{server['ports'][0]['containerPort']}": [
            *("--ca", str(ca.path), "--token-file", str(tmp_path / "token"))
        ],
        f"localhost:{server['startupProbe']['grpc']['port']}": ["--health"],
    }
    for address, options in reached.items():
        done = subprocess.run(
            [*doctor, address, *options], capture_output=True, text=True, check=False
        )
        assert done.returncode == 0, done.stdout + done.stderr
    process.terminate()
    _, errors = process.communicate(timeout=60)
    assert process.returncode == 0, errors


def test_ports_selectors_and_times_fit(objects: charts.Objects) -> None:
    container, pod = charts.server_of(objects), charts.pod_of(objects)
    ports = {port["name"]: port["containerPort"] for port in container["ports"]}
    for probe in ("startupProbe", "readinessProbe", "livenessProbe"):
        assert container[probe]["grpc"]["port"] == ports["health"]
    labels = objects["Deployment"]["spec"]["template"]["metadata"]["labels"]
    for selector in (
        objects["Service"]["spec"]["selector"],
        objects["Deployment"]["spec"]["selector"]["matchLabels"],
        objects["PodDisruptionBudget"]["spec"]["selector"]["matchLabels"],
        objects["NetworkPolicy"]["spec"]["podSelector"]["matchLabels"],
    ):
        assert selector.items() <= labels.items()
    # The pod of `helm test` is a client, and none of the service's pods.
    assert not labels.items() <= objects["Pod"]["metadata"]["labels"].items()
    allowed = objects["NetworkPolicy"]["spec"]["ingress"][0]["from"]
    assert {"podSelector": {"matchLabels": objects["Pod"]["metadata"]["labels"]}} in allowed
    pause_s = container["lifecycle"]["preStop"]["sleep"]["seconds"]
    (grace,) = [one for one in container["args"] if one.startswith("--grace-s=")]
    assert pod["terminationGracePeriodSeconds"] > pause_s + int(grace.partition("=")[2])


def test_the_doctor_of_helm_test_finds_a_real_server_well(
    serve: Callable[..., Any], authority: Callable[[str], Any], tokens: Any, tmp_path: Path
) -> None:
    ca = authority("ca")
    chain, key = ca.issue("localhost")
    token = tokens.set("doctor", ["classify", "models"])
    (tmp_path / "token").write_text(token)
    server = serve("--tls-cert", chain, "--tls-key", key, "--tokens", tokens.path)
    options = charts.setting("test.ca.existingSecret=ca", "test.serverName=localhost")
    for more in ([], charts.setting("test.token.existingSecret=doctor")):
        pod = charts.render(*options, *more)["Pod"]["spec"]
        arguments = pod["containers"][0]["args"]
        places = {"/ca/ca.crt": ca.path, "/token/token": tmp_path / "token"}
        for inside, here in places.items():
            arguments = [one.replace(inside, str(here)) for one in arguments]
        assert "--server=limelens.doors.svc:8500" in arguments
        arguments[arguments.index("--server=limelens.doors.svc:8500")] = f"--server={server}"
        assert ("--health" in arguments) == (not more)
        done = subprocess.run(
            [sys.executable, "-m", "limelens.cli", *arguments, "--json"],
            capture_output=True,
            text=True,
            timeout=120,
            check=False,
        )
        assert done.returncode == 0, done.stdout + done.stderr
        states = {one["name"]: one["state"] for one in json.loads(done.stdout)["checks"]}
        assert "wrong" not in states.values()


@pytest.fixture
def serve(one_model: Path) -> Any:
    """Starts a real server; arguments are its options. Returns its address."""
    from benchmarks.traffic import ServerProcess

    started = []

    def start(*options: object) -> str:
        started.append(ServerProcess(one_model, *map(str, options)))
        return started[-1].address

    yield start
    for one in started:
        one.process.kill()
        one.process.communicate()


def test_the_chart_has_the_version_of_the_package() -> None:
    chart = yaml.safe_load((charts.CHART / "Chart.yaml").read_text())
    assert chart["appVersion"] == chart["version"] == package_version()
