"""What the deployment files say. Nothing here builds an image or asks a cluster."""

from __future__ import annotations

import configparser
import json
import re
import shlex
import shutil
import subprocess
import sys
import venv
from pathlib import Path
from typing import Any

import pytest
import yaml
from tests.deploy.beginning import refusal

ROOT = Path(__file__).parents[2]
DEPLOY = ROOT / "deploy"
UNPRIVILEGED = 65532


def instructions() -> list[tuple[str, str]]:
    """The Dockerfile's, continued lines joined, comments left out."""
    text = (DEPLOY / "Dockerfile").read_text()
    lines = [line for line in text.splitlines() if line.strip() and not line.startswith("#")]
    joined = re.sub(r"\\\n\s*", " ", "\n".join(lines))
    return [(line.split()[0], line.partition(" ")[2].strip()) for line in joined.splitlines()]


def of(name: str) -> list[str]:
    return [value for found, value in instructions() if found == name]


def kubernetes() -> dict[str, Any]:
    """The objects by kind."""
    return {
        one["kind"]: one for one in yaml.safe_load_all((DEPLOY / "kubernetes.yaml").read_text())
    }


def pod() -> Any:
    return kubernetes()["Deployment"]["spec"]["template"]["spec"]


def compose() -> Any:
    return yaml.safe_load((DEPLOY / "compose.yaml").read_text())["services"]["limelens"]


def unit() -> configparser.RawConfigParser:
    parser = configparser.RawConfigParser(strict=False)
    parser.optionxform = str  # type: ignore[assignment,method-assign]
    parser.read_string((DEPLOY / "limelens.service").read_text().replace("\\\n", " "))
    return parser


def served_by() -> dict[str, list[str]]:
    """The arguments of `limelens` in each of the files."""
    systemd = shlex.split(unit()["Service"]["ExecStart"].replace("%d", "/run/secrets"))
    return {
        "Dockerfile": json.loads(of("CMD")[0]),
        "compose.yaml": compose()["command"],
        "kubernetes.yaml": pod()["containers"][0]["args"],
        "limelens.service": systemd[1:],
    }


FILES = ("Dockerfile", "compose.yaml", "kubernetes.yaml", "limelens.service")


@pytest.mark.parametrize("file", FILES)
def test_each_file_serves_closed_and_with_known_options(file: str) -> None:
    arguments = served_by()[file]
    assert "--production" in arguments
    assert "--insecure" not in arguments
    assert "tls.crt is no file" in refusal(arguments)


def test_the_image_is_small_unprivileged_and_needs_no_shell() -> None:
    first, last = of("FROM")
    assert first.split()[0] == "${PYTHON_IMAGE}"
    assert last == "scratch"
    (base,) = [one for one in of("ARG") if one.startswith("PYTHON_IMAGE=")]
    assert re.fullmatch(r"PYTHON_IMAGE=python:3\.\d+\.\d+-slim-[a-z]+", base)
    assert of("USER") == [f"{UNPRIVILEGED}:{UNPRIVILEGED}"]
    after = instructions()[[i for i, one in enumerate(instructions()) if one[0] == "FROM"][-1] :]
    assert not [value for name, value in after if name == "RUN"]
    assert json.loads(of("ENTRYPOINT")[0]) == ["limelens"]
    assert isinstance(json.loads(of("HEALTHCHECK")[0].partition("CMD ")[2]), list)
    assert of("STOPSIGNAL") == ["SIGTERM"]


def test_the_build_context_holds_only_what_the_image_needs() -> None:
    sources = [
        source
        for line in of("COPY")
        if not line.startswith("--from")
        for source in line.split()[:-1]
    ]
    ignored = (ROOT / ".dockerignore").read_text().splitlines()
    assert "*" in ignored
    assert {line[1:] for line in ignored if line.startswith("!")} == set(sources)
    assert all((ROOT / source).exists() for source in sources)


