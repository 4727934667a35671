"""Hands events to sinks, each in a thread of its own, so that no camera waits for one.

It knows order and what happens if a sink raises or hangs, and nothing of what a sink does.
"""

from __future__ import annotations

import threading
import time
from collections import deque
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from typing import Final, NamedTuple

from limelens.serve.wording import counted, first_line
from limelens.watch.event import Event, EventExplanation, EventType
from limelens.watch.sinks import Sink

TERMINAL: Final = "terminal"
"""The sink that takes the events of every camera, whichever sinks it names."""
MAX_WAITING: Final = 2000
"""Events that wait for one sink; a sink that hangs must not fill the memory."""
_SAID_AGAIN_S: Final = 600.0
News = Event | EventExplanation


class Plan(NamedTuple):
    """How a sink is made.

    Args:
        settings: What it is made from; if they are equal to the last, it stays.
        make: Makes it; it may raise a `LimelensError`.
        takes_frames: Whether it wants events of single frames, of which there are many.
    """

    settings: object
    make: Callable[[], Sink]
    takes_frames: bool = True


class _Hand:
    """What one thread hands news to, and the lock that is held while it does, or exchanges it."""

    def __init__(self, sink: Sink) -> None:
        self.sink = sink
        self.lock = threading.Lock()


class Outlet:
    """One sink, and what waits for it.

    Args:
        plan: How the sink is made, at once.
        say: Called with a sentence if it fails.
    """

    def __init__(self, plan: Plan, say: Callable[[str], object]) -> None:
        self.plan = plan
        self._hand = _Hand(plan.make())
        self._say = say
        self._changed = threading.Condition()
        self._waiting: deque[News] = deque()
        self._is_busy = False
        self._is_closed = False
        self._num_lost = 0
        self._failure = ""
        self._said = ("", 0.0)
        self._begin()

    @property
    def sink(self) -> Sink:
        """Where news go now."""
        return self._hand.sink

    def put(self, news: News) -> None:
        """Takes news; never waits. If too much waits already, frames go first, then the oldest."""
        if _is_frame(news) and not self.plan.takes_frames:
            return
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

    def exchange(self, plan: Plan, timeout_s: float) -> None:
        """Puts another sink in the place of this one; news wait meanwhile, and none is left out.

        Two of them may want the same files, so the old one is closed first; it is made again if
        the new one cannot be made. One that hangs is not waited for: it is left to its thread,
        which closes it if it ever goes on.

        Raises:
            LimelensError: As `plan.make`; all is as before then.
        """
        until = time.monotonic() + timeout_s
        hand = self._hand
        if not hand.lock.acquire(timeout=timeout_s):
            self._exchange_hanging(plan)
            return
        try:
            hand.sink.close(max(0.1, until - time.monotonic()))
            try:
                hand.sink = plan.make()
            except Exception:
                hand.sink = self.plan.make()
                raise
            self.plan = plan
        finally:
            hand.lock.release()

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
            return
        if problem := self.sink.problem:
            self._say(f"{self.sink.name} ended while this was wrong: {problem}")

    def _begin(self) -> None:
        name = f"limelens-{self.sink.name}"
        threading.Thread(target=self._run, args=(self._hand,), name=name, daemon=True).start()

    def _exchange_hanging(self, plan: Plan) -> None:
        name, sink = self.sink.name, plan.make()
        with self._changed:
            self._hand, self.plan = _Hand(sink), plan
            self._is_busy, self._failure = False, ""
            self._changed.notify_all()
        self._begin()
        self._say(f"{name}: it hangs, and is exchanged; 1 event may not be handed over")

    def _run(self, hand: _Hand) -> None:
        while (news := self._next(hand)) is not None:
            failure = ""
            try:
                with hand.lock:
                    if isinstance(news, Event):
                        hand.sink.put(news)
                    else:
                        hand.sink.explain(news)
            except Exception as error:
                # Watching goes on, whatever a sink does.
                failure = f"{type(error).__name__}: {first_line(error)}"
            if hand is self._hand:
                self._ended_with(failure)
        if hand is not self._hand:
            with suppress(Exception):  # nobody waits for it
                hand.sink.close(0.1)

    def _next(self, hand: _Hand) -> News | None:
        """What to hand over next; None if it is closed, or another thread does that now."""
        with self._changed:
            if hand is self._hand:
                self._is_busy = False
            self._changed.notify_all()
            self._changed.wait_for(
                lambda: self._waiting or self._is_closed or hand is not self._hand
            )
            if hand is not self._hand or not self._waiting:
                return None
            self._is_busy = True
            return self._waiting.popleft()

    def _ended_with(self, reason: str) -> None:
        self._failure = reason
        if not reason:
            return
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
        """Hands news to the sinks of some names, and the terminal; None is all. Never waits."""
        for name, outlet in self._outlets.items():
            if names is None or name in names or name == TERMINAL:
                outlet.put(news)

    def use(self, plans: Mapping[str, Plan], timeout_s: float) -> bool:
        """Uses these sinks from now on; one whose settings are the same goes on undisturbed.

        Args:
            plans: By name.
            timeout_s: How long each that is gone may take to deliver what it has.

        Returns:
            Whether there are new ones, which know nothing of the cameras yet.

        Raises:
            LimelensError: One cannot be made; all are as before then.
        """
        before = self._outlets
        made: dict[str, Outlet] = {}
        changed: list[tuple[Outlet, Plan]] = []
        try:
            for name, plan in plans.items():
                if name not in before:
                    made[name] = Outlet(plan, self._say)
                elif before[name].plan.settings != plan.settings:
                    old = before[name].plan
                    before[name].exchange(plan, timeout_s)
                    changed.append((before[name], old))
        except Exception:
            for outlet, old in changed:
                outlet.exchange(old, timeout_s)
            _close(list(made.values()), timeout_s)
            raise
        self._outlets = {name: made.get(name) or before[name] for name in plans}
        _close([outlet for name, outlet in before.items() if name not in plans], timeout_s)
        return bool(made or changed)

    @property
    def problems(self) -> list[str]:
        """What keeps sinks from delivering now."""
        return [
            f"{name}: {outlet.problem}" for name, outlet in self._outlets.items() if outlet.problem
        ]


def _close(outlets: list[Outlet], timeout_s: float) -> None:
    """All at once: a receiver that is down must not use up the time of the others."""
    closing = [threading.Thread(target=one.close, args=(timeout_s,)) for one in outlets]
    for thread in closing:
        thread.start()
    for thread in closing:
        thread.join()


def _is_frame(news: News) -> bool:
    return isinstance(news, Event) and news.type is EventType.FRAME
