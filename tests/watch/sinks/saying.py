"""An MQTT client in a process of its own, to be killed: python saying.py SETTINGS.

It says that the camera `door` is clear, and nothing after that.
"""

from __future__ import annotations

import sys

from tests.watch.sinks.made import event

from limelens.watch.sinks.mqtt import MqttSink
from limelens.watch.sinks.mqtt_settings import MqttSettings

if __name__ == "__main__":
    sink = MqttSink(MqttSettings.model_validate_json(sys.argv[1]), ["door"])
    sink.put(event(1, "clear"))
    sys.stdin.read()
