"""Which of a client's connections takes the next call, and when to open another one.

A server of several processes gives each connection to one of them, so calls that are under way at
once are spread over several connections; one caller has one. It is plain state for threads and
event loops alike, and knows nothing of gRPC.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any, Final

MAX_CONNECTIONS: Final = 8
"""The default of a client."""
_PAUSE_S: Final = 30.0


@dataclass(eq=False)
class Channel:
    """One connection: gRPC's channel, if there is one to close, and the stub that makes the calls.

    `busy` counts calls and streams under way; `is_ready` is whether further calls may go there.
    """

    channel: Any
    stub: Any
    busy: int = field(default=0, init=False)
    is_ready: bool = field(default=False, init=False)


class Channels:
    """The connections of one client; may be shared by threads.

    No call waits for a further connection; it is used once it is connected. One that cannot be
    connected, or fails, is left out, and for a while no other is tried: a proxy may limit them.

    Args:
        most: How many at most, 1 or more.
        open_one: Makes one without connecting it.
        connect: Begins to connect another one and calls `connected` with the result.
        clock: Seconds.
    """

    def __init__(
        self,
        most: int,
        open_one: Callable[[], Channel],
        connect: Callable[[Channel], Any],
        *,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._most = most
        self._open_one = open_one
        self._connect = connect
        self._clock = clock
        self._lock = threading.Lock()
        self._all: list[Channel] = []
        self._num_under_way = 0
        self._not_before = float("-inf")
        self._is_closed = False

    def take(self) -> Channel:
        """The least busy connection, for one call that ends with `give_back`."""
        opened = None
        with self._lock:
            if not self._all:
                # Calls may go there at once: gRPC connects it, and they fail if it cannot.
                self._all.append(self._open_one())
                self._all[0].is_ready = True
            best = self._all[0]
            for one in self._all:
                if one.is_ready and one.busy < best.busy:
                    best = one
            self._num_under_way += 1
            best.busy += 1
            if (
                len(self._all) < min(self._most, self._num_under_way)
                and self._clock() >= self._not_before
                and not self._is_closed
            ):
                opened = self._open_one()
                self._all.append(opened)
        if opened is not None:
            self._connect(opened)
        return best

    def give_back(self, channel: Channel, *, is_lost: bool = False) -> bool:
        """Notes the end of a call, and whether it was lost because no server answered there.

        Returns:
            Whether to close the channel, now that its last call is over.
        """
        with self._lock:
            self._num_under_way -= 1
            channel.busy -= 1
            # The first stays, so that there is always one to call.
            if is_lost and channel in self._all[1:]:
                self._leave_out(channel)
            return not channel.busy and channel not in self._all and not self._is_closed

    def connected(self, channel: Channel, is_connected: bool) -> bool:
        """Notes whether a further connection could be made; returns whether to close it."""
        with self._lock:
            if self._is_closed:
                return False
            if is_connected:
                channel.is_ready = True
            else:
                self._leave_out(channel)
            return not is_connected

    def close(self) -> list[Channel]:
        """Opens no more from now on, and returns those to close."""
        with self._lock:
            self._is_closed = True
            return list(self._all)

    def _leave_out(self, channel: Channel) -> None:
        self._all.remove(channel)
        self._not_before = self._clock() + _PAUSE_S
