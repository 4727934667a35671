"""Where a webhook goes, and what it may take."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Final, Self

import httpx
from pydantic import BaseModel, ConfigDict, Field, SecretStr, field_validator, model_validator

from limelens.serve.addresses import is_loopback_host

_HEADER: Final = re.compile(r"[A-Za-z0-9!#$%&'*+.^_`|~-]+")
_VALUE: Final = re.compile(r"[\x20-\x7e\t]*")
_OURS: Final = frozenset(
    (
        "connection", "content-length", "content-type", "host", "idempotency-key",
        "transfer-encoding", "user-agent", "webhook-id", "webhook-signature", "webhook-timestamp",
    )
)  # fmt: skip


class WebhookSettings(BaseModel):
    """One receiver of events over HTTP."""

    model_config = ConfigDict(frozen=True, extra="forbid", hide_input_in_errors=True)

    name: str = Field(
        default="webhook",
        pattern=r"^[A-Za-z0-9][A-Za-z0-9_.-]{0,63}$",
        description="What it is called in messages, and in a camera's `sinks`.",
    )
    url: SecretStr = Field(description="Where events are posted to; https unless `insecure`.")
    secret_file: Path | None = Field(
        default=None,
        description="A file with the secret that signs: `whsec_` and base64. On further lines, "
        "earlier secrets, while receivers change to the new one.",
    )
    secret_env: str | None = Field(
        default=None, description="The environment's variable with the same, instead of a file."
    )
    headers: dict[str, SecretStr] = Field(
        default_factory=dict, description="Further headers, such as Authorization."
    )
    spool: Path = Field(
        description="A folder of its own, in which events wait until they are delivered."
    )
    max_spooled: int = Field(
        default=100_000,
        ge=1,
        description="How many events may wait; beyond, the oldest are dropped, and it is said.",
    )
    timeout_s: float = Field(
        default=10.0, gt=0, le=300, description="For one attempt, to the receiver's status."
    )
    max_wait_s: float = Field(
        default=60.0,
        gt=0,
        le=3600,
        description="The longest wait between two attempts; it begins with one second and doubles.",
    )
    heartbeat: bool = Field(
        default=False,
        description="Also post heartbeats, once each and only while no event waits.",
    )
    tls_ca: Path | None = Field(
        default=None,
        description="PEM file of the authorities that may have signed the receiver's certificate; "
        "the usual ones if unset.",
    )
    insecure: bool = Field(
        default=False, description="Allow http to other machines: events can be read on the way."
    )

    @field_validator("url")
    @classmethod
    def _check_url(cls, value: SecretStr) -> SecretStr:
        try:
            url = httpx.URL(value.get_secret_value())
        except (httpx.InvalidURL, ValueError):
            url = httpx.URL()
        if url.scheme not in ("https", "http") or not url.host:
            raise ValueError("is not an address; expected https://HOST/PATH")
        if url.userinfo:
            raise ValueError(
                "holds a password; leave it out, and put Authorization into `headers` if the "
                "receiver wants more than the signature"
            )
        return value

    @field_validator("headers")
    @classmethod
    def _check_headers(cls, value: dict[str, SecretStr]) -> dict[str, SecretStr]:
        for name, content in value.items():
            if not _HEADER.fullmatch(name) or not _VALUE.fullmatch(content.get_secret_value()):
                raise ValueError(f"{name!r} is not a header of plain ASCII")
            if name.lower() in _OURS:
                raise ValueError(f"{name} is set by limelens; leave it out")
        return value

    @model_validator(mode="after")
    def _check_together(self) -> Self:
        if (self.secret_file is None) == (self.secret_env is None):
            raise ValueError("expected either secret_file or secret_env")
        url = httpx.URL(self.url.get_secret_value())
        if url.scheme == "http" and not self.insecure and not is_loopback_host(url.host):
            raise ValueError(
                "url: http to another machine can be read on the way; use https, or set "
                "insecure = true"
            )
        return self
