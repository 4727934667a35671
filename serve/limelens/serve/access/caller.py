"""Who is calling, for handlers, log lines and metrics.

It knows a caller's name, rights and limits, but not how they were found.
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
        rate: None is no limit.
        max_calls: Limit on calls and streams in flight; None is no limit.
        max_waiting: How many further calls may wait for their turn.
    """

    # Limit on images, samples of explanations and other calls, such as `100/second`.
    rate: str | None = None
    max_calls: int | None = None
    max_waiting: int = 0


@dataclass(frozen=True)
class Caller:
    """The client that sent a call.

    Args:
        name: The client's name, or its address if clients have no names.
        limits: How much it may ask for.
        expires_at: When its token expires, in seconds since 1970; None is never.
    """

    name: str
    source: Source
    rights: frozenset[Right]
    limits: ClientLimits = ClientLimits()
    expires_at: float | None = None

    def require(self, right: Right) -> None:
        """Checks a right."""
        if right not in self.rights:
            raise PermissionDeniedError(
                f"{self.name} has no right to {right!s}; expected a token with it: ask the "
                "operator of this server"
            )


current_caller: contextvars.ContextVar[Caller | None] = contextvars.ContextVar(
    "caller", default=None
)
"""The caller of the current call; None outside of calls and before the caller is known."""
# Counts the cost of the current call; None outside of calls.
charging: contextvars.ContextVar[Callable[[int], Awaitable[None]] | None] = contextvars.ContextVar(
    "charging", default=None
)
# The rights that a long call has used beyond its method's own right.
relied_on: contextvars.ContextVar[set[Right] | None] = contextvars.ContextVar(
    "relied_on", default=None
)


async def charge(cost: int) -> None:
    """Counts images and samples beyond the first of the current call."""
    count = charging.get()
    if count is not None and cost > 0:
        await count(cost)


def require(right: Right) -> None:
    """Checks a right beyond the method's own; outside of calls everything is allowed."""
    caller = current_caller.get()
    if caller is not None:
        caller.require(right)
    may(right)


def may(right: Right) -> bool:
    """Whether the caller has a right beyond the method's own; true outside of calls."""
    caller, used = current_caller.get(), relied_on.get()
    if caller is not None and right not in caller.rights:
        return False
    if used is not None:
        used.add(right)
    return True
