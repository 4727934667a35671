"""Who is logged in: random tokens, of which only the hashes are kept.

It knows no cookies and no clock: times are handed in.
"""

from __future__ import annotations

import hashlib
import secrets
from dataclasses import dataclass
from typing import Final

from limelens.watch.console.access.users import User

_MAX_PER_USER: Final = 20


@dataclass
class _Session:
    user: str
    password: str
    began: float
    used: float


class Sessions:
    """The logins of a process; they end with it.

    Args:
        idle_s: Seconds without a use after which a login ends.
        longest_s: Seconds after which it ends in any case.
    """

    def __init__(self, idle_s: float, longest_s: float) -> None:
        self._idle_s = idle_s
        self._longest_s = longest_s
        self._sessions: dict[bytes, _Session] = {}

    def begin(self, user: User, at: float) -> str:
        """Logs a user in; the token is kept nowhere."""
        for key in [one for one, held in self._sessions.items() if self._is_over(held, at)]:
            del self._sessions[key]
        own = [one for one, held in self._sessions.items() if held.user == user.name]
        for key in own[: max(0, len(own) - _MAX_PER_USER + 1)]:
            del self._sessions[key]
        token = secrets.token_urlsafe(32)
        self._sessions[_key(token)] = _Session(user.name, user.password, at, at)
        return token

    def user_name(self, token: str, at: float) -> str | None:
        """Whose token it is; None if it is nobody's, or no longer."""
        held = self._sessions.get(_key(token))
        if held is None:
            return None
        if self._is_over(held, at):
            self.end(token)
            return None
        held.used = at
        return held.user

    def is_of(self, token: str, user: User) -> bool:
        """Whether the user's password is still the one that the login was made with."""
        held = self._sessions.get(_key(token))
        return held is not None and held.password == user.password

    def end(self, token: str) -> None:
        """Logs out."""
        self._sessions.pop(_key(token), None)

    def _is_over(self, held: _Session, at: float) -> bool:
        return at - held.used > self._idle_s or at - held.began > self._longest_s


def _key(token: str) -> bytes:
    return hashlib.sha256(token.encode(errors="replace")).digest()
