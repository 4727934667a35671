"""One trial at a time for each session, few at a time for all; keeps the last one's images."""

from __future__ import annotations

import asyncio
import secrets
import threading
from collections import OrderedDict
from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from typing import Final

MAX_AT_ONCE: Final = 2
"""Trials of all sessions at a time: cameras use the same server."""
MAX_KEPT: Final = 8
"""Sessions whose last trial is kept, of about a megabyte each."""


class BusyError(Exception):
    """Other sessions have all places."""


class SupersededError(Exception):
    """The same session asked for something else meanwhile."""


@dataclass(eq=False)
class Turn:
    """A session's turn; whoever works for it looks at `ended` and stops."""

    ended: threading.Event = field(default_factory=threading.Event)


@dataclass(frozen=True)
class Kept:
    """What came of a trial; `name` is hard to guess, so that no address stands for two images."""

    images: Mapping[str, bytes] = field(repr=False)
    name: str = field(default_factory=lambda: secrets.token_urlsafe(12))


class Desk:
    """Gives turns. Everything runs on one event loop."""

    def __init__(self) -> None:
        self._places = MAX_AT_ONCE
        self._turns: dict[str, Turn] = {}
        self._locks: dict[str, asyncio.Lock] = {}
        self._kept: OrderedDict[str, Kept] = OrderedDict()

    @asynccontextmanager
    async def turn(self, session: str) -> AsyncIterator[Turn]:
        """A turn of a session, which ends its earlier one and waits for that.

        Raises:
            BusyError: Others have all places.
            SupersededError: A later turn of the session began while this one waited.
        """
        self.end(session)
        turn = self._turns[session] = Turn()
        lock = self._locks.setdefault(session, asyncio.Lock())
        try:
            async with lock:
                if turn.ended.is_set():
                    raise SupersededError
                if not self._places:
                    raise BusyError
                self._places -= 1
                try:
                    yield turn
                finally:
                    self._places += 1
        finally:
            if self._turns.get(session) is turn:
                del self._turns[session]
            if session not in self._turns and not lock.locked():
                self._locks.pop(session, None)

    def end(self, session: str) -> bool:
        """Ends what a session has under way; says whether there was something."""
        turn = self._turns.get(session)
        if turn is None:
            return False
        turn.ended.set()
        return True

    def keep(self, session: str, images: Mapping[str, bytes]) -> Kept:
        """Keeps a trial's images in place of the session's last."""
        kept = self._kept[session] = Kept(images)
        self._kept.move_to_end(session)
        while len(self._kept) > MAX_KEPT:
            self._kept.popitem(last=False)
        return kept

    def image(self, session: str, name: str, which: str) -> bytes | None:
        """An image of the session's last trial; None if it is not kept any more."""
        kept = self._kept.get(session)
        return kept.images.get(which) if kept is not None and kept.name == name else None
