"""How many bytes of requests may be held at a time."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

from limelens.serve.errors import OverloadedError


class Budget:
    """Bytes that are held for callers who wait, up to a limit; for one event loop.

    One request alone may be larger: messages have a limit of their own.
    """

    def __init__(self, most: int) -> None:
        self._most = most
        self._held = 0

    @property
    def held(self) -> int:
        """Bytes that are held now."""
        return self._held

    @contextmanager
    def holding(self, count: int, *, beside: int = 0) -> Iterator[None]:
        """Holds bytes for as long as the context lasts; the request already holds `beside`."""
        if self._held > beside and self._held + count > self._most:
            raise OverloadedError(
                f"requests of {self._held:,} bytes are waiting and {count:,} more do not fit; "
                f"at most {self._most:,} are held",
                1.0,
            )
        self._held += count
        try:
            yield
        finally:
            self._held -= count
