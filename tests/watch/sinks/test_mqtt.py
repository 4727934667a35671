"""States by MQTT to a real Mosquitto, which is killed and restarted, asks for passwords and TLS."""

from __future__ import annotations

import gc
import json
import subprocess
import sys
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import pytest
from pydantic import ValidationError
from tests.waiting import PATIENCE_S, until
from tests.watch.sinks.brokers import Broker, StartBroker, Subscribe, Subscriber, mosquitto
from tests.watch.sinks.made import event
from tests.watch.sinks.receivers import ROOT

from limelens.watch.event import EventType
from limelens.watch.secret import SecretError
from limelens.watch.sinks.mqtt import MqttSink
from limelens.watch.sinks.mqtt_settings import MqttSettings

STATUS = "limelens/status"
STATE = "limelens/cameras/door/state"
DETAILS = "limelens/cameras/door/details"
EVENTS = "limelens/cameras/door/events"


@pytest.fixture
def start_broker(tmp_path: Path, own_port: Callable[[], int]) -> Iterator[StartBroker]:
    started: list[Broker] = []

    def start(*more: str) -> Broker:
        started.append(Broker(tmp_path, own_port(), *(more or ("allow_anonymous true",))))
        started[-1].start()
        return started[-1]

    yield start
    for broker in started:
        broker.kill()


@pytest.fixture
def passwords(tmp_path: Path) -> Path:
    """A file of the broker, with a password for `door`."""
    mosquitto()
    path = tmp_path / "passwords"
    command = ["mosquitto_passwd", "-c", "-b", str(path), "door", "hunter2"]
    subprocess.run(command, check=True, capture_output=True)
    return path


@pytest.fixture
def subscribe() -> Iterator[Subscribe]:
    started: list[Subscriber] = []

    def start(port: int, **more: Any) -> Subscriber:
        started.append(Subscriber(port, **more))
        return started[-1]

    yield start
    for subscriber in started:
        subscriber.close()


def settings(port: int, **more: Any) -> MqttSettings:
    values: dict[str, Any] = {"host": "127.0.0.1", "port": port, "tls": False, "max_wait_s": 0.2}
    return MqttSettings(**{**values, **more})


@pytest.fixture
def start_sink() -> Iterator[Callable[..., MqttSink]]:
    started: list[MqttSink] = []

    def start(settings: MqttSettings, cameras: Sequence[str] = ("door",)) -> MqttSink:
        started.append(MqttSink(settings, cameras))
        return started[-1]

    yield start
    for sink in started:
        sink.close(PATIENCE_S)
    # paho leaves it to the interpreter to close a connection whose handshake failed: in the test
    # that expects the warning, and not in another one.
    gc.collect()


def test_a_state_is_not_repeated_once_its_decision_expired_in_silence(
    start_broker: StartBroker, subscribe: Subscribe
) -> None:
    broker = start_broker()
    subscriber = subscribe(broker.port)
    stale: set[str] = set()
    sink = MqttSink(settings(broker.port, repeat_s=1), ["door"], stale.__contains__)
    try:
        sink.put(event(1, "clear"))
        until(lambda: subscriber.last(STATE) == "clear")
        stale.add("door")
        until(lambda: subscriber.last(STATE) == "unknown")
        until(lambda: json.loads(subscriber.last(DETAILS))["reason"] == "expired")
        stale.clear()
        until(lambda: subscriber.last(STATE) == "clear")
    finally:
        sink.close(5)


def test_a_state_is_unknown_until_it_is_known_and_again_at_the_end(
    start_broker: StartBroker, subscribe: Subscribe, start_sink: Callable[..., MqttSink]
) -> None:
    broker = start_broker()
    subscriber = subscribe(broker.port)
    sink = start_sink(settings(broker.port))
    until(lambda: subscriber.last(STATUS) == "online")
    assert subscriber.last(STATE) == "unknown"
    assert json.loads(subscriber.last(DETAILS))["reason"] == "starting"
    topics = [topic for topic, _ in subscriber.heard]
    assert topics.index(STATE) < topics.index(STATUS)  # nobody trusts what was retained before
    sink.put(event(1, "clear"))
    until(lambda: subscriber.last(STATE) == "clear")
    sent = event(2, "alert")
    sink.put(sent)
    until(lambda: subscriber.last(EVENTS))
    until(lambda: json.loads(subscriber.last(EVENTS))["id"] == sent.id)
    later = subscribe(broker.port)  # learns the state at once, since it is retained
    until(lambda: later.last(STATE) == "alert")
    until(lambda: later.last(DETAILS))
    assert json.loads(later.last(DETAILS))["label"] == "without_mask"
    sink.close(5)
    until(lambda: subscriber.last(STATUS) == "offline")
    assert subscriber.last(STATE) == "unknown"
    assert json.loads(subscriber.last(DETAILS))["reason"] == "off"


