"""The dead letters of a webhook: events that the receiver refused for good, a line each."""

from __future__ import annotations

import json
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, Final

_FILE: Final = "rejected.jsonl"
_OLDER: Final = "rejected.1.jsonl"
_MAX_BYTES: Final = 16 * 2**20


class Rejected:
    """A file of refused events, and the one before it; each of 16 MiB at most.

    Args:
        folder: Where the files lie.
    """

    def __init__(self, folder: Path) -> None:
        self._path = folder / _FILE
        self._last = "earlier"
        self._failure = ""

    def add(self, body: bytes, status: int, answer: str, reason: str) -> None:
        """Appends one event; if it cannot be written, `problem` says so.

        Args:
            body: The event as it was sent.
            status: The receiver's, such as 400.
            answer: The beginning of what it said.
            reason: Why it was refused, for people.
        """
        now = datetime.now(UTC)
        self._last = f"the last at {now:%Y-%m-%d %H:%M:%S} UTC with {reason}"
        line: dict[str, Any] = {
            "rejected": now.isoformat(timespec="milliseconds"),
            "status": status,
            "answer": answer,
            "event": json.loads(body),
        }
        try:
            if self._size + len(body) > _MAX_BYTES:
                self._path.replace(self._path.with_name(_OLDER))
            with self._path.open("a", encoding="utf-8") as file:
                file.write(json.dumps(line, ensure_ascii=False) + "\n")
            self._failure = ""
        except OSError as error:
            self._failure = f"{self._path}: {error.strerror}; they are not kept"

    @property
    def problem(self) -> str:
        """For people, until somebody takes the file away; empty if nothing was refused."""
        if not self._failure and not self._size:
            return ""
        where = self._failure or f"they are in {self._path}; once you have seen to it, move it away"
        return f"events were refused, {self._last}; {where}"

    @property
    def _size(self) -> int:
        try:
            return self._path.stat().st_size
        except OSError:
            return 0
