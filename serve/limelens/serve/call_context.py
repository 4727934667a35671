"""The call that is being handled, for log lines, metrics and traces.

It knows neither gRPC nor what the call asks for.
"""

from __future__ import annotations

import contextvars
from dataclasses import dataclass
from typing import Final


@dataclass(slots=True, eq=False)
class Call:
    """One call in flight.

    Args:
        service: Full name of its service.
        request_id: The client's own id, or a random one.
        began: When it arrived, by `time.monotonic`.
        caller: The client's name; empty while it is unknown.
        model: The model that responds; empty while it is unknown.
        version: The model's version; 0 while it is unknown.
        seconds: How long it took; 0 while it is in flight.
        trace_id: Hexadecimal id of its trace; empty if there is none.
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
        """The call's known fields for a log line."""
        fields: dict[str, str | int] = {"request_id": self.request_id, "rpc": self.rpc}
        if self.caller:
            fields["caller"] = self.caller
        if self.model:
            fields["model"] = self.model
            fields["version"] = self.version
        if self.trace_id:
            fields["trace_id"] = self.trace_id
        return fields


current_call: Final[contextvars.ContextVar[Call | None]] = contextvars.ContextVar(
    "call", default=None
)
"""The call that is being handled; None outside of calls and in worker threads."""


def note_model(name: str, version: int) -> None:
    """Notes on the current call which model responds."""
    call = current_call.get()
    if call is not None:
        call.model, call.version = name, version


def note_caller(name: str) -> None:
    """Notes on the current call who sent it."""
    call = current_call.get()
    if call is not None:
        call.caller = name
