"""One image of the input: what it is called, and where its bytes are."""

from __future__ import annotations

import hashlib
from dataclasses import dataclass
from enum import IntEnum

from limelens.serve.errors import LimelensError


class InputError(LimelensError):
    """The input cannot be listed, or holds nothing; the message says what is expected."""


class Place(IntEnum):
    """Where the bytes of an image are."""

    NOWHERE = 0
    """They cannot be read; `error` says why."""
    FILE = 1
    """The whole of a file."""
    URL = 2
    ROW = 3
    """A row of a Parquet file."""
    PART = 4
    """A part of a file, as in a tar."""


@dataclass(frozen=True, slots=True)
class Item:
    """One image.

    Args:
        name: Its path in the output.
        identity: Its own among all of the input, and the same in the next run.
        place: Where its bytes are.
        file: The file as the system writes its name, or the URL.
        position: Row in the file, or byte at which the part begins.
        size_bytes: Of the part.
        error: Why it cannot be read.
    """

    name: str
    identity: bytes
    place: Place
    file: bytes = b""
    position: int = 0
    size_bytes: int = 0
    error: str = ""

    @property
    def digest(self) -> int:
        """64 bits of the identity: what the output remembers of it."""
        return int.from_bytes(hashlib.blake2b(self.identity, digest_size=8).digest())
