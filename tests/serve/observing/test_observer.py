"""Notifying several observers."""

from __future__ import annotations

from limelens.serve.call_context import Call
from limelens.serve.observing.observer import Observer, notify_all

CALL = Call("limelens.v1.ClassifierService", "Classify", "1", 0.0)


class Noting(Observer):
    """Notes the ends of calls."""

    def __init__(self, name: str, noted: list[str]) -> None:
        self.name = name
        self.noted = noted

    def call_ended(self, call: Call, code: str) -> None:
        self.noted.append(f"{self.name} {call.rpc} {code}")


def test_observers_are_notified_in_their_order() -> None:
    noted: list[str] = []
    notify_all([Noting("a", noted), Observer(), Noting("b", noted)]).call_ended(CALL, "OK")
    assert noted == ["a Classify OK", "b Classify OK"]


def test_observers_that_notify_others_are_notified_too() -> None:
    noted: list[str] = []
    both = notify_all([Noting("a", noted), Noting("b", noted)])
    notify_all([both, Noting("c", noted)]).call_ended(CALL, "OK")
    assert noted == ["a Classify OK", "b Classify OK", "c Classify OK"]


def test_notifications_that_no_observer_needs_are_skipped() -> None:
    noted: list[str] = []
    for observers in ([], [Observer()], [Noting("a", noted)]):
        observer = notify_all(observers)
        observer.call_began(CALL, ())
        observer.close()
    assert noted == []
