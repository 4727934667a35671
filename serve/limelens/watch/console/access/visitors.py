"""Who a request comes from: cookies, and tokens against requests forged by other pages."""

from __future__ import annotations

import hashlib
import hmac
import re
import secrets
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Final

from starlette.requests import HTTPConnection

from limelens.watch.console.access.lockout import Lockout
from limelens.watch.console.access.passwords import Passwords
from limelens.watch.console.access.sessions import Sessions
from limelens.watch.console.access.users import Role, User, Users
from limelens.watch.console.settings import ConsoleSettings

_TOKEN: Final = re.compile(r"[A-Za-z0-9_-]{43}")


@dataclass(frozen=True)
class Visitor:
    """Who asks.

    Args:
        name: The user's; empty without a login.
        role: What they may do; None if they must log in first.
        csrf: What every POST of theirs must carry.
        visit: The token of an anonymous visit.
        is_new: Whether they do not have that yet.
    """

    name: str
    role: Role | None
    csrf: str = field(repr=False)
    visit: str = field(repr=False)
    is_new: bool = False

    @property
    def may_see(self) -> bool:
        """Whether they need no (further) login."""
        return self.role is not None

    @property
    def may_change(self) -> bool:
        """Whether they are an operator."""
        return self.role is Role.OPERATOR


class Visitors:
    """Tells who a request comes from, and logs them in and out.

    Without a file of users everybody is an operator, which `console.serve` allows on loopback only.

    Args:
        settings: The console's.
        port: Where it listens. Browsers send a host's cookies to all of its ports.
        clock: Monotonic seconds.

    Raises:
        AccessPolicyError: The file of users cannot be used.
    """

    def __init__(
        self, settings: ConsoleSettings, port: int, clock: Callable[[], float] = time.monotonic
    ) -> None:
        self.users = None if settings.users is None else Users(settings.users)
        self.lockout = Lockout()
        self.passwords = Passwords()
        self._sessions = Sessions(settings.idle_s, settings.session_s)
        self._port = port
        self._key = secrets.token_bytes(32)
        self._clock = clock

    def now(self) -> float:
        """Monotonic seconds."""
        return self._clock()

    def of(self, request: HTTPConnection) -> Visitor:
        """Who it comes from."""
        visit = request.cookies.get(self.cookie_name(request, "visit"), "")
        is_new = not _TOKEN.fullmatch(visit)
        if is_new:
            visit = secrets.token_urlsafe(32)
        if self.users is None:
            return Visitor("", Role.OPERATOR, self._csrf(visit), visit, is_new)
        token = request.cookies.get(self.cookie_name(request, "login"), "")
        user = self._logged_in(token)
        if user is None:
            return Visitor("", None, self._csrf(visit), visit, is_new)
        return Visitor(user.name, user.role, self._csrf(token), visit, is_new)

    def log_in(self, user: User) -> str:
        """The token of a new login."""
        return self._sessions.begin(user, self._clock())

    def log_out(self, request: HTTPConnection) -> None:
        """Ends the login of a request."""
        self._sessions.end(request.cookies.get(self.cookie_name(request, "login"), ""))

    def cookie_name(self, request: HTTPConnection, kind: str) -> str:
        """The cookie's name; `__Host-` makes browsers refuse it from plaintext and subdomains."""
        start = "__Host-" if request.url.scheme == "https" else ""
        return f"{start}limelens-{kind}-{self._port}"

    def known_browser(self, request: HTTPConnection, user: User | None) -> str | None:
        """What names a browser that the user has logged in from before; None for others."""
        if user is None:
            return None
        value = request.cookies.get(self.cookie_name(request, "browser"), "")
        number, _, proof = value.partition(".")
        is_known = hmac.compare_digest(proof.encode(), _proof(user, number).encode())
        return number if number and is_known else None

    def browser_cookie(self, user: User) -> str:
        """What a browser shows from now on to be known; it holds until the password changes."""
        number = secrets.token_urlsafe(16)
        return f"{number}.{_proof(user, number)}"

    def _logged_in(self, token: str) -> User | None:
        name = self._sessions.user_name(token, self._clock()) if token else None
        user = self.users.get(name) if self.users is not None and name is not None else None
        if user is not None and self._sessions.is_of(token, user):
            return user
        self._sessions.end(token)  # the user was removed, or the password changed
        return None

    def _csrf(self, token: str) -> str:
        return hmac.new(self._key, token.encode(), hashlib.sha256).hexdigest()


def _proof(user: User, number: str) -> str:
    text = f"browser {user.name} {number}".encode(errors="replace")
    return hmac.new(user.password.encode(), text, hashlib.sha256).hexdigest()
