"""Which of a client's connections takes the next call, and when another one is opened.

A server of several processes gives each connection to one of them: calls that are under way at
once are spread over several connections. One caller has one. It is plain state for threads and for
an event loop alike, and knows nothing of gRPC: both clients open, connect and close by functions of
their own.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any, Final

MAX_CONNECTIONS: Final = 8
"""Of a client, unless it is told otherwise."""
CONNECT_S: Final = 10.0
"""How long a further connection may take to come about."""
_PAUSE_S: Final = 30.0


@dataclass(eq=False)
class Channel:
    """One connection.

    Args:
        channel: Of gRPC's; None where there is nothing to close.
        stub: What is called.
        busy: Calls and streams under way.
        is_ready: Whether calls may go there.
    """

    channel: Any
    stub: Any
    busy: int = field(default=0, init=False)
    is_ready: bool = field(default=False, init=False)


class Channels:
    """The connections of one client; may be shared by threads.

    No call waits for a further connection: it is used once it stands. One that cannot be had, or
    fails, is left out, and for a while none is tried: whoever limits connections is not asked
    with every call.

    Args:
        most: How many at most, 1 or more.
        open_one: Makes one without connecting it.
        connect: Begins to connect a further one, and has `connected` called once that is decided.
        clock: Seconds.
    """

    def __init__(
        self,
        most: int,
        open_one: Callable[[], Channel],
        connect: Callable[[Channel], None],
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
        """The least busy connection, for one call; the first of those that are equally busy.

        The call ends with `give_back`.
        """
        opened = None
        with self._lock:
            if not self._all:
                # It is used as it is: gRPC connects it, and says so where it cannot.
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
        """A call ended.

        Args:
            channel: That it went to.
            is_lost: Whether nobody answered there.

        Returns:
            Whether the channel is to be closed, now that its last call is over.
        """
        with self._lock:
            self._num_under_way -= 1
            channel.busy -= 1
            # The first stays: without any there would be nothing to call.
            if is_lost and channel in self._all[1:]:
                self._leave_out(channel)
            return not channel.busy and channel not in self._all and not self._is_closed

    def connected(self, channel: Channel, is_connected: bool) -> bool:
        """A further connection stands, or cannot be had.

        Returns:
            Whether the channel is to be closed.
        """
        with self._lock:
            if self._is_closed:
                return False
            if is_connected:
                channel.is_ready = True
            else:
                self._leave_out(channel)
            return not is_connected

    def close(self) -> list[Channel]:
        """No more are opened from now on.

        Returns:
            Those to close.
        """
        with self._lock:
            self._is_closed = True
            return list(self._all)

    def _leave_out(self, channel: Channel) -> None:
        self._all.remove(channel)
        self._not_before = self._clock() + _PAUSE_S
