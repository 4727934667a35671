"""What the page about the machinery says: certificate, disk, server. It may block."""

from __future__ import annotations

import shutil
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Final

from cryptography import x509

from limelens.serve.errors import LimelensError
from limelens.serve.wording import first_line

if TYPE_CHECKING:
    from limelens.serve.client import Client
    from limelens.serve.client.results import ModelInfo

SOON_DAYS: Final = 14
LITTLE_SHARE: Final = 0.05
_MODELS_S: Final = 3.0


@dataclass(frozen=True)
class Certificate:
    """The page's own."""

    ends: datetime
    num_days: int

    @property
    def ends_soon(self) -> bool:
        """Whether somebody should renew it."""
        return self.num_days < SOON_DAYS


@dataclass(frozen=True)
class Disk:
    """The disk that the record is on, in bytes."""

    free: int
    size: int
    record: int

    @property
    def is_nearly_full(self) -> bool:
        """Whether recording may stop soon."""
        return self.free < LITTLE_SHARE * self.size


@dataclass(frozen=True)
class ServerFindings:
    """The server's models, or why they are not known."""

    models: Sequence[ModelInfo]
    problem: str = ""


def read_certificate(path: Path | None) -> Certificate | None:
    """The first certificate of a file as it is now; None without one that can be read."""
    if path is None:
        return None
    try:
        found = x509.load_pem_x509_certificates(path.read_bytes())[0]
    except (OSError, ValueError):
        return None
    ends = found.not_valid_after_utc
    return Certificate(ends, (ends - datetime.now(UTC)).days)


def read_disk(folder: Path, num_bytes: Callable[[], int]) -> Disk | None:
    """The disk of a folder; None if it is gone."""
    try:
        usage = shutil.disk_usage(folder)
        return Disk(usage.free, usage.total, num_bytes())
    except (LimelensError, OSError):
        return None


def ask_server(connect: Callable[[], Client]) -> ServerFindings:
    """What the server serves now; a few seconds at most."""
    try:
        with connect() as client:
            return ServerFindings(client.models(timeout_s=_MODELS_S))
    except (LimelensError, OSError) as error:
        return ServerFindings((), first_line(error))
