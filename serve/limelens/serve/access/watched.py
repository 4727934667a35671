"""Files that are used again when they change, unless what they then hold cannot be used.

It knows nothing of what is in them.
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
    """What some files hold together.

    Args:
        paths: The files.
        parse: Their bytes to what they mean; raises AccessPolicyError for what cannot be used.
        settle_s: Changed bytes count when they are the same so much later: an editor that empties
            a file before it writes must not lock everybody out.

    Raises:
        AccessPolicyError: What they hold cannot be used.
        OSError: A file cannot be read.
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
        self._complaint = ""
        self.value: _T = parse(self._last)

    def look(self) -> bool:
        """Reads the files again; blocks. What cannot be used is logged once.

        Returns:
            Whether `value` is another one now.
        """
        with self._lock:
            try:
                found = self._read()
                if found == self._last:
                    self._complaint = ""
                    return False
                if self._settle_s:
                    time.sleep(self._settle_s)
                    if self._read() != found:
                        return False  # being written; the next look will see all of it
            except OSError as error:
                return self._complain(f"{error.filename}: {error.strerror}")
            try:
                value = self._parse(found)
            except AccessPolicyError as error:
                return self._complain(str(error))
            self._last, self._complaint, self.value = found, "", value
        _log.info("%s was read again", self._names)
        return True

    def _read(self) -> tuple[bytes, ...]:
        return tuple(path.read_bytes() for path in self._paths)

    def _complain(self, complaint: str) -> bool:
        if complaint != self._complaint:
            self._complaint = complaint
            _log.error("%s; what %s held before still counts", complaint, self._names)
        return False

    @property
    def _names(self) -> str:
        return ", ".join(str(path) for path in self._paths)
