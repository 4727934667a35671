"""Grafana's dashboard, and the metrics that it, the rules and the autoscaler name."""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
import urllib.request
from itertools import combinations
from pathlib import Path
from typing import Any

import pytest
import yaml
from benchmarks.traffic import ServerProcess
from PIL import Image
from prometheus_client.parser import text_string_to_metric_families
from tests.deploy.fetched import wheel
from tests.deploy.schemas import missing
from tests.ports import free_port
from tests.waiting import until

from limelens.serve import Client
from limelens.serve.client.in_process import local_client
from limelens.serve.tools.similar import index_folder, save_index

DEPLOY = Path(__file__).parents[2] / "deploy"
DASHBOARD = DEPLOY / "helm" / "limelens" / "files" / "dashboard.json"
AUTOSCALING = DEPLOY / "helm" / "limelens" / "templates" / "autoscaling.yaml"
OF_PROMETHEUS = {"job", "instance", "namespace", "pod", "le"}
METRIC = re.compile(r"\b(?:limelens|process)_\w+")


def dashboard() -> Any:
    return json.loads(DASHBOARD.read_text())


def panels() -> list[Any]:
    found: list[Any] = dashboard()["panels"]
    return found


def rule_of_the_adapter() -> Any:
    (rule,) = yaml.safe_load((DEPLOY / "prometheus-adapter.yaml").read_text())["rules"]["custom"]
    return rule


def queries() -> dict[str, list[str]]:
    """PromQL by the file that holds it, with what Grafana and the adapter fill in."""
    rules = yaml.safe_load((DEPLOY / "prometheus-rules.yml").read_text())
    variables = [
        one["query"]["query"] for one in dashboard()["templating"]["list"] if one["type"] == "query"
    ]
    adapter = rule_of_the_adapter()["metricsQuery"]
    for placeholder, text in {
        "<<.Series>>": rule_of_the_adapter()["name"]["as"],
        "<<.LabelMatchers>>": 'namespace="doors",pod=~"limelens-a|limelens-b"',
        "<<.GroupBy>>": "pod",
    }.items():
        adapter = adapter.replace(placeholder, text)
    shown = [target["expr"] for panel in panels() for target in panel.get("targets", [])]
    shown += [re.sub(r"label_values\((.*), \w+\)", r"\1", one) for one in variables]
    return {
        "dashboard.json": [one.replace("$__rate_interval", "1m") for one in shown],
        "prometheus-rules.yml": [one["expr"] for one in rules["groups"][0]["rules"]],
        "prometheus-adapter.yaml": [adapter, rule_of_the_adapter()["seriesQuery"]],
    }


@pytest.fixture(scope="module")
def exported(tmp_path_factory: pytest.TempPathFactory, one_model: Path) -> dict[str, set[str]]:
    """Series of a real server of two processes that watches for drift, with their labels."""
    folder = tmp_path_factory.mktemp("images")
    for number in range(25):
        Image.new("RGB", (32, 32), (200 + 2 * number, 10 * number, 40)).save(
            folder / f"{number}.png"
        )
    index = folder.with_suffix(".index")
    save_index(index_folder(local_client(one_model / "colours" / "1", "cpu"), folder).index, index)
    options = ("--processes", "2", "--drift-reference", str(index), "--drift-every-s", "0")
    http = f"127.0.0.1:{free_port()}"
    with ServerProcess(one_model, *options, "--http", http) as server:
        with Client(server.address) as client:
            client.classify(sorted(folder.iterdir()))
            client.explain(next(folder.iterdir()), num_samples=20)
        until(lambda: "limelens_drift_detected{" in page(http))
        found: dict[str, set[str]] = {}
        for family in text_string_to_metric_families(page(http)):
            for sample in family.samples:
                found.setdefault(sample.name, set()).update(sample.labels)
        return found


def page(http: str) -> str:
    with urllib.request.urlopen(f"http://{http}/metrics", timeout=60) as answer:
        text: str = answer.read().decode()
        return text


def labels_named(expression: str) -> set[str]:
    """Labels in selectors and groupings, without a parser of PromQL."""
    grouped = re.findall(r"\bby \(([^)]*)\)", expression)
    selected = [one for part in re.findall(r"\{([^}]*)\}", expression) for one in part.split(",")]
    names = [one.strip() for part in grouped for one in part.split(",")]
    return {*names, *(re.split(r"[=!]", one)[0].strip() for one in selected if one.strip())}