def test_home_assistant_finds_an_alert_and_a_state_that_can_be_unavailable(
    start_broker: StartBroker, subscribe: Subscribe, start_sink: Callable[..., MqttSink]
) -> None:
    broker = start_broker()
    start_sink(settings(broker.port, device_class="problem"), ["door", "Tor 2/west"])
    subscriber = subscribe(broker.port)

    def announced() -> dict[str, Any]:
        return {
            topic: json.loads(said)
            for topic, said in subscriber.heard
            if topic.startswith("homeassistant/")
        }

    until(lambda: subscriber.last(STATUS) == "online")
    until(lambda: len(announced()) == 4)  # a broker has an order of its own for what it retained
    found = announced()
    alert = found["homeassistant/binary_sensor/limelens_door/alert/config"]
    state = found["homeassistant/sensor/limelens_door/state/config"]
    assert (alert["device_class"], alert["state_topic"]) == ("problem", STATE)
    assert "else 'None'" in alert["value_template"]  # unknown is not off
    assert state["options"] == ["alert", "clear", "unknown"]
    for one in (alert, state):
        assert one["availability"] == [{"topic": STATUS}]
        assert one["expire_after"] == 60
        assert one["device"]["identifiers"] == ["limelens_door"]
    # A name that is no topic becomes one, and its device is one of its own.
    others = [one for one in found.values() if one["device"]["name"] == "Tor 2/west"]
    assert len({one["unique_id"] for one in found.values()}) == 4
    assert {one["state_topic"] for one in others} == {"limelens/cameras/Tor%202%2Fwest/state"}


@pytest.mark.ci
def test_a_process_that_is_killed_leaves_no_state_standing(
    start_broker: StartBroker, subscribe: Subscribe
) -> None:
    broker = start_broker()
    subscriber = subscribe(broker.port)
    wanted = settings(broker.port, repeat_s=1).model_dump_json()
    with subprocess.Popen(
        [sys.executable, "-m", "tests.watch.sinks.saying", wanted],
        cwd=ROOT,
        stdin=subprocess.PIPE,
    ) as it:
        until(lambda: subscriber.last(STATE) == "clear" and subscriber.last(STATUS) == "online")
        it.kill()
    until(lambda: subscriber.last(STATUS) == "offline")

    def is_forgotten() -> bool:
        later = subscribe(broker.port)
        until(lambda: later.last(STATUS) == "offline")
        return not later.last(STATE)

    until(is_forgotten)


def test_a_broker_that_was_away_hears_the_state_of_now_and_what_happened(
    start_broker: StartBroker,
    subscribe: Subscribe,
    start_sink: Callable[..., MqttSink],
    passwords: Path,
    tmp_path: Path,
) -> None:
    broker = start_broker(f"password_file {passwords}", "allow_anonymous false")
    password = tmp_path / "password.txt"
    password.write_text("hunter2\n")
    first = subscribe(broker.port, login=("door", "hunter2"))  # before it: events are not retained
    sink = start_sink(settings(broker.port, username="door", password_file=password))
    sink.put(event(1, "clear"))
    until(lambda: first.last(STATE) == "clear" and first.all(EVENTS))
    broker.kill()
    until(lambda: f"127.0.0.1:{broker.port}: " in sink.problem)
    sink.put(event(2, "alert"))
    sink.put(event(3, "unknown"))
    sink.put(event(4, "alert"))
    password.write_text("not yet\n")  # until somebody listens
    broker.start()
    listener = subscribe(broker.port, login=("door", "hunter2"))
    until(lambda: "Not authorized" in sink.problem)
    password.write_text("hunter2\n")

    def told() -> list[int]:
        return [json.loads(one)["sequence"] for one in listener.all(EVENTS)]

    # The first may come again, if the broker was killed before it acknowledged it.
    until(lambda: told()[-3:] == [2, 3, 4])
    assert set(listener.all(STATE)) == {"alert"}  # nothing of before
    assert listener.last(STATUS) == "online"
    until(lambda: not sink.problem)


