"""A value that is made when it is first needed, once, whoever asks first."""

from __future__ import annotations

import threading
from collections.abc import Callable
from typing import Generic, TypeVar

T = TypeVar("T")


class Lazy(Generic[T]):
    """Makes a value once; others wait for it meanwhile.

    `functools.cached_property` has no lock: two threads would make two.

    Args:
        make: Makes the value; what it raises is raised by `get`, and it is called again next time.
    """

    def __init__(self, make: Callable[[], T]) -> None:
        self._make: Callable[[], T] | None = make
        self._lock = threading.Lock()
        self._value: list[T] = []

    def get(self) -> T:
        """The value."""
        if not self._value:
            with self._lock:
                if not self._value and self._make is not None:
                    self._value.append(self._make())
                    self._make = None
        return self._value[0]
