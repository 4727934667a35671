"""A connection that only reads, for several threads, one at a time.

It knows files and connections, and nothing of events.
"""

from __future__ import annotations

import contextlib
import sqlite3
import threading
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from limelens.watch.record.database import FILE, identity, in_words, open_to_read


class Reader:
    """Reads the record of a folder; its errors are those of `Record`.

    Args:
        folder: The record's folder.
    """

    def __init__(self, folder: Path) -> None:
        self._path = folder / FILE
        self._lock = threading.Lock()
        self._connection, self._file = self._opened()

    def all(self, query: str, values: Sequence[Any] = ()) -> list[Any]:
        """The rows of a query, by column."""
        with self.reading() as connection:
            return connection.execute(query, values).fetchall()

    def one(self, query: str, values: Sequence[Any] = ()) -> Any:
        """The first row of a query."""
        return self.all(query, values)[0]

    @contextlib.contextmanager
    def reading(self) -> Iterator[sqlite3.Connection]:
        """The connection, for one thread; opened again if the record was moved away."""
        with self._lock, in_words(self._path):
            if identity(self._path) != self._file:
                self._connection.close()
                self._connection, self._file = self._opened()
            yield self._connection

    def close(self) -> None:
        """Closes the file."""
        with self._lock:
            self._connection.close()

    def _opened(self) -> tuple[sqlite3.Connection, tuple[int, int] | None]:
        file = identity(self._path)
        connection = open_to_read(self._path.parent)
        connection.row_factory = sqlite3.Row
        return connection, file
