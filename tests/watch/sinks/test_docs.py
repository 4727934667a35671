"""What docs/events.md says, tried."""

from __future__ import annotations

import re
import tomllib
from pathlib import Path

import pytest
from pydantic import BaseModel
from tests.watch.sinks.made import event

from limelens.watch.event import document
from limelens.watch.sinks.jsonl import JsonlSettings
from limelens.watch.sinks.mqtt_settings import MqttSettings
from limelens.watch.sinks.signing import read_keys, signed_headers
from limelens.watch.sinks.webhook_settings import WebhookSettings

PAGE = (Path(__file__).parents[3] / "docs" / "events.md").read_text()
SECTIONS = tomllib.loads("\n".join(re.findall(r"```toml\n(.*?)```", PAGE, re.DOTALL)))


@pytest.mark.parametrize(
    ("values", "settings"),
    [
        (SECTIONS["jsonl"], JsonlSettings),
        (SECTIONS["webhook"][0], WebhookSettings),
        (SECTIONS["mqtt"], MqttSettings),
    ],
)
def test_the_settings_of_the_page_can_be_used(
    values: dict[str, object], settings: type[BaseModel]
) -> None:
    found = settings.model_validate(values)
    usual = settings.model_validate(
        {
            key: value
            for key, value in values.items()
            if settings.model_fields[key].is_required() or key in ("secret_file", "username")
        }
    )
    for key in ("max_spooled", "timeout_s", "max_wait_s", "repeat_s", "expire_after_s", "types"):
        assert getattr(found, key, None) == getattr(usual, key, None), f"{key} is another"


def test_the_page_s_signature_is_right() -> None:
    given = re.search(
        r"the secret `(.*?)`, the id\n`(.*?)`, the time stamp `(.*?)` and the body\n`(.*?)` "
        r"give `(.*?)`",
        PAGE,
    )
    assert given is not None
    secret, message_id, timestamp, body, signature = given.groups()
    headers = signed_headers(read_keys(secret), message_id, body.encode(), int(timestamp))
    assert headers["webhook-signature"] == signature


def test_the_page_lists_the_keys_of_an_event() -> None:
    table = PAGE[PAGE.index("| `schema`") : PAGE.index("**An old event")]
    first_cells = "".join(line.split("|")[1] for line in table.splitlines() if line)
    assert re.findall(r"`(\w+)`", first_cells) == list(document(event()))
