"""Which broker of MQTT states go to, and how they are called there."""

from __future__ import annotations

import hashlib
import re
from pathlib import Path
from typing import Final, Literal, Self

from pydantic import BaseModel, ConfigDict, Field, field_validator, model_validator
from pydantic_core.core_schema import ValidationInfo

from limelens.serve.addresses import is_loopback_host

_TOPIC: Final = re.compile(r"[^+#\x00/$][^+#\x00/]*(/[^+#\x00/]+)*")


class MqttSettings(BaseModel):
    """A broker, and the topics there."""

    model_config = ConfigDict(frozen=True, extra="forbid", hide_input_in_errors=True)

    host: str = Field(min_length=1, description="The broker's name or IP address.")
    port: int | None = Field(
        default=None, ge=1, le=65535, description="Its port; 8883, or 1883 without TLS, if unset."
    )
    tls: bool = Field(default=True, description="Whether to use TLS.")
    tls_ca: Path | None = Field(
        default=None,
        description="PEM file of the authorities that may have signed the broker's certificate; "
        "the system's if unset.",
    )
    tls_cert: Path | None = Field(
        default=None, description="PEM file of this client's certificate, if the broker asks."
    )
    tls_key: Path | None = Field(default=None, description="PEM file of its private key.")
    insecure: bool = Field(
        default=False,
        description="Allow another machine's broker without TLS: states and the password can then "
        "be read on the way, and changed.",
    )
    username: str | None = Field(default=None, description="The name to log in by.")
    password_file: Path | None = Field(default=None, description="A file with the password.")
    password_env: str | None = Field(
        default=None, description="The environment's variable with it, instead of a file."
    )
    base_topic: str = Field(
        default="limelens",
        description="What all topics begin with; each process that watches needs one of its own.",
    )
    discovery_prefix: str = Field(
        default="homeassistant",
        description="Where Home Assistant looks for devices; empty: announce none.",
    )
    device_class: Literal["safety", "problem"] = Field(
        default="safety", description="What an alert is to Home Assistant."
    )
    repeat_s: float = Field(
        default=20.0,
        ge=1,
        le=3600,
        description="Each state is repeated so often; one that is not repeated for three times as "
        "long is void: the broker forgets it, and Home Assistant shows it as unavailable.",
    )
    expire_after_s: float = Field(
        default=0.0,
        ge=0,
        description="A camera of which nothing is heard for so long is unknown; needs heartbeats, "
        "and at least three times their interval. 0: never.",
    )
    keepalive_s: int = Field(
        default=15,
        ge=5,
        le=600,
        description="The broker says that this client is gone after one and a half times this.",
    )
    timeout_s: float = Field(default=10.0, gt=0, le=300, description="For one message.")
    max_wait_s: float = Field(
        default=30.0,
        gt=0,
        le=3600,
        description="The longest wait before the broker is tried again; it begins with one second.",
    )
    version: Literal["5", "3.1.1"] = Field(
        default="5", description="Of MQTT; with 3.1.1 the broker never forgets a state."
    )
    client_id: str = Field(
        default="",
        max_length=64,
        description="What the broker knows this client by; made from base_topic if empty.",
    )

    @property
    def address(self) -> str:
        """Host and port, for messages."""
        host = f"[{self.host}]" if ":" in self.host else self.host
        return f"{host}:{self.actual_port}"

    @property
    def actual_port(self) -> int:
        """The port, given or usual."""
        return self.port or (8883 if self.tls else 1883)

    @property
    def actual_client_id(self) -> str:
        """The id, given or made; the same for the same topics.

        With the same id a broker ends an old connection for a new one. Otherwise the will of the
        old one could come after the new one's `online`, and two processes could contradict each
        other unseen.
        """
        made = hashlib.sha256(self.base_topic.encode()).hexdigest()
        return self.client_id or f"limelens-{made[:12]}"

    @field_validator("base_topic", "discovery_prefix")
    @classmethod
    def _check_topic(cls, value: str, info: ValidationInfo) -> str:
        may_be_left_out = info.field_name == "discovery_prefix" and not value
        if not may_be_left_out and not _TOPIC.fullmatch(value):
            raise ValueError(
                f"{value!r}; expected names with / between, such as doors/front, without + and #, "
                "and no $ at the beginning"
            )
        return value

    @model_validator(mode="after")
    def _check_together(self) -> Self:
        if self.password_file is not None and self.password_env is not None:
            raise ValueError("expected either password_file or password_env")
        has_password = self.password_file is not None or self.password_env is not None
        if has_password and self.username is None:
            raise ValueError("a password needs a username")
        if not self.tls and not self.insecure and not is_loopback_host(self.host):
            raise ValueError(
                "another machine's broker without TLS: anybody on the way could say `clear`; set "
                "tls = true, or insecure = true"
            )
        if not self.tls and (self.tls_ca or self.tls_cert or self.tls_key):
            raise ValueError("tls_ca, tls_cert and tls_key need tls = true")
        if (self.tls_cert is None) != (self.tls_key is None):
            raise ValueError("expected both tls_cert and tls_key, or neither")
        return self
