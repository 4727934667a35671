"""Webhooks to a real receiver that is killed and restarted, and to others that misbehave."""

from __future__ import annotations

import base64
import functools
import gc
import hashlib
import hmac
import json
import shutil
import socket
import ssl
import subprocess
import sys
import time
from collections.abc import Callable
from email.utils import formatdate
from http.server import BaseHTTPRequestHandler
from pathlib import Path
from typing import Any

import pytest
from pydantic import SecretStr
from tests.waiting import PATIENCE_S, until
from tests.watch.sinks.made import KEY, SECRET, event
from tests.watch.sinks.receivers import (
    ROOT,
    Example,
    Scripted,
    drips,
    floods,
    hangs_up,
    says,
)

from limelens.watch.event import EventType
from limelens.watch.sinks.errors import SinkError
from limelens.watch.sinks.webhook import WebhookSink
from limelens.watch.sinks.webhook_settings import WebhookSettings


@pytest.mark.ci
def test_every_event_arrives_once_and_in_order_though_both_ends_are_killed(
    settings: Callable[..., WebhookSettings], example: Example
) -> None:
    example.start()
    example.kill()  # its port is known now
    wanted = settings(example.port).model_dump(mode="json")
    wanted["url"] = f"http://127.0.0.1:{example.port}/events"

    def sender(first: int, number: int) -> subprocess.Popen[str]:
        return subprocess.Popen(
            [
                sys.executable, "-m", "tests.watch.sinks.sending", json.dumps(wanted),
                str(first), str(number),
            ],
            cwd=ROOT,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
        )  # fmt: skip

    def has_come(number: int) -> bool:
        return len(example.sequences()) >= number

    with sender(1, 40) as it:
        assert it.stdout is not None
        assert any("40 events waiting" in line for line in it.stdout)
        it.kill()
    with sender(41, 40) as it:
        assert it.stdout is not None
        assert any("80 events waiting" in line for line in it.stdout)
        for killed_at in (10, 30):
            example.start()
            until(functools.partial(has_come, killed_at))
            example.kill()
        example.start()
        until(functools.partial(has_come, 50))
        it.kill()
    with sender(81, 1) as it:
        until(functools.partial(has_come, 81))
        it.communicate()  # ends its input
        assert it.returncode == 0
    assert example.sequences() == list(range(1, 82))


def test_a_message_is_signed_as_the_standard_says_and_named_by_its_id(
    settings: Callable[..., WebhookSettings],
    scripted: Callable[..., Scripted],
    start_sink: Callable[..., WebhookSink],
) -> None:
    receiver = scripted(says(204, set_cookie="a=b"))
    sent = event()
    headers = {"authorization": SecretStr("Bearer abc")}
    sink = start_sink(settings(receiver.port, headers=headers))
    sink.put(sent)
    sink.put(event(2))
    until(lambda: len(receiver.bodies) == 2)
    assert "cookie" not in receiver.headers[1]
    found = receiver.headers[0]
    assert found["webhook-id"] == found["idempotency-key"] == sent.id == receiver.bodies[0]["id"]
    assert abs(int(found["webhook-timestamp"]) - time.time()) < 60
    body = json.dumps(receiver.bodies[0], separators=(",", ":"))
    signed = f"{sent.id}.{found['webhook-timestamp']}.{body}".encode()
    expected = base64.b64encode(hmac.new(KEY, signed, hashlib.sha256).digest()).decode()
    assert found["webhook-signature"] == f"v1,{expected}"
    assert found["authorization"] == "Bearer abc"


def test_what_cannot_be_taken_now_is_tried_again_and_the_order_stays(
    settings: Callable[..., WebhookSettings],
    scripted: Callable[..., Scripted],
    start_sink: Callable[..., WebhookSink],
) -> None:
    elsewhere = scripted(says(204))
    there = f"http://127.0.0.1:{elsewhere.port}/"
    receiver = scripted(
        says(500), says(307, location=there), says(408), hangs_up, says(503, b"later"),
        says(429, retry_after="1"), says(204),
    )  # fmt: skip
    sink = start_sink(settings(receiver.port))
    for sequence in (1, 2, 3):
        sink.put(event(sequence))
    until(lambda: len(receiver.bodies) == 9)
    until(lambda: not sink.problem)
    assert receiver.sequences == [1] * 7 + [2, 3]
    assert len({found["webhook-id"] for found in receiver.headers[:7]}) == 1
    assert receiver.times[6] - receiver.times[5] >= 1  # as Retry-After asked
    assert elsewhere.bodies == []


