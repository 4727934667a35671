"""What the chart's values change, and which are refused with which words."""

from __future__ import annotations

import json
from typing import Any

import pytest
import yaml
from tests.deploy import charts

pytestmark = pytest.mark.ci
KEY = "-----BEGIN PUBLIC KEY-----\\nMFkw\\n-----END PUBLIC KEY-----\\n"


@pytest.mark.parametrize(
    ("pairs", "message"),
    [
        (["replicas=two"], "at '/replicas': got string, want integer"),
        (["replica=2"], "additional properties 'replica' not allowed"),
        (["models.claim=models"], "additional properties 'claim' not allowed"),
        (["processes=0"], "at '/processes': minimum: got 0, want 1"),
        (["logLevel=loud"], "value must be one of 'debug', 'info', 'warning', 'error'"),
        (["resources=null"], "missing property 'resources'"),
        (["probes.startup=null"], "at '/probes': missing property 'startup'"),
        (["fullnameOverride=a.b"], "at '/fullnameOverride': 'a.b' does not match pattern"),
        (["models.requireSignatures={key}"], "does not match pattern '^-----BEGIN PUBLIC KEY-----"),
        (["tls.enabled=false"], "calls and tokens could be read on the way"),
        (["tokens.enabled=false"], "anybody could call"),
        (
            ["models.existingClaim=a", "models.image.reference=b"],
            "models.existingClaim and models.image.reference are set; set at most one of them",
        ),
        (["models.init.image=a", "models.subPath=b"], "models.subPath is for a claim or an image"),
        (["tls.certManager.enabled=true"], "needs tls.certManager.issuerRef.name"),
        (
            ["tls.certManager.enabled=true", "tls.existingSecret=a"],
            "tls.existingSecret and tls.certManager.enabled are set",
        ),
        (
            ["autoscaling.enabled=true", "autoscaling.minReplicas=20"],
            "autoscaling.minReplicas is 20, more than autoscaling.maxReplicas, 10",
        ),
    ],
)
def test_wrong_values_are_refused_with_the_reason(pairs: list[str], message: str) -> None:
    assert message in charts.refused(*charts.setting(*pairs))


def test_old_clusters_are_told_what_they_lack() -> None:
    image = charts.setting("models.image.reference=a")
    assert "needs Kubernetes 1.33 or newer" in charts.refused(*image, "--kube-version", "1.32.0")
    assert "1.30" in charts.refused("--kube-version", "1.29.0")


def test_only_an_explicit_value_serves_openly() -> None:
    pairs = ["insecure=true", "tls.enabled=false", "tokens.enabled=false"]
    arguments = charts.server_of(charts.render(*charts.setting(*pairs)))["args"]
    assert "--insecure" in arguments
    assert not {"--production"} & set(arguments)
    assert not [one for one in arguments if one.startswith(("--tls", "--tokens"))]
    # Tokens of an issuer are enough for a closed server.
    pairs = ["tokens.enabled=false", "extraArgs={--jwt-key=/jwt/issuer.pem}"]
    arguments = charts.server_of(charts.render(*charts.setting(*pairs)))["args"]
    assert {"--production", "--jwt-key=/jwt/issuer.pem"} <= set(arguments)


def models(*pairs: str) -> tuple[Any, Any, list[str]]:
    """The volume, the server's mount of it, and the server's arguments."""
    objects = charts.render(*charts.setting(*pairs))
    volumes = [one for one in charts.pod_of(objects)["volumes"] if one["name"] == "models"]
    server = charts.server_of(objects)
    mounts = [one for one in server["volumeMounts"] if one["name"] == "models"]
    return volumes, mounts, server["args"]


def test_models_come_from_one_place() -> None:
    volumes, mounts, arguments = models()
    assert (volumes, mounts) == ([], [])
    assert "--models=/srv/models" not in arguments  # the image's own then

    mounted = {"name": "models", "mountPath": "/srv/models", "readOnly": True}
    volumes, mounts, arguments = models("models.existingClaim=claim", "models.subPath=a/b")
    assert volumes[0]["persistentVolumeClaim"] == {"claimName": "claim", "readOnly": True}
    assert mounts == [{**mounted, "subPath": "a/b"}]
    assert "--models=/srv/models" in arguments

    volumes, mounts, _ = models("models.image.reference=registry.example/models:3")
    assert volumes[0]["image"]["reference"] == "registry.example/models:3"
    assert mounts == [mounted]


