"""Events on their way to sinks that raise, hang or are exchanged."""

from __future__ import annotations

import functools
import threading
from datetime import UTC, datetime

import pytest
from tests.waiting import PATIENCE_S, until

from limelens.serve.decisions.camera_state import CameraState
from limelens.serve.errors import LimelensError
from limelens.watch.cameras.delivery import MAX_WAITING, Delivery, Plan
from limelens.watch.event import Event, EventExplanation, EventType


class Kept:
    """A sink that keeps ids; while it is blocked it hangs, and it raises what it is told to."""

    name = "kept"
    problem = ""

    def __init__(self) -> None:
        self.ids: list[str] = []
        self.error: Exception | None = None
        self.free = threading.Event()
        self.free.set()
        self.num_asked = 0
        self.num_raised = 0
        self.is_closed = False

    def put(self, event: Event) -> None:
        self.num_asked += 1
        self.free.wait()
        if (error := self.error) is not None:
            self.num_raised += 1
            raise error
        self.ids.append(event.id)

    def explain(self, explanation: EventExplanation) -> None:
        self.ids.append(f"why {explanation.event_id}")

    def close(self, _timeout_s: float) -> None:
        self.is_closed = True


def event(number: int, type_: EventType = EventType.STATE) -> Event:
    unknown = CameraState.UNKNOWN
    return Event(str(number), "door", number, type_, datetime.now(UTC), unknown, unknown)


def plan(sink: Kept, settings: object = None) -> Plan:
    return Plan(settings, lambda: sink)


@pytest.fixture
def said() -> list[str]:
    return []


@pytest.fixture
def delivery(said: list[str]) -> Delivery:
    return Delivery(said.append)


def test_a_sink_that_ends_with_a_problem_says_so(delivery: Delivery, said: list[str]) -> None:
    sink = Kept()
    delivery.use({"kept": plan(sink)}, PATIENCE_S)
    sink.problem = "connection refused; 3 events waiting"
    delivery.use({}, PATIENCE_S)
    assert said == ["kept ended while this was wrong: connection refused; 3 events waiting"]


def test_a_sink_that_raises_gets_the_next_event_all_the_same(
    delivery: Delivery, said: list[str]
) -> None:
    broken, sound = Kept(), Kept()
    broken.error = OSError(28, "No space left on device")
    delivery.use({"broken": plan(broken), "sound": plan(sound)}, PATIENCE_S)
    for number in range(3):
        delivery.put(event(number))
    until(lambda: len(sound.ids) == broken.num_raised == 3)
    until(lambda: delivery.problems == ["broken: OSError: No space left on device"])
    broken.error = None
    delivery.put(event(3))
    until(lambda: broken.ids == ["3"])
    until(lambda: delivery.problems == [])
    # Once, not once for each event.
    assert said == ["kept: OSError: No space left on device"]


def test_a_sink_that_hangs_delays_nobody_and_fills_no_memory(
    delivery: Delivery, said: list[str]
) -> None:
    hanging, sound = Kept(), Kept()
    hanging.free.clear()
    delivery.use({"hanging": plan(hanging), "sound": plan(sound)}, PATIENCE_S)
    delivery.put(event(0))
    until(lambda: hanging.num_asked)

    def is_handed(count: int) -> bool:
        return len(sound.ids) == count

    for number in range(1, MAX_WAITING + 1):
        delivery.put(event(number, EventType.FRAME))
        if not number % 500:  # else this thread alone may run, until there is no room for the next
            until(functools.partial(is_handed, number + 1))
    delivery.put(event(-1))
    until(lambda: len(sound.ids) == MAX_WAITING + 2)
    delivery.use({"sound": plan(sound)}, 0.05)
    assert said == [f"kept: it hangs; {MAX_WAITING + 1} events not handed over"]
    hanging.free.set()