def test_a_camera_of_which_nothing_is_heard_becomes_unknown(
    start_broker: StartBroker, subscribe: Subscribe, start_sink: Callable[..., MqttSink]
) -> None:
    broker = start_broker()
    subscriber = subscribe(broker.port)
    sink = start_sink(settings(broker.port, expire_after_s=0.5))
    # What lasts for half a second may be over before it is looked at.
    sink.put(event(1, "clear"))
    until(lambda: subscriber.all(STATE)[-2:] == ["clear", "unknown"])
    until(lambda: json.loads(subscriber.last(DETAILS))["reason"] == "expired")
    sink.put(event(2, "clear", type=EventType.HEARTBEAT))
    until(lambda: subscriber.all(STATE).count("clear") == 2)
    assert len(subscriber.all(EVENTS)) == 1  # a heartbeat is no event


@pytest.mark.filterwarnings("ignore:.*SSLSocket:pytest.PytestUnraisableExceptionWarning")
def test_a_broker_that_speaks_no_tls_is_said_to(
    start_broker: StartBroker, start_sink: Callable[..., MqttSink]
) -> None:
    broker = start_broker("allow_anonymous true")
    sink = start_sink(settings(broker.port, tls=True))
    until(lambda: "set tls = false" in sink.problem)
    assert "Errno" not in sink.problem


@pytest.mark.filterwarnings("ignore:.*SSLSocket:pytest.PytestUnraisableExceptionWarning")
def test_a_broker_asks_for_a_password_and_shows_a_certificate(
    start_broker: StartBroker,
    subscribe: Subscribe,
    start_sink: Callable[..., MqttSink],
    authority: Callable[[str], Any],
    passwords: Path,
    tmp_path: Path,
) -> None:
    right, wrong = authority("right"), authority("wrong")
    chain, key = right.issue("broker")
    broker = start_broker(
        f"certfile {chain}", f"keyfile {key}", f"password_file {passwords}", "allow_anonymous false"
    )
    password, other = tmp_path / "password.txt", tmp_path / "other.txt"
    password.write_text("hunter2\n")
    other.write_text("swordfish\n")
    login = {"tls": True, "username": "door"}
    sink = start_sink(
        settings(broker.port, **login, tls_ca=wrong.path, password_file=password, client_id="a")
    )
    until(lambda: "its certificate is not trusted: " in sink.problem)
    sink = start_sink(
        settings(broker.port, **login, tls_ca=right.path, password_file=other, client_id="b")
    )
    until(lambda: "Not authorized" in sink.problem)
    assert "swordfish" not in sink.problem
    other.write_text("hunter2\n")  # read again at each attempt
    until(lambda: not sink.problem)
    subscriber = subscribe(broker.port, ca=right.path, login=("door", "hunter2"))
    until(lambda: subscriber.last(STATUS) == "online")


def test_what_the_broker_s_access_lists_forbid_is_said(
    start_broker: StartBroker,
    start_sink: Callable[..., MqttSink],
    subscribe: Subscribe,
    passwords: Path,
    tmp_path: Path,
) -> None:
    lists, password = tmp_path / "lists", tmp_path / "password.txt"
    lists.write_text("user door\ntopic readwrite limelens/#\n")  # not homeassistant/#
    password.write_text("hunter2")
    broker = start_broker(
        f"password_file {passwords}", f"acl_file {lists}", "allow_anonymous false"
    )
    sink = start_sink(settings(broker.port, username="door", password_file=password))
    sink.put(event(1, "clear"))
    subscriber = subscribe(broker.port, login=("door", "hunter2"))
    until(lambda: subscriber.last(STATE) == "clear")  # the rest is said all the same
    assert sink.problem == (
        f"127.0.0.1:{broker.port}: refuses 2 topics, such as "
        "homeassistant/binary_sensor/limelens_door/alert/config: Not authorized; expected the "
        "right to write limelens/# and homeassistant/#"
    )


@pytest.mark.parametrize(
    ("values", "said"),
    [
        ({"host": "broker.example"}, "another machine's broker without TLS"),
        ({"password_env": "PASSWORD"}, "a password needs a username"),
        ({"tls_ca": "ca.pem"}, "need tls = true"),
        ({"tls": True, "tls_cert": "a.pem"}, "both tls_cert and tls_key"),
        ({"base_topic": "doors/#"}, "base_topic"),
    ],
)
def test_settings_that_cannot_be_used_are_refused(values: dict[str, Any], said: str) -> None:
    with pytest.raises(ValidationError, match=said):
        settings(1883, **values)


def test_a_password_that_is_not_there_is_said_at_once() -> None:
    with pytest.raises(SecretError, match="NO_SUCH_VARIABLE is not set"):
        MqttSink(settings(1, username="door", password_env="NO_SUCH_VARIABLE"))
