"""A kind of input: its images in an order that does not change, without their bytes."""

from __future__ import annotations

import itertools
import os
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import Protocol

from limelens.bulk.sources.item import Item


class Source(Protocol):
    """An input, as it was when it was opened."""

    @property
    def root(self) -> Path:
        """The folder or file that must be there wherever its images are read."""

    @property
    def made_of(self) -> Mapping[str, str]:
        """Its kind, its place and whatever else says that two inputs are the same."""

    @property
    def files(self) -> Mapping[str, tuple[int, int]]:
        """Size in bytes and time of change in ns of each table or shard, which must not change."""

    @property
    def column(self) -> str:
        """The column of a table that holds images; empty elsewhere."""

    def chunks(self, most: int) -> Iterator[list[Item]]:
        """All images in order, in pieces of which each is best read in one go.

        Args:
            most: Images in a piece; a large row group of a table may give larger ones.
        """


def in_chunks(items: Iterable[Item], most: int) -> Iterator[list[Item]]:
    """Items, `most` at a time."""
    rest = iter(items)
    while chunk := list(itertools.islice(rest, most)):
        yield chunk


def shown(path: str | os.PathLike[str]) -> str:
    """A path with forward slashes for the output; bytes that are not UTF-8 as backslashes."""
    text = os.fspath(path).replace(os.sep, "/")
    return text.encode(errors="surrogateescape").decode(errors="backslashreplace")


def signature(path: Path) -> tuple[int, int]:
    """What changes with a file's content: its size in bytes, and its time of change in ns."""
    status = path.stat()
    return status.st_size, status.st_mtime_ns
