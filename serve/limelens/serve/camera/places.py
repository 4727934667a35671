"""What a source's name means: a device, an address, a video, pictures or standard input.

It opens nothing.
"""

from __future__ import annotations

import re
import sys
from dataclasses import dataclass, field
from enum import Enum
from pathlib import Path
from typing import Final
from urllib.parse import urlsplit, urlunsplit

from limelens.serve.errors import LimelensError

PICTURES: Final = frozenset({".bmp", ".gif", ".jpeg", ".jpg", ".png", ".webp"})
_SCHEMES: Final = frozenset({"http", "https", "rtmp", "rtmps", "rtsp", "rtsps", "srt", "udp"})
_EXPECTED: Final = (
    "expected a device's number, /dev/videoN, an address such as rtsp://…, a video, a folder of "
    "pictures, or - for standard input"
)


class SourceError(LimelensError):
    """A camera, a video or a folder cannot be read; the message says which and why."""


class Kind(Enum):
    """What kind of a place frames come from."""

    DEVICE = "device"
    ADDRESS = "address"
    VIDEO = "video"
    PICTURES = "pictures"
    STDIN = "stdin"


@dataclass(frozen=True)
class Place:
    """Where frames come from.

    Args:
        name: As people are told of it: without the password.
        kind: What kind of a place it is.
        path: As it is opened.
        format: The format to read it by; empty finds it out.
        options: For the reader.
    """

    name: str
    kind: Kind
    path: str = field(repr=False)
    format: str = ""
    options: tuple[tuple[str, str], ...] = ()


def place(source: str) -> Place:
    """Reads a source's name.

    Raises:
        SourceError: It names nothing that is there.
    """
    if source == "-":
        return Place("standard input", Kind.STDIN, source)
    if source.isascii() and source.isdecimal():
        return _device(source)
    scheme = re.match(r"([a-z][a-z0-9+.-]*)://", source, re.IGNORECASE)
    if scheme:
        return _address(source, scheme[1].lower())
    path = Path(source)
    if source.startswith("/dev/video"):
        return Place(source, Kind.DEVICE, source, format="v4l2")
    if path.is_dir() or (path.is_file() and path.suffix.lower() in PICTURES):
        return Place(source, Kind.PICTURES, source)
    if not path.exists():
        raise SourceError(f"{source}: there is no such file; {_EXPECTED}")
    return Place(source, Kind.VIDEO, source)


def pictures(folder: Path) -> list[Path]:
    """The pictures of a folder and of those in it, by name; or the one picture that it is.

    Raises:
        SourceError: There are none.
    """
    if folder.is_file():
        return [folder]
    found = sorted(path for path in folder.rglob("*") if path.suffix.lower() in PICTURES)
    if not found:
        raise SourceError(f"{folder}: no pictures in it; expected {', '.join(sorted(PICTURES))}")
    return found


def _device(number: str) -> Place:
    if sys.platform == "darwin":
        return Place(f"camera {number}", Kind.DEVICE, number, format="avfoundation")
    path = f"/dev/video{int(number)}"
    return Place(path, Kind.DEVICE, path, format="v4l2")


def _address(source: str, scheme: str) -> Place:
    if scheme not in _SCHEMES:
        raise SourceError(f"{scheme}://… is not read; expected {', '.join(sorted(_SCHEMES))}")
    parts = urlsplit(source)
    name = urlunsplit(parts._replace(netloc=parts.netloc.rpartition("@")[2]))
    # Over UDP, lost packets are grey smears that a model takes for something.
    options = (("rtsp_transport", "tcp"),) if scheme.startswith("rtsp") else ()
    return Place(name, Kind.ADDRESS, source, options=options)
