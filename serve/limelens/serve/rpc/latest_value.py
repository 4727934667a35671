"""A place for one thing, the newest. It knows nothing of what it holds, or of who waits for it."""

from __future__ import annotations

import threading
from typing import Generic, TypeVar

_T = TypeVar("_T")


class LatestValue(Generic[_T]):
    """Holds one thing: the newest. One thread may put while others take."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._held: _T | None = None

    def put(self, thing: _T) -> _T | None:
        """The thing that it took the place of."""
        with self._lock:
            overtaken, self._held = self._held, thing
            return overtaken

    def take(self) -> _T | None:
        """What is held, which is then no longer; None where nothing is."""
        with self._lock:
            thing, self._held = self._held, None
            return thing

    def look(self) -> _T | None:
        """What is held, which stays there; None where nothing is."""
        return self._held

    @property
    def is_empty(self) -> bool:
        """Whether nothing is held."""
        return self._held is None
