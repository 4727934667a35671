"""What a webhook's settings may say."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from pydantic import ValidationError

from limelens.watch.secret import SecretError
from limelens.watch.sinks.errors import SinkError
from limelens.watch.sinks.webhook import WebhookSink
from limelens.watch.sinks.webhook_settings import WebhookSettings


@pytest.mark.parametrize(
    ("values", "said"),
    [
        ({"url": "http://door.example/"}, "http to another machine can be read on the way"),
        ({"url": "https://user:abc@door.example/"}, "holds a password"),
        ({"url": "door.example"}, "expected https://HOST/PATH"),
        ({"secret_env": "SECRET"}, "expected either secret_file or secret_env"),
        ({"headers": {"webhook-id": "1"}}, "webhook-id is set by limelens"),
        ({"headers": {"x": "1\r\ny: 2"}}, "'x' is not a header of plain ASCII"),
    ],
)
def test_settings_that_cannot_be_used_are_refused(
    settings: Callable[..., WebhookSettings], values: dict[str, Any], said: str
) -> None:
    with pytest.raises(ValidationError, match=said) as found:
        settings(1, **values)
    assert "abc" not in str(found.value)


def test_a_secret_that_cannot_be_used_is_refused_without_being_shown(
    settings: Callable[..., WebhookSettings], secret: Path
) -> None:
    secret.write_text("hunter2")
    with pytest.raises(SinkError, match="expected whsec_ and the base64") as found:
        WebhookSink(settings(1))
    assert "hunter2" not in str(found.value)
    secret.unlink()
    with pytest.raises(SecretError, match=r"secret\.txt: No such file"):
        WebhookSink(settings(1))
