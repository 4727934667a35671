"""Appends events to a file, a line of JSON each. It does not know networks.

The file may be renamed or truncated by logrotate at any time. If the disk is full, lines wait in
memory, and none is ever torn.
"""

from __future__ import annotations

import contextlib
import os
import stat
from collections import deque
from pathlib import Path
from typing import Final

from pydantic import BaseModel, ConfigDict, Field

from limelens.serve.wording import counted
from limelens.watch.event import ON_CHANGE, EventType
from limelens.watch.sinks.threaded import ThreadedSink

_MAX_WAITING: Final = 10_000
_RETRY_S: Final = 2.0


class JsonlSettings(BaseModel):
    """Lines of JSON in a file."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    path: Path = Field(description="The file; its folder must exist.")
    types: tuple[EventType, ...] = Field(
        default=ON_CHANGE,
        min_length=1,
        description="The types of events: state, lost, back, heartbeat, frame.",
    )


class JsonlSink(ThreadedSink):
    """Appends events to a file."""

    def __init__(self, settings: JsonlSettings) -> None:
        super().__init__("jsonl", settings.types)
        self._path = settings.path
        self._file: int | None = None
        self._waiting: deque[bytes] = deque(maxlen=_MAX_WAITING)
        self._num_lost = 0
        self._said = ""
        self._thread.start()

    def _problems(self) -> list[str]:
        lost = f"{counted(self._num_lost, 'event')} lost" if self._num_lost else ""
        return [self._said, lost]

    async def _work(self) -> None:
        try:
            while True:
                is_closing = self._is_closing
                for message in self._mailbox.take():
                    self._num_lost += len(self._waiting) == self._waiting.maxlen
                    self._waiting.append(message.body + b"\n")
                self._write_waiting()
                if is_closing:
                    return
                await self._mailbox.arrived(_RETRY_S if self._waiting else None)
        finally:
            self._close_file()

    def _write_waiting(self) -> None:
        try:
            while self._waiting:
                self._write(self._opened(), self._waiting[0])
                self._waiting.popleft()
            self._said = ""
        except OSError as error:
            self._close_file()
            num = counted(len(self._waiting), "event")
            self._said = f"{self._path}: {error.strerror}; {num} not written yet, trying again"

    def _opened(self) -> int:
        """The file at the path now; another one than before if it was rotated."""
        if self._file is not None:
            now, there = os.fstat(self._file), None
            with contextlib.suppress(FileNotFoundError):
                there = self._path.stat()
            if there is None or (now.st_dev, now.st_ino) != (there.st_dev, there.st_ino):
                self._close_file()
        if self._file is None:
            # Without waiting for somebody who reads, if it is a named pipe.
            flags = os.O_WRONLY | os.O_APPEND | os.O_CREAT | os.O_CLOEXEC | os.O_NONBLOCK
            self._file = os.open(self._path, flags, 0o640)
            self._end_torn_line(self._file)
        return self._file

    def _end_torn_line(self, file: int) -> None:
        """A line that lost its end with the machine's power must not join with the next one."""
        size = _size(file)
        if size:
            with self._path.open("rb") as reading:
                reading.seek(-1, os.SEEK_END)
                is_torn = reading.read(1) != b"\n"
            if is_torn:
                os.write(file, b"\n")

    def _write(self, file: int, line: bytes) -> None:
        before = _size(file)
        written = 0
        try:
            while written < len(line):
                written += os.write(file, line[written:])
        except OSError:
            if written and before is not None:
                os.ftruncate(file, before)
            raise

    def _close_file(self) -> None:
        if self._file is not None:
            with contextlib.suppress(OSError):
                os.close(self._file)
            self._file = None


def _size(file: int) -> int | None:
    """Its size in bytes; None of what is not a file on a disk."""
    found = os.fstat(file)
    return found.st_size if stat.S_ISREG(found.st_mode) else None
