"""The chart as helm renders it."""

from __future__ import annotations

import subprocess
from pathlib import Path
from typing import Any

import yaml
from tests.deploy.fetched import helm

DEPLOY = Path(__file__).parents[2] / "deploy"
CHART = DEPLOY / "helm" / "limelens"
SETS = ("default", "production", "gpu", "init")
"""Sets of values: the defaults, and the files in the chart's folder ci."""
Objects = dict[str, Any]


def run(*arguments: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run([helm(), *arguments], capture_output=True, text=True, check=False)


def values_of(name: str) -> list[str]:
    """The options of helm for a set of values."""
    return [] if name == "default" else ["--values", str(CHART / "ci" / f"{name}-values.yaml")]


def text(*options: str) -> str:
    """The chart rendered as the release `limelens` in the namespace `doors`."""
    command = ["template", "limelens", str(CHART), "--namespace", "doors"]
    done = run(*command, "--kube-version", "1.35.0", *options)
    assert done.returncode == 0, done.stderr
    return done.stdout


def render(*options: str) -> Objects:
    """The objects by kind; ConfigMaps by their names as well."""
    found: Objects = {}
    for one in yaml.safe_load_all(text(*options)):
        kind, name = one["kind"], one["metadata"]["name"]
        key = kind if kind != "ConfigMap" else f"ConfigMap {name}"
        assert key not in found
        found[key] = one
    return found


def plain() -> Objects:
    """The objects of deploy/kubernetes.yaml by kind."""
    text = (DEPLOY / "kubernetes.yaml").read_text()
    return {one["kind"]: one for one in yaml.safe_load_all(text)}


def setting(*pairs: str) -> list[str]:
    """Options that set single values."""
    return [part for pair in pairs for part in ("--set", pair)]


def pod_of(objects: Objects) -> Any:
    return objects["Deployment"]["spec"]["template"]["spec"]


def server_of(objects: Objects) -> Any:
    (container,) = pod_of(objects)["containers"]
    return container


def refused(*options: str) -> str:
    """Helm's message when it refuses values."""
    done = run("template", "limelens", str(CHART), "--kube-version", "1.35.0", *options)
    assert done.returncode != 0
    return done.stderr
