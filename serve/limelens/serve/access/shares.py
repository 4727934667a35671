"""Fair shares of limited places: calls in flight, images that wait.

A client that is alone may take nearly all places. As soon as there are others, none may hold more
than its share, so that a burst of one client is refused and the others find places. Clients without
a name are distinguished by address, and connections from one address get shares of their own. It
knows who calls, but not what is counted.
"""

from __future__ import annotations

import time
from collections import OrderedDict
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Final

from limelens.serve.access.caller import current_caller
from limelens.serve.call_context import current_call
from limelens.serve.errors import OverloadedError

_REMEMBERED_S: Final = 10.0
"""How long a silent client keeps its share: it may be about to call again."""
_MAX_REMEMBERED: Final = 10_000
_KEPT_FREE: Final = 8  # one place in this many is kept free for clients that have not called yet

Holder = tuple[str, str]  # a client and its connection


class Shares:
    """How many places each client holds, for one event loop.

    Args:
        is_limit: Whether to refuse more than `most`; if not, the queue behind it does.
    """

    def __init__(
        self, most: int, what: str, *, is_limit: bool = False, retry_after_s: float = 0.5
    ) -> None:
        self._most = most
        self._what = what
        self._is_limit = is_limit
        self._retry_after_s = retry_after_s
        self._held: dict[str, dict[str, int]] = {}
        self._seen: OrderedDict[Holder, float] = OrderedDict()  # oldest first
        self._total = 0
        self.num_refused = 0  # how many calls were refused so far

    @property
    def total(self) -> int:
        """How many places are held."""
        return self._total

    @contextmanager
    def holding(self, count: int = 1, who: Holder | None = None) -> Iterator[None]:
        """Holds places within the context, by default for the current caller.

        Raises:
            OverloadedError: There are no more, or the caller's share is used up.
        """
        client, connection = who or holder()
        self._note((client, connection))
        of_client = self._held.setdefault(client, {})
        try:
            self._check(client, connection, of_client, count)
            of_client[connection] = of_client.get(connection, 0) + count
            self._total += count
            try:
                yield
            finally:
                self._total -= count
                of_client[connection] -= count
                if not of_client[connection]:
                    del of_client[connection]
        finally:
            if not of_client:
                self._held.pop(client, None)

    def _check(self, client: str, connection: str, held: dict[str, int], count: int) -> None:
        if self._is_limit and self._total and self._total + count > self._most:
            self._refuse(f"{self._total} {self._what}, which is the limit")
        # Half of the places are free for all.
        if 2 * (self._total + count) <= self._most:
            return
        clients = {one for one, _ in self._seen}
        share = self._most / len(clients)
        own = sum(held.values())
        if len(clients) > 1 and own and own + count > share:
            self._refuse(f"{own} {self._what} for {client}, whose share is {share:.0f}")
        connections = sum(one == client for one, _ in self._seen)
        share /= connections
        if len(clients) == connections == 1:
            free = self._most // _KEPT_FREE  # for the next client
            if not free:
                return
            share -= free
        own = held.get(connection, 0)
        if own and own + count > share:
            self._refuse(f"{own} {self._what} for this connection, whose share is {share:.0f}")

    def _refuse(self, reason: str) -> None:
        self.num_refused += 1
        raise OverloadedError(f"{reason}; expected fewer at a time", self._retry_after_s)

    def _note(self, who: Holder) -> None:
        """Remembers a client, and forgets those that have been silent for long."""
        now = time.monotonic()
        seen = self._seen
        seen[who] = now
        seen.move_to_end(who)
        while seen:
            oldest = next(iter(seen))
            is_gone = seen[oldest] < now - _REMEMBERED_S
            if not (is_gone or len(seen) > _MAX_REMEMBERED):
                break
            del seen[oldest]


def holder() -> Holder:
    """The current caller."""
    call, caller = current_call.get(), current_caller.get()
    peer = call.peer if call is not None else ""
    if caller is not None and caller.source != "address":
        return caller.name, ""
    host, _, _ = peer.rpartition(":")
    return host, peer
