"""Where events go: lines of JSON, webhooks, MQTT."""

from __future__ import annotations

from typing import Protocol

from limelens.watch.event import Event, EventExplanation


class Sink(Protocol):
    """Takes events. Nothing here may wait for a network or a disk: a camera's thread calls it."""

    @property
    def name(self) -> str:
        """What it is called in messages, without secrets."""

    def put(self, event: Event) -> None:
        """Takes an event; it may keep what it wants and leave out the rest."""

    def explain(self, explanation: EventExplanation) -> None:
        """Takes the explanation of an earlier event."""

    @property
    def problem(self) -> str:
        """What keeps it from delivering now, for people; empty if nothing does."""

    def close(self, timeout_s: float) -> None:
        """Delivers what it can within some seconds, and ends."""
