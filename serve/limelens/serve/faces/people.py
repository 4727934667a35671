"""The people of one camera's stream: who is there, and what was decided about each of them.

It knows faces in time and the labels that a model gave them. It knows no images, and nothing of who
somebody is: a person is a number, a place and a decision, all forgotten when they are gone.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Collection, Sequence
from dataclasses import dataclass
from enum import Enum
from typing import Final

from limelens.serve.decisions.smoothing import Smoothing
from limelens.serve.faces.boxes import Face
from limelens.serve.faces.options import MAX_FACES
from limelens.serve.faces.tracking import Track, Tracker

MAX_PEOPLE: Final = 2 * MAX_FACES
"""The most people who are remembered, those out of sight included."""
_MAX_UNCONFIRMED: Final = 100
"""As many frames as there can be from one in which faces are looked for to the next."""


class Presence(Enum):
    """How somebody is known to be there."""

    FOUND = "found"  # their face was found in the last frame
    FOLLOWED = "followed"  # it was not looked for in the last frame, but found before
    UNSEEN = "unseen"  # it was looked for and not found


class Person:
    """Someone in the stream. `People` alone changes them.

    Args:
        track: The way of their face.
        smoothing: The decision over the frames in which the face was judged.
    """

    def __init__(self, track: Track, smoothing: Smoothing, face: Face, now: float) -> None:
        self.track = track
        self.smoothing = smoothing
        self.face = face
        self.presence = Presence.FOUND
        self.present_at = now
        self.judged_at = now
        self.unconfirmed: deque[tuple[str | None, bool]] = deque(maxlen=_MAX_UNCONFIRMED)
        """What was said where they were expected, and whether it is an alert label."""

    @property
    def number(self) -> int:
        """From 1, rising; no number is given twice in a stream."""
        return self.track.number

    @property
    def label(self) -> str | None:
        """The smoothed decision; None while it is unknown."""
        return self.smoothing.label

    def forget_decision(self) -> None:
        """Makes the decision unknown."""
        self.smoothing.forget()
        self.unconfirmed.clear()


@dataclass(frozen=True, slots=True)
class Worst:
    """The worst of the people.

    Args:
        label: The decision about the worst; None if it is unknown, or nobody is there.
        is_anybody: Whether anybody is there.
    """

    label: str | None
    is_anybody: bool


class People:
    """The people of one stream.

    Someone who is not found keeps number and decision for `max_unseen_s`; so does someone whose
    face is found but cannot be judged. Someone without a decision is present only while they are
    seen, and frames without them count as if the model had abstained: a false detection leaves
    nothing behind, and two of them do not add up.

    Args:
        smoothing: Makes the smoothing of a new person.
        max_unseen_s: Seconds, above 0.
    """

    def __init__(self, smoothing: Callable[[], Smoothing], *, max_unseen_s: float) -> None:
        self._new_smoothing = smoothing
        self._max_unseen_s = max_unseen_s
        self._tracker = Tracker()
        self._people: list[Person] = []

    @property
    def present(self) -> tuple[Person, ...]:
        """Those who are seen or decided, those who came first before the others."""
        return tuple(
            one
            for one in self._people
            if one.presence is not Presence.UNSEEN or one.label is not None
        )

    def find(self, faces: Sequence[Face], now: float) -> list[Person]:
        """Takes the faces that were found in a frame.

        Args:
            faces: Of the frame, in any order.
            now: When the frame was taken, in seconds; rising.

        Returns:
            The person of each face, in their order.
        """
        self._forget_old(now)
        by_track = {one.track: one for one in self._people}
        tracks = self._tracker.match(list(by_track), faces, now)
        for one in self._people:
            one.presence = Presence.UNSEEN
        found: list[Person] = []
        for track, face in zip(tracks, faces, strict=True):
            person = by_track.get(track)
            if person is None:
                person = Person(track, self._new_smoothing(), face, now)
                self._people.append(person)
            person.face, person.presence, person.present_at = face, Presence.FOUND, now
            found.append(person)
        for one in self._people:
            if one.presence is Presence.UNSEEN:
                one.unconfirmed.clear()
                if one.label is None:
                    one.smoothing.add(None)
        excess = len(self._people) - MAX_PEOPLE
        if excess > 0:
            gone = sorted(self._people, key=lambda one: one.present_at)[:excess]
            self._people = [one for one in self._people if one not in gone]
        return found

    def expect(self, now: float) -> list[Face]:
        """Where those are expected who were found when faces were looked for last."""
        return [one.track.expected(now) for one in self._followed(now)]

    def follow(self, now: float) -> list[Person]:
        """Moves people to where `expect` expects them; faces were not looked for in the frame."""
        followed = self._followed(now)
        for one in followed:
            one.face = one.track.expected(now)
            one.presence, one.present_at = Presence.FOLLOWED, now
        return followed

    def stay(self, now: float) -> list[Person]:
        """Keeps everybody where they are: a frame in which nothing moved."""
        stayed = self._followed(now)
        for one in stayed:
            one.track.found(one.face, now)
            one.present_at = now
        return stayed

    def decide(
        self, person: Person, label: str | None, now: float, *, is_alert: bool = False
    ) -> bool:
        """Counts what a frame says of a person.

        A face that cannot be judged says nothing: for it, do not call this.

        Args:
            person: Whom it is about.
            label: What the model decided; None if it abstained.
            now: When the frame was taken, in seconds.
            is_alert: Whether the label is an alert label.

        Returns:
            Whether the smoothed decision about the person changed.
        """
        before = person.label
        if person.presence is Presence.FOLLOWED and (person.unconfirmed or label != before):
            person.unconfirmed.append((label, is_alert))
            return False
        person.judged_at = now
        for earlier, was_alert in person.unconfirmed:
            person.smoothing.add(earlier, is_alert=was_alert)
        person.unconfirmed.clear()
        return person.smoothing.add(label, is_alert=is_alert) != before

    @property
    def is_unsure(self) -> bool:
        """Whether to look for faces next, because something waits for somebody to be found."""
        return any(one.unconfirmed and one.presence is Presence.FOLLOWED for one in self._people)

    def worst(self, alert_labels: Collection[str]) -> Worst:
        """The decision about the worst of those present.

        Someone with an alert label goes before someone undecided, and they before any other; of
        equal ones, the one whose face is the largest.
        """

        def badness(person: Person) -> tuple[int, float]:
            rank = 1 if person.label is None else 2 if person.label in alert_labels else 0
            return rank, person.face.size_px

        present = self.present
        if not present:
            return Worst(None, is_anybody=False)
        return Worst(max(present, key=badness).label, is_anybody=True)

    def forget_decisions(self) -> None:
        """Makes all decisions unknown; people keep their numbers."""
        for one in self._people:
            one.forget_decision()

    def forget(self) -> None:
        """Forgets everybody; their numbers are not given again."""
        self._people.clear()

    def _followed(self, now: float) -> list[Person]:
        self._forget_old(now)
        return [one for one in self._people if one.presence is not Presence.UNSEEN]

    def _forget_old(self, now: float) -> None:
        oldest = now - self._max_unseen_s
        self._people = [one for one in self._people if one.present_at >= oldest]
        for one in self._people:
            if one.judged_at < oldest:
                one.forget_decision()
