"""A kind of input: its images in an order that does not change, without their bytes."""

from __future__ import annotations

import itertools
import os
from abc import ABC, abstractmethod
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import ClassVar

from limelens.bulk.sources.item import Item


@dataclass(frozen=True)
class Source(ABC):
    """An input, as it was when it was opened.

    Args:
        root: The folder or file that must be there wherever its images are read.
        names: Of files, as paths in the folder, in an order that does not change.
        column: The column of a table that holds images; empty elsewhere.
        is_one_file: Whether nothing else that comes into the folder can belong to it.
    """

    root: Path
    names: Iterable[str]
    column: str = ""
    is_one_file: bool = False
    kind: ClassVar[str]

    @property
    def made_of(self) -> Mapping[str, str]:
        """Its kind, its place and whatever else says that two inputs are the same."""
        column = {"column": self.column} if self.column else {}
        return {"kind": self.kind, "path": shown(self.root.resolve()), **column}

    @property
    def files(self) -> Mapping[str, tuple[int, int]]:
        """Size in bytes and time of change in ns of each table or shard, which must not change."""
        return {shown(name): signature(self.root / name) for name in self.names}

    @abstractmethod
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