@pytest.mark.slow
def test_the_images_install_command_gives_a_server_without_torch(tmp_path: Path) -> None:
    for line in of("COPY"):
        if line.startswith("--from"):
            continue
        *sources, target = line.split()
        for source in sources:
            where = tmp_path / "src" / target / ("" if len(sources) == 1 else source)
            if (ROOT / source).is_dir():
                shutil.copytree(ROOT / source, where)
            else:
                where.parent.mkdir(parents=True, exist_ok=True)
                shutil.copy(ROOT / source, where)
    venv.create(tmp_path / "limelens", with_pip=True)
    (command,) = [one for one in of("RUN") if "pip install" in one]
    (extras,) = [one.partition("=")[2] for one in of("ARG") if one.startswith("EXTRAS=")]
    words = shlex.split(
        command.replace("/opt/limelens", str(tmp_path / "limelens")).replace("${EXTRAS}", extras)
    )
    subprocess.run(words, cwd=tmp_path / "src", check=True, timeout=900)
    binary = tmp_path / "limelens" / "bin" / "limelens"
    found = subprocess.run(
        [binary, "doctor", "--json"],
        cwd=tmp_path,
        env={"PATH": "/usr/bin:/bin"},
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
    )
    assert found.returncode == 0, found.stdout + found.stderr
    checks = {check["name"]: check for check in json.loads(found.stdout)["checks"]}
    assert "serve-cpu" in checks["limelens"]["found"]
    assert checks["model facemask 2"]["state"] == "ok"
    assert checks["torch"]["found"].startswith("not installed")


def test_compose_drops_rights_that_a_server_does_not_need() -> None:
    service = compose()
    assert service["read_only"] is True
    assert service["cap_drop"] == ["ALL"]
    assert "no-new-privileges:true" in service["security_opt"]
    assert service["user"] == f"{UNPRIVILEGED}:{UNPRIVILEGED}"
    assert [one.split(":")[0] for one in service["tmpfs"]] == ["/tmp"]
    assert all(volume.endswith(":ro") for volume in service["volumes"])
    secrets = yaml.safe_load((DEPLOY / "compose.yaml").read_text())["secrets"]
    assert set(service["secrets"]) == set(secrets) == {"tls.crt", "tls.key", "tokens.toml"}
    limits = service["deploy"]["resources"]["limits"]
    assert {"cpus", "memory"} <= set(limits)
    assert f"--num-threads={limits['cpus']}" in service["command"]
    assert _seconds(service["stop_grace_period"]) > _grace_s(service["command"])


def test_the_pod_drops_rights_that_a_server_does_not_need() -> None:
    spec = pod()
    assert spec["securityContext"]["runAsNonRoot"] is True
    assert spec["securityContext"]["runAsUser"] == UNPRIVILEGED
    assert spec["securityContext"]["seccompProfile"] == {"type": "RuntimeDefault"}
    assert spec["automountServiceAccountToken"] is False
    (container,) = spec["containers"]
    assert container["securityContext"] == {
        "allowPrivilegeEscalation": False,
        "readOnlyRootFilesystem": True,
        "capabilities": {"drop": ["ALL"]},
    }
    limits = container["resources"]["limits"]
    assert {"cpu", "memory"} <= set(limits)
    assert f"--num-threads={limits['cpu']}" in container["args"]
    mounts = {mount["name"]: mount for mount in container["volumeMounts"]}
    assert set(mounts) == {volume["name"] for volume in spec["volumes"]}
    assert all(mount.get("readOnly") for name, mount in mounts.items() if name != "tmp")


def test_the_pod_is_probed_over_grpc_and_has_time_to_drain() -> None:
    spec = pod()
    (container,) = spec["containers"]
    ports = {port["name"]: port["containerPort"] for port in container["ports"]}
    for probe in ("startupProbe", "readinessProbe", "livenessProbe"):
        assert container[probe]["grpc"]["port"] == ports["health"]
    pause_s = container["lifecycle"]["preStop"]["sleep"]["seconds"]
    assert spec["terminationGracePeriodSeconds"] > pause_s + _grace_s(container["args"])


def test_only_clients_find_every_pod() -> None:
    objects = kubernetes()
    labels = objects["Deployment"]["spec"]["template"]["metadata"]["labels"]
    assert objects["Service"]["spec"]["clusterIP"] == "None"
    assert objects["Service"]["spec"]["selector"] == labels
    assert objects["PodDisruptionBudget"]["spec"]["selector"]["matchLabels"] == labels
    policy = objects["NetworkPolicy"]["spec"]
    assert policy["podSelector"]["matchLabels"] == labels
    assert set(policy["policyTypes"]) == {"Ingress", "Egress"}
    assert policy["egress"] == []
    callers, scrapers = policy["ingress"]
    assert callers["from"]
    assert [port["port"] for port in callers["ports"]] == [8500]
    assert scrapers["from"][0]["podSelector"]["matchLabels"]
    assert [port["port"] for port in scrapers["ports"]] == [8501]


def _http_port(arguments: list[str]) -> int:
    (address,) = [one for one in arguments if one.startswith("--http=")]
    return int(address.rpartition(":")[2])