def test_an_init_container_fills_an_empty_volume() -> None:
    objects = charts.render(*charts.values_of("init"))
    pod = charts.pod_of(objects)
    (init,) = pod["initContainers"]
    assert init["args"] == ["pull", "registry.example/models:3"]
    assert init["workingDir"] == "/srv/models"
    (mount,) = [one for one in init["volumeMounts"] if one["name"] == "models"]
    assert mount == {"name": "models", "mountPath": "/srv/models"}
    (volume,) = [one for one in pod["volumes"] if one["name"] == "models"]
    assert volume["emptyDir"] == {"sizeLimit": "2Gi"}
    assert {one["ports"][0]["port"] for one in objects["NetworkPolicy"]["spec"]["egress"]} == {
        443,
        53,
    }


def test_a_gpu_is_asked_for_wherever_it_must_be() -> None:
    objects = charts.render(*charts.values_of("gpu"))
    pod, server = charts.pod_of(objects), charts.server_of(objects)
    assert server["image"].endswith("-gpu")
    assert server["resources"]["limits"] == {"cpu": "6", "memory": "8Gi", "nvidia.com/gpu": 1}
    assert {"--device=cuda", "--processes=3", "--num-threads=6"} <= set(server["args"])
    assert pod["runtimeClassName"] == "nvidia"
    assert pod["nodeSelector"] == {"nvidia.com/gpu.present": "true"}
    assert [one["key"] for one in pod["tolerations"]] == ["nvidia.com/gpu"]
    two = charts.render(*charts.values_of("gpu"), *charts.setting("gpu.count=2"))
    assert "--device=cuda:0,1" in charts.server_of(two)["args"]
    none = charts.render(*charts.values_of("gpu"), *charts.setting("gpu.enabled=false"))
    assert not {"runtimeClassName", "nodeSelector", "tolerations"} & set(charts.pod_of(none))


def test_what_is_added_arrives() -> None:
    secret = "{name: jwt, secret: {secretName: issuer}}"
    mount = "{name: jwt, mountPath: /jwt, readOnly: true}"
    objects = charts.render(
        *("--set-json", f"extraVolumes=[{json.dumps(yaml.safe_load(secret))}]"),
        *("--set-json", f"extraVolumeMounts=[{json.dumps(yaml.safe_load(mount))}]"),
        *("--set-json", 'extraEnv=[{"name": "OTEL_SERVICE_NAME", "value": "door"}]'),
        *charts.setting("extraArgs={--access-log}", "podLabels.team=doors"),
        *charts.setting("image.pullSecrets[0].name=pull", f"image.digest=sha256:{'0' * 64}"),
    )
    pod, server = charts.pod_of(objects), charts.server_of(objects)
    assert yaml.safe_load(secret) in pod["volumes"]
    assert yaml.safe_load(mount) in server["volumeMounts"]
    assert {"name": "OTEL_SERVICE_NAME", "value": "door"} in server["env"]
    assert server["args"][-1] == "--access-log"
    template = objects["Deployment"]["spec"]["template"]
    assert template["metadata"]["labels"]["team"] == "doors"
    for spec in (pod, objects["Pod"]["spec"]):
        assert spec["imagePullSecrets"] == [{"name": "pull"}]
        assert spec["containers"][0]["image"] == f"limelens@sha256:{'0' * 64}"


def test_threads_follow_the_limit_of_cores() -> None:
    def threads(*pairs: str) -> list[str]:
        arguments = charts.server_of(charts.render(*charts.setting(*pairs)))["args"]
        return [one for one in arguments if one.startswith("--num-threads")]

    assert threads("resources.limits.cpu=4") == ["--num-threads=4"]
    assert threads("resources.limits.cpu=2500m") == []  # the server reads the quota itself
    assert threads("numThreads=3") == ["--num-threads=3"]


def test_pods_restart_when_what_they_read_once_changes() -> None:
    def checksum(*keys: str) -> Any:
        pairs = [f"models.requireSignatures[{i}]={key}" for i, key in enumerate(keys)]
        objects = charts.render(*charts.setting(*pairs))
        if keys:
            data = objects["ConfigMap limelens-keys"]["data"]
            (volume,) = [one for one in charts.pod_of(objects)["volumes"] if one["name"] == "keys"]
            assert volume["configMap"]["name"] == "limelens-keys"
            wanted = {f"--require-signature=/keys/{name}" for name in data}
            assert wanted <= set(charts.server_of(objects)["args"])
        return objects["Deployment"]["spec"]["template"]["metadata"]["annotations"].get(
            "checksum/keys"
        )

    assert checksum() is None
    assert checksum(KEY) == checksum(KEY)
    assert checksum(KEY) != checksum(KEY, KEY)


