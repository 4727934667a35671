"""A real Mosquitto with a configuration of its own, and a subscriber to it."""

from __future__ import annotations

import shutil
import socket
import ssl
import subprocess
import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any

import paho.mqtt.client as paho
import pytest
from paho.mqtt.enums import CallbackAPIVersion
from tests.waiting import until


def mosquitto() -> str:
    """Where the broker is installed; the test is skipped if it is not."""
    found = shutil.which("mosquitto", path="/usr/sbin:/usr/local/sbin:/usr/bin:/usr/local/bin")
    if found is None:
        pytest.skip("mosquitto is not installed (Debian's package mosquitto)")
    return found


class Broker:
    """A Mosquitto that keeps nothing when it is killed.

    Args:
        folder: For its configuration.
        port: One that is the test's own.
        more: Further lines of the configuration.
    """

    def __init__(self, folder: Path, port: int, *more: str) -> None:
        self._mosquitto = mosquitto()
        self.port = port
        self._config = folder / "mosquitto.conf"
        lines = [f"listener {self.port} 127.0.0.1", "persistence false", "user root", *more]
        self._config.write_text("\n".join(lines) + "\n")
        self._process: subprocess.Popen[bytes] | None = None

    def start(self) -> None:
        self._process = subprocess.Popen(
            [self._mosquitto, "-c", self._config], stderr=subprocess.DEVNULL
        )
        until(self._listens)

    def kill(self) -> None:
        if self._process is not None:
            self._process.kill()
            self._process.wait()
            self._process = None

    def _listens(self) -> bool:
        assert self._process is not None
        assert self._process.poll() is None, "mosquitto ended"
        with socket.socket() as trying:
            return trying.connect_ex(("127.0.0.1", self.port)) == 0


class Subscriber:
    """Hears all topics, and comes back when the broker does."""

    def __init__(self, port: int, *, ca: Path | None = None, login: tuple[str, str] | None = None):
        self._heard: list[tuple[str, str]] = []
        self._lock = threading.Lock()
        self._client = paho.Client(CallbackAPIVersion.VERSION2)
        self._client.reconnect_delay_set(1, 1)
        if ca is not None:
            self._client.tls_set_context(ssl.create_default_context(cafile=str(ca)))
        if login is not None:
            self._client.username_pw_set(*login)
        self._client.on_connect = lambda client, *_: client.subscribe("#", qos=1)
        self._client.on_message = self._hear
        listening = threading.Event()
        self._client.on_subscribe = lambda *_: listening.set()
        self._client.connect("127.0.0.1", port)
        self._client.loop_start()
        until(listening.is_set)

    def _hear(self, _client: Any, _data: Any, message: paho.MQTTMessage) -> None:
        with self._lock:
            self._heard.append((message.topic, message.payload.decode()))

    @property
    def heard(self) -> list[tuple[str, str]]:
        """Topics and what was said, in order."""
        with self._lock:
            return list(self._heard)

    def say(self, topic: str, said: str) -> None:
        """Publishes something, retained."""
        self._client.publish(topic, said, qos=1, retain=True)

    def all(self, topic: str) -> list[str]:
        """Everything said on a topic."""
        return [said for one, said in self.heard if one == topic]

    def last(self, topic: str) -> str:
        """The last of it; empty if there was none."""
        return next(reversed(self.all(topic)), "")

    def close(self) -> None:
        self._client.disconnect()
        self._client.loop_stop()
        # It closes its pair of sockets when nobody holds it any more. A collector that came first,
        # by this circle, could find them open, in any later test.
        self._client.on_message = None


StartBroker = Callable[..., Broker]
Subscribe = Callable[..., Subscriber]