def test_prometheus_can_reach_the_metrics_that_it_scrapes() -> None:
    objects = kubernetes()
    (container,) = pod()["containers"]
    port = _http_port(container["args"])
    assert port == _http_port(compose()["command"])
    assert "--http 127.0.0.1:" + str(port) in unit()["Service"]["ExecStart"]
    assert {"name": "metrics", "containerPort": port} in container["ports"]
    (service,) = [one for one in objects["Service"]["spec"]["ports"] if one["name"] == "metrics"]
    assert (service["port"], service["targetPort"]) == (port, "metrics")
    template = objects["Deployment"]["spec"]["template"]
    assert template["metadata"]["annotations"]["prometheus.io/port"] == str(port)
    assert port in [
        one["port"] for rule in objects["NetworkPolicy"]["spec"]["ingress"] for one in rule["ports"]
    ]
    # The probes' and the callers' ports are others, and only the latter is published.
    assert compose()["ports"] == ["8500:8500"]

    config = yaml.safe_load((DEPLOY / "prometheus.yml").read_text())
    (job,) = config["scrape_configs"]
    (names,) = job["dns_sd_configs"]
    assert names["port"] == port
    assert names["names"] == [objects["Service"]["metadata"]["name"]] == ["limelens"]
    (file,) = config["rule_files"]
    rules = yaml.safe_load((DEPLOY / file).read_text())["groups"][0]["rules"]
    assert any(f'up{{job="{job["job_name"]}"}}' in one["expr"] for one in rules)
    project = yaml.safe_load((DEPLOY / "compose.yaml").read_text())
    mounted = [one.split(":")[0] for one in project["services"]["prometheus"]["volumes"]]
    assert {"./prometheus.yml", f"./{file}"} <= set(mounted)
    assert all((DEPLOY / one).is_file() for one in mounted if one.startswith("./"))


def test_the_unit_is_hardened_and_has_time_to_drain() -> None:
    service = unit()["Service"]
    wanted = {
        "DynamicUser": "yes", "NoNewPrivileges": "yes", "CapabilityBoundingSet": "",
        "ProtectSystem": "strict", "ProtectHome": "yes", "PrivateTmp": "yes",
        "RestrictNamespaces": "yes", "SystemCallArchitectures": "native",
    }  # fmt: skip
    assert {key: service[key] for key in wanted} == wanted
    arguments = shlex.split(service["ExecStart"])
    grace_s = float(arguments[arguments.index("--grace-s") + 1])
    assert float(service["TimeoutStopSec"]) > grace_s
    if shutil.which("systemd-analyze") is None:
        pytest.skip("the rest needs systemd-analyze, which is not here")
    found = subprocess.run(
        ["systemd-analyze", "verify", DEPLOY / "limelens.service"],
        capture_output=True,
        text=True,
        check=False,
    )
    reported = [line for line in found.stderr.splitlines() if "is not executable" not in line]
    assert not [line for line in reported if line.startswith("limelens.service")], reported


def test_make_image_says_when_docker_and_podman_are_missing(tmp_path: Path) -> None:
    make = shutil.which("make")
    if make is None:
        pytest.skip("make is not installed")
    for tool in ("sh", "awk", "echo"):
        (tmp_path / tool).symlink_to(Path(str(shutil.which(tool))))
    found = subprocess.run(
        [make, "--no-print-directory", "image", "ACCEL=cpu", f"PYTHON={sys.executable}"],
        cwd=ROOT,
        env={"PATH": str(tmp_path)},
        capture_output=True,
        text=True,
        check=False,
    )
    assert found.returncode != 0
    assert "needs docker, podman or buildah" in found.stderr + found.stdout


def _grace_s(arguments: list[str]) -> float:
    (found,) = [one.partition("=")[2] for one in arguments if one.startswith("--grace-s=")]
    return float(found)


def _seconds(text: str) -> float:
    return float(text.removesuffix("s"))


def test_every_deployment_switches_onnxruntimes_reports_off() -> None:
    assert any("ORT_DISABLE_TELEMETRY=1" in value for value in of("ENV"))
    assert "ORT_DISABLE_TELEMETRY=1" in unit()["Service"]["Environment"].split()
    assert compose()["environment"]["ORT_DISABLE_TELEMETRY"] == "1"
    (container,) = pod()["containers"]
    assert {"name": "ORT_DISABLE_TELEMETRY", "value": "1"} in container["env"]
    assert "export ORT_DISABLE_TELEMETRY := 1" in (ROOT / "Makefile").read_text()
