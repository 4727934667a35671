"""The files that run a door's server, cameras, page and broker. No container is started."""

from __future__ import annotations

import subprocess
import sys
import tomllib
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import paho.mqtt.client as paho
import pytest
import yaml
from paho.mqtt.enums import CallbackAPIVersion
from tests.deploy.test_watching_files import check, texts, with_its_files
from tests.waiting import until
from tests.watch.sinks.brokers import Broker, Subscriber, mosquitto
from tests.watch.sinks.made import event

from limelens.watch.sinks.mqtt import MqttSink
from limelens.watch.sinks.mqtt_settings import MqttSettings
from limelens.watch.sinks.topics import announcements

DEPLOY = Path(__file__).parents[2] / "deploy"
STATE = "limelens/cameras/front-left/state"


def load(name: str) -> Any:
    return yaml.safe_load((DEPLOY / name).read_text())


def example() -> dict[str, Any]:
    return tomllib.loads((DEPLOY / "compose-door.toml").read_text())


def secrets_named(text: str) -> set[str]:
    return {part.split()[0] for part in text.split("/run/secrets/")[1:]}


def test_the_example_is_a_file_that_can_be_watched(
    tmp_path: Path, authority: Callable[..., Any]
) -> None:
    check(with_its_files(DEPLOY / "compose-door.toml", tmp_path, authority("server")))


def test_the_services_may_do_as_little_as_the_server() -> None:
    server = load("compose.yaml")["services"]["limelens"]
    for service in load("compose-door.yaml")["services"].values():
        for key in ("read_only", "cap_drop", "security_opt", "user", "restart"):
            assert service[key] == server[key], key
        assert {"cpus", "memory"} <= set(service["deploy"]["resources"]["limits"])
        volumes = [one for one in service["volumes"] if one.startswith("./")]
        assert all(one.endswith(":ro") for one in volumes)


def test_every_secret_that_is_used_is_given_and_none_else() -> None:
    both = {**load("compose.yaml")["secrets"], **load("compose-door.yaml")["secrets"]}
    services = load("compose-door.yaml")["services"]
    used = {text.removeprefix("/run/secrets/") for text in texts(example()) if "/run/" in text}
    assert set(services["watch"]["secrets"]) == used
    broker = secrets_named((DEPLOY / "mosquitto.conf").read_text())
    assert set(services["mosquitto"]["secrets"]) == broker
    assert used | broker <= set(both)
    page = (DEPLOY.parent / "docs" / "deploying.md").read_text()
    assert all(name in page for name in load("compose-door.yaml")["secrets"])


def test_what_the_example_calls_are_services_that_listen_there() -> None:
    services = {**load("compose.yaml")["services"], **load("compose-door.yaml")["services"]}
    host, port = example()["server"]["address"].split(":")
    assert f"--listen=0.0.0.0:{port}" in services[host]["command"]
    assert example()["mqtt"]["host"] in services
    assert "listener 8883" in (DEPLOY / "mosquitto.conf").read_text()
    (page,) = services["watch"]["ports"]
    assert example()["console"]["listen"].endswith(f":{page.split(':')[1]}")
    state = example()["record"]["path"]
    folders = [one.split(":")[1] for one in services["watch"]["volumes"]]
    assert any(state.startswith(f"{folder}/") for folder in folders)


@pytest.mark.ci
def test_the_health_of_the_page_is_asked_over_tls(
    tmp_path: Path, authority: Callable[..., Any]
) -> None:
    chain, key = authority("page").issue("localhost")
    users = tmp_path / "users"
    (tmp_path / "password").write_text("a password of many words\n")
    limelens = [sys.executable, "-m", "limelens.cli"]
    adding: list[str | Path] = [
        "console",
        "users",
        "add",
        "guard",
        "--role",
        "viewer",
        "--file",
        users,
    ]
    adding += ["--password-file", tmp_path / "password"]
    subprocess.run([*limelens, *adding], check=True, capture_output=True, timeout=60)
    page = {"listen": "127.0.0.1:0", "users": users, "tls_cert": chain, "tls_key": key}
    lines = [f'{name} = "{value}"' for name, value in page.items()]
    config = tmp_path / "door.toml"
    config.write_text(
        '[[camera]]\nid = "door"\nsource = "rtsp://127.0.0.1:9/live"\n[console]\n'
        + "\n".join(lines)
    )
    (_, python, *arguments) = load("compose-door.yaml")["services"]["watch"]["healthcheck"]["test"]
    assert python == "python"
    with subprocess.Popen(
        [*limelens, "watch", config, "--jsonl"],
        stdout=subprocess.DEVNULL,
        stderr=subprocess.PIPE,
        text=True,
    ) as watching:
        assert watching.stderr is not None
        address = next(line for line in watching.stderr if "the page is at" in line).split("//")[1]
        (code,) = [
            one.replace("127.0.0.1:8600", address.split("/")[0].strip()) for one in arguments[1:]
        ]
        asking = [sys.executable, arguments[0], code]
        assert subprocess.run(asking, timeout=60, check=False).returncode == 0
        watching.kill()
        watching.wait(60)
        asked = subprocess.run(asking, timeout=60, check=False, capture_output=True)
        assert asked.returncode != 0