@pytest.mark.ci
def test_a_real_server_exports_every_metric_and_label_that_is_named(
    exported: dict[str, set[str]],
) -> None:
    assert {one for one in exported if one.startswith("limelens_drift")}
    for file, expressions in queries().items():
        assert expressions
        for expression in expressions:
            names = set(METRIC.findall(expression))
            assert names <= set(exported), (file, expression)
            known = OF_PROMETHEUS.union(*(exported[name] for name in names))
            assert labels_named(expression) <= known, (file, expression)


@pytest.mark.ci
def test_prometheus_grammar_accepts_every_query() -> None:
    folder = wheel("promql-parser", "0.12.0")
    code = (
        "import json, sys, promql_parser\n"
        "for one in json.load(sys.stdin):\n"
        "    promql_parser.parse(one)\n"
    )
    everything = [one for expressions in queries().values() for one in expressions]
    for text, accepted in ((everything, True), ([*everything, "sum by (rate(x[1m])"], False)):
        done = subprocess.run(
            [sys.executable, "-c", code],
            input=json.dumps(text),
            env={**os.environ, "PYTHONPATH": str(folder)},
            capture_output=True,
            text=True,
            check=False,
        )
        assert (done.returncode == 0) is accepted, done.stderr


def test_the_autoscaler_asks_for_the_metric_that_the_adapter_serves() -> None:
    (name,) = re.findall(r"metric: \{name: (\w+)\}", AUTOSCALING.read_text())
    rule = rule_of_the_adapter()
    assert rule["name"]["as"] == name
    assert rule["seriesQuery"].startswith(f"{name}{{")
    assert {one["resource"] for one in rule["resources"]["overrides"].values()} == {
        "namespace",
        "pod",
    }


def test_panels_have_their_own_ids_and_places() -> None:
    identities = [panel["id"] for panel in panels()]
    assert len(set(identities)) == len(identities)
    for panel in panels():
        place = panel["gridPos"]
        assert place["x"] >= 0
        assert place["x"] + place["w"] <= 24
        assert place["w"] > 0
        assert place["h"] > 0
    for one, other in combinations(panels(), 2):
        a, b = one["gridPos"], other["gridPos"]
        apart = (
            a["x"] + a["w"] <= b["x"]
            or b["x"] + b["w"] <= a["x"]
            or a["y"] + a["h"] <= b["y"]
            or b["y"] + b["h"] <= a["y"]
        )
        assert apart, (one["title"], other["title"])


def test_every_panel_reads_the_chosen_source_job_and_servers() -> None:
    variables = [one["name"] for one in dashboard()["templating"]["list"]]
    assert variables == ["datasource", "job", "instance"]
    source = {"type": "prometheus", "uid": "${datasource}"}
    for panel in panels():
        if panel["type"] == "row":
            continue
        references = [target["refId"] for target in panel["targets"]]
        assert len(set(references)) == len(references) > 0
        assert panel["datasource"] == source
        for target in panel["targets"]:
            assert target["datasource"] == source
            selectors = re.findall(r"\{([^}]*)\}", target["expr"])
            assert selectors
            assert all('job=~"$job",instance=~"$instance"' in one for one in selectors)
            # A legend names only labels that the query leaves.
            left = labels_named(target["expr"])
            assert set(re.findall(r"\{\{(\w+)\}\}", target["legendFormat"])) <= left


def test_the_dashboard_shows_what_is_promised() -> None:
    shown = " ".join(target["expr"] for panel in panels() for target in panel.get("targets", []))
    wanted = (
        "request_seconds_count request_seconds_bucket queue_pictures batch_pictures_sum "
        "explanations_total model_info refused_versions held_back_versions drift_detected"
    )
    assert {f"limelens_{one}" for one in wanted.split()} <= set(METRIC.findall(shown))
    for quantile in ("0.5", "0.95", "0.99"):
        assert f"histogram_quantile({quantile}," in shown


@pytest.mark.slow
def test_grafanas_own_models_know_every_field() -> None:
    folders = [wheel("grafana-foundation-sdk", "1769699998!10.1.0")]
    code = (
        "import json, sys\n"
        "from grafana_foundation_sdk.cog import encoder, plugins\n"
        "from grafana_foundation_sdk.models.dashboard import Dashboard\n"
        "plugins.register_default_plugins()\n"
        "read = Dashboard.from_json(json.load(sys.stdin))\n"
        "print(encoder.JSONEncoder().encode(read))\n"
    )
    done = subprocess.run(
        [sys.executable, "-c", code],
        input=DASHBOARD.read_text(),
        env={**os.environ, "PYTHONPATH": os.pathsep.join(map(str, folders))},
        capture_output=True,
        text=True,
        check=True,
    )
    assert missing(dashboard(), json.loads(done.stdout)) == []
