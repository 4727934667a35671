"""The `[console]` section: where the guard's page is served, and to whom."""

from __future__ import annotations

from pathlib import Path

from pydantic import BaseModel, ConfigDict, Field


class ConsoleSettings(BaseModel):
    """The guard's page.

    On loopback it needs no login. Anywhere else it needs `users`, and `tls_cert` with `tls_key` or
    `insecure`.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    listen: str = Field(default="127.0.0.1:8600", description="HOST:PORT; port 0 takes a free one.")
    users: Path | None = Field(
        default=None, description="The file of users, which `limelens console users add` writes."
    )
    tls_cert: Path | None = Field(default=None, description="The page's certificate chain, PEM.")
    tls_key: Path | None = Field(default=None, description="Its private key, PEM.")
    reread_s: float = Field(
        default=10.0, gt=0, description="Seconds between looks for a renewed certificate."
    )
    insecure: bool = Field(
        default=False,
        description="Allow plaintext beyond this machine, for a proxy in front that ends TLS.",
    )
    hosts: tuple[str, ...] = Field(
        default=(),
        description="Further names by which browsers may ask for the page, such as door.example. "
        "Addresses, localhost and the names in the certificate always may.",
    )
    trusted_proxies: tuple[str, ...] = Field(
        default=(),
        description="Addresses of proxies whose X-Forwarded-For and -Proto are believed.",
    )
    idle_s: float = Field(
        default=3600.0, gt=0, description="Seconds without a request after which a login ends."
    )
    session_s: float = Field(
        default=12 * 3600.0, gt=0, description="Seconds after which a login ends in any case."
    )
    max_viewers: int = Field(default=16, ge=1, description="Pages with live images at a time.")
    frames_per_s: float = Field(
        default=5.0, gt=0, le=30, description="Images a second of each camera and page, at most."
    )
    max_upload_bytes: int = Field(
        default=20 * 2**20, ge=1024, description="Largest image that may be sent to the page."
    )
    review: Path | None = Field(
        default=None, description="The folder for frames with a corrected label; train reads it."
    )