@pytest.fixture
def passwords(tmp_path: Path) -> Path:
    mosquitto()
    path = tmp_path / "mosquitto.passwords"
    for user in ("limelens", "home-assistant"):
        command = ["mosquitto_passwd", *([] if path.exists() else ["-c"]), "-b", str(path)]
        subprocess.run([*command, user, f"{user} secret"], check=True, capture_output=True)
    return path


@pytest.fixture
def broker(
    tmp_path: Path,
    passwords: Path,
    authority: Callable[..., Any],
    own_port: Callable[[], int],
) -> Iterator[Any]:
    """Mosquitto as in the file, but for its port and its paths."""
    ca = authority("broker")
    chain, key = ca.issue("localhost")
    lines = (DEPLOY / "mosquitto.conf").read_text()
    for there, here in (
        ("/run/secrets/tls.crt", chain),
        ("/run/secrets/tls.key", key),
        ("/run/secrets/mosquitto.passwords", passwords),
        ("/mosquitto/config/mosquitto.acl", DEPLOY / "mosquitto.acl"),
    ):
        assert there in lines
        lines = lines.replace(there, str(here))
    (listener,) = [line for line in lines.splitlines() if line.startswith("listener")]
    started = Broker(tmp_path, own_port(), *lines.replace(listener, "").splitlines())
    started.start()
    yield started, ca.path
    started.kill()


def test_only_limelens_can_say_a_state(broker: Any, tmp_path: Path) -> None:
    found, ca = broker
    (tmp_path / "mqtt.password").write_text("limelens secret\n")
    ours = {"host": "localhost", "port": found.port, "tls_ca": ca, "max_wait_s": 0.2}
    settings = {**example()["mqtt"], **ours, "password_file": tmp_path / "mqtt.password"}
    sink = MqttSink(MqttSettings(**settings), ["front-left"])
    home = Subscriber(found.port, ca=ca, login=("home-assistant", "home-assistant secret"))
    try:
        until(lambda: home.last(STATE) == "unknown")
        assert any(topic.startswith("homeassistant/sensor/") for topic, _ in home.heard)
        other = paho.Client(CallbackAPIVersion.VERSION2)
        other.tls_set(str(ca))
        other.username_pw_set("home-assistant", "home-assistant secret")
        other.connect("localhost", found.port)
        other.loop_start()
        other.publish(STATE, "clear", qos=1, retain=True).wait_for_publish(60)
        other.disconnect()
        other.loop_stop()
        sink.put(event(1, "alert", camera_id="front-left"))
        until(lambda: home.last(STATE) == "alert")
        assert "clear" not in home.all(STATE)
    finally:
        sink.close(5)
        home.close()


def entities() -> set[str]:
    """What Home Assistant makes of the example's cameras: it joins the names."""
    found = set()
    for camera in example()["camera"]:
        for topic, said in announcements(MqttSettings(host="mosquitto"), camera["id"]).items():
            one = yaml.safe_load(said)
            joined = f"{one['device']['name']} {one['name']}".lower()
            found.add(f"{topic.split('/')[1]}.{joined.replace('-', '_').replace(' ', '_')}")
    return found


def test_the_automations_use_entities_and_states_that_there_are() -> None:
    known = {"alert", "clear", "unknown", "unavailable"}
    automations = load("home-assistant/automations.yaml")
    assert len({one["id"] for one in automations}) == len(automations) == 3
    (lamp,) = [one for one in automations if one["id"].endswith("lamp")]
    used = {text for text in texts(automations) if text.startswith(("sensor.", "binary_sensor."))}
    assert used <= entities()
    for trigger in [trigger for one in automations for trigger in one["triggers"]]:
        to = trigger.get("to") or []
        assert {to} <= known if isinstance(to, str) else set(to) <= known
    # Green needs every camera to be clear, whatever else there may be.
    (green,) = lamp["actions"][0]["if"]
    assert (green["match"], green["state"]) == ("all", "clear")
    assert set(green["entity_id"]) == {one for one in entities() if one.startswith("sensor.")}
