"""Models that are held, slow or broken, and the details of a refusal."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterator
from dataclasses import replace
from typing import Any

import grpc
import numpy as np
import pytest
from google.rpc import error_details_pb2
from grpc_status import rpc_status
from tests.waiting import slow_by

from limelens.serve.bundle import Bundle


class Gate:
    """Once closed, holds every run of a model until it is opened."""

    def __init__(self) -> None:
        self.opened = threading.Event()
        self.opened.set()
        self.entered = threading.Semaphore(0)

    def close(self, start: Callable[[], Any], num_workers: int = 2) -> list[Any]:
        """Closes, and starts one call for every worker to be held in."""
        self.opened.clear()
        started = [start() for _ in range(num_workers)]
        for _ in started:
            assert self.entered.acquire(timeout=60)
        return started


@pytest.fixture
def gate(monkeypatch: pytest.MonkeyPatch) -> Iterator[Gate]:
    gate = Gate()

    def held(run: Callable[[Bundle, np.ndarray], Any]) -> Callable[[Bundle, np.ndarray], Any]:
        def wait(self: Bundle, images: np.ndarray) -> Any:
            if not gate.opened.is_set():
                gate.entered.release()
                assert gate.opened.wait(120)
            return run(self, images)

        return wait

    monkeypatch.setattr(Bundle, "predict", held(Bundle.predict))
    monkeypatch.setattr(Bundle, "predict_and_embed", held(Bundle.predict_and_embed))
    yield gate
    gate.opened.set()


@pytest.fixture
def slow(monkeypatch: pytest.MonkeyPatch) -> list[float]:
    """Makes runs of many images take 50 ms, and notes when they began."""
    return _slowed_by(0.05, monkeypatch)


@pytest.fixture
def crawling(monkeypatch: pytest.MonkeyPatch) -> list[float]:
    """The same with 250 ms, for explanations that are not to come to their end."""
    return _slowed_by(0.25, monkeypatch)


def _slowed_by(seconds: float, monkeypatch: pytest.MonkeyPatch) -> list[float]:
    predict, began = Bundle.predict, []

    def slowly(self: Bundle, images: np.ndarray) -> np.ndarray:
        if len(images) > 1:
            began.append(time.monotonic())
            slow_by(seconds)
        return predict(self, images)

    monkeypatch.setattr(Bundle, "predict", slowly)
    return began


@pytest.fixture
def break_for(
    server: Any, monkeypatch: pytest.MonkeyPatch
) -> Callable[[Callable[[np.ndarray], np.ndarray]], None]:
    """Makes the model give numbers that are not finite for some images of a batch."""

    def begin(is_bad: Callable[[np.ndarray], np.ndarray]) -> None:
        served = server.repository.get()

        class Broken:
            def run(self, outputs: list[str], feed: dict[str, np.ndarray]) -> list[np.ndarray]:
                results: list[np.ndarray] = served.bundle.session.run(outputs, feed)
                results[0][is_bad(feed["images"])] = np.nan
                return results

        broken = replace(served, bundle=replace(served.bundle, session=Broken()))
        monkeypatch.setattr(server.repository, "get", lambda *_: broken)

    return begin


def refused(call: Callable[[], Any]) -> tuple[grpc.RpcError, dict[str, Any]]:
    """The error of a call and its details by name."""
    with pytest.raises(grpc.RpcError) as caught:
        call()
    status = rpc_status.from_call(caught.value)
    details: dict[str, Any] = {}
    for packed in status.details if status else ():
        kind = getattr(error_details_pb2, packed.TypeName().rpartition(".")[2])
        details[kind.DESCRIPTOR.name] = detail = kind()
        packed.Unpack(detail)
    return caught.value, details


MANY = 10_000
"""Samples of an explanation that would take half a minute and more on a crawling model."""
FAR_FROM_ALL = MANY / 32 / 2
"""Runs of the model; an explanation that is stopped soon has fewer."""