def test_an_answer_that_never_ends_its_first_line_is_not_waited_for(
    settings: Callable[..., WebhookSettings],
    scripted: Callable[..., Scripted],
    start_sink: Callable[..., WebhookSink],
) -> None:
    receiver = scripted(drips, says(204))
    sink = start_sink(settings(receiver.port, timeout_s=1))
    sink.put(event(1))
    sink.put(event(2))
    until(lambda: receiver.sequences[-1:] == [2])
    # Other answers may come too late, too, on a busy machine.
    assert receiver.sequences[:2] == [1, 1]
    assert receiver.sequences == sorted(receiver.sequences)


def test_why_nothing_is_delivered_is_said_without_the_address_s_secrets(
    settings: Callable[..., WebhookSettings],
    scripted: Callable[..., Scripted],
    start_sink: Callable[..., WebhookSink],
) -> None:
    receiver = scripted(says(301, location="https://elsewhere.example/token-abc"))
    address = f"http://127.0.0.1:{receiver.port}"
    wanted = settings(receiver.port, url=f"{address}/token-xyz")
    sink = start_sink(wanted)
    sink.put(event())
    until(lambda: sink.problem)
    assert sink.problem == (
        f"{address}/…: answers 301 Moved Permanently to https://elsewhere.example/…, which is not "
        "followed; set url to where it is; trying again; 1 event waiting"
    )
    assert "token" not in repr(wanted)
    assert SECRET not in repr(wanted)


def test_refused_events_are_kept_aside_and_delivery_goes_on(
    settings: Callable[..., WebhookSettings],
    scripted: Callable[..., Scripted],
    start_sink: Callable[..., WebhookSink],
    tmp_path: Path,
) -> None:
    receiver = scripted(says(422, b"no such camera"), says(204))
    sink = start_sink(settings(receiver.port))
    sink.put(event(1))
    sink.put(event(2))
    until(lambda: receiver.sequences == [1, 2])
    until(lambda: sink.problem.startswith("events were refused"))
    (line,) = (tmp_path / "spool" / "rejected.jsonl").read_text().splitlines()
    kept = json.loads(line)
    assert (kept["status"], kept["answer"], kept["event"]["sequence"]) == (422, "no such camera", 1)
    (tmp_path / "spool" / "rejected.jsonl").unlink()
    assert sink.problem == ""


def test_a_wrong_secret_is_refused_by_the_example_and_a_replaced_one_taken(
    settings: Callable[..., WebhookSettings],
    start_sink: Callable[..., WebhookSink],
    example: Example,
    tmp_path: Path,
) -> None:
    example.start()
    other = tmp_path / "other.txt"
    other.write_text("whsec_" + base64.b64encode(b"another secret of many bytes").decode())
    sink = start_sink(settings(example.port, secret_file=other))
    sink.put(event(1))
    until(lambda: "with status 401" in sink.problem)
    other.write_text(f"{other.read_text()}\n{SECRET}\n")  # signed by both from now on
    sink.put(event(2))
    until(lambda: example.sequences() == [2])


def test_a_receiver_whose_clock_is_wrong_is_told_from_others(
    settings: Callable[..., WebhookSettings],
    scripted: Callable[..., Scripted],
    start_sink: Callable[..., WebhookSink],
) -> None:
    def answer(request: BaseHTTPRequestHandler) -> None:
        request.send_response_only(401)
        request.send_header("date", formatdate(time.time() - 7200, usegmt=True))
        request.send_header("content-length", "0")
        request.end_headers()

    sink = start_sink(settings(scripted(answer).port))
    sink.put(event())
    until(lambda: "with status 401, and its clock is 72" in sink.problem)
    assert " s behind this machine's" in sink.problem


def test_an_endless_answer_holds_up_nothing(
    settings: Callable[..., WebhookSettings],
    scripted: Callable[..., Scripted],
    start_sink: Callable[..., WebhookSink],
) -> None:
    receiver = scripted(floods)
    sink = start_sink(settings(receiver.port))
    for sequence in (1, 2, 3):
        sink.put(event(sequence))
    until(lambda: receiver.sequences == [1, 2, 3])


