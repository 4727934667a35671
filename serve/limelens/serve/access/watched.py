"""Files that are read again when they change; invalid changes are ignored.

It does not know what is in the files.
"""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Generic, TypeVar

from limelens.serve.errors import AccessPolicyError

_T = TypeVar("_T")
_log = logging.getLogger(__name__)


class Watched(Generic[_T]):
    """The parsed content of some files.

    Args:
        parse: Parses the files' bytes; raises AccessPolicyError if they are invalid.
        settle_s: How long changed bytes must stay the same before they count: an editor that
            empties a file before it writes must not lock everybody out.
    """

    def __init__(
        self,
        paths: Sequence[Path],
        parse: Callable[[Sequence[bytes]], _T],
        *,
        settle_s: float = 0.0,
    ) -> None:
        self._paths = tuple(paths)
        self._parse = parse
        self._settle_s = settle_s
        self._lock = threading.Lock()
        self._last = self._read()
        self._last_error = ""
        self.value: _T = parse(self._last)

    def reread(self) -> bool:
        """Reads the files again, which blocks. Invalid content is logged once."""
        with self._lock:
            try:
                found = self._read()
                if found == self._last:
                    self._last_error = ""
                    return False
                if self._settle_s:
                    time.sleep(self._settle_s)
                    if self._read() != found:
                        return False  # being written; the next call will see all of it
            except OSError as error:
                return self._ignore(f"{error.filename}: {error.strerror}")
            try:
                value = self._parse(found)
            except AccessPolicyError as error:
                return self._ignore(str(error))
            self._last, self._last_error, self.value = found, "", value
        _log.info("%s was read again", self._names)
        return True

    def _read(self) -> tuple[bytes, ...]:
        return tuple(path.read_bytes() for path in self._paths)

    def _ignore(self, error: str) -> bool:
        if error != self._last_error:
            self._last_error = error
            _log.error("%s; the previous content of %s stays in use", error, self._names)
        return False

    @property
    def _names(self) -> str:
        return ", ".join(str(path) for path in self._paths)
