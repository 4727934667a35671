"""Which call is being answered, for whoever writes a line or counts: a name tag and no more.

It knows neither gRPC nor what the call asks.
"""

from __future__ import annotations

import contextvars
from dataclasses import dataclass
from typing import Final


@dataclass(slots=True, eq=False)
class Call:
    """One call under way.

    Args:
        service: Full name of its service.
        rpc: Name of the method.
        request_id: The caller's own, or one that was drawn.
        began: By `time.monotonic`.
        caller: Who called, where that is known; else empty.
        model: The model that answers; empty until it is known.
        version: The model's version; 0 until it is known.
        seconds: How long it took; 0 while it is under way.
        trace_id: Of the trace that the call belongs to, in hexadecimal; empty where there is none.
        peer: The other end of the connection, as gRPC writes it.
    """

    service: str
    rpc: str
    request_id: str
    began: float
    caller: str = ""
    model: str = ""
    version: int = 0
    seconds: float = 0.0
    trace_id: str = ""
    peer: str = ""

    def fields(self) -> dict[str, str | int]:
        """What a line of the log says of the call; what is not known is left out."""
        found: dict[str, str | int] = {"request_id": self.request_id, "rpc": self.rpc}
        if self.caller:
            found["caller"] = self.caller
        if self.model:
            found["model"] = self.model
            found["version"] = self.version
        if self.trace_id:
            found["trace_id"] = self.trace_id
        return found


current: Final[contextvars.ContextVar[Call | None]] = contextvars.ContextVar("call", default=None)
"""The call that is being answered; None outside of calls, and in threads of workers."""


def answered_by(model: str, version: int) -> None:
    """Notes on the call that is being answered which model answers it."""
    call = current.get()
    if call is not None:
        call.model, call.version = model, version


def called_by(name: str) -> None:
    """Notes on the call that is being answered who called."""
    call = current.get()
    if call is not None:
        call.caller = name
