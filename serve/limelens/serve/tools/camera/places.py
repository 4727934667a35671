"""Parses the name of a source: a device, an address, a video, images or standard input.

It opens nothing.
"""

from __future__ import annotations

import re
import sys
from dataclasses import dataclass, field
from enum import Enum
from pathlib import Path
from typing import Final

from limelens.serve.errors import LimelensError
from limelens.serve.folders import Found, walk
from limelens.serve.image import SUFFIXES
from limelens.serve.redaction import without_secrets

_SCHEMES: Final = frozenset({"http", "https", "rtmp", "rtmps", "rtsp", "rtsps", "srt", "udp"})
_EXPECTED: Final = (
    "expected a device's number, /dev/videoN, an address such as rtsp://…, a video, a folder of "
    "images, or - for standard input"
)
_MAY_BE_ADDRESS: Final = re.compile(r"@|://|^\s*[a-z][a-z0-9+.-]+:/", re.IGNORECASE)
_ADVICE: Final = "; in a password, / ? # [ and @ are written %2F %3F %23 %5B and %40"


class SourceError(LimelensError):
    """A camera, a video or a folder cannot be read; the message says which and why."""


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
    to detect it. The advice is for the error if it cannot be opened.
    """

    name: str
    kind: Kind
    path: str = field(repr=False)
    format: str = ""
    options: tuple[tuple[str, str], ...] = ()
    advice: str = ""


def place(source: str) -> SourceAddress:
    """Parses the name of a source.

    Raises:
        SourceError: There is no such source.
    """
    if source == "-":
        return SourceAddress("standard input", Kind.STDIN, source)
    if source.isascii() and source.isdecimal():
        return _device(source)
    scheme = re.match(r"\s*([a-z][a-z0-9+.-]*)://", source, re.IGNORECASE)
    if scheme:
        return _address(source.strip(), scheme[1].lower())
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
    raise SourceError(f"{shown}: no such file; {_EXPECTED}")


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


def _address(source: str, scheme: str) -> SourceAddress:
    if scheme not in _SCHEMES:
        raise SourceError(f"{scheme}://… is not read; expected {', '.join(sorted(_SCHEMES))}")
    name = without_secrets(source)
    # Over UDP, lost packets become grey smears that mislead a model.
    options = (("rtsp_transport", "tcp"),) if scheme.startswith("rtsp") else ()
    # The password contains one of these, or the path an @.
    advice = _ADVICE if name.endswith("://…") else ""
    return SourceAddress(name, Kind.ADDRESS, source, options=options, advice=advice)
