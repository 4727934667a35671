"""A server that is watched: its HTTP port as Prometheus and a probe see it."""

from __future__ import annotations

import http.client
import threading
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from onnx import helper
from prometheus_client.parser import text_string_to_metric_families
from tests.waiting import until

from limelens.serve.bundle import Bundle


@dataclass(frozen=True)
class Page:
    status: int
    content_type: str
    text: str


class Watched:
    """A running server and the reader of its metrics."""

    def __init__(self, server: Any) -> None:
        self.server = server
        self.address: str = server.address
        self.http: str = server.server.http.address

    def get(self, path: str, method: str = "GET", **headers: str) -> Page:
        connection = http.client.HTTPConnection(self.http, timeout=60)
        try:
            connection.request(method, path, headers=headers)
            answer = connection.getresponse()
            return Page(answer.status, answer.getheader("Content-Type", ""), answer.read().decode())
        finally:
            connection.close()

    def value(self, name: str, **labels: str) -> float:
        """The sum of the samples of this name that have these labels."""
        return sum(
            sample.value
            for family in text_string_to_metric_families(self.get("/metrics").text)
            for sample in family.samples
            if sample.name == name and labels.items() <= sample.labels.items()
        )

    def wait_for(self, wanted: float, name: str, **labels: str) -> None:
        until(lambda: self.value(name, **labels) == wanted)


@pytest.fixture
def watch(start_server: Callable[..., Any]) -> Callable[..., Watched]:
    """Starts servers with metrics; arguments as of `start_server`."""

    def start(models: Path | None = None, **settings: Any) -> Watched:
        return Watched(start_server(models, http="127.0.0.1:0", **settings))

    return start


class Gate:
    """While it is closed, every run of a model waits."""

    def __init__(self) -> None:
        self.opened = threading.Event()
        self.entered = threading.Semaphore(0)

    def close(self) -> None:
        self.opened.clear()
        while self.entered.acquire(blocking=False):
            pass

    def wait_until_entered(self) -> None:
        assert self.entered.acquire(timeout=60)


@pytest.fixture
def gate(monkeypatch: pytest.MonkeyPatch) -> Iterator[Gate]:
    gate, predict = Gate(), Bundle.predict
    gate.opened.set()

    def held(self: Bundle, images: np.ndarray) -> np.ndarray:
        gate.entered.release()
        assert gate.opened.wait(120)
        return predict(self, images)

    monkeypatch.setattr(Bundle, "predict", held)
    yield gate
    gate.opened.set()


@pytest.fixture(scope="session")
def afraid_of_the_dark(tmp_path_factory: pytest.TempPathFactory, bundles: Any) -> Path:
    """A repository whose model divides a black image by itself: numbers that are none."""
    folder = tmp_path_factory.mktemp("dark")
    path = folder / "colours" / "1" / "model.onnx"
    path.parent.mkdir(parents=True)
    graph = bundles.graph(bundles.metadata().task)
    nodes = list(graph.node)
    nodes[-1].input[0] = "spoilt"
    nodes[-1:-1] = [
        helper.make_node("Div", ["embedding", "embedding"], ["one"]),
        helper.make_node("Mul", ["logits", "one"], ["spoilt"]),
    ]
    del graph.node[:]
    graph.node.extend(nodes)
    path.write_bytes(bundles.model(bundles.metadata(), graph).SerializeToString())
    return folder
