"""Objects of operators, compared with models that were generated from their CRDs."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from typing import Any

import pytest
from tests.deploy import charts
from tests.deploy.fetched import wheel
from tests.deploy.schemas import missing

pytestmark = pytest.mark.slow
MODELS = {
    "PodMonitor": "prometheus_operator.v1",
    "PrometheusRule": "prometheus_operator.v1",
    "Certificate": "cert_manager.v1",
}
# Prints each object as its model keeps it: wrong types fail, unknown fields are gone.
CODE = """
import importlib, json, sys
for module, one in json.load(sys.stdin):
    model = getattr(importlib.import_module("cloudcoil.models." + module), one["kind"])
    print(model.model_validate(one).model_dump_json(by_alias=True, exclude_unset=True))
"""


def kept(*objects: Any) -> list[Any]:
    """The objects as their models keep them."""
    folders = [
        wheel("cloudcoil", "0.6.0"),
        wheel("cloudcoil-models-prometheus-operator", "0.80.1.0"),
        wheel("cloudcoil-models-cert-manager", "1.17.1.0"),
    ]
    done = subprocess.run(
        [sys.executable, "-c", CODE],
        input=json.dumps([(MODELS[one["kind"]], one) for one in objects]),
        env={**os.environ, "PYTHONPATH": os.pathsep.join(map(str, folders))},
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    return [json.loads(line) for line in done.stdout.splitlines()]


def test_the_operators_know_every_field() -> None:
    rules = charts.DEPLOY / "prometheus-rules.yml"
    options = [*charts.values_of("production"), "--set-file", f"prometheusRule.content={rules}"]
    rendered = charts.render(*options)
    objects = [rendered[kind] for kind in MODELS]
    wrong = json.loads(json.dumps(rendered["PodMonitor"]))
    wrong["spec"]["podMetricsEndpoints"][0]["intervall"] = "15s"
    *found, of_wrong = kept(*objects, wrong)
    for wanted, model in zip(objects, found, strict=True):
        assert missing(wanted, model) == [], wanted["kind"]
    assert missing(wrong, of_wrong) == ["$.spec.podMetricsEndpoints[0].intervall"]
