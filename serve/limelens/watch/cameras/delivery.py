"""Hands events to sinks, each in a thread of its own, so that no camera waits for one.

It knows order and what happens if a sink raises or hangs, and nothing of what a sink does.
"""

from __future__ import annotations

import threading
import time
from collections import deque
from collections.abc import Callable, Mapping, Sequence
from typing import Final

from limelens.serve.wording import counted, first_line
from limelens.watch.event import Event, EventExplanation, EventType
from limelens.watch.sinks import Sink

MAX_WAITING: Final = 2000
"""Events that wait for one sink; a sink that hangs must not fill the memory."""
_SAID_AGAIN_S: Final = 600.0
News = Event | EventExplanation


class Outlet:
    """One sink, and what waits for it.

    Args:
        sink: The sink.
        say: Called with a sentence if it fails.
    """

    def __init__(self, sink: Sink, say: Callable[[str], object]) -> None:
        self.sink = sink
        self._say = say
        self._changed = threading.Condition()
        self._waiting: deque[News] = deque()
        self._is_busy = False
        self._is_closed = False
        self._num_lost = 0
        self._failure = ""
        self._said = ("", 0.0)
        self._thread = threading.Thread(target=self._run, name=f"limelens-{sink.name}", daemon=True)
        self._thread.start()

    def put(self, news: News) -> None:
        """Takes news; never waits. If too much waits already, frames go first, then the oldest."""
        with self._changed:
            if self._is_closed:
                return
            if len(self._waiting) >= MAX_WAITING:
                self._num_lost += 1
                if _is_frame(news):
                    return
                self._drop_one()
            self._waiting.append(news)
            self._changed.notify_all()

    @property
    def problem(self) -> str:
        """What keeps the sink from delivering now; empty if nothing does."""
        failure = self._failure or self.sink.problem
        lost = f"{counted(self._num_lost, 'event')} did not fit" if self._num_lost else ""
        return "; ".join(one for one in (failure, lost) if one)

    def close(self, timeout_s: float) -> None:
        """Hands over what waits, within some seconds, and closes the sink."""
        until = time.monotonic() + timeout_s
        with self._changed:
            self._is_closed = True
            self._changed.notify_all()
            self._changed.wait_for(lambda: not self._waiting and not self._is_busy, timeout_s)
            left = len(self._waiting) + self._is_busy
            self._waiting.clear()
        if left:
            self._say(f"{self.sink.name}: it hangs; {counted(left, 'event')} not handed over")
            return
        try:
            self.sink.close(max(0.1, until - time.monotonic()))
        except Exception as error:
            self._say(f"{self.sink.name}: {first_line(error)}")

    def _run(self) -> None:
        while True:
            with self._changed:
                self._is_busy = False
                self._changed.notify_all()
                self._changed.wait_for(lambda: self._waiting or self._is_closed)
                if not self._waiting:
                    return
                news = self._waiting.popleft()
                self._is_busy = True
            try:
                if isinstance(news, Event):
                    self.sink.put(news)
                else:
                    self.sink.explain(news)
                self._failure = ""
            except Exception as error:
                # Watching goes on, whatever a sink does.
                self._failed(f"{type(error).__name__}: {first_line(error)}")

    def _failed(self, reason: str) -> None:
        self._failure = reason
        said, at = self._said
        now = time.monotonic()
        if reason != said or now - at >= _SAID_AGAIN_S:
            self._said = reason, now
            self._say(f"{self.sink.name}: {reason}")

    def _drop_one(self) -> None:
        for news in self._waiting:
            if _is_frame(news):
                self._waiting.remove(news)
                return
        self._waiting.popleft()


class Delivery:
    """All sinks by name; they may be exchanged while events come.

    Args:
        say: Called with a sentence if one fails.
    """

    def __init__(self, say: Callable[[str], object]) -> None:
        self._say = say
        self._outlets: Mapping[str, Outlet] = {}

    def put(self, news: News, names: Sequence[str] | None = None) -> None:
        """Hands news to the sinks of some names; None is all. Never waits."""
        for name, outlet in self._outlets.items():
            if names is None or name in names:
                outlet.put(news)

    def use(self, sinks: Mapping[str, Sink], timeout_s: float) -> None:
        """Uses these sinks from now on, and closes those that are not among them."""
        before = self._outlets
        kept = {id(one.sink): one for one in before.values()}
        self._outlets = {
            name: kept.get(id(sink)) or Outlet(sink, self._say) for name, sink in sinks.items()
        }
        used = {id(sink) for sink in sinks.values()}
        gone = [outlet for outlet in before.values() if id(outlet.sink) not in used]
        # All at once: a receiver that is down must not use up the time of the others.
        closing = [threading.Thread(target=one.close, args=(timeout_s,)) for one in gone]
        for thread in closing:
            thread.start()
        for thread in closing:
            thread.join()

    @property
    def problems(self) -> list[str]:
        """What keeps sinks from delivering now."""
        return [
            f"{name}: {outlet.problem}" for name, outlet in self._outlets.items() if outlet.problem
        ]


def _is_frame(news: News) -> bool:
    return isinstance(news, Event) and news.type is EventType.FRAME