def test_pods_scale_by_the_depth_of_the_queue() -> None:
    objects = charts.render(*charts.values_of("production"))
    assert "replicas" not in objects["Deployment"]["spec"]
    spec = objects["HorizontalPodAutoscaler"]["spec"]
    assert spec["scaleTargetRef"]["name"] == objects["Deployment"]["metadata"]["name"]
    queue, cpu = spec["metrics"]
    assert queue["pods"]["target"] == {"type": "AverageValue", "averageValue": "40"}
    assert cpu["resource"]["target"] == {"type": "Utilization", "averageUtilization": 80}


@pytest.mark.parametrize(
    ("pairs", "expected"),
    [
        (["autoscaling.enabled=false"], []),
        (["autoscaling.enabled=true"], ["--max-connection-age-s=300"]),
        (["autoscaling.enabled=true", "maxConnectionAgeS=0"], []),
        (["autoscaling.enabled=false", "maxConnectionAgeS=60"], ["--max-connection-age-s=60"]),
    ],
)
def test_pods_that_are_added_get_clients(pairs: list[str], expected: list[str]) -> None:
    arguments = charts.server_of(charts.render(*charts.setting(*pairs)))["args"]
    assert [one for one in arguments if "connection-age" in one] == expected


def test_a_certificate_names_what_clients_dial() -> None:
    objects = charts.render(*charts.values_of("production"))
    spec = objects["Certificate"]["spec"]
    (server,) = [
        one.partition("=")[2].partition(":")[0]
        for one in objects["Pod"]["spec"]["containers"][0]["args"]
        if one.startswith("--server=")
    ]
    assert {server, "limelens", "limelens.example"} <= set(spec["dnsNames"])
    (tls,) = [one for one in charts.pod_of(objects)["volumes"] if one["name"] == "tls"]
    assert spec["secretName"] == tls["secret"]["secretName"]


def test_prometheus_scrapes_each_pod_once_and_calls_the_job_limelens() -> None:
    objects = charts.render(*charts.values_of("production"))
    template = objects["Deployment"]["spec"]["template"]["metadata"]
    assert "prometheus.io/scrape" not in (template.get("annotations") or {})
    spec = objects["PodMonitor"]["spec"]
    assert template["labels"][spec["jobLabel"]] == "limelens"
    assert spec["selector"]["matchLabels"].items() <= template["labels"].items()
    (endpoint,) = spec["podMetricsEndpoints"]
    ports = {one["name"]: one["containerPort"] for one in charts.server_of(objects)["ports"]}
    assert ports[endpoint["port"]] == 8501


def test_rules_and_dashboard_arrive_unchanged() -> None:
    rules = charts.DEPLOY / "prometheus-rules.yml"
    objects = charts.render(
        *charts.setting("dashboard.enabled=true"), "--set-file", f"prometheusRule.content={rules}"
    )
    assert objects["PrometheusRule"]["spec"] == yaml.safe_load(rules.read_text())
    shown = json.loads(objects["ConfigMap limelens-dashboard"]["data"]["limelens.json"])
    assert shown == json.loads((charts.CHART / "files" / "dashboard.json").read_text())


def test_the_notes_say_what_is_missing_and_what_is_open() -> None:
    def notes(*pairs: str) -> str:
        command = ["install", "limelens", str(charts.CHART), "--dry-run=client"]
        done = charts.run(*command, "--namespace", "doors", *charts.setting(*pairs))
        assert done.returncode == 0, done.stderr
        return done.stdout.partition("NOTES:")[2]

    assert "create secret tls limelens-tls" in notes()
    assert "create secret generic limelens-tokens" in notes()
    assert "create secret" not in notes("tls.existingSecret=a", "tokens.existingSecret=b")
    opened = notes("insecure=true", "tls.enabled=false", "tokens.enabled=false")
    assert "INSECURE: calls are in plaintext. Anybody who reaches the pods may call." in opened
