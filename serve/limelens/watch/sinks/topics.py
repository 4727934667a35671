"""The topics of MQTT, and what announces a camera to Home Assistant. It sends nothing."""

from __future__ import annotations

import hashlib
import json
import re
from typing import Any, Final
from urllib.parse import quote

from limelens.serve.about import package_version
from limelens.serve.decisions.camera_state import CameraState
from limelens.watch.sinks.mqtt_settings import MqttSettings

ONLINE: Final = "online"
OFFLINE: Final = "offline"
_ALERT: Final = "{{ 'ON' if value == 'alert' else 'OFF' if value == 'clear' else 'None' }}"
"""Home Assistant takes `None` as unknown. Whatever is not `clear` must not become `OFF`."""


class Topics:
    """The topics below a base.

    Args:
        base: What all of them begin with.
    """

    def __init__(self, base: str) -> None:
        self._base = base
        self.status = f"{base}/status"
        """`online` or `offline`; the broker says the latter if this process ends unexpectedly."""

    def state(self, camera_id: str) -> str:
        """One word: alert, clear or unknown; retained."""
        return self._of(camera_id, "state")

    def details(self, camera_id: str) -> str:
        """The same as JSON, with its reasons; retained."""
        return self._of(camera_id, "details")

    def events(self, camera_id: str) -> str:
        """Each change as JSON; not retained."""
        return self._of(camera_id, "events")

    def _of(self, camera_id: str, end: str) -> str:
        return f"{self._base}/cameras/{quote(camera_id, safe='')}/{end}"


def announcements(settings: MqttSettings, camera_id: str) -> dict[str, str]:
    """What Home Assistant's discovery takes of a camera: topics and their JSON.

    See https://www.home-assistant.io/integrations/mqtt/#mqtt-discovery.
    """
    topics = Topics(settings.base_topic)
    name = f"{_slug(settings.base_topic)}_{_slug(camera_id)}"
    common: dict[str, Any] = {
        "state_topic": topics.state(camera_id),
        "json_attributes_topic": topics.details(camera_id),
        "availability": [{"topic": topics.status}],
        "expire_after": int(3 * settings.repeat_s),
        "qos": 1,
        "device": {
            "identifiers": [name],
            "name": camera_id,
            "manufacturer": "limelens",
            "model": "camera",
            "sw_version": package_version(),
        },
        "origin": {"name": "limelens", "sw_version": package_version()},
    }
    alert = {
        **common,
        "name": "Alert",
        "unique_id": f"{name}_alert",
        "device_class": settings.device_class,
        "value_template": _ALERT,
    }
    state = {
        **common,
        "name": "State",
        "unique_id": f"{name}_state",
        "device_class": "enum",
        "options": [one.value for one in CameraState],
    }
    prefix = settings.discovery_prefix
    return {
        f"{prefix}/binary_sensor/{name}/alert/config": json.dumps(alert),
        f"{prefix}/sensor/{name}/state/config": json.dumps(state),
    }


def _slug(text: str) -> str:
    """A name of the characters that Home Assistant allows, different for different texts."""
    plain = re.sub(r"[^A-Za-z0-9_-]", "_", text)
    return plain if plain == text else f"{plain}_{hashlib.sha256(text.encode()).hexdigest()[:8]}"