def test_only_a_certificate_of_the_right_authority_is_trusted(
    settings: Callable[..., WebhookSettings],
    scripted: Callable[..., Scripted],
    start_sink: Callable[..., WebhookSink],
    authority: Callable[[str], Any],
    tmp_path: Path,
) -> None:
    right, wrong = authority("right"), authority("wrong")
    chain, key = right.issue("receiver")
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(chain, key)
    receiver = scripted(says(204), tls=context)
    url = f"https://127.0.0.1:{receiver.port}/"

    def distrusts(sink: WebhookSink) -> bool:
        return "its certificate is not trusted: " in sink.problem

    for number, ca in enumerate((None, wrong.path)):
        sink = start_sink(settings(0, url=url, tls_ca=ca, spool=tmp_path / f"untrusted{number}"))
        sink.put(event())
        until(functools.partial(distrusts, sink))
    assert receiver.bodies == []
    start_sink(settings(0, url=url, tls_ca=right.path)).put(event())
    until(lambda: receiver.bodies)


def test_a_handshake_that_is_given_up_leaves_no_connection_open(
    settings: Callable[..., WebhookSettings], start_sink: Callable[..., WebhookSink]
) -> None:
    with socket.create_server(("127.0.0.1", 0)) as silent:
        silent.settimeout(PATIENCE_S)
        url = f"https://127.0.0.1:{silent.getsockname()[1]}/"
        gc.disable()  # which would close it sooner or later
        try:
            sink = start_sink(settings(0, url=url, timeout_s=0.5))
            sink.put(event())
            connection, _ = silent.accept()
            with connection:
                connection.settimeout(PATIENCE_S)
                hello = b"".join(iter(lambda: connection.recv(4096), b""))
        finally:
            gc.enable()
    assert hello
    until(lambda: "no answer within 0.5 s" in sink.problem)


def test_a_full_spool_drops_the_oldest_and_says_so(
    settings: Callable[..., WebhookSettings],
    scripted: Callable[..., Scripted],
    start_sink: Callable[..., WebhookSink],
) -> None:
    down = scripted(says(503))
    sink = start_sink(settings(down.port, max_spooled=10))
    for sequence in range(1, 26):
        sink.put(event(sequence))
    until(lambda: "15 events dropped, the oldest, since the spool was full" in sink.problem)
    sink.close(5)
    receiver = scripted(says(204))
    start_sink(settings(receiver.port))
    until(lambda: receiver.sequences == list(range(16, 26)))


def test_heartbeats_are_not_kept_for_later(
    settings: Callable[..., WebhookSettings],
    scripted: Callable[..., Scripted],
    start_sink: Callable[..., WebhookSink],
) -> None:
    receiver = scripted(says(503), says(204))
    sink = start_sink(settings(receiver.port, heartbeat=True))
    sink.put(event(1, type=EventType.HEARTBEAT))
    until(lambda: receiver.sequences == [1])
    sink.put(event(2, "clear"))
    until(lambda: receiver.sequences == [1, 2])
    sink.put(event(3, "clear", type=EventType.HEARTBEAT))
    until(lambda: receiver.sequences == [1, 2, 3])


def test_a_spool_is_for_one_process_and_a_damaged_one_is_set_aside(
    settings: Callable[..., WebhookSettings],
    scripted: Callable[..., Scripted],
    start_sink: Callable[..., WebhookSink],
    tmp_path: Path,
) -> None:
    receiver = scripted(says(204))
    spool = tmp_path / "spool"
    spool.mkdir()
    (spool / "events.sqlite").write_bytes(b"no database at all" * 1000)
    sink = start_sink(settings(receiver.port))
    assert "events.sqlite was damaged; it is now broken-" in sink.problem
    sink.put(event())
    until(lambda: receiver.sequences == [1])
    with pytest.raises(SinkError, match=r"another process uses it; give each webhook"):
        WebhookSink(settings(receiver.port))


@pytest.mark.ci
def test_a_full_disk_loses_no_event_and_keeps_the_order(tmp_path: Path) -> None:
    done = subprocess.run(
        [sys.executable, "-m", "tests.watch.sinks.filling", tmp_path],
        cwd=ROOT,
        capture_output=True,
        text=True,
        timeout=180,
    )
    assert (done.returncode, done.stderr, done.stdout) == (0, "", "True\n")


def test_a_spool_that_is_removed_begins_anew(
    settings: Callable[..., WebhookSettings],
    scripted: Callable[..., Scripted],
    start_sink: Callable[..., WebhookSink],
    tmp_path: Path,
) -> None:
    receiver = scripted(says(204), says(204), says(503))
    sink = start_sink(settings(receiver.port))
    for sequence in (1, 2):
        sink.put(event(sequence))
    until(lambda: receiver.sequences == [1, 2])
    shutil.rmtree(tmp_path / "spool")
    sink.put(event(3))
    until(lambda: "1 event waiting" in sink.problem)
    sink.close(5)
    later = scripted(says(204))
    start_sink(settings(later.port))
    until(lambda: later.sequences == [3])
