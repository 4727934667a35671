"""Parses the name of a source: a device, an address, a video, images or standard input.

It opens nothing.
"""

from __future__ import annotations

import re
import sys
from dataclasses import dataclass, field, replace
from enum import Enum
from pathlib import Path
from typing import Final, Literal
from urllib.parse import quote

from limelens.serve.folders import Found, walk
from limelens.serve.image import SUFFIXES
from limelens.serve.redaction import without_secrets
from limelens.serve.tools.camera.faults import LossReason, SourceError

Transport = Literal["tcp", "udp"]
"""How the frames of an rtsp:// camera travel."""

_SCHEMES: Final = frozenset({"http", "https", "rtmp", "rtmps", "rtsp", "rtsps", "srt", "udp"})
_EXPECTED: Final = (
    "expected a device's number, /dev/videoN, an address such as rtsp://…, a video, a folder of "
    "images, or - for standard input"
)
_MAY_BE_ADDRESS: Final = re.compile(r"@|://|^\s*[a-z][a-z0-9+.-]+:/", re.IGNORECASE)
_SILENCE_S: Final = 5.0
"""A network camera sends several frames a second."""
_ADVICE: Final = "; in a password, / ? # [ and @ are written %2F %3F %23 %5B and %40"


class Kind(Enum):
    """The kind of a source."""

    DEVICE = "device"
    ADDRESS = "address"
    VIDEO = "video"
    IMAGES = "pictures"
    STDIN = "stdin"


@dataclass(frozen=True)
class SourceAddress:
    """Where frames come from: the path or address to open, and how.

    The name, for messages, has of an address only what cannot be a password. An empty format means
    to detect it. The advice is for the error if it cannot be opened. A silence limit of 0 s means
    that FFmpeg knows none.
    """

    name: str
    kind: Kind
    path: str = field(repr=False)
    format: str = ""
    options: tuple[tuple[str, str], ...] = ()
    advice: str = ""
    silence_s: float = 0.0

    @property
    def has_user(self) -> bool:
        """Whether the address names a user."""
        return self.kind is Kind.ADDRESS and "@" in _authority(self.path)


def place(source: str, transport: Transport = "tcp") -> SourceAddress:
    """Parses the name of a source; the transport is for rtsp:// alone.

    Raises:
        SourceError: There is no such source.
    """
    if source == "-":
        return SourceAddress("standard input", Kind.STDIN, source)
    if source.isascii() and source.isdecimal():
        return _device(source)
    scheme = re.match(r"\s*([a-z][a-z0-9+.-]*)://", source, re.IGNORECASE)
    if scheme:
        return _address(source.strip(), scheme[1].lower(), transport)
    path = Path(source)
    if source.startswith("/dev/video"):
        return SourceAddress(source, Kind.DEVICE, source, format="v4l2")
    try:
        if path.is_dir() or (path.is_file() and path.suffix.lower() in SUFFIXES):
            return SourceAddress(source, Kind.IMAGES, source)
        if path.exists():
            return SourceAddress(source, Kind.VIDEO, source)
    except (OSError, ValueError):
        # The name is too long, for example.
        pass
    # A mistyped address may hold a password.
    shown = "what was given" if _MAY_BE_ADDRESS.search(source) else source
    raise SourceError(f"{shown}: no such file; {_EXPECTED}", LossReason.NOT_FOUND)


def with_credentials(where: SourceAddress, credentials: str) -> SourceAddress:
    """The same place, opened as a user.

    Args:
        where: The place, an address that names no user.
        credentials: `USER:PASSWORD`, as they are, not as an address writes them; a line break at
            the end is left out. Empty is nobody.

    Raises:
        SourceError: The place knows no users, or its address names one already.
    """
    credentials = credentials.rstrip("\r\n")
    if not credentials:
        return where
    if where.kind is not Kind.ADDRESS:
        raise SourceError(f"{where.name}: takes no password; expected one for an address only")
    if where.has_user:
        raise SourceError(
            f"{where.name}: the address names a user, and one was given apart from it; expected "
            "only one of them"
        )
    user, colon, password = credentials.partition(":")
    scheme, _, rest = where.path.partition("://")
    written = f"{quote(user, safe='')}{colon}{quote(password, safe='')}"
    return replace(where, path=f"{scheme}://{written}@{rest}")


def images(folder: Path) -> Found:
    """The images below a folder and what was left out; or the one file given.

    Raises:
        SourceError: There are none.
    """
    if folder.is_file():
        return Found((folder,), (), ())
    try:
        found = walk(folder)
    except OSError as error:
        raise SourceError(f"{folder}: cannot be listed: {error.strerror}") from error
    if not found.images:
        raise SourceError(f"{folder}: no images in it; expected {', '.join(sorted(SUFFIXES))}")
    return found


def _device(number: str) -> SourceAddress:
    if sys.platform == "darwin":
        return SourceAddress(f"camera {number}", Kind.DEVICE, number, format="avfoundation")
    path = f"/dev/video{int(number)}"
    return SourceAddress(path, Kind.DEVICE, path, format="v4l2")


def _address(source: str, scheme: str, transport: Transport) -> SourceAddress:
    if scheme not in _SCHEMES:
        raise SourceError(f"{scheme}://… is not read; expected {', '.join(sorted(_SCHEMES))}")
    name = without_secrets(source)
    options: dict[str, str] = {}
    silence_s = 0.0
    if scheme.startswith("rtsp"):
        silence_s = _SILENCE_S
        options = {
            # Over UDP, lost packets become grey smears that mislead a model.
            "rtsp_transport": transport,
            "timeout": f"{silence_s * 1e6:.0f}",
            # Sound is not needed, nor is waiting for twenty frames to learn their rate.
            "allowed_media_types": "video",
            "fpsprobesize": "0",
        }
    # The password contains one of these, or the path an @.
    advice = _ADVICE if name.endswith("://…") else ""
    return SourceAddress(
        name,
        Kind.ADDRESS,
        source,
        options=tuple(options.items()),
        advice=advice,
        silence_s=silence_s,
    )


def _authority(address: str) -> str:
    return re.split(r"[/?#]", address.partition("://")[2], maxsplit=1)[0]
