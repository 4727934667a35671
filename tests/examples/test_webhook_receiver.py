"""What examples/python/webhook_receiver.py takes and refuses, as an attacker would try it."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from dataclasses import replace
from datetime import UTC, datetime
from pathlib import Path

import httpx
import pytest
from tests.waiting import PATIENCE_S, until
from tests.watch.sinks.made import KEY, SECRET, event
from tests.watch.sinks.receivers import Example

from limelens.serve.decisions.camera_state import CameraState
from limelens.watch.sinks.message import message_of
from limelens.watch.sinks.signing import signed_headers

SENT = event(7)
BODY = message_of(SENT).body


def post(receiver: Example, body: bytes, headers: dict[str, str]) -> httpx.Response:
    return httpx.post(
        f"http://127.0.0.1:{receiver.port}/",
        content=body,
        headers=headers,
        trust_env=False,
        timeout=PATIENCE_S,
    )


@pytest.fixture
def receiver(tmp_path: Path, own_port: Callable[[], int]) -> Iterator[Example]:
    secret = tmp_path / "secret.txt"
    secret.write_text(SECRET)
    found = Example(tmp_path, secret, own_port())
    found.start()
    yield found
    found.kill()


def test_only_what_is_signed_now_is_taken_and_once(receiver: Example) -> None:
    now = int(time.time())
    right = signed_headers((KEY,), SENT.id, BODY, now)
    old = signed_headers((KEY,), SENT.id, BODY, now - 600)
    ahead = signed_headers((KEY,), SENT.id, BODY, now + 600)
    foreign = signed_headers((b"another secret of many bytes",), SENT.id, BODY, now)
    nonsense = {**right, "webhook-signature": "v1,%%% v2,AAAA v1,"}

    def answer(headers: dict[str, str], body: bytes = BODY) -> int:
        return post(receiver, body, headers).status_code

    refused = [answer(one) for one in (old, ahead, foreign, nonsense, {})]
    assert refused == [401] * 5
    assert answer({**old, "webhook-timestamp": str(now)}) == 401  # an old signature of a new time
    assert answer({**right, "webhook-id": "another"}) == 401  # a repeat that pretends to be news
    assert answer(right, BODY.replace(b"alert", b"clear")) == 401
    assert receiver.sequences() == []
    assert [answer(right), answer(right)] == [204, 204]
    assert receiver.sequences() == [7]
    text = b"no event"
    assert answer(signed_headers((KEY,), "text", text, now), text) == 400


def test_a_door_stays_shut_once_its_camera_is_silent(
    tmp_path: Path, own_port: Callable[[], int]
) -> None:
    secret = tmp_path / "secret.txt"
    secret.write_text(SECRET)
    receiver = Example(tmp_path, secret, own_port(), silence_s=1)
    receiver.start()
    try:
        clear = replace(event(8), state=CameraState.CLEAR, time=datetime.now(UTC))
        body = message_of(clear).body
        headers = signed_headers((KEY,), clear.id, body, int(time.time()))
        assert post(receiver, body, headers).is_success
        until(lambda: len(receiver.said()) == 2)
        assert receiver.said() == [
            "door: clear, the door may open",
            "door: silent for 1 s, the door stays shut",
        ]
    finally:
        receiver.kill()
