"""`limelens watch` with a file, a webhook and a broker, and what is left when it is killed."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from tests.filming import GREEN, RED, filming
from tests.waiting import until
from tests.watch.sinks.brokers import Broker, Subscriber
from tests.watch.sinks.made import SECRET
from tests.watch.sinks.receivers import Example

STATE = "limelens/cameras/door/state"
CONFIG = """
heartbeat_s = 0.5
[server]
address = "{server}"
[[camera]]
id = "door"
source = "{source}"
window = 3
[jsonl]
path = "events.jsonl"
[[webhook]]
name = "controller"
url = "http://127.0.0.1:{receiver}/"
secret_file = "secret.txt"
spool = "spool"
max_wait_s = 0.2
[mqtt]
host = "127.0.0.1"
port = {broker}
tls = false
"""


@pytest.mark.ci
def test_every_sink_tells_of_the_door_and_no_old_clear_is_left_standing(
    watching: Callable[..., Any],
    start_server: Callable[..., Any],
    own_port: Callable[[], int],
    tmp_path: Path,
) -> None:
    secret = tmp_path / "secret.txt"
    secret.write_text(SECRET)
    receiver = Example(tmp_path, secret, own_port())
    broker = Broker(tmp_path, own_port(), "allow_anonymous true")
    broker.start()
    subscriber = Subscriber(broker.port)
    try:
        subscriber.say(STATE, "clear")  # left by an earlier run
        until(lambda: subscriber.last(STATE) == "clear")
        receiver.start()
        with filming(GREEN) as camera:
            one = watching(
                CONFIG.format(
                    server=start_server().address,
                    source=camera.url,
                    receiver=receiver.port,
                    broker=broker.port,
                )
            )
            one.wait_for("door", "clear")
            receiver.kill()  # it misses the alert
            camera.colour = RED
            one.wait_for("door", "alert")
            until(lambda: subscriber.last(STATE) == "alert")
            receiver.start()
            until(lambda: [one["state"] for one in receiver.events()][-1:] == ["alert"])
            one.process.kill()
            until(lambda: subscriber.last("limelens/status") == "offline")
        said = [line for line in subscriber.heard if line[0] in (STATE, "limelens/status")]
        online = said.index(("limelens/status", "online"))
        assert said[0] == (STATE, "clear")
        assert said[online - 1] == (STATE, "unknown")
        lines = (tmp_path / "events.jsonl").read_text().splitlines()
        assert [json.loads(line)["sequence"] for line in lines] == receiver.sequences()
    finally:
        subscriber.close()
        receiver.kill()
        broker.kill()
