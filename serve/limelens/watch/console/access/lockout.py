"""Slows down whoever guesses passwords, and never locks anybody out for good.

Wrong logins are counted by name and by address. After a few each further one makes the next wait
twice as long: at most half a minute for a name, so that its owner gets in even while somebody
guesses, and a quarter of an hour for an address. A browser that its user has logged in from before
is counted by itself: what strangers do with the name, or from the same address, does not concern
it. Counts fade after an hour.

It knows no clock: times are handed in.
"""

from __future__ import annotations

from collections import OrderedDict
from dataclasses import dataclass
from typing import Final

from limelens.watch.console.addresses import network_of

_FREE: Final = 4
"""Wrong logins before the first delay."""
FIRST_S: Final = 2.0
_LONGEST_S: Final = {"name": 30.0, "address": 900.0, "browser": 30.0}
_FADES_S: Final = 3600.0
_MAX_COUNTS: Final = 20_000


@dataclass
class _Count:
    wrong: int = 0
    last: float = 0.0
    until: float = 0.0


class Lockout:
    """Counts of wrong logins."""

    def __init__(self) -> None:
        self._counts: OrderedDict[tuple[str, str], _Count] = OrderedDict()

    def wait_s(self, name: str, address: str, browser: str | None, at: float) -> float:
        """How long this one must wait before the next try, in seconds; 0 if it may try now."""
        return max(0.0, *(self._at(key, at).until - at for key in _keys(name, address, browser)))

    def count(self, name: str, address: str, browser: str | None, at: float) -> None:
        """Counts a try as wrong, before it is checked: tries at the same time all count."""
        for key in _keys(name, address, browser):
            count = self._at(key, at)
            count.wrong += 1
            count.last = at
            over = count.wrong - _FREE
            if over > 0:
                delay_s = min(_LONGEST_S[key[0]], FIRST_S * 2.0 ** min(over - 1, 30))
                count.until = at + delay_s
            self._counts[key] = count
            self._counts.move_to_end(key)
        while len(self._counts) > _MAX_COUNTS:
            self._counts.popitem(last=False)

    def take_back(self, name: str, address: str, browser: str | None, at: float) -> None:
        """The try was right after all.

        Earlier wrong ones stay counted: who guesses at one name may own another.
        """
        for key in _keys(name, address, browser):
            count = self._at(key, at)
            count.wrong = max(0, count.wrong - 1)
            count.until = at

    def _at(self, key: tuple[str, str], at: float) -> _Count:
        found = self._counts.get(key)
        return found if found is not None and at - found.last < _FADES_S else _Count()


def _keys(name: str, address: str, browser: str | None) -> list[tuple[str, str]]:
    if browser is not None:
        return [("browser", f"{browser} {name}")]
    return [("name", name), ("address", network_of(address))]
