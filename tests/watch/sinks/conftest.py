"""Sinks, and the receivers that they post to."""

from __future__ import annotations

import ssl
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from tests.waiting import PATIENCE_S
from tests.watch.sinks.made import SECRET
from tests.watch.sinks.receivers import Answer, Example, Scripted

from limelens.watch.sinks.webhook import WebhookSink
from limelens.watch.sinks.webhook_settings import WebhookSettings


@pytest.fixture
def secret(tmp_path: Path) -> Path:
    path = tmp_path / "secret.txt"
    path.write_text(SECRET + "\n")
    return path


@pytest.fixture
def settings(tmp_path: Path, secret: Path) -> Callable[..., WebhookSettings]:
    def make(port: int, **more: Any) -> WebhookSettings:
        values: dict[str, Any] = {
            "url": f"http://127.0.0.1:{port}/events",
            "secret_file": secret,
            "spool": tmp_path / "spool",
            "timeout_s": PATIENCE_S,
            "max_wait_s": 0.1,
            **more,
        }
        return WebhookSettings(**values)

    return make


@pytest.fixture
def start_sink() -> Iterator[Callable[[WebhookSettings], WebhookSink]]:
    started: list[WebhookSink] = []

    def start(settings: WebhookSettings) -> WebhookSink:
        started.append(WebhookSink(settings))
        return started[-1]

    yield start
    for sink in started:
        sink.close(0)


@pytest.fixture
def example(tmp_path: Path, secret: Path, own_port: Callable[[], int]) -> Iterator[Example]:
    receiver = Example(tmp_path, secret, own_port())
    yield receiver
    receiver.kill()


@pytest.fixture
def scripted() -> Iterator[Callable[..., Scripted]]:
    started: list[Scripted] = []

    def start(*answers: Answer, tls: ssl.SSLContext | None = None) -> Scripted:
        started.append(Scripted(*answers, tls=tls))
        return started[-1]

    yield start
    for one in started:
        one.stop()