def test_of_a_sink_that_falls_behind_frames_are_left_out_first(delivery: Delivery) -> None:
    slow = Kept()
    slow.free.clear()
    delivery.use({"slow": plan(slow)}, PATIENCE_S)
    for number in range(MAX_WAITING):
        delivery.put(event(number, EventType.FRAME if number % 2 else EventType.STATE))
    for number in range(MAX_WAITING, MAX_WAITING + 100):
        delivery.put(event(number))
    assert "did not fit" in delivery.problems[0]
    slow.free.set()
    delivery.use({}, PATIENCE_S)
    kept = {int(one) for one in slow.ids}
    assert kept >= {number for number in range(MAX_WAITING) if not number % 2}
    assert kept >= set(range(MAX_WAITING, MAX_WAITING + 100))
    assert slow.ids == sorted(slow.ids, key=int)


def test_an_exchanged_sink_loses_no_event(delivery: Delivery) -> None:
    old, new = Kept(), Kept()
    assert delivery.use({"sink": plan(old, "old")}, PATIENCE_S)
    halfway = threading.Event()

    def send() -> None:
        for number in range(500):
            delivery.put(event(number))
            if number == 250:
                halfway.set()

    sending = threading.Thread(target=send)
    sending.start()
    halfway.wait()
    assert delivery.use({"sink": plan(new, "new")}, PATIENCE_S)
    assert not delivery.use({"sink": plan(new, "new")}, PATIENCE_S)
    sending.join()
    delivery.use({}, PATIENCE_S)
    assert old.is_closed
    assert new.is_closed
    assert old.ids + new.ids == [str(number) for number in range(500)]


def test_a_sink_that_hangs_is_exchanged_all_the_same(delivery: Delivery, said: list[str]) -> None:
    hanging, new = Kept(), Kept()
    hanging.free.clear()
    delivery.use({"sink": plan(hanging, "old")}, 5)
    for number in range(3):
        delivery.put(event(number))
    until(lambda: hanging.num_asked)
    assert delivery.use({"sink": plan(new, "new")}, 0.05)
    until(lambda: new.ids == ["1", "2"])
    assert said == ["kept: it hangs, and is exchanged; 1 event may not be handed over"]
    assert delivery.problems == []
    # Once it goes on it is closed, and takes nothing from the new one.
    hanging.free.set()
    until(lambda: hanging.is_closed)
    delivery.put(event(3))
    delivery.use({}, 30)
    assert (hanging.ids, new.ids, new.is_closed) == (["0"], ["1", "2", "3"], True)


def test_a_sink_that_hangs_stays_if_no_other_can_be_made(delivery: Delivery) -> None:
    def fail() -> Kept:
        raise LimelensError("its secret is missing")

    hanging = Kept()
    hanging.free.clear()
    delivery.use({"sink": plan(hanging, "old")}, 5)
    delivery.put(event(0))
    until(lambda: hanging.num_asked)
    with pytest.raises(LimelensError, match="its secret is missing"):
        delivery.use({"sink": Plan("new", fail)}, 0.05)
    delivery.put(event(1))
    hanging.free.set()
    delivery.use({}, 30)
    assert hanging.ids == ["0", "1"]


def test_a_sink_that_cannot_be_made_changes_nothing(delivery: Delivery) -> None:
    def fail() -> Kept:
        raise LimelensError("its secret is missing")

    made: list[Kept] = []

    def make() -> Kept:
        made.append(Kept())
        return made[-1]

    delivery.use({"a": Plan("old", make), "b": Plan("old", make)}, PATIENCE_S)
    with pytest.raises(LimelensError, match="its secret is missing"):
        delivery.use({"a": Plan("new", make), "b": Plan("new", fail)}, PATIENCE_S)
    delivery.put(event(0))
    delivery.use({}, PATIENCE_S)
    # Both were made again as they were before.
    assert [sink.ids for sink in made[-2:]] == [["0"], ["0"]]
    assert all(sink.is_closed for sink in made)


def test_events_go_to_the_sinks_that_are_named_and_to_the_terminal(delivery: Delivery) -> None:
    terminal, one, other = Kept(), Kept(), Kept()
    delivery.use({"terminal": plan(terminal), "one": plan(one), "other": plan(other)}, PATIENCE_S)
    delivery.put(event(0), ["one"])
    delivery.put(EventExplanation("0", None), ["one"])
    delivery.use({}, PATIENCE_S)
    assert (terminal.ids, one.ids, other.ids) == (["0", "why 0"], ["0", "why 0"], [])
