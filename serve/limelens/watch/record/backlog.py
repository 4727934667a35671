"""What waits to be recorded: bounded, so that a full disk does not fill the memory as well.

It knows events and their sizes, and nothing of files. Safe to use from any thread.
"""

from __future__ import annotations

import threading
from collections import deque
from collections.abc import Sequence
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from typing import Final

from limelens.watch.event import Event, EventExplanation

Item = Event | EventExplanation
_MAX_ITEMS: Final = 10_000
_MAX_IMAGE_BYTES: Final = 64 << 20


@dataclass(frozen=True, slots=True)
class Lost:
    """What could not be recorded, since `since` (UTC)."""

    since: datetime
    num_events: int = 0
    num_images: int = 0
    reason: str = ""


class Backlog:
    """A queue that never blocks who puts something in: what has no room is lost, and counted.

    Args:
        max_items: How many events and explanations may wait.
        max_image_bytes: How many bytes of images may wait with them; without room an event waits
            without its image.
    """

    def __init__(
        self, max_items: int = _MAX_ITEMS, max_image_bytes: int = _MAX_IMAGE_BYTES
    ) -> None:
        self._changed = threading.Condition()
        self._items: deque[Item] = deque()
        self._max_items = max_items
        self._room = max_image_bytes
        self._num_put = 0
        self._num_done = 0
        self._lost: Lost | None = None
        self._num_lost = 0
        self._is_closed = False
        self._is_rung = False

    def put(self, item: Item) -> None:
        """Takes an item, without waiting."""
        with self._changed:
            self._num_put += 1
            if self._is_closed or len(self._items) >= self._max_items:
                self._num_done += 1
                self._add_lost(1, 0, "too many events wait")
            else:
                size = _image_bytes(item)
                if size > self._room:
                    item = _without_image(item)
                    self._add_lost(0, 1, "too many images wait")
                else:
                    self._room -= size
                self._items.append(item)
            self._changed.notify_all()

    def take(self, most: int, timeout_s: float) -> Sequence[Item]:
        """The oldest items; they keep their room until they are `done`.

        Waits until there is one, the backlog is closed or rung, or the time is over.
        """
        with self._changed:
            self._changed.wait_for(
                lambda: self._items or self._is_closed or self._is_rung, max(0.0, timeout_s)
            )
            self._is_rung = False
            return [self._items[n] for n in range(min(most, len(self._items)))]

    def ring(self) -> None:
        """Ends the wait of `take`, or the next one: there is something else to do."""
        with self._changed:
            self._is_rung = True
            self._changed.notify_all()

    def done(self, items: Sequence[Item]) -> None:
        """The oldest items, just taken, are recorded, or never will be."""
        with self._changed:
            for item in items:
                self._items.popleft()
                self._room += _image_bytes(item)
            self._num_done += len(items)
            self._changed.notify_all()

    def pause(self, timeout_s: float) -> None:
        """Waits for some time, or until the backlog is closed."""
        with self._changed:
            self._changed.wait_for(lambda: self._is_closed, max(0.0, timeout_s))

    def lose(self, num_events: int, num_images: int, reason: str) -> None:
        """Counts what was lost."""
        with self._changed:
            self._add_lost(num_events, num_images, reason)

    @property
    def lost(self) -> Lost | None:
        """What was lost and is not in the record's gaps yet; None if nothing was."""
        with self._changed:
            return self._lost

    def admitted(self, lost: Lost) -> None:
        """The record knows of this loss now."""
        with self._changed:
            now = self._lost
            if now is None:
                return
            events, images = now.num_events - lost.num_events, now.num_images - lost.num_images
            self._lost = None
            if events or images:
                self._lost = replace(now, num_events=events, num_images=images)

    @property
    def num_lost(self) -> int:
        """Events and explanations lost in all."""
        with self._changed:
            return self._num_lost

    @property
    def num_waiting(self) -> int:
        """Events and explanations that wait."""
        with self._changed:
            return len(self._items)

    def wait_until_done(self, timeout_s: float) -> bool:
        """Waits until all that was put so far is done; returns whether it is."""
        with self._changed:
            number = self._num_put
            return self._changed.wait_for(lambda: self._num_done >= number, timeout_s)

    @property
    def is_closed(self) -> bool:
        """Whether nothing more is taken."""
        with self._changed:
            return self._is_closed

    def close(self) -> None:
        """Takes nothing more."""
        with self._changed:
            self._is_closed = True
            self._changed.notify_all()

    def _add_lost(self, num_events: int, num_images: int, reason: str) -> None:
        before = self._lost or Lost(datetime.now(UTC), reason=reason)
        self._lost = replace(
            before,
            num_events=before.num_events + num_events,
            num_images=before.num_images + num_images,
        )
        self._num_lost += num_events


def _image_bytes(item: Item) -> int:
    if isinstance(item, Event):
        return 0 if item.evidence is None else len(item.evidence.jpeg)
    segments = 0 if item.explanation is None else len(item.explanation.segments_png)
    return len(item.overlay_png) + len(item.jpeg) + segments


def _without_image(item: Item) -> Item:
    if isinstance(item, Event):
        assert item.evidence is not None  # it has an image
        return replace(item, evidence=replace(item.evidence, jpeg=b""))
    found = item.explanation
    return replace(
        item,
        overlay_png=b"",
        jpeg=b"",
        explanation=None if found is None else replace(found, segments_png=b""),
    )
