"""Who is calling: known to log lines, metrics and whatever a call does on its way.

It knows a caller's name, rights and limits, not how they were found out.
"""

from __future__ import annotations

import contextvars
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from typing import Literal

from limelens.serve.access.rights import Right
from limelens.serve.errors import PermissionDeniedError

Source = Literal["token", "jwt", "certificate", "address"]


@dataclass(frozen=True)
class ClientLimits:
    """How much one client may ask for.

    Args:
        rate: Images, samples of explanations and other calls in a time, such as `100/second`; None
            is no limit.
        max_calls: Calls and streams at a time; None is no limit.
        max_waiting: Further calls that wait for their turn.
    """

    rate: str | None = None
    max_calls: int | None = None
    max_waiting: int = 0


@dataclass(frozen=True)
class Caller:
    """Who sent a call.

    Args:
        name: Of the client; the address where callers have no names.
        source: How the name is known.
        rights: What it may do.
        limits: How much.
        expires_at: When what it showed is no longer good, in seconds since 1970; None is never.
    """

    name: str
    source: Source
    rights: frozenset[Right]
    limits: ClientLimits = ClientLimits()
    expires_at: float | None = None

    def require(self, right: Right) -> None:
        """Passes where the caller has the right.

        Raises:
            PermissionDeniedError: It has not.
        """
        if right not in self.rights:
            raise PermissionDeniedError(
                f"{self.name} has no right to {right!s}; expected a token with it: ask whoever "
                "runs this server"
            )


current: contextvars.ContextVar[Caller | None] = contextvars.ContextVar("caller", default=None)
"""Of the call that is being answered; None outside of calls and where nobody was let in."""


charging: contextvars.ContextVar[Callable[[int], Awaitable[None]] | None] = contextvars.ContextVar(
    "charging", default=None
)
"""Counts what the call that is being answered costs; None outside of calls."""


async def charge(cost: int) -> None:
    """Counts images and samples that the caller asks for, beyond the first of the call.

    Args:
        cost: How many; less than one is nothing.

    Raises:
        OverloadedError: The caller asks for too much.
    """
    count = charging.get()
    if count is not None and cost > 0:
        await count(cost)


relied_on: contextvars.ContextVar[set[Right] | None] = contextvars.ContextVar(
    "relied_on", default=None
)
"""Gathers what a call that may go on for long was allowed beyond its method's own right."""


def require(right: Right) -> None:
    """Passes where the caller has a right beyond the method's own, or where nobody calls.

    Raises:
        PermissionDeniedError: The caller has it not.
    """
    found = current.get()
    if found is not None:
        found.require(right)
        _rely_on(right)


def may(right: Right) -> bool:
    """Whether the caller has a right beyond the method's own; true where nobody calls."""
    found = current.get()
    allowed = found is None or right in found.rights
    if allowed:
        _rely_on(right)
    return allowed


def _rely_on(right: Right) -> None:
    rights = relied_on.get()
    if rights is not None:
        rights.add(right)
